"""The text of --help."""

HELP = """\
Usage: gatekeeper [OPTIONS] [--] CMD [ARG...]
Run CMD under a lease of this machine's resources, waiting for it if need be.
Without any amount CMD gets the share that the administrator configured.

What CMD needs:
  --ram SIZE         memory: 512M, 4G, 1.5T (powers of 1024), 4GB (10^9)
  --cpu N            processors
  --disk SIZE[:NAME] room on a disk, as $HOLDINGPEN_SCRATCH; may be repeated
  --res NAME=AMOUNT  any other resource of this machine; may be repeated
  --exclusive        the whole machine until CMD ends; the others see --reason
  --in ID            draw on your reservation ID, or none (default: what fits)

How it waits:
  --nonblock         do not wait: exit 75 when it cannot start at once
  --wait DURATION    wait so long at most, then exit 75
  --priority N       higher goes first (default 0)
  --time DURATION    expected length; short jobs may pass others
  --label TEXT       a name for the lease, for you
  --reason TEXT      what it is for, for the others
  --quiet            say nothing while waiting, and nothing without a daemon
  --verbose (or -v)  say what was granted, and how surely CMD gets it

How CMD gets what was held back for it:
  --exact            only if nobody can take any of it meanwhile: else exit 75
  --prefault         CMD is Python: all of --ram is in its heap before it starts
  --hugepages        CMD uses glibc: --ram comes out of the pool of huge pages

How it runs:
  --timeout DURATION end CMD after so long: SIGINT, 30 s later SIGKILL; exit 124
  --reclaimable      CMD may be asked to give it back to one of higher priority
  --reclaim-signal SIG
                     send CMD this (TERM) when it is asked back
  --stay             stay as the parent of CMD instead of becoming CMD

Where the daemon is:
  --socket PATH      its socket (default: $HOLDINGPEN_SOCKET, /run, yours)
  --require          no daemon: do not run CMD, exit 69 (--exact implies it)
  --start            no daemon: start a private one, which ends when idle

  --help             show this text
  --version          show the version

DURATION is 45s, 30m, 1h30m, 0.5h, 1d or 1w.  Ctrl-C leaves the line.
CMD finds its lease in HOLDINGPEN_LEASE, and the descriptor that holds it in
HOLDINGPEN_FD: when the last copy of it is closed, the lease ends.
HOLDINGPEN_HANDOVER says how surely it gets what was held back: exact, bounded
(others may take a little of it), best-effort, or none (nothing was).

Exit status: CMD's own, or
   69  no daemon, and --require        125  gatekeeper failed, or wrong usage
   75  not available now               126  CMD cannot be executed
   77  not permitted                   127  CMD was not found
  124  --timeout was reached
"""
