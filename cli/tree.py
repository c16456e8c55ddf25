"""Which commands there are, by what they are for, and the module that each lives in.

Guarantee: a module is imported when its command is asked for, and not before: `drawdown --help`, `--version` and the
completion of a command's name import none.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from drawdown.cli.examples import EXAMPLES


@dataclass(frozen=True)
class CommandPlace:
    """Where a command lives: a module that adds it by `register`, or one whose `app` holds the commands of a noun."""

    module: str
    says: str
    """One line of 60 characters at most."""


SECTIONS: Final[dict[str, dict[str, CommandPlace]]] = {
    "Start": {
        "demo": CommandPlace("demo", "Meter a small fleet on this machine, up to the proof"),
        "init": CommandPlace("database", "Create the database, or bring it up to date"),
        "doctor": CommandPlace("database", "Say what is wrong with the set-up, and how to mend it"),
        "import": CommandPlace("imports", "Import usage samples from a file"),
    },
    "Keep running": {
        "tick": CommandPlace("tick", "Settle everything once and exit: the cron form"),
        "run": CommandPlace("tick", "Tick every five minutes, and watch between ticks"),
        "watch": CommandPlace("watch", "Halt within seconds, beside a cron that ticks"),
        "serve": CommandPlace("serve", "Webhooks, the gate, admin, health, metrics over HTTP"),
    },
    "Look": {
        "status": CommandPlace("status", "What is behind, why, since when, and what to do next"),
        "verify": CommandPlace("database", "Prove the nine invariants from the raw tables"),
        "reconcile": CommandPlace("reconcile", "Compare our totals with the providers'"),
        "usage": CommandPlace("usage", "What one organisation used, by feature, day or sandbox"),
    },
    "Repair": {
        "replay": CommandPlace("replay", "Seal a past range again; bills only what is still owed"),
        "recover": CommandPlace("recover", "Go on after a restore, or a failover that lost commits"),
    },
    "Nouns, each with commands of its own": {
        "org": CommandPlace("orgs", "Organisations: who bills them, limits, halts"),
        "feature": CommandPlace("features", "Features: which memory sizes are billed as what"),
        "sample": CommandPlace("samples", "Samples: find, mend or withdraw wrong ones, prune old"),
        "push": CommandPlace("pushes", "Pushes: quantities on their way to a provider"),
        "provider": CommandPlace("providers", "Providers: the services that bill, and their state"),
        "ledger": CommandPlace("ledger", "The embedded prepaid ledger: credit, rates, plans"),
        "cell": CommandPlace("cells", "Cells: who is told to halt an organisation"),
        "audit": CommandPlace("audit", "What people did: who, when, why, through what"),
    },
}
PLACES: Final = {name: place for section in SECTIONS.values() for name, place in section.items()}


class NothingAsked(Exception):
    """A group without a command; says its help."""


class Group(TyperGroup):
    """A noun. Without a command it says its help, and its list cuts no line short."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            raise NothingAsked(ctx.get_help())
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(10_000)) for name, one in self.commands.items()])


class Root(Group):
    """The program, whose commands are found by their names and built when they are asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": {}})
        self.commands = Commands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, places in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(9), place.says) for name, place in places.items()])

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from typer._click.shell_completion import CompletionItem

        return [CompletionItem(name, help=one.says) for name, one in PLACES.items() if name.startswith(incomplete)]


class Commands(MutableMapping[str, Any]):
    """By name: built by Typer from the functions of their modules, with their examples."""

    def __getitem__(self, name: str) -> Any:
        module, holder = import_module(f"drawdown.cli.nouns.{PLACES[name].module}"), typer.Typer(rich_markup_mode=None)
        if hasattr(module, "register"):
            module.register(holder)
        else:
            holder.add_typer(module.app, name=name, cls=Group, help=f"{PLACES[name].says}.")
        group: TyperGroup = get_group(holder)
        for path, one in walk(group.commands[name], (name,)):
            one.epilog = examples_of(path)
        return group.commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)

    def __setitem__(self, name: str, value: object) -> None:
        raise NotImplementedError("commands are added to SECTIONS")

    def __delitem__(self, name: str) -> None:
        raise NotImplementedError("commands are taken from SECTIONS")


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A command and all below it, by their words."""
    yield path, command
    for name in getattr(command, "commands", ()):
        yield from walk(command.commands[name], (*path, name))


def examples_of(path: tuple[str, ...]) -> str:
    """The lines below a command's help; those of a noun are the first of each of its commands."""
    words = " ".join(path)
    lines = EXAMPLES.get(words) or [those[0] for name, those in EXAMPLES.items() if name.startswith(f"{words} ")]
    return "\b\nExamples:\n" + "\n".join(f"  drawdown {line}" for line in lines)
