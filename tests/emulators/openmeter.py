"""OpenMeter, as its OpenAPI description and source say: CloudEvents by source and id, meters, entitlements."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.kit.answers import iso, moment_ms

MAX_LIMIT: Final = 100


@dataclass
class OpenMeterEmulator:
    """One namespace, with deduplication on. A 204 is the same for a new event, a repeat and one that no meter reads."""

    api_key: str
    keeps_ids_ms: int
    meters: dict[str, dict[str, object]] = field(default_factory=dict)
    customers: dict[str, dict[str, object]] = field(default_factory=dict)
    grants: dict[tuple[str, str], int] = field(default_factory=dict)
    """By customer and feature."""
    soft_limits: set[tuple[str, str]] = field(default_factory=set)
    """Customers and features with an entitlement that allows overage."""
    events: list[dict[str, object]] = field(default_factory=list)
    seen_ms: dict[tuple[str, str], int] = field(default_factory=dict)

    def add_meter(self, slug: str, **other: object) -> None:
        shape = {"slug": slug, "eventType": f"{slug}.used", "aggregation": "SUM", "valueProperty": "$.units"}
        self.meters[slug] = {"id": f"01{slug}", **shape, **other}

    def add_customer(self, key: str, subjects: list[str] | None = None) -> None:
        self.customers[key] = {"id": f"01{key}", "key": key, "usageAttribution": {"subjectKeys": subjects or [key]}}

    def counted(self, subject: str, slug: str, low_ms: int = 0, high_ms: int = 10**15) -> Decimal:
        """The sum of a meter for one subject; nobody pays for a subject that no customer has."""
        kind = self.meters.get(slug, {}).get("eventType")
        total = Decimal(0)
        for event in self.events:
            at_ms, data = moment_ms(event["time"]), event["data"]
            assert at_ms is not None and isinstance(data, dict)
            if (event["subject"], event["type"]) == (subject, kind) and low_ms <= at_ms < high_ms:
                total += Decimal(str(data["units"]))
        return total

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        if call.headers.get("authorization") != f"Bearer {self.api_key}":
            return problem(401, "Unauthorized", "invalid token")
        parts = urlsplit(call.url)
        query = dict(parse_qsl(parts.query))
        match [unquote(part) for part in parts.path.strip("/").split("/")]:
            case ["api", "v1", "events"] if call.method == "POST":
                return self._ingest(json.loads(call.body), now_ms)
            case ["api", "v2", "events"]:
                return reply({"items": self._listed(json.loads(query["filter"])), "nextCursor": None})
            case ["api", "v1", "meters"]:
                size, page = min(int(query["pageSize"]), MAX_LIMIT), int(query["page"])
                return reply(list(self.meters.values())[(page - 1) * size : page * size])
            case ["api", "v1", "meters", slug] if slug in self.meters:
                return reply(self.meters[slug])
            case ["api", "v1", "meters", slug, "query"] if slug in self.meters:
                return self._query(slug, query)
            case ["api", "v1", "features", key] if key in self.meters:  # each meter has a feature of its name
                return reply({"id": f"01{key}", "key": key})
            case ["api", "v1", "customers", key] if key in self.customers:
                return reply(self.customers[key])
            case ["api", "v1", "customers", key, "entitlements", feature, "value"] if key in self.customers:
                if (key, feature) not in self.grants:
                    return reply({"hasAccess": False})  # also if the feature does not exist
                granted, used = self.grants[key, feature], self.counted(key, feature)
                balance = max(granted - used, Decimal(0))
                access = balance > 0 or (key, feature) in self.soft_limits
                value = {"hasAccess": access, "balance": float(balance), "usage": float(used)}
                return reply({**value, "overage": float(max(used - granted, Decimal(0)))})
            case ["api", "v2", "customers", key, "entitlements", feature] if (key, feature) in self.grants:
                return reply({"type": "metered", "isSoftLimit": (key, feature) in self.soft_limits})
        return problem(404, "Not Found", "not found")

    def _ingest(self, event: dict[str, object], now_ms: int) -> Answer:
        key = (str(event["source"]), str(event["id"]))
        if now_ms - self.seen_ms.get(key, now_ms - self.keeps_ids_ms) >= self.keeps_ids_ms:
            self.seen_ms[key] = now_ms
            self.events.append(event)
        return Answer(204, {}, b"")

    def _listed(self, wanted: dict[str, dict[str, str]]) -> list[dict[str, object]]:
        mine = [one for one in self.events if all(one[name] == how["$eq"] for name, how in wanted.items())]
        kinds = {meter["eventType"] for meter in self.meters.values()}
        return [
            {
                "event": one,
                "ingestedAt": one["time"],
                "storedAt": one["time"],
                **({} if one["type"] in kinds else {"validationErrors": [{"type": "no_matching_meter"}]}),
            }
            for one in mine
        ]

    def _query(self, slug: str, query: dict[str, str]) -> Answer:
        low, high = moment_ms(query["from"]), moment_ms(query["to"])
        assert low is not None and high is not None
        value = float(self.counted(query["subject"], slug, low, high))
        row = {"value": value, "windowStart": query["from"], "windowEnd": query["to"], "subject": query["subject"]}
        return reply({"from": query["from"], "to": query["to"], "data": [row] if value else []})

    def threshold(self, subject: str, now_ms: int) -> bytes:
        data = {"subject": {"key": subject}, "entitlement": {"featureKey": "compute"}, "threshold": {"value": 100}}
        body = {"id": "01", "type": "entitlements.balance.threshold", "timestamp": iso(now_ms), "data": data}
        return json.dumps(body).encode()


def reply(body: object, status: int = 200) -> Answer:
    return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())


def problem(status: int, title: str, detail: str) -> Answer:
    return reply({"type": "about:blank", "title": title, "status": status, "detail": detail}, status)
