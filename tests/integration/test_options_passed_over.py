"""An option beside which another one would mean nothing: refused with both names, and nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.main import global_options_first, run
from drawdown.schema.database import read
from tests.world import T0, Fleet

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

PASSED_OVER = {
    "reconcile --acknowledge --provider embedded": "--provider cannot be combined with --acknowledge",
    "reconcile --acknowledge --from 2026-01-01 --to 2026-01-02": "--from and --to cannot be combined with",
    "reconcile acme --acknowledge --correct": "--correct cannot be combined with --acknowledge",
    "reconcile --acknowledge --threshold 1 --shadow-threshold 1": "--threshold and --shadow-threshold cannot be",
    "org assign acme --undo --provider none": "--provider cannot be combined with --undo",
    "org assign acme --undo --from 2026-01-02 --customer c": "--customer cannot be combined with --undo",
    "org assign acme --undo --allow-halt --unchecked --new": "--allow-halt and --unchecked and --new cannot be",
    "watch --once --every 3": "--every cannot be combined with --once",
    "run --every 60 --deadline 61": "it is longer than --every",
    "provider check embedded --customer acme --most 3": "--most cannot be combined with --customer",
    "provider when-down embedded --undo --new": "--new cannot be combined with --undo",
    "init --roles --actor alice": "--actor cannot be combined with --roles",
    "import samples.csv --id-prefix a": "--id-prefix needs --id-from-line",
}


@pytest.fixture
def shop(engine: sa.Engine) -> str:
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    fleet.sample("acme", T0)
    return engine.url.render_as_string(hide_password=False)


@on_sqlite
def test_option_without_effect_is_refused(
    shop: str, engine: sa.Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("samples.csv").write_text("id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts\n")
    before = _deeds(engine)
    for command, why in PASSED_OVER.items():
        assert run(global_options_first(["--database-url", shop, *command.split()])) == 2, command
        told = capsys.readouterr()
        assert why in told.err and told.err.count("\n") == 1 and told.out == "", command
    assert _deeds(engine) == before


@on_sqlite
def test_expect_option_counts_named_pushes(shop: str, engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--database-url", shop, "push", "void", "a", "b", "--expect", "3", "--evidence", "seen"]) == 1
    assert "expected 3, but found 2" in capsys.readouterr().err


def _deeds(engine: sa.Engine) -> int:
    return read(engine, lambda c: int(c.execute(sa.text("SELECT COUNT(*) FROM operator_actions")).scalar_one()))
