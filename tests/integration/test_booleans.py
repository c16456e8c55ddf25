"""What views hand on as yes or no is that on both databases: SQLite keeps 0 and 1, and JSON shows the difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.schema.database import read, write
from drawdown.worker.halts import lists as halt_list
from drawdown.worker.orgs.actions import halt
from drawdown.worker.push.explanation import explain_push
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.settlements.lists import list_suppliers
from drawdown.worker.status import ticks
from drawdown.worker.status.status import org_status, status
from drawdown.worker.verdict.refresh_requests import read_gated
from tests.world import T0, Fleet

KEY = f"usage:acme:{T0}:compute_1gb"


def wrong(found: object, path: str = "") -> Iterator[str]:
    """Each field that is said to be a bool, and is none."""
    if isinstance(found, list | tuple):
        for one in found:
            yield from wrong(one, path)
    elif is_dataclass(found) and not isinstance(found, type):
        hints = get_type_hints(type(found))
        for field in fields(found):
            name, value = f"{path}.{field.name}", getattr(found, field.name)
            if hints[field.name] in (bool, bool | None) and not isinstance(value, bool | None):
                yield f"{name} is {value!r}"
            yield from wrong(value, name)


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """acme used something, and a person halted it; a cell was told."""
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    made.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    made.write("INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'running')")
    made.sample("acme", T0 + 1)
    made.tick_windows(3)
    write(engine, lambda c: halt(c, ["acme"], made.by))
    made.tick_windows(1)
    write(engine, lambda c: settlements.set_supplier(c, "pixel", settlements.Change(1), made.by, new=True))
    return made


def test_view_boolean_fields_are_bool(fleet: Fleet) -> None:
    now = fleet.clock.at_ms
    views: dict[str, Any] = {
        "push": lambda c: explain_push(c, KEY),
        "org": lambda c: org_status(c, "acme", now),
        "status": lambda c: status(c, now),
        "ticks": ticks.latest_ticks,
        "halts": lambda c: halt_list.page(c, halt_list.Chosen()).lines,
        "gate": lambda c: [read_gated(c, "acme")],
        "suppliers": lambda c: list_suppliers(c, now, 9),
    }
    found = {name: read(fleet.engine, view) for name, view in views.items()}
    assert all(found.values()), "each has something to show"
    assert [said for name, one in found.items() for said in wrong(one, name)] == []


def test_push_show_by_hand_is_shown_as_boolean(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    url = fleet.engine.url.render_as_string(hide_password=False)
    for form, said in (([], "by_hand no"), (["--json"], '"by_hand": false')):
        assert run(["--database-url", url, *form, "push", "show", KEY]) == 0
        assert said in " ".join(capsys.readouterr().out.split())
