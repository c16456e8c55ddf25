"""The siege of Autumn at length; `make autumn PUSHES=20000 KILLS=50 SEED=1`.

    python -m tests.crash.autumn.run --pushes 20000 --kills 50 --seed 1 [--database postgresql]

Exit status 1 where a difference is silent or unexplained, or something is left open; and where too few calls were
struck, a kind of fault never was, or the kills did not land: then the run shows nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Final

from tests.crash.autumn.books import GIVEN_BACK, LIMITED, PARTED, SPLIT, USED_UP
from tests.crash.autumn.judge import Amounts, shown
from tests.crash.autumn.mischief import COST_CHANGED, OUTAGE, OUTAGES
from tests.crash.autumn.setting import KINDS
from tests.crash.autumn.siege import DOUBLED, UNDONE, Found, in_credits
from tests.postgres_server import Server

LEAST_STRUCK: Final = 0.3
"""Of all calls."""
ENOUGH: Final = 2_000
"""Pushes in a siege in which each kind of fault has to strike, and each of these come about."""
CAME_ABOUT: Final = (GIVEN_BACK, LIMITED, SPLIT, PARTED, USED_UP, UNDONE, DOUBLED)
ENOUGH_KILLS: Final = 2 * len(OUTAGES)
"""In a siege in which each part of the service is away once."""


def short_of(found: Found, pushes: int, kills: int) -> str | None:
    """Why a siege shows less than was asked for; None where it does not."""
    missed = [kind for kind in KINDS if not found.struck[kind]]
    missed += [what for what in CAME_ABOUT if not found.came_about[what]]
    if pushes >= ENOUGH and missed:
        return f"never came about: {', '.join(missed)}"
    away = [which for which in OUTAGES if not found.struck[f"{OUTAGE}{which}"]]
    if kills >= ENOUGH_KILLS and away:
        return f"never away: {', '.join(away)}"
    if kills and not found.struck[COST_CHANGED]:
        return "no cost changed"
    if struck_share(found) < LEAST_STRUCK:
        return f"{struck_share(found):.0%} of the calls were struck"
    if found.pushes < pushes:
        return f"{found.pushes:,} pushes"
    return found.toll.short_of(kills, 0)


def struck_share(found: Found) -> float:
    """Of all calls while faults struck."""
    return sum(found.struck[kind] for kind in KINDS) / max(found.calls, 1)


def report(seed: int, found: Found) -> str:
    """What happened, for whoever reads it."""
    toll, verdict = found.toll, found.verdict
    struck = sum(found.struck[kind] for kind in KINDS)
    lines = [
        f"Autumn in credits, seed {seed}: {found.pushes:,} pushes of {found.samples:,} samples, "
        f"{found.customers:,} customers",
        f"  {toll.kills:,} processes killed in {found.took_s:.0f} s, {toll.inside:,} in the middle of a step: "
        f"{_counts(toll.steps)}; healed in {found.healed_s:.0f} s",
        f"  {found.calls:,} calls, {found.billing_calls:,} of them charges; {struck:,} struck "
        f"({struck_share(found):.0%}): {_counts(found.struck)}",
        f"  of the charges: {_counts(found.came_about)}",
        f"  {found.sent_again:,} pushes sent again; then: {_counts(found.said)}",
        f"  a person was asked about pushes in doubt of {shown(found.doubted)} credits, and told each night of "
        f"{_amounts(found.beside)}",
        f"  in the end {verdict.exact:,} customers' balances are samples times cost to the last digit; told once: "
        f"{_amounts(verdict.told)}; waiting for credit: {_amounts(verdict.waiting)}; "
        f"told with a range: {verdict.ranged:,}; with too many mishaps to weigh: {verdict.unweighed:,}",
    ]
    return "\n".join(lines)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common()) or "none"


def _amounts(amounts: Amounts) -> str:
    """How many, and their sum without signs."""
    total = sum((abs(one) for one in amounts.values()), Fraction(0))
    return f"{shown(total)} credits of {len(amounts):,} customers"


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pushes", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dd-crash-")))
        url = f"sqlite:///{folder}/drawdown.db"
        if given.database == "postgresql":
            url = stack.enter_context(closing(Server(durable=True))).url
        try:
            found = in_credits(folder, url, pushes=given.pushes, kills=given.kills, seed=given.seed)
        except AssertionError as error:
            print(f"Autumn in credits, seed {given.seed}: FAILED: {error}")
            return 1
    short = short_of(found, given.pushes, given.kills)
    print(report(given.seed, found))
    print(f"  FAILED: {short}: this run shows nothing" if short else "  0 silent, 0 unexplained", flush=True)
    return int(short is not None)


if __name__ == "__main__":
    sys.exit(main())
