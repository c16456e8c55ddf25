"""Objects by the command line: a prefix is tried before it is watched, an object is taken by hand, and read for the
proof; a store that answers without end costs little."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
from moto.server import ThreadedMotoServer

from drawdown.schema.errors import Exit
from drawdown.worker.batches import objects
from drawdown.worker.batches.files import NotNow
from drawdown.worker.engine.stores import ObjectStore
from tests.integration.test_cli import Shell
from tests.sqlite_databases import migrated

PLACE: Final = "s3://usage/exports"
CSV: Final = b"org_id,ts,memory_mb,interval_s\nacme,2026-01-01T00:00:00Z,1024,60\n"


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[ObjectStore]:
    """A store of a test's own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield ObjectStore("key", "secret", endpoint=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def shell(tmp_path: Path, database_url: str) -> Shell:
    return Shell(tmp_path, database_url)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, shell: Shell) -> Iterator[Any]:
    """What lies in a store that the command line has the key of."""
    with_key(shell, endpoint)
    client = objects._client(ObjectStore("key", "secret", endpoint=endpoint))
    client.create_bucket(Bucket="usage")
    migrated(shell.url)
    shell.run("init")
    yield client
    for one in client.list_objects_v2(Bucket="usage").get("Contents", ()):
        client.delete_object(Bucket="usage", Key=one["Key"])
    client.delete_bucket(Bucket="usage")


def with_key(shell: Shell, endpoint: str) -> None:
    key = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    shell.environment |= {**key, "AWS_ENDPOINT_URL": endpoint}


@pytest.mark.parametrize("what", ["end", "drip"])
def test_endless_or_slow_object_listing_is_aborted(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "STORE_ANSWER_S", 0.2)
    sent = 0

    def without_end(asked: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        asked.send_response(200)
        asked.end_headers()
        while sent < (500 if what == "drip" else 8 * objects.MAX_ANSWER_BYTES):
            text = b"<a>" if what == "drip" else b" " * (1 << 20)
            asked.wfile.write(text)
            sent += len(text)
            time.sleep(0.01 if what == "drip" else 0)

    if what == "end":
        monkeypatch.setattr(objects, "STORE_ANSWER_S", 60)
    with answering(without_end) as store, pytest.raises(NotNow, match="exceeds the limit of"):
        objects.page_of(store, PLACE, None, 0)
    assert sent < (200 if what == "drip" else 3 * objects.MAX_ANSWER_BYTES)


def test_object_prefix_is_listed_before_source_is_added(bucket: Any, shell: Shell) -> None:
    said = shell.run("source", "add", "wrong", "s3://usagge/exports", status=Exit.PERSON)
    assert "NoSuchBucket" in said and "the source was not added" in said and "--force" in said
    assert shell.json("source", "add", "exports", f"{PLACE}/")["source"]["folder"] == PLACE
    assert shell.json("source", "add", "wrong", "s3://usagge/exports", "--force")["source"]["source"] == "wrong"
    found = {one["what"]: one for one in shell.json("doctor", status=1)["findings"]}
    assert found[f"the prefix of exports, {PLACE}, can be listed"]["ok"]
    assert "NoSuchBucket" in found["the prefix of wrong, s3://usagge/exports"]["fix"]

    def refused(asked: BaseHTTPRequestHandler) -> None:
        text = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no such secret</Message></Error>"
        asked.send_response(403)
        asked.send_header("Content-Length", str(len(text)))
        asked.end_headers()
        asked.wfile.write(text)

    with answering(refused) as store:
        with_key(shell, store.endpoint)
        assert "SignatureDoesNotMatch" in shell.run("source", "add", "mine", PLACE + "/2", status=Exit.PERSON)
        found = {one["what"]: one for one in shell.json("doctor", status=1)["findings"]}
        assert "no such secret" in found[f"the prefix of exports, {PLACE}"]["fix"]


def test_object_batch_is_taken_once_and_read_by_deep_verify(bucket: Any, shell: Shell) -> None:
    bucket.put_object(Bucket="usage", Key="exports/a.csv.gz", Body=gzip.compress(CSV))
    bucket.put_object(Bucket="usage", Key="exports/a.csv.gz2", Body=b"")
    taken = shell.json("batch", "take", f"{PLACE}/a.csv.gz")["files"][0]
    assert (taken["outcome"], taken["rows"]) == ("taken", 1)
    assert shell.json("batch", "take", f"{PLACE}/a.csv.gz")["files"][0]["outcome"] == "repeated"
    assert "the object does not exist" in shell.run("batch", "take", f"{PLACE}/a.csv", status=Exit.USAGE)
    found = shell.json("verify", "--deep")
    assert found["checked"]["files of batches"] == 1 and not any(
        count for what, count in found["open"].items() if what.startswith("batches")
    )
    bucket.delete_object(Bucket="usage", Key="exports/a.csv.gz")
    assert shell.json("verify", "--deep")["open"]["batches with a missing or changed file"] == 1
    with_key(shell, "http://127.0.0.1:9")
    assert shell.json("verify", "--deep")["open"]["batches with an unreadable file"] == 1
