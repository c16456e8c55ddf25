"""What is sealed and not sent, because its provider bills whole units, is shown to whoever adds up."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.schema.database import read
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.usage.lists import Carried, read_usage
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet


@pytest.mark.both_databases
def test_usage_carry_is_shown_beside_sealed_quantity(engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    provider = FakeProvider(capabilities(unit=60))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake", from_ms=T0)
    fleet.sample("acme", T0 + 1, 100, 1024)
    fleet.tick_windows(2)
    found = read(engine, lambda c: read_usage(c, "acme", T0, T0 + WINDOW_MS, "feature"))
    assert [(row.used, row.sealed) for row in found.rows] == [(100, 100)]
    assert (sum(sent.quantity for sent in provider.seen), found.carried) == (
        60,
        [Carried("fake", "acme", "compute_1gb", 40)],
    )
    url = engine.url.render_as_string(hide_password=False)
    status = run(["--database-url", url, "usage", "acme", "--from", str(T0), "--to", str(T0 + WINDOW_MS)])
    assert status == 0
    assert "carried to a later window: 40 of compute_1gb at fake" in capsys.readouterr().out
