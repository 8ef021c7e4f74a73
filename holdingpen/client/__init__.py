"""The client's end of a connection, for the programs that talk to the daemon.

    asking     what Python programs call: lease, try_lease, status
    terms      what they may write, made into a request
    dialogue   one lease's conversation, without the wire
    held       what a lease is, whichever driver waits for its news
    lease      the blocking driver, for threads too
    awaited    the asynchronous one, on_trio or on_asyncio
    pieces     open files that the daemon passed, and who closes them
    memory     the memory of a lease, made of them
    file       the disk of a lease, made of one
    blocking   a connection for orders and questions: holdingpenctl's
    finding    where the daemon listens

Only on_trio imports trio, and only a program that runs trio comes there.
"""
