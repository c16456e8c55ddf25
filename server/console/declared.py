"""Make a form of the console from each declared action (`schema.declare`).

Guarantee: a form has the parameters of its action, and the command that it shows has the same effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import sqlalchemy as sa

from drawdown.schema import declare
from drawdown.schema.declare import FLAG, NO, YES, Fact, Invocation, Param, Size, Values, WrongField, of_texts
from drawdown.server.console.action import Action, ActionResult, Doing, Field


def form_of(
    action: declare.Action[Any],
    *,
    name: str = "",
    title: str = "",
    role: Literal["operator", "admin"] | None = None,
    place: str = "",
    fixed: Values = MappingProxyType({}),
) -> Action:
    """Return the console's form of a declared action.

    The fields have the names of the command's options. `fixed`: values of parameters that this form does not show. Such
    a form may have another name, title, role and place.
    """
    if place:
        action = replace(action, place=place)
    params = [one for one in action.params if one.name not in fixed]
    words = {one.field: one.word for one in params}

    def values(doing: Doing) -> dict[str, Any]:
        given = {one.name: doing.values.get(one.word, "") for one in params}
        try:
            return {**of_texts(params, given, doing.by.now_ms), **fixed}
        except WrongField as error:
            raise WrongField(words[error.field], str(error)) from None

    def do(connection: sa.Connection, doing: Doing) -> ActionResult:
        done = action.whole(connection, _invocation_of(doing), values(doing))
        return ActionResult(
            ". ".join(action.sentences(done)), getattr(done, action.shown_once) if action.shown_once else ""
        )

    def look(connection: sa.Connection, doing: Doing) -> Sequence[Fact]:
        return action.facts(connection, _invocation_of(doing), values(doing))

    def size(connection: sa.Connection, doing: Doing) -> Size:
        return action.size(connection, _invocation_of(doing), values(doing))

    lost = action.lost_hint
    return Action(
        name or action.slug,
        title or action.title,
        tuple(_field(one) for one in params),
        do,
        look,
        lambda doing: action.command(values(doing), doing.key),
        lambda doing: action.place_of(values(doing)),
        action.help,
        role=role or action.role,
        size=size,
        lost_hint=None if lost is None else lambda doing: lost(values(doing)),
    )


def _invocation_of(doing: Doing) -> Invocation:
    return Invocation(doing.by, doing.key, doing.secret)


def _field(param: Param) -> Field:
    kinds = {"credits": "credits", "number": "number", "time": "time", "window": "time"}
    choices = [(one, one.replace("_", " ")) for one in param.choices]
    if param.kind is FLAG:
        choices = (
            [(NO, "no"), (YES, "yes")] if param.default is not None else [("", "unchanged"), (YES, "yes"), (NO, "no")]
        )
    elif choices and (param.default is None or param.default not in param.choices):
        choices = [("", "choose one" if param.required else "unchanged"), *choices]
    elif choices:
        choices.sort(key=lambda one: one[0] != param.default)
    hint = f"{param.says}." if param.says else ""
    if param.default not in (None, "", False, ()) and not choices:
        hint += f" Default: {param.kind.write(param.default)}."
    return Field(
        param.word,
        param.label,
        "choice" if choices else kinds.get(param.kind.name, "text"),
        hint.strip(),
        choices,
        optional=not param.required,
        many=param.many,
    )
