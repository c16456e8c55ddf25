"""Describe the routes in /openapi.json.

Guarantee: Drawdown generates the description from the routes themselves. An example of a response comes from its model,
or is a recorded response of this server (`examples.json`, without nulls).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from drawdown.schema.clock import Clock
from drawdown.schema.units import DAY_MS
from drawdown.server.api.models import Error

PATH: Final = "/openapi.json"
MEANINGS: Final = {
    207: "Some items were stored, and some were refused",
    400: "Malformed request",
    401: "Unauthenticated",
    402: "Not enough credit",
    403: "The key lacks the scope, is bound to another organisation, or may not give this much credit",
    404: "Unknown",
    408: "The body did not arrive in time",
    409: "A rule forbids the request, or the same work is in progress or done",
    413: "Body too large",
    415: "Unsupported content type or encoding",
    422: "A field is missing, unknown or invalid",
    429: "Too many requests or items",
    500: "Internal error",
    503: "Temporarily unavailable, or not configured",
}
SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {
        "type": "http", "scheme": "bearer",
        "description": "An API key, created by `POST /v1/keys` or `drawdown key create`.",
    },
    "timestamp": {
        "type": "apiKey", "in": "header", "name": "X-Timestamp",
        "description": "Unix time in seconds, at most 300 s from now.",
    },
    "signature": {
        "type": "apiKey", "in": "header", "name": "X-Signature",
        "description": "`v2=` and HMAC-SHA256 in hex over `v2\\n{timestamp}\\n{method}\\n{host}\\n{path}?{query}\\n"
        "{body}`, byte for byte. The server accepts each signature once.",
    },
}  # fmt: skip
_NEEDS: Final[dict[str, object]] = {"signed": [{"timestamp": [], "signature": []}], "bearer": [{"bearer": []}]}
IDEMPOTENCY_KEY: Final[Mapping[str, object]] = {
    "name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "maxLength": 200},
    "description": "Key of the execution, if the body omits `key`.",
}  # fmt: skip
CONTENT_ENCODING: Final[Mapping[str, object]] = {
    "name": "Content-Encoding", "in": "header",
    "schema": {"type": "string", "enum": ["identity", "gzip"], "default": "identity"},
    "description": "Encoding of the body.",
}  # fmt: skip
"""Header of each operation with several types of body.

Without an optional parameter, openapi-python-client 0.27 to 0.29 generates a module that cannot be imported.
"""


EXAMPLES: Final = Path(__file__).with_name("examples.json")
"""File of examples: bodies and responses by operation, and parameters by name.

The examples of one operation form one valid request. A null omits a parameter. A response omits its nulls.
"""
REF: Final = "#/components/schemas/{model}"
_ERROR: Final[Mapping[str, object]] = {"application/json": {"schema": {"$ref": REF.format(model=Error.__name__)}}}
"""Reference to the model of errors.

With the model itself, FastAPI would read it again for each status of each route.
"""
NO_BODIES: Final[Mapping[str, Mapping[str, object]]] = {}
NO_OTHERS: Final[Mapping[int, type[BaseModel]]] = {}


class _Operation(TypedDict, total=False):
    responses: dict[int | str, dict[str, object]]
    openapi_extra: dict[str, object]
    response_model: None
    status_code: int


def operation(
    answer: type[BaseModel] | None,
    *statuses: int,
    body: type[BaseModel] | Literal["any"] | None = None,
    bodies: Mapping[str, Mapping[str, object]] = NO_BODIES,
    security: Literal["signed", "bearer"] | None = None,
    scope: str | None = None,
    query: type[BaseModel] | None = None,
    headers: Sequence[Mapping[str, object]] = (),
    empty: bool = False,
    also: Mapping[int, type[BaseModel]] = NO_OTHERS,
) -> _Operation:
    """Return the description of a route for FastAPI.

    The description has the responses, body, query, headers and authentication. `answer`: the model of the response;
    None for Prometheus' text, or with `empty`. `body`: `any` for any JSON object. `bodies`: the bodies by type, if
    there are several. `scope`: the scope that an API key needs. `empty`: True if the response is 204. `also`: other
    statuses with their own response.
    """
    extra: dict[str, object] = {}
    if body == "any":
        content: dict[str, object] = {"application/json": {"schema": {"type": "object"}}}
        extra["requestBody"] = {"required": True, "content": content}
    elif body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema(body)}}}
    if bodies:
        extra["requestBody"] = {"required": True, "content": dict(bodies)}
    if security is not None:
        extra["security"] = _NEEDS[security]
    if scope is not None:
        extra["security"] = [{"key": [scope]}]
    parameters = [*headers, *((CONTENT_ENCODING,) if bodies else ()), *(() if query is None else _parameters(query))]
    if parameters:
        extra["parameters"] = parameters
    responses: dict[int | str, dict[str, object]] = {
        status: {"description": MEANINGS[status], "content": _ERROR} for status in statuses
    }
    if empty:
        responses[204] = {"description": "Done"}
    elif answer is not None:
        responses[200] = {"model": answer, "description": "Done"}
    else:
        responses[200] = {
            "description": "Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    for status, model in also.items():
        responses[status] = {"model": model, "description": MEANINGS[status]}
    responses["default"] = {"description": "Any other error", "content": _ERROR}
    said: _Operation = {"responses": responses, "openapi_extra": extra, "response_model": None}
    return {**said, "status_code": 204} if empty else said


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a model.

    A process creates the schema once, so do not change it.
    """
    return model.model_json_schema()


def _parameters(query: type[BaseModel]) -> Iterator[Mapping[str, object]]:
    found = _schema(query)
    for name, schema in found["properties"].items():
        yield {"name": name, "in": "query", "required": name in found.get("required", ()), "schema": schema}


@cache
def named_examples() -> Mapping[str, Any]:
    """Return a valid value of each parameter, by the parameter's name."""
    found: dict[str, Any] = json.loads(EXAMPLES.read_text(encoding="utf-8"))["parameters"]
    return found


def _add_nulls(example: Any, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> None:
    """Add each missing field that may be null to an example of this schema."""
    found = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    for one in found.get("anyOf", ()):
        _add_nulls(example, one, schemas)
    if isinstance(example, list):
        for one in example:
            _add_nulls(one, found.get("items", {}), schemas)
    elif isinstance(example, dict):
        for name, field in found.get("properties", {}).items():
            if {"type": "null"} in field.get("anyOf", ()):
                example.setdefault(name, None)
            _add_nulls(example.get(name), field, schemas)


def _exemplify(paths: Mapping[str, Mapping[str, Any]], schemas: Mapping[str, Any], now_ms: int) -> None:
    """Add an example to each response, parameter and body that has no example.

    In the file of examples, `days_ahead` has the times that must be in the future, in days from now.
    """
    there = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    for name, days in there["days_ahead"].items():
        there["bodies"][name] |= {field: now_ms + many * DAY_MS for field, many in days.items()}
    for path, operations in paths.items():
        for method, found in operations.items():
            name = f"{method.upper()} {path}"
            answers = found["responses"].get("200", {}).get("content", {})
            for part, contents in (("answers", answers), ("bodies", found.get("requestBody", {}).get("content", {}))):
                for content in contents.values():
                    content.update({"example": there[part][name]} if name in there[part] else {})
            for content in answers.values():
                _add_nulls(content.get("example"), content["schema"], schemas)
            for parameter in found.get("parameters", ()):
                own = parameter.get("example", parameter["schema"].get("default"))
                of_all = there["parameters"].get(parameter["name"], own)
                parameter["example"] = there["parameters"].get(f"{name} {parameter['name']}", of_all)


def describe(app: FastAPI, clock: Clock) -> None:
    """Serve the description of the application at PATH.

    Drawdown creates and serializes the description once, because callers may read it often.
    """
    made: dict[str, object] = {}
    written: list[bytes] = []

    def openapi() -> dict[str, object]:
        if not made:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            error = jsonable_encoder(Error.model_json_schema(ref_template=REF), exclude_none=True)
            found["components"]["schemas"].update(error.pop("$defs", {}), **{Error.__name__: error})
            found["components"]["securitySchemes"] = dict(SCHEMES)
            _exemplify(found["paths"], found["components"]["schemas"], clock.now_ms())
            made.update(found)
        return made

    async def answer(_request: Request) -> Response:
        if not written:
            written.append(json.dumps(openapi()).encode())
        return Response(written[0], media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_route(PATH, answer, methods=["GET"], include_in_schema=False)
