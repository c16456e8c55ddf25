"""The same of a prefix of objects: a store in memory, in place of the client that asks a real one. It slows down, cuts
answers off, and what lies there changes between two pages of a listing, and between the listing and the reading.

Guarantee: all of it is drawn from a stream of its own; of what lies there in the end nothing was passed over.
"""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from botocore.exceptions import ClientError
from urllib3.exceptions import ProtocolError

from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.worker.batches import objects
from drawdown.worker.batches.sources import add_source
from drawdown.worker.batches.take import TakenFile
from tests.simulation import actions, scheduler, settled
from tests.simulation.faults import Faults
from tests.simulation.laid import Laid
from tests.simulation.making import new_world
from tests.simulation.operators import said
from tests.simulation.providers import MEMORY
from tests.simulation.world import World

BUCKET, PREFIX = "usage", "exports/"
PLACE: Final = f"s3://{BUCKET}/{PREFIX}".rstrip("/")
OBJECTS_A_PAGE: Final = 2
SLOW_DOWN, CUT_SHORT, CHANGES, GOES = 0.15, 0.25, 0.3, 0.3
FINE: Final = ("the object store returned an ", "the call to the object store failed: ", "so Drawdown did not take")
UNSEEN: Final = (
    "SELECT COUNT(*) FROM usage_samples s JOIN orgs o ON o.org_id = s.org_id JOIN buckets b ON b.id = o.bucket "
    "WHERE s.arrival >= b.cursor AND s.problem IS NULL AND o.stopped_at_ms IS NULL"
)
"""A tick takes objects after it has sealed."""


@dataclass
class Object:
    """What lies under a key."""

    body: bytes
    at: datetime

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


class Cut(io.BytesIO):
    """A body whose connection ends after some of it: in silence, or with an error."""

    says_so = False

    def read1(self, size: int | None = -1, /) -> bytes:
        found = super().read1(-1 if size is None else size)
        if not found and self.says_so:
            raise ProtocolError("Connection broken: IncompleteRead")
        return found


@dataclass
class Store:
    """What `objects` asks of a client of botocore's."""

    rng: random.Random
    faults: Faults
    objects: dict[str, Object] = field(default_factory=dict)
    second: int = 0

    def put(self, key: str, body: bytes, at_s: int) -> None:
        """A store tells seconds, and here no two are alike."""
        self.second = max(self.second + 1, at_s)
        self.objects[key] = Object(body, datetime.fromtimestamp(self.second, UTC))

    def list_objects_v2(self, **asked: Any) -> dict[str, Any]:
        """Goes on behind the last key that was given, whatever lies there by then."""
        self._may_be_slow("ListObjectsV2")
        after = asked.get("ContinuationToken", "")
        if after and self._strikes(CHANGES, "store_listing_changes"):
            self._change()
        keys = sorted(key for key in self.objects if key.startswith(asked["Prefix"]) and key > after)
        some = keys[: asked["MaxKeys"]]
        told = [
            {"Key": key, "Size": len(one.body), "LastModified": one.at, "ETag": one.etag}
            for key, one in ((key, self.objects[key]) for key in some)
        ]
        answer = {"Contents": told, "IsTruncated": len(keys) > len(some)}
        return answer | ({"NextContinuationToken": some[-1]} if len(keys) > len(some) else {})

    def get_object(self, **asked: Any) -> dict[str, Any]:
        self._may_be_slow("GetObject")
        if self._strikes(CHANGES, "store_object_changes"):
            self._change(asked["Key"])
        if asked["Key"] not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "It does not exist."}}, "GetObject")
        one = self.objects[asked["Key"]]
        body = Cut(one.body)
        if self._strikes(CUT_SHORT, "store_body_cut"):
            body = Cut(one.body[: self.rng.randrange(len(one.body))])
            body.says_so = self.rng.random() < 0.5
        return {"ContentLength": len(one.body), "ETag": one.etag, "Body": body}

    def _strikes(self, chance: float, kind: str) -> bool:
        if struck := self.faults.intensity > 0 and self.rng.random() < chance:
            self.faults.note(kind)
        return struck

    def _may_be_slow(self, what: str) -> None:
        if self._strikes(SLOW_DOWN, "store_slow_down"):
            raise ClientError({"Error": {"Code": "SlowDown", "Message": "Reduce your request rate."}}, what)

    def _change(self, key: str | None = None) -> None:
        """Somebody puts what lies under one key under another, too, or takes it away."""
        if not self.objects:
            return
        from_key, to_key = self.rng.choice(sorted(self.objects)), key or self.rng.choice(sorted(self.objects))
        if self.rng.random() < GOES:
            self.objects.pop(to_key, None)
        else:
            self.put(to_key, self.objects[from_key].body, 0)


class Stored(Laid):
    """A maker of worlds in which objects are put under a prefix."""

    chance = 0.8

    def __init__(self) -> None:
        super().__init__(Path())
        self.became: dict[str, tuple[str, str]] = {}

    def __call__(self, seed: int, *given: Any, **more: Any) -> World:
        world = new_world(seed, *given, **more)
        self.rng = random.Random(f"{seed}-objects")
        self.store = Store(random.Random(f"{seed}-store"), world.faults)
        world.write(partial(add_source, source="exports", folder=PLACE, by=said(world)))
        return world

    def put(self, name: str, text: str, stamp_ns: int) -> None:
        self.store.put(f"{PREFIX}{name}", text.encode(), stamp_ns // 10**9)

    def took(self, world: World, taken: TakenFile) -> None:
        super().took(world, taken)
        self.became[taken.name] = taken.batch, taken.outcome

    def wrong(self) -> list[str]:
        """In the end: objects that nothing became of."""
        there = {key.removeprefix(PREFIX): one for key, one in self.store.objects.items()}
        return [
            f"{name} lies there, and became {self.became.get(name)}"
            for name, one in sorted(there.items())
            if self.became.get(name, ("", ""))[0] != hashlib.sha256(one.body).hexdigest()[:32]
        ]


def simulated(seed: int, ticks: int, monkeypatch: Any) -> tuple[list[str], Stored, Any]:
    """One seed in such a world; what is wrong with it."""
    stored = Stored()
    monkeypatch.setattr(scheduler, "new_world", stored)
    monkeypatch.setattr(scheduler, "still", stored.judged)
    monkeypatch.setattr(scheduler, "FINE", (*scheduler.FINE, *FINE))
    monkeypatch.setattr(actions, "insert", stored.insert)
    monkeypatch.setitem(settled.LEFT, "samples that no seal has seen", UNSEEN)
    monkeypatch.setattr(objects, "_client", lambda _store: stored.store)
    monkeypatch.setattr(objects, "OBJECTS_A_PAGE", OBJECTS_A_PAGE)
    outcome = scheduler.simulate(seed, ticks, billing=(EMBEDDED, MEMORY), restores=False)
    return outcome.breaches or stored.wrong(), stored, outcome.faults
