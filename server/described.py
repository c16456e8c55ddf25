"""The description of the routes, /openapi.json. Guarantee: what it says comes from the routes themselves."""

from __future__ import annotations

from typing import Any, Final, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from drawdown.server.models import Error

MEANINGS: Final = {
    400: "Not a request that can be taken",
    401: "Not proven to come from whom it must",
    404: "Unknown",
    408: "The body did not come in time",
    409: "A rule forbids it, or it is under way or done already",
    413: "Too large",
    415: "Not application/json",
    422: "JSON, and not what this takes",
    429: "Too many requests from this address",
    500: "Something failed here",
    503: "Not at this moment, or not configured; send it again",
}
SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "timestamp": {
        "type": "apiKey", "in": "header", "name": "X-Timestamp", "description": "Seconds; at most 300 s from now."
    },
    "signature": {
        "type": "apiKey", "in": "header", "name": "X-Signature",
        "description": "HMAC-SHA256 in hex over `{timestamp}.{path}?{query}.{body}`, byte for byte; each counts once.",
    },
}  # fmt: skip
_NEEDS: Final[dict[str, Any]] = {"signed": [{"timestamp": [], "signature": []}], "bearer": [{"bearer": []}]}


def operation(
    answer: type[BaseModel] | None,
    *statuses: int,
    body: type[BaseModel] | Literal["any"] | None = None,
    security: Literal["signed", "bearer"] | None = None,
) -> dict[str, Any]:
    """What FastAPI is told of a route: its answers, and the body and proof that the route itself reads and checks."""
    extra: dict[str, Any] = {}
    if body == "any":
        content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
        extra["requestBody"] = {"required": True, "content": content}
    elif body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}
    if security is not None:
        extra["security"] = _NEEDS[security]
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Error, "description": MEANINGS[status]} for status in statuses
    }
    if answer is not None:
        responses[200] = {"model": answer, "description": "Done"}
    else:
        responses[200] = {
            "description": "Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    responses["default"] = {"model": Error, "description": "Whatever else fails"}
    return {"responses": responses, "openapi_extra": extra, "response_model": None}


def describe(app: FastAPI) -> None:
    """Have the application describe itself, made once."""
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            found["components"]["securitySchemes"] = dict(SCHEMES)
            made.update(found)
        return made

    app.openapi = openapi  # type: ignore[method-assign]
