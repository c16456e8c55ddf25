"""What goes wrong in a simulated run, under names a person can read, and which counters make up each.

Guarantee: every counter of `faults` and of the emulators belongs to a kind here, so none goes wrong uncounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from tests.simulation.faults import CHANCE, EMULATED


def _at_providers(kind: str) -> tuple[str, ...]:
    """A kind in memory, and as the emulators draw it."""
    return (kind, f"autumn {kind}", f"stripe {kind}")


KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "crash before a transaction": ("crash_before_transaction",),
    "crash before a commit": ("crash_before_commit",),
    "crash after a commit": ("crash_after_transaction",),
    "crash before a call": ("crash_before_call",),
    "crash between the calls of one batch": ("crash_within",),
    "crash after a call": ("crash_after_call",),
    "call of a dead process arrives": ("delivered_after_death",),
    "pause longer than any claim": ("paused_past_lease",),
    "answer seen late": ("answer_delayed",),
    "transaction rolled back, database busy": ("transaction_failed",),
    "serialisation failure": ("serialisation_failure",),
    "unknown commit: done, and the answer lost": ("commit_answer_lost",),
    "connection refused, provider down": ("provider_down", "autumn connection_refused", "stripe connection_refused"),
    "request lost": _at_providers("request_lost"),
    "answer lost after accept": (*_at_providers("answer_lost"), "answer_raised", "answer_partly_lost"),
    "request held up for minutes": ("held_up",),
    "request delivered twice": ("delivered_twice",),
    "429": (*_at_providers("throttled"), "stripe lock_timeout"),
    "429 with a nonsense Retry-After": _at_providers("throttled_nonsense"),
    "5xx, nothing done": ("autumn error_500_before", "stripe error_500_before"),
    "5xx, and charged": ("autumn error_500_after", "stripe error_500_after"),
    "cached 500": ("stripe cached_500",),
    "session of the stream over": ("stripe session_expired",),
    "batch of the stream refused, for one of it": ("stripe batch_refused",),
    "answer that is nonsense": ("autumn nonsense", "stripe nonsense"),
    "key claimed, and not applied": ("autumn claimed_not_applied",),
    "key store refuses: the same key charges again": ("autumn key_store_refuses",),
    "key store hangs": ("autumn key_store_hangs",),
    "key too old to be sent again": ("key_expired",),
    "202, applied late": ("autumn queued_late",),
    "202, dropped": ("autumn queued_dropped",),
    "202, charged at once, and never an event": ("autumn queued_charged_no_event",),
    "read shows a customer as of a while ago": ("autumn stale_read",),
    "balance store lost what it had not written down": ("autumn balances_lost",),
    "success that charged nothing": ("autumn uncharged_200",),
    "charged without an event": ("autumn event_lost", "autumn killed_before_event"),
    "event without a charge: what was drawn is lost": ("autumn event_alone",),
    "cost in credits changed, pushes under way": ("cost_changed",),
    "balance topped up, or set by hand": ("topped_up", "balance_set"),
    "list of events stands still for up to a day": ("list_stands_still",),
    "told of a balance, and settled by a person": ("balance_told",),
    "rejected after it was accepted": ("stripe late_rejection",),
    "accepted, and then lost": ("autumn accepted_then_lost", "stripe accepted_then_lost"),
    "rejected: no price, no customer": ("price_missing",),
    "read fails": ("read_failed", "read_raised", "lookup_failed", "autumn reads_fail", "stripe reads_fail"),
    "read lags behind": ("autumn reads_lag", "stripe reads_lag"),
    "run accepted, or denied": ("run_accepted", "run_denied"),
    "run drawn on, extended, settled or given up": ("run_drawn", "run_extended", "run_settled", "run_released"),
    "run over, and settled late": ("run_expired", "run_settled_late"),
    "a run's answer lost, and asked again": ("run_called_again",),
    "webhook lost": ("webhook_lost",),
    "webhook late": ("webhook_late",),
    "webhook doubled": ("webhook_doubled",),
    "webhooks out of order": ("webhook_reordered",),
    "webhook forged": ("webhook_forged",),
    "cell down": ("cell_down",),
    "cell answers nonsense": ("cell_nonsense",),
    "cell slow: takes its whole time": ("cell_slow",),
    "sandbox moves as the halt is on its way": ("moved_before_halt",),
    "other cells judged beside one in trouble": ("cells_judged",),
    "cell acknowledges, and does not halt": ("cell_lying",),
    "halt lost": ("halt_request_lost",),
    "halt's answer lost": ("halt_answer_lost", "halts_raised"),
    "halt delivered twice": ("halt_delivered_twice",),
    "clock wrong by up to half a minute": ("clock_skew",),
    "clock jumps by up to an hour": ("clock_hour",),
    "clock jumps by days": ("clock_days",),
    "clock put right": ("clock_right",),
    "tick refused, the clock is doubted": ("clock_doubted",),
    "sample late by 1 ms to a day": ("late_sample",),
    "sample late by up to 40 days": ("very_late_sample",),
    "samples inserted twice": ("samples_inserted_twice",),
    "sample with a known id and other content": ("same_id_other_content",),
    "sample that is nonsense": ("bad_sample", "whole_float"),
    "file of usage laid into a folder": ("file_laid",),
    "file laid again under another name": ("file_laid_again",),
    "rows come to a warehouse that is asked": ("warehouse_wrote", "warehouse_late"),
    "warehouse away, cut off, or with other columns": (
        "warehouse_away",
        "warehouse_cut_off",
        "warehouse_says_text",
        "warehouse_column_renamed",
        "warehouse_column_retyped",
    ),
    "warehouse asked again": ("warehouse_asked_again",),
    "batch of a warehouse withdrawn": ("warehouse_withdrawn", "warehouse_withdrawal_cut_off"),
    "more than a year passes": ("year_passed",),
    "old pushes folded": ("push_folded", "fold_cut_off"),
    "withdrawal": ("withdrawal",),
    "new mapping": ("mapping_forward", "mapping_fills_hole"),
    "flip to another biller, or a first one": (
        "flip",
        "first_assignment",
        "first_assignment_in_the_past",
        "customer_filled",
    ),
    "flip cancelled": ("flip_cancelled",),
    "override": ("override",),
    "halt by an operator": ("operator_halt",),
    "organisation stopped or resumed": ("stop_or_resume",),
    "provider paused": ("paused",),
    "replay": ("replay", "replay_dry_run"),
    "replay queued": ("replay_queued",),
    "correction queued": ("correction_queued",),
    "top-up queued": ("start_queued", "resume_queued"),
    "replay refused": ("replay_refused",),
    "reconcile": ("reconcile",),
    "void": ("void",),
    "push cancelled at its provider": ("cancelled", "cancel_unconfirmed"),
    "command that cancels dies": ("cancel_died",),
    "resolved by a person": ("decided_accepted", "decided_absent", "charged_by_hand"),
    "operator refused": ("operator_refused",),
    "sandbox starts, moves, stops": ("sandbox_moved",),
    "customer pays": ("grant",),
    "webhook taken": ("webhook_done", "webhook_ignored"),
    "webhook taken before": ("webhook_repeated",),
    "webhook answered 503: not fetched, sent again": ("webhook_not_fetched",),
    "webhook answered 5xx or not at all, sent again": ("webhook_failed",),
    "request cannot read the database": ("unreadable",),
    "gate asked": ("gate",),
    "gate asked by many at once": ("gate_many",),
    "gate has a provider asked again": ("gate_asks",),
    "gate in doubt": ("gate_in_doubt",),
    "gate opens to who has paid": ("gate_paid",),
    "watch goes round": ("watch",),
    "outage of a provider, for longer than plans allow": ("outage",),
    "halted: credit used up": ("verdict_credits_exhausted",),
    "halted: credit reserved by runs": ("verdict_reserved",),
    "halted: its own limit on usage is reached": ("verdict_usage_limit",),
    "halted on an estimate": ("verdict_estimate",),
    "halted: provider unreadable for too long": ("verdict_unreadable",),
    "estimate proved wrong, and was undone": ("verdict_estimate_wrong",),
    "verdict: an operator's, or to go on": ("verdict_operator", "verdict_go_on"),
    "customer pays, and nobody is told": ("grant_untold",),
    "image of the database made": ("image",),
    "database restored": ("restored_minutes", "restored_hours", "restored_days"),
    "restored again before it was recovered": ("restored_again",),
    "hosts replaced, nothing remembered": ("hosts_replaced",),
    "process lives through a restore": ("lived_through_restore",),
    "history doubted, and nothing settled": ("history_doubted", "doubted_again"),
    "lost samples written again": ("written_again",),
    "lost decisions made again": ("done_again", "withdrawn_again"),
    "recover": ("recover", "recover_restored"),
    "recovered": ("recovered",),
}
_PARTS: Final = {part: kind for kind, parts in KINDS.items() for part in parts}
NOT_DRAWN: Final = frozenset({"crash_before", "crash_after"})
"""Chances that are counted under two names each."""

OF_THEIR_OWN: Final = (
    "file of usage laid into a folder",
    "file laid again under another name",
    "rows come to a warehouse that is asked",
    "warehouse away, cut off, or with other columns",
    "warehouse asked again",
    "batch of a warehouse withdrawn",
    "more than a year passes",
    "old pushes folded",
    "top-up queued",
)
"""What lives of their own have (`test_credit`, `test_batches`, `test_queries`, `test_folding`)."""


def by_kind(counts: Mapping[str, int]) -> Counter[str]:
    """How often each kind struck."""
    found: Counter[str] = Counter()
    for part, number in counts.items():
        found[_PARTS.get(part, part)] += number
    return found


def unnamed() -> list[str]:
    """Counters that no kind holds."""
    emulated = [f"{provider} {kind}" for provider, kinds in EMULATED.items() for kind in kinds]
    return [part for part in (*CHANCE, *emulated) if part not in _PARTS and part not in NOT_DRAWN]
