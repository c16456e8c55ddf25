"""Programs at the door: keys that are made, rotated and ended, batches that are partly wrong, answers that are lost.

Guarantee: all chance is drawn from one stream. What happens to a batch's transaction is decided here, where the server
writes: it dies before the commit, its commit is refused and done anew, its commit's answer is lost.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import httpx
import sqlalchemy as sa

from drawdown.schema import database
from drawdown.schema.errors import AnswerLost, DatabaseBusy
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.access import keys as api_keys
from tests.server.house import Caller, House
from tests.simulation.database import in_conflict
from tests.simulation.door.books import Books, Item

T = TypeVar("T")
FATES: Final = ("", "", "", "", "dies", "in conflict", "commit answer lost", "answer lost")
ORGS: Final = ("acme", "globex", "nobody")
TYPES: Final = ("page.render", "page.render", "job.run", "page.odd")
AGES: Final = (0, 1_000, WINDOW_MS, 3 * WINDOW_MS, DAY_MS)
SIZES: Final = (1024, 1024, 4096, 3000)
MOST: Final = 9
TRIES: Final = 12
"""How often a batch is sent, at most."""
OTHERS: Final = ("cell-1", "cell-2")


@dataclass
class Key:
    """A program's key: its tokens, and until when each of them is taken (None: no end)."""

    name: str
    scopes: tuple[str, ...]
    org: str | None = None
    cell: str | None = None
    source: str | None = None
    tokens: dict[str, int | None] = field(default_factory=dict)
    ended: bool = False

    def taken(self, token: str, now_ms: int) -> bool:
        until = self.tokens[token]
        return not self.ended and (until is None or now_ms < until)


@dataclass
class Door:
    """One server, those who send, and what they know."""

    house: House
    rng: random.Random
    books: Books
    keys: dict[str, Key] = field(default_factory=dict)
    breaches: list[str] = field(default_factory=list)
    fate: str = ""
    committed: bool = False
    names: int = 0
    sent: list[Item] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    @property
    def now(self) -> int:
        return self.house.clock.at_ms

    def breach(self, text: str) -> None:
        self.breaches.append(f"door: {text}")

    def name(self) -> str:
        self.names += 1
        return f"i{self.names}"

    def write(self, engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
        """Stands where the server writes what was sent."""
        fate, self.fate = self.fate, ""
        if fate == "dies":
            database.write(engine, work, rollback=True)
            raise DatabaseBusy("injected: rolled back")
        answer = database.write(engine, in_conflict(work, 1) if fate == "in conflict" else work)
        self.committed = True
        if fate == "commit answer lost":
            raise AnswerLost("injected: committed, and the answer was lost")
        return answer

    def make_key(self, name: str, scopes: tuple[str, ...], **bound: Any) -> None:
        token = _token(name, 0)
        self._write(lambda c: api_keys.create(c, token, name, scopes, self.house.fleet.by, new=True, **bound))
        self.keys[name] = Key(
            name, scopes, bound.get("org_id"), bound.get("cell_id"), bound.get("source"), {token: None}
        )

    def rotate(self) -> None:
        """A key has another one beside it, for a while."""
        key = self.rng.choice([one for one in self.keys.values() if not one.ended])
        overlap = self.rng.choice((0, 2 * MINUTE_MS, 60 * MINUTE_MS))
        token = _token(key.name, len(key.tokens))
        self._write(lambda c: api_keys.rotate(c, token, key.name, self.house.fleet.by, overlap_ms=overlap))
        for old, until in key.tokens.items():
            key.tokens[old] = self.now + overlap if until is None else until
        key.tokens[token] = None
        self.seen.add("rotated")

    def end_key(self) -> None:
        """A key lets nobody in any more; another one is made for the same."""
        key = self.rng.choice([one for one in self.keys.values() if not one.ended])
        self._write(lambda c: api_keys.end(c, key.name, self.house.fleet.by))
        key.ended = True
        self.make_key(f"{key.name}+", key.scopes, org_id=key.org, cell_id=key.cell, source=key.source)
        self.seen.add("ended")

    def _write(self, work: Callable[[sa.Connection], T]) -> T:
        return database.write(self.house.fleet.engine, work)

    async def send(self, caller: Caller, kind: str) -> None:
        """A batch, until it is answered for good."""
        key = self.rng.choice(list(self.keys.values()))
        token, batch = self.rng.choice(list(key.tokens)), self._batch(kind, key)
        for _ in range(TRIES):
            if self.breaches or await self._once(caller, kind, key, token, batch):
                return
        self.breach(f"{kind} of {key.name} were not taken in {TRIES} times")

    async def _once(self, caller: Caller, kind: str, key: Key, token: str, batch: list[Item]) -> bool:
        """Whether it was answered for good."""
        refused = self._refused(kind, key, token)
        too_much = refused is None and self.books.is_too_much(key.name, batch, self.now)
        want = self.books.answers(batch)
        fate = self.rng.choice(FATES)
        self.fate, self.committed = fate, False
        answer = await self._post(caller, kind, token, batch)
        self.fate = ""
        if (refused is not None or too_much) and self.committed:
            self.breach(f"a batch of {key.name} went in, and was to be refused: {refused or 'too much'}")
        if refused is not None or too_much:
            self._compare(answer, *(refused or (429, "too_many_requests")))
            self.seen.add("too much" if too_much else str(refused))
            self.house.clock.at_ms += 1_000 if too_much else 0
            return refused is not None
        if self.committed:
            self.books.commit(batch)
        elif answer.status_code in (200, 207) and any(one.wrong is None for one in batch):
            self.breach(f"a batch of {key.name} was answered, and did not go in")
        if answer.status_code == 503:
            self.seen.add(f"503 {fate}")
            if fate not in ("dies", "commit answer lost"):
                self.breach(f"a batch of {key.name} was answered {answer.text}")
            return False
        self._judge(kind, key, batch, want, answer)
        self.seen.add(fate)
        return fate != "answer lost"

    def _refused(self, kind: str, key: Key, token: str) -> tuple[int, str] | None:
        if not key.taken(token, self.now):
            return 401, "unauthorized"
        return None if f"{kind}:write" in key.scopes else (403, "no_scope")

    def _compare(self, answer: httpx.Response, status: int, code: str) -> None:
        found = answer.json().get("error", {}).get("code")
        if (answer.status_code, found) != (status, code):
            self.breach(f"answered {answer.status_code}, {answer.text:.200}, and should be {status}, {code}")

    def _judge(
        self, kind: str, key: Key, batch: list[Item], want: list[tuple[str, str | None]], answer: httpx.Response
    ) -> None:
        kept = [status in ("accepted", "duplicate", "pending") for status, _ in want]
        if answer.status_code != (200 if all(kept) else 207 if any(kept) else 422) or "results" not in answer.json():
            self.breach(f"a batch of {key.name} was answered {answer.status_code}, {answer.text:.300}")
            return
        for item, right, one in zip(batch, want, answer.json()["results"], strict=True):
            self.books.said[f"{kind} {right[0]} {right[1]}"] += 1
            if (one["status"], one.get("code")) != right:
                self.breach(f"{kind}: {item.sent} was answered {one}, and should be {right}")

    async def _post(self, caller: Caller, kind: str, token: str, batch: list[Item]) -> httpx.Response:
        rng = self.rng
        head = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        body = json.dumps([one.sent for one in batch]).encode()
        if rng.random() < 0.3:
            body, head["content-type"] = (
                b"\n".join(json.dumps(one.sent).encode() for one in batch),
                "application/x-ndjson",
            )
        if rng.random() < 0.3:
            body, head["content-encoding"] = gzip.compress(body), "gzip"
        return await post(caller, f"/v1/{kind}", body, head)

    def _batch(self, kind: str, key: Key) -> list[Item]:
        rng = self.rng
        make = self._event if kind == "events" else self._sample
        batch = [make(key) for _ in range(rng.randint(1, MOST))]
        by = key.name if key.org is not None else ""  # to a key that is bound, what stands as the subject is a label
        old = [one for one in self.sent if one.key[:2] == (kind, by) and key.cell in (None, one.content[1])]
        batch += rng.sample(old, min(len(old), rng.randint(0, 3)))
        if rng.random() < 0.3:
            batch.append(batch[0])
        rng.shuffle(batch)
        self.sent += [one for one in batch if one.wrong is None]
        return batch

    def _event(self, key: Key) -> Item:
        """A CloudEvent or one of our own words; now and then it is wrong, or says an old one otherwise."""
        rng = self.rng
        org, event_type = key.org or rng.choice(ORGS), rng.choice(TYPES)
        quantity, ts = rng.choice((0, 1, 7, 1_000)), self.now - rng.choice(AGES)
        by = key.name if key.org is not None else ""
        name, source = f"{org}-{self.name()}", "/door"
        own = [one for one in self.sent if one.key[:2] == ("events", by) and one.key[2] == org]
        if own and rng.random() < 0.15:
            name, quantity = rng.choice(own).key[3], quantity + 17
        project = rng.choice((None, "red"))
        said = (name, source, event_type, org, quantity, ts, project)
        if rng.random() < 0.5:
            sent, wrong = _cloudevent(*said)
            more: tuple[Any, ...] = (org if key.org else None, '{"k":1}')
        else:
            (sent, wrong), more = _envelope(*said), (None, "{}")
            if key.org is not None and rng.random() < 0.2:
                return Item(_put(sent, "org_id", "other"), "foreign_org")
        wrong += [] if key.source is None else [(_put(sent, "source", "/elsewhere"), "foreign_source")]
        if rng.random() < 0.1:
            return Item(*rng.choice(wrong))
        content = (event_type, quantity, ts, project, *more)
        return Item(sent, None, ("events", by, org, name), content, org, event_type, quantity, ts)

    def _sample(self, key: Key) -> Item:
        rng = self.rng
        org, cell = key.org or rng.choice(ORGS), key.cell or rng.choice(OTHERS)
        size, seconds, ts = rng.choice(SIZES), rng.choice((0, 1, 30, 300)), self.now - rng.choice(AGES)
        begins = f"{key.source}:" if key.org is not None and key.source is not None else ""
        name = f"{begins}{org}-{self.name()}"
        by = key.name if key.org is not None else ""
        own = [one for one in self.sent if one.key[:2] == ("samples", by) and one.org == org]
        if own and rng.random() < 0.15:
            name, seconds = rng.choice(own).key[2], seconds + 17
        sent = {"id": name, "org_id": org, "sandbox_id": f"box-{org}", "cell_id": cell, "memory_mb": size,
                "interval_s": seconds, "ts": ts}  # fmt: skip
        wrong = [
            (_put(sent, "x", 1), "unknown_field"),
            (_put(sent, "interval_s", -1), "interval_negative"),
            (3, "not_an_object"),
        ]
        wrong += [] if key.org is None else [(_put(sent, "org_id", "other"), "foreign_org")]
        wrong += [] if key.cell is None else [(_put(sent, "cell_id", "cell-9"), "foreign_cell")]
        wrong += [(_put(sent, "id", f"{org}-x"), "foreign_source")] if begins else []
        if rng.random() < 0.12:
            return Item(*rng.choice(wrong))
        return Item(sent, None, ("samples", by, name), (org, cell, size, seconds, ts), org, str(size), seconds, ts)


Wrong = list[tuple[dict[str, Any], str]]


def _cloudevent(
    name: str, source: str, kind: str, org: str, quantity: int, ts: int, project: str | None
) -> tuple[dict[str, Any], Wrong]:
    """An event as CloudEvents say it, and ways in which it is none."""
    data = {"quantity": quantity, "k": 1} | ({} if project is None else {"project": project})
    sent: dict[str, Any] = {
        "specversion": "1.0",
        "id": name,
        "source": source,
        "type": kind,
        "subject": org,
        "time": _iso(ts),
    }
    sent |= {"data": data}
    wrong = [(_put(sent, "id", ...), "missing"), (_put(sent, "specversion", "0.3"), "bad_specversion")]
    return sent, [*wrong, (_put(sent, "data", {"quantity": -1}), "bad_quantity")]


def _envelope(
    name: str, source: str, kind: str, org: str, quantity: int, ts: int, project: str | None
) -> tuple[dict[str, Any], Wrong]:
    """The same in our own words."""
    sent: dict[str, Any] = {"source": source, "event_id": name, "event_type": kind, "org_id": org, "quantity": quantity}
    sent |= {"occurred_at": _iso(ts), "project": project}
    wrong = [(_put(sent, "x", 1), "unknown_field"), (_put(sent, "quantity", 1.5), "not_whole")]
    return sent, [*wrong, (_put(sent, "occurred_at", _iso(ts + 400 * DAY_MS)), "in_the_future")]


async def post(caller: Caller, path: str, body: bytes, head: dict[str, str]) -> httpx.Response:
    """Without holding the answer to the description, which takes as long as all else."""
    return await caller.client.post(path, content=body, headers=head)


def _put(sent: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    made = {**sent, name: value}
    return {one: what for one, what in made.items() if what is not ...}


def _iso(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ts % 1000:03}Z"


def _token(name: str, number: int) -> str:
    digest = hashlib.sha256(f"{name} {number}".encode()).digest()
    return api_keys.PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")
