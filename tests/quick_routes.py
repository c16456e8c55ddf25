"""Let FastAPI read an endpoint once in a process: its parameters and answers are most of what a server of a test costs.

Guarantee: a route is what FastAPI would make of it, for the endpoint of its own server. An endpoint that is no method,
or that depends on others, is read each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from types import MethodType
from typing import Any, Final

import pytest
from fastapi import routing
from fastapi.dependencies import models, utils
from fastapi.dependencies.models import Dependant

Call = Callable[..., Any]
_LISTS: Final = [one.name for one in fields(Dependant) if one.default_factory is list]
_read: Final = utils.get_dependant
_known: Final[dict[tuple[str, Call, Any], Dependant]] = {}


def _dependant(*, path: str, call: Call, scope: Any = None) -> Dependant:
    if not isinstance(call, MethodType):
        return _read(path=path, call=call, scope=scope)
    key = (path, call.__func__, scope)
    if key not in _known:
        found = _read(path=path, call=call, scope=scope)
        if found.dependencies:
            return found
        _known[key] = replace(found, call=None)
    own: dict[str, Any] = {name: list(getattr(_known[key], name)) for name in _LISTS}
    return replace(_known[key], call=call, **own)


def _of_function(is_such: Callable[[Call], bool]) -> Callable[[Call], bool]:
    """Judge the function of a method: FastAPI keeps what it judged, and with a method its whole server."""
    return lambda call: is_such(getattr(call, "__func__", call))


@contextmanager
def quick_routes() -> Iterator[None]:
    """Patch FastAPI as long as this is open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routing, "create_model_field", cache(routing.create_model_field))  # type: ignore[attr-defined]
        patch.setattr(routing, "get_dependant", _dependant)
        for name in ("_is_async_gen_callable", "_is_gen_callable", "_is_coroutine_callable"):
            patch.setattr(routing, name, _of_function(getattr(models, name)))
        yield
