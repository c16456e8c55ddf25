"""A file's lines end, whatever it unpacks to, and an error says nothing that is true of samples alone."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from drawdown.cli.declared import read_orgs
from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.worker.sources.samples.importer import MAX_BLANK_BYTES, MAX_PASSED_OVER_BYTES, NumberedLines
from tests.cases import cases
from tests.whole import share

BLANK = {"short": b"\r" * 63 + b"\n", "cr": b"\r" * 60_000 + b"\n", "lf": b"\n", "crlf": b"\r\n"}
TIMES, MORE_BYTES = share((2, 200_000), whole=(3, 20_000_000))
"""As many blank lines as may follow one another, so often, and more of them. The whole has a million each time."""


@cases("name", share(list(BLANK)[:2], whole=list(BLANK)))
def test_file_blank_lines_above_limit_are_refused(name: str) -> None:
    blank = BLANK[name]
    room = MAX_BLANK_BYTES // len(blank)
    packed = gzip.compress((b"x\n" + blank * room) * TIMES + blank * (room + MORE_BYTES // len(blank)), 1)
    lines = NumberedLines("-", io.BytesIO(packed))
    with pytest.raises(DrawdownError, match="more than 1 MiB of blank lines") as told:
        list(lines)
    assert "not a file of samples or events, because it has" in str(told.value)
    assert lines._number == TIMES + room * TIMES + 1
    whole = NumberedLines("-", io.BytesIO((b"x\n" + blank * room) * TIMES))
    assert [raw for _, raw in whole if raw == b"x\n"] == [b"x\n"] * TIMES


def test_file_error_suggests_to_import_all_rows() -> None:
    """It may be of events that are staged."""
    for data in (b"\0" * (MAX_PASSED_OVER_BYTES + (2 << 20)), gzip.compress(b"x\n" * 99)[:-9]):
        with pytest.raises(DrawdownError, match="import all of it again, because each row counts once"):
            list(NumberedLines("-", io.BytesIO(data)))


def test_org_file_with_missing_id_is_refused_with_line(tmp_path: Path) -> None:
    file = tmp_path / "orgs.csv"
    for text, fault in {
        "org_id,note\nacme,x\n ,y\n": "orgs.csv, line 3: missing org_id. Add it",
        "org_id\n": "orgs.csv: the file does not name an organisation",
        "org\nacme\n": "orgs.csv: missing column org_id in the first line",
    }.items():
        file.write_text(text)
        with pytest.raises(UsageError, match=fault):
            read_orgs(file)
    file.write_text("org_id\nacme\nglobex\nacme\n")
    assert read_orgs(file) == ["acme", "globex"]
