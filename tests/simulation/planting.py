"""Bugs planted in lives of one kind: looked for at the seed that showed them last, then in all others.

    python -m tests.simulation.planting [WORD]

hunts all of the guard's, of backfills' and of the door's, or those of one kind, or whose name holds a word; exit
status 1 if one survived, or a seed breaches without.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
import structlog

from tests.simulation.mutants_remote import Patches

SEEDS: Final = 24
"""Lives in which a bug is looked for, at most."""
MISFIT: Final = ("wrong()", "TypeError", "AttributeError", "NameError")
KINDS: Final = ("guarding", "backfilling", "door")


@dataclass(frozen=True)
class Kind:
    """Lives of one kind, and bugs that they have to show: how each is planted, a part of what is said of it, and the
    seed at which it was seen last. `lived`: one seed's life; what is wrong with it, a line each."""

    lived: Callable[[int], list[str]]
    planted: dict[str, tuple[Callable[[Patches], None], str]]
    seen_at: dict[str, int]


@dataclass
class Seen:
    """Where a bug showed, and what was said of it; `unclean` seeds breach without it, too."""

    seed: int | None = None
    said: str = ""
    unclean: list[int] = field(default_factory=list)


def hunt(kind: Kind, name: str, seeds: int = SEEDS) -> Seen:
    """Live until the bug shows. What `verify` alone sees does not count."""
    plant, text = kind.planted[name]
    found = Seen()
    first = kind.seen_at.get(name, 0)
    for seed in [first, *(one for one in range(seeds) if one != first)]:
        patches = Patches()
        with patches.kept():
            plant(patches)
            wrong = _lived(kind, seed)
        said = [line for line in wrong if text in line and not line.startswith("verify:")]
        if not said:
            continue
        assert not any(one in said[0] for one in MISFIT), f"{name} does not fit the code: {said[0]}"
        if not kind.lived(seed):
            found.seed, found.said = seed, said[0]
            return found
        found.unclean.append(seed)
    return found


def _lived(kind: Kind, seed: int) -> list[str]:
    """What is wrong, or what a row of the database would not be."""
    try:
        return kind.lived(seed)
    except sa.exc.IntegrityError as error:
        return [f"the database keeps no such row: {error.orig}"]


def main() -> int:
    """Returns the exit status."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("word", nargs="?", default="")
    word = asked.parse_args().word
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began, failed = time.perf_counter(), 0
    for package in [word] if word in KINDS else KINDS:
        kind: Kind = importlib.import_module(f"tests.simulation.{package}.planted").KIND
        for name in (one for one in kind.planted if word in one or word == package):
            found = hunt(kind, name)
            failed += found.seed is None or bool(found.unclean)
            print(
                f"{name}: {'SURVIVED' if found.seed is None else f'seed {found.seed}'}: {found.said}"[:240], flush=True
            )
            for seed in found.unclean:
                print(f"  seed {seed} of {package} breaches without the bug", flush=True)
    print(f"{failed} survived, {time.perf_counter() - began:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
