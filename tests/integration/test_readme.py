"""The commands that the README and docs/ show, run as they show them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import walk
from drawdown.schema.errors import MEANINGS
from tests import in_process, shell

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ORDER = ("tutorial", "samples", "providers", "operate", "on-call", "guard", "credits")
DOCS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
TEXT = README + "".join(text for name, text in DOCS.items() if name != "history")  # it has the names of the time


def blocks() -> list[str]:
    """The shell blocks, in order: they are one session, begun by the README."""
    text = README + "".join(DOCS[name] for name in ORDER)
    assert text.count("```sh\n") == TEXT.count("```sh\n"), "each page with such blocks stands in the order"
    return re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)


def without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")}


def test_tutorial_shell_blocks_succeed_and_print_shown_output(tmp_path: Path) -> None:
    done = shell.run("set -e\n" + "\n".join(blocks()), cwd=tmp_path, env=without_settings())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "all invariants hold" in done.stdout
    said = {" ".join(line.split()) for line in done.stdout.splitlines()}
    shown = re.findall(r"```text\n(.*?)```", DOCS["tutorial"], flags=re.DOTALL)
    assert [line for line in "".join(shown).splitlines() if " ".join(line.split()) not in said] == []


def test_docs_named_commands_exist() -> None:
    tree = {path for path, _ in walk(get_command(app))}
    nouns = {path[0] for path in tree if len(path) > 1}
    named = {tuple(words.split()) for words in re.findall(r"`drawdown ([a-z]+(?: [a-z-]+)?)", TEXT)}
    # A command without verbs takes its second word as an argument.
    named = {words if words[0] in nouns else words[:1] for words in named}
    assert len(named) > 50
    assert sorted(named - tree) == []


def test_docs_table_of_exit_statuses_equals_meanings() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", TEXT, flags=re.MULTILINE))
    assert rows == {str(int(status)): meaning for status, meaning in MEANINGS.items()}


def test_docs_named_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^ +)make ([a-z]+)", TEXT, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
def test_makefile_options_differ_from_built_in_make_variables() -> None:
    """AS is the assembler: whoever asked for nothing would be asked for by it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    given = subprocess.run(
        ["make", "-pnf", os.devnull], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    ours, its = set(re.findall(r"\$\(if \$\((\w+)\)", makefile)), re.findall(r"^(\w+) = ", given.stdout, re.MULTILINE)
    assert ours and "CC" in its and ours.isdisjoint(its)


def test_readme_has_at_most_110_lines() -> None:
    assert len(README.splitlines()) <= 110


def test_docs_relative_links_exist() -> None:
    pages = [ROOT / page for page in ("README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in DOCS))]
    links = re.compile(r"\]\((?!https?:|#)([^)#]+)")
    dead = [
        f"{page.name}: {target}"
        for page in pages
        for target in links.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert dead == []


def test_demo_output_shows_proof_and_copied_database_verifies(tmp_path: Path) -> None:
    done = in_process.run(["demo"], cwd=tmp_path, env=without_settings(), timeout_s=300)
    assert done.returncode == 0, done.stderr
    for said in (
        "initech",
        "signature verified",
        "compute_4gb:r1",
        "0 pushes",
        "all hold",
        "drawdown-demo.db",
        "drawdown demo --serve",
    ):
        assert said in done.stdout.decode()
    copied = shutil.copy(tmp_path / "drawdown-demo.db", tmp_path / "copied.db")
    url = f"sqlite:///{copied}"
    verified = in_process.run(["verify", "--database-url", url], cwd=tmp_path, env=without_settings(), timeout_s=300)
    assert verified.returncode == 0, verified.stdout
