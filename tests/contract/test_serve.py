"""The emulators over real HTTP: in a test, in a thread, and as the program people start at home."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer, NotSent
from drawdown.providers.kit.emulator import FaultPlan
from drawdown.schema.clock import FixedClock, SystemClock
from drawdown.worker.engine.effects import HaltRequest
from drawdown.worker.halts.cell_client import CellClient
from drawdown.worker.halts.cell_settings import CellSettings
from tests.cases import cases
from tests.emulators.cell import ROOT, CellEmulator
from tests.emulators.serve import HANGS_S, Switched, home_stripe, serving, serving_in_thread
from tests.emulators.stripe import StripeEmulator

PROJECT = Path(__file__).resolve().parents[2]
NOW_MS = 1_790_000_000_000


@dataclass
class Echo:
    """Keeps what it is sent, answers what it is told."""

    answer: HttpResult = field(default_factory=lambda: Answer(200, {"X-Said": "yes"}, b"\x00\xff"))
    calls: list[tuple[Call, int]] = field(default_factory=list)

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        self.calls.append((call, now_ms))
        return self.answer


def test_emulator_server_passes_request_and_answer_unchanged() -> None:
    echo = Echo()
    with serving_in_thread(echo, FixedClock(NOW_MS)) as url:
        answer = httpx.put(f"{url}/a%2Fb/c?x=1%20&y=%C3%BC", content=b"\x00body", headers={"X-One": "1"})
    ((call, now_ms),) = echo.calls
    assert (answer.status_code, answer.headers["x-said"], answer.content) == (200, "yes", b"\x00\xff")
    assert (call.method, call.body, now_ms) == ("PUT", b"\x00body", NOW_MS)
    assert call.url == f"{url}/a%2Fb/c?x=1%20&y=%C3%BC"
    assert call.headers["x-one"] == "1"


@cases("result", [NoAnswer("cut"), NotSent("refused")])
def test_emulator_server_without_answer_cuts_connection_after_request(result: HttpResult) -> None:
    echo = Echo(result)
    with serving_in_thread(echo) as url, pytest.raises(httpx.TransportError):
        httpx.post(url, content=b"x" * 100_000)
    assert len(echo.calls[0][0].body) == 100_000


def test_emulator_server_latency_delays_answer() -> None:
    with serving_in_thread(Echo(), latency_ms=200) as url:
        began = time.monotonic()
        httpx.get(url)
    assert time.monotonic() - began >= 0.2


def test_emulator_server_in_event_loop_serves_50_calls_and_stops() -> None:
    async def run() -> str:
        async with serving(Echo(), latency_ms=50) as url, httpx.AsyncClient() as client:
            answers = await asyncio.gather(*(client.get(url) for _ in range(50)))
            assert {answer.status_code for answer in answers} == {200}
        return url

    with pytest.raises(httpx.ConnectError):
        httpx.get(asyncio.run(run()))


# The cell.


def halt(cell: CellEmulator, *, secret: str = ROOT, now_ms: int | None = None) -> str | None:
    """Tells a served cell to halt, by the worker's own client: None where it acknowledged."""
    with serving_in_thread(cell) as url:
        clock = SystemClock() if now_ms is None else FixedClock(now_ms)
        client = CellClient(CellSettings(frozenset({url}), (secret,)), clock)
        (said,) = asyncio.run(client.send([_request(url)]))
    return said


def _request(url: str) -> HaltRequest:
    return HaltRequest(org_id="org1", cell_id="cell-1", url=url, halted_at=NOW_MS)


def test_cell_emulator_accepts_signed_halt() -> None:
    cell = CellEmulator()
    assert halt(cell) is None
    assert cell.halted == {"org1": NOW_MS} and cell.acknowledged["org1"] == 1


def test_cell_emulator_refuses_wrong_secret_or_old_timestamp() -> None:
    cell = CellEmulator()
    assert halt(cell, secret="wrong") == "the cell answered 401"
    assert halt(cell, now_ms=SystemClock().now_ms() - 301_000) == "the cell answered 401"
    assert cell.halted == {} and cell.refused == {401: 2}


def test_cell_emulator_refuses_malformed_halt_request() -> None:
    cell = CellEmulator()
    for call, status in (
        (Call("POST", "http://cell/admin/other"), 404),
        (Call("GET", "http://cell/admin/halt-org"), 405),
        (Call("POST", "http://cell/admin/halt-org"), 401),
        (Call("POST", "http://cell/admin/halt-org", {"X-Timestamp": "٣", "X-Signature": "é"}), 401),
    ):
        answer = cell.handle(call, NOW_MS)
        assert isinstance(answer, Answer) and answer.status == status
    assert cell.halted == {}


@cases(
    ("kind", "acknowledged", "done"),
    [
        ("down", False, False),
        ("slow", False, False),
        ("broken", False, False),
        ("answer_lost", False, True),
        ("lie", True, False),
    ],
)
def test_cell_emulator_fails_by_fault_plan(kind: str, acknowledged: bool, done: bool) -> None:
    cell = CellEmulator(faults=FaultPlan(0, {kind: 1.0}))
    assert (halt(cell) is None) == acknowledged
    assert ("org1" in cell.halted) == done
    assert cell.lies == (["org1"] if kind == "lie" else [])


@cases("seed", range(5))
def test_cell_nonsense_answer_is_not_acknowledged(seed: int) -> None:
    assert halt(CellEmulator(faults=FaultPlan(seed, {"nonsense": 1.0}))) is not None


# At home.


def test_emulator_program_prints_settings_and_runs_until_interrupted() -> None:
    ports = ["--autumn-port", "0", "--stripe-port", "0", "--cell-port", "0"]
    command = [sys.executable, "-m", "tests.emulators.serve", *ports]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = _lines(process)
            check_home(lines)
            process.send_signal(signal.SIGINT)
            assert process.wait(HANGS_S) == 0
        finally:
            process.kill()


def _lines(process: subprocess.Popen[str]) -> dict[str, str]:
    """What it prints, by the names to set, up to the line that says that it runs."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        setting = re.fullmatch(r"export (DRAWDOWN_[A-Z_]+)=(\S+)\n", line)
        if setting:
            found[setting.group(1)] = setting.group(2)
        if "Interrupt to stop" in line:
            break
    return found


def check_home(lines: Mapping[str, str]) -> None:
    assert lines["DRAWDOWN_CELL_ORIGINS"].startswith("http://127.0.0.1:") and lines["DRAWDOWN_CELL_SECRET"]
    assert lines["DRAWDOWN_STRIPE_WEBHOOK_SECRETS"].startswith("whsec_")
    answer = httpx.post(
        lines["DRAWDOWN_STRIPE_URL"] + "/v1/billing/meter_events",
        headers={"Authorization": f"Bearer {lines['DRAWDOWN_STRIPE_SECRET_KEY']}"},
        data={
            "event_name": "compute",
            "payload[stripe_customer_id]": "cus_alice",
            "payload[value]": "5",
            "identifier": "try-1",
        },
    )
    assert (answer.status_code, answer.json()["identifier"]) == (200, "try-1")


def test_emulator_server_uses_chosen_port() -> None:
    with serving_in_thread(Echo()) as url:
        free = int(url.rsplit(":", 1)[1])
    with serving_in_thread(StripeEmulator(), port=free) as again:
        assert again == f"http://127.0.0.1:{free}"
        assert httpx.get(f"{again}/v1/billing/meters").status_code == 401


def test_emulator_switch_makes_service_down_slow_or_reset() -> None:
    served = Switched(home_stripe)
    with serving_in_thread(served) as url:
        assert httpx.post(f"{url}/emulator/nonsense").status_code == 404
        assert httpx.get(f"{url}/emulator/down").status_code == 404, "looking changes nothing"
        assert httpx.post(f"{url}/emulator/down").text == "it is down\n"
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/v1/customers/cus_acme")
        httpx.post(f"{url}/emulator/up")
        assert httpx.get(f"{url}/v1/customers/cus_acme").status_code < 600
        assert httpx.post(f"{url}/emulator/slow/5").status_code == 200 and served.slow_ms == 5
        before = served.inner
        httpx.post(f"{url}/emulator/forget")
        assert served.inner is not before


def test_emulator_program_with_used_port_reports_single_error() -> None:
    with serving_in_thread(Echo()) as url:
        port = url.rpartition(":")[2]
        done = subprocess.run(
            [sys.executable, "-m", "tests.emulators.serve", "--port", "0", "--autumn-port", port],
            cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 cannot be used for autumn" in done.stderr and "Traceback" not in done.stderr
