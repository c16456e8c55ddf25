"""Fixed short seeds of the simulation, and the simulation itself put to the test.

What seeds once found is planted again in `mutants`, and kept in `REGRESSIONS`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from drawdown.providers.embedded import NAME as EMBEDDED
from tests.simulation import database, scheduler
from tests.simulation.kinds import KINDS, OF_THEIR_OWN, by_kind, unnamed
from tests.simulation.lives import MOST_MORE, lives, missing
from tests.simulation.oracle import Assignment, Oracle, Rule, Sample
from tests.simulation.providers import AUTUMN
from tests.simulation.run import failure
from tests.simulation.scheduler import simulate
from tests.simulation.story import ENDING, MOST, story
from tests.simulation.world import START
from tests.whole import share

TICKS = 12
BATCHES: Sequence[Sequence[int]] = share([(0, 2, 4)], whole=[range(first, first + 10) for first in range(0, 200, 10)])
"""Seeds. Those of `make test` meet three quarters of all kinds of faults; `make simulate` lives as many as you want."""
RARE = {
    "key too old to be sent again",
    "clock jumps by days",
    "202, applied late",
    "resolved by a person",
    "estimate proved wrong, and was undone",
    "halted: provider unreadable for too long",
    "webhook answered 503: not fetched, sent again",
    "told of a balance, and settled by a person",
    "cached 500",
    "session of the stream over",
    "batch of the stream refused, for one of it",
    *OF_THEIR_OWN,
}
"""What some dozens of short seeds need not meet."""
REGRESSIONS: tuple[tuple[int, int, bool | None, str], ...] = (
    (15, 200, False, "reconcile gave an excess back twice: from the balance, and from events once they could be read"),
    (1027, 200, False, "two revisions that cancel out in a minute they share at Stripe were taken for absent"),
    (123, 200, None, "what was given back in a lost history was not asked for behind a push that was there as here"),
    (178, 200, None, "after a void by a person, a lost window's next revision was sent unasked"),
    (13, 30, None, "a spent customer at Stripe went on: its organisation was not asked about again"),
    (37, 20, None, "rejected after an attempt that may have arrived, a push was voided and sealed anew for ever"),
    (183, 30, None, "whole units fell on other windows after a restore and were billed twice"),
    (203, 30, None, "whole units fell on other windows after a restore and were billed twice"),
    (591, 30, None, "at Autumn, charged by a later send while its key store failed open: voided and billed again"),
    (648, 30, None, "where one host's clock was behind, a key of a day ago was sent again after a loss"),
    (1629, 30, None, "as 591"),
    (1899, 30, None, "two samples of one window could not be withdrawn together after a loss"),
    (2988, 30, None, "verify cried wolf where one host's clock was seconds ahead of another's"),
    (3392, 30, None, "settled by a host whose clock was slow, a push was taken for absent too early and billed again"),
    (3587, 30, None, "a worker that lay still while the database was restored sealed on it"),
    (30004, 30, None, "as 591"),
    (100320, 30, None, "a worker that lay still had the ledger charge what was voided meanwhile"),
    (61368, 30, None, "after a restore, what a person had charged by hand was not gone through (the oracle's person)"),
    (61786, 30, None, "a worker that slept for hours wrote a verdict under an override long over"),
    (62112, 30, None, "the gate did not ask who bills by now before a tick had taken over the flip"),
    (62132, 30, None, "as 61786"),
    (9000384, 30, None, "after a tick whose clock was days ahead, an assignment that had begun never took effect"),
    (498679, 200, None, "the oracle took a key for sent as late as the database was recovered"),
    (498693, 200, None, "a withdrawal undone by two restores was not made again (the oracle's person)"),
    (100005, 30, None, "given back without an event at Autumn, it was given back again, and could not be"),
    (100034, 30, None, "twice drawn and once lost, the balance tells how much (the oracle's person)"),
    (70021, 30, None, "beside a push that got lost the balance cannot tell of which (the oracle)"),
    (70096, 30, None, "what could not be given back was not credited by hand (the oracle's person)"),
    (200041, 200, None, "a backlog at an account that refuses bursts outlasted the healing (the simulation's time)"),
    (200128, 200, None, "of two alike the balance proved the wrong one, and the other's late event was given back"),
    (63850, 30, None, "an incarnation's number was used twice where nothing had been sent yet"),
    (200057, 200, None, "of two as large the balance was taken to tell which, and the charged one was sent again"),
    (200118, 200, None, "what was given back and lost stood for a push that never drew (the oracle)"),
    (200084, 200, None, "what was sent in a lost history, and looked up since, counted for P2 still (the oracle)"),
    (200440, 200, None, "of two alike the balance proved the wrong one while the list stood still (the oracle)"),
    (200450, 200, None, "a balance was taken to prove a push, and a later revision of a lost history had drawn on it"),
    (200478, 200, None, "what shares its minute at Stripe waited for a person for ever (the oracle's person)"),
    (200337, 200, None, "a claim by a clock read a day before was sent on (the simulation's process)"),
    (200251, 200, None, "a size of a lost history was mapped anew, and what it had been billed as nobody looked for"),
    (200266, 200, None, "of some alike one was called drawn, and another worker had the others by then"),
    (200076, 200, None, "what a person credited by hand hid as much that was lost on its day"),
    (200204, 200, None, "an excess was given back that stood for another push, since somebody else had drawn as well"),
    (200255, 200, None, "voided for what was drawn in its place, whose windows then could not be read"),
    (200168, 200, None, "less that was drawn than charged was hidden by as much, and more, that was credited by hand"),
    (200793, 200, None, "what another push of a lost history drew was taken for a push before it could be told"),
    (200799, 200, None, "more than a batch of a lost history was looked up in parts, and one balance tells of all"),
    (200080, 200, None, "events' excess was given back, and stood for a push of a day that was not compared then"),
    (900110, 30, None, "a refused draw, done again after a restore, kept its number (the oracle's product)"),
    (920163, 30, None, "of what a balance showed to be charged twice nobody was asked"),
    (920081, 30, None, "what was rejected beside its withdrawal was given back, and had never been charged"),
    (930131, 30, None, "a run asked for again, of whom no seal knew yet after a restore (the simulation's product)"),
    (980056, 30, None, "a replay of what is in open windows alone had begun, and never came to an end"),
    (991035, 30, None, "the ledger dated what a worker days ahead sent by another clock than its own (the world)"),
    (
        122,
        12,
        None,
        "a part of the credits that no read showed, used up by a first push, was taken for lost",
    ),
    (9000, 200, None, "a slow answer to the read that a webhook called for put off the second read by as much"),
    (9005, 200, None, "charged without an event, answered 200, and lost with the balance store (the emulator's books)"),
    (20001, 200, None, "as 9005"),
    (
        400006,
        200,
        None,
        "verify called an entry booked wrongly: a clock was set back by days before its push was settled",
    ),
    (400032, 200, None, "verify called an entry booked early: a clock was set back by days during a tick"),
    (400029, 200, None, "the judge of executions asked the wallet of before an assignment that began meanwhile"),
    (500027, 200, None, "a late event of a push that was voided alone in its window was taken for somebody else's"),
    (500240, 200, None, "the judge took a queued charge for drawn twice: its cost had changed meanwhile"),
    (500166, 200, None, "no person decided a push that was too old, while a withdrawal waited for it (the judge)"),
    (500335, 200, None, "after a restore, a second settlement at the first one's cost is a repetition (the judge)"),
    (
        600206,
        200,
        None,
        "people never gave a rate or voided what was rejected, while a restored withdrawal waited for it",
    ),
    (
        600238,
        200,
        None,
        "a charge of own units and credits was taken for more than was asked, by its last printed digit",
    ),
    (
        800091,
        200,
        None,
        "uncertain amounts hid that a balance fits no choice, and a push that drew was voided and billed again",
    ),
    (803028, 200, None, "verify called an entry booked late: a clock was set back by days after a late charge"),
    (805048, 200, None, "a clock behind by days cut a replay's range, and its job counted as done"),
    (806114, 200, None, "after a restore, a second release at the first one's cost is a repetition (the judge)"),
    (806203, 200, None, "a person accepted a push in doubt, and its customer was not read again"),
    (807339, 200, None, "a mapping that was changed back before its start was taken for a repetition"),
    (810400, 200, None, "a charge at a cost that no read had shown yet counted at the cost before"),
    (821_005, 45, None, "an unanswered first push that used up an unknown grant was taken for absent and billed again"),
    (834_138, 200, None, "a backup of a history that was given up has a key with another quantity (the judge)"),
    (834_271, 200, None, "a batch that Stripe had refused as a whole arrived a second time (the network)"),
    (834_943, 200, None, "a cost was confirmed by a clock 51 s ahead, and a dearer charge counted as sent twice"),
    (834_945, 200, None, "verify called an entry booked early: a clock was set back by days between seal and send"),
    (118, 40, False, "a grant that no read showed paid for a share of a charge, and counted as a lost push"),
    (834_649, 200, None, "four of 55 pushes equalled by chance what a balance seemed to have paid for another push"),
    (300447, 200, None, "what was voided before a backup of a replaced history was sent in the other: billed twice"),
    (300505, 200, None, "beside a voided give-back, a double charge went into the first mark, and was never told"),
)
"""Seeds that once failed: (seed, ticks, restores, what it was). `restores` is what it failed with: None, as the seed
says, or False, before there were any."""
AT_AUTUMN: tuple[tuple[int, int, str], ...] = (
    (11, 80, "what was never sent was accepted, since a correction that got lost left the balance too high by as much"),
    (58, 40, "a part of a correction was given back, and no event shows it (the oracle's person)"),
    (146, 40, "given back twice by a key store that failed open, it was not known as lost (the oracle's person)"),
)
"""Seeds that once failed where planted bugs are looked for: billed here and at Autumn, much goes wrong, no restores."""


@cache
def faults_of(seed: int) -> Counter[str]:
    """Run a seed, which must break nothing; what went wrong in it, by kind."""
    outcome = simulate(seed, TICKS)
    assert not outcome.breaches, failure(outcome, TICKS)
    return by_kind(outcome.faults)


IN_ONE_PROCESS = pytest.mark.xdist_group("short seeds")
"""So that no seed is run twice."""


@IN_ONE_PROCESS
@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"from {batch[0]}")
def test_simulated_usage_under_faults_is_billed_once(batch: Sequence[int]) -> None:
    for seed in batch:
        faults_of(seed)


@IN_ONE_PROCESS
def test_simulation_lives_show_each_fault_kind() -> None:
    counted: Counter[str] = Counter()
    expected = KINDS.keys() - RARE
    for seed in lives([seed for batch in BATCHES for seed in batch], lambda: missing(expected, +counted)):
        counted.update(faults_of(seed))
    assert missing(expected, +counted) == set()
    assert set(counted) <= set(KINDS), "all that is counted has a name"


def test_simulation_lives_run_until_expected_events_appear() -> None:
    missing = ["a"]
    lived = []
    for seed in lives([3, 0], lambda: missing):
        lived.append(seed)
        if seed == 2:
            missing.clear()
    assert lived == [3, 0, 1, 2]
    assert [*lives([3], lambda: True)] == [3, *(seed for seed in range(MOST_MORE + 1) if seed != 3)]


@pytest.mark.parametrize(("whole", "there", "left"), [(False, "ab", ""), (False, "a", "bcdef"), (True, "ab", "cdef")])
def test_simulation_short_run_expects_third_and_whole_run_all(
    whole: bool, there: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.simulation.lives.WHOLE", whole)
    assert missing(set("abcdef"), there) == set(left)


def test_simulation_faults_are_each_named() -> None:
    assert unnamed() == []


SHORT = [life for life in REGRESSIONS if life[1] <= 40]
LIVED = share(SHORT[1:2], whole=REGRESSIONS)
"""Each day a short life, and one of AT_AUTUMN."""


@pytest.mark.parametrize(("seed", "ticks", "restores", "what"), LIVED)
def test_seed_that_once_failed_passes(seed: int, ticks: int, restores: bool | None, what: str) -> None:
    """In the circumstances it failed in. As the world's actions change, a seed need not come to its old bug any more:
    each bug has a scenario or a mutant of its own besides."""
    outcome = simulate(seed, ticks, restores=restores)
    assert not outcome.breaches, f"again: {what}\n{failure(outcome, ticks)}"


@pytest.mark.parametrize(("seed", "ticks", "what"), share(AT_AUTUMN[1:2], whole=AT_AUTUMN))
def test_seed_that_once_failed_at_autumn_passes(seed: int, ticks: int, what: str) -> None:
    outcome = simulate(seed, ticks, intensity=1.0, billing=(EMBEDDED, AUTUMN), restores=False)
    assert not outcome.breaches, f"again: {what}\n{failure(outcome, ticks)}"


def _traces(seed: int, hash_seed: str, *worlds: dict[str, object]) -> list[str]:
    """Of one seed in each of these worlds, in one process: to read the program takes longer than a life."""
    each = f"print(*(simulate({seed}, 5, **world).digest for world in {worlds}), sep='\\n')"
    code = f"from tests.simulation.scheduler import simulate; {each}"
    root = Path(__file__).parents[2]
    quiet = "import structlog; structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50)); "
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", quiet + code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_simulation_of_same_seed_has_same_trace_in_each_process() -> None:
    here = simulate(3, 5).digest
    assert simulate(4, 5).digest != here
    at_autumn = {"intensity": 1.0, "billing": (EMBEDDED, AUTUMN), "restores": False}  # where balances are weighed
    there = simulate(3, 5, **at_autumn).digest  # type: ignore[arg-type]
    assert _traces(3, "1", {}, at_autumn) == [here, there] and here != there


def test_simulation_shortcut_does_not_change_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    short = simulate(6, 6).digest
    monkeypatch.setattr(database, "shorten", lambda engine: None)
    assert simulate(6, 6).digest == short


def test_failing_seed_report_ends_with_command_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "check", lambda world: ["1: org0 is wrong"])
    outcome = simulate(5, 3)
    text = failure(outcome, 3).splitlines()
    assert text[-1] == "repeat: make simulate SEEDS=1 TICKS=3 START=5"
    assert "  1: org0 is wrong" in text
    assert ENDING < len(outcome.story) <= MOST


def test_failing_seed_story_shows_only_org_and_window_of_breach() -> None:
    key = f"usage:org1:{START}:compute"
    lines = [
        f"{'1.000':>12} world  inserts s1:org1@7s=60 s2:org2@7s=60 s3:org1@700s=60",
        f"{'2.000':>12} world  inserts s4:org2@7s=60",
        f"{'3.000':>12} w1     Push memory {key}=1#1 usage:org2:{START}:compute=1#1 -> [Accepted()]",
        f"{'4.000':>12} w1     claim -> []",
        f"{'5.000':>12} world  org1 is assigned to memory",
        *(f"{'6.000':>12} w1     seal -> {number}" for number in range(ENDING)),
    ]
    found = story([f"1: org1 window {START} compute: sealed 1, used 2"], lines)
    assert [line[13:].split() for line in found[:-ENDING]] == [
        ["world", "inserts", "s1:org1@7s=60"],
        ["w1", "Push", "memory", f"{key}=1#1", "->", "[Accepted()]"],
        ["world", "org1", "is", "assigned", "to", "memory"],
    ]


def _oracle() -> Oracle:
    oracle = Oracle()
    oracle.rules += [Rule("exact", 1024, "a", "s", 0), Rule("up_to", 2048, "b", "mb_s", 300_000)]
    oracle.assignments["acme"] += [Assignment(0, "embedded", "acme"), Assignment(600_000, "memory", "acme")]
    return oracle


def test_oracle_computes_owed_and_pending_usage() -> None:
    oracle = _oracle()
    for name, ts, size in (("1", 0, 1024), ("2", 299_999, 1024), ("3", 300_000, 2000), ("4", 299_999, 2000)):
        oracle.took(Sample(name, "acme", ts, size, 10, good=True))
    oracle.took(Sample("1", "acme", 0, 1024, 99, good=True))  # the same id again
    oracle.took(Sample("5", "other", 0, 1024, 10, good=True))
    oracle.withdraw("2")
    expected = oracle.expected()
    assert expected.owed == {("acme", 0, "a"): 10, ("acme", 300_000, "b"): 20_000}
    assert expected.pending == {(0, "acme", 2000): ("no_mapping", 10, 1), (0, "other", 1024): ("no_biller", 10, 1)}


def test_oracle_assignment_follows_window() -> None:
    oracle = _oracle()
    billers = [oracle.assigned("acme", window) for window in (0, 300_000, 600_000)]
    assert [one.provider for one in billers if one is not None] == ["embedded", "embedded", "memory"]
    assert oracle.assigned("other", 0) is None
