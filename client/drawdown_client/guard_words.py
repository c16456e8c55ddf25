"""What the guard is asked, and what it answers.

Guarantee: pure. Amounts are whole numbers of base units of the metric. The key of a use is the caller's: the same call
again, after an answer that was lost, is done once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from drawdown_client.calls import Answer, Call, post, shown
from drawdown_client.errors import ClientError, Refused, Unreachable

HELD: Final = "held"
ENDED: Final = "ended"
NOT_HELD: Final = "unknown_use"
HOLD_S: Final = 3_600.0
"""How long what is reserved stands, unless it is said: as the server has it."""


@dataclass(frozen=True)
class Decision:
    """`decision` counts; `would` is what phase 3 would say. `rule` decided, for `reason`. Of the limit that is nearest:
    `limit`, `used` before, `remaining` after, and when it begins anew. `options`: what else can be done. `degraded`:
    decided without knowing the credit. `said`: the whole answer."""

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
    said: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def is_allowed(self) -> bool:
        return self.decision != "block"


class Blocked(ClientError):
    """The guard lets it not be done. `answer` says why, and what else can be done."""

    def __init__(self, answer: Decision) -> None:
        options = f"; options: {', '.join(answer.options)}" if answer.options else ""
        super().__init__(f"blocked by {answer.rule}: {answer.reason}{options}")
        self.answer = answer


@dataclass(frozen=True)
class Wish:
    """What is to be used, by whom, with which labels, and who pays in place of the metric's word."""

    org: str
    metric: str
    amount: int = 1
    project: str | None = None
    subject: str | None = None
    payer: str | None = None

    def said(self) -> dict[str, object]:
        return dict(vars(self))


def check(wish: Wish) -> Call:
    """The labels are of no use to it, and it knows none."""
    said = {name: value for name, value in wish.said().items() if name not in ("project", "subject")}
    return post("/v1/guard/check", said)


def consume(key: str, wish: Wish) -> Call:
    return post("/v1/guard/consume", {"key": key, **wish.said()})


def reserve(key: str, wish: Wish, hold_s: float | None) -> Call:
    return post("/v1/guard/reserve", {"key": key, **wish.said(), "for_ms": _ms(hold_s)})


def settle(key: str, actual: int, reason: str | None) -> Call:
    return post("/v1/guard/settle", {"key": key, "actual": actual, "reason": reason})


def release(key: str, incurred: int, reason: str | None) -> Call:
    return post("/v1/guard/release", {"key": key, "incurred": incurred, "reason": reason})


def extend(key: str, to: int | None, hold_s: float | None) -> Call:
    return post("/v1/guard/extend", {"key": key, "to": to, "for_ms": _ms(hold_s)})


def decided(answer: Answer) -> Decision:
    """An answer; what it says beyond this version is in `said`. Errors: Unreachable for one that says nothing."""
    if answer.get("decision") not in ("allow", "warn", "block"):
        raise Unreachable("the answer of the guard has no decision that this version knows")
    return Decision(
        decision=answer["decision"],
        would=shown(answer.get("would")),
        enforced=bool(answer.get("enforced")),
        rule=shown(answer.get("rule")),
        reason=shown(answer.get("reason")),
        limit=_count(answer.get("limit")),
        used=_count(answer.get("used")),
        remaining=_count(answer.get("remaining")),
        resets_at=_text(answer.get("resets_at")),
        payer=_text(answer.get("payer")),
        options=_texts(answer.get("options")),
        degraded=bool(answer.get("degraded")),
        repeated=bool(answer.get("repeated")),
        said=answer,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return shown(value) if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(shown(one) for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def require_held(key: str, answer: Decision) -> None:
    """Errors: Blocked; Refused `ended` for the key of a use that is over: nothing is held by it any more."""
    if not answer.is_allowed:
        raise Blocked(answer)
    state = answer.said.get("state", HELD)
    if state != HELD:
        raise Refused(409, ENDED, f"{key} is {shown(state)}: give another use a key of its own")


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
