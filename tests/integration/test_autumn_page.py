"""The commands of docs/autumn.md, run against an emulated Autumn that begins as an empty account.

Guarantee: the page's own lines run, in order, and each line of output that it shows is printed, in order. Time is the
page's: `date`, `sleep` and `drawdown` follow one clock, which is the emulator's, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from drawdown.providers.autumn import CHANGES
from drawdown.schema.units import SECOND_MS
from drawdown.worker.reconcile import balances
from tests import fork_server
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import serving_in_thread

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "autumn.md").read_text(encoding="utf-8")
BEGIN_S: Final = 1_772_452_800
"""2026-03-02T12:00:00Z, which the page's output shows."""
MOST_WORDS: Final = 600
CLOCK: Final = """
at() { command date -u -d "@$1" +%FT%TZ 2>/dev/null || command date -u -r "$1" +%FT%TZ; }
sleep() { echo $(($(cat now) + $1)) > now; }
date() { at $(($(cat now) - 60 * ${3%% minutes ago})); }
drawdown() { command drawdown --at "$(at "$(cat now)")" "$@"; }
"""


@dataclass
class FileClock:
    """The time that the page's session has come to."""

    file: Path
    trusted: bool = True

    def now_ms(self) -> int:
        return int(self.file.read_text()) * SECOND_MS


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, flags=re.DOTALL)


def session(folder: Path, account: AutumnEmulator) -> str:
    """What the page's commands print."""
    now = folder / "now"
    now.write_text(f"{BEGIN_S}\n")
    (folder / "bin").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")}
    environment["PATH"] = f"{fork_server.program(folder / 'bin')}{os.pathsep}{environment['PATH']}"
    environment |= {"PYTHON": sys.executable, "AUTUMN_KEY": account.secret_key}
    with serving_in_thread(account, FileClock(now)) as url:
        environment["AUTUMN_URL"] = url
        script = "set -e\n" + CLOCK + "\n".join(blocks("bash"))
        done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def missing(shown: list[str], printed: list[str]) -> str | None:
    """The first line that is not printed after the ones before it; None: each is."""
    rest = iter(printed)
    return next((line for line in shown if not any(line == other for other in rest)), None)


def lines(text: str) -> list[str]:
    """Lines without the widths of their columns."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_page_commands_print_the_shown_output(tmp_path: Path) -> None:
    account = AutumnEmulator()
    printed = lines(session(tmp_path, account))
    assert missing(lines("".join(blocks("text"))), printed) is None
    assert sum(account.charged_by().values()) == 3600 + 1800
    assert not account.doubles and not account.lost


def test_missing_finds_a_line_out_of_order() -> None:
    assert missing(["a", "b"], ["x", "a", "b"]) is None
    assert missing(["b", "a"], ["a", "b"]) == "a"


def test_each_shown_block_follows_commands() -> None:
    kinds = re.findall(r"^```(\w+)$", PAGE, flags=re.MULTILINE)
    assert kinds.count("bash") == kinds.count("text") == 7
    assert all(before == "bash" for before, kind in pairwise(kinds) if kind == "text")


def test_tables_quote_the_notes_of_reconcile() -> None:
    """What heals by itself stands on the page of Autumn, the rest on the page for the engineer on call."""
    on_call = (ROOT / "docs" / "on-call.md").read_text(encoding="utf-8")
    on_call = on_call[on_call.index("## Balances that differ") :].partition("\n## ")[0]
    for page, notes in (
        (PAGE, (balances.LOST, balances.AGAIN)),
        (on_call, (balances.LESS, balances.MORE, balances.AGREES)),
    ):
        rows = re.findall(r"^\| `([^`]+)` \| ", page, flags=re.MULTILINE)
        assert [note for note in notes if not any(quoted in note for quoted in rows)] == []
    assert "uncertain by up to" in on_call and "uncertain by up to" in balances.UNSURE


def test_page_webhooks_match_handled_types() -> None:
    named = set(re.findall(r"`((?:billing|balances)\.[a-z_]+)`", PAGE.split("2. Select ")[1].split("3. Copy")[0]))
    assert named == {kind for kind in CHANGES if kind.startswith(("billing.", "balances."))} and named


def test_page_prose_is_at_most_600_words() -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    assert len(prose.split()) <= MOST_WORDS
