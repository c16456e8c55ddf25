"""Void, resolve, retry or cancel pushes at a person's command.

The command names the pushes by keys or by a filter, or it takes all pushes in doubt.

Guarantee: the audit records each push as if the command named its key. `void`, `resolve_accepted` and `retry` change
all their pushes in one transaction, or none. `resolve_all` changes pushes in portions, each in one transaction. It
counts pushes that a rule protects by reason, and does not change them. If it is interrupted, repeat it. If a person
reports a push as lost and its provider has a lookup, Drawdown looks it up first. It voids the push only if the lookup
does not show that the provider may have it.

`push cancel` cancels a wrong push at its provider, then voids it here. Drawdown calls the provider only after it has
committed the intent (rule P1). It voids a push only after the provider has confirmed the cancellation (rule P5).
`intend` puts the push in doubt. Until the command ends, the push counts as neither accepted nor absent, and its usage
is not sent again. `status` and `push list` show it, and ticks look it up after an hour. If a process dies between the
two transactions, or a response is lost, there are three ways to continue, and each keeps the bill correct:

- The command runs again. The provider cancels by identifier, so a push is cancelled only once, and Drawdown voids it.
- If the lookup finds the push, the cancellation did not happen. The push is accepted again at its quantity.
- If the lookup does not find the push, a tick voids the push once the provider can no longer apply it. The usage is
  then owed again.

If the provider confirms a cancellation but keeps the charge, its totals are higher than ours, and reconcile shows the
difference (R2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Literal

import sqlalchemy as sa

from drawdown.ledger import wallet
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.providers.protocol import Cancelled, CannotTell, Capabilities, FoundPush, PushRequest, ReadFailed
from drawdown.schema import ids
from drawdown.schema.audit import By, record, record_many, require_org
from drawdown.schema.clock import utc
from drawdown.schema.database import Transact
from drawdown.schema.errors import Exit, Refused, UnknownId, UsageError
from drawdown.schema.locks import lock_buckets
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, escape_like, quote_value, typed
from drawdown.schema.units import MINUTE_MS, PUSH_ID, SECOND_MS
from drawdown.worker.catalog.terms import wire_since
from drawdown.worker.engine.context import Context
from drawdown.worker.engine.effects import CLOCKS_APART_MS, Steps, look_up_all
from drawdown.worker.history.incarnation import require_whole
from drawdown.worker.push.evidence import own_up_to_lost, taken_back
from drawdown.worker.push.rows import PushRow, Row, change, find_pushes, request_of, require_push, was_sent_before
from drawdown.worker.push.void import REJECTED, Barrier, Refusal, put_in_doubt, refusals, void_many
from drawdown.worker.push.wallet_mirror import draw_if_ours
from drawdown.worker.verdict.rates import Prices, Quantity, Worth
from drawdown.worker.verdict.refresh_requests import mark_for_projection

SQL = queries(__file__)

_PROVEN = ("rejected", "in_doubt")


def void(
    connection: sa.Connection,
    keys: Sequence[str],
    by: By,
    evidence: str,
    *,
    kind: str = "operator",
    lost: Sequence[PushRow] | None = None,
) -> list[str]:
    """Void pushes that their provider did not charge. Their usage is owed again.

    The usage is sealed again under the next revision.

    `kind`: the kind of evidence to store with the void. `lost`: the pushes that were read before their lookup. `keys`
    may also name accepted pushes of `lost` that have not changed since.

    Errors: UsageError without evidence. UnknownId for an unknown push. Refused, for all of them, if a push is neither
    rejected nor in doubt, or a rule protects it (`refusals`). Refused if a push was accepted after `lost` was read, or
    was already taken back as lost. HistoryDoubted while a recovery is needed, because a push that is unsent here may
    have been sent (R1).
    """
    if not evidence.strip():
        raise UsageError("missing evidence that the provider does not have this push. Pass `--evidence`")
    lock_buckets(connection)
    require_whole(connection)
    with _all_or_none(keys):
        states = _PROVEN if lost is None else (*_PROVEN, "accepted")
        chosen = _chosen(connection, keys, states, "you can void a push only if it is rejected or in doubt", _IF_LOST)
        accepted = [push for push in chosen if push.state == "accepted"]
        _require_unchanged(accepted, lost or ())
        for key, adopted in sorted(taken_back(connection, accepted).items()):
            raise Refused(
                f"cannot void {key}: reconcile already recorded this push as lost, with the opposite push {adopted}, "
                f"so Drawdown bills the usage again. See `{typed('drawdown', 'push', 'show', key)}`"
            )
        void_many(connection, chosen, by, [evidence.strip()] * len(chosen), kind)
        own_up_to_lost(connection, accepted)
    return [push.key for push in chosen]


def _require_unchanged(accepted: Sequence[PushRow], lost: Sequence[PushRow]) -> None:
    """Refuse pushes that were accepted after their lookup (P5).

    The provider may have such a push.

    Errors: Refused.
    """
    seen = {(push.key, push.attempts, push.settled_ms) for push in lost if push.state == "accepted"}
    for push in accepted:
        if (push.key, push.attempts, push.settled_ms) not in seen:
            raise Refused(f"cannot void {push.key}: it was accepted after the command read it. Run the command again")


@contextmanager
def _all_or_none(keys: Sequence[str]) -> Iterator[None]:
    """Add to the error for several keys that Drawdown did not change any push.

    One transaction changes all pushes, so one invalid push refuses all pushes.
    """
    try:
        yield
    except (Refused, UnknownId) as error:
        if len(keys) > 1:
            error.args = (f"{error}. Drawdown did not change any of the {len(keys):,} pushes",)
        raise


_IF_LOST: Final = "If the provider lost this push, run `drawdown push void-lost KEY`, which looks up the push first"


def _chosen(
    connection: sa.Connection, keys: Sequence[str], states: Sequence[str], rule: str, if_accepted: str = ""
) -> list[PushRow]:
    """Return the pushes with these keys, each once, and lock them for the transaction.

    `if_accepted`: the next step in the error for an accepted push.

    Errors: UnknownId if a push does not exist; Refused if it is in another state.
    """
    found = find_pushes(connection, keys, hold=True)
    chosen: dict[str, PushRow] = {}
    for key in keys:
        push = require_push(connection, found, key)
        if push.state not in states:
            more = f". {if_accepted}" if if_accepted and push.state == "accepted" and push.provider != EMBEDDED else ""
            if push.state == "queued":
                more = f". It may have arrived, so wait until ticks have looked it up. See `drawdown push show {key}`"
            raise Refused(f"{key} is {push.state}, and {rule}{more}")
        chosen[push.key] = push
    return list(chosen.values())


def resolve_accepted(connection: sa.Connection, keys: Sequence[str], by: By, evidence: str) -> list[str]:
    """Record that the provider has these pushes, and return their keys.

    Errors: UsageError without evidence. UnknownId for an unknown push. Refused, for all pushes, if a push is neither
    rejected, in doubt nor queued, or is queued without an attempt. Refused if the embedded ledger does not have a
    push's charge. HistoryDoubted while a recovery is needed.
    """
    if not evidence.strip():
        raise UsageError("missing evidence that the provider has this push. Pass `--evidence`")
    require_whole(connection)
    rule = "you can resolve a push only if it is in doubt, rejected, or queued after a send"
    with _all_or_none(keys):
        chosen = _chosen(connection, keys, (*_PROVEN, "queued"), rule)
        charged = wallet.read_charges(connection, [push.key for push in chosen if push.provider == "embedded"])
        for push in chosen:
            # A push that the provider cannot accept is rejected unsent, and a person may have billed it there by hand.
            # A push that is in doubt and unsent may have been sent in a lost history.
            if not (push.attempts or push.state in ("rejected", "in_doubt")):
                raise Refused(f"{push.key} is {push.state}, and {rule}")
            if push.provider == "embedded" and push.key not in charged:
                raise Refused(
                    f"cannot resolve {push.key}: the embedded ledger does not have its charge. If the push is queued, "
                    "wait for the lookup. Otherwise, pass `--outcome absent`"
                )
    accept_many(connection, chosen, by, evidence)
    return [push.key for push in chosen]


def accept_many(connection: sa.Connection, chosen: Sequence[PushRow], by: By, evidence: str) -> None:
    """Accept pushes that the caller has checked and locked, with their evidence.

    Drawdown then reads the organisations' balances again, because the person may just have charged these pushes.
    """
    change(connection, chosen, "to_accepted", by.now_ms)
    draw_if_ours(connection, chosen, by.now_ms)
    about = {"evidence": evidence.strip(), "outcome": "accepted"}
    done = [(str(push.key), {**about, "was": push.state}) for push in chosen]
    record_many(connection, "push_resolve", done, by)
    # Lock organisations after the audit chain, as most actions do. If two transactions deadlock, `write` retries one of
    # them.
    mark_for_projection(connection, [str(push.org_id) for push in chosen], by.now_ms)


def retry(connection: sa.Connection, keys: Sequence[str], by: By) -> list[str]:
    """Let the next tick send due pushes, and void rejected pushes.

    A due push keeps its key. The void of a rejected push has the provider's rejection as evidence. The next tick seals
    its usage again.

    Errors: UnknownId for an unknown push. Refused, for all of them, if a push is neither due nor rejected, or a rule
    protects it from a void (`refusals`). HistoryDoubted while a recovery is needed.
    """
    lock_buckets(connection)
    require_whole(connection)
    with _all_or_none(keys):
        chosen = _chosen(
            connection, keys, ("due", "rejected"), "you can send a push again only if it is due or rejected"
        )
        rejected = [push for push in chosen if push.state == "rejected"]
        why = [push.last_error or REJECTED for push in rejected]
        void_many(connection, rejected, by, why, "rejected")
    waiting = [push for push in chosen if push.state == "due"]
    change(connection, waiting, "to_due", by.now_ms)
    done = [(str(push.key), dict[str, object]()) for push in waiting]
    record_many(connection, "push_retry", done, by)
    return [push.key for push in chosen]


def find_unacknowledged(connection: sa.Connection, org_id: str = "", *, hold: bool = False) -> Sequence[Row]:
    """Return unacknowledged reports on balances: rows of `balance_marks`.

    `org_id`: empty for all organisations. `hold`: lock the rows until the transaction ends.
    """
    return SQL.run(connection, "told", {"org_id": org_id}, held="for_update" if hold else "").all()


def acknowledge(connection: sa.Connection, org_id: str, by: By) -> Sequence[Row]:
    """Acknowledge and return the reports on an organisation's balances.

    If `org_id` is empty, acknowledge the reports of all organisations. If a reconciliation runs at the same time, it
    writes its reports later, and these stay unacknowledged.
    """
    rows = find_unacknowledged(connection, org_id, hold=True)
    for row in rows:
        about = {"provider": row.provider, "feature": row.feature}
        SQL.run(connection, "acknowledge", {**about, "customer_id": row.customer_id})
        details = {**about, "customer": row.customer_id, "quantity": int(row.told_qty), "scale": int(row.scale)}
        if row.unsure_qty:
            details["unsure"] = int(row.unsure_qty)
        record(connection, "balance_acknowledge", str(row.org_id), details, by)
    return rows


def require_lost(
    pushes: Sequence[PushRow],
    known: Mapping[str, Capabilities],
    unready: Mapping[str, str],
    since_ms: Mapping[str, int],
    now_ms: int,
) -> Steps[None]:
    """Look up the accepted pushes among these; refuse if a provider has a push.

    `known`: the capabilities of providers, by name. `unready`: the reasons why this machine cannot look up pushes at
    installed providers now, by name. Pushes of providers that are not installed, or that lack a lookup, are not looked
    up. `since_ms`: the start of the providers' names and units (`wire_since`).

    Errors: Refused if a provider has or may have charged a push, cannot be read now, or may not show the push yet.
    Refused for a push that was sent on earlier terms, because a lookup would miss its charge.
    """
    by_provider: dict[str, list[PushRow]] = {}
    for push in pushes:
        if push.state == "accepted" and push.provider in unready:
            raise Refused(
                f"cannot void {push.key}: this machine cannot look it up at {push.provider} "
                f"({unready[push.provider]}). Run the command on a machine that can"
            )
        if push.state == "accepted" and push.provider in known and known[push.provider].lookup:
            by_provider.setdefault(push.provider, []).append(push)
    for provider, some in sorted(by_provider.items()):
        capabilities = known[provider]
        lag_ms = (capabilities.lookup_lag_ms or 0) + CLOCKS_APART_MS
        for push in some:
            if (until := int(push.settled_ms or push.sealed_at_ms) + lag_ms) > now_ms:
                raise Refused(
                    f"cannot void {push.key}: {provider} may not show it before {utc(until)}. "
                    "Run the command again then"
                )
            if was_sent_before(push, since_ms.get(provider, 0)):
                raise Refused(
                    f"cannot void {push.key}: it was sent on earlier terms of {provider}, so a lookup "
                    f"cannot find its charge. If the console of {provider} does not show the charge, "
                    "charge the customer there"
                )
        answers = yield from look_up_all(provider, [request_of(push, capabilities) for push in some])
        for push, answer in zip(some, answers, strict=True):
            if isinstance(answer, FoundPush) and answer.quantity:
                raise Refused(
                    f"cannot void {push.key}: {provider} has it, and charged {answer.quantity:,}. "
                    f"A void would bill its usage twice. To compare, run `drawdown push show {push.key}`"
                )
            if isinstance(answer, CannotTell) and (answer.may_have or answer.holds):
                raise Refused(
                    f"cannot void {push.key}: {provider} may have charged it ({answer.reason}). If the console of "
                    f"{provider} does not show the charge, charge the customer there"
                )
            if isinstance(answer, ReadFailed):
                raise Refused(
                    f"cannot void {push.key}: {provider} is unavailable ({answer.reason}). Run the "
                    f"command again, or `drawdown provider check {provider}`"
                )


def unready_of(context: Context) -> dict[str, str]:
    """Return the installed providers that this machine cannot look up now.

    Each has the reason. Providers without a lookup are omitted.
    """
    unready = {**context.dormant, **context.changed}
    can = {name for name, capabilities in context.capabilities.items() if capabilities.lookup}
    return {**{name: unready[name] for name in unready.keys() & can}, **context.broken}


AWAITING_CREDIT: Final = "awaiting_credit"
"""The state of rejected pushes that Drawdown bills again without a person.

A command changes them only if it names their keys or this state.
"""


@dataclass(frozen=True)
class Chosen:
    """The pushes that a command names by their keys, or by a filter.

    `keys` None: the other fields are the filter. `states` None: all states that the command accepts. `error`: a part of
    the last error. An empty `org`, `provider` or `error` matches all. `expect`: the expected number of pushes (None:
    any). Another number is refused.
    """

    keys: list[str] | None
    states: list[str] | None
    org: str
    provider: str
    error: str
    expect: int | None = None

    def find(self, connection: sa.Connection, possible: Sequence[str]) -> list[str]:
        """Return the keys of the pushes.

        A filter finds them in the order of their windows.

        `possible`: the states that the command accepts. A filter can name these, and AWAITING_CREDIT if `rejected` is
        possible.

        Errors: UsageError for neither or both of keys and a filter, or for another state. UnknownId for an unknown
        organisation or provider of a filter. Refused if the number of pushes is not `expect`.
        """
        filtered = bool(self.states or self.org or self.provider or self.error)
        if bool(self.keys) == filtered:
            raise UsageError("specify either keys, or filters (--state, --org, --provider, --error), not both")
        if self.keys:
            self._require_expected(len(self.keys))
            return list(self.keys)
        also = {AWAITING_CREDIT} if "rejected" in possible else set()
        if wrong := set(self.states or ()) - {*possible, *also}:
            allowed = ", ".join([*possible, *also])
            raise UsageError(f"invalid --state {quote_value(sorted(wrong)[0])}: expected {allowed}")
        if self.org:
            require_org(connection, self.org)
        if self.provider:
            ids.require(connection, ids.PROVIDER, self.provider)
        values = {"states": self.states or list(possible), "org_id": self.org, "provider": self.provider}
        found = list(SQL.run(connection, "by_filter", {**values, "error": escape_like(self.error)}).scalars())
        self._require_expected(len(found))
        return found

    def _require_expected(self, found: int) -> None:
        if self.expect not in (None, found):
            raise Refused(
                f"the number of pushes differs: expected {self.expect:,}, but found {found:,}. Check again with "
                "--dry-run, without --expect"
            )


MAX_KEYS: Final = 100
"""Most keys of one `push cancel`. Each key takes one request to the provider."""
CANCELLING: Final = (
    "the cancellation is not confirmed yet. Run the same `drawdown push cancel` again, or wait for the "
    "lookup of the push"
)


@dataclass(frozen=True)
class Intent:
    """A push to cancel, and the request that names it at its provider."""

    key: str
    provider: str
    request: PushRequest


def intend(
    connection: sa.Connection, keys: Sequence[str], by: By, capabilities: Mapping[str, Capabilities]
) -> list[Intent]:
    """Put pushes in doubt and record the intent to cancel them, each once.

    `capabilities`: the capabilities of the providers that can be called now.

    Errors: UsageError without a reason or for too many keys. UnknownId for an unknown push. Refused, for all of them,
    if a push cannot be cancelled. HistoryDoubted while a recovery is needed.
    """
    if not by.reason.strip() or by.reason == "not given":
        raise UsageError("missing reason. Pass --reason 'why these pushes are wrong' to push cancel")
    chosen = list(dict.fromkeys(keys))
    if len(chosen) > MAX_KEYS:
        raise UsageError(
            f"too many keys for push cancel: {len(chosen):,} exceed {MAX_KEYS}. Run it for {MAX_KEYS} keys at a time"
        )
    lock_buckets(connection)
    require_whole(connection)
    found = find_pushes(connection, chosen, hold=True)
    pushes = [require_push(connection, found, key) for key in chosen]
    before = set(SQL.run(connection, "asked_before", {"keys": [{"key": push.key} for push in pushes]}).scalars())
    since_ms = {provider: wire_since(connection, provider) for provider in {str(push.provider) for push in pushes}}
    for push in pushes:
        _require_cancellable(push, capabilities.get(str(push.provider)), push.key in before, by.now_ms)
        if was_sent_before(push, since_ms[str(push.provider)]):
            then = f"Compare with the provider's console. {_next_step(push)}" if push.state == "in_doubt" else _CORRECT
            raise Refused(f"cannot cancel {push.key}: it was sent on earlier terms of {push.provider}. {then}")
    for refusal in refusals(connection, pushes, by.now_ms):
        raise Refused(refusal.text)
    for push in pushes:
        put_in_doubt(connection, push, CANCELLING, by.now_ms)
    done = [(str(push.key), {"was": push.state, "provider": push.provider}) for push in pushes]
    record_many(connection, "push_cancel", done, by)
    return [
        Intent(str(push.key), str(push.provider), request_of(push, capabilities[str(push.provider)])) for push in pushes
    ]


def _require_cancellable(push: PushRow, can: Capabilities | None, asked_before: bool, now_ms: int) -> None:
    """Refuse a push that cannot be cancelled. Errors: Refused."""
    failed = f"cannot cancel {push.key}"
    if can is None:
        raise Refused(f"{failed}: {push.provider} is unavailable. See `drawdown provider list`")
    if push.state != "accepted" and not (push.state == "in_doubt" and asked_before):
        raise Refused(f"{failed}: it is {push.state}, and you can cancel only an accepted push. {_next_step(push)}")
    then = _next_step(push) if push.state == "in_doubt" else _CORRECT
    if can.cancel_within_ms is None:
        raise Refused(f"{failed}: {push.provider} does not support cancellation. {then}")
    sent_ms = push.first_attempt_ms
    if sent_ms is None or now_ms - sent_ms > can.cancel_within_ms:
        since = "at an unknown time" if sent_ms is None else f"at {utc(sent_ms)}"
        hours = can.cancel_within_ms // (3_600 * SECOND_MS)
        raise Refused(
            f"{failed}: it was sent {since}, and {push.provider} cancels a push only within {counted(hours, 'hour')}. "
            f"{then}"
        )


_CORRECT: Final = (
    "If its usage is wrong, withdraw the samples with `drawdown sample withdraw ID`, and a tick gives the charge back. "
    "If only the charge is wrong, correct it at the provider"
)


def _next_step(push: PushRow) -> str:
    if push.state == "rejected":
        return "If its usage is wrong, withdraw the samples with `drawdown sample withdraw ID`"
    if push.state == "in_doubt":
        return f"Run `drawdown push resolve {push.key} --outcome OUTCOME --evidence TEXT`"
    return f"See `drawdown push show {push.key}`"


@dataclass(frozen=True)
class CancelReport:
    """The result of a cancellation, by key.

    `voided`: pushes that this command voided. `before`: pushes that another process had already settled when the
    provider confirmed the cancellation. `unconfirmed`: the provider's reason by key, if it did not confirm the
    cancellation.
    """

    voided: list[str]
    before: list[str]
    unconfirmed: dict[str, str]


def conclude(
    connection: sa.Connection, asked: Sequence[Intent], answers: Sequence[Cancelled | ReadFailed], by: By
) -> CancelReport:
    """Void the pushes that the provider has cancelled.

    All other pushes stay in doubt, and ticks look them up.

    Errors: Refused, for all of them, if a rule protects a push (`refusals`). HistoryDoubted while a recovery is needed.
    """
    lock_buckets(connection)
    require_whole(connection)
    evidence = {
        intent.key: answer.evidence
        for intent, answer in zip(asked, answers, strict=True)
        if isinstance(answer, Cancelled)
    }
    found = find_pushes(connection, evidence, hold=True)
    # A lookup that accepted a push meanwhile was made before the provider processed the cancellation. A push that a
    # webhook rejected meanwhile does not have a charge either.
    chosen = [push for push in found.values() if push.state in ("in_doubt", "accepted", "rejected")]
    why = [f"cancelled at {push.provider}: {evidence[str(push.key)]}" for push in chosen]
    void_many(connection, chosen, by, why, "operator", answered=False)
    voided = [str(push.key) for push in chosen]
    unconfirmed = {
        intent.key: answer.reason
        for intent, answer in zip(asked, answers, strict=True)
        if isinstance(answer, ReadFailed)
    }
    return CancelReport(voided, [key for key in evidence if key not in voided], unconfirmed)


AT_ONCE: Final = 1_000
"""Most pushes that one transaction resolves. Seals wait for the transaction."""
FIRST_MS: Final = -1
"""A time before every window."""
LAST_MS: Final = 2**62
"""A time after every window."""

Outcome = Literal["accepted", "absent"]
Judge = Callable[[sa.Connection, Sequence[PushRow], int], Iterator[Refusal]]
PASSING: Final[frozenset[Barrier]] = frozenset({"charged", "may_arrive"})
"""Barriers that end without a person. Ticks or a later command can then resolve the pushes."""


@dataclass(frozen=True)
class DoubtFilter:
    """A filter of pushes in doubt. An empty field matches all.

    The filter finds windows in [from_ms, to_ms), and last errors that contain `error`. `at_most`: the largest number of
    pushes that is not refused (None: any number).
    """

    provider: str = ""
    org: str = ""
    customer: str = ""
    feature: str = ""
    from_ms: int | None = None
    to_ms: int | None = None
    error: str = ""
    at_most: int | None = None

    @property
    def values(self) -> dict[str, object]:
        """Return the parameters of the SQL fragment `chosen`."""
        return {
            "provider": self.provider,
            "org_id": self.org,
            "customer_id": self.customer,
            "feature": self.feature,
            "from_ms": 0 if self.from_ms is None else self.from_ms,
            "to_ms": LAST_MS if self.to_ms is None else self.to_ms,
            "error": escape_like(self.error),
        }

    def require(self, connection: sa.Connection) -> int:
        """Return the number of pushes that the filter finds, and check the filter.

        Errors: UsageError for an empty range. UnknownId for an unknown organisation, customer, feature or provider.
        Refused for more pushes than `at_most`.
        """
        if self.from_ms is not None and self.to_ms is not None and self.from_ms >= self.to_ms:
            raise UsageError("invalid range: --to must be later than --from")
        if self.org:
            require_org(connection, self.org)
        for kind, given in ((ids.CUSTOMER, self.customer), (ids.FEATURE, self.feature)):
            if given:
                ids.require(connection, kind, given)
        if self.provider:
            ids.require(connection, ids.PROVIDER, self.provider)
        found = int(SQL.run(connection, "count", self.values).scalar_one())
        if self.at_most is not None and found > self.at_most:
            raise Refused(
                f"too many pushes in doubt: {found:,} exceed --at-most {self.at_most:,}. Check them with --dry-run, "
                "without --at-most"
            )
        return found


@dataclass(frozen=True)
class Stays:
    """Pushes that a rule protects from a command.

    `pushes`: the number of pushes. `example`: the refusal of the first push. `wait_ms`: milliseconds until the last
    push can be resolved; 0: unknown.
    """

    reason: Barrier
    pushes: int
    example: str
    wait_ms: int = 0

    @property
    def words(self) -> str:
        """Return the reason in words, and the next step."""
        minutes = -(-self.wait_ms // MINUTE_MS)
        return {
            "below_floor": "below the floor of their organisations. Settle them with the customers, then "
            "pass --outcome accepted",
            "charged": "charged by the embedded ledger. The next tick accepts them",
            "may_arrive": f"an attempt may still arrive. Run the same command in {counted(minutes, 'minute')}",
            "not_charged": "not charged by the embedded ledger. Pass --outcome absent",
        }[self.reason]


@dataclass(frozen=True)
class ResolvedAll:
    """The result of `resolve_all`; in a dry run, the planned result.

    `found`: the number of pushes that the filter found. `pushes`, `orgs`: the numbers of resolved pushes and of their
    organisations. `worth`: the worth of the resolved pushes. `stays`: the protected pushes, by the rule that protects
    them.
    """

    outcome: Outcome
    dry_run: bool
    found: int
    pushes: int
    orgs: int
    worth: Worth
    stays: list[Stays]

    @property
    def exit_status(self) -> Exit:
        """Return 0 if all are resolved, 75 if a retry can resolve the rest, else 1."""
        if any(one.reason not in PASSING for one in self.stays):
            return Exit.PERSON
        return Exit.LEFT if self.stays else Exit.SETTLED


@dataclass(frozen=True)
class PushEffect:
    """The size of a set of pushes.

    `from_ms`: the start of their first window (None: the set is empty). `worth`: their quantities and prices.
    """

    pushes: int
    orgs: int
    from_ms: int | None
    worth: Worth

    def __str__(self) -> str:
        if self.from_ms is None:
            return "no push"
        orgs = counted(self.orgs, "organisation")
        return f"{self.worth} of {orgs}, used from {utc(self.from_ms)} on"


def effect_of(connection: sa.Connection, keys: Sequence[str]) -> PushEffect:
    """Return the size of a set of pushes; `keys` names the pushes."""
    rows: list[PushRow] = []
    for at in range(0, len(keys), AT_ONCE):
        rows += find_pushes(connection, keys[at : at + AT_ONCE]).values()
    used = (Quantity(str(row.provider), str(row.feature), int(row.window_ms), int(row.sent_qty)) for row in rows)
    begins = min((int(row.window_ms) for row in rows), default=None)
    return PushEffect(len(rows), len({row.org_id for row in rows}), begins, Prices(connection).worth(used))


@dataclass
class _Sums:
    pushes: int = 0
    orgs: set[str] = field(default_factory=set)
    used: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    stays: dict[Barrier, Stays] = field(default_factory=dict)

    def add(self, portion: _Portion) -> None:
        """Add the counts of a portion.

        Call this after the portion's commit, because a conflict repeats the portion.
        """
        self.pushes += len(portion.resolved_rows)
        for push in portion.resolved_rows:
            self.orgs.add(str(push.org_id))
            self.used[str(push.provider), str(push.feature), int(push.window_ms)] += int(push.sent_qty)
        for one in portion.refused:
            before = self.stays.get(one.barrier, Stays(one.barrier, 0, one.text))
            wait_ms = max(before.wait_ms, one.wait_ms)
            self.stays[one.barrier] = replace(before, pushes=before.pushes + 1, wait_ms=wait_ms)

    def worth(self, connection: sa.Connection) -> Worth:
        sums = (Quantity(*place, quantity) for place, quantity in self.used.items())
        return Prices(connection).worth(sums)


@dataclass(frozen=True)
class _Portion:
    resolved_rows: Sequence[PushRow]
    refused: Sequence[Refusal]
    last: PushRow | None
    """The last push that was read. The next portion begins after it. None: this portion is the last."""


def resolve_all(
    transact: Transact, chosen: DoubtFilter, outcome: Outcome, by: By, evidence: str, *, dry_run: bool = False
) -> ResolvedAll:
    """Accept or void all pushes in doubt that a filter finds.

    Each transaction changes at most AT_ONCE pushes. A dry run does not need evidence.

    Errors: those of `DoubtFilter.require`. UsageError without evidence. HistoryDoubted while a recovery is needed.
    """
    if not (dry_run or evidence.strip()):
        raise UsageError("missing evidence of the outcome. Pass --evidence")
    evidence = evidence.strip() or "dry run"
    left = found = transact(chosen.require, rollback=True)
    sums, after = _Sums(), (FIRST_MS, "", "", -1)
    while left > 0:  # at most the counted number, because pushes may go in doubt meanwhile
        work = partial(
            _portion, chosen=chosen, outcome=outcome, by=by, evidence=evidence, after=after, most=min(left, AT_ONCE)
        )
        portion = transact(work, rollback=dry_run)
        sums.add(portion)
        if portion.last is None:
            break
        left -= AT_ONCE
        after = tuple(getattr(portion.last, name) for name in PUSH_ID)
    worth = transact(sums.worth, rollback=True)
    return ResolvedAll(outcome, dry_run, found, sums.pushes, len(sums.orgs), worth, list(sums.stays.values()))


def _portion(
    connection: sa.Connection,
    *,
    chosen: DoubtFilter,
    outcome: Outcome,
    by: By,
    evidence: str,
    after: tuple[int, str, str, int],
    most: int,
) -> _Portion:
    """Resolve the next pushes, except those that a rule protects."""
    if outcome == "absent":
        lock_buckets(connection)
    require_whole(connection)
    names = ("after_ms", "after_org", "after_feature", "after_revision")
    values = {**chosen.values, **dict(zip(names, after, strict=True)), "at_most": most}
    held = SQL.run(connection, "portion", values).all()
    if not held:
        return _Portion([], [], None)
    refused = _once_each(_REFUSALS[outcome](connection, held, by.now_ms))
    kept = {one.key for one in refused}
    done = [push for push in held if push.key not in kept]
    if outcome == "accepted":
        accept_many(connection, done, by, evidence)
    else:
        void_many(connection, done, by, [evidence] * len(done), "operator")
    return _Portion(done, refused, held[-1] if len(held) == most else None)


def _once_each(found: Iterator[Refusal]) -> list[Refusal]:
    """Return the first refusal of each push."""
    first: dict[str, Refusal] = {}
    for one in found:
        first.setdefault(one.key, one)
    return list(first.values())


def _not_charged(connection: sa.Connection, held: Sequence[PushRow], _now_ms: int) -> Iterator[Refusal]:
    """Refuse to accept pushes that the embedded ledger did not charge."""
    ours = [str(push.key) for push in held if push.provider == EMBEDDED]
    charged = wallet.read_charges(connection, ours)
    for key in ours:
        if key not in charged:
            yield Refusal(
                key,
                "not_charged",
                f"cannot resolve {key}: the embedded ledger does not have its charge. Pass `--outcome absent`",
            )


_REFUSALS: Final[dict[Outcome, Judge]] = {
    "accepted": _not_charged,
    "absent": refusals,
}
