"""Reading what was sent. Guarantee: no more than a limit is ever held, and nobody is waited for without end."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from drawdown.server.errors import ApiError

BODY_TIMEOUT_S: Final = 10.0
_LENGTH_DIGITS: Final = 15

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, most_bytes: int) -> bytes:
    """The whole body. Errors: ApiError 413, 408, 400 for what is too large, too slow or cut short."""
    said = request.headers.get("content-length", "0")
    if not (said.isascii() and said.isdigit() and len(said) <= _LENGTH_DIGITS):
        raise ApiError(400, "bad_request", "the Content-Length is no number")
    if int(said) > most_bytes:
        raise _too_large(most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except TimeoutError:
        raise ApiError(408, "too_slow", "the body did not come in time", headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise ApiError(400, "cut_short", "the body was cut short") from None
    return bytes(body)


def _too_large(most_bytes: int) -> ApiError:
    message = f"a body of more than {most_bytes} bytes is not read"
    return ApiError(413, "too_large", message, headers={"Connection": "close"})


def parse(body: bytes, content_type: str, model: type[M]) -> M:
    """Strict JSON of one model: nothing unknown, nothing twice, no number for a text.

    Errors: ApiError 415, 400, 422.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "not_json", "send application/json")
    try:
        found = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ApiError(400, "not_json", "the body is no JSON in UTF-8 in which each name stands once") from None
    try:
        return model.model_validate(found, strict=True)
    except ValidationError as error:
        wrong = [{"at": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in error.errors()[:20]]
        raise ApiError(422, "bad_value", "the body is not what this takes", details={"wrong": wrong}) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
