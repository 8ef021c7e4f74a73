"""What became of a term, as a table for people."""

from __future__ import annotations

from collections import Counter
from math import inf
from statistics import mean, median, quantiles
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from term import Term


def rows(term: Term) -> list[tuple[str, str]]:
    """What became of the term: what, and how much."""
    tally = term.tally
    table = _counts(
        tally, "events", "recounts", "woken again and again", "", "requests", "granted",
        "granted inside", "finished", "left", "shrunk",
    )  # fmt: skip
    table += [(f"refused: {why}", str(n)) for why, n in term.refused.most_common()]
    table += [(f"ended: {why}", str(n)) for why, n in term.ended.most_common()]
    table += _counts(
        tally, "", "asked back", "yielded", "withdrawn", "", "reservations asked",
        "booked", "reservations begun", "extensions asked", "reservations released",
    )  # fmt: skip
    late = [x for x in term.late_s if x > 1]
    table.append(("booked ones that began on time", str(len(term.late_s) - len(late))))
    table.append(("  late", f"{len(late)}{_spread(late)}"))
    table += [(f"    because {why}", str(n)) for why, n in term.late_why.most_common()]
    table += [("", "")]
    table += [(f"started: {way}", str(n)) for way, n in term.books.ways.items()]
    table.append(
        ("  and older ones waited on, passed by a booking", str(term.books.overtaken))
    )
    table.append(("longest line", str(term.longest_line)))
    for priority, waits_s in sorted(term.waits_s.items()):
        words = f"mean {_span(mean(waits_s))}, {_percentile(waits_s)} of {len(waits_s)}"
        table.append((f"waits, priority {priority}", words))
    table += [("", ""), *_forecasts(term), ("", "")]
    for name, ledger in term.books.resources.items():
        if name == "machine":
            continue
        share = term.leased[name] / (ledger.capacity * term.end_s)
        table.append((f"leased of {name}", f"{share:.0%}"))
    held = term.ballast_s[0] / (term.ballast_s[1] or inf)
    table.append(("ballast held of what was wanted", f"{held:.1%}"))
    table.append(
        ("ballast the machine would not give", str(tally["ballast not taken"]))
    )
    return table


def _counts(tally: Counter[str], *names: str) -> list[tuple[str, str]]:
    return [(name, str(tally[name]) if name else "") for name in names]


def _forecasts(term: Term) -> list[tuple[str, str]]:
    part = term.foretold / (term.waited or 1)
    table = [("waited, and were told a time", f"{part:.0%} of {term.waited}")]
    for which, errors in term.errors.items():
        if not errors:
            continue
        off_s = [error for error, _ in errors]
        typical_s = median(ago for _, ago in errors)
        after = sum(error > 60 for error in off_s) / len(errors)
        before = sum(error < -60 for error in off_s) / len(errors)
        table += [
            (
                f"  as told {which}: median error",
                f"{_span(median(map(abs, off_s)))}, told {_span(typical_s)} ahead",
            ),
            ("    mean", f"{_span(mean(map(abs, off_s)))}"),
            ("    over a minute later than told", f"{after:.0%}"),
            ("    over a minute sooner", f"{before:.0%}"),
        ]
    return table


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _percentile(waits_s: list[float]) -> str:
    most_s = quantiles(waits_s, n=20)[-1] if len(waits_s) > 1 else waits_s[0]
    return f"95% within {_span(most_s)}"


def _spread(late_s: list[float]) -> str:
    return (
        f", median {_span(median(late_s))}, at most {_span(max(late_s))}"
        if late_s
        else ""
    )
