"""A secret for each cell, rotation without a moment in which a cell refuses, and no secret where it can be read."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from structlog.testing import CapturingLogger

from drawdown.cli.nouns.demo_cell import DemoCell
from drawdown.cli.settings import Settings
from drawdown.providers.http import Answer, Call
from drawdown.schema.clock import FixedClock
from drawdown.schema.errors import UsageError
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.halts import cell_client
from drawdown.worker.halts import dispatch as dispatching
from drawdown.worker.halts.cell_client import CellClient, body_of, signature
from drawdown.worker.halts.cell_settings import CellSettings, cell_secret
from drawdown.worker.halts.dispatch import dispatch
from tests.emulators.cell import CellEmulator
from tests.emulators.serve import serving_in_thread
from tests.integration.test_dispatch import populate
from tests.world import T0, Fleet

README: Final = Path(__file__).resolve().parents[2] / "docs" / "http-api.md"
NEW, OLD, OTHER = "canary-new-secret-1", "canary-old-secret-2", "canary-other-secret-3"


def settings(text: str, root: str = "") -> CellSettings:
    return Settings(cell_secret=SecretStr(root), cell_secrets=SecretStr(text)).cells()


def test_cell_secret_entry_overrides_derived_secret() -> None:
    found = settings(f" cell-1 = {NEW} , {OLD} ; cell-2={OTHER}==; ", root="r")
    assert found.secrets_of("cell-1") == (NEW, OLD)
    assert found.secrets_of("cell-2") == (f"{OTHER}==",)
    assert found.secrets_of("cell-3") == (cell_secret("r", "cell-3"),)
    assert settings(f"*={NEW},{OLD}").secrets_of("cell-3") == (NEW, OLD)
    assert settings("").secrets_of("cell-3") == ()


def test_cell_secret_is_derived_from_root_and_cell_id() -> None:
    wanted = hmac.new(b"r", b"cell:cell-\xc3\xa4", "sha256").hexdigest()
    assert settings("", root="r").secrets_of("cell-ä") == (wanted,)
    assert len({cell_secret(root, cell) for root in "rs" for cell in ("cell-1", "cell-2")}) == 4


def test_new_cell_secret_comes_first_during_rotation_and_while_shared() -> None:
    assert settings("", root="s, r").secrets_of("c") == (cell_secret("s", "c"), cell_secret("r", "c"))
    shared = settings(f"*={OLD};cell-1={NEW}", root="s")
    assert shared.secrets_of("c") == (cell_secret("s", "c"), OLD)
    assert shared.secrets_of("cell-1") == (NEW,)


@pytest.mark.parametrize("text", [f"{NEW},", f",{NEW}", f"{NEW},{OLD},{OTHER}", ","])
def test_cell_secret_invalid_root_is_refused_without_secret_in_text(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings("", root=text)
    assert "DRAWDOWN_CELL_SECRET:" in str(caught.value) and "canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "=x{}", "a=", "a={},", "a=,{}", "a=x,y,{}", "a={};a=y", "cell-1:{}", "a=x;{}"])
def test_cell_secrets_invalid_entry_is_refused_without_secret_in_text(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings(text.format(NEW))
    assert "DRAWDOWN_CELL_SECRETS" in str(caught.value) and "canary" not in str(caught.value)


def told(
    secret: str, given: Mapping[str, tuple[str, ...]], roots: tuple[str, ...] = ()
) -> tuple[str | None, list[tuple[str, int]]]:
    """What a cell that knows only `X-Signature` answers."""
    cell = DemoCell("cell-1", secret, FixedClock(T0), lambda _cell, _org: None)
    try:
        client = CellClient(CellSettings(frozenset({cell.url}), roots=roots, secrets=given), FixedClock(T0))
        (answer,) = asyncio.run(client.send([HaltRequest("acme", "cell-1", cell.url, T0)]))
        return answer, cell.received
    finally:
        cell.close()


def test_cell_with_old_or_new_secret_obeys_during_rotation() -> None:
    for secret in (NEW, OLD):
        assert told(secret, {"cell-1": (NEW, OLD)}) == (None, [("acme", 200)])
    assert told(OTHER, {"cell-1": (NEW, OLD)}) == ("the cell answered 401", [])
    assert told(OLD, {"cell-1": (NEW,), "cell-2": (OLD,)}) == ("the cell answered 401", []), "another cell's"


def test_cell_with_shared_or_own_secret_obeys_during_migration() -> None:
    """What UPGRADE.md says: cells that still have the shared one obey, and so do those that have their own."""
    for secret in (OLD, cell_secret(NEW, "cell-1")):
        assert told(secret, {"*": (OLD,)}, roots=(NEW,)) == (None, [("acme", 200)])
    assert told(OLD, {}, roots=(NEW,)) == ("the cell answered 401", []), (
        "without the entry for it, the shared one is over"
    )
    assert told(OLD, {}, roots=(OLD,)) == ("the cell answered 401", []), "a root is no cell's secret"


@pytest.mark.parametrize("shared", [True, False])
def test_halt_signed_for_first_cell_is_refused_by_second(shared: bool) -> None:
    """Whoever sees a halt, such as the cell it is for, cannot use it elsewhere: its id is under the signature, and the
    secret is another cell's, too."""
    secrets = {cell: (OLD if shared else cell_secret(OLD, cell)) for cell in ("cell-1", "cell-2")}
    body, now_s = body_of(HaltRequest("acme", "cell-1", "http://cell", T0)), T0 // 1000
    headers = {"X-Timestamp": str(now_s), "X-Signature": signature(secrets["cell-1"], now_s, body)}
    answers = []
    for name, secret in secrets.items():
        emulator = CellEmulator(name, secret)
        answer = emulator.handle(Call("POST", "http://cell/admin/halt-org", headers, body), T0)
        demo = DemoCell(name, secret, FixedClock(T0), lambda _cell, _org: None)
        demo.close()
        by_readme = readme_is_halt_for_us()(secret, name, headers, body, now_s)
        assert isinstance(answer, Answer)
        assert demo.answer("/admin/halt-org", str(now_s), headers["X-Signature"], body) == answer.status
        assert by_readme == (answer.status == 200) == bool(emulator.halted)
        answers.append(answer.status)
    assert answers == [200, 401]


def test_halt_without_cell_id_is_refused() -> None:
    """As they were before cells had ids to check: one that was recorded then is good for nothing."""
    body, now_s = b'{"halted_at": 1, "org_id": "acme"}', T0 // 1000
    headers = {"X-Timestamp": str(now_s), "X-Signature": signature(OLD, now_s, body)}
    answer = CellEmulator(secret=OLD).handle(Call("POST", "http://cell/admin/halt-org", headers, body), T0)
    assert isinstance(answer, Answer) and answer.status == 400
    assert not readme_is_halt_for_us()(OLD, "cell-1", headers, body, now_s)


def test_documented_halt_check_refuses_wrong_secret_time_or_body() -> None:
    check, body, now_s = readme_is_halt_for_us(), body_of(HaltRequest("acme", "cell-1", "http://cell", T0)), T0 // 1000
    headers = {"X-Timestamp": str(now_s), "X-Signature": signature(OLD, now_s, body)}
    assert check(OLD, "cell-1", headers, body, now_s + 300)
    assert not check(NEW, "cell-1", headers, body, now_s)
    assert not check(OLD, "cell-1", headers, body, now_s + 301)
    assert not check(OLD, "cell-1", headers, body.replace(b"acme", b"acne"), now_s)
    assert not check(OLD, "cell-1", {**headers, "X-Timestamp": "soon"}, body, now_s)


def readme_is_halt_for_us() -> Callable[..., bool]:
    """The lines that the README gives to whoever writes a cell."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = [one for one in blocks if "def is_for_us" in one]
    found: dict[str, Any] = {"hmac": hmac, "json": json}
    exec(code, found)
    check: Callable[..., bool] = found["is_for_us"]
    return check


def test_halt_during_rotation_is_sent_with_both_signatures() -> None:
    emulator = CellEmulator(secret=NEW)
    seen = []
    right = emulator.handle

    def handle(call, now_ms):  # type: ignore[no-untyped-def]
        seen.append(call)
        return right(call, now_ms)

    emulator.handle = handle  # type: ignore[method-assign]
    with serving_in_thread(emulator, FixedClock(T0)) as url:
        client = CellClient(CellSettings(frozenset({url}), secrets={"cell-1": (NEW, OLD)}), FixedClock(T0))
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
def test_halt_with_malformed_answer_is_recorded_for_retry(
    kind: str, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cell_client, "TIMEOUT_S", 0.5)
    logs = CapturingLogger()
    monkeypatch.setattr(dispatching, "log", logs)
    caplog.set_level(logging.DEBUG)  # what libraries say
    fleet = Fleet(engine)
    populate(fleet, 1, "cell-1")
    answers, close = WRONG[kind]
    with raw(*answers, close=close) as url:
        fleet.write("UPDATE cells SET url = :url", {"url": url})
        client = CellClient(CellSettings(frozenset({url}), (OTHER,), {"cell-1": (NEW, OLD)}), fleet.clock)
        done = runner.run(dispatch(fleet.context()), runner.World(fleet.engine, fleet.providers, client, fleet.clock))
    assert (done.acknowledged, done.failed) == (0, 1)
    ((error, due),) = fleet.rows("SELECT last_error, due_at_ms FROM halts")
    assert error and int(str(due)) > fleet.clock.at_ms
    kept = repr([fleet.rows(f"SELECT * FROM {name}") for name in sa.inspect(engine).get_table_names()])
    assert "halt_sent" in repr(logs.calls)
    assert "canary" not in kept + repr(logs.calls) + caplog.text + repr(client._settings) + repr(client.__dict__)
