"""The proxy's configuration fits the server: its paths, its bounds, and what a signature covers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from drawdown.server.http.connection import MAX_CONNECTIONS, MAX_HEAD_BYTES, MAX_OF_AN_ADDRESS, PATIENCE_S
from drawdown.server.settings import ServerSettings
from drawdown.server.usage.intake import MAX_BYTES

FILE: Final = Path(__file__).resolve().parents[2] / "ops" / "deploy" / "proxy" / "nginx.conf"
TEXT: Final = FILE.read_text(encoding="utf-8")
BARE: Final = "\n".join(line.partition("  #")[0] for line in TEXT.splitlines() if not line.strip().startswith("#"))


OPEN: Final = ("/v1/events", "/v1/guard/check", "/api/v1/events", "/webhooks/stripe", "/console/", "/my", "/")


def one(name: str) -> str:
    found = re.findall(rf"^\s*{name} (.+);", BARE, re.MULTILINE)
    assert len(set(found)) == 1, (name, found)
    return str(found[0])


def location(path: str) -> str:
    """The body of the location that nginx takes for a path: the first expression that matches, else `/`."""
    for expression, body in re.findall(r"location ~ (\S+) \{(.*?)\n    \}", BARE, re.DOTALL):
        if re.search(expression, path):
            return str(body)
    return str(re.findall(r"location / \{(.*?)\n    \}", BARE, re.DOTALL)[0])


def test_proxy_config_blocks_and_directives_are_complete() -> None:
    assert BARE.count("{") == BARE.count("}") and TEXT.count("HERE") == 4
    for line in filter(None, map(str.strip, BARE.splitlines())):
        assert line.endswith((";", "{", "}")), line


@pytest.mark.parametrize("path", ["/v1/gate/acme", "/admin/orgs/a/provider", "/cron/tick", "/metrics", "/readyz"])
def test_proxy_paths_without_proof_are_limited_to_own_network(path: str) -> None:
    assert location(path).strip().splitlines()[-2].strip() == "deny all;"


@pytest.mark.parametrize(
    "path", ["/v1/events", "/v1/guard/check", "/api/v1/events", "/webhooks/stripe", "/console/", "/my", "/"]
)
def test_proxy_public_paths_are_rate_limited(path: str) -> None:
    body = location(path)
    assert "deny" not in body and "limit_req " in body and "proxy_pass http://drawdown;" in body


def test_proxy_bounds_do_not_exceed_server_bounds() -> None:
    seconds = [float(one(f"client_{what}_timeout").rstrip("s")) for what in ("header", "body")]
    assert max(seconds) <= PATIENCE_S
    count, size = one("large_client_header_buffers").split(" ")
    assert int(size.rstrip("k")) * 1024 <= MAX_HEAD_BYTES and int(count) >= 2
    assert int(one("client_max_body_size").rstrip("m")) * 1024**2 >= MAX_BYTES
    assert int(one("limit_conn").split(" ")[1]) <= MAX_OF_AN_ADDRESS < MAX_CONNECTIONS
    rates = [int(rate) for rate in re.findall(r"rate=(\d+)r/s", BARE)]
    assert max(rates) == ServerSettings().requests_per_s


def test_proxy_headers_preserve_signature_and_block_spoofing() -> None:
    said = dict(re.findall(r"proxy_set_header (\S+) (.+);", BARE))
    assert said["Host"] == "$http_host" and said["X-Forwarded-For"] == "$remote_addr"
    assert said["X-Drawdown-Proxy-Secret"] == '""', "nobody outside signs people in"
    assert "proxy_pass http://drawdown;" in BARE and "proxy_pass http://drawdown/" not in BARE, "the path as it came"


def test_proxy_config_is_accepted_by_nginx(tmp_path: Path) -> None:
    nginx = shutil.which("nginx")
    if nginx is None:
        pytest.skip("nginx is not installed here")
    plain = re.sub(r"listen 443 ssl;|ssl_\w+ .*;", "listen 127.0.0.1:8099;", TEXT, count=1)
    plain = re.sub(r"ssl_\w+ .*;", "", plain)
    file = tmp_path / "nginx.conf"
    file.write_text(f"events {{}}\npid {tmp_path}/pid;\nhttp {{ access_log off;\n{plain}\n}}\n")
    done = subprocess.run(
        [nginx, "-t", "-c", file, "-e", tmp_path / "log"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
