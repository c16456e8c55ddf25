"""The emulated Autumn against the recording of a running one: every recorded call is made again, in order.

Guarantee: status and body are equal but for generated ids and times; the calls that are not emulated are named below,
each with its reason. Where the recording tells a balance after a call, the emulator's has to be the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from drawdown.providers.http import Answer, Call, NoAnswer, NotSent
from drawdown.providers.kit.emulator import FaultPlan
from tests.acceptance.gentd26 import DATA
from tests.emulators.autumn import LIVE_KEY, SECRET_KEY, AutumnEmulator
from tests.emulators.autumn_numbers import Json
from tests.emulators.autumn_state import balance

FILE = DATA / "autumn_wire.md"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FILE.exists(), reason="needs the recording beside the project (../shared/data)"),
]

START_MS = 1_795_156_863_000
WRONG_KEY = "am_sk_test_wron" + "g" * 38
CREATED_SILENTLY = re.compile(r"cus_[3-9]|cus_[derkqmy]|cus_rl|cus_ro|cus_p[12]")
"""Customers that the recording uses without having shown how they were made."""

NOT_EMULATED = {
    "entities.create": "entities: we bill customers only",
    "entity_id known": "entities: we bill customers only",
    "check with lock": "locks: we never reserve",
    "balances.finalize release": "locks: we never reserve",
}

BALANCE_DIFFERS = {
    "BALANCE REDIS back (empty): key q6": "two stores that disagree for a while are one store here",
}


@dataclass
class Recorded:
    """One call. `status` None: no answer came, for the reason in `text`. `balances`: what was read afterwards."""

    line: int
    title: str
    method: str
    path: str
    version: str | None
    headers: dict[str, str]
    body: str
    status: int | None
    text: str
    balances: list[tuple[str, str, Json]] = field(default_factory=list)


def recorded() -> Iterator[Recorded]:
    """The calls in order; summaries of bursts and prose are no calls."""
    if not FILE.exists():
        return
    lines = FILE.read_text().splitlines()
    found: Recorded | None = None
    for at, line in enumerate(lines):
        if line.startswith("### ") or line.startswith("## "):
            if found is not None:
                yield found
            found = _call(lines, at) if line.startswith("### ") else None
        told = re.fullmatch(r"\(balance (\S+)/(\S+): granted=(\S+) remaining=(\S+) usage=(\S+)\)", line)
        if told and found is not None:
            figures = {name: json.loads(told[3 + at]) for at, name in enumerate(("granted", "remaining", "usage"))}
            found.balances.append((told[1], told[2], figures))


def _call(lines: list[str], at: int) -> Recorded | None:
    asked = re.match(r"`(\w+) (\S+)` (?:x-api-version: (\S+) extra-headers: (.*)|ver=(\S+) hdr=(.*))$", lines[at + 1])
    if asked is None:
        return None
    version, extra = asked[3] or asked[5], asked[4] or asked[6]
    headers = dict(re.findall(r"'([^']+)': '([^']+)'", extra))
    body = lines[at + 2].removeprefix("req: `").removesuffix("`")
    answered = re.match(r"-> \*\*(\d+)\*\*", lines[at + 3])
    status = int(answered[1]) if answered else None
    text = lines[at + 5] if answered else lines[at + 3]
    version = None if version == "None" else version
    return Recorded(at + 1, lines[at][4:], asked[1], asked[2], version, headers, body, status, text)


class Replay:
    """One emulator through the whole recording. `before` does what happened beside the recorded calls."""

    def __init__(self) -> None:
        self.emulator = AutumnEmulator()
        self.now_ms = START_MS
        self.cursor = ""

    def track(self, customer: str, value: float = 1, **more: object) -> None:
        body = {"customer_id": customer, "feature_id": "gpu_seconds", "value": value, **more}
        answer = self.emulator.handle(self.made("POST", "/v1/track", {}, json.dumps(body)), self.now_ms)
        assert isinstance(answer, Answer) and answer.status == 200

    def made(self, method: str, path: str, headers: dict[str, str], body: str) -> Call:
        own = {"authorization": f"Bearer {SECRET_KEY}", **headers}
        return Call(method, f"https://api.test{path}", own, body.encode())

    def play(self, one: Recorded) -> Answer | NoAnswer | NotSent:
        self._time(one)
        for name in re.findall(r'"customer_id": "([^"]+)"', one.body):
            if CREATED_SILENTLY.fullmatch(name) and name not in self.emulator.account.customers:
                self.emulator.account.add_customer(name, self.now_ms, title=name)
        for pattern, happened in BESIDE:
            if re.match(pattern, one.title):
                happened(self)
        headers = dict(one.headers) | ({"x-api-version": one.version} if one.version else {})
        headers["authorization"] = f"Bearer {_token(one.title)}" if _token(one.title) else ""
        # A recorded cursor names an event by its generated id: ours takes its place.
        body = re.sub(r'"start_cursor": "[^"]+"', lambda _: f'"start_cursor": "{self.cursor}"', one.body)
        call = self.made(one.method, one.path, headers, "" if body == "null" else body)
        answer = self.emulator.handle(call, self.now_ms)
        found = re.search(rb'"next_cursor":"([^"]+)"', answer.body) if isinstance(answer, Answer) else None
        self.cursor = found[1].decode() if found else ""
        return answer

    def _time(self, one: Recorded) -> None:
        """A second a call, but for those that depend on the moment, and bursts within one second."""
        if one.title == "track timestamp future +2s":
            self.now_ms = MOMENTS[one.title]
        elif one.title in MOMENTS:
            self.now_ms = max(self.now_ms + 1_000, MOMENTS[one.title])
        elif not re.search(r"burst [1-9]", one.title):
            self.now_ms += 1_000


def _token(title: str) -> str:
    tokens = {"no Authorization": "", "garbage token": "garbage", "publishable key": "am_pk_test_x"}
    tokens |= {"bad secret key": WRONG_KEY, "bad secret key 2.1.0": WRONG_KEY, "live key (other env)": LIVE_KEY}
    return tokens.get(title.removeprefix("auth: "), SECRET_KEY)


MOMENTS = {
    "track timestamp past 2 days": 1_795_156_900_415,
    "track timestamp future +2s": 1_795_156_900_415,
    "track timestamp seconds": 1_795_156_901_000,
    "BALANCE REDIS HUNG: key r1": 1_795_157_090_300,
    "SQS HUNG, Redis ok: key q1": 1_795_157_238_900,
    "events.list 2.3.0 limit 2": 1_795_157_624_490,
    "events.aggregate 2.3.0 7d (ClickHouse stub too)": 1_795_157_880_000,
}


def _set(**changes: object) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        for name, value in changes.items():
            setattr(replay.emulator, name, value)

    return happened


def _fault(kind: str | None) -> Callable[[Replay], None]:
    return _set(faults=FaultPlan(rates={kind: 1.0} if kind else {}))


def _tracks(customer: str, count: int = 1) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        for _ in range(count):
            replay.track(customer)

    return happened


def _wait(ms: int) -> Callable[[Replay], None]:
    def happened(replay: Replay) -> None:
        replay.now_ms += ms

    return happened


def _events(replay: Replay) -> None:
    """Seven of cus_e's, of which three are a day older; two of cus_5's."""
    replay.emulator.event_store = "no_aggregate"
    replay.emulator.account.add_customer("cus_e", 1_795_157_618_762)
    times = (1_795_157_618_911, 1_795_071_217_948, 1_795_157_616_987, 1_795_071_216_020, 1_795_157_615_039,
             1_795_071_214_000, 1_795_157_613_104)  # fmt: skip
    for n, ts in enumerate(times):
        replay.track("cus_e", n + 0.5, timestamp=ts, properties={"n": n, "job_id": f"j{n}", "nested": {"a": [1, 2]}})
    replay.track("cus_5", 20, timestamp=1_795_157_619_172, properties={"n": "tb"})
    replay.track("cus_5", -2, timestamp=1_795_157_619_191, properties={"n": "tb"})
    replay.now_ms += 5_000


def _burst_of_lists(replay: Replay) -> None:
    for _ in range(5):
        body = '{"customer_id": "cus_e", "limit": 1}'
        replay.emulator.handle(replay.made("POST", "/v1/events.list", {}, body), replay.now_ms)


BESIDE: list[tuple[str, Callable[[Replay], None]]] = [
    (r"events\.list 2\.3\.0$", _set(event_store="off")),
    (r"DDB DOWN \(conn", _set(key_store="refusing")),
    (r"DDB back with table", _set(key_store="up")),
    (r"DDB HUNG", _set(key_store="hanging")),
    (r"DDB resumed", _set(key_store="up")),
    (r"BALANCE REDIS HUNG: key r1$", _set(balance_store="down")),
    (r"after redis resume", _set(balance_store="up")),
    (r"CRASH: ", _fault("claimed_not_applied")),
    (r"after restart: ", _fault(None)),
    (r"B4 before", _tracks("cus_k", 4)),
    (r"SQS HUNG, Redis ok", _tracks("cus_q")),
    (r"SQS HUNG: async", _fault("claimed_not_applied")),
    (r"SQS resumed", _fault(None)),
    (r"BALANCE REDIS KILLED, SQS ok: key q3", _set(balance_store="down")),
    (r"BALANCE REDIS KILLED and SQS HUNG", _fault("claimed_not_applied")),
    (r"MISC REDIS KILLED: key m1", _set(balance_store="up")),
    (r"MISC REDIS KILLED: key m1", _tracks("cus_m")),
    (r"MISC REDIS KILLED: key m1", _set(balance_store="down")),
    (r"MISC REDIS KILLED: customers", _set(balance_store="up")),
    (r"track during graceful SIGTERM 0", _fault("request_lost")),
    (r"track during graceful SIGTERM 1", _fault("connection_refused")),
    (r"after graceful restart g1", _fault("request_lost")),
    (r"events\.list 2\.3\.0 limit 2", _fault(None)),
    (r"events\.list 2\.3\.0 limit 2", _events),
    (r"events\.list burst 5", _burst_of_lists),
    (r"track 429 burst 0", _set(track_per_s=3)),
    (r"retry of the 429ed", _wait(1_200)),
    (r"events\.aggregate 2\.3\.0 7d \(Cl", _set(track_per_s=10_000, event_store="up")),
    (r"track org cap burst 0", _set(tracks_per_minute=3)),
    (r"track org cap burst 0", _wait(61_000)),
    (r"POSTGRES DOWN, customer cached", _set(tracks_per_minute=120_000)),
    (r"POSTGRES DOWN, customer cached", _tracks("cus_p1")),
    (r"POSTGRES DOWN, customer not cached", _set(balance_store="down")),
    (r"Postgres back", _set(balance_store="up")),
]
"""What the recorder did beside a call, before it."""

TIMES = frozenset({"created_at", "started_at", "next_reset_at", "resets_at", "timestamp"})
IDS = re.compile(r"\b(cus_ent|cus_prod|ent|evt)_\w{20,}")


def _same(value: object, name: str = "") -> object:
    """A body without what is made anew each time; whether there is one stays."""
    if isinstance(value, dict):
        return {key: _same(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_same(one) for one in value]
    if name in TIMES and isinstance(value, int):
        return "a time"
    if isinstance(value, str):
        return "a cursor" if name == "next_cursor" else IDS.sub(r"\1_", value)
    return value


def _cut(text: str) -> str:
    return re.sub(r"\b1[0-9]{12}\b", "a time", IDS.sub(r"\1_", text))


def _differs(one: Recorded, answer: Answer | NoAnswer | NotSent) -> str | None:
    """How an answer differs from the recorded one. Long bodies were cut by the recorder: their beginnings count."""
    if one.status is None:
        refused = "Connection refused" in one.text
        return None if isinstance(answer, NotSent if refused else NoAnswer) else f"{answer} instead of {one.text}"
    if not isinstance(answer, Answer) or answer.status != one.status:
        return f"{answer} instead of {one.status}"
    text = answer.body.decode()
    try:
        told = json.loads(one.text)
    except ValueError:
        return None if _cut(text).startswith(_cut(one.text).rpartition(",")[0]) else f"{text}\ninstead of\n{one.text}"
    ours = _same(json.loads(text))
    return None if ours == _same(told) else f"{ours}\ninstead of\n{_same(told)}"


def _balance_differs(replay: Replay, one: Recorded) -> str | None:
    """The first balance that was read after a call; after a queued call or none, once the queue was worked off."""
    if not one.balances or one.title in BALANCE_DIFFERS:
        return None
    if one.status in (None, 202):
        replay.now_ms += 61_000
        replay.emulator.work_off(replay.now_ms)
    customer, feature, told = one.balances[0]
    found = replay.emulator.account.customers[customer].grants[feature]
    shown = balance(found, "2.3.0")
    return None if {name: shown[name] for name in told} == told else f"balance {shown} instead of {told}"


def test_emulator_repeats_each_recorded_answer() -> None:
    replay = Replay()
    differing, equal = [], 0
    for one in recorded():
        if one.title in NOT_EMULATED:
            continue
        trouble = _differs(one, replay.play(one)) or _balance_differs(replay, one)
        if trouble is None:
            equal += 1
        else:
            differing.append(f"line {one.line}, {one.title}: {trouble}")
    assert differing == []
    assert equal == 230


def test_calls_not_emulated_have_recorded_titles() -> None:
    titles = {one.title for one in recorded()}
    assert titles >= NOT_EMULATED.keys() | BALANCE_DIFFERS.keys()
