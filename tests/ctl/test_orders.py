"""holdingpenctl set, drain, undrain, grant and revoke."""

import pytest

from holdingpen.wire import messages as wire

ORDERS = [
    (["set", "ram", "48G"], wire.SetCapacity(1, "ram", 48 * 2**30)),
    (["set", "licence", "2"], wire.SetCapacity(1, "licence", 2)),
    (["set", "ram", "0"], wire.SetCapacity(1, "ram", 0)),
    (["set", "ram", "default"], wire.SetCapacity(1, "ram", None)),
    (["drain"], wire.Drain(1, True, "")),
    (["drain", "new", "kernel"], wire.Drain(1, True, "new kernel")),
    (["undrain"], wire.Drain(1, False)),
    (["grant", "daemon"], wire.Seat(1, 1, True)),
    (["grant", "4321"], wire.Seat(1, 4321, True)),
    (["revoke", "root"], wire.Seat(1, 0, False)),
]


@pytest.mark.parametrize(("words", "order"), ORDERS)
def test_an_order_is_given_and_done_in_silence(ctl, serve, words, order):
    daemon = serve(lambda r: [] if type(r) is wire.Hello else [wire.Done(r.id)])
    assert ctl(*words) == (0, "", "")
    assert daemon.heard[1:] == [order]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["set", "ram", "much"], "size 'much' is not understood"),
        (["set", "licence", "2G"], "count '2G' is not understood"),
        (["grant", "no-such-user"], "there is no user 'no-such-user' on this"),
        (["revoke", "4294967295"], "there is no user '4294967295' on this"),
        (["drain", "x" * 257], "a reason of 257 characters is too long: at most 256"),
    ],
)
def test_what_cannot_be_meant_is_not_sent(ctl, words, problem):
    exit_status, out, err = ctl(*words)
    assert (exit_status, out) == (2, "")
    assert err.startswith(f"holdingpenctl: {problem}")


@pytest.mark.parametrize(
    "words", [["set", "ram", "1G"], ["drain"], ["undrain"], ["grant", "root"]]
)
def test_who_is_no_operator_is_told_so(ctl, serve, words):
    serve(
        lambda r: (
            []
            if type(r) is wire.Hello
            else [wire.Refused(r.id, "not-permitted", "operators only.")]
        )
    )
    assert ctl(*words) == (77, "", "holdingpenctl: operators only.\n")
