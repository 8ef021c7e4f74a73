"""Who may order what."""

import pytest

from holdingpen.core.facts import Who
from holdingpen.core.rights import Rules, is_operator, may_end


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
