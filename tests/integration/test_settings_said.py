"""What is wrong with a setting is said by the name of its variable, and a name that nothing reads is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drawdown.cli.main import run
from drawdown.cli.settings import Settings
from tests.sqlite_databases import migrated

Said = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", f"sqlite:///{tmp_path}/drawdown.db")
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("DATABASE_URL", "x", "DRAWDOWN_DATABASE_URL, or --database-url, is not a URL: expected sqlite:///FILE"),
        ("DATABASE_URL", "mysql://x/y", "DRAWDOWN_DATABASE_URL, or --database-url, names a mysql database: expected"),
        ("GATE_UNKNOWN_ORG", "x", "DRAWDOWN_GATE_UNKNOWN_ORG: Input should be 'not_found', 'deny' or 'allow'"),
        ("GATE_OPEN_WHEN_IN_DOUBT", "x", "DRAWDOWN_GATE_OPEN_WHEN_IN_DOUBT: Input should be a valid boolean"),
        ("REQUESTS_PER_S", "0", "DRAWDOWN_REQUESTS_PER_S: Input should be greater than or equal to 1"),
        ("LOG_LEVEL", "x", "DRAWDOWN_LOG_LEVEL: invalid level 'x': expected DEBUG, INFO, WARNING, ERROR or CRITICAL"),
    ],
)
def test_setting_error_names_its_variable(
    variable: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setenv(f"DRAWDOWN_{variable}", text)
    assert run(["status"]) == 2
    assert said in capsys.readouterr().err


def told(monkeypatch: pytest.MonkeyPatch, capsys: Said, *names: str) -> str:
    migrated(os.environ["DRAWDOWN_DATABASE_URL"])
    with monkeypatch.context() as patch:
        for name in names:
            patch.setenv(name, "a-value-that-is-secret")
        run(["doctor"])
    said = " ".join(capsys.readouterr().out.split())
    assert "a-value" not in said
    return said


def test_setting_unknown_name_is_reported_with_nearest(monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    meant = {
        "DRAWDOWN_GATE_UNKNOWN_ORGS": "DRAWDOWN_GATE_UNKNOWN_ORG",
        "DRAWDOWN_ADMIN_SECRET": "DRAWDOWN_ADMIN_SECRETS",
        "DRAWDOWN_CRON_SECRETS": "DRAWDOWN_CRON_SECRET",
        "DRAWDOWN_AUTUM_SECRET_KEY": "DRAWDOWN_AUTUMN_SECRET_KEY",
        "DRAWDOWN_STRPE_PAYMENTS_KEY": "DRAWDOWN_STRIPE_PAYMENTS_KEY",
    }
    said = told(monkeypatch, capsys, *meant)
    for name, nearest in meant.items():
        assert f"{name} is set, but no program on this machine reads it" in said and f"did you mean {nearest}?" in said


def test_setting_unknown_file_variable_is_reported_with_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    (tmp_path / "secret").write_text("x" * 40)
    monkeypatch.setenv("DRAWDOWN_CRON_SECRETS_FILE", str(tmp_path / "secret"))
    assert "did you mean DRAWDOWN_CRON_SECRET?" in told(monkeypatch, capsys)


def test_setting_known_names_are_not_reported(monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    """Those of a provider, of a query's database, and each that there is."""
    names = ["DRAWDOWN_STRIPE_SECRET_KEY", "DRAWDOWN_STRIPE_PAYMENTS_KEY", "DRAWDOWN_AUTUMN_SECRET_KEY"]
    assert "no program on this machine reads it" not in told(
        monkeypatch, capsys, *names, "DRAWDOWN_QUERY_WAREHOUSE_URL"
    )
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, str) and name not in ("database_url", "log_level", "gate_unknown_org"):
            monkeypatch.setenv(f"DRAWDOWN_{name.upper()}", field.default)
    assert "no program on this machine reads it" not in told(monkeypatch, capsys)
