"""The README signs as the server checks."""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Any

from tests.server.house import ADMIN, HOST, Caller, House, served

README = Path(__file__).resolve().parents[2] / "docs" / "http-api.md"


def test_admin_request_signed_as_documented_is_accepted(lone: House) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = [one for one in blocks if "def signed" in one]
    found: dict[str, Any] = {"hmac": hmac}
    exec(code, found)
    lone.customer("acme", 1)
    path, body = "/admin/orgs/acme/override", b'{"actor": "a", "reason": "r", "max_concurrent": 2}'

    async def work(caller: Caller) -> None:
        headers = found["signed"](ADMIN[0], HOST, path, body, lone.clock.at_ms // 1000)
        assert (await caller.send("POST", path, body, headers)).status_code == 200

    served(lone, work)
