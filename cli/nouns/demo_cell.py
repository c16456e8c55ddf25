"""Run a small cell for the demo.

The cell is an HTTP server on loopback that verifies Drawdown's signature and stops sandboxes.
"""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from drawdown.schema.clock import Clock
from drawdown.worker.halts.cell_client import HALT_PATH, signature

MAX_AGE_S = 300
MAX_BODY = 64 * 1024
STOPS_WITHIN_S: Final = 0.05
"""Longest wait of `close`, in seconds."""


@dataclass
class DemoCell:
    """A cell that obeys halts with its own signature and id.

    `on_halt(cell, org)` stops the sandboxes.
    """

    cell_id: str
    secret: str
    clock: Clock
    on_halt: Callable[[str, str], None]
    received: list[tuple[str, int]] = field(default_factory=list)
    """Each received halt: organisation and returned HTTP status."""

    def __post_init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(STOPS_WITHIN_S,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, timestamp: str, given: str, body: bytes) -> int:
        """Verify a request, obey its halt, and return the HTTP status."""
        if path != HALT_PATH:
            return 404
        fresh = timestamp.isdigit() and abs(self.clock.now_ms() // 1000 - int(timestamp)) <= MAX_AGE_S
        if not fresh or not hmac.compare_digest(signature(self.secret, int(timestamp), body), given):
            return 401
        asked = json.loads(body)
        if asked.get("cell_id") != self.cell_id:  # a halt of another cell
            return 401
        org = str(asked["org_id"])
        self.on_halt(self.cell_id, org)
        self.received.append((org, 200))
        return 200

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cell = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = min(int(self.headers.get("Content-Length") or 0), MAX_BODY)
                stamp, given = self.headers.get("X-Timestamp", ""), self.headers.get("X-Signature", "")
                status = cell.answer(self.path, stamp, given, self.rfile.read(size))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        return Handler
