"""The gate's answers by the guard's rules: of every kind of row."""

from __future__ import annotations

from itertools import product

from drawdown.server.api.gate import decided
from drawdown.worker.verdict.refresh_requests import Gated, in_doubt
from tests.cases import cases

ROWS = [
    Gated(biller, reason is not None, reason, most, None if unknown else 7, plan, unknown, overridden)
    for biller, reason, most, plan, unknown, overridden in product(
        ("embedded", "none", None),
        (None, "operator", "credits_exhausted", "unreadable"),
        (None, 0, 5),
        (None, "pro"),
        (False, True),
        (False, True),
    )
    if not (unknown and reason == "unreadable")
]


def answer(row: Gated, *, open_in_doubt: bool) -> dict[str, object]:
    facts = row.facts(open_in_doubt=open_in_doubt)
    return decided("acme", facts, row.max_concurrent_sandboxes, row.projection_read_ms)


def wanted(row: Gated, *, open_in_doubt: bool) -> tuple[bool, str | None, str]:
    """Allowed, the reason, and the rule: the operator, then the limit, then credit."""
    limit = "override" if row.overridden else f"limit:{row.plan or '*'}:at_once"
    if row.halt_reason == "operator":
        return False, "operator", "operator"
    if row.max_concurrent_sandboxes == 0:
        return False, "limit_zero", limit
    if row.is_halted:
        return False, row.halt_reason, "credits"
    open_rule = "unlimited" if row.max_concurrent_sandboxes is None else limit
    if row.unknown and row.billing_provider != "none":
        return open_in_doubt, "never_projected", open_rule if open_in_doubt else "credits"
    return True, None, open_rule


@cases("open_in_doubt", [False, True])
def test_gate_answer_follows_first_refusing_rule(open_in_doubt: bool) -> None:
    assert len(ROWS) > 200
    for row in ROWS:
        found = answer(row, open_in_doubt=open_in_doubt)
        assert (found["allowed"], found["reason"], found["rule"]) == wanted(row, open_in_doubt=open_in_doubt), row
        assert found["decision"] == ("allow" if found["allowed"] else "block")
        assert found["degraded"] == (found["reason"] == "never_projected")


def test_gate_answer_lists_options_by_reason() -> None:
    def options(reason: str | None, most: int | None) -> object:
        return answer(Gated("embedded", reason is not None, reason, most, 7, None, False, False), open_in_doubt=False)[
            "options"
        ]

    assert options("operator", None) == ()
    assert options(None, 0) == ("run_locally",)
    assert options("credits_exhausted", None) == ("top_up", "sponsor", "run_locally")
    assert options(None, 5) == ()


@cases("code", ["unknown_org", "database_unreadable"])
def test_gate_of_unknown_or_unreadable_org_follows_settings(code: str) -> None:
    for allowed in (False, True):
        found = decided("acme", in_doubt(code, allowed=allowed), None, None)
        assert (found["allowed"], found["reason"], found["degraded"], found["as_of"]) == (allowed, code, True, None)
