"""Objects of a store that speaks S3 are taken as files of a folder are: once, as they were listed, or not at all."""

from __future__ import annotations

import gzip
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from drawdown.schema.database import read, write
from drawdown.schema.errors import DrawdownError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.batches import objects, sources
from drawdown.worker.batches.files import FoundFile, NotNow
from drawdown.worker.engine.stores import ObjectStore
from drawdown.worker.status.ticks import Report
from drawdown.worker.verify.verify import verify
from tests.world import T0, Fleet

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PLACE: Final = "s3://usage/exports"
HEADER: Final = "org_id,ts,memory_mb,interval_s\n"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield ObjectStore("key", "secret", region="us-east-1", endpoint=f"http://{host}:{port}")
    server.stop()


@pytest.fixture
def bucket(store: ObjectStore) -> Iterator[Any]:
    client = objects._client(store)
    client.create_bucket(Bucket="usage")
    yield client
    for one in client.list_objects_v2(Bucket="usage").get("Contents", ()):
        client.delete_object(Bucket="usage", Key=one["Key"])
    client.delete_bucket(Bucket="usage")


@pytest.fixture
def fleet(engine: sa.Engine, bucket: Any) -> Fleet:
    made = Fleet(engine)
    made.clock.at_ms = T0 + DAY_MS
    made.assign("acme", "globex", from_ms=T0)
    write(engine, lambda c: sources.add_source(c, "exports", f"{PLACE}/", made.by))
    return made


@pytest.fixture(autouse=True)
def of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are of the store's own time, which is later than the fleet's."""
    page = objects.page_of
    monkeypatch.setattr(
        "drawdown.worker.batches.folders.page_of",
        lambda store, place, goes_on, _quiet_ms: page(store, place, goes_on, 10**15),
    )


def laid(bucket: Any, name: str, *seconds: int) -> None:
    text = HEADER + "".join(f"acme,{T0},1024,{one}\n" for one in seconds)
    bucket.put_object(Bucket="usage", Key=f"exports/{name}", Body=text.encode())


def ticked(fleet: Fleet, store: ObjectStore) -> Report:
    return fleet.tick(fleet.clock.at_ms + WINDOW_MS, objects=store)


def outcomes(fleet: Fleet) -> dict[str, str]:
    found = read(fleet.engine, lambda c: sources.list_batches(c, source="exports"))
    return {one.name: one.outcome for one in found}


def billed(fleet: Fleet) -> object:
    return fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE state <> 'voided'")


def test_object_is_read_once_and_other_content_under_its_name_conflicts(
    fleet: Fleet, store: ObjectStore, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "OBJECTS_A_PAGE", 2)
    laid(bucket, "a.csv", 60)
    laid(bucket, "b.csv", 60)  # the same again
    laid(bucket, "c.csv", 7)
    for name, pack in (("p.csv.gz", gzip.compress), ("q.csv.zst", zstd.compress)):
        text = f"{HEADER}acme,{T0},1024,{len(name)}\n"
        bucket.put_object(Bucket="usage", Key=f"exports/{name}", Body=pack(text.encode()))
    laid(bucket, "below/d.csv", 1)
    laid(bucket, ".e.csv", 2)
    bucket.put_object(Bucket="usage", Key="exports/f.jsonl", Body=b'{"nothing": 1}\n')
    report = ticked(fleet, store)
    assert (report.batches_taken, len(report.problems), report.failures) == (4, 1, [])
    plain = {"a.csv": "taken", "b.csv": "repeated", "c.csv": "taken", "f.jsonl": "refused"}
    assert outcomes(fleet) == plain | {"p.csv.gz": "taken", "q.csv.zst": "taken"}
    assert ticked(fleet, store).problems == []
    laid(bucket, "a.csv", 61, 62)
    bucket.delete_object(Bucket="usage", Key="exports/f.jsonl")
    assert "conflict" in " ".join(ticked(fleet, store).problems)
    assert fleet.one("SELECT outcome FROM batch_files WHERE name = 'f.jsonl'") == "gone"
    assert fleet.one("SELECT path FROM batches WHERE name = 'c.csv'") == f"{PLACE}/c.csv"
    ticked(fleet, store)
    assert billed(fleet) == 67 + 8 + 9
    assert not read(fleet.engine, verify).breaches


def test_object_changed_since_listing_is_retried(
    fleet: Fleet, store: ObjectStore, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring = objects._bring

    def after(change: Callable[[], object]) -> Callable[..., Any]:
        def changed(*given: Any) -> Any:
            change()
            return bring(*given)

        return changed

    changes: tuple[Callable[[], object], ...] = (
        lambda: laid(bucket, "a.csv", 5, 6),
        lambda: laid(bucket, "a.csv"),
        lambda: bucket.delete_object(Bucket="usage", Key="exports/a.csv"),
    )
    for change in changes:
        laid(bucket, "a.csv", 60, 1)
        monkeypatch.setattr(objects, "_bring", after(change))
        report = ticked(fleet, store)
        assert (report.batches_taken, report.problems, report.exit_status) == (0, [], 75)
        assert "so Drawdown did not take it" in report.failures[0]
    monkeypatch.setattr(objects, "_bring", bring)
    laid(bucket, "a.csv", 60)
    assert ticked(fleet, store).batches_taken == 1


def test_object_store_wrong_or_missing_answer_is_not_taken(
    fleet: Fleet, store: ObjectStore, bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    laid(bucket, "a.csv", 60)
    client = objects._client

    class Lying:
        """What it is asked for it answers otherwise."""

        def __init__(self, **lies: Any) -> None:
            self.lies = lies

        def __getattr__(self, name: str) -> Any:
            return getattr(client(store), name)

        def get_object(self, **asked: Any) -> Any:
            answer = client(store).get_object(**asked)
            body = answer["Body"].read()
            answer["Body"] = open_body(tmp_path.parent / "body", self.lies.get("body", lambda text: text)(body))
            return answer | {name: value for name, value in self.lies.items() if name != "body"}

    def open_body(path: Path, text: bytes) -> Any:
        path.write_bytes(text)
        return path.open("rb")

    for lies in ({"body": lambda text: text[:-3]}, {"ContentLength": 1}, {"ETag": '"other"'}):
        monkeypatch.setattr(objects, "_client", lambda _store, lies=lies: Lying(**lies))
        report = ticked(fleet, store)
        assert (report.batches_taken, report.exit_status) == (0, 75), lies
        assert "so Drawdown did not take it" in report.failures[0], lies
    # Bytes beyond those that were listed are not read.
    monkeypatch.setattr(objects, "_client", lambda _store: Lying(body=lambda text: text + b"acme,1,1,1\n"))
    monkeypatch.setattr(objects, "MAX_OBJECT_BYTES", 10)
    assert "has more than 10 bytes" in ticked(fleet, store).problems[0]
    monkeypatch.undo()
    for wrong in (ObjectStore("k", "s", endpoint="http://127.0.0.1:9"), ObjectStore()):
        report = ticked(fleet, wrong)
        assert report.exit_status == 75 and "cannot read the folder of exports" in report.failures[0]
    assert not list(tmp_path.glob("drawdown-batch-*"))


def test_token_expiring_half_way_leaves_rest_to_tick_with_new_token(
    fleet: Fleet, store: ObjectStore, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(bucket, "a.csv", 60)
    laid(bucket, "b.csv", 7)
    ended = {"Error": {"Code": "ExpiredToken", "Message": "The provided token has expired."}}
    bring, brought = objects._bring, list[str]()

    def ends(store: ObjectStore, file: FoundFile, *given: Any) -> Any:
        brought.append(file.name)
        if len(brought) > 1:
            with objects._explained(file.name):
                raise ClientError(ended, "GetObject")
        return bring(store, file, *given)

    monkeypatch.setattr(objects, "_bring", ends)
    report = ticked(fleet, store)
    assert (report.batches_taken, report.problems, report.exit_status) == (1, [], 75)
    assert "b.csv: the call to the object store failed: " in report.failures[0] and "ExpiredToken" in report.failures[0]
    monkeypatch.setattr(objects, "_bring", bring)
    assert ticked(fleet, replace(store, token="another")).batches_taken == 1
    ticked(fleet, store)
    assert billed(fleet) == 67 and set(outcomes(fleet).values()) == {"taken"}


def test_recent_object_is_skipped_and_excess_objects_are_reported(
    fleet: Fleet, store: ObjectStore, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(bucket, "a.csv", 60)
    laid(bucket, "b.csv", 61)
    page = objects.page_of(store, PLACE, None, T0 + MINUTE_MS)
    assert (page.names, page.files, page.goes_on) == (["a.csv", "b.csv"], [], None)
    assert ticked(fleet, store).batches_taken == 2
    monkeypatch.setattr(objects, "OBJECTS_A_PAGE", 1)
    monkeypatch.setattr("drawdown.worker.batches.folders.MAX_PAGES", 1)
    assert "Move the taken objects" in ticked(fleet, store).failures[0]


@pytest.mark.parametrize("place", ["s3://", "s3://U", "s3://a/b\nc", "s3://usage/" + "x" * 501])
def test_object_store_invalid_prefix_is_refused(place: str) -> None:
    with pytest.raises(DrawdownError, match="invalid prefix"):
        objects.prefix_of(place)


def test_object_store_slow_answer_is_aborted_at_time_limit(tmp_path: Path) -> None:
    over, sent = Event(), 0
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            nonlocal sent
            asking, _ = listening.accept()
            with asking, suppress(OSError):
                asking.recv(65_536)
                asking.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "x"\r\n\r\n')
                while sent < 1_000:
                    asking.sendall(b"a")
                    sent += 1
                    if sent == 10:
                        over.set()
                    time.sleep(0.01)

        store = ObjectStore("key", "secret", "", "us-east-1", f"http://127.0.0.1:{listening.getsockname()[1]}")
        file = FoundFile(Path("a.csv"), "a.csv", "csv", None, 1_000, 0, at="s3://bucket/a.csv")
        dripping = Thread(target=drip, daemon=True)
        dripping.start()
        with pytest.raises(NotNow, match="the time limit ended"):
            objects._bring(store, file, "bucket", "a.csv", '"x"', tmp_path, over)
        dripping.join(15)
    assert sent < 1_000
