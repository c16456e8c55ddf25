"""A file that is no text is said to be none: not by Python's words, and not by its content."""

from __future__ import annotations

from pathlib import Path

import pytest

from drawdown.cli.main import run
from tests.sqlite_databases import migrated

RAW = bytes(range(128, 256))


def test_binary_input_file_is_rejected_as_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_QUERY_X_URL", "sqlite:///x.db")
    url = f"sqlite:///{tmp_path}/drawdown.db"
    for name in ("raw.csv", "raw.jsonl"):
        Path(name).write_bytes(RAW)
    run(["--database-url", migrated(url), "init"])
    capsys.readouterr()
    for words, said in (
        (("import", "raw.csv"), "line 1 is not a CSV header (the row is not UTF-8)"),
        (("batch", "take", "raw.csv"), "raw.csv: cannot be read: line 1 is not UTF-8 text"),
        (("batch", "take", "raw.jsonl"), "raw.jsonl: cannot be read: line 1 is not UTF-8 text"),
        (
            ("org", "assign", "--file", "raw.csv", "--provider", "embedded"),
            "raw.csv cannot be read: it is not UTF-8 text",
        ),
        (("org", "assign", "--file", "none.csv"), "none.csv cannot be read: No such file or directory"),
        (
            ("source", "add", "q", "--query", "raw.csv", "--database", "x"),
            "raw.csv cannot be read: it is not UTF-8 text",
        ),
        (("parity", "check", "raw.csv"), "raw.csv: the file is not UTF-8 at byte 0"),
        (("vendor", "import", "raw.csv"), "raw.csv, line 1: it is not UTF-8 text"),
    ):
        assert run(["--database-url", url, *words]) in (1, 2)
        err = capsys.readouterr().err
        assert said in err and "codec" not in err and "Original Line" not in err, err
