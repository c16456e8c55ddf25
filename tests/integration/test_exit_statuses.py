"""The same mistake ends with the same exit status at each command there is; the examples of the helps are the walk."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from drawdown.cli.examples import EXAMPLES
from drawdown.cli.main import global_options_first, run
from drawdown.schema.errors import Exit
from tests.sqlite_databases import fresh

NEEDS_NONE = ("demo", "init", "doctor")
"""What makes its database, or says what is wrong with it."""
GOES_ON = "privacy"
"""A scan looks at files, and says so where it has no database to compare them with; its rules are the program's."""
BILL = "day,vendor,service,amount,currency\n2026-01-01,cloud,vm,0.1,USD\n"
FILES = {
    "flips.csv": "org_id,customer_id\nacme,cus_1\n", "totals.csv": "day,org_id,seconds\n2026-01-01,acme,1\n",
    "focus.csv": BILL, "invoice.csv": BILL, "report.json": "{}", "may.json": "{}", "gitleaks.toml": "",
}  # fmt: skip
TIMES = ("--from", "--to", "--until", "--since", "--before", "--new-org-from", "--at")
LINES = [line for name, lines in EXAMPLES.items() if name and name not in NEEDS_NONE for line in lines]
EACH = [lines[0] for name, lines in EXAMPLES.items() if name and name not in NEEDS_NONE]
"""One line of each command: what it is given beside the mistake changes nothing."""
STORED = [line for line in EACH if not line.startswith((GOES_ON, "worker"))]  # `worker` takes no SQLite at all


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", "sqlite:///none.db")
    monkeypatch.setenv("DRAWDOWN_STRIPE_SECRET_KEY", "sk_test_nobody0123456789")
    monkeypatch.setenv("DRAWDOWN_AUTUMN_SECRET_KEY", "am_sk_test_nobody0123456789")
    monkeypatch.setenv("DRAWDOWN_QUERY_WAREHOUSE_URL", "sqlite:///warehouse.db")
    for name in ("samples.csv", "june.jsonl.gz", "usage.csv", "usage.sql", "body.json"):
        Path(name).touch()
    for name, text in FILES.items():
        Path(name).write_text(text)


def mistaken(line: str, capfd: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    """The status of a command and the one line it says. `nightly` says it once for each of its steps."""
    words, dashes, rest = line.partition(" -- ")
    ended = run(global_options_first([*shlex.split(words), *more, *(["--", *rest.split()] if dashes else [])]))
    said = capfd.readouterr().err
    lines = said.splitlines(keepends=True)
    assert said.startswith("drawdown: ") and len(set(lines)) == 1 and (len(lines) == 1 or line == "nightly"), said
    return ended, lines[0]


def wrong(lines: Iterable[str], capfd: pytest.CaptureFixture[str], status: Exit, text: str, *more: str) -> list[str]:
    """The lines that end with another status, or do not say so."""
    ended = ((line, *mistaken(line, capfd, *more)) for line in lines)
    return [f"{line}: {found}: {said}" for line, found, said in ended if found != status or text not in said]


def test_command_with_unknown_option_exits_as_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert wrong(EACH, capfd, Exit.USAGE, "", "--nonsense") == []


def test_command_with_invalid_setting_exits_as_usage_error(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAWDOWN_LOG_LEVEL", "LOUD")
    assert wrong(EACH, capfd, Exit.USAGE, "") == []


def test_command_with_missing_database_exits_with_init_hint(capfd: pytest.CaptureFixture[str]) -> None:
    assert wrong(STORED, capfd, Exit.PERSON, "`drawdown init`") == []
    assert not Path("none.db").exists()


def test_command_with_unreachable_database_exits_for_retry(capfd: pytest.CaptureFixture[str]) -> None:
    nobody = "postgresql://nobody@127.0.0.1:1/x"
    assert wrong(STORED, capfd, Exit.LEFT, "Try again", "--database-url", nobody) == []


@pytest.mark.parametrize("where", ["drawdown.cli.startup.open_state", "drawdown.worker.orgs.lists.list_orgs"])
def test_command_interrupted_exits_for_retry(
    where: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C: the status of a scheduler's next try, as all statuses one of those that are explained."""
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", "sqlite:///there.db")
    fresh(Path("there.db")).dispose()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    ended, said = mistaken("org list", capfd)
    assert (ended, said) == (Exit.LEFT, "drawdown: stopped: uncommitted changes are rolled back\n")


def untimely() -> Iterator[str]:
    """Each command that takes a time, with one that is none."""
    for line in LINES:
        words = shlex.split(line)
        for number, word in enumerate(words[:-1]):
            if word in TIMES and not line.startswith(("execution extend", "guard extend")):  # grown to an amount
                yield shlex.join([*words[: number + 1], "soon", *words[number + 2 :]])


def test_command_with_invalid_time_exits_as_usage_error(capfd: pytest.CaptureFixture[str]) -> None:
    months = [line for line in untimely() if line.startswith("push fold")]
    times = [line for line in untimely() if line not in months]
    assert len(months) >= 1 and len(times) > 50
    assert wrong(months, capfd, Exit.USAGE, "'soon': expected a month as YYYY-MM") == []
    assert wrong(times, capfd, Exit.USAGE, "invalid time 'soon': expected 2026-01-31") == []


def test_cli_source_does_not_write_exit_numbers() -> None:
    """The statuses are named in one place."""
    folder = Path(__file__).parents[2] / "cli"
    found = [file.name for file in folder.rglob("*.py") if "Exit(0" in (text := file.read_text()) or "Exit(1" in text]
    assert found == []
    assert [file.name for file in folder.rglob("*.py") if "Exit(75" in file.read_text()] == []
