"""What happened to a customer of the siege: the calls about it, and the rows of it. For whoever reads a failure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from drawdown.providers.http import Answer, Call, HttpResult
from tests.acceptance.tables import rows
from tests.emulators.autumn_losses import Charge

MOST_CUSTOMERS: Final = 3
"""Of a failure that are told of."""
MOST_TEXT: Final = 300
TABLES: Final = {
    "balance_marks": "SELECT * FROM balance_marks WHERE customer_id = '{name}'",
    "balance_parts": "SELECT * FROM balance_parts WHERE customer_id = '{name}'",
    "pushes": "SELECT key, state, sent_qty, attempts, settled_ms, wire_key, last_error FROM pushes "
    "WHERE customer_id = '{name}' ORDER BY settled_ms",
}


@dataclass
class History:
    """The calls about each customer in turn. A read is kept where it shows something new."""

    lines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _shown: dict[str, str] = field(default_factory=dict)

    def note_call(self, call: Call, answer: HttpResult, now_ms: int) -> None:
        route = call.url.rpartition("/")[2]
        if route not in ("track", "customers.get"):
            return
        asked = json.loads(call.body or b"{}")
        if route == "track":
            text = f"{asked.get('feature_id')}={asked.get('value')} {asked.get('idempotency_key')}"
            self.lines[str(asked.get("customer_id"))].append(f"{now_ms} track {text} -> {_answered(answer)}")
        else:
            self._note_read(str(asked.get("customer_id")), answer, now_ms)

    def note_charge(self, made: Charge, now_ms: int, what: str = "charges") -> None:
        parts = ", ".join(f"{amount} of {balance}" for balance, amount in made.parts)
        self.lines[made.customer].append(f"{now_ms}   {what} {made.feature}={made.value} {made.key}: {parts}")

    def note(self, customer: str, now_ms: int, what: str) -> None:
        self.lines[customer].append(f"{now_ms} {what}")

    def _note_read(self, customer: str, answer: HttpResult, now_ms: int) -> None:
        shown = _answered(answer)
        try:
            balances = json.loads(answer.body)["balances"] if isinstance(answer, Answer) else {}
        except (ValueError, TypeError, KeyError):
            balances = {}
        if balances:
            shown = "; ".join(f"{name} {_balance(one)}" for name, one in balances.items())
        if self._shown.get(customer) != shown:
            self.lines[customer].append(f"{now_ms} read -> {shown}")
        self._shown[customer] = shown


def _balance(one: dict[str, Any]) -> str:
    parts = [f"{p.get('id')}:{p.get('remaining')}/{p.get('included_grant')}" for p in one.get("breakdown") or ()]
    return f"{one.get('remaining')} used {one.get('usage')} [{', '.join(parts)}]"


def _answered(answer: HttpResult) -> str:
    if isinstance(answer, Answer):
        return f"{answer.status} {answer.body.decode(errors='replace')[:MOST_TEXT]}"
    return str(answer)[:MOST_TEXT]


def retell(url: str, history: History, told: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The story of the first few of these customers. `told`: lines of reconcile."""
    return "\n".join(line for name in names[:MOST_CUSTOMERS] for line in _story(url, history, name, told))


def _story(url: str, history: History, name: str, told: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"{name}:"
    yield from (f"  {line}" for line in history.lines[name])
    yield from (f"  reconcile: {one}" for one in told if one["customer_id"] == name)
    for table, query in TABLES.items():
        yield from (f"  {table}: {row}" for row in rows(url, query.format(name=name)))
