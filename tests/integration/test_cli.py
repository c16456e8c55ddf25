"""The command line in its own process: exit statuses, JSON, errors in one line, no secret anywhere."""

from __future__ import annotations

import hmac
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from drawdown.cli.main import global_options_first, run
from drawdown.schema.database import connect
from tests import fork_server, in_process
from tests.sqlite_databases import migrated

HEADER = "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts\n"
SECRET = "canary-0123456789-canary"


class Shell:
    """A user's shell: a folder, an environment, the command."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")},
            "DRAWDOWN_DATABASE_URL": url,
            "DRAWDOWN_CELL_SECRET": SECRET,
            "NO_COLOR": "1",
        }
        self.said = ""

    def run(self, *arguments: str, status: int = 0) -> str:
        done = in_process.run(arguments, env=self.environment, cwd=self.folder, timeout_s=120)
        out, err = done.stdout.decode(), done.stderr.decode()
        self.said += out + err
        assert done.returncode == status, f"{arguments}: {out}\n{err}"
        assert "Traceback" not in err
        return out if status in (0, 75) or not err else out + err

    def begin(self) -> None:
        """`init`, on a database that is migrated."""
        migrated(self.url)
        self.run("init")

    def json(self, *arguments: str, status: int = 0) -> Any:
        done = self.run(*arguments, "--json", status=status)
        return json.loads(done.splitlines()[0])

    def samples(self, *rows: str, name: str = "samples.csv") -> str:
        (self.folder / name).write_text(HEADER + "".join(f"{row}\n" for row in rows))
        return name


@pytest.fixture
def shell(tmp_path: Path, database_url: str) -> Shell:
    return Shell(tmp_path, database_url)


@pytest.mark.both_databases
def test_cli_first_hour_commands_bill_and_verify_clean(shell: Shell) -> None:
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
    assert shell.json("status", "--at", "2026-01-01T00:17")["orgs"] == 1
    assert SECRET not in shell.said


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database for whatever is refused: its URL."""
    url = f"sqlite:///{tmp_path_factory.mktemp('unchanged')}/drawdown.db"
    assert run(["--database-url", migrated(url), "init"]) == 0
    return url


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["org", "show", "nobody"], 2, "unknown organisation nobody"),
        (["org", "assign", "acme", "--provider", "acme-pay"], 2, "embedded, lago, legacy, none"),
        (["org", "assign"], 2, "exactly one of organisations"),
        (["org", "assign", "acme", "--from", "2026-01-01T00:07"], 2, "not a window boundary"),
        (["org", "override", "acme"], 2, "--max-concurrent"),
        (["push", "show", "usage:x"], 2, "unknown push usage:x"),
        (["push", "resolve", "usage:x"], 2, "--outcome"),
        (["feature", "map", "Bad-Name", "--memory-mb", "4"], 2, "a-z"),
        (["feature", "map", "x"], 2, "--memory-mb"),
        (["feature", "map", "r1", "--memory-mb", "4"], 2, "Digits alone (12)"),
        (["feature", "map", "300000", "--memory-mb", "4"], 2, "Digits alone (12)"),
        (["tick", "--at", "2124-01-01"], 2, "future"),
        (["feature", "end", "x"], 2, "unknown feature x"),
        (
            ["sample", "withdraw", "x"],
            2,
            "unknown sample x; `drawdown sample list --org ORG --from TIME` lists all",
        ),
        (["event", "show", "app", "x"], 2, "unknown source of events app; `drawdown event sources` lists all"),
        (["ledger", "grant", "acme", "much"], 2, "invalid amount"),
        (["ledger", "grant", "a\x01", "5"], 2, "control characters"),
        (["verify", "--org", "nobody"], 2, "unknown organisation nobody"),
        (["replay", "--all", "--from", "2026-01-02", "--to", "2026-01-01"], 2, "ends before"),
        (["replay", "acme", "--all", "--from", "2026-01-01", "--to", "2026-01-02"], 2, "exactly one of organisations"),
        (["tick", "--shard", "2/2"], 2, "--shard"),
        (["tick", "--new-org-from", "2026-01-01"], 2, "--new-org-provider"),
        (["cell", "set", "c", "ftp://x"], 2, "http(s)"),
        (["nonsense"], 2, "nonsense"),
        (["tick", "--nonsense"], 2, "--nonsense"),
        (["import", "missing.csv"], 2, "missing.csv"),
        (["status", "--at", "last week"], 2, "--at"),
        (["status", "--database-url", "mysql://x/y"], 2, "mysql"),
        (["status", "--database-url", "sqlite:///no-such-file.db"], 1, "drawdown init"),
    ],
)
def test_cli_invalid_argument_is_reported_on_single_line(
    arguments: list[str],
    status: int,
    text: str,
    unchanged: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", unchanged)
    capsys.readouterr()
    assert run(global_options_first(arguments)) == status
    said = capsys.readouterr()
    assert text in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert run(global_options_first([*arguments, "--json"])) == status
    assert json.loads(capsys.readouterr().out)["exit_status"] == status


def test_cli_database_without_tables_names_init(shell: Shell) -> None:
    for command in (["tick"], ["status"], ["verify"], ["import", shell.samples()]):
        assert "drawdown init" in shell.run(*command, status=1)
    findings = shell.json("doctor", status=1)["findings"]
    assert any("drawdown init" in finding["fix"] for finding in findings)


def test_doctor_missing_settings_are_reported_with_fix(shell: Shell) -> None:
    shell.begin()
    shell.run("cell", "set", "cell-1", "http://127.0.0.1:9/", "--new")
    shell.environment |= {"DRAWDOWN_CELL_SECRET": "short", "DRAWDOWN_ADMIN_SECRETS": "short"}
    said = shell.json("doctor", status=1)["findings"]
    fixes = [finding["fix"] for finding in said if not finding["ok"]]
    words = ("ORIGINS", "CELL_SECRET", "ADMIN_SECRETS", "cron")
    assert [word for word in words if not any(word in fix for fix in fixes)] == []
    assert any("no watch runs" in finding["what"] for finding in said if finding["ok"])
    assert any("CRON_SECRET is not set" in finding["what"] for finding in said if finding["ok"])


def test_doctor_short_secrets_and_open_proxy_are_reported(shell: Shell) -> None:
    """One character was taken for the console's proxy, for hooks and for cells that nobody set up yet."""
    shell.begin()

    def wrong() -> str:
        return " ".join(one["what"] + one["fix"] for one in shell.json("doctor", status=1)["findings"] if not one["ok"])

    names = ("CELL_SECRET", "CELL_SECRETS", "HOOK_SECRET", "ADMIN_SECRETS", "CRON_SECRET", "CONSOLE_PROXY_SECRET")
    for name in names:
        said = {"DRAWDOWN_" + name: f"cell-1={'x' * 15}" if name == "CELL_SECRETS" else "x" * 15}
        shell.environment |= said
        assert f"set DRAWDOWN_{name} to 16 characters or more" in wrong(), name
        shell.environment |= {key: f"{text}y" for key, text in said.items()}
        assert f"set DRAWDOWN_{name} to " not in wrong(), name
    shell.environment["DRAWDOWN_TRUSTED_PROXIES"] = "10.0.0.7,*"
    assert "DRAWDOWN_TRUSTED_PROXIES trusts every caller" in wrong()
    shell.environment["DRAWDOWN_TRUSTED_PROXIES"] = "10.0.0.7"
    assert "TRUSTED_PROXIES" not in wrong()


def test_doctor_org_key_with_any_source_is_reported(shell: Shell) -> None:
    shell.begin()
    create = ("key", "create", "tenant", "--scope", "events:write", "--org", "acme", "--new")
    assert "--any-source" in shell.run(*create, status=2)
    shell.run(*create, "--any-source")
    assert any("every source: tenant" in one["what"] for one in shell.json("doctor", status=1)["findings"])


def test_doctor_empty_sandboxes_table_is_reported(shell: Shell) -> None:
    def off() -> list[str]:
        return [one["what"] for one in shell.json("doctor", status=1)["findings"] if one["off"]]

    shell.run("init")
    assert any("`sandboxes` is empty" in what for what in off())
    engine = connect(shell.environment["DRAWDOWN_DATABASE_URL"])
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'acme', 'cell-1', 'running')"
        )
    engine.dispose()
    assert not any("`sandboxes` is empty" in what for what in off())


def test_doctor_features_without_rate_are_reported(shell: Shell) -> None:
    shell.begin()
    shell.run("org", "assign", "acme", "--provider", "autumn", "--customer", "acme", "--new", "--from", "2026-01-01")

    def estimates() -> list[str]:
        return [one["what"] for one in shell.json("doctor", status=1)["findings"] if "no rate at" in one["what"]]

    (said,) = estimates()
    assert "compute_16gb, compute_1gb, compute_32gb and 3 more" in said
    assert "drawdown provider rate autumn compute_16gb --micro N" in said
    for size in (1, 4, 8, 16, 32, 64):
        shell.run("provider", "rate", "autumn", f"compute_{size}gb", "--micro", "1000000")
    assert estimates() == []


def test_cell_secret_is_printed_and_doctor_reports_shared_secret(shell: Shell) -> None:
    shell.begin()
    shell.environment["DRAWDOWN_CELL_ORIGINS"] = "http://127.0.0.1:9"
    shell.run("cell", "set", "cell-1", "http://127.0.0.1:9", "--new")
    own = hmac.new(SECRET.encode(), b"cell:cell-1", "sha256").hexdigest()
    assert shell.run("cell", "secret", "cell-1") == f"{own}\n"
    assert shell.json("cell", "secret", "cell-2", "--new")["secret"] not in (own, SECRET)

    def doctor() -> dict[str, Any]:
        said = shell.json("doctor", status=1)["findings"]
        (found,) = [one for one in said if "signs halts for cell cell-1" in one["what"]]
        return dict(found)

    assert doctor()["ok"] and "shared" not in doctor()["what"]
    shell.environment["DRAWDOWN_CELL_SECRETS"] = "*=secret-of-all-cells"
    assert doctor()["ok"] and "shared" in doctor()["what"]
    shell.environment["DRAWDOWN_CELL_SECRETS"] = "cell-1=secret-of-its-own;*=secret-of-all-cells"
    assert shell.run("cell", "secret", "cell-1") == "secret-of-its-own\n"
    assert doctor()["ok"] and "shared" not in doctor()["what"]
    shell.environment["DRAWDOWN_CELL_SECRETS"] = "cell-1=short"
    assert not doctor()["ok"]
    shell.environment |= {"DRAWDOWN_CELL_SECRET": "", "DRAWDOWN_CELL_SECRETS": ""}
    assert "DRAWDOWN_CELL_SECRET" in shell.run("cell", "secret", "cell-1", status=2)


def test_help_lists_commands(shell: Shell) -> None:
    said = shell.run("--help")
    for command in ("init", "import", "tick", "replay", "verify", "org", "feature", "push", "ledger", "doctor"):
        assert command in said
        assert "Usage" in shell.run(command, "--help")


def test_logs_without_terminal_are_json(shell: Shell) -> None:
    shell.begin()
    shell.run("tick")
    events = [json.loads(line) for line in shell.said.splitlines() if line.startswith('{"')]
    assert {"tick_started", "sealed", "tick_finished"} <= {event["event"] for event in events}


on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where no database matters."""


@on_sqlite
def test_quiet_tick_prints_only_if_not_settled(shell: Shell) -> None:
    shell.begin()
    shell.run("org", "assign", "acme", "--new", "--from", "2026-01-01")
    shell.run("import", shell.samples("s1,acme,box,cell-1,1024,60,2026-01-01T00:01:00Z"))
    shell.said = ""
    shell.run("tick", "--quiet", "--at", "2026-01-01T00:02")
    assert shell.said == ""
    shell.run("provider", "pause", "embedded")
    assert "left: 1 due" in shell.run("tick", "--quiet", "--at", "2026-01-01T00:10", status=75)
    assert "none.db does not exist" in shell.run("tick", "--quiet", "--database-url", "sqlite:///none.db", status=1)


@on_sqlite
def test_long_running_commands_print_how_to_end_them(shell: Shell) -> None:
    shell.begin()
    for command, says in (
        (["watch"], "a watch round every 5 s"),
        (["run", "--every", "60"], "a tick now, and another every 60 s; a watch round every 5 s between them"),
        (["run", "--no-watch"], "a tick now, and another every 300 s; no watch"),
    ):
        with Path(os.devnull).open("wb") as nothing:
            going = fork_server.Started(command, env=shell.environment, cwd=shell.folder, err=nothing)
        first = going.stdout.readline()
        going.send_signal(signal.SIGTERM)
        assert going.wait(300) == 0
        assert first.startswith(says) and first.endswith("SIGTERM or Ctrl-C ends the command\n"), command


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_init_does_not_print_password_of_url_query(shell: Shell) -> None:
    """libpq takes a password there as well."""
    shell.environment["DRAWDOWN_DATABASE_URL"] += f"&password={SECRET}"
    assert "schema" in shell.run("init") and SECRET not in shell.said


@pytest.mark.parametrize("key", ["", " ", " k2", "k2 "])
def test_grant_key_empty_or_with_blanks_is_refused(shell: Shell, key: str) -> None:
    """An empty variable of a script would grant again each time."""
    shell.begin()
    assert "has blanks at its ends" in shell.run("ledger", "grant", "acme", "1", "--new", "--key", key, status=2)
    assert "acme" not in shell.run("audit", "list")


def test_ledger_rate_in_the_past_shows_that_charges_keep_price(shell: Shell) -> None:
    shell.begin()
    rate = ("ledger", "rate", "compute_1gb", "--at", "2026-01-01T02:01:00Z", "--micro-credits")
    past = ("--from", "2026-01-01T00:00:00Z")
    says = "already charged keeps its price"
    assert says not in shell.run(*rate, "5")
    assert says not in shell.run(*rate, "6", "--from", "2026-01-01T02:10:00Z")
    assert says in shell.run(*rate, "7", *past)
    refused = shell.run(*rate, "8", *past, status=1)
    assert "of compute_1gb: a rate from 2026-01-01T00:00:00Z exists. Rates are append-only" in refused
    assert "--from 2026-01-01T02:15:00Z" in refused, "02:05 and 02:10 have theirs"


def test_rate_with_existing_start_is_refused_with_usable_start(shell: Shell) -> None:
    shell.begin()
    rate = ("ledger", "rate", "compute_1gb", "--at", "2026-01-01T02:01:00Z", "--micro-credits")
    tomorrow = ("--from", "2026-01-02")
    shell.run(*rate, "5")
    shell.run(*rate, "900", *tomorrow)
    refused = shell.run(*rate, "9", *tomorrow, status=1)
    assert "Use --from 2026-01-02T00:05:00Z or later" in refused
    assert "earlier usage keeps its rates" in refused
    free = refused.partition("--from ")[2].partition(" ")[0]
    assert shell.json(*rate, "9", "--from", free)["was"]["micro_credits"] == 900
    price = ("provider", "rate", "autumn", "compute_1gb", "--at", "2026-01-01T02:01:00Z", "--micro")
    shell.run(*price, "900", *tomorrow)
    assert "at autumn: a rate from 2026-01-02T00:00:00Z exists" in shell.run(*price, "9", *tomorrow, status=1)


def test_sample_dismiss_undo_without_ids_is_refused(shell: Shell) -> None:
    shell.begin()
    assert "needs the ids of samples" in shell.run("sample", "dismiss", "--why", "bad_id", "--undo", status=2)
