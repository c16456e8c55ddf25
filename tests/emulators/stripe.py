"""An emulator of the part of Stripe that bills by meters, and, by `stripe_payments`, of the part that takes money.

Guarantee: what was charged is kept apart from what is answered, so that a test can ask for the truth (`charged`,
`charged_by`, `doubles`) whatever faults struck. Facts are those of PROVIDERS: an identifier is unique for 24 hours and
no longer, an Idempotency-Key replays its answer (a 500 too) for as long, summaries may lag, and an event that was
accepted may be refused later. The official client drives it in tests/contract/test_stripe_sdk.py.

Fault kinds. Of calls that bill: request_lost, answer_lost, error_500_before (nothing done, nothing saved),
error_500_after (charged, a 500 saved), cached_500 (nothing done, a 500 saved: the same Idempotency-Key meets it for a
day), throttled, throttled_nonsense, lock_timeout, nonsense (charged or not), late_rejection (200, then an error
report), accepted_then_lost (200, and never charged), reads_lag (charged, seen in summaries up to an hour later). Of
adjustments: ADJUSTMENT_FAULTS. Of reading calls: reads_fail. Of any: connection_refused.
"""

from __future__ import annotations

import hmac
import json
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from urllib.parse import parse_qsl, unquote, urlsplit

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer
from drawdown.providers.kit.emulator import FaultPlan
from tests.emulators import stripe_stream
from tests.emulators.stripe_events import ADJUSTMENT_FAULTS, ADJUSTMENTS, Event, Events
from tests.emulators.stripe_payments import CHARGE_FAULTS, INTENTS, LIST_FAULTS, Payments, garbled
from tests.emulators.stripe_rules import (
    DAY_MS,
    GROUPS_S,
    Charge,
    aggregated,
    between,
    broken,
    misused,
    odd,
    range_of,
    rate_limited,
    required,
    struck_before,
    timestamp_of,
    unrecognized,
    value_of,
)
from tests.emulators.stripe_shapes import (
    DUPLICATE,
    VERSION,
    Json,
    Late,
    Meter,
    Refusal,
    customer,
    event,
    meter_event,
    page,
    reply,
    report,
    summary,
    thin,
)

MAX_LAG_MS = 55 * 60_000
BILLING_FAULTS = (
    "connection_refused",
    "request_lost",
    "throttled",
    "throttled_nonsense",
    "lock_timeout",
    "error_500_before",
    "cached_500",
    "error_500_after",
    "answer_lost",
    "nonsense",
    "late_rejection",
    "accepted_then_lost",
    "reads_lag",
)
STREAM_FAULTS = (*(kind for kind in BILLING_FAULTS if kind != "cached_500"), "session_expired", "batch_refused")
"""A call of the stream has no Idempotency-Key, under which an answer would be kept; and is refused whole."""
_VERSIONED = re.compile(r"\d{4}-\d{2}-\d{2}(\.[a-z]+)?")


@dataclass
class Saved:
    """What an Idempotency-Key stands for."""

    request: tuple[str, str, bytes]
    answer: Answer
    at_ms: int


@dataclass
class StripeEmulator:
    """One account. `calls_per_s` None: no rate limit (the simulation's clock stands still between calls)."""

    faults: FaultPlan = field(default_factory=FaultPlan)
    secret_key: str = "sk_test_emulator"
    webhook_secret: str = "whsec_emulator"
    account: str = "acct_emulator"
    lag_ms: int = 0
    report_after_ms: int = 10_000
    samples: int = 10
    calls_per_s: int | None = None
    zero_summaries: bool = False
    """Whether a range without events gives a summary of zero, or none: Stripe's documentation does not say."""
    forbidden: bool = False
    """Whether the key lacks every permission."""
    keeps_keys_ms: int = DAY_MS
    """How long an Idempotency-Key is kept; 0: not at all, to see what holds without it."""

    def __post_init__(self) -> None:
        self.customers: dict[str, bool] = {}
        """Whether each was deleted."""
        self.meters: dict[str, Meter] = {}
        self.calls: Counter[str] = Counter()
        self.events = Events()
        self.v2_events: dict[str, Json] = {}
        self._taken: dict[str, int] = {}
        self._saved: dict[str, Saved] = {}
        self._late: list[Late] = []
        self._recent: deque[int] = deque()
        self._numbers = iter(range(1, 1_000_000_000))
        self.payments = Payments(self.faults.rng)
        self.streams = stripe_stream.Streams()
        self._streamed: dict[str, int] = {}

    # What a test sets up, and asks.

    @property
    def doubles(self) -> list[str]:
        """Identifiers charged a second time."""
        return self.events.doubles

    def add_customer(self, *customer_ids: str) -> None:
        self.customers.update(dict.fromkeys(customer_ids, False))

    def add_meter(self, event_name: str, **changes: str | bool) -> Meter:
        number = next(self._numbers)
        found = Meter(f"mtr_{number}", event_name, 1_700_000_000 + number, **changes)  # type: ignore[arg-type]
        self.meters[found.id] = found
        return found

    def charged(self, customer_id: str, event_name: str, minute_s: int | None = None) -> int:
        """Units charged, of all time or of the minute that begins at `minute_s`."""
        return int(self.events.by_minute.get((customer_id, event_name, minute_s), 0))

    def charged_by(self) -> dict[tuple[str, str, int], int]:
        """Units charged by (customer, event_name, timestamp in seconds)."""
        return {key: int(value) for key, value in self.events.truth.items()}

    def charged_under(self, identifier: str) -> int | None:
        """Units charged under an identifier, all times together; None: nothing."""
        found = self.events.counted.get(identifier)
        return int(sum(one.charge.value for one in found)) if found else None

    def webhooks(self, now_ms: int) -> list[tuple[dict[str, str], bytes]]:
        """Error reports that are due, each as signed headers and a body; each is given once."""
        due = [late for late in self._late if now_ms - late.at_ms >= self.report_after_ms]
        self._late = [late for late in self._late if now_ms - late.at_ms < self.report_after_ms]
        given = []
        for meter_id in dict.fromkeys(late.meter_id for late in due):
            found = thin(f"evt_test_{next(self._numbers)}", meter_id, now_ms)
            data = report([late for late in due if late.meter_id == meter_id], self.samples)
            self.v2_events[str(found["id"])] = {**found, "data": data}
            given.append(self.signed(found, now_ms))
        return given

    def customer_webhook(self, kind: str, customer_id: str, now_ms: int) -> tuple[dict[str, str], bytes]:
        """A v1 event about a customer, or about something of theirs."""
        about = customer(customer_id, deleted=False)
        if not re.fullmatch(r"customer\.(created|updated|deleted)", kind):
            about = {"id": f"obj_{next(self._numbers)}", "object": "invoice", "customer": customer_id}
        return self.signed(event(f"evt_{next(self._numbers)}", kind, about, now_ms // 1000), now_ms)

    def signed(self, body: Json, now_ms: int) -> tuple[dict[str, str], bytes]:
        """Headers and body of a webhook."""
        raw = json.dumps(body).encode()
        stamp = str(now_ms // 1000)
        mac = hmac.new(self.webhook_secret.encode(), f"{stamp}.".encode() + raw, sha256).hexdigest()
        return {"content-type": "application/json", "stripe-signature": f"t={stamp},v1={mac}"}, raw

    # What the service does.

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        headers = {name.lower(): text for name, text in call.headers.items()}
        parts = urlsplit(call.url)
        self.calls[f"{call.method} {parts.path}"] += 1
        for late in list(self.payments.due(now_ms)):
            self._worked_on(late.call, late.at_ms)
        fault = self._fault(call.method, parts.path)
        lost = struck_before(fault, self.faults)
        if lost is not None:
            return lost
        if fault == "slow":
            self.payments.delay(call, headers.get("idempotency-key", ""), now_ms)
            return NoAnswer("timed out")
        if fault == "garbage" and self.faults.rng.random() < 0.5:
            return garbled(self.faults.rng, Answer(200, {}, b"{}"))
        try:
            if parts.path == stripe_stream.EVENTS:
                return self._after(fault, self._stamped(self._stream(call, headers, fault, now_ms), headers))
            self._admit(headers, now_ms)
            early = self._throttled(fault, now_ms)
            answer = early or (
                self._kept(call, parts.path, headers, fault, now_ms)
                if call.method == "POST"
                else self._get(parts.path, dict(parse_qsl(parts.query)), fault, now_ms)
            )
        except Refusal as refusal:
            answer = refusal.answer()
        return self._after(fault, self._stamped(answer, headers))

    def _fault(self, method: str, path: str) -> str | None:
        """What strikes this call."""
        if path == INTENTS:
            return self.payments.drawn(self.faults.draw, CHARGE_FAULTS if method == "POST" else LIST_FAULTS)
        if path == stripe_stream.EVENTS:
            return self.faults.draw(*STREAM_FAULTS)
        if path == ADJUSTMENTS:
            return self.faults.draw(*ADJUSTMENT_FAULTS)
        bills = method == "POST" and path == "/v1/billing/meter_events"
        return self.faults.draw(*(BILLING_FAULTS if bills else ("connection_refused", "reads_fail")))

    def _stream(self, call: Call, headers: Mapping[str, str], fault: str | None, now_ms: int) -> Answer:
        """A batch; what strikes a single event strikes one of the batch."""
        self._version(headers)
        self._rate(now_ms)
        if fault == "session_expired":
            raise stripe_stream.expired()
        self.streams.admit(headers, now_ms)
        self._throttled(fault, now_ms)
        events = stripe_stream.events_of(call.body)
        if fault == "batch_refused":
            raise stripe_stream.refused(self.faults.rng.randrange(len(events)))
        struck = self.faults.rng.randrange(len(events))
        for number, form in enumerate(events):
            of_one = fault if number == struck or fault == "reads_lag" else None
            try:
                self._meter_event(form, "", of_one, now_ms, self._streamed)
            except Refusal as refusal:  # it is looked at after the answer
                self._tell(form, refusal, now_ms)
        if fault == "error_500_after":
            raise broken()
        return reply({})

    def _tell(self, form: Mapping[str, str], refusal: Refusal, now_ms: int) -> None:
        meter = next((one.id for one in self.meters.values() if one.event_name == form["event_name"]), None)
        if not refusal.saved:  # of a duplicate nothing is said
            self._late.append(Late(now_ms, meter, refusal.code, str(refusal), form["identifier"]))

    def _worked_on(self, call: Call, now_ms: int) -> None:
        """A call whose answer nobody waits for any more; its key keeps it."""
        headers = {name.lower(): text for name, text in call.headers.items()}
        with suppress(Refusal):
            self._kept(call, urlsplit(call.url).path, headers, None, now_ms)

    def _stamped(self, answer: Answer, headers: Mapping[str, str]) -> Answer:
        stamps = {"request-id": f"req_{next(self._numbers)}", "stripe-version": headers.get("stripe-version", VERSION)}
        return Answer(answer.status, {**answer.headers, **stamps}, answer.body)

    def _admit(self, headers: Mapping[str, str], now_ms: int) -> None:
        """Key, version, rate."""
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not given:
            raise Refusal(401, "You did not provide an API key.")
        if given != self.secret_key:
            raise Refusal(401, f"Invalid API Key provided: {given[:8]}****{given[-4:]}")
        if self.forbidden:
            raise Refusal(403, f"The provided key '{given[:8]}***' does not have the required permissions.")
        self._version(headers)
        self._rate(now_ms)

    def _version(self, headers: Mapping[str, str]) -> None:
        version = headers.get("stripe-version", VERSION)
        if not _VERSIONED.fullmatch(version):
            raise Refusal(400, f"Invalid Stripe API version: {version}")

    def _rate(self, now_ms: int) -> None:
        if self.calls_per_s is None:
            return
        while self._recent and self._recent[0] <= now_ms - 1000:
            self._recent.popleft()
        if len(self._recent) >= self.calls_per_s:
            raise rate_limited({"stripe-should-retry": "true"})
        self._recent.append(now_ms)

    def _throttled(self, fault: str | None, now_ms: int) -> Answer | None:
        if fault == "throttled":
            seconds = self.faults.rng.randint(1, 20)
            date = format_datetime(datetime.fromtimestamp(now_ms // 1000 + seconds, UTC), usegmt=True)
            after = self.faults.rng.choice([{"retry-after": str(seconds)}, {"retry-after": date}, {}])
            raise rate_limited({**after, "stripe-should-retry": "true"})
        if fault == "throttled_nonsense":
            after = {"retry-after": self.faults.rng.choice(["soon", "-1", "1e999", "Wed, 99 Foo 2026", ""])}
            return Answer(429, {"content-type": "text/html", **after}, b"<h1>Slow down</h1>")
        if fault == "lock_timeout":
            text = "This object cannot be accessed right now because another API request or Stripe process is using it."
            raise Refusal(429, text, code="lock_timeout", headers={"stripe-should-retry": "true"})
        if fault == "error_500_before":
            raise broken()
        return None

    def _kept(self, call: Call, path: str, headers: Mapping[str, str], fault: str | None, now_ms: int) -> Answer:
        """A POST under its Idempotency-Key: the same key gives the saved answer, other parameters an error."""
        key = headers.get("idempotency-key", "")
        request = (call.method, path, call.body)
        if key in self.payments.under_way:
            text = "There is currently another in-progress request using this Idempotency Key."
            raise Refusal(409, text, kind="idempotency_error", code="idempotency_key_in_use")
        saved = self._saved.get(key)
        if key and saved is not None and now_ms - saved.at_ms < self.keeps_keys_ms:
            if saved.request != request:
                raise misused(key)
            return Answer(
                saved.answer.status, {**saved.answer.headers, "idempotent-replayed": "true"}, saved.answer.body
            )
        keep = True
        try:
            answer = broken().answer() if fault == "cached_500" else self._post(path, call.body, key, fault, now_ms)
        except Refusal as refusal:
            answer, keep = refusal.answer(), refusal.saved
        if fault == "error_500_after":
            answer, keep = broken().answer(), True
        if key and keep:
            self._saved[key] = Saved(request, answer, now_ms)
        return answer

    def _post(self, path: str, body: bytes, key: str, fault: str | None, now_ms: int) -> Answer:
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        parts = path.strip("/").split("/")
        match parts:
            case ["v1", "billing", "meter_events"]:
                return reply(self._meter_event(form, key, fault, now_ms, self._taken))
            case ["v1", "billing", "meter_event_adjustments"]:
                return reply(self.events.adjust(form, now_ms))
            case ["v2", "billing", "meter_event_session"]:
                return self.streams.new_session(now_ms)
            case ["v1", "payment_intents"]:
                self._customer(required(form, "customer"))
                return self.payments.create(form, fault, now_ms)
            case ["v1", "checkout", "sessions"]:
                self._customer(required(form, "customer"))
                return self.payments.new_page(form)
            case ["v1", "billing_portal", "sessions"]:
                self._customer(required(form, "customer"))
                return self.payments.portal(form)
            case ["v1", "customers"]:
                customer_id = f"cus_{next(self._numbers)}"
                self.add_customer(customer_id)
                return reply(customer(customer_id, deleted=False))
            case ["v1", "billing", "meters"]:
                return reply(self._new_meter(form).shape())
            case ["v1", "billing", "meters", meter_id, "deactivate" | "reactivate" as what]:
                found = self._meter(meter_id)
                found.active = what == "reactivate"
                return reply(found.shape())
        raise unrecognized("POST", path)

    def _new_meter(self, form: Mapping[str, str]) -> Meter:
        name = required(form, "event_name")
        if any(meter.event_name == name and meter.active for meter in self.meters.values()):
            raise Refusal(400, f"A meter with the event name {name} already exists.", param="event_name")
        found = self.add_meter(name, formula=required(form, "default_aggregation[formula]"))
        found.customer_key = form.get("customer_mapping[event_payload_key]", found.customer_key)
        found.value_key = form.get("value_settings[event_payload_key]", found.value_key)
        found.window = form.get("event_time_window")
        if found.window not in (None, *GROUPS_S):
            raise Refusal(400, "Invalid event_time_window: must be one of day or hour", param="event_time_window")
        return found

    def _meter_event(
        self, form: Mapping[str, str], key: str, fault: str | None, now_ms: int, taken: dict[str, int]
    ) -> Json:
        """`taken`: when each identifier came last, this way."""
        name = required(form, "event_name")
        identifier = form.get("identifier") or f"auto_{next(self._numbers)}"
        if len(identifier) > 100:
            raise Refusal(400, "Invalid string: must be at most 100 characters", param="identifier")
        stamp = timestamp_of(form.get("timestamp"), now_ms)
        meter = next((one for one in self.meters.values() if one.event_name == name and one.active), None)
        if meter is None:
            raise Refusal(400, f"No active meter found for event name {name}.", param="event_name", code="no_meter")
        payload = {unquote(k[8:-1]): text for k, text in form.items() if k.startswith("payload[") and k.endswith("]")}
        value = value_of(payload.get(meter.value_key))
        who = payload.get(meter.customer_key)
        if not who:
            raise Refusal(400, f"Customer mapping key {meter.customer_key} not found in payload.", param="payload")
        if now_ms - taken.get(identifier, now_ms - DAY_MS) < DAY_MS:
            headers = {"stripe-should-retry": "false"}
            raise Refusal(400, DUPLICATE.format(identifier), param="identifier", headers=headers, saved=True)
        taken[identifier] = now_ms
        self._settle(meter, who, identifier, Charge(stamp, value, self._visible_ms(fault, now_ms)), key, fault, now_ms)
        return meter_event(name, identifier, payload, stamp, now_ms // 1000)

    def _settle(
        self, meter: Meter, who: str, identifier: str, charge: Charge, key: str, fault: str | None, now_ms: int
    ) -> None:
        """Stripe validates the customer after it has answered."""
        if fault == "accepted_then_lost":
            return
        late = None
        if fault == "late_rejection":
            late = ("archived_meter", "The meter was archived while the event was processed.")
        if self.customers.get(who, True):
            late = ("meter_event_customer_not_found", f"Customer not found: {who}")
        if late is not None:
            self._late.append(Late(now_ms, meter.id, *late, key or identifier))
            return
        self.events.add(Event(meter, who, identifier, charge, now_ms))

    def _visible_ms(self, fault: str | None, now_ms: int) -> int:
        more = self.faults.rng.randint(1, MAX_LAG_MS) if fault == "reads_lag" else 0
        return now_ms + self.lag_ms + more

    def _get(self, path: str, query: Mapping[str, str], fault: str | None, now_ms: int) -> Answer:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        match parts:
            case ["v1", "payment_intents"]:
                return self.payments.listed(query, fault, now_ms)
            case ["v1", "checkout", "sessions"]:
                return self.payments.pages_of(query)
            case ["v1", "account"]:
                return reply({"id": self.account, "object": "account"})
            case ["v1", "billing", "meters"]:
                listed = [one.shape() for one in reversed(self.meters.values())]
                wanted = [one for one in listed if query.get("status") in (None, one["status"])]
                return reply(page(wanted, path, query))
            case ["v1", "billing", "meters", meter_id]:
                return reply(self._meter(meter_id).shape())
            case ["v1", "billing", "meters", meter_id, "event_summaries"]:
                return reply(page(self._summaries(self._meter(meter_id), query, now_ms), path, query))
            case ["v1", "customers", customer_id]:
                self._customer(customer_id)
                card = self.payments.defaults.get(customer_id)
                return reply(customer(customer_id, deleted=self.customers[customer_id], card=card))
            case ["v2", "core", "events", event_id] if event_id in self.v2_events:
                return reply(self.v2_events[event_id])
            case ["v2", "core", "events", event_id]:
                raise Refusal(404, f"No such event: {event_id}", code="not_found", kind="invalid_request_error")
        raise unrecognized("GET", path)

    def _meter(self, meter_id: str) -> Meter:
        if meter_id not in self.meters:
            raise Refusal(404, f"No such meter: '{meter_id}'", code="resource_missing", param="id")
        return self.meters[meter_id]

    def _customer(self, customer_id: str) -> None:
        if customer_id not in self.customers:
            raise Refusal(404, f"No such customer: '{customer_id}'", code="resource_missing", param="id")

    def _summaries(self, meter: Meter, query: Mapping[str, str], now_ms: int) -> Sequence[Json]:
        who = required(query, "customer")
        self._customer(who)
        start, end, step = range_of(query)
        minutes = self.events.charges.get((meter.id, who), {})
        found = []
        for low in range(start, end, step):
            seen = [one for one in between(minutes, low, low + step) if one.visible_ms <= now_ms]
            if seen or (self.zero_summaries and step == end - start):
                found.append(summary(meter.id, who, low, low + step, aggregated(meter.formula, seen)))
        return found[::-1]

    def _after(self, fault: str | None, answer: Answer) -> HttpResult:
        if fault in ("answer_lost", "late_listing"):
            return NoAnswer("the connection was cut")
        if fault == "garbage":
            return garbled(self.faults.rng, answer)
        return odd(self.faults, answer) if fault == "nonsense" else answer
