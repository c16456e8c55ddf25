"""A person's decisions about pushes: void, resolve, retry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.schema.audit import By, record_many
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.text import typed
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.push.balances import own_up_to_lost, taken_back
from drawdown.worker.push.rows import PushRow, change, find_pushes, require_push
from drawdown.worker.push.void import REJECTED, ask_again, void_many
from drawdown.worker.push.wallet_mirror import draw_if_ours

_PROVEN = ("rejected", "in_doubt")


def void(
    connection: sa.Connection,
    keys: Sequence[str],
    by: By,
    evidence: str,
    *,
    kind: str = "operator",
    although_accepted: bool = False,
) -> list[str]:
    """Declare that pushes never reached their provider; what they held is owed again under the next revision.
    `although_accepted`: one that its provider had accepted, and has lost since, may be among them.

    Errors: UsageError without evidence; Refused, for all of them, where one is neither rejected nor in doubt, lies
    below the floor, or was taken back as lost already; HistoryDoubted while the database stands still: what it calls
    unsent may have been sent since (R1).
    """
    if not evidence.strip():
        raise UsageError("a void needs evidence: what shows that the provider does not have this push? (--evidence)")
    lock_buckets(connection)
    require_whole(connection)
    with _all_or_none(keys):
        states = (*_PROVEN, "accepted") if although_accepted else _PROVEN
        chosen = _chosen(connection, keys, states, "only a push that is rejected or in doubt can be voided")
        accepted = [push for push in chosen if push.state == "accepted"]
        for key, adopted in sorted(taken_back(connection, accepted).items()):
            raise Refused(
                f"{key} is not voided: reconcile found its loss, and bills its usage again since {adopted}. "
                f"{typed('drawdown', 'push', 'show', key)}"
            )
        void_many(connection, chosen, by, [evidence.strip()] * len(chosen), kind)
        own_up_to_lost(connection, accepted)
    return [push.key for push in chosen]


@contextmanager
def _all_or_none(keys: Sequence[str]) -> Iterator[None]:
    """One transaction holds them all, so one that does not fit refuses all; with many, that is worth a word."""
    try:
        yield
    except (Refused, UnknownId) as error:
        if len(keys) > 1:
            error.args = (f"{error}; none of the {len(keys):,} was changed",)
        raise


def _chosen(connection: sa.Connection, keys: Sequence[str], states: Sequence[str], rule: str) -> list[PushRow]:
    """The pushes with these keys, each once, held until the transaction ends.

    Errors: Refused where one is not there or in no such state.
    """
    found = find_pushes(connection, keys, hold=True)
    chosen: dict[str, PushRow] = {}
    for key in keys:
        push = require_push(connection, found, key)
        if push.state not in states:
            raise Refused(f"{key} is {push.state}: {rule}")
        chosen[push.key] = push
    return list(chosen.values())


def resolve_accepted(connection: sa.Connection, keys: Sequence[str], by: By, evidence: str) -> list[str]:
    """Declare that the provider has these pushes.

    Errors: UsageError without evidence; Refused, for all of them, where one is settled or was never sent;
    HistoryDoubted while the database stands still.
    """
    if not evidence.strip():
        raise UsageError("say what shows that the provider has this push (--evidence)")
    require_whole(connection)
    rule = "only a push that was sent and is not settled can be resolved"
    with _all_or_none(keys):
        chosen = _chosen(connection, keys, (*_PROVEN, "queued"), rule)
        charged = wallet.read_charges(connection, [push.key for push in chosen if push.provider == "embedded"])
        for push in chosen:
            # One that the provider would never take is rejected unsent: a person may have billed it there by hand. One
            # that is in doubt unsent was sent in a history that was lost, for all that a look-up can tell.
            if not (push.attempts or push.state in ("rejected", "in_doubt")):
                raise Refused(f"{push.key} is {push.state}: {rule}")
            if push.provider == "embedded" and push.key not in charged:
                raise Refused(f"{push.key}: the embedded ledger has no such charge, so it is --absent")
    accept_many(connection, chosen, by, evidence)
    return [push.key for push in chosen]


def accept_many(connection: sa.Connection, chosen: Sequence[PushRow], by: By, evidence: str) -> None:
    """Accept pushes that the caller has judged and holds, each on record with its evidence."""
    change(connection, chosen, "to_accepted", by.now_ms)
    draw_if_ours(connection, chosen, by.now_ms)
    ask_again(connection, chosen, by.now_ms)
    about = {"evidence": evidence.strip(), "outcome": "accepted"}
    done = [(str(push.key), {**about, "was": push.state}) for push in chosen]
    record_many(connection, "push_resolve", done, by)


def retry(connection: sa.Connection, keys: Sequence[str], by: By) -> list[str]:
    """Send again: waiting pushes at once under their own key; rejected ones are voided, with the provider's rejection
    as evidence, so that the next tick seals them anew.

    Errors: Refused, for all of them, where one is settled or in doubt; HistoryDoubted while the database stands still.
    """
    lock_buckets(connection)
    require_whole(connection)
    with _all_or_none(keys):
        chosen = _chosen(connection, keys, ("due", "rejected"), "only a push that is due or rejected can be sent again")
        rejected = [push for push in chosen if push.state == "rejected"]
        why = [push.last_error or REJECTED for push in rejected]
        void_many(connection, rejected, by, why, "rejected")
    waiting = [push for push in chosen if push.state == "due"]
    change(connection, waiting, "to_due", by.now_ms)
    done = [(str(push.key), dict[str, object]()) for push in waiting]
    record_many(connection, "push_retry", done, by)
    return [push.key for push in chosen]
