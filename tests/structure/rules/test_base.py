"""The registry of rules."""

import pytest

from probcomp.structure.rules.base import RULES, find_rule, rule


def test_rules_are_found_by_name_and_in_place_forms_by_theirs() -> None:
    assert find_rule("linear") is RULES["linear"]
    in_place = next(name for name in RULES if not name.endswith("_") and f"{name}_" not in RULES)
    assert find_rule(f"{in_place}_") is RULES[in_place]
    assert find_rule("no_such_operator") is None
    assert find_rule("__no_such__") is None


def test_a_name_has_one_rule_and_the_first_stays() -> None:
    kept = RULES["linear"]
    with pytest.raises(ValueError, match="two rules for operator 'linear'"):
        rule("linear")(lambda op: None)
    assert RULES["linear"] is kept
