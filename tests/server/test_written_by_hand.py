"""The list of what is not made from a declaration agrees with the code, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import pytest
from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import walk
from drawdown.schema.declare import Action
from drawdown.server.console.pages import ACTIONS as FORMS
from drawdown.server.declarations import BY_NAME, DECLARED
from tests.server.house import House, described

BY_HAND: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "command": {
        "processes, settings, secrets": (
            "demo",
            "init",
            "doctor",
            "up",
            "run",
            "nightly",
            "worker",
            "watch",
            "serve",
            "tick",
            "recover",
            "console user add/reset/role/end/list",
            "hook secret",
            "cell list/set/secret",
        ),
        "the exit status answers": (
            "status",
            "verify",
            "proof",
            "backfill overdue",
            "parity check",
            "guard reconcile",
            "vendor drift",
        ),
        "read local files": ("import", "batch take", "source add", "backfill stage", "vendor import", "privacy scan"),
        "call providers": (
            "org assign",
            "topup set/start/card/portal/resume",
            "hook test",
            "provider check/bill-shadow/webhook/accept",
            "push cancel/void-lost",
            "reconcile",
            "replay",
        ),
        "go in portions, for hours": ("push fold", "sample prune", "push resolve-all"),
        "an old name": ("provider resume",),
        "hot paths": (
            "execution accept/draw/extend/settle/release/preview/list/show",
            "guard check/consume/reserve/settle/release/extend/options",
        ),
        "several targets": ("override make/ask",),
        "reports and files": (
            "ledger show/billing/spenders/statement",
            "limit show",
            "topup show",
            "parity show",
            "guard uses/report",
            "usage",
            "event invalid/summary",
            "privacy rules",
            "export ledger/usage",
            "settlement export",
        ),
    },
    "form": {
        "other fields or roles": (
            "grant",
            "halt",
            "lift",
            "assign",
            "execution-release",
            "override-make",
            "guard-phase",
            "reconcile-acknowledge",
        ),
        "queue jobs": (
            "assign-remote",
            "provider-accept",
            "replay",
            "reconcile-correct",
            "topup-start",
            "topup-resume",
        ),
        "calls providers in the command line": ("topup-shadow",),
        "has no outcome chosen beforehand": ("topup-resolve",),
        "rows chosen in a list": ("push-retry", "push-resolve", "push-void", "sample-repair", "sample-dismiss"),
        "console people": ("person-add", "person-role", "person-reset", "person-end"),
    },
    "operation": {
        "callers without an API key": (
            "GET /healthz",
            "GET /readyz",
            "GET /metrics",
            "POST /cron/tick",
            "POST /cron/parity",
            "POST /cron/vendors",
            "POST /cron/guard",
            "POST /cron/backfills",
            "POST /webhooks/{provider}",
            "POST /admin/orgs/{org_id}/provider",
            "POST /admin/orgs/{org_id}/override",
            "POST /admin/overrides/{number}/{word}",
        ),
        "hot paths": (
            "GET /v1/gate/{org_id}",
            "POST /v1/events",
            "POST /api/v1/events",
            "POST /v1/samples",
            "POST /v1/guard/check",
            "POST /v1/guard/consume",
            "POST /v1/guard/reserve",
            "POST /v1/guard/settle",
            "POST /v1/guard/release",
            "POST /v1/guard/extend",
            "POST /v1/executions",
            "POST /v1/executions/preview",
            "POST /v1/executions/{execution}/draws",
            "POST /v1/executions/{execution}/extend",
            "POST /v1/executions/{execution}/settle",
            "POST /v1/executions/{execution}/release",
        ),
        "keys and overrides of a bound key": (
            "GET /v1/executions",
            "GET /v1/executions/{execution}",
            "GET /v1/guard/{org_id}/options",
            "GET /v1/guard/overrides",
            "POST /v1/guard/overrides",
        ),
        "follow the payer": (
            "GET /v1/accounts/{org_id}",
            "GET /v1/accounts/{org_id}/ledger",
            "GET /v1/accounts/{org_id}/lots",
            "GET /v1/accounts/{org_id}/statement",
            "GET /v1/balance/{org_id}",
            "GET /v1/ledger/{org_id}",
        ),
        "compares usage with pushes": ("GET /v1/usage/{org_id}",),
    },
}
"""The reason of each that is not made from a declaration. `topup set/start` is two names."""


def listed(kind: str) -> list[str]:
    return [name for those in BY_HAND[kind].values() for one in those for name in _names(one)]


def _names(text: str) -> Iterator[str]:
    if " /" in text or "/" not in text:
        yield text
        return
    noun, _, verbs = text.rpartition(" ")
    yield from (f"{noun} {verb}" for verb in verbs.split("/"))


def commands() -> list[str]:
    tree = [path for path, _ in walk(get_command(app)) if path]
    leaves = [" ".join(path) for path in tree if not any(other[:-1] == path for other in tree)]
    return [name for name in leaves if name not in BY_NAME or BY_NAME[name].by_hand]


def forms() -> list[str]:
    """A generated form does its deed by a function of `server/console/declared.py`."""
    return [one.name for one in FORMS if one.do.__module__ != "drawdown.server.console.declared"]


def operations(house: House) -> list[str]:
    made = {("post" if isinstance(one, Action) else "get", one.path) for one in DECLARED}
    paths = described(house.server)["paths"]
    return [f"{way.upper()} {path}" for path, ways in paths.items() for way in ways if (way, path) not in made]


@pytest.mark.parametrize("kind", ["command", "form"])
def test_handwritten_command_and_form_list_equals_code(kind: str) -> None:
    names = listed(kind)
    assert sorted(names) == sorted({"command": commands, "form": forms}[kind]())


def test_handwritten_operation_list_equals_code(lone: House) -> None:
    assert sorted(listed("operation")) == sorted(operations(lone))


def test_declared_action_has_command() -> None:
    """Else `by_hand` would leave a declaration without a command."""
    assert sorted(set(BY_NAME) - {" ".join(path) for path, _ in walk(get_command(app))}) == []
