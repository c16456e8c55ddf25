"""`make interleave`: every ordered pair of the product's transactions, on as many cores as there are.

Exit status 1 where a case ended wrong. Each line of a finding is a command that shows it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product

import structlog

from tests.interleave.explore import Case, Explorer, Seen
from tests.interleave.lost import Lost
from tests.interleave.registry import PARTIES

SHOWN = 40
Pair = tuple[str, str]


@dataclass
class Explored:
    """A pair's cases, or why there are none."""

    pair: Pair
    seen: list[Seen] = field(default_factory=list)
    failed: str = ""


@dataclass
class Tally:
    """Of a whole run."""

    pairs: int = 0
    apart: int = 0
    cases: int = 0
    waited: int = 0
    deadlocks: int = 0
    refused: int = 0
    wrong: list[Seen] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Pairs that could not be explored, and why."""

    def add(self, all_of: list[Seen]) -> None:
        all_of = [one for one in all_of if one.reached]
        self.pairs += bool(all_of)
        self.apart += not all_of
        self.cases += len(all_of)
        self.waited += sum(one.waited_at is not None for one in all_of)
        self.deadlocks += sum(one.deadlocks for one in all_of)
        self.refused += sum(bool(one.refused) for one in all_of)
        self.wrong += [one for one in all_of if one.wrong]


_mine: list[Explorer] = []


def _explore(group: list[Pair], every: bool) -> list[Explored]:
    """In a process of its own, with a server of its own."""
    if not _mine:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        _mine.append(Explorer())
        multiprocessing.util.Finalize(None, _mine[0].close, exitpriority=10)
    return [_pair(_mine[0], pair, every) for pair in group]


def _pair(explorer: Explorer, pair: Pair, every: bool) -> Explored:
    try:
        return Explored(pair, list(explorer.pair(*pair, every=every)))
    except Exception as error:  # of one pair: the others count all the same
        return Explored(pair, failed=f"{type(error).__name__}: {error}")


def pairs(first: str, second: str) -> Iterator[Pair]:
    """All, or those whose names begin so."""
    for one, two in product(PARTIES, PARTIES):
        if one.startswith(first) and two.startswith(second):
            yield one, two


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", default="", help="only where the first one's name begins so")
    parser.add_argument("--second", default="", help="the same for the second")
    parser.add_argument("--after", type=int, help="one case alone: held after so many statements")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", default="1/1", help="K/N: the Kth of N parts of all pairs")
    parser.add_argument("--all", action="store_true", help="those hold points, too, that make no difference")
    parser.add_argument("--lost", action="store_true", help="cut the connection at each statement of the first instead")
    parser.add_argument("--list", action="store_true", help="print each pair that was run, and with how many cases")
    options = parser.parse_args()
    if options.after is not None:
        return _one(Case(options.first, options.second, options.after))
    if options.lost:
        return _lose([name for name in PARTIES if name.startswith(options.first)])
    number, parts = map(int, options.part.split("/"))
    wanted = list(pairs(options.first, options.second))[number - 1 :: parts]
    began, tally = time.monotonic(), Tally()
    # A pair and the same the other way round go to one process: they often leave the same behind, which is judged once.
    groups: dict[frozenset[str], list[Pair]] = defaultdict(list)
    for pair in wanted:
        groups[frozenset(pair)].append(pair)
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_explore, group, options.all) for group in groups.values()]):
            for explored in done.result():
                _count(tally, explored, listed=options.list)
            _progress(tally, len(wanted), time.monotonic() - began)
    return _tell(tally, time.monotonic() - began)


def _count(tally: Tally, explored: Explored, *, listed: bool) -> None:
    first, second = explored.pair
    if explored.failed:
        tally.failed.append(f"{first} | {second}: {explored.failed}")
        return
    tally.add(explored.seen)
    for one in [one for one in explored.seen if one.wrong]:
        print(_again(one.case), *(f"    {line}" for line in one.wrong[:6]), sep="\n", flush=True)
    if listed and explored.seen:
        print(f"{first} | {second} | {len(explored.seen)}", flush=True)


def _progress(tally: Tally, wanted: int, seconds: float) -> None:
    if sys.stderr.isatty():
        done = tally.pairs + tally.apart
        print(f"\r{done}/{wanted} pairs, {tally.cases} cases, {len(tally.wrong)} wrong, {seconds:.0f} s", end="",
              file=sys.stderr, flush=True)  # fmt: skip


def _tell(tally: Tally, seconds: float) -> int:
    by_pair = Counter((one.case.first, one.case.second) for one in tally.wrong)
    for (first, second), cases in by_pair.most_common(SHOWN):
        print(f"wrong in {cases} cases: {first} | {second}")
    for line in tally.failed[:SHOWN]:
        print(f"not explored: {line}")
    print(
        f"{len(PARTIES)} transactions: {tally.pairs} ordered pairs in {tally.cases} cases, {tally.apart} pairs with "
        f"nothing in common, or nothing left to do; "
        f"waited {tally.waited}, refused {tally.refused}, deadlocks run again {tally.deadlocks}, "
        f"wrong {len(tally.wrong)}, not explored {len(tally.failed)}; {seconds:.0f} s"
    )
    return 1 if tally.wrong or tally.failed else 0


def _again(case: Case) -> str:
    return (
        f"python -m tests.interleave.run --first '{case.first}' --second '{case.second}' --after {case.after}   "
        "# wrong:"
    )


def _one(case: Case) -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    explorer = Explorer()
    seen = explorer.run(case)
    print(seen)
    explorer.close()
    return 1 if seen.wrong else 0


def _lose(names: list[str]) -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began, explorer, cuts, wrong = time.monotonic(), Explorer(), 0, 0
    lost = Lost(explorer)
    for name in names:
        for told in lost.party(name):
            cuts, wrong = cuts + 1, wrong + bool(told.wrong)
            if told.wrong:
                print(told)
    lost.close()
    explorer.close()
    seconds = time.monotonic() - began
    cut_here = len(names) - len(lost.refused)
    print(f"{cut_here} transactions, their connection cut {cuts} times, wrong {wrong}; {seconds:.0f} s")
    print(f"refused here, or with nothing to do: {', '.join(lost.refused) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
