"""What `holdingpenctl doctor` looks at, and what it says to that.

    findings.py   one thing that was looked at -> a line for people, JSON   (pure)
    service.py    the daemon, its socket, configuration and state           (pure)
    units.py      what systemd does for the daemon                          (pure)
    machine.py    memory, kernel, clock, limits                             (pure)
    around.py     disks, programs, libraries, what dead daemons left        (pure)
    examine.py    the facts of service.py and units.py
    survey.py     the facts of machine.py and around.py
    ask.py        what others say: the daemon, systemctl

A verdict is a function of facts and asks nothing of the system.  Facts are named
tuples beside their verdicts; None in one means that we could not look.
"""
