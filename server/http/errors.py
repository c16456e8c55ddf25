"""Define errors for programs: one shape, a code, and a message for people.

Guarantee: a response never contains a part of a secret, of an SQL statement or of a stack trace.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from drawdown.schema.errors import (
    AnswerLost,
    DatabaseBusy,
    DatabaseNotReady,
    DrawdownError,
    Refused,
    UnknownId,
    UsageError,
)

SOON: Final = {"Retry-After": "1"}
ANSWER_LOST: Final = (
    "the connection ended during a commit, so the request may have succeeded. Send the same request again, because "
    "this is safe"
)
Handlers = Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]
_CODES = {404: "not_found", 405: "method_not_allowed"}
_MESSAGES = {
    404: "unknown path. `/openapi.json` lists all paths. Percent-encode ids in a path",
    405: "method not allowed. `/openapi.json` lists the methods of this path",
}


class ApiError(Exception):
    """Raised to answer a request with an error, with its HTTP status and its code."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.details, self.headers = details, dict(headers or {})


def bad_value(at: str | None, message: str, code: str = "bad_value") -> ApiError:
    """Return the error 422 for a wrong value.

    `at`: the field of a body or query; None if the error is not about one field.
    """
    return ApiError(422, code, message, details=None if at is None else {"wrong": [{"at": at, "message": message}]})


def error_answer(error: ApiError) -> JSONResponse:
    """Return the JSON response of an error.

    The response is `{"error": {"code": ..., "message": ..., "details": ...}}`.
    """
    body: dict[str, object] = {"code": error.code, "message": error.message}
    if error.details is not None:
        body["details"] = error.details
    return JSONResponse({"error": body}, error.status, error.headers)


def of_drawdown(error: DrawdownError) -> ApiError:
    """Return a Drawdown error as an HTTP error.

    The status is 404 for an unknown organisation or limit override, 400 for another wrong value, and 409 for a broken
    rule. The status is 503 if the database is unavailable or a commit is unanswered, and 500 otherwise.
    """
    match error:
        case UnknownId() if error.noun in ("organisation", "override"):
            return ApiError(404, error.code, str(error))
        case UsageError():
            return ApiError(400, "bad_value", str(error))
        case Refused():
            return ApiError(409, "refused", str(error))
        case AnswerLost():
            return ApiError(503, "answer_lost", ANSWER_LOST, headers=SOON)
        case DatabaseBusy() | DatabaseNotReady():
            return ApiError(
                503,
                "database",
                "the database is unavailable. Send the request again after the time in Retry-After",
                headers=SOON,
            )
    return ApiError(500, "failed", str(error))


def unauthorized() -> ApiError:
    """Return the error 401 for a missing, unknown, expired or revoked API key."""
    message = (
        "missing or invalid API key. Send `Authorization: Bearer KEY` with a valid key. To get a key, call `POST "
        "/v1/keys` with another key, "
        "or ask the operator of the server"
    )
    return ApiError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


async def on_api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_answer(error)


async def on_drawdown_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DrawdownError)
    return error_answer(of_drawdown(error))


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer an unknown path or method."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "bad_request")
    message = _MESSAGES.get(error.status_code, str(error.detail))
    return error_answer(ApiError(error.status_code, code, message, headers=error.headers))


HANDLERS: Final[Handlers] = {ApiError: on_api_error, DrawdownError: on_drawdown_error, HTTPException: on_http_error}
"""Handlers that answer the errors of routes."""


async def on_any_error(_request: Request, _error: Exception) -> JSONResponse:
    """Answer an internal error. `Limits` around the route logs the place of the error."""
    return error_answer(ApiError(500, "failed", "internal error. The log of the server has the details"))
