"""A program that occupies memory, in the guest: somebody's thief, or the client.

    python -I -S taker.py client MIB    page by page, and then sits on it
    python -I -S taker.py polite MIB    as long as more than 25 MiB are free
    python -I -S taker.py greedy MIB    always, until the kernel kills it
    python -I -S taker.py churn FILE    reads a large file again and again

It says how many MiB it has on standard output, a number a line.
"""

import mmap
import os
import sys
import time

MIB = 1024 * 1024
POLITE_MIB = 25
# Python's mmap has no name for it: include/uapi/asm-generic/mman-common.h
MAP_NORESERVE = 0x4000


def free_mib() -> int:
    with open("/proc/meminfo") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("MemFree:"):
                return int(line.split()[1]) // 1024
    raise AssertionError("no MemFree")


def take(kind: str, amount_mib: int) -> None:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    mine = mmap.mmap(-1, amount_mib * MIB, flags=flags)
    mine.madvise(mmap.MADV_NOHUGEPAGE)
    for done in range(amount_mib):
        while kind == "polite" and free_mib() <= POLITE_MIB:
            time.sleep(0.002)
        mine[done * MIB : (done + 1) * MIB : mmap.PAGESIZE] = b"t" * 256
        print(done + 1, flush=True)
    sys.stdin.read()


def churn(path: str) -> None:
    print(1, flush=True)
    while True:
        file = os.open(path, os.O_RDONLY)
        while os.read(file, MIB):
            pass
        os.close(file)


if __name__ == "__main__":
    if sys.argv[1] == "churn":
        churn(sys.argv[2])
    else:
        take(sys.argv[1], int(sys.argv[2]))
