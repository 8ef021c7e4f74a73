"""Durations: `1h30m`, `0.5h`, `3.5d`, `45s` to seconds and back.

Like amounts.py this is on gatekeeper's way and imports nothing that costs time.
"""

from holdingpen.errors import BadWord

#: Seconds in each unit a user may write.
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

#: The longest duration there is: a hundred years.
DURATION_MAX_S = 100 * 365 * 86400

_ACCEPTED = "write 45s, 30m, 1h30m, 0.5h, 1d or 1w"


def parse_duration(text: str) -> float:
    """Read a duration: numbers, each with its unit, largest unit first.

    Args:
        text: for example `45s`, `30m`, `1h30m`, `0.5h`, `3.5d`, `1w`.

    Returns:
        Seconds, more than 0.

    Raises:
        BadWord: when a unit is missing (a bare number is an error: is it seconds
            or hours?), unknown, repeated or out of order, or when the whole is 0
            or longer than `DURATION_MAX_S`.
    """
    total, number, last = 0.0, "", "x"
    for letter in text.strip():
        if letter.isascii() and (letter.isdigit() or letter == "."):
            number += letter
            continue
        unit = letter.lower()
        if unit not in SECONDS or not number.strip(".") or number.count(".") > 1:
            raise BadWord(f"duration {text!r} is not understood: {_ACCEPTED}.")
        if last != "x" and SECONDS[unit] >= SECONDS[last]:
            raise BadWord(f"duration {text!r}: write each unit once, largest first.")
        total += float(number) * SECONDS[unit]
        number, last = "", unit
    if number or last == "x":
        raise BadWord(f"duration {text!r} lacks a unit: {_ACCEPTED}.")
    if not 0 < total <= DURATION_MAX_S:
        raise BadWord(f"duration {text!r} must be more than 0 and under 100 years.")
    return total


def format_duration(seconds: float) -> str:
    """Print seconds in the two largest units that say something: `1h30m`, `45s`.

    Under a second it is `0s`; the rest is rounded down, as clocks do.
    """
    rest = int(seconds)
    words = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, SECONDS[unit])
        if count:
            words.append(f"{count}{unit}")
        elif words:
            break
        if len(words) == 2:
            break
    return "".join(words) or "0s"
