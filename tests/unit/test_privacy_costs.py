"""No rule costs more than in proportion to the text, whatever it is: counted, not timed."""

from __future__ import annotations

import re
from typing import Final

import pytest

from drawdown.events.privacy import leaves, scan, shapes
from drawdown.events.privacy.rules import RULES, Rule, rule
from tests.unit.counting import PARSER, Counter, TooDearError, tree_of, width_of
from tests.unit.test_privacy_rules import MUST
from tests.whole import share

MOST_WIDTH: Final = 700
MOST_STEPS: Final = 25_000
"""Of one place of a text: what all patterns of a rule compare there at most, tries again included."""
STARTS, EVERY = share((1, 3), whole=(4, 1))
"""How many places of a text are tried, and which texts: the first, and every third one behind it."""
HOSTILE: Final = re.split(
    "[|]",
    "a|0|a0|aA|-|_|.|/|:|=|@|+|\\|a-|a.|a/|a_|a:|0.|1/|a@a.|+1|://a.|://a:|a=|1-|secret=a|user/a|uploads/|uploads/1|"
    "[at]|a%|eyJ|?sig=| |+1 |A1 ",
)


def hostile_to(one: Rule) -> list[str]:
    """Texts that go on and on, and what the rule is for, but for its end."""
    length = 2 * MOST_WIDTH
    cut = [text[:-1] for text in MUST[one.name]] + [text[: len(text) // 2] for text in MUST[one.name]]
    return [(piece * length)[:length] for piece in (*HOSTILE, *filter(None, cut))] + [
        head + piece * MOST_WIDTH for head in cut for piece in ("a", "0", "a1", "/", "-")
    ]


def require_cheap(one: Rule) -> None:
    """Errors: TooDearError."""
    for text in hostile_to(one)[::EVERY]:
        for place in range(STARTS):
            Counter(one.pattern.pattern, text, MOST_STEPS).match(place)


def test_privacy_rule_cost_per_position_is_bounded() -> None:
    """So twice the text costs twice as much."""
    for one in RULES:
        assert width_of(one.pattern.pattern) <= MOST_WIDTH, one.name
        require_cheap(one)


def test_privacy_match_counter_agrees_with_python() -> None:
    """Else it would count something else."""
    for one in RULES:
        for text in MUST[one.name]:
            found = one.pattern.search(text)
            assert found is not None
            counter = Counter(one.pattern.pattern, text)
            met = [counter.match(place) for place in range(found.start() + 1)]
            assert met == [False] * found.start() + [True], (one.name, text)


def test_privacy_rule_that_is_too_costly_is_detected() -> None:
    with pytest.raises(TooDearError):
        require_cheap(rule("email", "planted", r"(?:[a-z0-9]{1,60}){1,10}@(?:[a-z]{1,60}\.){1,4}!"))
    assert width_of(rule("x", "planted", r"a+b").pattern.pattern) > MOST_WIDTH


def test_privacy_patterns_have_a_single_unbounded_repetition_at_most() -> None:
    """A repetition without an end stands in them once, and nothing after it that may take back what it took."""
    found = [one for module in (leaves, scan, shapes) for one in vars(module).values()]
    for one in found:
        if isinstance(one, re.Pattern):
            parts = list(tree_of(one.pattern)) if one.pattern else []
            endless = [part for part in parts if str(part[0]) == "MAX_REPEAT" and part[1][1] is PARSER.MAXREPEAT]
            assert len(endless) <= 1, one.pattern
