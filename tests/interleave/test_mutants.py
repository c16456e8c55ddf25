"""Each lock taken out, and each statement that stands for one: a case shows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drawdown.ledger import accounts, tiers
from drawdown.schema import locks, messages
from drawdown.schema.sql import Queries
from drawdown.worker.access import idempotency as console_acts
from drawdown.worker.batches import take as take_batches
from drawdown.worker.catalog import terms
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.halts import dispatch
from drawdown.worker.jobs import run_jobs
from drawdown.worker.push import actions as balances
from drawdown.worker.push import claim as claims
from drawdown.worker.seal import seal as sealing
from drawdown.worker.seal import stops
from drawdown.worker.sources.events import store, types
from drawdown.worker.sources.events.types import meters
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup import fill
from drawdown.worker.usage import quarantined as samples
from drawdown.worker.usage import withdrawals
from drawdown.worker.wallets import actions as credit
from tests.interleave.explore import Explorer
from tests.whole import share

pytestmark = pytest.mark.xdist_group("interleave")

Plant = Callable[[pytest.MonkeyPatch], None]


def _none(*_arguments: object, **_values: object) -> None:
    """No lock at all."""


def _put(patch: pytest.MonkeyPatch, sql: Queries, name: str, text: str, dialect: str = "") -> None:
    patch.setitem(sql.pieces, (name, dialect), text)
    patch.setattr(sql, "_ready", {})


def _resume_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stops, "lock_org", _none)


def _terms_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(terms, "lock_buckets", _none)
    patch.setattr(locks, "lock_buckets", _none)


def _missed_halts_are_not_looked_for(patch: pytest.MonkeyPatch) -> None:
    _put(patch, dispatch.SQL, "make_missed_due", "SELECT 1 WHERE 1 = 0")


def _corrections_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(withdrawals, "lock_buckets", _none)
    patch.setattr(locks, "lock_buckets", _none)


def _mended_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(samples, "lock_buckets", _none)


def _priced_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    """Neither the seal's, nor that of the event type."""
    patch.setattr(guard_terms, "lock_buckets", _none)
    _priced_without_the_types_row(patch)


def _priced_without_the_types_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(types, "hold", lambda c, event_type, now_ms: meters(c, [event_type], now_ms).get(event_type))


def _taken_without_the_types_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(types, "share", _none)


def _asked_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guard_terms, "hold", _none)


def _turned_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guard_counts, "lock_keys", _none)


def _closed_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "lock_org", _none)


def _taken_without_the_floor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "hold", lambda *_given: True)


def _seal_without_its_lock(patch: pytest.MonkeyPatch) -> None:
    _put(patch, sealing.SQL, "for_update", "", "postgresql")


def _told_is_not_held(patch: pytest.MonkeyPatch) -> None:
    told = balances.find_unacknowledged
    patch.setattr(balances, "find_unacknowledged", lambda connection, org_id, **_hold: told(connection, org_id))


def _gives_without_the_plan(patch: pytest.MonkeyPatch) -> None:
    _put(patch, accounts.SQL, "for_share", "", "postgresql")


def _plan_set_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    _put(patch, credit.SQL, "to_change", "", "postgresql")


def _tier_set_without_the_lock(patch: pytest.MonkeyPatch) -> None:
    _put(patch, tiers.SQL, "to_change", "", "postgresql")


def _told_whoever_is_ended(patch: pytest.MonkeyPatch) -> None:
    _put(patch, messages.SQL, "going_on", "", "postgresql")


def _batch_claimed_without_its_name(patch: pytest.MonkeyPatch) -> None:
    """Of two, both see that nobody has it, and a name is no key."""
    claim = take_batches.SQL.pieces["claim", ""]
    _put(patch, take_batches.SQL, "claim", claim.replace(":source,", "CAST(:batch AS TEXT),"), "")


def _acted_without_a_turn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(console_acts, "take_turn", _none)


def _stopped_without_the_switch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(topups, "lock_switch", _none)


def _claimed_without_the_switch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fill, "lock_switch", _none)


def _assigned_without_a_second_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(run_jobs, "_hold", _none)


def _claimed_on_any_terms(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(claims, "require_terms", _none)


def _rate_set_beside_charges(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(credit, "lock_rates", _none)


def _open_is_not_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sealing, "hold_what_is_open", lambda run: None)


MUTANTS: dict[str, tuple[Plant, str, str]] = {
    "resume takes no lock": (_resume_without_the_lock, "seal", "cli.declared:run org resume"),
    "terms take no lock": (_terms_without_the_lock, "seal", "begin_tick"),
    "nobody looks for halts that two could not see": (
        _missed_halts_are_not_looked_for,
        "host wakes a sandbox",
        "due_halts",
    ),
    "a batch's name is no key": (
        _batch_claimed_without_its_name,
        "take_batch",
        "take_batch of that name, with other content",
    ),
    "a fix takes no lock": (
        _mended_without_the_lock,
        "cli.declared:run sample repair",
        "cli.declared:run sample dismiss",
    ),
    "a withdrawal takes no lock": (_corrections_without_the_lock, "seal", "cli.declared:run sample withdraw"),
    "an acknowledgement takes no lock": (
        _told_is_not_held,
        "cli.nouns.reconcile:_acknowledge",
        "cli.nouns.reconcile:_acknowledge tells",
    ),
    "a new customer's plan is not held": (
        _gives_without_the_plan,
        "cli.declared:run ledger grant to a new customer",
        "cli.declared:run plan set gives a new customer",
    ),
    "a month's plan is not held": (
        _gives_without_the_plan,
        "cli.nouns.executions:accept in a month of nothing",
        "cli.declared:run plan set gives, by a clock behind",
    ),
    "a plan is read before it is held": (
        _plan_set_without_the_lock,
        "cli.declared:run plan set holds",
        "cli.declared:run plan set factor",
    ),
    "a tier is read before it is held": (
        _tier_set_without_the_lock,
        "cli.declared:run tier set",
        "cli.declared:run tier set at once",
    ),
    "a price is set without the lock": (
        _priced_without_the_lock,
        "cli.declared:run guard set a price of what may be metered",
        "cli.declared:run feature map-event what may be charged",
    ),
    "a price is set without the row of its event type": (
        _priced_without_the_types_row,
        "cli.declared:run guard set a price of what may be metered",
        "host takes events of what may be charged",
    ),
    "an event is taken without the row of its type": (
        _taken_without_the_types_row,
        "host takes events of what may be charged",
        "cli.declared:run guard set a price of what may be metered",
    ),
    "a batch is taken without the rows of its types": (
        _taken_without_the_types_row,
        "take_batch what may be charged",
        "cli.declared:run guard set a price of what may be metered",
    ),
    "an override is asked for without the lock": (
        _asked_without_the_lock,
        "cli.nouns.overrides:_add",
        "cli.nouns.overrides:_add",
    ),
    "a key is used at the turn of a month without the lock": (
        _turned_without_the_lock,
        "cli.nouns.guard:consume as a month ends",
        "server.api.request_batching:_alone the same as the next begins",
    ),
    "a backfill is closed without the lock": (
        _closed_without_the_lock,
        "worker.usage.prune:prune",
        "cli.declared:run backfill close what is old",
    ),
    "samples are taken without their floor": (
        _taken_without_the_floor,
        "server.usage.intake:_store ancient samples",
        "worker.usage.prune:prune",
    ),
    "events are taken without their floor": (
        _taken_without_the_floor,
        "server.usage.intake:_store ancient events",
        "worker.usage.prune:prune",
    ),
    "an endpoint is told that is being ended": (
        _told_whoever_is_ended,
        "expire_holds told",
        "cli.declared:run hook end",
    ),
    "a deed of the console takes no turn": (
        _acted_without_a_turn,
        "server.console.action_forms:_perform",
        "server.console.action_forms:_perform by another",
    ),
    "top-ups are stopped without the lock": (
        _stopped_without_the_switch,
        "topup_claim",
        "cli.declared:run topup stop",
    ),
    "charges are claimed without the lock": (
        _claimed_without_the_switch,
        "cli.declared:run topup stop",
        "topup_claim",
    ),
    "a job assigns without a second look": (
        _assigned_without_a_second_look,
        "assign instead of a job",
        "assign by a job",
    ),
    "pushes are claimed on former terms": (
        _claimed_on_any_terms,
        "claim on former terms",
        "worker.provider.actions:accept and seal",
    ),
    "pushes are looked up on former terms": (
        _claimed_on_any_terms,
        "claim_lookups on former terms",
        "worker.provider.actions:accept and send",
    ),
    "a rate for the past is set beside charges": (
        _rate_set_beside_charges,
        "charge the first revision",
        "cli.declared:run ledger rate for the past, and charge",
    ),
    "a seal holds nothing that is open": (_open_is_not_held, "seal", "settle what was withdrawn"),
    "a seal takes no lock": (_seal_without_its_lock, "cli.declared:run org resume", "seal"),
}
THE_DAYS = "a seal takes no lock"
"""The one that `make test` plants; `make mutants` plants all."""


@pytest.mark.parametrize("name", share([THE_DAYS], whole=list(MUTANTS)))
def test_planted_bug_is_found(explorer: Explorer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plant, first, second = MUTANTS[name]
    plant(monkeypatch)
    explorer.forget()
    try:
        assert any(one.wrong for one in explorer.pair(first, second))
    finally:
        explorer.forget()
