"""Define the tree of commands: their groups, and the module of each.

Guarantee: a module is imported only for its own command. `drawdown --help`, `--version` and the completion of a
command's name do not import these modules.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Final, Protocol, TypeAlias, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from drawdown.cli.examples import EXAMPLES
from drawdown.cli.options import plain_numbers

Command: TypeAlias = TyperCommand | TyperGroup


@dataclass(frozen=True)
class CommandModule:
    """The module of a command or noun.

    The module has a function `register`, which adds the command, or the `commands` of the noun.
    """

    module: str
    says: str
    """Summary of at most 60 characters."""


SECTIONS: Final[dict[str, dict[str, CommandModule]]] = {
    "Start": {
        "demo": CommandModule("demo", "Run a demonstration on this machine"),
        "init": CommandModule("database", "Create the database or bring it up to date"),
        "doctor": CommandModule("database", "Check the set-up and show how to fix each fault"),
        "import": CommandModule("imports", "Import usage samples from a file"),
    },
    "Keep running": {
        "up": CommandModule("up", "Run ticks, watch, nightly checks and server as one command"),
        "tick": CommandModule("tick", "Settle all due work once and exit, for cron"),
        "run": CommandModule("tick", "Run a tick every five minutes, and the watch between ticks"),
        "nightly": CommandModule("nightly", "Run all checks that are due once a night"),
        "worker": CommandModule("worker", "Run a cluster worker until SIGTERM or Ctrl-C"),
        "watch": CommandModule("watch", "Halt and resume organisations within seconds"),
        "serve": CommandModule("serve", "Serve the HTTP API, webhooks, console and metrics"),
    },
    "Look": {
        "status": CommandModule("status", "Show the open work, its cause and the next command"),
        "verify": CommandModule("database", "Prove the invariants from the raw tables"),
        "proof": CommandModule("database", "Show when each invariant last held"),
        "reconcile": CommandModule("reconcile", "Compare accepted pushes with the providers' charges"),
        "usage": CommandModule("usage", "Show an organisation's usage and its sealed part"),
    },
    "Repair": {
        "replay": CommandModule("replay", "Seal a past range again, and send usage that is still owed"),
        "recover": CommandModule("recover", "Continue after a restore, or after lost commits"),
    },
    "Nouns, each with its own commands": {
        "org": CommandModule("orgs", "Manage organisations: billing, limits, halts"),
        "feature": CommandModule("features", "Manage features: sizes and event types that are billed"),
        "sample": CommandModule("samples", "Manage samples: find, correct, withdraw, prune"),
        "event": CommandModule("events", "Manage usage events: find, check, withdraw"),
        "job": CommandModule("jobs", "Manage jobs that you queue for a tick"),
        "backfill": CommandModule("backfills", "Manage backfills: stage and bill events of the past"),
        "batch": CommandModule("batches", "Manage batches: files of usage"),
        "source": CommandModule("batch_sources", "Manage sources: folders and queries that ticks read"),
        "push": CommandModule("pushes", "Manage pushes: quantities to bill at a provider"),
        "provider": CommandModule("providers", "Manage providers: the services that bill usage"),
        "ledger": CommandModule("ledger", "Manage the embedded ledger: credit, lots, rates"),
        "plan": CommandModule("plans", "Manage plans: limits, reservations, monthly credit"),
        "tier": CommandModule("tiers", "Manage tiers: more concurrent sandboxes by the month"),
        "guard": CommandModule("guard", "Manage the guard: metrics, uses and checks"),
        "limit": CommandModule("limits", "Manage limits: quantities of metrics that plans allow"),
        "override": CommandModule("overrides", "Manage limit overrides, in place of a plan's limit"),
        "execution": CommandModule("executions", "Manage executions: reserve, charge, settle, release"),
        "pool": CommandModule("pools", "Manage pools: credit that you allot to customers"),
        "payer": CommandModule("payers", "Manage payers: wallets that pay for others' executions"),
        "supplier": CommandModule("suppliers", "Manage suppliers: share, holds, freezes"),
        "settlement": CommandModule("settlements", "Manage settlements: holds, reversals, payouts"),
        "topup": CommandModule("topups", "Manage automatic top-ups: terms, cards, charges"),
        "hook": CommandModule("hooks", "Manage webhooks to your product: endpoints, messages"),
        "key": CommandModule("keys", "Manage keys of programs that call the HTTP API"),
        "console": CommandModule("console", "Manage the people who sign in to the console"),
        "cell": CommandModule("cells", "Manage the cells that receive halts"),
        "privacy": CommandModule("privacy", "Check reports for private data before you publish"),
        "parity": CommandModule("parity", "Compare samples with the usage that cells count"),
        "export": CommandModule("export", "Export the ledger and sealed usage as CSV or JSON lines"),
        "vendor": CommandModule("vendors", "Manage vendors: costs of usage, bills, drift"),
        "audit": CommandModule("audit", "Show the changes that people and programs made"),
    },
}
MODULES: Final = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class NothingAsked(Exception):
    """Raised if a group is called without a command. Its text is the group's help."""


class Stopped(Exception):
    """Raised if a person presses Ctrl-C during a command.

    Typer would otherwise exit with 130, which is not a status of `Exit`.
    """


class Formatter(Protocol):
    """The formatter of a group's help, since Typer does not export its class."""

    def section(self, name: str) -> AbstractContextManager[None]: ...

    def write_dl(self, rows: list[tuple[str, str]]) -> None: ...


class Group(TyperGroup):
    """A noun with its commands.

    A call without a command prints the help of the noun, with whole lines.
    """

    def parse_args(self, ctx: object, args: list[str]) -> list[str]:
        context = cast(typer.Context, ctx)
        if not args and not context.resilient_parsing:
            raise NothingAsked(context.get_help())
        return super().parse_args(context, args)

    def format_commands(self, ctx: object, formatter: Formatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(10_000)) for name, verb in self.commands.items()])


class Root(Group):
    """The program, which builds a command when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": {}})
        self.commands = Commands()

    def invoke(self, ctx: object) -> Any:
        try:
            return super().invoke(cast(typer.Context, ctx))
        except KeyboardInterrupt as error:
            raise Stopped from error

    def format_commands(self, ctx: object, formatter: Formatter) -> None:
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(9), entry.says) for name, entry in entries.items()])

    def shell_complete(self, ctx: object, incomplete: str) -> Any:
        if incomplete.startswith("-"):
            return super().shell_complete(cast(typer.Context, ctx), incomplete)
        names = TyperGroup(commands=[TyperCommand(name, short_help=entry.says) for name, entry in MODULES.items()])
        return names.shell_complete(typer.Context(names), incomplete)


class Commands(MutableMapping[str, Any]):
    """A read-only mapping from a command's name to the command, with its examples."""

    def __getitem__(self, name: str) -> object:
        return built(name)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)

    def __setitem__(self, name: str, value: object) -> None:
        raise NotImplementedError("commands cannot be added here. Add the command to SECTIONS")

    def __delitem__(self, name: str) -> None:
        raise NotImplementedError("commands cannot be removed here. Remove the command from SECTIONS")


@cache  # a process with many commands builds each once
def built(name: str) -> Command:
    """Import the module of a command, and return the command with its examples."""
    module, holder = import_module(f"drawdown.cli.nouns.{MODULES[name].module}"), typer.Typer(rich_markup_mode=None)
    if hasattr(module, "register"):
        module.register(holder)
    else:
        holder.add_typer(module.commands, name=name, cls=Group, help=f"{MODULES[name].says}.")
    command = cast(Command, get_group(holder).commands[name])
    for path, below in walk(command, (name,)):
        below.epilog = examples_of(path)
        plain_numbers(below)
    return command


def walk(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Yield the words and the object of a command and of each of its subcommands."""
    assert isinstance(command, TyperCommand | TyperGroup), command
    yield path, command
    if isinstance(command, TyperGroup):
        for name, below in command.commands.items():
            yield from walk(below, (*path, name))


def examples_of(path: tuple[str, ...]) -> str:
    """Return the examples at the end of a command's help.

    For a noun, return the first example of each of its commands.
    """
    words = " ".join(path)
    lines = EXAMPLES.get(words) or [those[0] for name, those in EXAMPLES.items() if name.startswith(f"{words} ")]
    return "\b\nExamples:\n" + "\n".join(f"  drawdown {line}" for line in lines)
