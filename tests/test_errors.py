"""Codes and exit statuses are promises to scripts."""

import pytest

from holdingpen import errors
from holdingpen.errors import (
    BadSettings,
    BadWord,
    BrokenInvariant,
    Damage,
    HoldingPenError,
    LocalMistake,
    Refusal,
    RemoteMistake,
    Unavailable,
)


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (HoldingPenError("x"), "error", 1),
        (Refusal("x", "never-fits"), "never-fits", 1),
        (Refusal("x", "no-such-lease"), "no-such-lease", 1),
        (Refusal("x", "not-now"), "not-now", 75),
        (Refusal("x", "limit"), "limit", 75),
        (Refusal("x", "cannot-record"), "cannot-record", 75),
        (Refusal("x", "not-permitted"), "not-permitted", 77),
        (LocalMistake("x"), "usage", 2),
        (BadWord("x"), "bad-word", 2),
        (BadSettings("x"), "bad-settings", 65),
        (RemoteMistake("x"), "protocol", 65),
        (RemoteMistake("x", "too-long"), "too-long", 65),
        (Damage("x"), "damaged", 65),
        (Unavailable("x"), "unavailable", 69),
        (BrokenInvariant("x"), "broken-invariant", 125),
    ],
    ids=repr,
)
def test_each_error_has_a_code_and_an_exit_status(error, code, status):
    assert isinstance(error, HoldingPenError)
    assert (str(error), error.code, error.exit_status) == ("x", code, status)


def test_a_code_of_one_error_is_not_that_of_the_next():
    RemoteMistake("x", "too-long")
    assert RemoteMistake("x").code == "protocol"


def test_a_bad_word_is_a_value_error():
    """So argparse and others who parse words understand it."""
    assert isinstance(BadWord("x"), ValueError)


def test_exit_statuses_are_those_of_the_field():
    """sysexits.h, env(1) and timeout(1)."""
    statuses = {
        name: value for name, value in vars(errors).items() if name.startswith("EXIT_")
    }
    assert statuses == {
        "EXIT_NO": 1,
        "EXIT_USAGE": 2,
        "EXIT_BAD_DATA": 65,
        "EXIT_NO_DAEMON": 69,
        "EXIT_NOT_NOW": 75,
        "EXIT_NOT_PERMITTED": 77,
        "EXIT_TIMED_OUT": 124,
        "EXIT_GATEKEEPER": 125,
        "EXIT_CANNOT_EXECUTE": 126,
        "EXIT_NOT_FOUND": 127,
    }
