"""The tree of commands: grouped by purpose, with the module that each lives in.

Guarantee: a module is imported when its command is asked for, and not before: `drawdown --help`, `--version` and the
completion of a command's name import none.
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
    """The place of a command: a module that adds it by `register`, or a module with the `commands` of a noun."""

    module: str
    says: str
    """One line of 60 characters at most."""


SECTIONS: Final[dict[str, dict[str, CommandModule]]] = {
    "Start": {
        "demo": CommandModule("demo", "Meter a small fleet on this machine, up to the proof"),
        "init": CommandModule("database", "Create the database, or bring it up to date"),
        "doctor": CommandModule("database", "Say what is wrong with the set-up, and how to fix it"),
        "import": CommandModule("imports", "Import usage samples from a file"),
    },
    "Keep running": {
        "up": CommandModule("up", "Ticks, watch, nightly and server: all of it, in one"),
        "tick": CommandModule("tick", "Settle everything once and exit: the cron form"),
        "run": CommandModule("tick", "Tick every five minutes, and watch between ticks"),
        "nightly": CommandModule("nightly", "Compare, prove, put right: all that is done once a night"),
        "worker": CommandModule("worker", "Tick and watch in shares, on any number of machines"),
        "watch": CommandModule("watch", "Halt within seconds, beside a cron that ticks"),
        "serve": CommandModule("serve", "Webhooks, the gate, admin, health, metrics over HTTP"),
    },
    "Look": {
        "status": CommandModule("status", "What is behind, why, since when, and what to do next"),
        "verify": CommandModule("database", "Prove the invariants from the raw tables"),
        "proof": CommandModule("database", "When each invariant last held, by which run of verify"),
        "reconcile": CommandModule("reconcile", "Compare our totals with the providers'"),
        "usage": CommandModule("usage", "What one organisation used, by feature, day or sandbox"),
    },
    "Repair": {
        "replay": CommandModule("replay", "Seal a past range again; bills only what is still owed"),
        "recover": CommandModule("recover", "Go on after a restore, or a failover that lost commits"),
    },
    "Nouns, each with commands of its own": {
        "org": CommandModule("orgs", "Organisations: who bills them, limits, halts"),
        "feature": CommandModule("features", "Features: which sizes and event types are billed as what"),
        "sample": CommandModule("samples", "Samples: find, fix or withdraw wrong ones, prune old"),
        "event": CommandModule("events", "Find, check and withdraw usage events"),
        "job": CommandModule("jobs", "Jobs: what a tick does, how far each is"),
        "backfill": CommandModule("backfills", "Backfills: events of the past, staged, shown, put in"),
        "batch": CommandModule("batches", "Batches: files of usage, taken once, withdrawn whole"),
        "source": CommandModule("batch_sources", "Sources: folders and queries that ticks read"),
        "push": CommandModule("pushes", "Pushes: quantities on their way to a provider"),
        "provider": CommandModule("providers", "Providers: the services that bill, and their state"),
        "ledger": CommandModule("ledger", "The embedded prepaid ledger: credit, lots, rates"),
        "plan": CommandModule("plans", "Plans: limits, what runs hold, credit each month"),
        "tier": CommandModule("tiers", "Tiers: more sandboxes at once, bought by the month"),
        "guard": CommandModule("guard", "The guard: what is counted, and may it be used now"),
        "limit": CommandModule("limits", "Limits: how much of what is counted plans allow"),
        "override": CommandModule("overrides", "Overrides: what stands in place of a limit, a while"),
        "execution": CommandModule("executions", "Runs: preview, accept, draw, settle, release"),
        "pool": CommandModule("pools", "Pools: credit that is allotted to others for a time"),
        "payer": CommandModule("payers", "Payers: who pays for another one's runs"),
        "supplier": CommandModule("suppliers", "Suppliers: their share of runs, holds, freezes"),
        "settlement": CommandModule("settlements", "What suppliers are owed: holds, reversals, batches"),
        "topup": CommandModule("topups", "Automatic top-ups: terms, cards, charges, the kill switch"),
        "hook": CommandModule("hooks", "Webhooks to your product: endpoints, messages, replay"),
        "key": CommandModule("keys", "Keys: what programs may do over HTTP"),
        "console": CommandModule("console", "The console: people, their roles, the way in"),
        "cell": CommandModule("cells", "Register the cells that receive halts"),
        "privacy": CommandModule("privacy", "Privacy: whether a report may be published"),
        "parity": CommandModule("parity", "Parity: what cells count themselves, beside ours"),
        "export": CommandModule("export", "Export the ledger and sealed usage: CSV, JSON lines"),
        "vendor": CommandModule("vendors", "Vendors: what usage costs there, their bills, drift"),
        "audit": CommandModule("audit", "List the changes that people and programs made"),
    },
}
MODULES: Final = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class NothingAsked(Exception):
    """A group without a command; says its help."""


class Stopped(Exception):
    """Ctrl-C while a command runs. Typer would make a status of its own of it, 130, which is none of `Exit`."""


class Formatter(Protocol):
    """Where a group writes its help. Typer keeps its own class, and that of contexts, to itself."""

    def section(self, name: str) -> AbstractContextManager[None]: ...

    def write_dl(self, rows: list[tuple[str, str]]) -> None: ...


class Group(TyperGroup):
    """A noun. Without a command it says its help, and its list cuts no line short."""

    def parse_args(self, ctx: object, args: list[str]) -> list[str]:
        context = cast(typer.Context, ctx)
        if not args and not context.resilient_parsing:
            raise NothingAsked(context.get_help())
        return super().parse_args(context, args)

    def format_commands(self, ctx: object, formatter: Formatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(10_000)) for name, verb in self.commands.items()])


class Root(Group):
    """The program. Its commands are found by their names, and built when they are called."""

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
    """By name: built by Typer from the functions of their modules, with their examples."""

    def __getitem__(self, name: str) -> object:
        return built(name)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)

    def __setitem__(self, name: str, value: object) -> None:
        raise NotImplementedError("commands are added to SECTIONS")

    def __delitem__(self, name: str) -> None:
        raise NotImplementedError("commands are taken from SECTIONS")


@cache  # many commands in one process build each once
def built(name: str) -> Command:
    """The command of this name, as it is under the program."""
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
    """A command of Typer's and all below it, by their words."""
    assert isinstance(command, TyperCommand | TyperGroup), command
    yield path, command
    if isinstance(command, TyperGroup):
        for name, below in command.commands.items():
            yield from walk(below, (*path, name))


def examples_of(path: tuple[str, ...]) -> str:
    """The lines below a command's help; those of a noun are the first of each of its commands."""
    words = " ".join(path)
    lines = EXAMPLES.get(words) or [those[0] for name, those in EXAMPLES.items() if name.startswith(f"{words} ")]
    return "\b\nExamples:\n" + "\n".join(f"  drawdown {line}" for line in lines)
