"""Sealing, in any order of anything: the product beside a plain model; and bugs that the machine must see."""

from __future__ import annotations

from types import ModuleType

import pytest
import sqlalchemy as sa
from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test

from drawdown.worker.seal import seal
from drawdown.worker.usage import prune
from tests.simulation.mutants_remote import Patches
from tests.stateful.scale import asked_for_more, scale, until_red
from tests.stateful.sealing import Sealing
from tests.whole import share

SEED = 6
"""Of examples in which each bug shows among the first few."""
OURS = "-sealed_qty"
SEALED, PENDING = "sealed is not what the model says", "pending is not what the model says"
PLANTED = {
    "a push for nothing owed": (
        seal, "seal", "WHERE quantity <> 0 OR sent_qty <> 0", "", "nothing where nothing changed"),
    "the watermark one window too far": (
        seal, "advance", "= :horizon_ms WHERE", "= :horizon_ms + 300000 WHERE", "the watermark is another one"),
    "a withdrawal that is not taken out": (seal, "withdrawn_dirty", "-SUM(s.interval_s)", "0", SEALED),
    "a join that loses what is unassigned": (
        seal, "pend", "LEFT JOIN assignments a", "JOIN assignments a", PENDING),
    "a carry that forgets what was over": (
        seal, "carry", "= carries.carry_qty + excluded", "= excluded", "the carry is not sealed less sent"),
}  # fmt: skip
"""Where, what is put in the place of what, and what the machine says of it."""
RARE = {
    "late samples that make nothing dirty": (
        seal, "late_is_dirty", "WHERE w", "WHERE 1 = 0 AND w", f"used and not sealable|{PENDING}"),
    "a void that is not subtracted": (
        seal, "owed", "CASE WHEN state = 'voided' THEN 0 ELSE -sealed_qty END", OURS, SEALED),
    "a floor above what is pending": (
        prune, "reachable", "MIN(window_ms) FROM pending", "NULL FROM pending", "cannot move a floor"),
}  # fmt: skip
"""Seen only after many examples."""


def test_sealing_in_any_order_matches_owed_usage() -> None:
    run_state_machine_as_test(Sealing, settings=scale(share(3, whole=25), 25))


@pytest.mark.parametrize("bug", share(list(PLANTED)[:1], whole=list(PLANTED)))
def test_planted_bug_is_found(bug: str) -> None:
    is_seen(*PLANTED[bug], examples=60)


@pytest.mark.skipif(not asked_for_more(), reason="minutes: set STATEFUL_EXAMPLES")
@pytest.mark.parametrize("bug", RARE)
def test_rare_planted_bug_is_found(bug: str) -> None:
    is_seen(*RARE[bug], examples=1500)


def is_seen(module: ModuleType, name: str, right: str, wrong: str, said: str, *, examples: int) -> None:
    patches, machine = Patches(), type("Sealing", (Sealing,), {})
    if not asked_for_more():
        machine = seed(SEED)(machine)
    with patches.kept():
        patches.query(module, name, right, wrong)
        with pytest.raises((AssertionError, sa.exc.IntegrityError), match=said):
            run_state_machine_as_test(machine, settings=until_red(examples, 30))
