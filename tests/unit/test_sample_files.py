"""Whatever bytes a file holds, every line that is not blank is in exactly one record, under its own number."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.worker.sources.samples.importer import (
    MAX_LINE_BYTES,
    MAX_PASSED_OVER_BYTES,
    NumberedLines,
    format_of,
    open_lines,
    prefix_of,
    read_records,
)
from drawdown.worker.sources.samples.rows import BadRow, ImportOptions
from tests.cases import cases
from tests.unit.reading import HEADER, NOW, changed, outcomes, records, row


def test_csv_rows_have_line_numbers_of_file() -> None:
    data = HEADER + row(2) + "\n" + "\r\n" + row(5) + row(6).rstrip("\n")
    assert outcomes(data) == {2: "s2", 5: "s5", 6: "s6"}


def test_csv_byte_order_mark_and_crlf_are_ignored() -> None:
    data = "\ufeff" + (HEADER + row(2) + row(3)).replace("\n", "\r\n")
    assert outcomes(data) == {2: "s2", 3: "s3"}


def test_csv_unicode_line_separators_do_not_end_line() -> None:
    assert outcomes(HEADER + row(2, prompt="a\u2028b\x0bc\x0cd\u0085e") + row(3)) == {2: "s2", 3: "s3"}


def test_csv_quoted_field_may_contain_commas_quotes_and_line_breaks() -> None:
    data = HEADER + row(2, '"a,""b"""') + row(3, prompt='"one\ntwo, ""three""\r\n\nfour"') + row(7)
    found = records(data)
    assert [(line, outcome[0]) for line, _, outcome in found if not isinstance(outcome, BadRow)] == [
        (2, "s2"),
        (3, "s3"),
        (7, "s7"),
    ]
    assert found[0][2][1] == 'a,"b"'  # type: ignore[index]


def test_csv_row_not_in_utf8_is_rejected_alone() -> None:
    data = (HEADER + row(2)).encode() + row(3, "caf\xe9").encode("latin-1") + row(4, "café").encode()
    assert outcomes(data) == {2: "s2", 3: "not_utf8", 4: "s4"}


@cases(
    ("broken", "reason"),
    [
        (row(3, '"ac"me'), "csv_syntax"),
        ("s3,acme\n", "too_few_columns"),
        (row(3, prompt="a,b"), "too_many_columns"),
        (row(3, "a\rb"), "bad_org_id"),
        (row(3, "a\x00b"), "bad_org_id"),
        (row(3, '""'), "bad_org_id"),
    ],
)
@cases("later", ["hi", '"quoted"', '"two\nlines"'])
def test_csv_broken_row_does_not_reject_neighbours(broken: str, reason: str, later: str) -> None:
    data = HEADER + row(2) + broken + row(4) + row(5, prompt=later) + row(6)
    found = outcomes(data)
    last = 7 if "\n" in later else 6
    assert found == {2: "s2", 3: reason, 4: "s4", 5: "s5", last: "s6"}


def test_csv_text_inside_rejected_field_is_not_read_as_sample() -> None:
    """Whoever writes a prompt must not be able to bill another organisation."""
    evil = row(9, "victim").rstrip("\n")
    for prompt in (
        f'"hi\n{evil}\nbye",more',
        f'"hi\n{evil}\nbye"x',
        f'"hi\n{evil}\n',
        '"' + f"hi\n{evil}\n" * 300 + '"',
    ):
        found = outcomes(HEADER + row(2) + row(3, prompt=prompt) + (row(1) if prompt.endswith('"') else ""))
        assert found[2] == "s2"
        assert found[3] == "csv_syntax"
        assert "s9" not in found.values()
    spoiled = (HEADER + row(3, prompt=f'"hi\n{evil}\n#"') + row(6)).encode().replace(b"#", b"\xff")
    assert outcomes(spoiled) == {2: "not_utf8", 5: "s6"}


def test_csv_open_quote_rejects_each_following_line() -> None:
    data = HEADER + row(2, '"acme') + "".join(row(n) for n in range(3, 600)) + row(600, 'acme"') + row(601)
    found = outcomes(data)
    assert found[601] == "s601"
    assert set(found.values()) == {"csv_syntax", "s601"}
    assert found[600] == "csv_syntax"


def test_line_above_limit_is_rejected_with_bounded_memory() -> None:
    huge = b"x" * (3 * MAX_LINE_BYTES + 17)
    data = HEADER.encode() + row(2).encode() + huge + b"\n" + row(4).encode() + huge
    assert outcomes(data) == {2: "s2", 3: "line_too_long", 4: "s4", 5: "line_too_long"}
    assert max(len(raw) for _, raw, _ in records(data)) == MAX_LINE_BYTES + 1


@cases("extra", [-1, 0, 1])
def test_line_at_limit_is_accepted(extra: int) -> None:
    start = row(2, prompt="")[:-1]
    line = start + "p" * (MAX_LINE_BYTES - len(start) - 1 + extra) + "\n"
    assert outcomes(HEADER + line + row(3)) == {2: "line_too_long" if extra > 0 else "s2", 3: "s3"}


@cases("packed", [gzip.compress, lambda data: gzip.compress(data[:99]) + gzip.compress(data[99:])])
def test_gzip_file_is_detected_by_content(tmp_path: Path, packed: object) -> None:
    file = tmp_path / "u.csv"  # the name says nothing of it
    file.write_bytes(packed((HEADER + row(2) + row(3)).encode()))  # type: ignore[operator]
    with open_lines(str(file)) as lines:
        assert [line for line, _, _ in read_records(lines, ImportOptions(), NOW)] == [2, 3]
        assert lines.bytes_read == file.stat().st_size


@cases("damage", [lambda data: data[:-20], lambda data: data[:40] + b"\xff" * 40 + data[80:]])
def test_gzip_damaged_file_error_names_line(tmp_path: Path, damage: object) -> None:
    file = tmp_path / "u.csv.gz"
    whole = gzip.compress((HEADER + "".join(row(n, f"org{n * 7919}") for n in range(2, 9000))).encode())
    file.write_bytes(damage(whole))  # type: ignore[operator]
    with pytest.raises(DrawdownError, match="cannot be read beyond line"), open_lines(str(file)) as lines:
        list(read_records(lines, ImportOptions(), NOW))


@cases(
    ("data", "said"),
    [
        ("", "is empty"),
        ("\ufeff", "is empty"),
        ("\n\r\n", "only blank lines"),
        ("id,org_id\n", "missing column 'sandbox_id'"),
        ("id,org_id,id\n", "the header repeats 'id'"),
        ('id,"org_id\n', "line 1 is not a CSV header"),
        (HEADER.encode("utf-16"), "line 1 is not a CSV header (the row is not UTF-8)"),
        (b"\x1f\x8b" + b"\0" * 30, "cannot be read"),
    ],
)
def test_file_without_usable_header_is_refused(data: bytes | str, said: str) -> None:
    with pytest.raises(DrawdownError) as wrong:
        records(data)
    assert said in str(wrong.value)
    assert str(wrong.value).startswith(("u.csv: ", "-: "))


@cases("name", ["nothing.csv", ".", "a\0b.csv"])
def test_file_that_cannot_be_opened_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="Name a file that Drawdown can read"), open_lines(f"{tmp_path}/{name}"):
        pass


@cases(
    ("name", "kind", "prefix"),
    [
        ("a/usage.csv", "csv", "usage"),
        ("usage.CSV.GZ", "csv", "usage"),
        ("2024.11.jsonl", "jsonl", "2024.11"),
        ("x.ndjson.gz", "jsonl", "x"),
    ],
)
def test_file_format_and_id_prefix_follow_from_name(name: str, kind: str, prefix: str) -> None:
    assert format_of(name, ImportOptions()) == kind
    assert prefix_of(name, ImportOptions(id_from_line=True)) == prefix
    assert prefix_of(name, ImportOptions()) is None


def test_file_name_without_format_or_prefix_requires_option() -> None:
    for name in ("usage.txt", "-", "usage"):
        with pytest.raises(UsageError, match="--format"):
            format_of(name, ImportOptions())
        assert format_of(name, ImportOptions(format="csv")) == "csv"
    assert prefix_of("a/usage.2024", ImportOptions(id_from_line=True)) == "usage.2024"
    with pytest.raises(UsageError, match="--id-prefix"):
        prefix_of("-", ImportOptions(id_from_line=True))
    with pytest.raises(UsageError, match="--id-prefix"):
        prefix_of("-", ImportOptions(id_from_line=True, id_prefix="a\nb"))


@cases("name", ["event.csv", "run.csv.gz", "batch.jsonl", "run:x.csv", "event:x.csv"])
def test_import_id_prefix_that_is_reserved_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Choose another"):
        prefix_of(name, ImportOptions(id_from_line=True))
    assert prefix_of(name, ImportOptions(id_from_line=True, id_prefix="events")) == "events"


class _Slow(io.RawIOBase):
    """A pipe that gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        byte = self._data.read(1)
        buffer[: len(byte)] = byte
        return len(byte)


def test_gzip_from_slow_pipe_is_detected() -> None:
    pipe = io.BufferedReader(_Slow(gzip.compress((HEADER + row(2)).encode())))
    with open_lines("-", pipe) as lines:
        assert [line for line, _, _ in read_records(lines, ImportOptions(format="csv"), NOW)] == [2]


PIECES = st.sampled_from(
    [
        b'"',
        b'""',
        b",",
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xff",
        b"x",
        b'","',
        row(1).encode(),
        row(2, '"a').encode(),
        changed().encode() + b"\n",
        b"{",
        b"}",
        b"[" * 50,
        b"\xef\xbb\xbf",
        b"\x1f\x8b",
    ]
)


@settings(max_examples=300)
@given(
    st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=60).map(b"".join)), st.sampled_from(["csv", "jsonl"])
)
@example(b'"\n' * 50, "csv")
@example(b'x","y\n' * 50, "csv")
def test_random_bytes_lines_are_each_in_a_single_record(garbage: bytes, kind: str) -> None:
    data = (HEADER.encode() if kind == "csv" else changed().encode() + b"\n") + garbage
    found = records(data, f"u.{kind}")
    lines = re.findall(rb"[^\n]*\n|[^\n]+", data)
    covered: list[int] = []
    for line, raw, _ in found:
        span = range(line, line + raw.count(b"\n") + (not raw.endswith(b"\n")))
        assert raw == b"".join(lines[n - 1] for n in span), "a record is what stands on its lines"
        covered.extend(span)
    assert covered == sorted(set(covered)), "no line twice, none out of order"
    missing = set(range(2 if kind == "csv" else 1, len(lines) + 1)) - set(covered)
    assert not any(lines[n - 1].strip(b"\r\n") for n in missing), "only blank lines are left out"


def test_lines_put_back_are_read_in_order() -> None:
    lines = NumberedLines("-", io.BytesIO(b"a\nb\nc\n"))
    first, second = next(lines), next(lines)
    lines.put_back([first, second])
    assert list(lines) == [(1, b"a\n"), (2, b"b\n"), (3, b"c\n")]


class Endless(io.RawIOBase):
    """What a device or a pipe may give: the same for ever."""

    def __init__(self, text: bytes) -> None:
        self.text, self.given = text, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), len(self.text))
        buffer[:size] = self.text[:size]
        self.given += size
        assert self.given < 4 * MAX_PASSED_OVER_BYTES, "it is read for ever"
        return size


def test_line_without_end_stops_import() -> None:
    endless = Endless(b"\0" * 65_536)
    with pytest.raises(DrawdownError, match="line 1 does not end"):
        list(NumberedLines("/dev/zero", cast(BinaryIO, endless)))
    assert endless.given < 2 * MAX_PASSED_OVER_BYTES


def test_file_above_line_limit_stops_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.worker.sources.samples.importer.MAX_FILE_LINES", 1_000)
    with pytest.raises(DrawdownError, match="more than 1,000 lines"):
        list(NumberedLines("-", cast(BinaryIO, Endless(b"y\n" * 100))))
