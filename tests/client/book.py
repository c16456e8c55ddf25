"""What the server keeps of what is sent, by the contract of POST /v1/events; and a process's worth of it on a socket.

The real server is met in `test_real_server.py`. Here faults are struck where no real server strikes them on demand.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx

from drawdown_client import World

KEY: Final = "dd_0123456789"
URL: Final = "http://drawdown.test"


class Hasty:
    """In place of a random number: no pause but those that the server asks for."""

    def uniform(self, low: float, _high: float) -> float:
        return low


def hasty() -> World:
    jitter: Any = Hasty()
    return World(jitter=jitter)


class Book:
    """Events by (source, id), samples by id."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}
        self.bodies: list[list[dict[str, Any]]] = []
        self.lock = threading.Lock()

    def take(self, body: bytes) -> dict[str, Any]:
        items = json.loads(body)
        with self.lock:
            self.bodies.append(items)
            return {"results": [self._one(item) for item in items]}

    def _one(self, item: dict[str, Any]) -> dict[str, str]:
        if item.get("quantity") == 13:
            return {"status": "invalid", "code": "bad_quantity", "message": "unlucky", "at": "quantity"}
        key = (item.get("source", ""), item.get("event_id") or item["id"])
        before = self.kept.setdefault(key, item)
        if before is item:
            return {"status": "accepted"}
        same = {**before, "recorded_at": None} == {**item, "recorded_at": None}
        return {"status": "duplicate"} if same else {"status": "conflict", "code": "other_content"}

    def answer(self, request: httpx.Request) -> httpx.Response:
        """As a side effect of respx."""
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["content-encoding"] == "gzip"
        return httpx.Response(200, json=self.take(gzip.decompress(request.content)))

    @property
    def numbers(self) -> list[int]:
        """The quantities that were kept, sorted."""
        return sorted(item["quantity"] for item in self.kept.values())


class Reports(Book):
    """A guard that allows each use, and keeps the orders."""

    def take(self, body: bytes) -> dict[str, Any]:
        self.bodies.append([json.loads(body)])
        return {"decision": "allow", "reason": "allowed"}


@contextmanager
def on_a_socket(book: Book, status: Callable[[], int] = lambda: 200) -> Iterator[str]:
    """Its URL. `status`: of each answer; another than 200 keeps nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found = status()
            is_packed = self.headers["content-encoding"] == "gzip"
            said = (
                book.take(gzip.decompress(body) if is_packed else body)
                if found == 200
                else {"error": {"code": "database", "message": ""}}
            )
            answer = json.dumps(said).encode()
            self.send_response(found)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Tests say what matters."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
