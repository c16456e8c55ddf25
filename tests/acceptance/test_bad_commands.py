"""Hostile command lines: each failure is one clear line and the right exit status; nothing changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.schema.clock import SystemClock
from drawdown.schema.database import read
from tests import fork_server
from tests.acceptance.commands import PROJECT, SCRIPT, drawdown, environment, one_clear_line
from tests.acceptance.tables import number
from tests.whole import share
from tests.world import Fleet

HUGE, RANGE = "9" * 20, ("--from", "2024-01-01", "--to", "2024-01-02")
WRONG: dict[int, list[Sequence[str]]] = {
    2: [
        ("nonsense",), ("--nonsense",), ("tick", "extra"), ("status", "--at"), ("--database-url",),
        *(("tick", "--at", text) for text in ("2024-13-01", "", "0", "1e5", "-5", "soon", "²" * 13, HUGE, "9" * 19)),
        *(("tick", "--at", text) for text in ("253402300800000", "9" * 15)),
        *(("tick", "--shard", text) for text in ("1/0", "1/1", "0/257", "a", "-1/2", "1", "")),
        *(("tick", "--deadline", text) for text in ("-1", "nan", "inf", "1e308", "soon")),
        *(("run", "--every", text) for text in ("0", "-1", "x", HUGE)),
        ("tick", "--new-org-from", "2024-01-01"),
        ("tick", "--new-org-provider", "embedded", "--new-org-from", "2024-01-01T00:01"),
        ("replay",), ("replay", "acme"), ("replay", "acme", "--all", *RANGE), ("replay", "--all"),
        ("replay", "--all", "--from", "2024-01-02", "--to", "2024-01-01"),
        *(("replay", "--all", *RANGE, "--zone", zone) for zone in ("Mars/X", "/etc/passwd", "", "../x")),
        *(("feature", "map", name, "--memory-mb", "5") for name in ("a b", "x'; drop table orgs", "", "A", "x" * 65)),
        ("feature", "map", "x"), ("feature", "map", "x", "--memory-mb", "5", "--rest"),
        *(("feature", "map", "x", "--memory-mb", size) for size in ("-5", "five", "1.5", "16777217", HUGE)),
        ("feature", "map", "x", "--memory-mb", "5", "--unit", "gb"),
        ("feature", "map", "x", "--memory-mb", "5", "--from", "2024-01-01T00:01"),
        *(("ledger", "rate", "x", "--micro-credits", rate) for rate in ("-1", "1.5", "x", HUGE)),
        *(("ledger", "rate", "x", "--micro-credits", "1", "--per", per) for per in ("0", "-1", HUGE)),
        *(("ledger", "grant", "acme", much) for much in ("abc", "nan", "inf", "1e400", "0.0000001", "9" * 5000, "-5")),
        ("plan", "set", "p", "--max-concurrent", "-1"), ("plan", "set", "p", "--max-concurrent", HUGE),
        *((*noun, "list", "--most", most) for noun in (("org",), ("push",)) for most in ("-1", HUGE)),
        ("ledger", "show", "--most", "-1"), ("ledger", "show", "--most", HUGE),
        ("org", "override", "acme"), ("org", "override", "acme", "--clear", "--never-halt"),
        ("org", "override", "acme", "--max-concurrent", "-1"), ("org", "override", "acme", "--max-concurrent", HUGE),
        ("org", "override", "acme", "--never-halt", "--until", "2000-01-01"),
        ("org", "assign"), ("org", "assign", "x", "--unassigned"), ("org", "assign", "a", "b", "--customer", "c"),
        *(("org", "assign", "--", org) for org in ("", "a\tb", "a\nb", "x" * 201, "\udcff")),
        ("push", "retry"), ("push", "void", "k"), ("push", "resolve", "k"),
        ("push", "resolve", "k", "--outcome", "lost"),
        ("sample", "withdraw"), ("sample", "prune"), ("sample", "prune", "--before", "soon"),
        *(("cell", "set", "c", url) for url in ("ftp://x", "x", "http://a:b@c", "http://x:70000", "http://\udcff")),
        *(("hook", "set", "h", url) for url in ("ftp://x", "x", "http://a:b@c", "http://x:70000", "https://x/?y=z")),
        ("hook", "low"), ("hook", "low", "x"), ("hook", "low", "1", "--never"), ("hook", "replay"),
        ("hook", "show", "x"), ("hook", "replay", "--failed"), ("hook", "rotate", "h", "--overlap", "soon"),
        ("hook", "set", "", "https://x"),
        ("tick", "--new-org-provider", "nope"), ("org", "assign", "z", "--provider", "nope"),
        *(("org", verb, "nosuch'") for verb in ("show", "halt", "resume")), ("org", "show", "two\nlines"),
        ("push", "void", "nosuch", "--evidence", "e"), ("sample", "withdraw", "x'); DROP TABLE orgs;--"),
        ("import",), ("import", "-"), ("import", "/nonexistent.csv"), ("import", "/dev/null"),
        ("--database-url", "mysql://x/y", "tick"), ("--database-url", "not a url", "tick"),
        ("--database-url", "postgresql://h:port/x", "tick"), ("--database-url", "sqlite:///x?timeout=y", "tick"),
    ],
    1: [
        ("org", "resume", "acme"),
        ("org", "assign", "acme", "--customer", "wayne", "--new", "--from", "2024-01-02"),
        ("org", "assign", "bolt", "--customer", "acme"),
        ("feature", "map", "other", "--memory-mb", "1024", "--from", "2024-01-01", "--yes", "--new"),
        ("feature", "map", "other", "--memory-mb", "5", "--from", "2024-01-01", "--new"),
        ("--database-url", "sqlite:////nonexistent/x.db", "tick"), ("--database-url", "sqlite:////etc", "tick"),
    ],
    75: [("--database-url", "postgresql://nobody@127.0.0.1:1/x", "tick")],
}  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A database in which a little has happened."""

    url: str
    engine: sa.Engine
    folder: Path

    def content(self) -> dict[str, list[tuple[object, ...]]]:
        tables = sa.inspect(self.engine).get_table_names()
        return {
            name: read(self.engine, lambda c, n=name: sorted(map(tuple, c.execute(sa.text(f'SELECT * FROM "{n}"')))))  # type: ignore[misc]
            for name in tables
            if name not in ("ticks", "seals")
        }


@pytest.fixture
def shop(engine: sa.Engine, database_url: str, tmp_path: Path) -> Shop:
    fleet = Fleet(engine)
    fleet.assign("acme", "bolt", from_ms=1_704_067_200_000)
    fleet.tick(SystemClock().now_ms())
    return Shop(database_url, engine, tmp_path)


def test_invalid_command_lines_report_single_error_and_do_not_change_data(shop: Shop) -> None:
    before, wrong = shop.content(), []
    for expected, commands in WRONG.items():
        for arguments in commands:
            done = drawdown(shop.url, *arguments)
            clear = done.err.startswith("drawdown: ") and done.err.count("\n") == 1 and "Error:" not in done.err
            if done.status != expected or not clear:
                wrong.append((arguments, expected, done))
    assert wrong == []
    assert shop.content() == before


on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where no database matters."""


@on_sqlite
def test_command_error_with_json_is_object_with_exit_status(shop: Shop) -> None:
    for arguments, status in ((("org", "show", "nosuch"), 2), (("tick", "--shard", "9"), 2), (("nonsense",), 2)):
        found = drawdown(shop.url, *arguments, "--json")
        assert found.json["exit_status"] == status == found.status
        assert found.json["error"] in one_clear_line(found, status)


NO_LOG = ("2>/dev/full", "2>&1 >/dev/null | true", "2>&-")


@on_sqlite
def test_tick_with_unwritable_log_succeeds(shop: Shop) -> None:
    """cron's mail is full, the log collector died: usage is metered all the same."""
    every = [(level, shell) for level in ("INFO", "CRITICAL") for shell in NO_LOG]
    for level, shell in share(every[:1], whole=every):
        ticks = number(shop.url, "SELECT COUNT(*) FROM ticks WHERE exit_status = 0")
        status, err = _in_shell(shop, f"tick {shell}", DRAWDOWN_LOG_LEVEL=level)
        assert status == 0, (shell, err[-500:])
        assert number(shop.url, "SELECT COUNT(*) FROM ticks WHERE exit_status = 0") == ticks + 1, shell


NOWHERE = ("| true", ">/dev/full", ">&-")


@on_sqlite
def test_command_with_unwritable_output_keeps_exit_status(shop: Shop) -> None:
    """Else who reads the status grants again."""
    for place, command in enumerate(("ledger grant acme 7 --new", "tick --json", "org list")):
        for shell in share(NOWHERE[place % 3 : place % 3 + 1], whole=NOWHERE):
            status, err = _in_shell(shop, f"{command} {shell}")
            assert status == 0, (command, shell, err)
            assert err.count("could not be written: No space left") == err.count("\n") == (shell == ">/dev/full"), err


@on_sqlite
@pytest.mark.parametrize("command", ["key create k{} --scope guard --quiet", "console user add u{} --role admin"])
def test_secret_that_could_not_be_printed_is_reported_with_next_step(shop: Shop, command: str) -> None:
    for place, shell in enumerate(share(NOWHERE[1:2], whole=NOWHERE)):
        status, err = _in_shell(shop, f"{command.format(place)} {shell}")
        assert (
            status == 1
            and ("the link could not be printed" in err or "that key is lost" in err)
            and "shows another" in err
            and err.count("\n") == 1
        ), err


@on_sqlite
def test_export_to_full_device_fails_as_incomplete(shop: Shop) -> None:
    export = "export ledger --from 2020-01-01"
    assert _in_shell(shop, f"{export} | head -1")[0] == 0
    status, err = _in_shell(shop, f"{export} >/dev/full")
    assert status == 1 and "this file is incomplete" in err and err.count("\n") == 1, err


def _in_shell(shop: Shop, words: str, **env: str) -> tuple[int, str]:
    """By a program that is read anew only where a stream of the interpreter's own is away from its beginning."""
    is_own = ">&-" in words or "2>" in words
    program = SCRIPT if is_own else fork_server.program(shop.folder) / "drawdown"
    shell = ["bash", "-o", "pipefail", "-c", f'"$0" {words}', str(program)]
    done = subprocess.run(shell, env=environment(shop.url, env), cwd=PROJECT, capture_output=True)
    return done.returncode, done.stderr.decode()


@on_sqlite
def test_invalid_settings_are_refused_by_name(shop: Shop) -> None:
    for name, value in (
        ("DRAWDOWN_LOG_LEVEL", "loud"),
        ("DRAWDOWN_CELL_ORIGINS", "cell-1"),
        ("DRAWDOWN_CELL_ORIGINS", "http://cell:99999"),
        ("DRAWDOWN_CELL_NETWORKS", "10.0.0.0/33"),
        ("DRAWDOWN_CELL_NETWORKS", "10.0.0.1/8"),
        ("DRAWDOWN_CELL_SECRETS", "no-equals-sign"),
        ("DRAWDOWN_HOOK_ORIGINS", "https://app.example/in"),
        ("DRAWDOWN_HOOK_NETWORKS", "10.0.0.0/33"),
        ("DRAWDOWN_HOOK_SECRET", "new,,old"),
        ("DRAWDOWN_DATABASE_URL", "drawdown.db"),
    ):
        said = one_clear_line(drawdown(shop.url, "tick", env={name: value}), 2)
        assert name in said or "--database-url" in said


def test_missing_database_is_not_created_by_commands(tmp_path: Path) -> None:
    for command in (("status",), ("tick",), ("verify",), ("import", os.devnull, "--format", "csv")):
        one_clear_line(drawdown(f"sqlite:///{tmp_path}/none.db", *command), 1, 2)
    assert list(tmp_path.iterdir()) == []
