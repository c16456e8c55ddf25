"""docs/webhooks.md verifies as messages are signed, and names each event with what is promised of its schedule."""

from __future__ import annotations

import base64
import hmac
import re
from pathlib import Path
from typing import Any

from drawdown.schema.messages import EVENTS, TEST
from drawdown.worker.hooks.deliver import CALL_MS
from drawdown.worker.hooks.hook_settings import endpoint_secret, headers_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
NOW_S = 1_767_225_600


def test_webhooks_page_code_accepts_only_genuine_and_fresh_messages() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    found: dict[str, Any] = {"base64": base64, "hmac": hmac}
    exec(code, found)
    verify = found["is_from_drawdown"]
    new, old, other = (endpoint_secret("root-secret-of-the-hooks", "app", number) for number in (3, 2, 1))
    headers = headers_of([new, old], "msg_1", NOW_S, b"{}")
    assert verify(new, headers, b"{}", NOW_S) and verify(old, headers, b"{}", NOW_S + 300)
    assert not verify(other, headers, b"{}", NOW_S)
    assert not verify(new, headers, b"{ }", NOW_S)
    assert not verify(new, headers, b"{}", NOW_S + 301)
    assert not verify(new, {**headers, "webhook-id": "msg_2"}, b"{}", NOW_S)


def test_webhooks_page_lists_each_event() -> None:
    assert sorted(re.findall(r"^\| `([a-z]+\.[a-z]+)` \|", PAGE, flags=re.MULTILINE)) == sorted((*EVENTS, TEST))


def test_webhooks_page_names_answer_timeout() -> None:
    assert f"within {CALL_MS // 1000} s" in PAGE
