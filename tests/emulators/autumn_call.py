"""One call to the emulated Autumn, read as the recorded server reads it, and the answers that are not its usual JSON.

Guarantee: what is wrong with a call is said in the recorded words, and in the recorded order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import NoReturn

from drawdown.providers.http import Answer, Call, HttpResult
from tests.emulators.autumn_account import Account, Track
from tests.emulators.autumn_numbers import Json, Number, exact
from tests.emulators.autumn_state import Customer, Feature


class Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


def bad(message: str) -> Refused:
    return Refused(400, "invalid_inputs", message)


class Plain(Exception):
    """An answer that is not the usual JSON."""

    def __init__(self, answer: HttpResult) -> None:
        super().__init__()
        self.answer = answer


class Ask:
    """One call, read."""

    def __init__(
        self, account: Account, call: Call, headers: Mapping[str, str], route: str, now_ms: int, fault: str | None
    ) -> None:
        self.account, self.call, self.headers = account, call, headers
        self.route, self.now_ms, self.fault = route, now_ms, fault
        self.version = headers.get("x-api-version", "2.3.0")
        self.header_key = headers.get("idempotency-key")
        try:
            found = json.loads(call.body, parse_constant=_refuse, parse_float=_decimal) if call.body else {}
        except ValueError:
            found = {}  # what cannot be read is taken for an empty body (recorded)
        self.items: list[Json] = found if isinstance(found, list) else []
        self.body: Json = found if isinstance(found, dict) else {}

    def text(self, name: str) -> str:
        found = self.body.get(name)
        if not isinstance(found, str):
            raise bad(f"{name}: must be a string (received {_kind(name, self.body)})")
        return found

    def number(self, name: str) -> Number | None:
        found = self.body.get(name)
        return exact(found) if isinstance(found, int | Decimal) and not isinstance(found, bool) else None

    def claim_header(self) -> None:
        """A call that was done keeps its key."""
        if self.header_key:
            self.account.claims[self.header_key] = self.now_ms + self.account.key_retention_ms

    def known_customer(self, name: str) -> Customer:
        found = self.account.customer(name, self.now_ms)
        if found is None and self.version < "2.1":
            return self.account.add_customer(name, self.now_ms)  # API 2.0 makes it
        if found is None:
            raise Refused(404, "customer_not_found", f"Customer {name} not found")
        return found

    def known_feature(self, body: Json | None = None) -> Feature:
        given = self.body if body is None else body
        name, event = given.get("feature_id"), given.get("event_name")
        if name is None and event is None:
            raise bad("input: Either feature_id or event_name must be provided")
        found = self.account.features.get(str(name))
        if found is None and name is None:
            raise Refused(404, "invalid_request", f"No features found for event name: {event}")
        if found is None:
            raise Refused(404, "feature_not_found", f"Feature {name} not found")
        return found

    def read_track(self, body: Json | None = None) -> Track:
        """The body of a charge, in the order the server looks at it."""
        given = self.body if body is None else body
        customer = given.get("customer_id")
        if not isinstance(customer, str):
            raise bad(f"customer_id: must be a string (received {_kind('customer_id', given)})")
        value = given.get("value", 1)
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise bad(f"value: must be a number (received {_kind('value', given)})")
        behaviour = given.get("overage_behavior", "cap")
        if behaviour not in ("cap", "reject", "overflow"):
            raise bad("overage_behavior: Invalid input")
        ts = self._read_ts(given)
        feature = self.known_feature(given)
        entity = given.get("entity_id")
        if entity is not None:
            raise Refused(404, "entity_not_found", f"Entity {entity} not found")
        properties, key = given.get("properties"), given.get("idempotency_key")
        return Track(
            customer, feature, exact(value), ts, str(behaviour), properties if isinstance(properties, dict) else {},
            key if isinstance(key, str) and key else None, self.header_key, self.version,
        )  # fmt: skip

    def _read_ts(self, given: Json) -> int | None:
        ts = given.get("timestamp")
        if ts is None:
            return None
        if not isinstance(ts, int | Decimal):
            raise bad(f"timestamp: must be a number (received {_kind('timestamp', given)})")
        if not isinstance(ts, int):
            raise bad("timestamp: Invalid input: expected int, received number")
        if ts > self.now_ms:
            raise bad("timestamp: timestamp cannot be in the future")
        return ts


def _kind(name: str, given: Json) -> str:
    found = given.get(name)
    if name not in given:
        return "undefined"
    if isinstance(found, int | Decimal) and not isinstance(found, bool):
        return "number"
    return "null" if found is None else "string" if isinstance(found, str) else type(found).__name__


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _decimal(text: str) -> Decimal:
    """The server has a binary fraction; it is taken for the shortest decimal that is read as that one."""
    return Decimal(repr(float(text)))


def _number(value: object) -> int | float:
    assert isinstance(value, Decimal), value
    found = exact(value)
    return found if isinstance(found, int) else float(found)


def duplicate(key: str) -> Refused:
    message = f"Another request with idempotency key {key} has already been received"
    return Refused(409, "duplicate_idempotency_key", message)


def answer_json(status: int, body: Mapping[str, object], more: Mapping[str, str] | None = None) -> Answer:
    headers = {"content-type": "application/json", "x-region": "us-east-1", **(more or {})}
    return Answer(status, headers, json.dumps(body, separators=(",", ":"), default=_number).encode())


def too_many(wait: str) -> Answer:
    headers = {"content-type": "text/plain; charset=UTF-8"} | ({"retry-after": wait} if wait else {})
    return Answer(429, headers, b"Too many requests, please try again later.")


def unavailable() -> Answer:
    message = "Service is temporarily unavailable, please retry shortly."
    return answer_json(503, {"message": message, "code": "service_unavailable", "env": "sandbox"}, {"retry-after": "1"})
