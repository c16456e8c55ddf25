"""The parameters of paths, one name for a thing and one thing for a name; and the operations that errors name."""

from __future__ import annotations

import re
from typing import Final

from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import walk
from drawdown.server.api.codes import CALLS, ITEMS
from drawdown.server.api.programs import for_programs
from tests.server.house import House, described

IN: Final = {
    "backfill": {"backfills"},
    "batch": {"batches"},
    "cell": {"cells"},
    "customer_id": {"wallets"},
    "endpoint": {"hooks"},
    "event": {"events"},
    "event_source": {"events"},
    "event_type": {"event-types"},
    "execution": {"executions", "settlements"},
    "feature": {"features", "rates", "vendor-costs"},
    "job": {"jobs"},
    "lot": {"lots"},
    "message": {"messages"},
    "metric": {"metrics"},
    "name": {"keys"},
    "number": {"overrides"},
    "org_id": {"accounts", "balance", "gate", "guard", "ledger", "orgs", "usage"},
    "payer": {"payers"},
    "plan": {"plans"},
    "pool": {"pools"},
    "provider": {"providers", "webhooks"},
    "push": {"pushes"},
    "source": {"sources"},
    "supplier": {"suppliers"},
    "tier": {"tiers"},
    "topup": {"topups"},
    "word": {"overrides"},
}
"""The collections that a parameter names a thing of. A settlement has the key of its execution; a vendor's cost is of a
feature; the accounts of an organisation are those of its payer."""


def test_openapi_path_parameter_names_are_unambiguous(lone: House) -> None:
    found: dict[str, set[str]] = {}
    names_at: dict[str, set[str]] = {}
    for path in described(lone.server)["paths"]:
        parts = path.strip("/").split("/")
        for at, part in enumerate(parts):
            if part.startswith("{"):
                above = [one for one in parts[:at] if not one.startswith("{")]
                found.setdefault(part[1:-1], set()).add(above[-1])
                names_at.setdefault(re.sub(r"{\w+}", "{}", "/".join(parts[:at])), set()).add(part)
    assert found == IN
    assert {place: names for place, names in names_at.items() if len(names) > 1} == {}


def test_code_meanings_name_existing_operations_and_omit_commands(lone: House) -> None:
    """An HTTP caller has no shell. The same holds for operations that errors name in place of commands."""
    meanings = {code: one.meaning for code, one in CALLS.items()} | {one.code: one.meaning for one in ITEMS}
    assert [code for code, meaning in meanings.items() if "drawdown " in meaning or "--" in meaning] == []
    paths = described(lone.server)["paths"]
    there = {f"{way.upper()} {path}" for path, ways in paths.items() for way in ways}
    named = re.findall(r"(?:GET|POST) /[^ `]*", " ".join(meanings.values()))
    commands = (" ".join(path) for path, _ in walk(get_command(app)) if path)
    told = " ".join(for_programs(f"`drawdown {command}`") for command in commands)
    named += re.findall(r"(?:GET|POST) /[^ `]*", told)
    assert len(named) > 100 and set(named) - there == set()
