"""How programs end: without closing, by an error, killed, forked; and what of their events arrives."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.cases import cases
from tests.client.book import Book, Reports, on_a_socket

ROOT = Path(__file__).resolve().parents[2]


def start(url: str, spool: Path | None, count: int, how: str) -> subprocess.Popen[str]:
    arguments = [url, "" if spool is None else str(spool), str(count), how]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.client.program", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(url: str, spool: Path | None, count: int, how: str, status: int = 0) -> str:
    process = start(url, spool, count, how)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return err


@cases(("how", "status"), [("end", 0), ("raise", 1), ("exit", 3)])
def test_client_program_that_ends_without_close_sends_all_events(how: str, status: int) -> None:
    book = Book()
    with on_a_socket(book) as url:
        run(url, None, 1_045, how, status)
    assert book.numbers == list(range(100, 1_145))


def test_client_program_end_is_bounded_and_reports_unsent_items() -> None:
    with on_a_socket(Book(), lambda: 503) as url:
        script = (
            "from drawdown_client import *; import sys\n"
            "client = Client(sys.argv[1], 'dd_1', Settings(close_s=0.5))\n"
            "for n in range(7): client.record('page.render', n, org_id='acme')\n"
        )
        done = subprocess.run([sys.executable, "-c", script, url], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "at the end of the program, items not sent: 7 (they were stored only in memory)" in done.stderr


@cases("is_away", [True, False])
def test_client_program_killed_with_spool_sends_events_once_at_restart(tmp_path: Path, is_away: bool) -> None:
    """Killed while it records, with the server away or there: what was recorded arrives, and each event once."""
    book = Book()
    spool = tmp_path / "app.spool"
    with on_a_socket(book, lambda: 503 if is_away else 200) as url:
        process = start(url, spool, 100_000, "hang")
        assert process.stdout is not None
        recorded = [int(process.stdout.readline()) for _ in range(400)]
        process.kill()
        recorded += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        process.wait(60)
        process.communicate()
    with on_a_socket(book) as url:
        run(url, spool, 0, "end")
    assert set(recorded) <= set(book.numbers), "what was recorded is there"
    assert book.numbers == list(range(100, 100 + len(book.numbers))), "each once"
    assert len(book.numbers) <= len(recorded) + 1, "at most the one whose recording nobody learnt of"
    assert len({item["event_id"] for item in book.kept.values()}) == len(book.numbers)


def test_client_program_refused_with_spool_sends_events_at_restart(tmp_path: Path) -> None:
    book = Book()
    with on_a_socket(book, lambda: 401) as url:
        assert "the server refused items" in run(url, tmp_path / "app.spool", 50, "end")
    assert not book.kept
    with on_a_socket(book) as url:
        run(url, tmp_path / "app.spool", 0, "end")
    assert book.numbers == list(range(100, 150))


@cases("has_spool", [True, False])
def test_client_in_forked_process_sends_own_events_once(tmp_path: Path, has_spool: bool) -> None:
    book = Book()
    with on_a_socket(book) as url:
        run(url, tmp_path / "app.spool" if has_spool else None, 150, "fork")
    assert (tmp_path / "app.spool.1").exists() is has_spool, "each has its own"
    wanted = [*range(100, 250), *range(5_000, 5_150), *range(9_000, 9_150)]
    assert book.numbers == wanted
    assert sum(map(len, book.bodies)) == len(wanted), "no item was sent by both"
    senders = {item["event_id"].partition("-")[0] for item in book.kept.values()}
    assert len(senders) == 2


UNCLOSED = """
import asyncio, multiprocessing, sys
from drawdown_client import AsyncClient, Client, Settings, Wish
how, url = sys.argv[1:]
settings = Settings(fails_open=("login",), call_tries=1, close_s=1.0)
wish = Wish("acme", "login")
made = Client(url, "dd_1", settings) if how == "worker" else None
def work():
    client = made or Client(url, "dd_1", settings)
    assert client.guard.consume("l-1", wish).degraded
async def loop():
    client = AsyncClient(url, "dd_1", settings)
    assert (await client.guard.consume("l-1", wish)).degraded
if how == "worker":
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    sys.exit(worker.exitcode)
asyncio.run(loop()) if how == "loop" else work()
"""


@cases(("how", "is_back"), [(how, back) for how in ("thread", "loop", "worker") for back in (True, False)])
def test_guard_client_program_without_close_sends_or_logs_reports(how: str, is_back: bool) -> None:
    reports, statuses = Reports(), itertools.chain([503], itertools.repeat(200 if is_back else 503))
    with on_a_socket(reports, lambda: next(statuses)) as url:
        done = subprocess.run(
            [sys.executable, "-c", UNCLOSED, how, url], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert [order["key"] for (order,) in reports.bodies] == (["l-1"] if is_back else [])
    assert done.stderr.count('cannot record an allowed use: {"key": "l-1"') == (0 if is_back else 1)


BLOCKED_AT_END = """
import socket, sys, threading
from drawdown_client import Client, Settings, Wish
client = Client("http://127.0.0.1:9", "dd_1", Settings(fails_open=("login",), call_tries=1, close_s=0.2))
assert client.guard.consume("l-1", Wish("acme", "login")).degraded
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
"""


def test_guard_client_program_end_with_blocked_report_is_bounded() -> None:
    """The system's resolver takes no time limit."""
    words = [sys.executable, "-c", BLOCKED_AT_END]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stderr
    assert 'cannot record an allowed use: {"key": "l-1"' in done.stderr


CANCELLED = """
import asyncio, socket, sys, threading
from drawdown_client import AsyncClient, Settings, Wish
is_blocked = threading.Event()
def block(*_, **__):
    is_blocked.set()
    threading.Event().wait()
async def main():
    client = AsyncClient("http://127.0.0.1:9", "dd_1", Settings(fails_open=("login",), call_tries=1, close_s=0.2))
    assert (await client.guard.consume("l-1", Wish("acme", "login"))).degraded
    socket.getaddrinfo = block
    how = client.close(60) if sys.argv[1] == "close" else client.guard.consume("l-2", Wish("acme", "login"))
    task = asyncio.create_task(how)
    while not is_blocked.is_set():
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
asyncio.run(main())
"""


@cases("how", ["call", "close"])
def test_async_guard_client_program_end_after_cancelled_call_is_bounded(how: str) -> None:
    """The thread of the report may be in a call that takes no time limit."""
    words = [sys.executable, "-c", CANCELLED, how]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=15)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('cannot record an allowed use: {"key": "l-1"') == 1
    assert "Traceback" not in done.stderr


FORKED = """
import json, os, signal, sys
from drawdown_client import Settings, Unreachable, Wish, World, guard_words
from drawdown_client.let_through import LetThrough
sent = []
def once(call, _within_s):
    sent.append(json.loads(call.body)["key"])
    return {"decision": "allow"}
made = LetThrough(Settings(spool=sys.argv[1] or None), World(), once)
def use(key):
    made.keep(key, guard_words.consume(key, Wish("acme", "login"), late=True), Unreachable("away"))
use("l-1")
made._lock.acquire(), made._sending.acquire()
child = os.fork()
if not child:
    signal.alarm(20)
    use("l-2")
    os._exit(0 if made.send() is None and sent == ["l-2"] else 1)
made._lock.release(), made._sending.release()
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
made.send()
sys.exit(status or sent != ["l-1"])
"""


@cases("has_spool", [True, False])
def test_guard_client_fork_during_report_does_not_block_child(tmp_path: Path, has_spool: bool) -> None:
    """Another thread of the parent has the locks. Each process sends its own report."""
    spool = str(tmp_path / "app.spool") if has_spool else ""
    done = subprocess.run([sys.executable, "-c", FORKED, spool], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


FORKED_AT_CLOSE = """
import os, sys
from drawdown_client import Settings, Unreachable, Wish, World, guard_words
from drawdown_client.let_through import LetThrough
from drawdown_client.outbox import Outbox
how, path = sys.argv[1:]
settings, children, real = Settings(spool=path, spool_bytes=2_000), [], os.close
guard = LetThrough(settings, World(), None)
def use(key):
    guard.keep(key, guard_words.consume(key, Wish("acme", "login"), late=True), Unreachable("away"))
def close(file):
    real(file)
    if not children:
        children.append(0)
        children[0] = os.fork()
        if not children[0]:
            os._exit(len(guard._reports))
if how == "compaction":
    use("a"), use("b" * 500)
    guard.acknowledge(guard._reports[1])
    os.close = close
    use("c" * 500)
    assert [report.key[0] for report in guard._reports] == ["a", "c"]
else:
    outbox = Outbox(None, lambda: None, settings, World())
    os.close = close
    outbox.close(0)
os.close = real
os._exit(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""


@cases("how", ["compaction", "end"])
def test_client_fork_while_spool_file_is_closed_starts_empty(tmp_path: Path, how: str) -> None:
    """Another thread of the parent closes it. The child closes no file twice."""
    words = [sys.executable, "-c", FORKED_AT_CLOSE, how, str(tmp_path / "app.spool")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Bad file descriptor" not in done.stderr


FORKED_LOOP = """
import asyncio, os, sys
from drawdown_client import AsyncClient
client, loop = AsyncClient(sys.argv[1], "dd_1"), asyncio.new_event_loop()
loop.run_until_complete(client.get("/v1/orgs"))
child = os.fork()
if not child:
    asyncio.new_event_loop().run_until_complete(client.get("/v1/orgs"))
    os._exit(0)
loop.run_until_complete(client.get("/v1/orgs"))
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_async_client_in_forked_process_has_own_connection() -> None:
    ports: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            ports.append(self.client_address[1])
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        words = [sys.executable, "-c", FORKED_LOOP, f"http://127.0.0.1:{server.server_port}"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert sorted(map(ports.count, set(ports))) == [1, 2]


def test_client_closed_before_fork_does_not_close_files_of_child(tmp_path: Path) -> None:
    script = (
        "import os, sys; from drawdown_client import *\n"
        "client = Client('http://127.0.0.1:9', 'dd_1', Settings(spool=sys.argv[1] + '/app.spool'))\n"
        "client.close()\n"
        "files = [open(sys.argv[1] + f'/{n}', 'w') for n in range(9)]\n"
        "child = os.fork()\n"
        "for file in files: print('written', file=file, flush=True)\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_client_in_worker_process_sends_its_events(tmp_path: Path) -> None:
    book = Book()
    with on_a_socket(book) as url:
        run(url, tmp_path / "app.spool", 100, "worker")
    assert book.numbers == [*range(100, 200), *range(5_000, 5_100)]


def test_client_two_processes_with_same_spool_send_each_event_once(tmp_path: Path) -> None:
    book = Book()
    spool = tmp_path / "app.spool"
    with on_a_socket(book, lambda: 503) as url:
        both = [start(url, spool, 120, "hang") for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            assert [int(process.stdout.readline()) for _ in range(120)] == list(range(100, 220))
        for process in both:
            process.kill()
            process.communicate()
    with on_a_socket(book) as url:
        run(url, spool, 0, "end")
    assert len(book.kept) == 240
    assert len({item["event_id"] for item in book.kept.values()}) == 240
