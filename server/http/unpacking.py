"""What a body is packed in: nothing, or gzip.

Guarantee: no more is unpacked than a body may have, whatever a small one promises to become.
"""

from __future__ import annotations

import zlib
from typing import Final

from drawdown.server.http.errors import ApiError

_GZIP: Final = 16 + zlib.MAX_WBITS


def is_packed(content_encoding: str) -> bool:
    """Errors: ApiError 415 for what is not read."""
    found = content_encoding.strip().lower()
    if found in ("", "identity"):
        return False
    if found in ("gzip", "x-gzip"):
        return True
    raise ApiError(415, "bad_encoding", "a Content-Encoding is gzip, or none")


def unpack(body: bytes, most_bytes: int) -> bytes:
    """What gzip made of a body; also of several, one behind the other. Errors: ApiError 413, 400."""
    found = bytearray()
    rest = body
    try:
        while rest:
            member = zlib.decompressobj(_GZIP)
            found += member.decompress(rest, most_bytes + 1 - len(found))
            if len(found) > most_bytes:
                raise ApiError(413, "too_large", f"a body of more than {most_bytes} bytes is not unpacked")
            if not member.eof:
                raise ApiError(400, "bad_encoding", "the gzip is cut short")
            rest = member.unused_data
    except zlib.error:
        raise ApiError(400, "bad_encoding", "the body is no gzip") from None
    return bytes(found)
