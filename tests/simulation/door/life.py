"""A life at the door: programs send and ask, the server is started anew, ticks go by; in the end all is billed once.

Guarantee: every choice comes from the seed. The server is the whole application, without a socket.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.server.usage import intake
from drawdown.worker.features.actions import map_event
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant
from tests import leftovers
from tests.server.house import Caller, House
from tests.simulation.door.books import BILLED, Books
from tests.simulation.door.programs import Door, post
from tests.simulation.mutants_remote import Patches
from tests.sqlite_databases import fresh
from tests.world import T0

ROUNDS: Final = 40
PER_KEY: Final = 12
PER_ORG: Final = 8
"""Items a second: so few that programs meet the bound."""
A_DAY: Final = 12
"""Of what the guard counts, for each organisation."""
KEYS: Final[tuple[tuple[str, tuple[str, ...], dict[str, str]], ...]] = (
    ("app", ("events:write", "samples:write", "guard", "usage:read"), {}),
    ("of-acme", ("events:write", "samples:write", "guard"), {"org_id": "acme", "source": "/door"}),
    ("of-cell", ("samples:write",), {"cell_id": "cell-1"}),
    ("looker", ("usage:read",), {}),
)  # fmt: skip
WAITS: Final = (1, 100, 900, 30_000, WINDOW_MS, 7 * WINDOW_MS, DAY_MS)


class Life:
    """One seed's."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.used: Counter[tuple[str, int]] = Counter()
        self.keys: dict[str, dict[str, Any]] = {}
        self.owned = set[str]()
        self.told: dict[str, dict[str, int]] = {}

    async def live(self) -> None:
        door = self.door
        caller = Caller(door.house)
        for _ in range(ROUNDS):
            if door.breaches:
                break
            what = door.rng.random()
            if what < 0.4:
                await door.send(caller, "events")
            elif what < 0.65:
                await door.send(caller, "samples")
            elif what < 0.8:
                await self._guard(caller)
            elif what < 0.85:
                door.rotate()
            elif what < 0.9:
                door.end_key()
            elif what < 0.96 or "started anew" in door.seen:  # to start takes long
                await asyncio.to_thread(door.house.fleet.tick, door.now)
            else:
                await caller.settled()
                await asyncio.to_thread(door.house.server.close)
                door.house.server = door.house.another()
                caller = Caller(door.house)
                door.books.buckets.clear()
                door.seen.add("started anew")
            door.house.clock.at_ms += door.rng.choice(WAITS)
        for org in BILLED:
            self.told[org] = await self._told(caller, org)
        await caller.settled()
        await asyncio.to_thread(door.house.server.close)

    async def _told(self, caller: Caller, org: str) -> dict[str, int]:
        """GET /v1/usage, by a key that may read it."""
        key = next(one for one in self.door.keys.values() if "usage:read" in one.scopes and not one.ended)
        token = next(one for one, until in key.tokens.items() if until is None)
        head = {"authorization": f"Bearer {token}"}
        answer = await caller.client.get(f"/v1/usage/{org}?from_ms={T0}", headers=head)
        rows = answer.json().get("rows", [])
        return {row["feature"]: row["used"] for row in rows if row["feature"] and row["used"]}

    async def _guard(self, caller: Caller) -> None:
        """Several ask to use something at once, two of them now and then by one key; of the limit none too many."""
        door = self.door
        key = door.rng.choice([one for one in door.keys.values() if "guard" in one.scopes])
        token = list(key.tokens)[-1]
        org = key.org or door.rng.choice(BILLED)
        names = [f"{org}-{door.name()}" for _ in range(door.rng.randint(1, 6))]
        # What a bound key began is no use to a key that is bound to none.
        mine = [name for name in self.keys if key.org is not None or name not in self.owned]
        old = [name for name in mine if name.startswith(f"{org}-")]
        names += [door.rng.choice(names), *door.rng.sample(old, min(len(old), 1))]
        head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        orders = [json.dumps({"key": name, "org_id": org, "metric": "look"}).encode() for name in names]
        answers = await asyncio.gather(*(post(caller, "/v1/guard/consume", one, head) for one in orders))
        if not key.taken(token, door.now):
            for answer in answers:
                door._compare(answer, 401, "unauthorized")
            return
        self.owned |= set() if key.org is None else set(names) - self.keys.keys()
        self._asked(org, names, [one.json() for one in answers])

    def _asked(self, org: str, names: list[str], answers: list[dict[str, Any]]) -> None:
        door, day = self.door, (org, self.door.now - self.door.now % DAY_MS)
        new = [name for name in dict.fromkeys(names) if name not in self.keys]
        right = min(len(new), A_DAY - self.used[day])
        allowed = {
            name for name, one in zip(names, answers, strict=True) if one.get("decision") != "block" and name in new
        }
        if len(allowed) != right or any("decision" not in one for one in answers):
            door.breach(
                f"{org}: {self.used[day]} were used, {len(new)} asked for, and {len(allowed)} allowed: {answers}"
            )
        for name in new if not door.breaches else ():
            told = [one for key, one in zip(names, answers, strict=True) if key == name]
            if name in allowed and sum(not one["repeated"] for one in told) != 1:
                door.breach(f"{name} was used once, and answered {told}")
            if name in allowed:
                self.keys[name] = told[0]
        for name, one in zip(names, answers, strict=True):
            if name in self.keys and name not in new and not one.get("repeated"):
                door.breach(f"{name} was used before, and answered {one}")
        self.used[day] += len(allowed)


def lived(seed: int) -> tuple[Life, list[str]]:
    """What is wrong with one seed's life, a line each."""
    with TemporaryDirectory(dir=leftovers.folder("dd-door-")) as folder:
        patches = Patches()
        with patches.kept():
            patches.put(intake, "KEY_ITEMS_PER_S", PER_KEY)
            patches.put(intake, "ORG_ITEMS_PER_S", PER_ORG)
            engine = fresh(Path(folder) / "drawdown.db")
            house = House(engine)
            house.clock.at_ms = T0 + 40 * DAY_MS + 10_000
            door = Door(house, random.Random(f"{seed}-door"), Books(PER_KEY, PER_ORG))
            _open(door)
            life = Life(door)
            with _written_by(door):
                asyncio.run(life.live())
            wrong = [*door.breaches, *(_judged(life) if not door.breaches else ())]
            engine.dispose()
        return life, wrong


@contextmanager
def _written_by(door: Door) -> Iterator[None]:
    """What is sent is written as the door's fate has it."""
    names = vars(intake)
    right, names["write"] = names["write"], door.write
    try:
        yield
    finally:
        names["write"] = right


def _open(door: Door) -> None:
    """Who is billed, for what; what may be used a day; and who may send."""
    house, by = door.house, door.house.fleet.by

    def begin(connection: Any) -> None:
        for org in BILLED:
            grant(connection, org, 10**6 * MICRO, by, key=f"first of {org}", plan=None)
        for event_type, feature in (("page.render", "render"), ("job.run", "job_run")):
            map_event(connection, event_type, feature, by, from_ms=T0, confirmed=True)
        guard_terms.set_metric(connection, "look", Change(phase=3), by)
        guard_terms.set_limit(connection, PlanLimit("look", "*", "day", A_DAY), by)

    house.fleet.assign(*BILLED, from_ms=T0)
    write(house.fleet.engine, begin)
    for feature in ("render", "job_run"):
        house.fleet.rate(feature, 1)
    for name, scopes, bound in KEYS:
        door.make_key(name, scopes, **bound)


def _judged(life: Life) -> Iterator[str]:
    """All was billed once, and told as it was billed."""
    door, house = life.door, life.door.house
    house.fleet.tick(door.now + 2 * WINDOW_MS)
    house.fleet.tick(door.now + MINUTE_MS)
    yield from (f"verify: {breach}" for breach in read(house.fleet.engine, verify).breaches)
    rows = house.fleet.rows("SELECT org_id, window_ms, feature, SUM(sealed_qty) FROM pushes GROUP BY 1, 2, 3")
    sealed = {(str(org), int(str(at)), str(what)): int(str(quantity)) for org, at, what, quantity in rows if quantity}
    wanted = door.books.owed()
    for place in sorted(sealed.keys() | wanted.keys(), key=str):
        if sealed.get(place) != wanted.get(place):
            yield f"{place} was billed as {sealed.get(place)}, and is {wanted.get(place)}"
    counted = house.fleet.rows("SELECT org_id, start_ms, used FROM guard_counters WHERE period = 'day'")
    if {(org, day): used for org, day, used in counted if used} != {one: n for one, n in life.used.items() if n}:
        yield f"the guard counted {counted}, and {dict(life.used)} were used"
    for org in BILLED:
        used, want = life.told[org], Counter[str]()
        for (whose, _, feature), quantity in wanted.items():
            want[feature] += quantity if whose == org else 0
        if used != {feature: quantity for feature, quantity in want.items() if quantity}:
            yield f"{org} is told that it used {used}, and it used {dict(want)}"
