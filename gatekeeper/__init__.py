"""gatekeeper: run a program under a lease, and become it.

    __main__.py      the command: look up CMD, find the daemon, stand in the line,
                     become CMD
    options.py       words to Options; pure
    command.py       what execvp(3) does, in two halves: before asking and after
    conversation.py  the connection that is the lease; which messages are said
    msgpack.py       the small part of msgpack that these messages need
  and only where they are needed:
    failures.py      what is said, and how it ends, when CMD does not start
    words.py         one line on stderr
    waiting.py       the live line on a terminal
    handover.py      how sure what was granted is, and where it lies
    prefault/        --prefault: what runs inside CMD, if that is a Python program
    parent.py        --timeout, --reclaim-signal, --stay: stay as CMD's parent
    watch.py         what the daemon says meanwhile
    private.py       --start: a daemon of one's own
    helptext.py      --help

A promise: from the shell to CMD it takes little more than the bare interpreter.
So on the ordinary way nothing is imported but sys, posix, _socket, other built-in
modules and the few files above, each of which costs 0.15 ms (measured on two cores).
os, socket, signal, typing and their like stay out.  So do __future__, a file like any
other (names for types only are quoted instead), and errors: a function that makes one
imports it.
"""
