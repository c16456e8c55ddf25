"""What the guard keeps of uses, by the contract of POST /v1/guard/…: holds by key, each ended once.

The real guard is met in `test_real_guard.py`, where this project has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx


class Counter:
    """One limit of one metric."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.uses: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.away = 0
        """The status of each answer, where it is not 0; then nothing is done."""
        self.proxy_says = 0
        """The status of each answer of a proxy in front of it, where it is not 0; then nothing is done."""
        self.proxy_refuses = ""
        """The beginning of the keys that the proxy answers."""
        self.before: Callable[[dict[str, Any]], None] = lambda _order: None
        """It is called with each order, before the answer."""
        self.degraded = False
        """Whether it lets through what begins, and can write nothing down."""
        self.refuses = ""
        """The key of a use that is refused."""
        self.fails = ""
        """The key of a use at which it fails."""

    @property
    def used(self) -> int:
        return sum(int(use["quantity"]) for use in self.uses.values())

    def answer(self, request: httpx.Request) -> httpx.Response:
        """As a side effect of respx."""
        act, order = request.url.path.rpartition("/")[2], json.loads(request.content)
        self.before(order)
        if self.proxy_says and order.get("key", "").startswith(self.proxy_refuses):
            return httpx.Response(self.proxy_says, text="<html>proxy</html>")
        if self.away:
            return httpx.Response(self.away, json={"error": {"code": "database", "message": "away"}})
        if order.get("key") == self.refuses != "":
            return _refused(409, "fails_closed")
        if order.get("key") == self.fails != "":
            return _refused(500, "internal")
        if self.degraded:
            begins = act in ("check", "consume", "reserve")
            return (
                _decision("allow", reason="database_unreadable", degraded=True) if begins else _refused(503, "database")
            )
        self.calls.append((act, order))
        return self._begun(act, order) if act in ("check", "consume", "reserve") else self._ended(act, order)

    def said(self, act: str) -> list[dict[str, Any]]:
        return [order for name, order in self.calls if name == act]

    def _begun(self, act: str, order: dict[str, Any]) -> httpx.Response:
        before = self.uses.get(order.get("key", ""))
        if before is not None:
            return _decision("allow", repeated=True, state=before["state"])
        if not order.get("let_through") and self.used + order["quantity"] > self.limit:
            return _decision("block", rule="limit:*:day", reason="limit", options=["request_override", "run_locally"])
        if act != "check":
            self.uses[order["key"]] = {"state": "used" if act == "consume" else "held", "quantity": order["quantity"]}
        return _decision("allow", limit=self.limit, remaining=self.limit - self.used)

    def _ended(self, act: str, order: dict[str, Any]) -> httpx.Response:
        use = self.uses.get(order["key"])
        if use is None:
            return _refused(404, "unknown_use")
        if act == "extend":
            return _decision("allow") if use["state"] == "held" else _refused(409, "ended")
        amount, state = order["actual" if act == "settle" else "incurred"], {"settle": "settled", "release": "released"}
        if use["state"] == state[act] and use["quantity"] == amount:
            return _decision("allow", repeated=True)
        if use["state"] != "held" and (use["state"], act) != ("expired", "settle"):
            return _refused(409, "ended")
        use.update(state=state[act], quantity=amount)
        return _decision("allow")


def _decision(decision: str, **more: Any) -> httpx.Response:
    said = {"decision": decision, "would": decision, "enforced": True, "rule": "limit:*:day", "reason": "allowed"}
    return httpx.Response(200, json={**said, **more})


def _refused(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": "why"}})
