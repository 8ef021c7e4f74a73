"""How long a small request takes, asked again and again: probe.py SOCKET.

Says "ready", then every millisecond acquires or releases a slot until its standard
input ends, and prints the seconds of every request as a JSON list.
"""

from __future__ import annotations

import gc
import json
import select
import sys
import time
from pathlib import Path

from harness import Client

EVERY_S = 0.001


def main() -> None:
    client = Client(Path(sys.argv[1]))
    client.release(client.acquire({"slot": 1}))
    print("ready", flush=True)
    # a pause of our own must not look like one of the daemon's
    gc.disable()
    spent = []
    lease = 0
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        start = time.perf_counter()
        if lease:
            client.release(lease)
            lease = 0
        else:
            lease = client.acquire({"slot": 1})
        spent.append(time.perf_counter() - start)
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
