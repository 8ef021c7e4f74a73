"""Facts make books, and books make facts that make them again."""

import pytest

from holdingpen.core import checks
from holdingpen.core import facts as fact
from holdingpen.core.books import Books
from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.errors import BrokenInvariant
from holdingpen.journal.replay import BATCH, replay, snapshot


def at(second):
    return Moment(float(second), 1000.0 + second)


def ask(conn=1, number=1, **more):
    return Ask(
        conn, number, Who(1000, 1000, 1), more.pop("amounts", {"ram": 4}), **more
    )


RESOURCES = [
    fact.ResourceSet("ram", 100, 40, 2, measured=True),
    fact.ResourceSet("disk", 50, 10),
    fact.Taken("ram", 0, 20),
    fact.Taken("disk", 0, 10),
]
both = {"ram": 4, "disk": 4}

STORIES = {
    "nothing": [],
    "resources": RESOURCES,
    "set": [*RESOURCES, fact.CapacitySet("ram", 7, 0), fact.Shed("ram", 20)],
    "set to nothing": [*RESOURCES, fact.CapacitySet("ram", 0, 0), fact.Shed("ram", 20)],
    "drained": [fact.DrainSet("disks", 0)],
    "undrained": [fact.DrainSet("disks", 0), fact.DrainSet(None, 0)],
    "opened": [fact.Opened(at(1), "boot")],
    "taking": [*RESOURCES, fact.Taking("ram", 6)],
    "refused ballast": [
        *RESOURCES, fact.Taking("ram", 6), fact.Taken("ram", 6, 2, 9.0),
    ],
    "no ballast and refused": [
        fact.ResourceSet("ram", 9, 9),
        fact.Taking("ram", 6),
        fact.Taken("ram", 6, 0, 9.0),
    ],
    "granted at once": [*RESOURCES, fact.Granted(1, at(1), ask(length_s=9.0))],
    "waiting": [*RESOURCES, fact.Joined(1, at(1), ask(wait_s=9.0), [7])],
    "granted after waiting": [
        *RESOURCES, fact.Joined(1, at(1), ask(), [7]), fact.Granted(1, at(2)),
    ],
    "granted in the moment of joining": [
        *RESOURCES, fact.Joined(1, at(1), ask(), [7]), fact.Granted(1, at(1)),
    ],
    "promised": [*RESOURCES, fact.Promised(1, {"ram": 4}, at(1), ask())],
    "half dropped": [
        *RESOURCES,
        fact.Promised(1, dict(both), at(1), ask(amounts=both)),
        fact.Dropped(1, "ram"),
    ],
    "promised after waiting": [
        *RESOURCES, fact.Joined(1, at(1), ask()), fact.Promised(1, {"ram": 4}, at(2)),
    ],
    "granted with ballast": [
        *RESOURCES,
        fact.Promised(1, {"ram": 4}, at(1), ask()),
        fact.Granted(1, at(2)),
    ],
    "released": [
        *RESOURCES, fact.Granted(1, at(1), ask()), fact.Ended(1, at(2), "released"),
    ],
    "released and left": [
        *RESOURCES,
        fact.Granted(1, at(1), ask()),
        fact.Ended(1, at(2), "released"),
        fact.Left(1),
    ],
    "gone with ballast": [
        *RESOURCES,
        fact.Promised(1, {"ram": 4}, at(1), ask()),
        fact.Granted(1, at(2)),
        fact.Ended(1, at(3), "gone"),
        fact.Seen("ram", 2, 1),
    ],
    "ordered while promised": [
        *RESOURCES,
        fact.Promised(1, {"ram": 4}, at(1), ask()),
        fact.Ended(1, at(3), "ordered", 0),
    ],
    "left the line": [
        *RESOURCES, fact.Joined(1, at(1), ask()), fact.Ended(1, at(2), "wait-over"),
    ],
    "one of two released": [
        *RESOURCES,
        fact.Granted(1, at(1), ask(number=1)),
        fact.Granted(2, at(1), ask(number=5)),
        fact.Ended(1, at(2), "released"),
    ],
    "ended in another order": [
        *RESOURCES,
        *(fact.Granted(n, at(1), ask(conn=n)) for n in (1, 2, 3)),
        fact.Ended(3, at(2), "gone"),
        fact.Ended(1, at(3), "released"),
    ],
    "foreign": [*RESOURCES, fact.Seen("ram", 0, 30)],
    "measured no longer": [
        *RESOURCES,
        fact.Granted(1, at(1), ask()),
        fact.Ended(1, at(2), "gone"),
        fact.ResourceSet("ram", 100, 40, 2, measured=False),
        fact.Seen("ram", 0, 0),
    ],
    "measured only now": [
        fact.ResourceSet("ram", 100),
        fact.Granted(1, at(1), ask()),
        fact.Ended(1, at(2), "gone"),
        fact.ResourceSet("ram", 100, measured=True),
    ],
    "a long history": [fact.Counted(10_000, 5_000)],
    "only heard": [*RESOURCES, fact.Heard(7, 3)],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_a_snapshot_makes_the_same_books(story):
    books = replay([story])
    checks.check(books)
    again = replay(snapshot(books))
    checks.check(again)
    assert checks.view(again) == checks.view(books)


def test_a_long_snapshot_comes_in_batches():
    books = replay([[fact.Heard(n, 1) for n in range(2 * BATCH)]])
    batches = list(snapshot(books))
    assert [len(batch) for batch in batches] == [BATCH, BATCH, 2]
    assert checks.view(replay(batches)) == checks.view(books)


def test_how_the_facts_were_batched_is_all_the_same():
    story = STORIES["gone with ballast"]
    one_by_one = replay([what] for what in story)
    assert checks.view(one_by_one) == checks.view(replay([story]))


def test_no_facts_make_empty_books():
    assert checks.view(replay([])) == checks.view(Books())


def test_facts_that_contradict_each_other_are_not_believed():
    with pytest.raises(BrokenInvariant):
        replay([STORIES["released"], [fact.Ended(1, at(3), "gone")]])
