"""The emulated Autumn against the recording of a running one with a credit system: every recorded call is made again.

Guarantee: status and body are equal but for generated ids and times, and so are the webhooks, in their order. The
recorder's sections are not in the order of its clock; `PLAYED` is that order, by the times that the recording shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from drawdown.providers.http import Answer, Call
from tests.acceptance.gentd26 import DATA
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.autumn_account import Track
from tests.emulators.autumn_numbers import ONE_OFF, Given, Json, exact

FILE = DATA / "autumn_credits_wire.md"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FILE.exists(), reason="needs the recording beside the project (../shared/data)"),
]

START_MS = 1_795_799_971_925
WRONG_KEY = "am_sk_test_wrong"
"""Sixteen characters: the recording shows fifteen of a key, and one star."""
SIZES = (1, 2, 4, 8, 16, 32, 64)
CALLS, WEBHOOKS = 225, 31

NOT_EMULATED = {
    "C50": "version 1.2.0 has another shape; we never call it. Its charge is made beside",
    "K8": "version 1.2.0 has another shape; we never call it. Its charge is made beside",
    "H15": "the recorder's stand-in had no contents for this version, where the real list has",
}

# What the answers were shortened by (see "Reading it" in the recording).

RESET: Json = {"interval": "one_off", "resets_at": None}
SHORT: dict[str, Json] = {
    "@b": {"unlimited": False, "overage_allowed": False, "max_purchase": None, "next_reset_at": None},
    "@o": {"plan_id": None, "prepaid_grant": 0, "unlimited": False, "reset": RESET, "price": None, "expires_at": None},
    "@d": {"plan_id": None, "reset": RESET},
    "@c": {
        "fingerprint": None, "stripe_id": None, "env": "sandbox", "metadata": {}, "send_email_receipts": False,
        "subscriptions": [], "purchases": [], "licenses": [], "flags": {}, "config": {},
    },
}  # fmt: skip


def expand(value: Any) -> Any:
    if isinstance(value, list):
        return [expand(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: expand(one) for name, one in value.items()}
    for tag, rest in SHORT.items():
        if found.pop(tag, None):
            found.update(rest)
    if isinstance(found.get("balances"), dict):
        told = found["balances"].items()
        found["balances"] = {name: found["balance"] if one == "@balance" else one for name, one in told}
    return found


@dataclass
class Recorded:
    """One call, and its answer; `text` where that is not JSON."""

    name: str
    path: str
    version: str
    headers: dict[str, str]
    body: str
    status: int
    told: Any = None
    text: str = ""


CALL = re.compile(
    r"`POST (\S+)`  x-api-version: ([0-9.]+)((?:, [a-z-]+: [^,\n]+)*)\n```json\n(.*?)\n```\nAnswer (.*)", re.S
)
SAME = re.compile(r"body identical to ([A-Z0-9-]+)\.")


def recorded() -> dict[str, Recorded]:
    """The calls by their names, in the order of the file."""
    found: dict[str, Recorded] = {}
    for part in re.split(r"^### ", FILE.read_text(), flags=re.M)[1:] if FILE.exists() else []:
        name, asked = part.partition(". ")[0], CALL.search(part)
        if asked is None:
            continue
        headers = dict(one.split(": ", 1) for one in asked[3].split(", ")[1:])
        made = Recorded(name, asked[1], asked[2], headers, asked[4], int(asked[5][:3]))
        same, answered = SAME.search(asked[5]), re.search(r"```(json|text)\n(.*?)\n```", asked[5], re.S)
        if same:
            made.told = found[same[1]].told
        elif answered and answered[1] == "json":
            made.told = expand(json.loads(answered[2]))
        elif answered:
            made.text = answered[2]
        found[name] = made
    return found


def sent() -> Iterator[tuple[str, str, str, str]]:
    """The table of all webhooks: type, customer, feature, detail."""
    for row in re.findall(r"^\| \d+ \| (.*) \|$", FILE.read_text() if FILE.exists() else "", re.M):
        kind, customer, feature, detail = (cell.strip() for cell in row.split(" | "))
        yield kind, customer, feature, detail


PLAYED = (
    r"A\d+", r"B\d+", r"C([1-9]|[12]\d|3[01])", r"[DEFG]\d+", r"H\d+", r"I\d+", r"J(1?\d)", r"K[1-6]", r"L\d+", r"M\d+",
    r"C(3[2-9]|4\d|5[01])", r"K[78]", r"J[23]\d", r"B2-\d+",
)  # fmt: skip
"""J20 to J30, C32 to C51, K7, K8 and B2 came after L: their customers were created then."""


def place(name: str) -> int:
    (found,) = [n for n, pattern in enumerate(PLAYED) if re.fullmatch(pattern, name) and not _later(name, pattern)]
    return found


def _later(name: str, pattern: str) -> bool:
    return pattern == r"J(1?\d)" and name in ("J20", "J30")


@dataclass
class Replay:
    """One emulator through the whole recording."""

    emulator: AutumnEmulator = field(default_factory=AutumnEmulator)
    now_ms: int = START_MS
    cursor: str = ""

    def play(self, one: Recorded) -> Answer:
        self.now_ms += 1_000
        BESIDE.get(one.name, no_more)(self)
        token = WRONG_KEY if "authorization" in one.headers else SECRET_KEY
        headers = {**one.headers, "x-api-version": one.version, "authorization": f"Bearer {token}"}
        # A recorded cursor names an event by its generated id: ours takes its place.
        ours = f'"start_cursor":"{self.cursor}"'
        body = re.sub(r'"start_cursor":"ey[^"]+"', lambda _: ours, one.body)
        answer = self.emulator.handle(Call("POST", f"https://api.test{one.path}", headers, body.encode()), self.now_ms)
        assert isinstance(answer, Answer), one.name
        found = re.search(rb'"next_cursor":"([^"]+)"', answer.body)
        self.cursor = found[1].decode() if found else self.cursor
        return answer

    def customer(self, number: int, *grants: Given, plan: str | None = None, **controls: object) -> str:
        """`org-NN` with what was granted to it."""
        name, account = f"org-{number:02d}", self.emulator.account
        account.add_customer(name, self.now_ms, name, f"{name}@autumn.local")
        if plan:
            account.attach(name, plan, self.now_ms)
        for amount in grants:
            self.grant(name, amount)
        account.control(name, controls, self.now_ms)
        return name

    def grant(
        self, name: str, amount: Given, given: str | None = None, *, of: str = "credits", ends: int | None = None
    ) -> None:
        account = self.emulator.account
        account.grant(name, of, amount, self.now_ms, interval=ONE_OFF, given=given, expires_at=ends)

    def charge(self, name: str, value: Given, feature: str = "compute_64gb", version: str = "2.3.0") -> None:
        account = self.emulator.account
        track = Track(name, account.features[feature], exact(value), None, "overflow", {}, None, None, version)
        account.charge(track, self.now_ms)


def limit(feature: str, most: int, interval: str, **more: object) -> Json:
    return {"feature_id": feature, "enabled": True, "limit": most, "interval": interval, **more}


def spend(most: int) -> list[Json]:
    return [{"feature_id": "credits", "enabled": True, "overage_limit": most}]


def alert(threshold: int, kind: str, name: str) -> Json:
    return {"feature_id": "credits", "enabled": True, "threshold": threshold, "threshold_type": kind, "name": name}


ON: Json = {"feature_id": "credits", "enabled": True}
K1_ONLY: Json = {"properties": {"api_key": "k1"}}


def start(replay: Replay) -> None:
    """The organisation, and customers 01 to 20 (the recording's table "Set-up of the customers")."""
    account = replay.emulator.account
    for size in SIZES:
        account.add_feature(f"compute_{size}gb", title=f"Compute {size}GB")
    schema = {f"compute_{size}gb": size / 10_000 for size in SIZES}
    account.add_feature("credits", kind="credit_system", title="Credits", credit_schema=schema)
    account.add_plan("team", {"credits": (1000, "month")})
    account.add_plan("capped", {"credits": (10, "month")}, controls={
        "usage_limits": [limit("compute_64gb", 5000, "day", anchor="utc")], "spend_limits": spend(5),
        "overage_allowed": [ON], "usage_alerts": [alert(80, "usage_percentage", "eighty")],
    })  # fmt: skip
    replay.customer(1, 100)
    two = replay.customer(2, plan="team")
    replay.grant(two, 50, "topup-1")
    replay.grant(two, 25, "topup-2")
    three = replay.customer(3)
    replay.grant(three, 40, "promo-1", ends=1_797_009_571_925)
    replay.grant(three, 10)
    replay.customer(4, plan="team")
    # A usage-based price would do this; the recorder wrote it into the database.
    account.customers["org-04"].grants["credits"][0].overage_allowed = True
    five = replay.customer(5, plan="team", spend_limits=spend(25), overage_allowed=[ON],
        usage_limits=[limit("credits", 500, "month"), limit("compute_64gb", 2000, "day", anchor="utc"),
                      limit("compute_4gb", 300, "day", filter=K1_ONLY)],
        usage_alerts=[alert(1, "usage", "first-credit")])  # fmt: skip
    replay.grant(five, 50, "topup-5")
    replay.customer(6, plan="capped")
    replay.charge(replay.customer(7, 1), 156.25)
    replay.customer(8, 1)
    replay.grant(replay.customer(9), 100, of="compute_8gb")
    replay.grant("org-09", 10)
    replay.customer(10, 1, overage_allowed=[ON], spend_limits=spend(2))
    replay.customer(11, 100, usage_limits=[limit("credits", 10, "month")])
    for number in (12, 13, 14):
        replay.customer(number, 10)
    replay.customer(15)
    replay.customer(16)
    replay.customer(17, 1, spend_limits=spend(2))
    replay.customer(18, 100, usage_limits=[limit("compute_64gb", 600, "day")])
    replay.customer(19, 10, usage_alerts=[alert(50, "usage_percentage", "half"), alert(2, "remaining", "low")])
    replay.customer(20, 1)


def own_spend_limit(replay: Replay) -> None:
    replay.emulator.account.control("org-06", {"spend_limits": spend(8)}, replay.now_ms)


def second_round(replay: Replay) -> None:
    """Customers 24 to 29."""
    replay.grant(replay.customer(24), 100, of="compute_8gb")
    replay.grant("org-24", 10)
    replay.customer(25, 100, usage_limits=[limit("credits", 10, "month")])
    replay.customer(26, 100, usage_limits=[limit("compute_4gb", 300, "day", filter=K1_ONLY)])
    replay.customer(28, 1)
    replay.customer(29)


def short_lived(replay: Replay) -> None:
    replay.grant(replay.customer(27), 5, "short-1", ends=replay.now_ms + 4_000)
    replay.grant("org-27", 3)


def no_more(replay: Replay) -> None:
    """Nothing happened beside a call."""


def customers(*given: tuple[int, Given]) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        for number, amount in given:
            replay.customer(number, amount)

    return happened


def packs(number: int) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        name = replay.customer(number)
        replay.grant(name, 20, "pack-1")
        replay.grant(name, 10, "pack-2")

    return happened


def renamed(number: int) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        replay.emulator.account.customers[f"org-{number:02d}"].title = f"Org {number:02d}"

    return happened


def store(state: str, queue_ms: int = 0) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        replay.emulator.balance_store = state
        replay.emulator.queue_ms = queue_ms

    return happened


def wait(ms: int) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        replay.now_ms += ms

    return happened


def each(*all_of: Callable[[Replay], None]) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        for one in all_of:
            one(replay)

    return happened


def five_lists(replay: Replay) -> None:
    for _ in range(5):
        headers = {"authorization": f"Bearer {SECRET_KEY}"}
        call = Call("POST", "https://api.test/v1/events.list", headers, b'{"customer_id":"org-13","limit":1}')
        replay.emulator.handle(call, replay.now_ms)


BESIDE: dict[str, Callable[[Replay], None]] = {
    "A1": start,
    "B12": own_spend_limit,
    "E1": store("up", 500),
    "E2": wait(-999),  # at once: before the queue is worked off
    "E6": wait(4_000),
    "L1": customers((30, 10), (31, 10)),
    "L2": each(lambda replay: replay.charge("org-30", 1, "compute_4gb"), store("hanging", 500)),
    "L3": store("up"),
    "L4": store("hanging", 60_000),
    "L6": store("up"),
    "L7": wait(5_000),
    "L8": store("hanging", 15_000),
    "L14": store("hanging", 40_000),
    "L16": store("up"),
    "L17": wait(12_000),
    "L21": wait(70_000),
    "M1": five_lists,
    "C32": second_round,
    "C46": short_lived,
    "C48": wait(5_000),
    "C50": lambda replay: replay.charge("org-28", 500, version="1.2.0"),
    "K7": customers((40, 1), (41, 3)),
    "K8": lambda replay: replay.charge("org-41", 3, "credits", "1.2.0"),
    "J20": packs(42),
    "B2-1": packs(43),
    "B2-7": renamed(7),
    "B2-10": renamed(20),
    "B2-12": lambda replay: replay.grant(replay.customer(44), 2, "own-1"),
    "B2-13": renamed(44),
}
"""What the recorder did beside a call, before it. The queue was its stand-in, with delays of its own."""

TIMES = frozenset(
    {"created_at", "started_at", "next_reset_at", "resets_at", "timestamp", "expires_at", "current_period_start"}
)
GENERATED = re.compile(r"(bal|sub|evt|cus_ent|cus_prod)[-_]\d+")


def same(value: object, name: str = "") -> object:
    """A body without what is made anew each time; whether there is one stays. Numbers to twelve digits: one recorded
    deduction shows the noise of a binary fraction (K1: 5.759999999999999)."""
    if isinstance(value, dict):
        return {("a balance" if GENERATED.fullmatch(key) else key): same(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [same(one) for one in value]
    if name in TIMES and isinstance(value, int):
        return "a time"
    if isinstance(value, str):
        if name in ("balance_id", "id") and GENERATED.fullmatch(value):
            return "an id"
        return "a cursor" if name == "next_cursor" else value
    return float(f"{value:.12g}") if isinstance(value, float) else value


def trouble(one: Recorded, answer: Answer) -> str | None:
    """How an answer differs from the recorded one."""
    if answer.status != one.status:
        return f"{answer} instead of {one.status}"
    if one.text:
        return None if answer.body.decode() == one.text else f"{answer} instead of {one.text}"
    expected = one.told
    if one.name == "B16":
        expected = {**one.told, "message": f"Invalid secret key: {WRONG_KEY[:15]}*"}
    ours = same(json.loads(answer.body))
    return None if ours == same(expected) else f"{ours}\ninstead of\n{same(expected)}"


def played() -> tuple[Replay, list[str], int]:
    replay, differing, equal = Replay(), [], 0
    for one in sorted(recorded().values(), key=lambda one: place(one.name)):
        if one.name in NOT_EMULATED:
            replay.now_ms += 1_000
            BESIDE.get(one.name, no_more)(replay)
            continue
        found = trouble(one, replay.play(one))
        equal += found is None
        differing += [f"{one.name}: {found}"] if found else []
    return replay, differing, equal


def test_emulator_repeats_each_recorded_credit_answer() -> None:
    _replay, differing, equal = played()
    assert differing == []
    assert equal == CALLS - len(NOT_EMULATED)


def test_emulator_sends_recorded_webhooks_in_order() -> None:
    replay, _differing, _equal = played()
    expected = list(sent())
    assert len(expected) == WEBHOOKS
    assert [_row(one) for one in replay.emulator.webhooks] == [_shape(*one) for one in expected]
    (first,) = [one for one in replay.emulator.webhooks if one["type"] == "billing.updated"][:1]
    shown = re.search(r"### N1\. .*?```json\n(.*?)\n```", FILE.read_text(), re.S)
    assert shown is not None and same(json.loads(shown[1])) == same(first)


def _row(webhook: Json) -> tuple[str, str, str, object]:
    kind, data = str(webhook["type"]), webhook["data"]
    assert isinstance(data, dict)
    customer = data.get("customer_id") or data["customer"]["id"]
    feature = data.get("feature_id") or data.get("feature", {}).get("id", "")
    if kind == "billing.updated":
        return kind, customer, feature, data["plan_changes"][0]["action"]
    return (
        kind,
        customer,
        feature,
        data.get("limit_type") or data.get("usage_alert") or (data.get("scenario") or data["threshold_type"]),
    )


def _shape(kind: str, customer: str, feature: str, detail: str) -> tuple[str, str, str, object]:
    return kind, customer, feature, json.loads(detail) if detail.startswith("{") else detail


def test_emulator_truth_of_recording_is_exact_in_base_units() -> None:
    replay, _differing, _equal = played()
    account = replay.emulator.account
    assert account.by_key["c-07"] == 250, "100 of its own and 0.12 credits"
    assert account.by_key["c-09"] * 64 == 30_000, "clamped by the spend limit: 3 credits at 0.0064"
    assert "c-10" not in account.by_key and "q-3" not in account.by_key, "nothing was taken"
    assert account.by_key["k-1"] == 900 and account.doubles == []
    drawn = account.drawn["org-09", "credits"]
    assert drawn == Decimal("-0.04") and account.drawn["org-09", "compute_8gb"] == 100


def test_calls_not_emulated_are_part_of_recording() -> None:
    names = recorded().keys()
    assert len(names) == CALLS and names >= NOT_EMULATED.keys() | BESIDE.keys()
