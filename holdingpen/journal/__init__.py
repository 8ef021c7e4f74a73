r"""The journal: what was decided, kept so that a restart knows what was promised.

    record.py   one record <-> bytes; how far a file can be believed.  Pure.
    replay.py   facts -> Pen, Pen -> snapshot.  Pure.
    files.py    a journal at rest: lock, read, explain, cut; the words for failed calls
    store.py    the journal at work: open, append, sync, room, rotate
    history.py  beside it: ended leases, kept for people (SQLite; it has its own head)
    report.py   what was used between two dates.  Pure.

This docstring is the document of the format, version 1.

**The file** is `journal` in the state directory: records one after the other, then
zeros (space allocated ahead).  It begins with an opening record, and each daemon
that opens it adds one.  All numbers are big-endian.

    offset  bytes
    0       4      magic: c1 48 50 6a (`j`, a batch) or c1 48 50 6f (`o`, an opening)
    4       4      crc: CRC-32 (zlib's) of all bytes of the record but these four
    8       4      link: the crc of the record before; 0 in the first
    12      4      length of the payload
    16      8      synced_to: bytes of the file that were on the disk for certain
                   when this was written
    24      length payload, msgpack

The payload of a batch is an array of facts (core/facts.py), each an array that
begins with the fact's tag.  **One record is one batch**: what the keeper decided
together is kept together or not at all.  The payload of an opening is the array
[version, boot id].

**Worked example.**  A file opened in boot `b`, then lease 7 ended because its
connection was closed, 2 s after boot and 1 s after 1970, without a sync between:

    c148506f c2e5d01d 00000000 00000004 0000000000000000   the opening's head
    92 01 a162                                             version 1, boot b
    c148506a 8c826879 c2e5d01d 0000001d 0000000000000000   the batch's head
    91                                                     one fact:
       95 09 07                                            Ended, of lease 7,
          92 cb4000000000000000 cb3ff0000000000000         at 2.0 and 1.0,
          a4676f6e65 c0                                    why `gone`, by nobody else

**Two checks.**  The crc proves a record by itself, so a whole one can be found
after damage; the link proves that none is missing before it.  The byte c1 is no
msgpack type and no UTF-8, so text in a fact never looks like a record.

**Where a journal ends.**  Reading goes from the start to the first place X where no
good record begins:

1. Only zeros follow: the clean end.
2. No whole record follows anywhere: a torn write.  Cut at X.
3. A whole record follows, and one of them says that X was on the disk, or the last
   opening was in the present boot (the kernel lost nothing since): **damage**.  The
   start stops; `holdingpenctl journal check` shows it, and `repair` cuts at X.
4. A whole record follows otherwise: a power cut lost pages that were never synced,
   so nobody had been promised that they last.  Cut at X.

What is cut is kept in `journal.broken` (then `journal.broken.1`, ...).  A file that
does not begin with an opening is damaged.  A record with a good crc that cannot be
decoded is damaged.  An opening of a newer version stops the start, and `repair` too.

**Growing.**  A new fact gets a new tag; a new field goes last and has a default.
Either, like any change of the golden bytes in tests/golden/journal/, raises
`record.VERSION`, so that an older program stops instead of forgetting a promise.
"""
