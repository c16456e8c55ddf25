"""A number that can be 1 does not stand before a plural noun in a text of the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import nodes_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cli", "server", "worker", "providers", "guard", "ledger", "events", "schema", "client/drawdown_client")
NOUNS = (
    "actions", "attempts", "backfills", "balances", "batches", "cells", "counters", "customers", "days",
    "differences", "entries", "events", "executions", "features", "files", "findings", "halts", "hours", "items",
    "jobs", "lines", "lookups", "lots", "messages", "meters", "micro-credits", "millionths", "minutes",
    "organisations", "orgs", "outcomes", "providers", "pushes", "rows", "samples", "sandboxes", "seconds", "sends",
    "settlements", "shards", "sums", "systems", "tiers", "times", "topups", "types", "units", "wallets", "webhooks",
    "windows",
)  # fmt: skip
BETWEEN = "(?!(?:and|at|before|bills|by|for|from|in|into|names|of|on|runs|to|with) )[a-z-]+ "
BEFORE_PLURAL = re.compile(rf" (?:{BETWEEN})?(?:{'|'.join(NOUNS)})\b")
CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*")
ABOVE_1 = {
    "the demo uses fixed amounts": {
        "cli/nouns/demo.py: len(rows)", "cli/nouns/demo.py: demo.samples + 1", "cli/nouns/demo.py: both.used_s",
        "cli/nouns/demo.py: both.billed_s",
    },
    "the text has a singular for 1, or is not used for 1": {
        "server/console/screens/money/billing.py: one.entries", "server/console/screens/oncall/pushes.py: count",
        "server/usage/intake.py: len(found)", "worker/push/actions.py: len(keys)",
        "worker/push/faces.py: len(done.pushes)", "providers/autumn/check.py: len(payers)",
        "providers/openmeter.py: len(items)", "providers/polar.py: len(events)", "providers/polar.py: len(fields)",
    },
    "the number is a limit, or the size of a table that reached its limit": {
        "cli/declared.py: action.at_once", "schema/declare.py: self.at_once", "providers/autumn/settings.py: most",
        "server/api/declared.py: action.at_once",
        "providers/http/egress.py: len(found)",
        "server/console/screens/money/jobs.py: len(found)", "server/console/screens/money/reconcile.py: len(found)",
        "server/console/screens/money/wallets.py: len(view.lots)",
        "server/console/screens/oncall/jobs.py: len(found.totals)",
        "server/console/screens/oncall/pushes.py: len(rows)",
        "server/console/screens/rules/events.py: found.seen", "worker/batches/file_sums.py: most",
        "worker/orgs/lists.py: most", "worker/topup/actions.py: can.most",
        "worker/usage/intake.py: self.types", "worker/usage/totals.py: days",
    },
    "the days are those of a choice, or above a limit": {
        "cli/nouns/ledger.py: found.days", "server/console/screens/customers/usage.py: found.days",
        "server/console/screens/money/drift.py: days", "server/console/screens/money/drift.py: one",
        "worker/engine/clock_check.py: abs(now - previous) / DAY_MS",
    },
    "the number is outside a range that includes 1": {
        "worker/executions/request.py: len(quantities)", "worker/settlements/actions.py: terms.share_ppm",
    },
    "one base unit fits in a sample": {"worker/sources/samples/rows.py: quantity"},
}  # fmt: skip
"""Numbers before plural nouns, by the reason why they are not 1."""


def is_constant(expression: ast.expr) -> bool:
    """Return True if all names of an expression are constants, which the code declares."""
    names = [node.attr for node in ast.walk(expression) if isinstance(node, ast.Attribute)]
    names = names or [node.id for node in ast.walk(expression) if isinstance(node, ast.Name)]
    return bool(names) and all(CONSTANT.fullmatch(name) for name in names)


def before_plurals(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield the expressions of f-strings that stand before a plural noun, except constants."""
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            for number, text in zip(node.values, node.values[1:], strict=False):
                if not (isinstance(number, ast.FormattedValue) and isinstance(text, ast.Constant)):
                    continue
                if BEFORE_PLURAL.match(str(text.value)) and not is_constant(number.value):
                    yield ast.unparse(number.value)


@pytest.mark.parametrize("folder", FOLDERS)
def test_number_before_plural_noun_is_above_1(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    found = {f"{path.relative_to(ROOT)}: {one}" for path in paths for one in before_plurals(nodes_of(path))}
    allowed = {place for places in ABOVE_1.values() for place in places if place.startswith(f"{folder}/")}
    assert found - allowed == set(), "use `counted` of drawdown.schema.text, or a text that needs no plural"
    assert allowed - found == set(), "remove what is not in the code from ABOVE_1"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('f"{count:,} pushes wait"', ["count"]),
        ('f"{done} of {len(all_)} old samples"', ["len(all_)"]),
        ("f\"{counted(count, 'push', 'pushes')} of that day\"", []),
        ('f"at most {limits.MOST_DAYS} days"', []),
        ('f"pushes: {count:,}"', []),
    ],
)
def test_planted_plural_is_found(text: str, found: list[str]) -> None:
    assert list(before_plurals(list(ast.walk(ast.parse(text))))) == found
