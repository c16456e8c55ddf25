"""A secret for each cell, rotation without a moment in which a cell refuses, and no secret where it can be read."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from structlog.testing import CapturingLogger

from drawdown.cli.demo_cell import DemoCell
from drawdown.cli.settings import Settings
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError
from drawdown.worker import cells, runner
from drawdown.worker import dispatch as dispatching
from drawdown.worker.cells import CellClient, CellSettings, signature
from drawdown.worker.dispatch import dispatch
from drawdown.worker.effects import HaltRequest
from tests.emulators.cell import CellEmulator
from tests.emulators.serve import serving_in_thread
from tests.integration.test_dispatch import populate
from tests.world import T0, Fleet

NEW, OLD, OTHER = "canary-new-secret-1", "canary-old-secret-2", "canary-other-secret-3"


def settings(text: str, default: str = "") -> CellSettings:
    return Settings(cell_secret=SecretStr(default), cell_secrets=SecretStr(text)).cells()


def test_each_cell_has_its_own_and_the_others_the_default() -> None:
    found = settings(f" cell-1 = {NEW} , {OLD} ; cell-2={OTHER}==; ", default="d")
    assert found.secrets_of("cell-1") == (NEW, OLD)
    assert found.secrets_of("cell-2") == (f"{OTHER}==",)
    assert found.secrets_of("cell-3") == ("d",)
    assert settings(f"*={NEW},{OLD}", default="d").secrets_of("cell-3") == (NEW, OLD)
    assert settings("").secrets_of("cell-3") == ()


@pytest.mark.parametrize("text", ["{}", "=x{}", "a=", "a={},", "a=,{}", "a=x,y,{}", "a={};a=y", "cell-1:{}", "a=x;{}"])
def test_what_makes_no_sense_is_named_without_the_secret(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(text.format(NEW))
    assert "DRAWDOWN_CELL_SECRETS" in str(caught.value) and "canary" not in str(caught.value)


def told(cell_secret: str, given: Mapping[str, tuple[str, ...]]) -> tuple[str | None, list[tuple[str, int]]]:
    """What a cell that knows only `X-Signature` answers."""
    cell = DemoCell("cell-1", cell_secret, FixedClock(T0), lambda _cell, _org: None)
    try:
        client = CellClient(CellSettings(frozenset({cell.url}), "", given), FixedClock(T0))
        (answer,) = asyncio.run(client.send([HaltRequest("acme", "cell-1", cell.url, T0)]))
        return answer, cell.received
    finally:
        cell.close()


def test_while_it_is_rotated_a_cell_with_either_secret_obeys() -> None:
    for secret in (NEW, OLD):
        assert told(secret, {"cell-1": (NEW, OLD)}) == (None, [("acme", 200)])
    assert told(OTHER, {"cell-1": (NEW, OLD)}) == ("the cell answered 401", [])
    assert told(OLD, {"cell-1": (NEW,), "cell-2": (OLD,)}) == ("the cell answered 401", []), "another cell's"


def test_both_signatures_are_sent_in_headers_of_their_own() -> None:
    emulator = CellEmulator(secret=NEW)
    seen = []
    right = emulator.handle

    def handle(call, now_ms):  # type: ignore[no-untyped-def]
        seen.append(call)
        return right(call, now_ms)

    emulator.handle = handle  # type: ignore[method-assign]
    with serving_in_thread(emulator, FixedClock(T0)) as url:
        client = CellClient(CellSettings(frozenset({url}), "", {"cell-1": (NEW, OLD)}), FixedClock(T0))
        assert asyncio.run(client.send([HaltRequest("acme", "cell-1", url, T0)])) == [None]
    (call,) = seen
    assert call.headers["x-signature"] == signature(NEW, T0 // 1000, call.body)
    assert call.headers["x-signature-previous"] == signature(OLD, T0 // 1000, call.body)


@contextmanager
def raw(*answers: bytes, close: bool = True) -> Iterator[str]:
    """A cell that takes what comes, and says these bytes and nothing else."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        held = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                    connection.recv(65_536)
                    for part in answers:
                        connection.sendall(part)
                    held.append(connection)
                    if close:
                        connection.close()
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for one in held:
            one.close()


OK = b"HTTP/1.1 200 OK\r\n"
WRONG = {
    "never": ((), False),
    "a head without end": ((OK, b"X: y\r\n" * 10), False),
    "a body that never ends": ((OK, b"Content-Length: 10\r\n\r\nabc"), False),
    "a body cut short": ((OK, b"Content-Length: 10\r\n\r\nabc"), True),
    "a huge body": ((OK, b"\r\n", b"x" * 300_000), True),
    "a huge head": ((OK, b"X: " + b"y" * 300_000 + b"\r\n\r\n"), True),
    "a million headers": ((OK, b"X: y\r\n" * 100_000, b"\r\n"), True),
    "bad chunks": ((OK, b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"), True),
    "no HTTP": ((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,), True),
    "no gzip": ((OK, b"Content-Encoding: gzip\r\nContent-Length: 90000\r\n\r\n", b"\x1f" * 90_000), True),
    "two lengths": ((OK, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), True),
    "nothing": ((), True),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_nonsense_is_recorded_and_tried_again(
    kind: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cells, "TIMEOUT_S", 0.5)
    logs = CapturingLogger()
    monkeypatch.setattr(dispatching, "log", logs)
    caplog.set_level(logging.DEBUG)  # what libraries say
    fleet = Fleet(engine)
    populate(fleet, 1, "cell-1")
    answers, close = WRONG[kind]
    with raw(*answers, close=close) as url:
        fleet.write("UPDATE cells SET url = :url", {"url": url})
        client = CellClient(CellSettings(frozenset({url}), OTHER, {"cell-1": (NEW, OLD)}), fleet.clock)
        done = runner.run(dispatch(fleet.context()), runner.World(fleet.engine, fleet.providers, client, fleet.clock))
    assert (done.acknowledged, done.failed) == (0, 1)
    ((error, due),) = fleet.rows("SELECT last_error, due_at_ms FROM halts")
    assert error and int(str(due)) > fleet.clock.at_ms
    kept = repr([fleet.rows(f"SELECT * FROM {name}") for name in sa.inspect(engine).get_table_names()])
    assert "halt_sent" in repr(logs.calls)
    assert "canary" not in kept + repr(logs.calls) + caplog.text + repr(client._settings) + repr(client.__dict__)
