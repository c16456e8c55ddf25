"""Make a link by which an organisation's own people see their usage: `python my_link.py acme ann`.

It needs no packages. A person who has the link is in: make it for a person who is signed in to your product, and send
them there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import time


def link(url: str, secret: str, org: str, person: str | None = None) -> str:
    """`url` is where /my is reached, `secret` what both sides share. It opens the page once, within five minutes."""
    claims = {"aud": url, "org": org, "exp": int(time.time()) + 300, "jti": secrets.token_urlsafe(16)}
    if person is not None:
        claims["sub"] = person
    text = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    proof = _base64(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))
    return f"{url}/my/enter?token={text}.{proof}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


if __name__ == "__main__":
    print(link(os.environ["DRAWDOWN_CONSOLE_URL"], os.environ["DRAWDOWN_MY_SECRET"], *sys.argv[1:3]))
