"""Block new executions of a project or an action."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import sqlalchemy as sa

from drawdown.schema.declare import ID, Action, Fact, Invocation, New, OrgId, Undo, Values
from drawdown.schema.errors import UsageError
from drawdown.schema.sql import queries
from drawdown.worker.executions.permission import block

SQL = queries(__file__)

Kind = Literal["project", "action"]


@dataclass(frozen=True)
class Blocked:
    """The state of an organisation's project or action.

    `blocked`: True if new executions are refused. `changed`: True if this call blocked or unblocked it.
    """

    org_id: str
    project: str | None
    action: str | None
    blocked: bool
    changed: bool


def _kind(values: Values) -> tuple[Kind, str]:
    """Return whether the values name a project or an action, and its name.

    Errors: UsageError for neither or both.
    """
    project, action = values["project"], values["action"]
    if (project is None) == (action is None):
        raise UsageError("specify either --project or --action, not both", at="project")
    return ("action", action) if project is None else ("project", project)


def _block(
    connection: sa.Connection,
    asked: Invocation,
    *,
    org_id: OrgId,
    project: Annotated[str | None, ID, "Project (case-sensitive)"] = None,
    action: Annotated[str | None, ID, "Action of the executions"] = None,
    undo: Undo = False,
    new: New = False,
) -> Blocked:
    kind, name = _kind({"project": project, "action": action})
    changed = block(connection, org_id, kind, name, asked.by, undo=undo, new=new)
    return Blocked(org_id, project, action, not undo, changed)


def _sentence(done: Blocked) -> str:
    said = {(True, True): "is blocked", (False, True): "was already blocked", (True, False): "is unblocked"}
    kind, name = ("action", done.action) if done.project is None else ("project", done.project)
    return f"{done.org_id}: the {kind} {name} {said.get((done.changed, done.blocked), 'was not blocked')}"


def _standing(connection: sa.Connection, _asked: Invocation, values: Values) -> Sequence[Fact]:
    kind, name = _kind(values)
    found = SQL.run(connection, "blocked", {"org_id": values["org_id"], "kind": kind, "name": name}).first()
    return [Fact(f"The {kind} {name}", "not blocked" if found is None else "blocked")]


ACTIONS: Final = (
    Action(
        "execution block",
        "Block executions",
        "Block new executions of a project or an action. Accepted executions continue. --undo removes the block.",
        _block,
        _sentence,
        path="/v1/orgs/{org_id}/block",
        scope="executions:write",
        facts=_standing,
    ),
)
