"""Reading forms. Guarantee: a form is taken from our own pages alone, and none is held above MAX_FORM_BYTES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from drawdown.server.console import door
from drawdown.server.http.bodies import Budget, body_of
from drawdown.server.http.errors import ApiError

MAX_FORM_BYTES: Final = 16 * 1024
MOST_FIELDS: Final = 20


async def form_of(request: Request, url: str, budget: Budget, home: str = "/console/") -> Mapping[str, str]:
    """The fields of a form of ours, each once. `url`: where our pages are reached, the first of them at `home`.

    Errors: ApiError 403 for a form of another site, 400 for nonsense, and those of `bodies`.
    """
    if not door.is_ours(request, url):
        why = f"this form was not sent from the console: open it at {url}{home}"
        raise ApiError(403, "foreign_form", why)
    async with body_of(request, MAX_FORM_BYTES, budget) as body:
        try:
            pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
        except (UnicodeDecodeError, ValueError):
            raise ApiError(400, "bad_form", "the form cannot be read") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ApiError(400, "bad_form", "the form says one thing twice")
    return found
