"""The meter event stream of the emulated Stripe: its sessions, and how a batch is read.

Guarantee: a call is taken whole or refused whole; single events are looked at after the answer, and what is wrong with
them is told by an error report. Identifiers are unique for 24 hours, apart from those of v1: the documentation does not
say that the two share them, so nothing may rest on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from drawdown.providers.http import Answer
from tests.emulators.stripe_shapes import Refusal, iso, reply

EVENTS = "/v2/billing/meter_event_stream"
LASTS_MS = 15 * 60_000
MOST = 100
MAX_IDENTIFIER = 100


@dataclass
class Streams:
    """Sessions: their tokens, and when each ends."""

    sessions: dict[str, int] = field(default_factory=dict)

    def new_session(self, now_ms: int) -> Answer:
        number = len(self.sessions) + 1
        token = f"token_{number}_of_a_session"
        self.sessions[token] = now_ms + LASTS_MS
        return reply(
            {
                "id": f"mes_{number}",
                "object": "v2.billing.meter_event_session",
                "authentication_token": token,
                "created": iso(now_ms),
                "expires_at": iso(now_ms + LASTS_MS),
                "livemode": False,
            }
        )

    def admit(self, headers: Mapping[str, str], now_ms: int) -> None:
        """By a session's token, never by the account's key."""
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.sessions:
            raise Refusal(401, f"Invalid authentication token: {token}", code="unauthenticated")
        if self.sessions[token] <= now_ms:
            raise expired()


def events_of(body: bytes) -> list[dict[str, str]]:
    """The events of a call, each as the form that v1 takes. Raises Refusal where one makes no sense."""
    try:
        events = json.loads(body)["events"]
        if not 1 <= len(events) <= MOST:
            raise Refusal(400, f"events: between 1 and {MOST} are taken.", code="invalid_fields")
        return [_form(event) for event in events]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refusal(400, f"events: not a list of meter events: {error}", code="invalid_fields") from error


def _form(event: Mapping[str, object]) -> dict[str, str]:
    payload = event["payload"]
    assert isinstance(payload, dict)
    found = {"event_name": str(event["event_name"]), "identifier": str(event["identifier"])}
    if len(found["identifier"]) > MAX_IDENTIFIER:
        raise Refusal(400, "identifier: too long.", code="invalid_fields")
    if "timestamp" in event:
        found["timestamp"] = str(int(datetime.fromisoformat(str(event["timestamp"])).timestamp()))
    return found | {f"payload[{name}]": str(text) for name, text in payload.items()}


def refused(place: int) -> Refusal:
    """Of one event of a call, and so of the call."""
    return Refusal(400, f"events[{place}].payload: is not valid.", code="invalid_fields")


def expired() -> Refusal:
    text = "The session has expired. Create a new one."
    return Refusal(401, text, code="billing_meter_event_session_expired", kind="temporary_session_expired")
