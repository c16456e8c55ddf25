"""Polar, as its documentation and source describe it: events by external_id, meters, customer state, webhooks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.kit.answers import iso, moment_ms

MAX_LIMIT: Final = 100


@dataclass
class PolarEmulator:
    """One organisation. An event is stored whoever its customer is; it counts once the customer and a meter exist."""

    access_token: str
    meters: list[dict[str, object]] = field(default_factory=list)
    customers: dict[str, dict[str, object]] = field(default_factory=dict)
    """By external id: credits granted for each meter, and the product."""
    events: dict[str, dict[str, object]] = field(default_factory=dict)

    def add_meter(self, name: str, **other: object) -> str:
        meter_id = f"meter-{name}"
        clause = {"property": "name", "operator": "eq", "value": name}
        shape = {
            "id": meter_id,
            "name": name,
            "filter": {"conjunction": "and", "clauses": [clause]},
            "aggregation": {"func": "sum", "property": "units"},
            "archived_at": None,
        }
        self.meters.append({**shape, **other})
        return meter_id

    def add_customer(self, external_id: str, **credits: int) -> None:
        self.customers[external_id] = {"credits": credits}

    def consumed(self, external_id: str, name: str) -> int:
        if external_id not in self.customers or not any(meter["name"] == name for meter in self.meters):
            return 0
        mine = [
            one for one in self.events.values() if (one["external_customer_id"], one["name"]) == (external_id, name)
        ]
        return sum(units_of(one) for one in mine)

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        if call.headers.get("authorization") != f"Bearer {self.access_token}":
            return reply({"error": "invalid_token", "error_description": "The access token is invalid"}, 401)
        parts = urlsplit(call.url)
        query = dict(parse_qsl(parts.query))
        match [unquote(part) for part in parts.path.strip("/").split("/")]:
            case ["v1", "events", "ingest"]:
                return self._ingest(json.loads(call.body)["events"], now_ms)
            case ["v1", "events"]:
                return paged(self._listed(query), query)
            case ["v1", "meters"]:
                return paged([meter for meter in self.meters if meter["archived_at"] is None], query)
            case ["v1", "meters", meter_id] if known := [one for one in self.meters if one["id"] == meter_id]:
                return reply(known[0])
            case ["v1", "customers", "external", external_id, *rest] if external_id in self.customers:
                return reply(self.state(external_id) if rest == ["state"] else {"external_id": external_id})
        return reply({"error": "ResourceNotFound", "detail": "Not found"}, 404)

    def _ingest(self, asked: list[dict[str, object]], now_ms: int) -> Answer:
        late = [one for one in asked if (moment_ms(one["timestamp"]) or 0) > now_ms]
        if late:
            wrong = {"type": "value_error", "loc": ["body", "events", 0], "msg": "Timestamp must be in the past."}
            return reply({"error": "RequestValidationError", "detail": [wrong]}, 422)
        new = [one for one in asked if one["external_id"] not in self.events]
        self.events |= {str(one["external_id"]): one for one in new}
        return reply({"inserted": len(new), "duplicates": len(asked) - len(new)})

    def _listed(self, query: dict[str, str]) -> list[dict[str, object]]:
        """Both ends of a range are left out, as `timestamp > start AND timestamp < end` does."""
        low = moment_ms(query["start_timestamp"]) if "start_timestamp" in query else None
        high = moment_ms(query["end_timestamp"]) if "end_timestamp" in query else None
        found = []
        for event in self.events.values():
            at_ms = moment_ms(event["timestamp"])
            metadata = event["metadata"]
            assert at_ms is not None
            asked = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[")}
            wanted = event["external_customer_id"] == query.get("external_customer_id")
            wanted = wanted and query.get("name", event["name"]) == event["name"]
            if asked:
                assert isinstance(metadata, dict)
                wanted = wanted and all(str(metadata.get(name)) == value for name, value in asked.items())
            if wanted and (low is None or at_ms > low) and (high is None or at_ms < high):
                shape = {name: value for name, value in event.items() if name != "external_id"}
                found.append({**shape, "id": "0a", "source": "user", "label": "Event", "child_count": 0})
        return sorted(found, key=lambda one: str(one["timestamp"]))

    def state(self, external_id: str) -> dict[str, object]:
        granted = self.customers[external_id]["credits"]
        assert isinstance(granted, dict)
        meters = [
            {
                "id": f"cm-{name}",
                "meter_id": f"meter-{name}",
                "consumed_units": float(self.consumed(external_id, name)),
                "credited_units": credits,
                "balance": float(credits - self.consumed(external_id, name)),
            }
            for name, credits in granted.items()
        ]
        subscription = {"id": "sub_1", "status": "active", "product_id": "prod_1"}
        return {
            "id": "c0ffee",
            "external_id": external_id,
            "active_subscriptions": [subscription],
            "granted_benefits": [],
            "active_meters": meters,
        }

    def state_changed(self, external_id: str, now_ms: int) -> bytes:
        data = self.state(external_id) if external_id in self.customers else {"external_id": external_id}
        return json.dumps({"type": "customer.state_changed", "timestamp": iso(now_ms), "data": data}).encode()


def units_of(event: dict[str, object]) -> int:
    metadata = event["metadata"]
    assert isinstance(metadata, dict)
    return int(metadata["units"])


def paged(items: list[dict[str, object]], query: dict[str, str]) -> Answer:
    limit, page = min(int(query.get("limit", 10)), MAX_LIMIT), int(query.get("page", 1))
    count = {"total_count": len(items), "max_page": -(-len(items) // limit)}
    return reply({"items": items[(page - 1) * limit : page * limit], "pagination": count})


def reply(body: object, status: int = 200) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())
