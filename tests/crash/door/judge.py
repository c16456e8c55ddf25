"""What has to hold once a siege of the door is over.

Guarantee: what was sent is known from the files; what the clients were told, from their journals; what is kept and
billed, from the tables. The three are compared item by item and window by window.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from drawdown.schema.units import DAY_MS
from drawdown_client import Client
from tests.acceptance.commands import must
from tests.acceptance.tables import billed_exactly, number, rows
from tests.crash.door.usage import SOURCE, As, Features, Usage
from tests.server.program import key_of

SAMPLES: Final = "SELECT id, org_id, sandbox_id, memory_mb, interval_s, ts FROM usage_samples"
EVENTS: Final = """
SELECT e.event_id, e.org_id, e.subject, e.event_type, e.quantity, e.ts, e.source, s.interval_s, s.ts, s.org_id
FROM usage_events e LEFT JOIN usage_samples s ON s.id = e.sample_id
"""
BY_FEATURE: Final = "SELECT org_id, feature, SUM(sealed_qty) FROM pushes GROUP BY org_id, feature"
LEDGER: Final = """
SELECT SUBSTR(from_account, 8), feature, SUM(quantity) FROM ledger_entries WHERE kind = 'usage' GROUP BY 1, 2
"""
READ_BACK: Final = 5
"""Organisations whose usage is read over HTTP, the busiest among them."""


@dataclass(frozen=True)
class Told:
    """What the clients were told, item by item: how often each status."""

    statuses: Counter[str]
    untold: int
    """Items whose answer no client came to note: it was killed in between."""


def kept_once(url: str, made: Usage, sent_as: As) -> None:
    """Each is there, once, as it was sent, and nothing else is."""
    kept = Counter(rows(url, SAMPLES if sent_as == "samples" else EVENTS))
    sent: Counter[tuple[object, ...]]
    if sent_as == "samples":
        sent = Counter((one.name, one.org, one.box, one.memory_mb, one.seconds, one.at_ms) for one in made.all)
    else:
        sent = Counter(
            (
                one.name,
                one.org,
                one.box,
                one.event_type,
                one.seconds,
                one.at_ms,
                SOURCE,
                one.seconds,
                one.at_ms,
                one.org,
            )
            for one in made.all
        )
        assert number(url, "SELECT COUNT(*) FROM usage_samples") == sum(kept.values()), "an event has one sample"
    lost, more = sent - kept, kept - sent
    assert not lost and not more, (
        f"of {len(made.all)} items {sum(lost.values())} are lost, and {sum(more.values())} are there that were not "
        f"sent so: {list(lost)[:2]}, {list(more)[:2]}"
    )


def read_back(url: str, made: Usage, sent_as: As) -> None:
    """A program is told of an organisation's usage what the files say, before anything is settled."""
    orgs = Counter[str]()
    for one in made.all:
        orgs[one.org] += one.seconds
    chosen = [orgs.most_common(1)[0][0], *random.Random(1).sample(sorted(orgs), min(READ_BACK - 1, len(orgs)))]
    from_day = datetime.fromtimestamp(made.from_ms // DAY_MS * DAY_MS / 1000, UTC)
    whole = made.by_feature(sent_as)
    with Client(url, key_of("client-0")) as client:
        for org in chosen:
            found = Counter[str]()
            for start in (from_day + timedelta(days=31 * month) for month in range(6)):
                for row in client.usage(org, start, start + timedelta(days=31))["rows"]:
                    found[row["feature"]] += row["used"]
            expected = {feature: seconds for (whose, feature), seconds in whole.items() if whose == org}
            assert +found == expected, f"{org} is told {found}, and used {expected}"


def judged(url: str, folder: Path, made: Usage, sent_as: As, kills: int) -> tuple[Told, int]:
    """Once it is billed: what the clients were told, and how many pushes there are. Errors: AssertionError."""
    assert number(url, "SELECT COUNT(*) FROM sample_conflicts") == 0, "what came again said the same"
    told = _told(folder, made)
    assert kills or not told.untold, f"nobody was killed, and of {told.untold} items no answer was noted"
    billed_exactly(url, made.by_window)
    expected = made.by_feature(sent_as)
    for text in (BY_FEATURE, LEDGER):
        found = {(str(org), str(feature)): int(str(seconds)) for org, feature, seconds in rows(url, text)}
        assert found == expected, _first(found, expected)
    assert must(url, "verify")["breaches"] == []
    return told, number(url, "SELECT COUNT(*) FROM pushes")


def _first(found: Features, expected: Features) -> str:
    wrong = sorted(found.items() ^ expected.items())
    return f"{len(wrong)} sums by organisation and feature differ, the first {wrong[:4]}"


def _told(folder: Path, made: Usage) -> Told:
    """Each item was accepted once at most, and is `duplicate` otherwise."""
    statuses, accepted, heard = Counter[str](), Counter[str](), set[str]()
    for journal in folder.glob("client-*.journal"):
        for line in journal.read_text().splitlines():
            name, status, code = line.rsplit(" ", 2)
            statuses[status] += 1
            heard.add(name)
            accepted[name] += status == "accepted"
            assert status in ("accepted", "duplicate"), f"{name} was told {status} {code}"
    twice = [name for name, count in accepted.items() if count > 1]
    assert not twice, f"{len(twice)} items were accepted twice: {twice[:3]}"
    return Told(statuses, len(made.all) - len(heard))
