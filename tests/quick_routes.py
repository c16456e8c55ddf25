"""Let FastAPI read an endpoint once in a process: its parameters and answers are most of what a server of a test costs.

Guarantee: a route is what FastAPI would make of it, for the endpoint of its own server. FastAPI reads an endpoint again
if it has defaults, or depends on other endpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from types import CodeType, FunctionType, MethodType
from typing import Any, Final

import pytest
from fastapi import routing
from fastapi.dependencies import models, utils
from fastapi.dependencies.models import Dependant

Call = Callable[..., Any]
_LISTS: Final = [one.name for one in fields(Dependant) if one.default_factory is list]
_read: Final = utils.get_dependant
_known: Final[dict[tuple[str, Call, Any], Dependant]] = {}
_first: Final[dict[tuple[CodeType, str], Call]] = {}
"""The first function of each code and signature: `server/api/declared.py` makes one for each operation."""


def _shared(call: Call) -> Call:
    """Return a function that FastAPI reads as it reads this endpoint: the same for each server."""
    if isinstance(call, MethodType):
        return call.__func__
    if isinstance(call, FunctionType) and not (call.__defaults__ or call.__kwdefaults__):
        return _first.setdefault((call.__code__, str(call.__annotations__)), call)
    return call


def _dependant(*, path: str, call: Call, scope: Any = None) -> Dependant:
    key = (path, _shared(call), scope)
    if key not in _known:
        found = _read(path=path, call=call, scope=scope)
        if found.dependencies:
            return found
        _known[key] = replace(found, call=None)
    own: dict[str, Any] = {name: list(getattr(_known[key], name)) for name in _LISTS}
    return replace(_known[key], call=call, **own)


def _of_function(is_such: Callable[[Call], bool]) -> Callable[[Call], bool]:
    """Judge the shared function: FastAPI keeps what it judged, and with a method its whole server."""
    return lambda call: is_such(_shared(call))


@contextmanager
def quick_routes() -> Iterator[None]:
    """Patch FastAPI as long as this is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "create_model_field", cache(routing.create_model_field))  # type: ignore[attr-defined]
        patch.setattr(routing, "get_dependant", _dependant)
        for name in ("_is_async_gen_callable", "_is_gen_callable", "_is_coroutine_callable"):
            patch.setattr(routing, name, _of_function(getattr(models, name)))
        yield
