"""Lago, as its documentation and source describe it: events by transaction_id, subscriptions, metrics, wallets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.kit.answers import moment_ms

MAX_PER_PAGE: Final = 100


@dataclass
class Event:
    transaction_id: str
    external_subscription_id: str
    code: str
    timestamp_ms: int
    properties: dict[str, object]

    def shape(self) -> dict[str, object]:
        return {
            "lago_id": "1a901a90-1a90-1a90-1a90-1a901a901a90",
            "transaction_id": self.transaction_id,
            "lago_customer_id": None,
            "code": self.code,
            "timestamp": stamp(self.timestamp_ms),
            "properties": self.properties,
            "lago_subscription_id": None,
            "external_subscription_id": self.external_subscription_id,
            "created_at": stamp(self.timestamp_ms),
        }


def stamp(at_ms: int) -> str:
    text = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@dataclass
class LagoEmulator:
    """One organisation with the PostgreSQL store: a transaction_id is taken once, for good, in each subscription."""

    api_key: str
    metrics: dict[str, dict[str, object]] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, object]] = field(default_factory=dict)
    wallets: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    events: dict[tuple[str, str], Event] = field(default_factory=dict)

    def add_metric(self, code: str, **other: object) -> None:
        shape = {
            "code": code,
            "aggregation_type": "sum_agg",
            "field_name": "amount",
            "expression": "",
            "recurring": False,
        }
        self.metrics[code] = {**shape, **other}

    def add_subscription(self, external_id: str, started_ms: int, **other: object) -> None:
        shape = {
            "external_id": external_id,
            "external_customer_id": f"cust_of_{external_id}",
            "plan_code": "startup",
            "previous_plan_code": None,
            "status": "active",
            "subscription_at": stamp(started_ms),
            "started_at": stamp(started_ms),
        }
        self.subscriptions[external_id] = {**shape, **other}

    def add_wallet(self, external_customer_id: str, credits: str, status: str = "active") -> None:
        wallet: dict[str, object] = {"status": status, "credits_balance": credits, "credits_ongoing_balance": credits}
        self.wallets.setdefault(external_customer_id, []).append(wallet)

    def charged(self, subscription: str, code: str) -> Decimal:
        """What an invoice would sum: events without an active subscription or a metric are never billed."""
        if self.subscriptions.get(subscription, {}).get("status") != "active" or code not in self.metrics:
            return Decimal(0)
        mine = [one for (who, _), one in self.events.items() if who == subscription and one.code == code]
        return sum((Decimal(str(one.properties[str(self.metrics[code]["field_name"])])) for one in mine), Decimal(0))

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        if call.headers.get("authorization") != f"Bearer {self.api_key}":
            return error(401, "Unauthorized")
        parts = urlsplit(call.url)
        query = dict(parse_qsl(parts.query))
        match [unquote(part) for part in parts.path.strip("/").split("/")]:
            case ["api", "v1", "events"] if call.method == "POST":
                return self._create(json.loads(call.body)["event"])
            case ["api", "v1", "events"]:
                return self._list(query)
            case ["api", "v1", "events", key]:
                found = next((one for (_, taken), one in self.events.items() if taken == key), None)
                return error(404, "Not Found", "event_not_found") if found is None else reply({"event": found.shape()})
            case ["api", "v1", "subscriptions"]:
                wanted = self.subscriptions.get(query["external_id"], {})
                return reply({"subscriptions": [wanted] if wanted.get("status") == "active" else [], "meta": {}})
            case ["api", "v1", "subscriptions", external_id]:
                # Only the active one is found unless a status is asked for. The path's parameter ends at a dot.
                known = self.subscriptions.get(external_id.partition(".")[0])
                if known is None or known["status"] != "active":
                    return error(404, "Not Found", "subscription_not_found")
                return reply({"subscription": known})
            case ["api", "v1", "billable_metrics", code]:
                if code not in self.metrics:
                    return error(404, "Not Found", "billable_metric_not_found")
                return reply({"billable_metric": self.metrics[code]})
            case ["api", "v1", "wallets"]:
                return reply({"wallets": self.wallets.get(query["external_customer_id"], []), "meta": {}})
        return error(404, "Not Found", "resource_not_found")

    def _create(self, asked: dict[str, object]) -> Answer:
        key = (str(asked["external_subscription_id"]), str(asked["transaction_id"]))
        if key in self.events:
            return error(422, "Unprocessable entity", "validation_errors", {"transaction_id": ["value_already_exist"]})
        properties = asked["properties"]
        assert isinstance(properties, dict)
        at_ms = int(Decimal(str(asked["timestamp"])) * 1000)
        self.events[key] = Event(key[1], key[0], str(asked["code"]), at_ms, properties)
        return reply({"event": self.events[key].shape()})

    def _list(self, query: dict[str, str]) -> Answer:
        low, high = moment_ms(query["timestamp_from"]), moment_ms(query["timestamp_to"])
        assert low is not None and high is not None
        wanted = query["external_subscription_id"]
        found = [one for (who, _), one in self.events.items() if who == wanted and low <= one.timestamp_ms <= high]
        found.sort(key=lambda one: (-one.timestamp_ms, one.transaction_id))
        size, page = min(int(query["per_page"]), MAX_PER_PAGE), int(query["page"])
        more = len(found) > page * size
        meta = {"current_page": page, "next_page": page + 1 if more else None, "total_count": len(found)}
        return reply({"events": [one.shape() for one in found[(page - 1) * size : page * size]], "meta": meta})


def reply(body: object, status: int = 200) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def error(status: int, text: str, code: str | None = None, details: object = None) -> Answer:
    body: dict[str, object] = {"status": status, "error": text}
    body |= {"code": code} if code else {}
    return reply(body | ({"error_details": details} if details else {}), status)
