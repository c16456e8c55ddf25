"""The client where httpx2 is installed and httpx is not: it sends, asks and fails as it does with httpx."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import gzip, json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
sys.modules["httpx"] = None

class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        sent = self.rfile.read(int(self.headers["content-length"]))
        sent = gzip.decompress(sent) if self.headers["content-encoding"] == "gzip" else sent
        found = json.loads(sent)
        events = found["events"] if isinstance(found, dict) and "events" in found else found
        events = events if isinstance(events, list) else [events]
        body = json.dumps({"results": [{"status": "accepted"} for _ in events]}).encode()
        print("got", len(events), self.headers["authorization"], flush=True)
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()

from drawdown_client import Client, Settings, Unsent
from drawdown_client.http import httpx
print(httpx.__name__)
url = f"http://127.0.0.1:{server.server_port}"
with Client(url, "key-of-a-program") as client:
    client.record("page.render", 3, org_id="acme")
    client.flush()
server.shutdown(); server.server_close()
try:
    with Client(url, "key-of-a-program", Settings(close_s=1)) as client:
        client.record("page.render", 3, org_id="acme")
        client.flush(1)
except Unsent:
    print("unsent")
"""


def test_client_with_httpx2_only_sends_and_reports_failure() -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["httpx2", "got 1 Bearer key-of-a-program", "unsent"], done.stdout
