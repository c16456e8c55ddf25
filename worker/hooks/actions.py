"""Change endpoints, secrets and low balances, and replay messages.

Guarantee: secrets are not stored or recorded. The database stores only the number of an endpoint's secret, which
Drawdown derives from DRAWDOWN_HOOK_SECRET. An ended endpoint never continues, and its name is not used again. A replay
sends the same bytes as the first delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import sqlalchemy as sa

from drawdown.ledger.entries import MAX_ENTRY_MICRO
from drawdown.schema import ids
from drawdown.schema.audit import By, in_turn, record
from drawdown.schema.declare import (
    CREDITS,
    FLAG,
    ID,
    LENGTH,
    ORG,
    TEXT,
    Action,
    Fact,
    Hooks,
    Invocation,
    Label,
    New,
    Values,
)
from drawdown.schema.errors import Refused, UsageError, explain_race
from drawdown.schema.ids import is_clean_id
from drawdown.schema.messages import BALANCE_EXHAUSTED, BALANCE_LOW, EVENTS, TEST, Message, find_wanted_events, tell_one
from drawdown.schema.sql import queries
from drawdown.schema.text import counted, quote_value, typed
from drawdown.schema.typed.parsing import lasting, show_credits, show_time
from drawdown.schema.units import DAY_MS, as_credits
from drawdown.worker.halts.addresses import origin
from drawdown.worker.hooks.lists import AtEndpoint, EndpointName, MessageId, find_endpoint, list_endpoints

SQL = queries(__file__)

MAX_ENDPOINTS: Final = 16
"""Most active endpoints.

Drawdown writes each message once for each endpoint, and calls the endpoints concurrently.
"""
OVERLAP_MS: Final = DAY_MS
"""Default time for which an endpoint's old secret also signs, in milliseconds."""
MOST_OVERLAP_MS: Final = 30 * DAY_MS
"""Longest time for which an endpoint's old secret also signs, in milliseconds."""
REPLAYED_AT_ONCE: Final = 10_000
"""Failed messages that one command queues again."""
EVERYBODY: Final = ""
"""The organisation id of the level for all organisations without their own level."""
LEVELS: Final = {BALANCE_LOW: "low", BALANCE_EXHAUSTED: "exhausted"}


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of the operator's product, and its events.

    `generation`: the number of its secret.
    """

    name: str
    url: str
    events: tuple[str, ...]
    generation: int


@dataclass(frozen=True)
class Rotated:
    """The result of a rotation of a secret.

    `generation`: the number of the new secret. `old_until_ms`: the time until which the old secret also signs.
    """

    generation: int
    old_until_ms: int


@dataclass(frozen=True)
class Replayed:
    """The numbers of failed messages that are queued again, and that remain.

    `replayed`: the number of queued messages. `remaining`: the number of failed messages above the limit of one call.
    """

    replayed: int
    remaining: int


def set_endpoint(
    connection: sa.Connection, name: str, url: str, events: Sequence[str], by: By, *, new: bool
) -> tuple[Endpoint, Endpoint | None]:
    """Create or change an endpoint.

    Return the endpoint after the change and before it (None: it is new).

    The endpoint gets messages about later events. `events`: the events to send. If `events` is empty, the events do not
    change, and a new endpoint gets all events.

    Errors: UsageError for an invalid name or URL. UnknownId for an unknown event, and, unless `new`, for an unknown
    endpoint. Refused for an ended endpoint, or if MAX_ENDPOINTS are active.
    """
    if not is_clean_id(name):
        raise UsageError(
            f"invalid endpoint name {quote_value(name)}: expected 1 to 200 characters without control characters"
        )
    if origin(url) is None:
        raise UsageError("invalid URL: expected a plain http(s) URL such as https://app.example/webhooks/drawdown")
    for event in events:
        ids.require_among(ids.EVENT, event, EVENTS)
    ids.require(connection, ids.ENDPOINT, name, new=new)
    before = _endpoint(_hold(connection, name))
    if before is None:  # no row is locked yet, so wait for other transactions that add an endpoint
        in_turn(connection)
        before = _endpoint(_hold(connection, name))
    told = find_wanted_events(connection)
    if before is None and SQL.run(connection, "going").scalar_one() >= MAX_ENDPOINTS:
        raise Refused(
            f"the limit of {MAX_ENDPOINTS} active endpoints is reached. End an endpoint with `drawdown hook end "
            "ENDPOINT`"
        )
    kept = before.events if before is not None else EVENTS
    made = Endpoint(name, url, tuple(sorted(set(events))) or kept, 1 if before is None else before.generation)
    values = {"name": name, "url": url, "events": " ".join(made.events), "now_ms": by.now_ms}
    SQL.run(connection, "set", {**values, "actor": by.actor, "reason": by.reason})
    for level in (level for event, level in LEVELS.items() if event in made.events and event not in told):
        # Until now, endpoints did not subscribe to the event, so the next read of a low balance must send it.
        SQL.run(connection, "end_episodes", {"level": level, "now_ms": by.now_ms})
    was = None if before is None else {"url": before.url, "events": before.events}
    record(connection, "hook_set", name, {"url": url, "events": made.events, "was": was}, by)
    return made, before


def rotate(connection: sa.Connection, name: str, by: By, *, overlap_ms: int = OVERLAP_MS) -> Rotated:
    """Rotate an endpoint's secret.

    The old secret also signs for another `overlap_ms`. Older secrets no longer sign.

    Errors: UsageError for an invalid overlap; UnknownId for an unknown endpoint; Refused for an ended endpoint.
    """
    if not 0 <= overlap_ms <= MOST_OVERLAP_MS:
        raise UsageError(f"invalid overlap {lasting(overlap_ms)}: expected 0 to 30 days")
    before = _require_endpoint(connection, name)
    done = Rotated(before.generation + 1, by.now_ms + overlap_ms)
    SQL.run(connection, "rotate", {"name": name, **vars(done)})
    record(connection, "hook_rotate", name, vars(done), by)
    return done


def end(connection: sa.Connection, name: str, by: By) -> int | None:
    """End an endpoint.

    Return the number of its messages that were still due; None if it was ended before.

    Errors: UnknownId.
    """
    row = _hold(connection, name, lock="to_end")
    if row is None:
        ids.require(connection, ids.ENDPOINT, name)
        raise Refused(explain_race("endpoint", name))
    if row["ended_ms"] is not None:
        return None
    values = {"name": name, "now_ms": by.now_ms}
    SQL.run(connection, "end", values)
    left = SQL.run(connection, "give_up", values).rowcount
    record(connection, "hook_end", name, {"untold": left}, by)
    return left


def replay(connection: sa.Connection, message_id: str, by: By, *, endpoint: str = "") -> list[str]:
    """Queue a message again for its active endpoints, or for one of them.

    Return the names of these endpoints. The schedule of attempts begins again. Errors: UnknownId for an unknown message
    or endpoint; Refused if `endpoint` has ended, or if the message is not for an active endpoint.
    """
    ids.require(connection, ids.MESSAGE, message_id)
    if endpoint:
        _require_endpoint(connection, endpoint)
    values = {"message_id": message_id, "endpoint": endpoint}
    sent_to = list(SQL.run(connection, "going_on_of", values).scalars())
    if not sent_to:
        target = f"the endpoint {endpoint}" if endpoint else "an active endpoint"
        raise Refused(
            f"cannot send {message_id} again: it is not for {target}. To list its endpoints, run `drawdown hook show "
            f"{message_id}`"
        )
    SQL.run(connection, "replay", {"message_id": message_id, "endpoints": sent_to, "now_ms": by.now_ms})
    record(connection, "hook_replay", message_id, {"endpoints": sent_to}, by)
    return sent_to


def replay_failed(connection: sa.Connection, endpoint: str, by: By) -> Replayed:
    """Queue an endpoint's failed messages again, the oldest first.

    One call queues at most REPLAYED_AT_ONCE.

    Errors: UnknownId; Refused for an ended endpoint.
    """
    _require_endpoint(connection, endpoint)
    values = {"endpoint": endpoint, "now_ms": by.now_ms, "at_most": REPLAYED_AT_ONCE}
    replayed = SQL.run(connection, "replay_failed", values).rowcount
    done = Replayed(replayed, int(SQL.run(connection, "failed", {"endpoint": endpoint}).scalar_one()))
    record(connection, "hook_replay_failed", endpoint, vars(done), by)
    return done


def try_endpoint(connection: sa.Connection, name: str, by: By) -> str:
    """Queue a test message for an endpoint, and return the message's id.

    Errors: UnknownId; Refused for an ended endpoint.
    """
    _require_endpoint(connection, name)
    message = Message(TEST, f"{TEST}:{name}:{by.now_ms}", by.now_ms, {"endpoint": name})
    tell_one(connection, message, name)
    record(connection, "hook_test", name, {"message_id": message.message_id}, by)
    return message.message_id


def require_called(name: str, url: str, hooks: Hooks | None) -> None:
    """Check that this process may call an endpoint. Errors: UsageError."""
    if hooks is None or origin(url) not in hooks.origins:
        needs = "Add the origin of its URL to DRAWDOWN_HOOK_ORIGINS, and set DRAWDOWN_HOOK_SECRET"
        raise UsageError(f"cannot send a message to {name}: this machine's settings do not allow it. {needs}")


def set_low(
    connection: sa.Connection, org_id: str, low_micro: int | None, by: By, *, new: bool = False
) -> tuple[bool, int | None]:
    """Set the level at or below which a balance is low.

    `low_micro`: the level in micro-credits (None: a balance is never low). `org_id`: an organisation, or EVERYBODY for
    all organisations without their own level. Return True if a level was set before, and the level before the call.
    Errors: UsageError for an invalid level; UnknownId for an unknown organisation unless `new`.
    """
    if low_micro is not None and abs(low_micro) > MAX_ENTRY_MICRO:
        raise UsageError(f"invalid level {as_credits(low_micro)}: expected -1,000,000,000 to 1,000,000,000 credits")
    if org_id != EVERYBODY:
        ids.require(connection, ids.ORG, org_id, new=new)
    row = SQL.run(connection, "level", {"org_id": org_id}).one_or_none()
    was = None if row is None else row.low_micro
    values = {"org_id": org_id, "low_micro": low_micro, "now_ms": by.now_ms, "actor": by.actor, "reason": by.reason}
    SQL.run(connection, "set_level", values)
    record(connection, "hook_low", org_id or "all", {"low_micro": low_micro, "was": was}, by)
    return row is not None, was


def _hold(connection: sa.Connection, name: str, lock: str = "to_change") -> sa.RowMapping | None:
    return SQL.run(connection, "hold", {"name": name}, lock=lock).mappings().one_or_none()


def _endpoint(row: Any) -> Endpoint | None:
    """Return the endpoint of a row; None without a row.

    Errors: Refused for an ended endpoint.
    """
    if row is None:
        return None
    if row["ended_ms"] is not None:
        raise Refused(
            f"{row['name']} has ended. Create an endpoint with another name (`drawdown hook set NAME URL --new`)"
        )
    return Endpoint(row["name"], row["url"], tuple(row["events"].split()), row["generation"])


def _require_endpoint(connection: sa.Connection, name: str) -> Endpoint:
    """Lock and return an endpoint. Errors: UnknownId; Refused for an ended endpoint."""
    found = _endpoint(_hold(connection, name))
    if found is None:
        ids.require(connection, ids.ENDPOINT, name)
        raise Refused(explain_race("endpoint", name))
    return found


# Actions.


@dataclass(frozen=True)
class EndpointSet:
    """An endpoint of the operator's product, and its events.

    `secret`: the secret that signs the messages of a new endpoint (null: the endpoint existed before, the call was
    repeated, or DRAWDOWN_HOOK_SECRET is not set). `was_url`: the former URL (null: the endpoint is new). `allowed`:
    True if Drawdown calls the endpoint: DRAWDOWN_HOOK_ORIGINS allows its origin, and DRAWDOWN_HOOK_SECRET is set.
    """

    name: str
    url: str
    events: list[str]
    generation: int
    was_url: str | None
    allowed: bool
    secret: str | None


def _secret_of(asked: Invocation, name: str, generation: int) -> str | None:
    """Return the secret of an endpoint.

    Return None if this process does not have DRAWDOWN_HOOK_SECRET.
    """
    found = () if asked.hooks is None else asked.hooks.secrets_of(name, (generation,))
    return found[0] if found else None


def _set(
    connection: sa.Connection,
    asked: Invocation,
    endpoint: EndpointName,
    url: Annotated[str, TEXT, "URL of your product's receiver", Label("URL")],
    *,
    events: Annotated[list[str] | None, ID, f"Event to send: {', '.join(EVENTS)}"] = None,
    new: New = False,
) -> EndpointSet:
    made, before = set_endpoint(connection, endpoint, url, events or (), asked.by, new=new)
    secret = _secret_of(asked, endpoint, made.generation) if before is None else None
    was = None if before is None else before.url
    allowed = asked.hooks is not None and origin(url) in asked.hooks.origins
    return EndpointSet(endpoint, url, list(made.events), made.generation, was, allowed, secret)


def _listens(done: EndpointSet) -> list[str]:
    before = f"; before: {done.was_url}" if done.was_url is not None else ""
    lines = [f"{done.name}: {done.url}; {', '.join(done.events)}{before}"]
    if done.was_url is None and done.secret is None:
        lines.append("the endpoint does not have a secret yet. Set DRAWDOWN_HOOK_SECRET")
    if not done.allowed:
        also = ", and set DRAWDOWN_HOOK_SECRET, where not done yet" if done.secret is None else ""
        lines.append(f"Drawdown does not call the endpoint yet. Add its origin to DRAWDOWN_HOOK_ORIGINS{also}")
    return lines


@dataclass(frozen=True)
class SecretRotated:
    """The new secret, and the time until which the old secret also signs.

    `generation`: the number of the new secret. `secret` null: the call was repeated.
    """

    name: str
    generation: int
    old_until_ms: int
    secret: str | None


def _rotate(
    connection: sa.Connection,
    asked: Invocation,
    endpoint: EndpointName,
    *,
    overlap_ms: Annotated[int, LENGTH, "Time for which the old secret also signs: 0s, 2h, 7d"] = OVERLAP_MS,
) -> SecretRotated:
    done = rotate(connection, endpoint, asked.by, overlap_ms=overlap_ms)
    secret = _secret_of(asked, endpoint, done.generation)
    if secret is None:  # do not rotate to a secret that cannot be shown
        raise UsageError(
            "cannot rotate the secret: DRAWDOWN_HOOK_SECRET is not set. Set it, because Drawdown derives each "
            "endpoint's secret from it"
        )
    return SecretRotated(endpoint, done.generation, done.old_until_ms, secret)


def _lost_rotation(values: Values) -> str:
    name = values["endpoint"]
    return (
        f"`drawdown --json hook list` shows the generation of the secret of {name}. If it has risen, run "
        f"`drawdown hook secret {typed(name)}` to print the new secret. Another rotation would end the old one"
    )


@dataclass(frozen=True)
class EndpointEnded:
    """The end of an endpoint.

    `changed`: True if the call ended the endpoint. `untold`: the number of its messages that were still due (null: the
    endpoint was ended before).
    """

    name: str
    changed: bool
    untold: int | None


def _end(connection: sa.Connection, asked: Invocation, endpoint: EndpointName) -> EndpointEnded:
    left = end(connection, endpoint, asked.by)
    return EndpointEnded(endpoint, left is not None, left)


def _ended(done: EndpointEnded) -> str:
    if not done.changed:
        return f"{done.name}: already ended"
    return f"{done.name}: ended with {counted(done.untold or 0, 'message')} still due"


@dataclass(frozen=True)
class QueuedTest:
    """A test message that is due at an endpoint.

    `GET /v1/messages/{message}` shows its outcome.
    """

    name: str
    url: str
    message_id: str


def _test(connection: sa.Connection, asked: Invocation, endpoint: EndpointName) -> QueuedTest:
    url = _require_endpoint(connection, endpoint).url
    require_called(endpoint, url, asked.hooks)
    return QueuedTest(endpoint, url, try_endpoint(connection, endpoint, asked.by))


@dataclass(frozen=True)
class LowSet:
    """The balance at or below which Drawdown sends `balance.low`.

    `low_micro`: the balance in micro-credits (null: never). `org_id` null: the level applies to all organisations
    without their own level. `was_micro`: the level before the call, if `was_set`.
    """

    org_id: str | None
    low_micro: int | None
    was_micro: int | None
    was_set: bool


def _low(
    connection: sa.Connection,
    asked: Invocation,
    low_micro: Annotated[int | None, CREDITS, "Low balance in credits"] = None,
    *,
    org_id: Annotated[
        str | None, ORG, "Organisation; if omitted, all organisations without their own low balance"
    ] = None,
    never: Annotated[bool, FLAG, "Removal of the low balance"] = False,
    new: New = False,
) -> LowSet:
    if (low_micro is None) != never:
        raise UsageError("specify either a number of credits or --never", at="low")
    there, was = set_low(connection, org_id or EVERYBODY, low_micro, asked.by, new=new)
    return LowSet(org_id, low_micro, was, there)


def _is_low(done: LowSet) -> str:
    now, was = (("never" if micro is None else show_credits(micro)) for micro in (done.low_micro, done.was_micro))
    return f"{done.org_id or 'all other organisations'}: {now}; before: {was if done.was_set else 'not set'}"


@dataclass(frozen=True)
class SentAgain:
    """Messages that are queued again.

    The call queued one message for these endpoints, or failed messages of one endpoint.

    `message_id`: the queued message (null: failed messages). `replayed`: the number of deliveries that are queued
    again. `remaining`: the number of failed messages above the limit of one call.
    """

    message_id: str | None
    endpoints: list[str]
    replayed: int
    remaining: int


def _replay(
    connection: sa.Connection,
    asked: Invocation,
    message: MessageId | None = None,
    *,
    failed: Annotated[bool, FLAG, "All messages that an endpoint failed to accept"] = False,
    endpoint: AtEndpoint = "",
) -> SentAgain:
    if (message is None) != failed or (failed and not endpoint):
        raise UsageError("specify either a message or --failed --endpoint NAME", at="message")
    if message is not None:
        sent_to = replay(connection, message, asked.by, endpoint=endpoint)
        return SentAgain(message, sent_to, len(sent_to), 0)
    done = replay_failed(connection, endpoint, asked.by)
    return SentAgain(None, [endpoint], done.replayed, done.remaining)


def _sentence(done: SentAgain) -> str:
    if done.message_id is not None:
        return f"{done.message_id}: queued again for {', '.join(done.endpoints)}"
    more = f"; {done.remaining:,} more failed. Repeat the command to queue them" if done.remaining else ""
    return f"{done.endpoints[0]}: {counted(done.replayed, 'message')} queued again{more}"


def _facts(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    found = next((one for one in list_endpoints(connection) if one.name == values["endpoint"]), None)
    if found is None:
        return [Fact("Endpoint", "does not exist yet")]
    return [
        Fact("URL", found.url),
        Fact("Events", ", ".join(found.events)),
        Fact("Secret's generation", str(found.generation)),
        Fact("State", "active" if found.ended_ms is None else "ended"),
        Fact("Due", f"{found.due:,}", fixed=False),
    ]


def _facts_of_replay(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    if not values["endpoint"]:
        return []
    found = find_endpoint(connection, values["endpoint"])
    return [Fact("Due", f"{found.due:,}", fixed=False), Fact("Failed", f"{found.failed:,}", fixed=False)]


def _facts_of_level(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    row = SQL.run(connection, "level", {"org_id": values["org_id"] or EVERYBODY}).one_or_none()
    if row is None:
        return [Fact("Low", "not set")]
    return [Fact("Low", "never" if row.low_micro is None else show_credits(row.low_micro))]


SCOPE: Final = "hooks:write"
ACTIONS: Final = (
    Action(
        "hook set",
        "Set an endpoint",
        "Create or change an endpoint for webhooks. To create it, pass --new. The call then shows its secret. "
        "`drawdown hook secret` shows the secret again. Without --event, a new endpoint gets all events, and an "
        "existing endpoint keeps its events. Drawdown calls an endpoint only if DRAWDOWN_HOOK_ORIGINS allows its "
        "origin.",
        _set,
        _listens,
        path="/v1/hooks/{endpoint}",
        scope=SCOPE,
        role="admin",
        facts=_facts,
        shown_once="secret",
    ),
    Action(
        "hook rotate",
        "Rotate an endpoint's secret",
        "Rotate an endpoint's secret and show the new secret. Drawdown signs with both secrets until the overlap ends.",
        _rotate,
        lambda done: f"{done.name}: the old secret also signs until {show_time(done.old_until_ms)}",
        path="/v1/hooks/{endpoint}/rotate",
        scope=SCOPE,
        role="admin",
        facts=_facts,
        shown_once="secret",
        lost_hint=_lost_rotation,
    ),
    Action(
        "hook end",
        "End an endpoint",
        "End an endpoint. You cannot use its name again.",
        _end,
        _ended,
        path="/v1/hooks/{endpoint}/end",
        scope=SCOPE,
        role="admin",
        facts=_facts,
    ),
    Action(
        "hook test",
        "Test an endpoint",
        "Send a test message to an endpoint. The event is `endpoint.test`. The watch sends the message within "
        "seconds. Without a watch, the next tick sends it.",
        _test,
        lambda done: f"{done.message_id} is due at {done.name}",
        path="/v1/hooks/{endpoint}/test",
        scope=SCOPE,
        role="admin",
        facts=_facts,
        by_hand=True,
    ),
    Action(
        "hook low",
        "Set when a balance is low",
        "Set the low balance that sends `balance.low`. It applies to the organisation in --org, or to all "
        "organisations without their own low balance.",
        _low,
        _is_low,
        path="/v1/levels",
        scope=SCOPE,
        facts=_facts_of_level,
    ),
    Action(
        "hook replay",
        "Send messages again",
        "Resend a message, or all messages that an endpoint missed. The message keeps its bytes and its id.",
        _replay,
        _sentence,
        path="/v1/messages/replay",
        scope=SCOPE,
        facts=_facts_of_replay,
    ),
)
