"""Which promise a lease gets, and by which method it is kept."""

import pytest
from msgspec import structs

from holdingpen.core.facts import Ask, Moment, Who
from holdingpen.core.handover import (
    AS_IS,
    METHODS,
    Assurance,
    Choice,
    assurance,
    choose,
    unfit,
)
from holdingpen.core.leases import LIVE, Lease, needs_of

MIB = 2**20
CHOICES = {
    "ram": {
        AS_IS: Choice("paced", "no groups"),
        "program": Choice("group"),
        "descriptor": Choice("pieces"),
        "steps": Choice("steps", "in steps"),
    },
    "disk.a": {AS_IS: Choice("directory", "not root"), "descriptor": Choice("file")},
    "disk.b": {AS_IS: Choice("image")},
    "hugepages": {AS_IS: Choice("pool")},
    "other": {AS_IS: Choice("free", "it is set so")},
    "disk.c": {AS_IS: Choice("directory", "btrfs", promise="best-effort")},
    "disk.d": {AS_IS: Choice("directory", "more CPUs", bound=99)},
}


def ask(amounts, wishes=None, pid=7):
    return Ask(1, 1, Who(1, 1, pid), amounts, wishes=wishes or {})


def lease(amounts, drawn, how, wishes=None):
    asked = ask(amounts, wishes)
    return Lease(
        1, asked, needs_of(asked), LIVE, Moment(5, 1005),
        drawn=drawn, how=how, amounts=amounts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wishes", "drawn", "how"),
    [
        ({}, {"ram": 4}, {"ram": "paced"}),
        ({"ram": "program"}, {"ram": 4}, {"ram": "group"}),
        ({"ram": "descriptor"}, {"ram": 4}, {"ram": "pieces"}),
        # nothing was held back: nothing to pace, but the files must be found
        ({}, {}, {}),
        ({"ram": "program"}, {}, {}),
        ({"ram": "descriptor"}, {}, {"ram": "pieces"}),
        ({"ram": "steps"}, {}, {"ram": "steps"}),
        # a wish for what is not asked for says nothing
        ({"disk.a": "descriptor"}, {"ram": 4}, {"ram": "paced"}),
        # who only does without the choice for `program` gets the usual one
    ],
)
def test_the_method_follows_the_wish(wishes, drawn, how):
    assert choose(ask({"ram": 4}, wishes), dict(drawn), CHOICES) == how


def test_what_must_be_made_ready_without_ballast_is_drawn_at_nothing():
    drawn = {}
    how = choose(ask({"disk.b": 4, "cpu": 1}), drawn, CHOICES)
    assert (how, drawn) == ({"disk.b": "image"}, {"disk.b": 0})


def test_a_wish_that_a_resource_knows_no_answer_to_is_the_usual_one():
    assert choose(ask({"disk.b": 4}, {"disk.b": "program"}), {}, CHOICES) == {
        "disk.b": "image"
    }


@pytest.mark.parametrize("wish", ["as-is", "program"])
def test_a_process_the_kernel_does_not_name_cannot_be_followed(wish):
    asked = ask({"ram": 4}, {"ram": wish}, pid=0)
    assert choose(asked, {"ram": 4}, CHOICES) == {}


@pytest.mark.parametrize(
    ("amounts", "wishes", "fits"),
    [
        ({"ram": 1}, {"ram": "descriptor"}, True),
        ({"disk.b": 1}, {"disk.b": "descriptor"}, False),
        ({"cpu": 1}, {"cpu": "steps"}, False),
        ({"cpu": 1}, {"cpu": "program"}, True),
        ({"cpu": 1}, {"ram": "nonsense"}, True),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(amounts, wishes, fits):
    problem = unfit(ask(amounts, wishes), CHOICES)
    assert (problem is None) == fits
    assert fits or problem[0] == "bad-request"


@pytest.mark.parametrize(
    ("amounts", "drawn", "how", "wishes", "promise", "bound", "why"),
    [
        ({"cpu": 2}, {}, {}, {}, "none", 0, ""),
        ({"ram": 4}, {"ram": 4}, {"ram": "paced"}, {}, "bounded", 8 * MIB, "no groups"),
        ({"ram": 4}, {"ram": 4}, {"ram": "group"}, {"ram": "program"}, "exact", 0, ""),
        ({"ram": 4}, {"ram": 4}, {"ram": "pieces"}, {"ram": "descriptor"}, "exact", 0,
         ""),
        ({"ram": 4}, {"ram": 6}, {"ram": "steps"}, {"ram": "steps"}, "bounded", 4 * MIB,
         "in steps"),
        # part of it was not held back
        ({"ram": 4}, {"ram": 2}, {"ram": "group"}, {"ram": "program"}, "best-effort", 0,
         "only 2 B of the ram was held back"),
        ({"ram": 4}, {}, {}, {}, "best-effort", 0,
         "nothing was held back"),
        ({"other": 4}, {"other": 4}, {}, {}, "best-effort", 0, "it is set so"),
        # what is made ready whole needs no ballast
        ({"disk.b": 4}, {"disk.b": 0}, {"disk.b": "image"}, {}, "exact", 0, ""),
        ({"hugepages": 4}, {}, {}, {}, "exact", 0, ""),
        # the machine may promise less, or more may be lost on it
        ({"disk.c": 4}, {"disk.c": 4}, {"disk.c": "directory"}, {}, "best-effort", 0,
         "btrfs"),
        ({"disk.d": 4}, {"disk.d": 4}, {"disk.d": "directory"}, {}, "bounded", 99,
         "more CPUs"),
        # of several, the least
        ({"ram": 4, "disk.b": 4}, {"ram": 4, "disk.b": 0},
         {"ram": "paced", "disk.b": "image"}, {}, "bounded", 8 * MIB, "no groups"),
        ({"disk.b": 4, "ram": 4}, {"disk.b": 0, "ram": 4},
         {"disk.b": "image", "ram": "paced"}, {}, "bounded", 8 * MIB, "no groups"),
        ({"ram": 4, "disk.a": 4}, {"disk.a": 4, "ram": 4},
         {"disk.a": "directory", "ram": "paced"}, {}, "bounded", 64 * MIB, "not root"),
    ],
)  # fmt: skip
def test_the_promise_is_the_least_of_all(
    amounts, drawn, how, wishes, promise, bound, why
):
    one = lease(amounts, drawn, how, wishes)
    assert assurance(one, CHOICES) == Assurance(promise, bound, why)


def test_whoever_can_be_lost_by_others_says_how_much():
    for name, method in METHODS.items():
        assert (method.promise == "bounded") == (method.bound > 0), name


def test_a_reservation_is_handed_over_to_nobody():
    """What it holds is promised to those who draw on it, each for himself."""
    one = lease({"ram": 4}, {"ram": 4}, {})
    one.ask = structs.replace(one.ask, lasts_s=60.0)
    assert assurance(one, CHOICES) == Assurance("none")
