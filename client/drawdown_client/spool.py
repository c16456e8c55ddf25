"""Store items in a file until they are acknowledged.

The file has JSON lines: a line for each item, and a line for each range of acknowledged numbers.

Guarantee: when `add` returns, its items are on disk. The next start of the client reads the items that were not
acknowledged. An item that was acknowledged just before a crash may be read again, but the server recognises its id. A
rejected item leaves the spool only after it is in the dead-letter file (`app.spool.dead`), with the reason. Each
process locks a separate file (`app.spool`, `app.spool.1`, …), and takes over the files of ended processes. The spool
drops a line that a crash cut short, because `add` had not returned for this line.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from drawdown_client.errors import QueueFull
from drawdown_client.items import Item, Result

MOST_SPOOLS: Final = 64
"""Processes that can use the same spool path at the same time."""
_MODE: Final = 0o600

log = logging.getLogger("drawdown_client")


class Spool:
    """A file of unacknowledged items, which is not thread-safe.

    `left`: items of an earlier start, by number. Errors: OSError if the disk fails, or if other processes use all
    MOST_SPOOLS files.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._dead_letter = dead_letter_of(path)
        places = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, MOST_SPOOLS))]
        owned = next(_free(places), None)
        if owned is None:
            raise OSError(
                f"all spools are in use: other processes use {path} and the {MOST_SPOOLS - 1} files beside it. Choose "
                "another path"
            )
        self._path, self._lock = owned
        try:
            self._file = _open(self._path, os.O_APPEND | os.O_CREAT)
        except OSError:
            os.close(self._lock)
            raise
        self.left = dict(_read(self._file))
        self._lengths = {number: len(_line(number, item)) for number, item in self.left.items()}
        self._last = max(self.left, default=0)
        for other in [place for place in places if place != self._path and place.exists()]:
            self._adopt(other)

    def add(self, items: Sequence[Item]) -> list[int]:
        """Write items to disk, and return their numbers.

        Errors: QueueFull, OSError. After an error, the items are not in the spool.
        """
        numbers = list(range(self._last + 1, self._last + 1 + len(items)))
        lines = [_line(number, item) for number, item in zip(numbers, items, strict=True)]
        self._make_room(sum(map(len, lines)))
        self._append(b"".join(lines), is_kept=True)
        self._last += len(items)
        self._lengths.update(zip(numbers, map(len, lines), strict=True))
        return numbers

    def acknowledge(self, numbers: Sequence[int]) -> None:
        """Mark items as acknowledged. `numbers`: their numbers, in ascending order.

        The mark may reach the disk later.
        """
        for number in numbers:
            self._lengths.pop(number, None)
        if not self._lengths:
            os.ftruncate(self._file, 0)
        elif numbers:
            ranges = b"".join(b'{"done":[%d,%d]}\n' % found for found in _ranges(numbers))
            self._append(ranges, is_kept=False)

    def bury(self, items: Sequence[tuple[Item, Result]]) -> None:
        """Write rejected items to the dead-letter file.

        Errors: QueueFull if the file would exceed the size limit of the spool; OSError.
        """
        file = _open(self._dead_letter, os.O_APPEND | os.O_CREAT)
        try:
            lines = b"".join(_dead_line(item, result) for item, result in items)
            if os.fstat(file).st_size + len(lines) > self._most_bytes:
                raise QueueFull(
                    f"{self._dead_letter} is full: at most {self._most_bytes:,} bytes are allowed. Move the file"
                )
            _write(file, lines)
            os.fsync(file)
        finally:
            os.close(file)

    def settle(self, batch: Sequence[tuple[int, Item]], found: Sequence[Result]) -> None:
        """Write rejected items to the dead-letter file, and acknowledge the batch.

        If the method cannot write the dead-letter file, the spool keeps the rejected items. The method logs an error of
        the disk.
        """
        numbers = {number for number, _ in batch}
        rejected = [(number, item, one) for (number, item), one in zip(batch, found, strict=True) if not one.is_kept]
        try:
            if rejected:
                self.bury([(item, one) for _, item, one in rejected])
        except (OSError, QueueFull) as error:
            log.error("cannot write the dead-letter file, so the spool keeps its items (%d): %s", len(rejected), error)
            numbers -= {number for number, _, _ in rejected}
        try:
            self.acknowledge(sorted(numbers))
        except OSError as error:
            log.error(
                "cannot write the spool, so the next start will send its items again (%d): %s", len(numbers), error
            )

    def _append(self, lines: bytes, *, is_kept: bool) -> None:
        """Append all lines, or none of them.

        Lines after an incomplete line would be lost with that line.
        """
        size = os.fstat(self._file).st_size
        try:
            _write(self._file, lines)
            if is_kept:
                os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise

    def close(self) -> None:
        """Close the files, so that another process can take them over.

        After a fork, the files of the parent process stay open.
        """
        os.close(self._file)
        os.close(self._lock)

    def _make_room(self, more: int) -> None:
        if os.fstat(self._file).st_size + more <= self._most_bytes:
            return
        if sum(self._lengths.values()) + more > self._most_bytes:
            raise QueueFull(
                f"the spool is full: at most {self._most_bytes:,} unacknowledged bytes are allowed. Try again later, "
                "or drop the item"
            )
        self._compact()

    def _compact(self) -> None:
        """Rewrite the file without acknowledged items.

        After a crash, the file is either the old file or the new file.
        """
        new = self._path.with_name(f"{self._path.name}.new")
        new.unlink(missing_ok=True)  # left by a process that ended, because only this process has the lock
        made = _open(new, os.O_APPEND | os.O_CREAT | os.O_EXCL)
        try:
            _write(made, b"".join(_line(number, item) for number, item in _read(self._file) if number in self._lengths))
            os.fsync(made)
            new.replace(self._path)
        except OSError:
            os.close(made)
            new.unlink(missing_ok=True)
            raise
        old, self._file = self._file, made  # in this order, so that a fork in between does not find a closed file
        os.close(old)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def _adopt(self, other: Path) -> None:
        """Take over the items of an ended process.

        After a crash in between, both files have the items, under the same ids.
        """
        try:
            for place, lock in _free([other]):
                try:
                    self._take_over(place)
                finally:
                    os.close(lock)
        except (QueueFull, OSError) as error:
            log.warning("cannot take over the spool %s; the next start of the client will retry: %s", other, error)

    def _take_over(self, place: Path) -> None:
        file = _open(place, 0)
        try:
            found = [item for _, item in _read(file)]
            self.left.update(zip(self.add(found), found, strict=True) if found else ())
            os.ftruncate(file, 0)
        finally:
            os.close(file)


def dead_letter_of(path: Path) -> Path:
    """Return the path of the dead-letter file beside a spool.

    All processes with the same spool path share the file.
    """
    return path.with_name(f"{path.name}.dead")


def _dead_line(item: Item, result: Result) -> bytes:
    why = {"status": result.status, "code": result.code, "message": result.message, "at": result.at}
    said = {"kind": item.kind, "id": item.item_id, **why, "item": item.content}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and last number of each unbroken range."""
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last


def _free(places: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Lock the free files, and yield each file with its lock."""
    import fcntl  # imported here because not every system has it, and only a spool needs it

    for place in places:
        lock = _open(place.with_name(f"{place.name}.lock"), os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        yield place, lock


def _open(path: Path, flags: int) -> int:
    """Open a regular file of this user that no other user can read. Errors: OSError.

    Another user with write access to the folder could have put a link there, to a file that would be overwritten.
    """
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | flags, _MODE)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink > 1:
        os.close(file)
        raise PermissionError(
            errno.EPERM,
            "invalid spool: expected a regular file, without hard links, of the user that runs the program",
            str(path),
        )
    if stat.S_IMODE(found.st_mode) != _MODE:
        os.fchmod(file, _MODE)
    return file


def _line(number: int, item: Item) -> bytes:
    said = {"number": number, "kind": item.kind, "id": item.item_id, "item": item.body.decode()}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def _read(file: int) -> list[tuple[int, Item]]:
    """Return the items that are not acknowledged.

    Cut off an incomplete line at the end of the file.
    """
    text = os.pread(file, os.fstat(file).st_size, 0)
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.ftruncate(file, len(whole))
    found: dict[int, Item] = {}
    latest = 0
    for line in whole.splitlines():
        try:
            said = json.loads(line)
            if "done" in said:
                first, last = said["done"]
                for number in _done_numbers(first, min(last, latest), found):
                    found.pop(number, None)
            else:
                number, item = _item(said)
                latest = max(latest, number)
                found[number] = item
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log.error("skipped a line of the spool that cannot be read")
    return list(found.items())


def _done_numbers(first: int, last: int, found: Mapping[int, Item]) -> Iterable[int]:
    """Return the acknowledged numbers of a range.

    A damaged line can name an enormous range.
    """
    if last - first < len(found):
        return range(first, last + 1)
    return [number for number in found if first <= number <= last]


def _item(said: Mapping[str, Any]) -> tuple[int, Item]:
    """Return the number and the item of a line.

    Errors: ValueError, KeyError, AttributeError, TypeError.
    """
    number, kind, item_id = said["number"], said["kind"], said["id"]
    if type(number) is not int or kind not in ("events", "samples", "guard") or not isinstance(item_id, str):
        raise ValueError("invalid line: expected an item with number, kind, id and item")
    body = said["item"].encode()
    if not isinstance(json.loads(body), dict):  # text that is not JSON would make its batch invalid
        raise ValueError("invalid line: expected an item with number, kind, id and item")
    return number, Item(kind, item_id, body)


def _write(file: int, text: bytes) -> None:
    at = 0
    while at < len(text):
        at += os.write(file, text[at:])
