"""The command line in its own process: exit statuses, JSON, errors in one line, no secret anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drawdown.cli.main import global_options_first, run

DRAWDOWN = Path(sys.executable).with_name("drawdown")
HEADER = "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts\n"
SECRET = "canary-0123456789-canary"


class Shell:
    """A user's shell: a folder, an environment, the command."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")},
            "DRAWDOWN_DATABASE_URL": url,
            "DRAWDOWN_CELL_SECRET": SECRET,
            "NO_COLOR": "1",
        }
        self.said = ""

    def run(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [str(DRAWDOWN), *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.said += done.stdout + done.stderr
        assert done.returncode == status, f"{arguments}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if status in (0, 75) or not done.stderr else done.stdout + done.stderr

    def json(self, *arguments: str, status: int = 0) -> Any:
        done = self.run(*arguments, "--json", status=status)
        return json.loads(done.splitlines()[0])

    def samples(self, *rows: str, name: str = "samples.csv") -> str:
        (self.folder / name).write_text(HEADER + "".join(f"{row}\n" for row in rows))
        return name


@pytest.fixture
def shell(tmp_path: Path, database_url: str) -> Shell:
    return Shell(tmp_path, database_url)


def test_a_first_hour(shell: Shell) -> None:
    shell.run("init")
    assert "up to date" in shell.run("init")
    rows = [f"s{n},acme,box,cell-1,1024,60,2026-01-01T00:0{n}:00Z" for n in range(5)]
    file = shell.samples(*rows, "bad,acme,box,cell-1,1024,-5,2026-01-01T00:00:00Z")
    report = shell.json("import", file, status=1)["import"]
    assert (report["inserted"], report["rejected"]) == (5, 1)
    assert shell.json("org", "assign", "--unassigned", "--from", "2026-01-01")["assigned"][0]["org_id"] == "acme"
    tick = shell.json("tick", "--at", "2026-01-01T00:10")["tick"]
    assert (tick["sealed"], tick["accepted"], tick["halted"], tick["exit_status"]) == (1, 1, 1, 0)
    assert shell.json("org", "show", "acme")["is_halted"]
    assert shell.json("ledger", "grant", "acme", "12.50", "--at", "2026-01-01T00:10")["balance_micro"] == 12_470_000
    assert shell.json("tick", "--at", "2026-01-01T00:11")["tick"]["resumed"] == 1
    key = f"usage:acme:{1767225600000}:compute_1gb"
    assert shell.json("push", "show", key)["sealed_qty"] == 300
    assert shell.json("sample", "withdraw", "s1", "--reason", "test")["withdrawn"][0]["interval_s"] == 60
    assert shell.json("tick", "--at", "2026-01-01T00:16")["tick"]["accepted"] == 1
    replayed = shell.json("replay", "--all", "--from", "2026-01-01", "--to", "2026-01-01T00:10", "--at", "2026-01-02")
    assert replayed["replay"]["pushes"] == 0
    assert shell.json("verify")["breaches"] == []
    assert shell.json("status")["orgs"] == 1
    assert SECRET not in shell.said


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["org", "show", "nobody"], 1, "no organisation nobody"),
        (["org", "assign", "acme", "--provider", "acme-pay"], 1, "embedded, legacy, none"),
        (["org", "assign"], 2, "name the organisations"),
        (["org", "assign", "acme", "--from", "2026-01-01T00:07"], 2, "no window boundary"),
        (["org", "override", "acme"], 2, "--max-concurrent"),
        (["push", "show", "usage:x"], 1, "no push usage:x"),
        (["push", "resolve", "usage:x"], 2, "--accepted or --absent"),
        (["feature", "map", "Bad-Name", "--memory-mb", "4"], 2, "a-z"),
        (["feature", "map", "x"], 2, "--memory-mb"),
        (["feature", "map", "r1", "--memory-mb", "4"], 2, "no number"),
        (["feature", "map", "300000", "--memory-mb", "4"], 2, "no number"),
        (["tick", "--at", "2124-01-01"], 2, "future"),
        (["feature", "end", "x"], 1, "nothing makes"),
        (["sample", "withdraw", "x"], 1, "no sample x"),
        (["ledger", "grant", "acme", "much"], 2, "no amount"),
        (["ledger", "grant", "a\x01", "5"], 2, "control characters"),
        (["verify", "--org", "nobody"], 1, "no organisation nobody"),
        (["replay", "--all", "--from", "2026-01-02", "--to", "2026-01-01"], 2, "ends before"),
        (["replay", "acme", "--all", "--from", "2026-01-01", "--to", "2026-01-02"], 2, "one organisation"),
        (["tick", "--shard", "2/2"], 2, "--shard"),
        (["tick", "--new-org-from", "2026-01-01"], 2, "--new-org-provider"),
        (["cell", "set", "c", "ftp://x"], 2, "http(s)"),
        (["nonsense"], 2, "nonsense"),
        (["tick", "--nonsense"], 2, "--nonsense"),
        (["import", "missing.csv"], 2, "missing.csv"),
        (["status", "--at", "yesterday"], 2, "--at"),
        (["status", "--database-url", "mysql://x/y"], 2, "mysql"),
        (["status", "--database-url", "sqlite:///no-such-file.db"], 1, "drawdown init"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    status: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", f"sqlite:///{tmp_path}/drawdown.db")
    assert run(["init"]) == 0
    capsys.readouterr()
    assert run(global_options_first(arguments)) == status
    said = capsys.readouterr()
    assert text in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert run(global_options_first([*arguments, "--json"])) == status
    assert json.loads(capsys.readouterr().out)["exit_status"] == status


def test_a_database_without_tables_says_what_to_do(shell: Shell) -> None:
    for command in (["tick"], ["status"], ["verify"], ["import", shell.samples()]):
        assert "drawdown init" in shell.run(*command, status=1)
    findings = shell.json("doctor", status=1)["findings"]
    assert any("drawdown init" in finding["mend"] for finding in findings)


def test_doctor_says_what_is_missing_and_how_to_mend_it(shell: Shell) -> None:
    shell.run("init")
    shell.run("cell", "set", "cell-1", "http://127.0.0.1:9/")
    shell.environment |= {"DRAWDOWN_CELL_SECRET": "short", "DRAWDOWN_ADMIN_SECRETS": "short"}
    said = shell.json("doctor", status=1)["findings"]
    mends = [finding["mend"] for finding in said if not finding["ok"]]
    words = ("ORIGINS", "CELL_SECRET", "ADMIN_SECRETS", "cron")
    assert [word for word in words if not any(word in mend for mend in mends)] == []
    assert any("nobody watches" in finding["what"] for finding in said if finding["ok"])
    assert any("CRON_SECRET is not set" in finding["what"] for finding in said if finding["ok"])


def test_help_teaches(shell: Shell) -> None:
    said = shell.run("--help")
    for command in ("init", "import", "tick", "replay", "verify", "org", "feature", "push", "ledger", "doctor"):
        assert command in said
        assert "Usage" in shell.run(command, "--help")


def test_logs_are_json_when_nobody_looks(shell: Shell) -> None:
    shell.run("init")
    shell.run("tick")
    events = [json.loads(line) for line in shell.said.splitlines() if line.startswith('{"')]
    assert {"tick_started", "sealed", "tick_finished"} <= {event["event"] for event in events}
