"""Build the calls of the guard, and read its responses.

Guarantee: this module does not call a server. Quantities are whole numbers of base units of the metric. The caller
chooses the key of a use. If a response is lost and the caller repeats the call with the key, the server counts the use
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from drawdown_client.calls import Answer, Call, escape, get, post
from drawdown_client.errors import ClientError, Refused, Unreachable

HELD: Final = "held"
ENDED: Final = "ended"
NOT_HELD: Final = "unknown_use"
UNWRITTEN: Final = "database_unreadable"
"""The reason code of a use that a server allows while its database is unavailable.

Other servers do not have the use yet.
"""
HOLD_S: Final = 3_600.0
"""Default seconds of a reservation."""


@dataclass(frozen=True)
class Decision:
    """The guard's response.

    `decision`: the decision to obey. `would`: the decision in phase 3, which enforces each block. `enforced`: True if
    the phase of the limit, or else of the metric, enforces `would`. `rule`: the rule that decided. `reason`: the code
    of the reason. `limit`: the amount of the nearest limit. `used`: the use of that limit before this use.
    `remaining`: the amount that remains after this use. `resets_at`: the time of the next reset.

    `payer`: the customer who pays. `options`: the ways out of a block. `degraded`: True if the credit was unknown.
    `repeated`: True if the key was used before. `event`: the outcome of the emitted event (`accepted`, `pending` or
    `duplicate`); None without an event. `whole`: all fields of the response.
    """

    decision: Literal["allow", "warn", "block"]
    would: str
    enforced: bool
    rule: str
    reason: str
    limit: int | None = None
    used: int | None = None
    remaining: int | None = None
    resets_at: str | None = None
    payer: str | None = None
    options: tuple[str, ...] = ()
    degraded: bool = False
    repeated: bool = False
    event: str | None = None
    whole: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_allowed(self) -> bool:
        return self.decision != "block"


class Blocked(ClientError):
    """Raised if the guard blocks a use. `answer`: the decision, with its reason."""

    def __init__(self, answer: Decision) -> None:
        options = f"; options: {', '.join(answer.options)}" if answer.options else ""
        super().__init__(f"blocked by {answer.rule}: {answer.reason}{options}")
        self.answer = answer


@dataclass(frozen=True)
class WayOut:
    """One way out of a block.

    If `is_open` is False, `code` and `description` have the reason. `call`: method, path and body for a program.
    `link`: the page on which people of the organisation can take this way out. `payers`: organisations that could pay.
    `whole`: all fields of this way out in the response.
    """

    option: str
    is_open: bool
    code: str | None
    description: str
    call: Mapping[str, Any] | None = None
    link: str | None = None
    payers: tuple[str, ...] = ()
    whole: Mapping[str, Any] = field(default_factory=dict, compare=False)


UNANSWERED: Final = Decision("allow", "allow", False, "unlimited", "unreachable", degraded=True)
"""The decision on a use that the client allows without a response."""


@dataclass(frozen=True)
class Wish:
    """A use to check: an organisation, a metric, a quantity, and labels.

    `org_id` None: the organisation that the key is bound to. `payer`: the customer who pays, in place of the metric's
    setting.
    """

    org_id: str | None
    metric: str
    quantity: int = 1
    project: str | None = None
    subject: str | None = None
    payer: str | None = None

    def to_json(self) -> dict[str, object]:
        return dict(vars(self))


def check(wish: Wish) -> Call:
    """Return the call that checks a use.

    The call omits `project` and `subject`, because a check does not accept them.
    """
    said = {name: value for name, value in wish.to_json().items() if name not in ("project", "subject")}
    return post("/v1/guard/check", said)


def options(wish: Wish) -> Call:
    """Return the call for the ways out of a block.

    Errors: ValueError without an organisation.
    """
    if wish.org_id is None:
        raise ValueError("missing organisation. Pass a Wish with `org_id`")
    query = {"metric": wish.metric, "quantity": str(wish.quantity), "payer": wish.payer}
    return get("v1", "guard", wish.org_id, "options", query=query)


def ways_out(answer: Answer) -> tuple[WayOut, ...]:
    """Return the ways out in a response. Errors: Unreachable if the list is missing."""
    listed = answer.get("options")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise Unreachable("invalid response: expected a list of options. Check the server address")
    return tuple(
        WayOut(
            option=escape(one.get("option")),
            is_open=one.get("open") is True,
            code=_text(one.get("code")),
            description=escape(one.get("description")),
            call=one["call"] if isinstance(one.get("call"), dict) else None,
            link=_text(one.get("link")),
            payers=_texts(one.get("payers")),
            whole=one,
        )
        for one in listed
    )


def consume(key: str, wish: Wish, event: Mapping[str, object] | None = None, *, late: bool = False) -> Call:
    """Return the call that uses a quantity.

    `event`: the event to emit. `late`: True if the program already allowed the use without a response.
    """
    return post("/v1/guard/consume", {"key": key, **wish.to_json(), "event": event, "let_through": late or None})


def reserve(key: str, wish: Wish, hold_s: float | None, *, late: bool = False) -> Call:
    said = {"key": key, **wish.to_json(), "for_ms": _ms(hold_s), "let_through": late or None}
    return post("/v1/guard/reserve", said)


def settle(key: str, actual: int, reason: str | None) -> Call:
    return post("/v1/guard/settle", {"key": key, "actual": actual, "reason": reason})


def release(key: str, incurred: int, reason: str | None) -> Call:
    return post("/v1/guard/release", {"key": key, "incurred": incurred, "reason": reason})


def extend(key: str, to: int | None, hold_s: float | None) -> Call:
    return post("/v1/guard/extend", {"key": key, "to": to, "for_ms": _ms(hold_s)})


def decided(answer: Answer) -> Decision:
    """Return a response as a Decision.

    Fields unknown to this version are in `whole`. Errors: Unreachable if the decision is missing or unknown.
    """
    if answer.get("decision") not in ("allow", "warn", "block"):
        raise Unreachable(
            f"invalid response: unknown decision {escape(answer.get('decision'))!r}. Upgrade drawdown-client"
        )
    return Decision(
        decision=answer["decision"],
        would=escape(answer.get("would")),
        enforced=bool(answer.get("enforced")),
        rule=escape(answer.get("rule")),
        reason=escape(answer.get("reason")),
        limit=_count(answer.get("limit")),
        used=_count(answer.get("used")),
        remaining=_count(answer.get("remaining")),
        resets_at=_text(answer.get("resets_at")),
        payer=_text(answer.get("payer")),
        options=_texts(answer.get("options")),
        degraded=bool(answer.get("degraded")),
        repeated=bool(answer.get("repeated")),
        event=_status(answer.get("event")),
        whole=answer,
    )


def _status(event: object) -> str | None:
    return _text(event.get("status")) if isinstance(event, dict) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return escape(value) if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(escape(one) for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def require_written(answer: Answer) -> None:
    """Check that a server recorded a use.

    Errors: Unreachable if the server allowed the use while its database was unavailable. Refused if the server
    blocked a use that the client allowed without a response. The server does not record a blocked use.
    """
    if answer.get("decision") == "block" and answer.get("state") is None:
        raise Refused(
            409,
            "blocked",
            "the guard blocked a use that the client allowed without a response, so the server did not record the use",
        )
    if answer.get("reason") == UNWRITTEN:
        raise Unreachable("the database of the server is unavailable. Repeat the call with the same key")


def require_held(key: str, answer: Decision) -> None:
    """Check that a use is reserved.

    Errors: Blocked if the guard blocked the use; Refused with the code `ended` if the key belongs to an ended use.
    """
    if not answer.is_allowed:
        raise Blocked(answer)
    state = answer.whole.get("state", HELD)
    if state != HELD:
        raise Refused(409, ENDED, f"key {key} is already {escape(state)}. Use a new key for another use")


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
