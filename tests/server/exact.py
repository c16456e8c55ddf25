"""What an answer has: exactly the fields that /openapi.json names for it, in each object of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx
from jsonschema import Draft202012Validator

JSON: Final = "application/json"
_made: Final[dict[tuple[int, str, str, str], Draft202012Validator]] = {}


_roots: Final[dict[int, Draft202012Validator]] = {}
"""Of each description: to close its components takes longer than most answers."""


def validator(found: Mapping[str, Any], schema: Mapping[str, Any]) -> Draft202012Validator:
    """Of a schema of the description, each object of which is closed."""
    if id(found) not in _roots:
        _roots[id(found)] = Draft202012Validator({"components": closed(found["components"])})
    return _roots[id(found)].evolve(schema=closed(schema))


def closed(schema: Any) -> Any:
    """The same, where an object has no field that its schema does not name."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {**shut, **{name: closed(one) for name, one in schema.items()}}


def require_exact(found: Mapping[str, Any], method: str, route: str, answer: httpx.Response) -> None:
    """Errors: a ValidationError that names the field."""
    at = (id(found), method, route, str(answer.status_code))
    if at not in _made:
        responses = found["paths"][route][method]["responses"]
        said = responses.get(at[-1], responses["default"]).get("content", {}).get(JSON)
        _made[at] = validator(found, {} if said is None else said["schema"])
    if answer.content and answer.headers["content-type"] == JSON:
        _made[at].validate(answer.json())
