"""Who may order what, and who may ask for how much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdingpen.core.facts import Ask, Who
from holdingpen.core.rights import (
    ANY,
    ANYBODY,
    OPERATOR,
    OWN,
    SEATED,
    Allow,
    Rules,
    allowance,
    is_operator,
    may_end,
    not_allowed,
    too_long,
)
from holdingpen.errors import Refusal

GIB = 2**30
HOUR = 3600.0
ADA, BOB = Who(1001, 100, 1), Who(1002, 100, 1)
TEACHING, ADMINS, PRIMARY = 50, 60, 100

RULE = 'rule 2 (group = "teaching")'


def ask(priority: int = 0, **amounts: int) -> Ask:
    return Ask(1, 1, ADA, amounts or {"ram": GIB}, priority)


@pytest.mark.parametrize(
    ("length_s", "expected_s"), [(None, 3600.0), (7200.0, 7200.0), (0.0, 1.0)]
)
def test_who_said_how_long_is_taken_at_his_word(length_s, expected_s):
    """Also one who said 0: he ends at once, and is none who did not say."""
    asked = Ask(1, 1, ADA, {"ram": GIB}, length_s=length_s)
    assert Rules().expected_s(asked) == expected_s


@pytest.mark.parametrize(
    ("uid", "operators", "operator", "ends"),
    [
        (0, {0}, True, True),
        (1000, {0}, False, True),
        (1001, {0}, False, False),
        (1001, {0, 1001}, True, True),
        (0, {1001}, False, False),
    ],
)
def test_operators_order_and_owners_end(uid, operators, operator, ends):
    who, rules = Who(uid, 100, 1), Rules(operators=frozenset(operators))
    assert is_operator(who, rules) == operator
    assert may_end(who, owner_uid=1000, rules=rules) == ends


@pytest.mark.parametrize(
    ("groups", "operator"),
    [(set(), False), ({TEACHING}, False), ({ADMINS}, True), ({TEACHING, ADMINS}, True)],
)
def test_the_members_of_an_operator_group_are_operators(groups, operator):
    rules = Rules(operator_groups=frozenset({ADMINS}))
    assert is_operator(ADA, rules, groups) == operator
    assert may_end(ADA, BOB.uid, rules, groups) == operator


def test_who_has_an_operator_group_as_his_own_is_an_operator():
    assert is_operator(ADA, Rules(operator_groups=frozenset({PRIMARY})))


@pytest.mark.parametrize(
    ("allow", "ends"),
    [
        ([], False),
        ([Allow("", gids=frozenset({TEACHING}), end=ANY)], True),
        ([Allow("", gids=frozenset({TEACHING}), end=OWN)], False),
        ([Allow("", uids=frozenset({BOB.uid}), end=ANY)], False),
        ([Allow("", uids=frozenset({ADA.uid})), Allow("", end=ANY)], False),
        ([Allow("", end=ANY)], True),
    ],
)
def test_the_first_rule_that_names_him_says_whose_leases_he_ends(allow, ends):
    rules = Rules(allow=tuple(allow))
    assert may_end(ADA, BOB.uid, rules, {TEACHING}) == ends
    assert may_end(ADA, ADA.uid, rules, {TEACHING})


FIRST = Allow("first", uids=frozenset({ADA.uid}))
SECOND = Allow("second", gids=frozenset({TEACHING}))
BOTH = Allow("both", uids=frozenset({BOB.uid}), gids=frozenset({TEACHING}))
THIRD = Allow("third", gids=frozenset({PRIMARY}))
ALL = Allow("all")


@pytest.mark.parametrize(
    ("who", "groups", "seated", "allow", "found"),
    [
        (ADA, set(), False, [], ANYBODY),
        (ADA, set(), True, [], ANYBODY),
        (ADA, set(), False, [FIRST, ALL], FIRST),
        (ADA, {TEACHING}, False, [SECOND, FIRST], SECOND),
        (ADA, {TEACHING}, False, [BOTH], BOTH),
        (BOB, set(), False, [BOTH], BOTH),
        (BOB, set(), False, [FIRST, SECOND, THIRD], THIRD),
        (BOB, set(), False, [FIRST, SECOND, ALL], ALL),
        (BOB, set(), False, [FIRST, SECOND], None),
        (BOB, set(), True, [FIRST, SECOND], SEATED),
        (ADA, set(), True, [FIRST], FIRST),
        (Who(0, 0, 1), set(), False, [FIRST], OPERATOR),
        (Who(0, 0, 1), set(), False, [ALL], OPERATOR),
        (BOB, {ADMINS}, False, [ALL], OPERATOR),
    ],
)
def test_the_first_rule_that_names_him_is_his_allowance(
    who, groups, seated, allow, found
):
    rules = Rules(allow=tuple(allow), operator_groups=frozenset({ADMINS}))
    assert found == allowance(who, groups, seated, rules)


def test_whom_no_rule_names_may_ask_for_nothing():
    code, message = not_allowed(ask(), None, {})
    assert code == "not-permitted"
    assert "no [[allow]] rule names you (user 1001)" in message


#: What a rule says, what is asked, whether and how long as a reservation, what is
#: held already, and the code.
REFUSED = [
    ({"reserve": False}, ask(), HOUR, True, {}, "not-permitted"),
    ({"priority_max": 10}, ask(11), None, False, {}, "not-permitted"),
    ({"priority_max": -1}, ask(), None, False, {}, "not-permitted"),
    ({"time_max_s": HOUR}, ask(), HOUR + 1, False, {}, "not-permitted"),
    ({"time_max_s": HOUR}, ask(), 2 * HOUR, True, {}, "not-permitted"),
    ({"time_max_s": HOUR}, ask(), None, True, {}, "not-permitted"),
    ({"most": {"ram": GIB}}, ask(ram=GIB + 1), None, False, {}, "not-permitted"),
    ({"most": {"gpu": 0}}, ask(gpu=1), None, False, {}, "not-permitted"),
    ({"most": {"machine": 0}}, ask(machine=1), None, False, {}, "not-permitted"),
    ({"most": {"disk.a": 1}}, ask(**{"disk.a": 2}), None, False, {}, "not-permitted"),
    (
        {"most": {"disk": 3}},
        ask(**{"disk.a": 2, "disk.b": 2}),
        None,
        False,
        {},
        "not-permitted",
    ),
    ({"most": {"ram": GIB}}, ask(ram=1), None, False, {"ram": GIB}, "limit"),
    ({"most": {"gpu": 2}}, ask(gpu=2), None, False, {"gpu": 1}, "limit"),
    ({"most": {"gpu": 2}}, ask(gpu=2), HOUR, True, {"gpu": 1}, "limit"),
    ({"most": {"disk": 3}}, ask(**{"disk.a": 2}), None, False, {"disk.b": 2}, "limit"),
    (
        {"most": {"ram": GIB, "gpu": 0}},
        ask(ram=1, gpu=1),
        None,
        False,
        {"ram": GIB},
        "not-permitted",
    ),
]

ALLOWED = [
    ({"reserve": False}, ask(), HOUR, False, {}),
    ({"priority_max": 10}, ask(10), None, False, {}),
    ({"priority_max": 10}, ask(-11), None, False, {}),
    ({"time_max_s": HOUR}, ask(), HOUR, True, {}),
    ({"time_max_s": HOUR}, ask(), None, False, {}),
    ({}, ask(10**6), None, True, {"ram": 2**62}),
    ({"most": {"ram": GIB}}, ask(ram=GIB), None, False, {"gpu": 5}),
    ({"most": {"gpu": 1}}, ask(ram=2**62), None, False, {"ram": 2**62}),
    ({"most": {"gpu": 0}}, ask(ram=1), None, False, {"gpu": 2}),
    ({"most": {"disk.a": 2}}, ask(**{"disk.b": 9}), None, False, {"disk.a": 2}),
    ({"most": {"diskette": 1}}, ask(**{"disk.a": 9}), None, False, {}),
    ({"most": {"machine": 1}}, ask(machine=1), None, False, {"machine": 1}),
]


@pytest.mark.parametrize(
    ("says", "asked", "length_s", "reservation", "held", "code"), REFUSED
)
def test_what_a_rule_does_not_cover_is_refused_by_its_name(
    says, asked, length_s, reservation, held, code
):
    problem = not_allowed(asked, Allow(RULE, **says), held, length_s, reservation)
    assert problem is not None
    assert problem[0] == code
    assert RULE in problem[1]


@pytest.mark.parametrize(("says", "asked", "length_s", "reservation", "held"), ALLOWED)
def test_what_a_rule_covers_is_allowed(says, asked, length_s, reservation, held):
    allow = Allow(RULE, **says)
    assert not_allowed(asked, allow, held, length_s, reservation) is None


@pytest.mark.parametrize("allow", [OPERATOR, SEATED, ANYBODY])
def test_who_needs_no_rule_has_no_limits(allow):
    much = ask(10**6, ram=2**62, machine=1)
    assert not_allowed(much, allow, {"ram": 2**62}, None, reservation=True) is None


@pytest.mark.parametrize(
    ("says", "asked", "said"),
    [
        (
            {"most": {"ram": 16 * GIB}},
            ask(ram=90 * GIB),
            'asked 90.0 GiB ram, 74.0 GiB too much; rule 2 (group = "teaching") lets '
            "you have 16.0 GiB at once. Ask for less, or ask the administrator to "
            "raise its max.ram.",
        ),
        (
            {"most": {"gpu": 0}},
            ask(gpu=2),
            'asked 2 gpu, 2 too much; rule 2 (group = "teaching") lets you have 0 at '
            "once. Ask for less, or ask the administrator to raise its max.gpu.",
        ),
        (
            {"most": {"machine": 0}},
            ask(machine=1),
            'rule 2 (group = "teaching") does not let you have the machine to '
            "yourself. Ask for a part of it, or ask the administrator to raise its "
            "max.machine.",
        ),
        (
            {"priority_max": 10},
            ask(50),
            'asked priority 50; rule 2 (group = "teaching") lets you have 10 at most. '
            "Ask with --priority 10, or ask the administrator to raise its "
            "priority_max.",
        ),
        (
            {"most": {"ram": 4 * GIB}},
            ask(ram=2 * GIB),
            "asked 2.0 GiB ram; you hold or wait for 3.0 GiB already, and rule 2 (group"
            ' = "teaching") lets you have 4.0 GiB at once: 1.0 GiB too much. Give some '
            "back or ask for less, or ask the administrator to raise its max.ram.",
        ),
    ],
)
def test_a_refusal_has_the_numbers_and_a_way_out(says, asked, said):
    assert said == not_allowed(asked, Allow(RULE, **says), {"ram": 3 * GIB})[1]


def test_what_looks_the_same_when_rounded_is_told_apart():
    """Asked 8h, may have 8h, refused: who would understand that?"""
    allow = Allow(RULE, most={"ram": GIB}, time_max_s=8 * HOUR)
    assert "1 B too much" in not_allowed(ask(ram=GIB + 1), allow, {})[1]
    assert "1 B too much" in not_allowed(ask(ram=1), allow, {"ram": GIB})[1]
    assert "asked for 8h, 1s too long; " in too_long(8 * HOUR + 0.25, allow)[1]


def test_a_time_without_an_end_is_said_so():
    assert "without an end" in too_long(None, Allow(RULE, time_max_s=HOUR))[1]


@pytest.mark.parametrize(("code", "status"), [("not-permitted", 77), ("limit", 75)])
def test_the_exit_status_tells_never_from_not_now(code, status):
    assert Refusal("", code).exit_status == status


AMOUNTS = st.dictionaries(
    st.sampled_from(["ram", "gpu", "disk.a", "disk.b", "machine"]), st.integers(1, 9)
)
MOST = st.dictionaries(
    st.sampled_from(["ram", "gpu", "disk", "disk.a", "machine"]), st.integers(0, 9)
)


@given(AMOUNTS, AMOUNTS, MOST)
def test_limit_means_that_giving_back_helps(amounts, held, most):
    """And not-permitted that it does not."""
    asked, allow = Ask(1, 1, ADA, amounts), Allow(RULE, most=most)
    now, later = not_allowed(asked, allow, held), not_allowed(asked, allow, {})
    if now is None or now[0] == "limit":
        assert later is None
    else:
        assert now == later


@given(AMOUNTS, AMOUNTS, MOST)
def test_what_is_allowed_stays_within_every_limit(amounts, held, most):
    asked, allow = Ask(1, 1, ADA, amounts), Allow(RULE, most=most)
    if not_allowed(asked, allow, held) is not None:
        return
    for name in amounts.keys() & most.keys() - {"machine"}:
        assert amounts[name] + held.get(name, 0) <= most[name]


@given(
    st.frozensets(st.integers(0, 3)),
    st.lists(st.builds(Allow, st.text(), gids=st.frozensets(st.integers(0, 3)))),
)
def test_a_rule_behind_the_one_that_counts_changes_nothing(groups, allow):
    who, none = Who(1001, 99, 1), frozenset({0})
    found = allowance(who, groups, False, Rules(none, allow=tuple(allow)))
    for count in range(1, len(allow) + 1):
        fewer = Rules(none, allow=tuple(allow[:count]))
        if allowance(who, groups, False, fewer) is not None:
            assert found == allowance(who, groups, False, fewer)
            return
    assert found == (ANYBODY if not allow else None)
