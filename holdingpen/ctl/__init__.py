"""The command holdingpenctl: look at the pen and give it orders.

    main.py      the words of the command line, and errors as exit statuses
    status.py    status                     leases.py   list, queue, why, release
    orders.py    set, drain, undrain        watch.py    watch
    journal.py   journal check, dump
    terminal.py  what is asked of the system: width, colour, names, dates
    render.py    what the daemon says -> lines for people      (pure)
    export.py    what the daemon says -> JSON and fields       (pure)
    text.py      cells, columns, tables, folded lines          (pure)

A verb's file imports what the verb needs when it runs, so that each starts fast.
"""
