"""Autumn, emulated: a state machine without I/O, faithful to the recording of a running server (August 2026).

Guarantee: without faults it answers the recorded calls as they were answered (test_autumn_recording.py replays them).
Faults are drawn from the seeded plan, each call at most one; what was really charged stands in `charged_by`.

Kinds of faults. Charges: request_lost, answer_lost, error_500_before, error_500_after, throttled, throttled_nonsense,
queued_late, queued_dropped, claimed_not_applied, uncharged_200, accepted_then_lost, key_store_refuses, key_store_hangs.
Where it loses data itself: event_lost (200, drawn, and no event ever), killed_before_event (so, without an answer),
event_alone (200 and the event; what was drawn is lost with its store before it was written).
Of the balance store: queued_charged_no_event (a slow one: 202, charged at once, and no event ever); `lose_balances`.
Reads: reads_fail, reads_lag, stale_read (a customer as of up to half a minute ago). Both: connection_refused, nonsense.
Of an attach: see `autumn_payments`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.kit.emulator import FaultPlan
from tests.emulators import autumn_setup
from tests.emulators.autumn_account import QUEUE_MS, WINDOW_MS, Account, Insufficient, Track
from tests.emulators.autumn_call import Ask, Plain, Refused, answer_json, bad, duplicate, too_many, unavailable
from tests.emulators.autumn_draw import Asked, allows, told
from tests.emulators.autumn_locks import Locks
from tests.emulators.autumn_losses import Charge
from tests.emulators.autumn_numbers import Json, Units
from tests.emulators.autumn_payments import ATTACH_FAULTS, Books
from tests.emulators.autumn_state import balance
from tests.emulators.autumn_totals import aggregate, check_filters

VERSIONS = frozenset({"2.0.0", "2.1.0", "2.2.0", "2.3.0"})
SECRET_KEY = "am_sk_test_emulated0123456789"
LIVE_KEY = "am_sk_live_emulated0123456789"
TRACK_FAULTS = (
    "request_lost", "answer_lost", "error_500_before", "error_500_after", "throttled", "throttled_nonsense",
    "queued_late", "queued_dropped", "claimed_not_applied", "uncharged_200", "accepted_then_lost",
    "key_store_refuses", "key_store_hangs", "connection_refused", "nonsense",
)  # fmt: skip
LOSS_FAULTS = ("event_lost", "killed_before_event", "event_alone")
SLOW_FAULTS = ("queued_charged_no_event",)
"""Of tracks, where the balance store is slow."""
STALE_FAULTS = ("stale_read",)
"""Of `customers.get`."""
READ_FAULTS = ("reads_fail", "reads_lag", "connection_refused", "nonsense")
READS = frozenset(
    {
        "billing.preview_attach",
        "customers.get",
        "events.list",
        "events.aggregate",
        "features.list",
        "plans.list",
        "check",
    }
)
NONSENSE = (
    (200, b"<html><body>It works!</body></html>"), (200, b""), (200, b'{"customer_id":"c","value":1,"bal'),
    (502, b"<html><head><title>502 Bad Gateway</title></head></html>"), (200, b"[]"), (200, b"null"), (302, b""),
    (200, b'{"customer_id":null}'), (503, b"\xff\xfe\x00"),
)  # fmt: skip
FATES = {
    "accepted_then_lost": "gone", "event_lost": "no event but 200", "killed_before_event": "no event",
    "event_alone": "not drawn", "queued_charged_no_event": "no event",
}  # fmt: skip
WAITS = ("", "soon", "-5", "1e9", "99999999999999", "Fri, 31 Dec 1999 23:59:59 GMT", "0.001", "Wed, 32 Foo 2026")
HANG_MS = 60_000
STALE_MS = 30_000
"""How old a stale read is, at most."""
LISTING_LAG_MS = 50_000
"""How far a lagging list is behind, at most: less than the provider declares."""


@dataclass
class AutumnEmulator:
    """One server. `key_store`: up, refusing (fails open) or hanging; `balance_store`: up, down or hanging;
    `event_store`: up, off (no list) or no_aggregate."""

    faults: FaultPlan = field(default_factory=FaultPlan)
    secret_key: str = SECRET_KEY
    live_key: str = LIVE_KEY
    account: Account = field(default_factory=Account)
    live: Account = field(default_factory=lambda: Account(env="live"))
    key_store: str = "up"
    balance_store: str = "up"
    event_store: str = "up"
    track_per_s: int = 10_000
    lists_per_s: int = 5
    tracks_per_minute: int = 120_000
    queue_ms: int = QUEUE_MS
    books: Books | None = None
    """Of the Stripe account that is linked; None: there is none, as when it was recorded."""
    locks: Locks = field(default_factory=Locks)
    list_stands_still: tuple[int, int] = (0, 0)
    """From when to when the list of events shows nothing new."""
    calls: Counter[str] = field(default_factory=Counter)
    """By route."""
    _second: tuple[int, Counter[str]] = field(default_factory=lambda: (0, Counter()))
    _minute: tuple[int, int] = (0, 0)

    # What tests ask

    def charged(self, customer: str, feature: str, window_ms: int) -> Units:
        """What was deducted for events dated in one window, doubles included."""
        return sum(
            value
            for (who, what, ts), value in self.account.truth.items()
            if who == customer and what == feature and window_ms <= ts < window_ms + WINDOW_MS
        )

    def charged_by(self) -> Mapping[tuple[str, str, int], Units]:
        """What was deducted, by customer, feature and the event's time, doubles included."""
        return self.account.truth

    def charged_under(self, key: str) -> Units | None:
        """What was deducted under a key, all times together; None: nothing."""
        return self.account.by_key.get(key)

    @property
    def doubles(self) -> list[Charge]:
        return self.account.doubles

    @property
    def lost(self) -> list[Charge]:
        return self.account.lost

    @property
    def webhooks(self) -> list[Json]:
        """What was sent, in order."""
        return self.account.hooks.sent

    def sync(self) -> None:
        """Have the balances written down."""
        self.account.sync()

    def lose_balances(self, now_ms: int) -> None:
        """Kill the balance store before its sync: see `account.undone` for what that gave back."""
        self.faults.counts["balances_lost"] += 1
        self.work_off(now_ms)
        self.account.lose_balances(now_ms)
        self.locks.lose_store()

    def work_off(self, now_ms: int) -> None:
        """Let time pass: apply what was queued."""
        if self.balance_store == "up":
            self.account.work_off(now_ms)

    # What is called

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        self.work_off(now_ms)
        path = urlsplit(call.url).path
        headers = {name.lower(): text for name, text in call.headers.items()}
        route = path.removeprefix("/v1/")
        self.calls[route] += 1
        kinds = self._kinds(route)
        fault = self.faults.draw(*kinds) if kinds and self.faults.rates else None
        if self.faults.rates.get("stale_read"):
            self.account.past.keep_ms = STALE_MS
        account = self.live if headers.get("authorization") == f"Bearer {self.live_key}" else self.account
        before = self._struck_before(fault)
        if before is not None:
            return before
        try:
            status, body = self._answer(Ask(account, call, headers, route, now_ms, fault))
            answer: HttpResult = answer_json(status, body)
        except Refused as no:
            told = {"message": no.message, "code": no.code, "env": account.env}
            answer = answer_json(no.status, told, {name.replace("_", "-"): text for name, text in no.headers.items()})
        except Plain as plain:
            answer = plain.answer
        return self._struck_after(fault, answer)

    def _kinds(self, route: str) -> tuple[str, ...]:
        """The faults that may strike a call."""
        if route == "billing.attach" and self.books is not None:
            return ATTACH_FAULTS
        if route == "track":
            return (*TRACK_FAULTS, *LOSS_FAULTS, *SLOW_FAULTS)
        if route == "customers.get":
            return (*READ_FAULTS, *STALE_FAULTS)
        return READ_FAULTS if route in READS else ()

    def _struck_before(self, fault: str | None) -> HttpResult | None:
        """Faults that keep a call from being taken at all."""
        rng = self.faults.rng
        match fault:
            case "request_lost":
                return NoAnswer("the connection was cut")
            case "connection_refused":
                return NotSent("connection refused")
            case "error_500_before":
                return answer_json(500, {"message": "boom", "code": "internal_error", "env": "sandbox"})
            case "throttled":
                return too_many("1")
            case "throttled_nonsense":
                return too_many(rng.choice(WAITS))
            case "nonsense" if rng.random() < 0.5:
                return _nonsense(rng.choice(NONSENSE))
            case "reads_fail":
                failures: list[HttpResult] = [unavailable(), too_many("1"), NoAnswer("timed out"), answer_json(500, {})]
                return rng.choice(failures)
        return None

    def _struck_after(self, fault: str | None, answer: HttpResult) -> HttpResult:
        """Faults of the way back: the call was taken."""
        match fault:
            case "answer_lost" | "killed_before_event":
                return NoAnswer("the connection was cut")
            case "error_500_after":
                return answer_json(500, {"message": "boom", "code": "internal_error", "env": "sandbox"})
            case "nonsense":
                return _nonsense(self.faults.rng.choice(NONSENSE))
        return answer

    def _answer(self, ask: Ask) -> tuple[int, Json]:
        self._authorise(ask)
        routes: dict[str, Callable[[Ask], tuple[int, Json]]] = {
            "track": self._track,
            "balances.track": self._track,
            "check": self._check,
            "customers.get": self._get_customer,
            "customers.get_or_create": self._make_customer,
            "customers": self._make_customer,
            "customers.update": self._update_customer,
            "events.list": self._list_events,
            "events.aggregate": self._aggregate,
            "features.list": lambda one: (200, {"list": [f.shown() for f in one.account.features.values()]}),
            "features.create": autumn_setup.make_feature,
            "plans.list": lambda one: (200, {"list": [p.shown() for p in reversed(one.account.plans.values())]}),
            "plans.create": autumn_setup.make_plan,
            "balances.update": self._update_balance,
            "balances.create": autumn_setup.make_balance,
            "balances.batch_track": self._batch,
            "balances.finalize": self.locks.finalize,
            "billing.attach": autumn_setup.attach,
        }
        if self.books is not None:
            routes |= {"billing.attach": self.books.attach, "billing.preview_attach": self.books.preview}
            routes |= dict.fromkeys(("billing.setup_payment", "billing.open_customer_portal"), self.books.page)
        route = "customers.get" if ask.call.method == "GET" and ask.route.startswith("customers/") else ask.route
        handler = routes.get(route)
        if handler is None or (ask.call.method == "GET" and route == ask.route):
            raise Refused(401, "no_auth_header", "Unauthorized - no session found")
        if ask.header_key and self._store(ask) == "up" and ask.account.claimed(ask.header_key, ask.now_ms):
            raise duplicate(ask.header_key)
        return handler(ask)

    def _store(self, ask: Ask) -> str:
        """How the store of keys does at this call: one store holds the keys of bodies and of headers."""
        return {"key_store_refuses": "refusing", "key_store_hangs": "hanging"}.get(ask.fault or "", self.key_store)

    def _authorise(self, ask: Ask) -> None:
        token = ask.headers.get("authorization", "").removeprefix("Bearer ")
        if not token:
            raise Refused(401, "no_secret_key", "Secret key not found in Authorization header")
        if token.startswith("am_pk_"):
            place = urlsplit(ask.call.url).path
            message = f"Endpoint {place} not accessible via publishable key. Please try with a secret key instead."
            raise Refused(401, "endpoint_not_public", message)
        if not token.startswith("am_sk_"):
            raise Refused(401, "invalid_request", "Invalid authorization token prefix")
        if token not in (self.secret_key, self.live_key):
            hidden = token[:15] + "*" * (len(token) - 15)
            raise Refused(401, "invalid_secret_key", f"Invalid secret key: {hidden}")
        version = ask.headers.get("x-api-version", "2.3.0")
        if version not in VERSIONS:
            raise Refused(400, "invalid_api_version", f'"{version}" is not a valid API version')

    def _limit(self, ask: Ask, what: str, most: int) -> None:
        second = ask.now_ms // 1000
        if self._second[0] != second:
            self._second = (second, Counter())
        name = f"{what}:{ask.body.get('customer_id')}"
        self._second[1][name] += 1
        if self._second[1][name] > most:
            raise Plain(too_many("1"))

    # Charges

    def _track(self, ask: Ask) -> tuple[int, Json]:
        self._limit(ask, "track", self.track_per_s)  # before the key is claimed: a 429 is safe to repeat
        track = ask.read_track()
        return self._charge(ask, track)

    def _charge(self, ask: Ask, track: Track) -> tuple[int, Json]:
        account, now_ms = ask.account, ask.now_ms
        store = self._store(ask)
        known = track.body_key is not None and account.claimed(f"track:{track.body_key}", now_ms)
        if store == "hanging":
            # The claim blocks; when the store is back it is made, and the charge goes on without anyone waiting.
            if not known:
                account.claim(track, now_ms)
                account.enqueue(track, now_ms + HANG_MS)
            raise Plain(NoAnswer("timed out"))
        if known and store == "up":
            raise duplicate(f"track:{track.body_key}")
        if ask.fault == "claimed_not_applied":
            account.claim(track, now_ms)
            raise Plain(NoAnswer("the server was killed"))
        answer: Json = {"customer_id": track.customer, "value": track.value, "balance": None}
        if self._is_queued(ask):
            if store == "up":
                account.claim(track, now_ms)
            if ask.fault != "queued_dropped":
                account.enqueue(track, now_ms + self.queue_ms)
            return 202, answer
        customer = ask.known_customer(track.customer)
        if ask.fault == "uncharged_200":
            account.claim(track, now_ms)
            account.note(track, [], now_ms)
            return 200, answer | {"deductions": []}
        try:
            deductions = account.charge(track, now_ms, fate=FATES.get(ask.fault or "", ""))
        except Insufficient:
            message = f"Insufficient balance to deduct {track.value} from feature {track.feature.name}"
            raise Refused(400, "insufficient_balance", message) from None
        if store == "up":
            account.claim(track, now_ms)
        if ask.fault == "queued_charged_no_event":
            return 202, answer
        answer |= told(account.features, customer, (track.feature, track.value), ask.version)
        return 200, answer if ask.version < "2.1" else answer | {"deductions": deductions}

    def _is_queued(self, ask: Ask) -> bool:
        minute, count = self._minute
        self._minute = (ask.now_ms // 60_000, count + 1 if minute == ask.now_ms // 60_000 else 1)
        capped = self._minute[1] > self.tracks_per_minute
        asked = ask.body.get("async") is True or ask.fault in ("queued_late", "queued_dropped")
        return capped or asked or self.balance_store != "up"

    def _batch(self, ask: Ask) -> tuple[int, Json]:
        """200 whatever became of the items, unless a feature is unknown."""
        tracks = [ask.read_track(one) for one in ask.items]
        for track in tracks:
            if not any(ask.account.claimed(key, ask.now_ms) for key in track.claims):
                ask.account.claim(track, ask.now_ms)
                if track.customer in ask.account.customers:
                    ask.account.charge(track, ask.now_ms)
        return 200, {"success": True}

    def _check(self, ask: Ask) -> tuple[int, Json]:
        asked = ask.number("required_balance")
        needed = 1 if asked is None else asked
        answer: Json = {"allowed": True, "customer_id": ask.text("customer_id"), "required_balance": needed}
        feature = ask.known_feature()
        if self.balance_store != "up":
            # Fails open: nothing is known, and all is allowed.
            return 202, answer | {"balance": None, "flag": None}
        customer, account = ask.known_customer(ask.text("customer_id")), ask.account
        found = ask.body.get("properties")
        properties = found if isinstance(found, dict) else {}
        allowed, required, grants = allows(account.features, customer, Asked(feature, needed, properties, ask.now_ms))
        flag = customer.flags.get(feature.name)
        answer |= {"allowed": flag is not None if feature.kind == "boolean" else allowed, "required_balance": required}
        if answer["allowed"]:
            self.locks.take(ask, customer.name, feature, needed)
        answer |= {"balance": balance(grants, ask.version) if grants else None, "flag": flag}
        if ask.body.get("send_event") is True and allowed:
            track = Track(customer.name, feature, needed, None, "cap", properties, None, None, ask.version)
            account.charge(track, ask.now_ms)
            answer |= told(account.features, customer, (feature, needed), ask.version)
        return 200, answer

    # Reads

    def _get_customer(self, ask: Ask) -> tuple[int, Json]:
        self._needs_balances()
        name = ask.route.partition("/")[2] or ask.text("customer_id")
        customer = ask.known_customer(name)
        if ask.fault == "stale_read":
            customer = ask.account.past.at(customer, ask.now_ms - self.faults.rng.randrange(STALE_MS))
        answer = customer.shown(ask.account.env, ask.version, ask.now_ms)
        return 200, answer if self.books is None else self.books.shown(name, ask, answer)

    def _needs_balances(self) -> None:
        if self.balance_store != "up":
            raise Plain(unavailable())

    def _list_events(self, ask: Ask) -> tuple[int, Json]:
        self._limit(ask, "list", self.lists_per_s)
        check_filters(ask)
        if self.event_store == "off":
            raise Refused(500, "internal_error", "Tinybird is not configured")
        behind = self.faults.rng.randrange(LISTING_LAG_MS) if ask.fault == "reads_lag" else 0
        still_from, still_to = self.list_stands_still
        seen_at = still_from if still_from <= ask.now_ms < still_to else ask.now_ms - behind
        try:
            return 200, ask.account.events.page(ask.body, ask.version, seen_at)
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise Refused(400, "invalid_cursor", "cursor payload is not valid JSON") from None
        except (ValueError, TypeError, KeyError):  # its words were never observed
            raise bad("start_cursor: not a cursor of this list") from None

    def _aggregate(self, ask: Ask) -> tuple[int, Json]:
        self._limit(ask, "aggregate", self.lists_per_s)
        if self.event_store != "up":
            what = "Tinybird" if self.event_store == "off" else "Tinybird ClickHouse"
            raise Refused(500, "internal_error", f"{what} is not configured")
        return 200, aggregate(ask)

    # What is set up over HTTP

    def _make_customer(self, ask: Ask) -> tuple[int, Json]:
        autumn_setup.check_customer_id(ask)
        self._needs_balances()
        return autumn_setup.make_customer(ask)

    def _update_customer(self, ask: Ask) -> tuple[int, Json]:
        self._needs_balances()
        return autumn_setup.update_customer(ask)

    def _update_balance(self, ask: Ask) -> tuple[int, Json]:
        if self.balance_store != "up":
            reason = "timeout" if self.balance_store == "hanging" else "not_ready"
            message = f"[redis-unavailable] source=getCachedFullSubject:pipeline reason={reason}"
            raise Refused(500, "internal_error", message)
        return autumn_setup.update_balance(ask)


def _nonsense(one: tuple[int, bytes]) -> Answer:
    return Answer(one[0], {"content-type": "text/html"}, one[1])
