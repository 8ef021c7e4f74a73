"""The command holdingpenctl: look at the pen and give it orders.

    main.py      the words of the command line, and errors as exit statuses
    status.py    status                     leases.py    list, queue, why
    reserve.py   reserve, extend            release.py   release
    schedule.py  timetable show, import     report.py    report
    confirm.py   confirm                    prompt.py    prompt, and shell/
    watch.py     watch                      journal.py   journal check, dump, repair
    orders.py    set, drain, undrain, grant, revoke
    asking.py    what the verbs that reserve have in common
    waiting.py   the line, seen by who stands in it
    terminal.py  what is asked of the system: width, colour, names, dates
    dates.py     times as people write and read them
    timetable.py an iCalendar file -> events
    render.py    how things stand -> lines for people          (pure)
    story.py     what happened -> lines for people             (pure)
    export.py    what the daemon says -> JSON and fields       (pure)
    text.py      cells, columns, tables, folded lines          (pure)

A verb's file imports what the verb needs when it runs, so that each starts fast.
"""
