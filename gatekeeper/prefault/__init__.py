"""--prefault: a Python program takes the memory held for it before its first line runs.

    hook/sitecustomize.py  what the interpreter of CMD runs first
    __init__.py            the conversation with the daemon, step by step
    heap.py                where the memory goes: the heap of CMD's own malloc

Theory of operation.  gatekeeper asks for ram with the wish `steps`: it stays held
when it is granted.  CMD's interpreter extends its heap by a few MiB of addresses,
asks the daemon over the connection it inherited to free as much, and at once has the
pages there.  So at any moment only one step of it is nobody's, for a millisecond or
two.  Then the program runs, in ordinary memory of its own: fork, threads and zeroing
are as always.

This runs in somebody else's program, which must go on whatever happens here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed knows only signal
import _socket
import os

from gatekeeper import conversation
from gatekeeper.prefault.heap import Heap
from gatekeeper.words import say, why_ended
from holdingpen.amounts import format_size
from holdingpen.errors import HoldingPenError, Refusal, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gatekeeper.conversation import Conversation

#: What is nobody's for a moment: 500 MiB took 0.2 to 0.27 s in such steps.
STEP_BYTES = 4 * 2**20

#: As gatekeeper itself (__main__.py): a daemon that was killed in between comes back.
ASK_AGAIN_S = 5.0
ASK_AGAIN_MAX = 3


def fill(descriptor: int, lease: int, amount: int) -> None:
    """Take `amount` bytes of ram that are kept for `lease`, in steps.

    What fails is told in one line.

    Args:
        descriptor: of the connection that holds the lease; it stays open.
        lease: its id.
        amount: bytes.
    """
    filling = _Filling(descriptor, lease, amount)
    interrupt = _signal.getsignal(_signal.SIGINT)
    if interrupt is _signal.default_int_handler:
        # Ctrl-C now is no traceback out of the interpreter's own start
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        filling.run()
    except (HoldingPenError, OSError) as why:
        say(
            f"--prefault ended at {format_size(filling.done)} of "
            f"{format_size(amount)}: {str(why).rstrip('.')}; the program goes on."
        )
    finally:
        filling.close()
        if interrupt is _signal.default_int_handler:
            _signal.signal(_signal.SIGINT, interrupt)


class _Filling:
    """One conversation about one lease's memory."""

    def __init__(self, descriptor: int, lease: int, amount: int) -> None:
        # a copy, for the number we inherited stays open
        copy = os.dup(descriptor)
        os.set_inheritable(copy, False)
        connected = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, copy)
        self._talk: Conversation = conversation.Conversation(connected)
        self._lease = lease
        self._amount = amount
        #: The last request's number.
        self._number = conversation.REQUEST_ID
        #: Bytes that are the program's.
        self.done = 0

    def run(self) -> None:
        try:
            heap = Heap()
            try:
                self._fill(heap)
            finally:
                heap.close()
        except Unavailable as why:
            if why.code != "no-heap":
                raise
            # held for ever it would be of no use to the program
            self._free(self._amount - self.done)
            raise Unavailable(
                f"{why}; the rest was freed at once, and others may take it",
                why.code,
            ) from None

    def _fill(self, heap: Heap) -> None:
        while self.done < self._amount:
            step = min(STEP_BYTES, self._amount - self.done)
            start, size = heap.extend(step)
            self._free(step)
            heap.fill(start, size)
            self.done += step

    def close(self) -> None:
        # what is blocking belongs to the connection itself, which the program shares
        self._talk.bequeath()
        self._talk.close()

    def _free(self, amount: int) -> None:
        """Have `amount` bytes freed that are kept for the lease.

        Raises:
            HoldingPenError: when the daemon does not say that it is done.
        """
        self._number += 1
        order = conversation.step(self._number, self._lease, "ram", amount)
        for _ in range(1 + ASK_AGAIN_MAX):
            self._talk.say(order)
            while (message := self._talk.hear(ASK_AGAIN_S)) is not None:
                if self._answers(message):
                    return
        raise Unavailable("the daemon does not answer", "daemon-gone")

    def _answers(self, message: dict[object, object]) -> bool:
        kind = message.get("t")
        if kind in ("refused", "failed"):
            said = conversation.text(message, "message")
            raise Refusal(said, conversation.text(message, "code"))
        if kind == "ended":
            why = why_ended(conversation.text(message, "why"))
            raise Refusal(f"the lease was ended: {why}", "ended")
        return kind == "done" and message.get("id") == self._number
