"""An emulator of an execution cell: it obeys POST /admin/halt-org and answers GET /admin/usage when the call is signed.

Guarantee: `halted` holds only what a call with a right, fresh signature asked of this cell; what a lying cell
acknowledged without doing it is in `lies`. Fault kinds: down, slow (the call times out, nothing done), answer_lost
(done, no answer), lie (200, nothing done), nonsense (an answer that says nothing; done or not), broken (500, nothing
done).
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.kit.emulator import FaultPlan

CELL = "cell-1"
ROOT = "root-secret-of-the-emulators"
HALT_PATH = "/admin/halt-org"
USAGE_PATH = "/admin/usage"
MAX_AGE_S = 300
NOT_DONE = ("down", "slow", "lie", "broken")
KINDS = (*NOT_DONE, "answer_lost", "nonsense")


@dataclass
class CellEmulator:
    """One cell. `resume` is nothing a cell is told: it forgets a halt only by `release`."""

    cell_id: str = CELL
    secret: str = ""
    """Its own; without one, what it is given by whoever installs it, made from ROOT."""
    faults: FaultPlan = field(default_factory=FaultPlan)
    halted: dict[str, object] = field(default_factory=dict)
    """`halted_at` by organisation, as last told."""
    acknowledged: Counter[str] = field(default_factory=Counter)
    lies: list[str] = field(default_factory=list)
    counted: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    """What it counted itself, by day: organisation, memory size, seconds."""
    refused: Counter[int] = field(default_factory=Counter)
    """Calls that were not what a cell obeys, by the status they got."""

    def __post_init__(self) -> None:
        self.secret = self.secret or hmac.new(ROOT.encode(), f"cell:{self.cell_id}".encode(), sha256).hexdigest()

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        fault = self.faults.draw(*KINDS)
        if fault == "down":
            return NotSent("connection refused")
        if fault == "slow":
            return NoAnswer("timed out")
        if fault == "broken":
            return _said(500, {"error": "internal"})
        if urlsplit(call.url).path == USAGE_PATH:
            return self._usage(call, now_ms)
        status, org_id, halted_at = self._judged(call, now_ms)
        if status != 200:
            self.refused[status] += 1
            return _said(status, {"error": "refused"})
        if fault == "lie":
            self.lies.append(org_id)
            return _said(200, {"halted": True})
        done = fault != "nonsense" or self.faults.rng.random() < 0.5
        if done:
            self.halted[org_id] = halted_at
        if fault == "nonsense":
            return self.faults.rng.choice(_nonsense())
        if fault == "answer_lost":
            return NoAnswer("the connection was cut")
        self.acknowledged[org_id] += 1
        return _said(200, {"halted": True})

    def release(self, org_id: str) -> None:
        self.halted.pop(org_id, None)

    def _usage(self, call: Call, now_ms: int) -> HttpResult:
        """What it counted on the day that is asked for; nothing where it counted nothing."""
        day = parse_qs(urlsplit(call.url).query).get("day", [""])[0]
        status = 200 if self._is_signed(call, f"usage\n{self.cell_id}\n{day}".encode(), now_ms) else 401
        if call.method != "GET":
            status = 405
        if status != 200:
            self.refused[status] += 1
            return _said(status, {"error": "refused"})
        return _said(200, {"cell_id": self.cell_id, "day": day, "usage": self.counted.get(day, [])})

    def _is_signed(self, call: Call, what: bytes, now_ms: int) -> bool:
        headers = {name.lower(): text for name, text in call.headers.items()}
        stamp = headers.get("x-timestamp", "")
        if not stamp.isascii() or not stamp.isdigit() or abs(now_ms // 1000 - int(stamp[:12])) > MAX_AGE_S:
            return False
        wanted = hmac.new(self.secret.encode(), f"{stamp}.".encode() + what, sha256).hexdigest()
        return hmac.compare_digest(wanted.encode(), headers.get("x-signature", "").encode())

    def _judged(self, call: Call, now_ms: int) -> tuple[int, str, object]:
        """Status, organisation and time of a halt; 200 where it is to be obeyed."""
        if urlsplit(call.url).path != HALT_PATH:
            return 404, "", None
        if call.method != "POST":
            return 405, "", None
        if not self._is_signed(call, call.body, now_ms):
            return 401, "", None
        try:
            asked = json.loads(call.body)
            if asked["cell_id"] != self.cell_id:
                return 401, "", None
            return 200, str(asked["org_id"]), asked["halted_at"]
        except (ValueError, KeyError, TypeError):
            return 400, "", None


def _said(status: int, body: dict[str, object]) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def _nonsense() -> list[Answer]:
    return [
        Answer(200, {"content-type": "text/html"}, b"x" * 100_000),
        Answer(302, {"location": "http://127.0.0.1:1/"}, b""),
        Answer(418, {}, b"\xff\xfe"),
    ]
