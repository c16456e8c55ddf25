"""A share of real usage, sent over HTTP by clients that are killed to a server that is. All of it: `make door`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from tests.acceptance import gentd26, openb
from tests.crash.door.cutter import SURELY
from tests.crash.door.siege import Asked, siege, stage
from tests.crash.door.usage import As, seconds_of_lives, usage
from tests.crash.nursery import Nursery
from tests.whole import at_length

BATCHES: Final = (3, 10, 25)
SHARE: Final = Asked("gentd26", "events", 2, rows=120, batches=BATCHES, every_s=0.1, strikes=8, most_s=240)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with stage(tmp_path_factory.mktemp("door"), SHARE) as made:
        yield made


@at_length("make door")
@pytest.mark.parametrize(
    ("database_url", "sent_as"), [("sqlite", "events"), ("postgresql", "samples")], indirect=["database_url"]
)
def test_usage_of_killed_http_clients_is_billed_once(
    sent_as: As, database_url: str, engine: sa.Engine, tmp_path: Path, nursery: Nursery
) -> None:
    found = siege(nursery, tmp_path, database_url, replace(SHARE, sent_as=sent_as))
    assert found.toll.kills and found.cuts["answer"] >= SURELY, "it shows nothing"
    assert found.told.statuses["duplicate"], "nothing came again"


@at_length("make mutants")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("planted", "at", "text"),
    [
        ("a cut is taken for an answer", (), "are lost"),
        ("a new id each time", (), "were not sent so"),
        ("answered before the commit", (), "are lost"),
        ("what was left stays", (("client", "begin send"),), "are lost"),
    ],
)
def test_planted_bug_is_found(
    planted: str,
    at: Sequence[tuple[str, str]],
    text: str,
    database_url: str,
    engine: sa.Engine,
    tmp_path: Path,
    nursery: Nursery,
) -> None:
    asked = replace(SHARE, planted=planted, at=at, batches=(1,), every_s=0.05, strikes=3 if at else 0)
    with pytest.raises(AssertionError, match=text):
        siege(nursery, tmp_path, database_url, asked)


@at_length("make door")
@pytest.mark.skipif(not openb.FILE.exists(), reason="needs the real usage data beside the project (../shared/data)")
def test_trace_usage_has_expected_samples_and_seconds() -> None:
    whole = usage("gentd26", 1)
    assert (len(whole.all), whole.seconds, len(whole.by_window)) == (gentd26.SAMPLES, gentd26.SECONDS, gentd26.PUSHES)
    assert sum(one.seconds for one in whole.all) == gentd26.SECONDS
    assert sum(one.seconds for one in whole.all if one.org == "G0264") == 25_383
    day = usage("openb", 1)
    assert (len(day.all), day.seconds) == (65_908, seconds_of_lives(whole=False))
    assert seconds_of_lives(whole=True) == 210_028_342
