"""Pods of 57 memory sizes: those with a feature are billed, the rest waits visibly until tiers fill the holes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from tests.acceptance import openb
from tests.acceptance.commands import drawdown, must, one_clear_line
from tests.acceptance.openb import Pod
from tests.acceptance.tables import number, rows
from tests.whole import share
from tests.world import Fleet

pytestmark = openb.needed()

FROM, AT, LATER = "2025-01-01", "2025-07-01", "2025-07-01T00:01:00"
AT_MS = 1_751_328_000_000
DEFAULT = {gb * 1024: f"compute_{gb}gb" for gb in (1, 4, 8, 16, 32, 64)}
TIERS = {8_192: "compute_8gb", 32_768: "compute_32gb", 131_072: "compute_128gb"}
TOP = "compute_top"
LEDGER = """
SELECT SUBSTR(from_account, 8), feature, SUM(quantity) FROM ledger_entries WHERE kind = 'usage' GROUP BY 1, 2
"""
SEALED = "SELECT org_id, feature, SUM(sealed_qty) FROM pushes WHERE state = 'accepted' GROUP BY 1, 2"

ByFeature = dict[tuple[str, str], int]


def _tier(memory_mb: int) -> str:
    """The feature of a size once the tiers are there: its own, the nearest tier above it, or the open top."""
    above = [size for size in TIERS if size >= memory_mb]
    return DEFAULT.get(memory_mb) or (TIERS[min(above)] if above else TOP)


def _sum(ran: Sequence[Pod], *, tiers: bool) -> ByFeature:
    """What is to be billed, from the pods' lives alone: no minute, no sample, no window."""
    found: ByFeature = defaultdict(int)
    for pod in ran:
        feature = _tier(pod.memory_mb) if tiers else DEFAULT.get(pod.memory_mb)
        if feature is not None:
            found[pod.org, feature] += pod.seconds
    return dict(found)


def _found(url: str, text: str) -> ByFeature:
    return {(str(org), str(feature)): int(str(seconds)) for org, feature, seconds in rows(url, text)}


def _map(url: str, feature: str, selector: Sequence[str], expected_s: int) -> None:
    """Map a tier as an operator would: looked at, then done."""
    command = ("feature", "map", feature, *selector, "--from", FROM)
    mappings = number(url, "SELECT COUNT(*) FROM mappings")
    assert must(url, *command, "--dry-run", at=AT)["mapped"]["resolved_s"] == expected_s
    assert number(url, "SELECT COUNT(*) FROM mappings") == mappings
    assert must(url, *command, "--yes", at=AT)["mapped"]["resolved_s"] == expected_s
    assert number(url, "SELECT COUNT(*) FROM mappings") == mappings + 1


def _map_all(url: str, ran: Sequence[Pod]) -> None:
    blind = ("feature", "map", TOP, "--rest", "--from", FROM, "--new")
    assert "--dry-run" in one_clear_line(drawdown(url, *blind, at=AT), 1)
    for feature in ("compute_128gb", TOP):
        must(url, "ledger", "rate", feature, "--micro-credits", "12800", "--new")
    for size, feature in (*TIERS.items(), (None, TOP)):
        held = sum(pod.seconds for pod in ran if pod.memory_mb not in DEFAULT and _tier(pod.memory_mb) == feature)
        _map(url, feature, ("--rest",) if size is None else ("--up-to", str(size)), held)


def _billed(url: str, ran: Sequence[Pod], *, tiers: bool) -> None:
    expected = _sum(ran, tiers=tiers)
    assert _found(url, SEALED) == expected
    assert _found(url, LEDGER) == expected
    assert number(url, "SELECT COUNT(*) FROM pushes WHERE state <> 'accepted'") == 0
    assert number(url, "SELECT SUM(seconds) FROM pending_usage") == sum(p.seconds for p in ran) - sum(expected.values())


def test_openb_trace_has_expected_pods_and_seconds() -> None:
    ran = openb.pods(whole=True)
    assert (len(ran), sum(pod.seconds for pod in ran), len({pod.memory_mb for pod in ran})) == (7_255, 210_028_342, 57)
    assert sum(-(-pod.seconds // openb.MINUTE_S) for pod in ran) == 3_503_931
    mapped = sum(_sum(ran, tiers=False).values())
    assert (mapped, sum(pod.seconds for pod in ran) - mapped) == (102_474_549, 107_553_793)
    assert {_tier(pod.memory_mb) for pod in openb.pods()} == {_tier(pod.memory_mb) for pod in ran}, "each tier is met"


@pytest.mark.parametrize("database_url", share(["sqlite"], whole=["sqlite", "postgresql"]), indirect=True)
def test_openb_unmapped_sizes_are_pending_until_mapped_and_then_billed(
    engine: sa.Engine, database_url: str, pytestconfig: pytest.Config
) -> None:
    ran, url = openb.pods(), database_url
    fleet = Fleet(engine)
    fleet.clock.at_ms = AT_MS
    fleet.assign(*(f"org-{number}" for number in range(openb.ORGS)), from_ms=openb.EPOCH_S * 1000)
    assert openb.load(engine, ran, AT_MS) == sum(-(-pod.seconds // openb.MINUTE_S) for pod in ran)
    engine.dispose()
    report = must(url, "tick", at=AT)["tick"]
    _billed(url, ran, tiers=False)
    total = sum(pod.seconds for pod in ran)
    pending = total - sum(_sum(ran, tiers=False).values())
    found = must(url, "status", at=AT, status=75)
    assert report["left"]["pending_s"] == {"no_mapping": pending} == found["left"]["pending_s"]

    _map_all(url, ran)
    assert number(url, "SELECT SUM(sealed_qty) FROM pushes") == total - pending, "nothing is sealed before the tick"
    tick = must(url, "tick", at=LATER)["tick"]
    assert tick["left"]["pending_s"] == {}
    _billed(url, ran, tiers=True)
    assert number(url, "SELECT SUM(sealed_qty) FROM pushes") == total
    assert must(url, "tick", at=LATER)["tick"]["sealed"] == 0
    must(url, "verify", at=LATER)
