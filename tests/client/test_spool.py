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


def test_what_is_not_acknowledged_is_read_again_in_order_and_alone(path: Path) -> None:
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


def test_only_the_owner_may_read_it(path: Path) -> None:
    made = Spool(path, 10_000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made.close()


def test_what_was_added_has_reached_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _file: synced.append(path.read_bytes()))
    made = Spool(path, 10_000)
    made.add(items("a", "b"))
    assert synced and synced[-1].count(b"\n") == 2
    made.close()


@pytest.mark.parametrize("cut", range(1, 70, 7))
def test_a_line_that_a_crash_cut_is_dropped_and_the_next_one_is_whole(path: Path, cut: int) -> None:
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


def test_a_line_that_a_disk_spoilt_costs_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Spool(path, 10_000)
    made.add(items("a", "b", "c"))
    made.close()
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b'{"done":7}', b"\xff\xfe", b"3", lines[2], b""]))
    again = Spool(path, 10_000)
    assert names(again) == ["a", "c"] and caplog.text.count("cannot be read") == 3
    again.close()


def test_a_disk_that_is_full_records_nothing_and_leaves_no_half(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_it_has_a_bound_which_what_is_done_does_not_count_for(path: Path) -> None:
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


def test_two_at_once_have_a_file_each_and_what_one_left_is_taken_over_once(path: Path) -> None:
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


def test_so_many_processes_share_a_name_and_no_more(path: Path) -> None:
    made = [Spool(path, 1_000) for _ in range(MOST_SPOOLS)]
    with pytest.raises(OSError, match="all spools are in use"):
        Spool(path, 1_000)
    for one in made:
        one.close()


@pytest.mark.parametrize("name", ["app.spool", "app.spool.lock", "app.spool.new"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_that_somebody_put_there_is_not_followed(
    path: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
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


def test_what_is_no_file_is_no_spool(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(PermissionError, match="regular file"):
        Spool(path, 10_000)


def test_a_link_beside_it_is_passed_over(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = path.with_name("precious")
    other.write_text("nothing of ours")
    path.with_name("app.spool.7").symlink_to(other)
    made = Spool(path, 10_000)
    assert (
        made.left == {} and other.read_text() == "nothing of ours" and "app.spool.7 was not taken over" in caplog.text
    )
    made.close()


def test_what_others_could_read_they_can_no_more(path: Path) -> None:
    path.touch(0o644)
    Spool(path, 10_000).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_is_full_when_items_are_done_costs_none_that_follows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_disk_that_is_full_leaves_no_second_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_no_spoilt_line_hangs_or_ends_a_start(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    made = Spool(path, 10_000)
    assert made.left == {}
    made.close()
