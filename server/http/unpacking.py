"""What a body is packed in: nothing, or gzip.

Guarantee: no more is unpacked than a body may have, whatever a small one promises to become.
"""

from __future__ import annotations

import zlib
from typing import Final

from drawdown.server.http.errors import ApiError

PIECE_BYTES: Final = 64 * 1024
"""Of a packed body, unpacked at once."""
MOST_MEMBERS: Final = 1_000
"""Of gzip, one behind the other, in one body."""
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
    at = members = 0
    try:
        while at < len(body):
            members += 1
            if members > MOST_MEMBERS:
                raise ApiError(413, "too_large", f"a body of more than {MOST_MEMBERS:,} gzip members is not unpacked")
            at = _member(body, at, found, most_bytes)
    except zlib.error:
        raise ApiError(400, "bad_encoding", "the body is no gzip") from None
    return bytes(found)


def _member(body: bytes, at: int, found: bytearray, most_bytes: int) -> int:
    """Unpack the member that begins here; where it ends. A piece at a time: zlib copies what follows a member, which
    for all that follows each would take the square of their number."""
    member = zlib.decompressobj(_GZIP)
    while not member.eof:
        piece = body[at : at + PIECE_BYTES]
        if not piece:
            raise ApiError(400, "bad_encoding", "the gzip is cut short")
        at += len(piece)
        found += member.decompress(piece, most_bytes + 1 - len(found))
        if len(found) > most_bytes:
            raise ApiError(413, "too_large", f"a body of more than {most_bytes} bytes is not unpacked")
    return at - len(member.unused_data)
