"""Redacted references: the same for the same thing, and of no use to who lacks the key."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from drawdown.schema.errors import UsageError

LEAST_KEY_BYTES: Final = 16
REFERENCE: Final = re.compile(r"ref_[0-9a-f]{12}")
IN_TEXT: Final = re.compile(r"(?<![\w-])ref_[0-9a-f]{12}(?![\w-])")


def reference(key: bytes, kind: str, value: str) -> str:
    """`ref_` and 12 hexadecimal digits, by HMAC-SHA-256 of the kind of thing (`org`, `subject`) and its id: two kinds
    with one id have two references. Errors: UsageError for a key that could be guessed."""
    if len(key) < LEAST_KEY_BYTES:
        raise UsageError(f"a key for references has {LEAST_KEY_BYTES} bytes at least")
    text = f"{len(kind)}:{kind}:{value}"
    return f"ref_{hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:12]}"
