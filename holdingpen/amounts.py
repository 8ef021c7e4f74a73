"""Amounts: how much of each resource, read from words and printed as words.

Inside the program an amount is a plain `int`: bytes for the resources named in
`BYTES`, a count for all others.  Units appear only here, at the doors.
gatekeeper imports this file on its way to becoming somebody's program, so it may
import nothing that costs time: no re, no typing, no dataclasses, no __future__.
"""

from holdingpen.errors import BadWord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Resources counted in bytes.  `disk.NAME` counts as `disk`.
BYTES = frozenset({"ram", "disk", "vram", "hugepages"})

#: The largest amount there is: what fits a signed 64-bit field of the journal.
AMOUNT_MAX = 2**63 - 1

_POWERS = "KMGTPE"
_ACCEPTED = "write 512M, 4G or 1.5T (powers of 1024), 4GB (10^9), or plain bytes"


def is_bytes(resource: str) -> bool:
    """Whether `resource` is counted in bytes rather than in units."""
    return resource.partition(".")[0] in BYTES


def parse_size(text: str) -> int:
    """Read a size such as `512M`, `4GiB`, `4GB`, `1.5T` or `1048576`.

    Args:
        text: K, M, G, T, P and E are powers of 1024, with or without `iB`
            (systemd and Slurm read them so); `KB`, `MB`, `GB` are powers of
            1000; a bare number is bytes.  Case does not matter.

    Returns:
        Bytes, 0 or more, rounded down.

    Raises:
        BadWord: when `text` is not a size, is negative, or exceeds `AMOUNT_MAX`.
    """
    word = text.strip()
    digits = word.rstrip("KMGTPEIBkmgtpeib")
    unit = word[len(digits) :].upper()
    whole, dot, part = digits.strip().partition(".")
    if not _plain(whole) or (dot and not _plain(part)):
        raise BadWord(f"size {text!r} is not understood: {_ACCEPTED}.")
    scale = _scale(unit)
    if scale is None:
        raise BadWord(f"size {text!r} has the unknown unit {unit!r}: {_ACCEPTED}.")
    size = int(whole + part) * scale // int(10 ** len(part))
    if size > AMOUNT_MAX:
        raise BadWord(f"size {text!r} is more than any machine has: {_ACCEPTED}.")
    return size


def _plain(digits: str) -> bool:
    # isdigit alone would let in Arabic-Indic digits, and int() a page of nines
    return digits.isascii() and digits.isdigit() and len(digits) <= 40


def _scale(unit: str) -> int | None:
    if unit in ("", "B"):
        return 1
    power = _POWERS.find(unit[0]) + 1
    if power == 0 or unit[1:] not in ("", "B", "IB"):
        return None
    return int((1000 if unit[1:] == "B" else 1024) ** power)


def parse_count(text: str) -> int:
    """Read a count: a bare whole number, 0 or more.

    Raises:
        BadWord: when `text` is anything else or exceeds `AMOUNT_MAX`.
    """
    word = text.strip()
    if not _plain(word):
        raise BadWord(f"count {text!r} is not understood: write a whole number.")
    count = int(word)
    if count > AMOUNT_MAX:
        raise BadWord(f"count {text!r} is more than any machine has.")
    return count


def parse_amount(resource: str, text: str) -> int:
    """Read `text` as a size or a count, whichever `resource` is counted in.

    Raises:
        BadWord: when `text` is not one.
    """
    return parse_size(text) if is_bytes(resource) else parse_count(text)


def format_size(size_bytes: int) -> str:
    """Print bytes with one decimal in the largest power of 1024: `8.0 GiB`."""
    value, unit = float(size_bytes), "B"
    for power in _POWERS:
        if abs(value) < 1023.95:
            break
        value, unit = value / 1024, power + "iB"
    return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"


def format_amount(resource: str, amount: int) -> str:
    """Print an amount of `resource`: `8.0 GiB` or `3`."""
    return format_size(amount) if is_bytes(resource) else str(amount)


def format_amounts(amounts: "Mapping[str, int]") -> str:
    """Print several amounts in one line: `8.0 GiB ram, 2 cpu`; `nothing` if none."""
    words = (f"{format_amount(name, n)} {name}" for name, n in amounts.items())
    return ", ".join(words) or "nothing"
