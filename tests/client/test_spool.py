"""The spool by itself: torn lines, full disks, bounds, and other processes."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from drawdown_client import Item, QueueFull
from drawdown_client.spool import MOST_SPOOLS, Spool


def items(*names: str, size: int = 0) -> list[Item]:
    return [Item("events", name, json.dumps({"event_id": name, "x": "x" * size}).encode()) for name in names]


def names(spool: Spool) -> list[str]:
    return [item.item_id for item in spool.left.values()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.spool"


def test_spool_unacknowledged_items_are_read_back_in_order(path: Path) -> None:
    first = Spool(path, 10_000)
    numbers = first.add(items("a", "b", "c", "d"))
    first.acknowledge(numbers[1:3])
    first.close()
    second = Spool(path, 10_000)
    assert names(second) == ["a", "d"] and second.left[1] == items("a")[0]
    second.acknowledge(second.add(items("e")))
    second.close()
    third = Spool(path, 10_000)
    assert names(third) == ["a", "d"]
    third.acknowledge(list(third.left))
    assert path.stat().st_size == 0
    third.close()


def test_spool_file_is_readable_by_owner_only(path: Path) -> None:
    made = Spool(path, 10_000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made.close()


def test_spool_added_items_are_synced_to_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _file: synced.append(path.read_bytes()))
    made = Spool(path, 10_000)
    made.add(items("a", "b"))
    assert synced and synced[-1].count(b"\n") == 2
    made.close()


@pytest.mark.parametrize("cut", range(1, 70, 7))
def test_spool_line_cut_by_crash_is_dropped(path: Path, cut: int) -> None:
    made = Spool(path, 10_000)
    made.add(items("a"))
    made.add(items("b"))
    made.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Spool(path, 10_000)
    assert names(again) == ["a"]
    again.add(items("c"))
    again.close()
    third = Spool(path, 10_000)
    assert names(third) == ["a", "c"]
    third.close()


def test_spool_corrupt_lines_are_skipped(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Spool(path, 10_000)
    made.add(items("a", "b", "c"))
    made.close()
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b'{"done":7}', b"\xff\xfe", b"3", lines[2], b""]))
    again = Spool(path, 10_000)
    assert names(again) == ["a", "c"] and caplog.text.count("cannot be read") == 3
    again.close()


def test_spool_add_on_full_disk_is_rolled_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Spool(path, 10_000)
    made.add(items("a"))
    whole, real, left = path.read_bytes(), os.write, [30]

    def write(file: int, text: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "no space left")
        count, left[0] = min(left[0], len(text)), 0
        return real(file, text[:count])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="no space"):
        made.add(items("b", "c"))
    monkeypatch.undo()
    assert path.read_bytes() == whole
    made.add(items("d"))
    made.close()
    again = Spool(path, 10_000)
    assert names(again) == ["a", "d"]
    again.close()


def test_spool_size_limit_excludes_acknowledged_items(path: Path) -> None:
    made = Spool(path, 2_000)
    first = made.add(items("a", size=800))
    keep = made.add(items("b", size=100))
    with pytest.raises(QueueFull, match="at most 2,000"):
        made.add(items("c", size=1_200))
    made.acknowledge(first)
    made.add(items("c", size=1_200))
    assert path.stat().st_size <= 2_000
    made.close()
    again = Spool(path, 2_000)
    assert names(again) == ["b", "c"] and keep[0] in again.left
    again.close()


def test_spool_of_second_process_has_own_file_and_is_taken_over_once(path: Path) -> None:
    one, two = Spool(path, 10_000), Spool(path, 10_000)
    one.add(items("a"))
    two.add(items("b"))
    assert sorted(place.name for place in path.parent.glob("*.spool*") if place.suffix != ".lock") == [
        "app.spool", "app.spool.1",
    ]  # fmt: skip
    two.close()
    three = Spool(path, 10_000)  # beside the one: it takes the second's place
    assert names(three) == ["b"]
    three.close()
    one.close()
    four = Spool(path, 10_000)
    assert names(four) == ["a", "b"]
    four.close()
    five = Spool(path, 10_000)
    assert names(five) == ["a", "b"], "once"
    five.close()


def test_spool_processes_beyond_limit_are_refused(path: Path) -> None:
    made = [Spool(path, 1_000) for _ in range(MOST_SPOOLS)]
    with pytest.raises(OSError, match="all spools are in use"):
        Spool(path, 1_000)
    for one in made:
        one.close()


@pytest.mark.parametrize("name", ["app.spool", "app.spool.lock", "app.spool.new"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_spool_symbolic_or_hard_link_is_not_followed(path: Path, name: str, link: Callable[[Path, Path], None]) -> None:
    """In a folder that others may write to, too."""
    other = path.with_name("precious")
    other.write_text("nothing of ours")
    other.chmod(0o644)
    link(other, path.with_name(name))
    if name.endswith(".new"):  # it is ours to take away
        made = Spool(path, 2_000)
        first = made.add(items("a", size=1_000))
        made.add(items("b"))
        made.acknowledge(first)
        made.add(items("c", size=1_000))
        made.close()
    else:
        for _ in range(2):  # nor is another place taken, in silence
            with pytest.raises(OSError, match=r"regular file|symbolic links"):
                Spool(path, 10_000)
    assert other.read_text() == "nothing of ours" and stat.S_IMODE(other.stat().st_mode) == 0o644


def test_spool_that_is_not_regular_file_is_refused(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(PermissionError, match="regular file"):
        Spool(path, 10_000)


def test_spool_neighbour_link_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = path.with_name("precious")
    other.write_text("nothing of ours")
    path.with_name("app.spool.7").symlink_to(other)
    made = Spool(path, 10_000)
    assert made.left == {} and other.read_text() == "nothing of ours"
    assert f"cannot take over the spool {path.with_name('app.spool.7')}" in caplog.text
    made.close()


def test_spool_file_with_open_permissions_is_restricted(path: Path) -> None:
    path.touch(0o644)
    Spool(path, 10_000).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_spool_acknowledge_on_full_disk_does_not_lose_later_items(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Spool(path, 10_000)
    done = made.add(items("a"))
    made.add(items("b"))
    real, left = os.write, [9]

    def write(file: int, text: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "no space left")
        count, left[0] = min(left[0], len(text)), 0
        return real(file, text[:count])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="no space"):
        made.acknowledge(done)
    monkeypatch.undo()
    made.add(items("c"))
    made.close()
    again = Spool(path, 10_000)
    assert names(again) == ["a", "b", "c"]
    again.close()


def test_spool_compaction_on_full_disk_removes_second_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Spool(path, 2_000)
    first = made.add(items("a", size=1_000))
    made.add(items("b"))
    made.acknowledge(first)
    files = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "write", Mock(side_effect=OSError(errno.ENOSPC, "no space left")))
    with pytest.raises(OSError, match="no space"):
        made.add(items("c", size=1_000))
    monkeypatch.undo()
    assert len(list(Path("/proc/self/fd").iterdir())) == files and not path.with_name("app.spool.new").exists()
    made.add(items("d", size=1_000))
    made.close()
    again = Spool(path, 2_000)
    assert names(again) == ["b", "d"]
    again.close()


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"number":1000000000000000000,"kind":"events","id":"x","item":"{}"}\n{"done":[1,1000000000000000000]}',
        b'{"number":1e400,"kind":"events","id":"x","item":"{}"}',
        b'{"number":9,"kind":"../admin","id":"x","item":"{}"}',
        b'{"number":9,"kind":"events","id":["x"],"item":"{}"}',
        b'{"done":[-1000000000000000000,0]}',
        b'{"number":9,"kind":"events","id":"x","item":"{\\"a\\":1},{\\"b\\":2}"}',
        b'{"number":9,"kind":"events","id":"x","item":"]"}',
        b'{"number":9,"kind":"events","id":"x","item":"[]"}',
        b'{"number":9,"kind":"events","id":"x","item":"' + b"[" * 100_000 + b'"}',
    ],
)
def test_spool_hostile_line_is_skipped_at_start(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    made = Spool(path, 10_000)
    assert made.left == {}
    made.close()
