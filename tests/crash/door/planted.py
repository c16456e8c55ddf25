"""Bugs for the siege of the door to find, planted in its own client and server processes only."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from drawdown.schema import database
from drawdown.server.usage import intake
from drawdown_client import calls, connection, outbox
from drawdown_client.errors import Unreachable
from drawdown_client.spool import Spool


def _a_cut_is_taken_for_an_answer() -> None:
    """A client whose connection broke off in a call thinks that the server has it."""
    once = connection.Line.once

    def taken(line: connection.Line, call: calls.Call) -> Any:
        try:
            return once(line, call)
        except Unreachable as error:
            if "RemoteProtocolError" in str(error) or "ReadError" in str(error):
                items = json.loads(gzip.decompress(call.body or b""))
                return {"results": [{"status": "accepted"}] * len(items)}
            raise

    setattr(connection.Line, "once", taken)  # noqa: B010


def _a_new_id_each_time() -> None:
    """Each try of a batch gives its items new ids."""
    original, number = calls.batch, count()

    def batch(kind: Any, items: Sequence[Any]) -> calls.Call:
        call = original(kind, items)
        name, turn = "event_id" if kind == "events" else "id", next(number)
        said = [{**one, name: f"{one[name]}:{turn}"} for one in json.loads(gzip.decompress(call.body or b""))]
        return calls.Call(call.method, call.path, gzip.compress(json.dumps(said).encode()), is_packed=True)

    vars(calls)["batch"] = batch


def _answered_before_the_commit() -> None:
    """The server says what will become of a batch, and then stores it: or fails to, each second time."""
    turns = count()

    def write(engine: Any, work: Any) -> Any:
        found = database.write(engine, work, rollback=True)
        if next(turns) % 2:
            database.write(engine, work)
        return found

    vars(intake)["write"] = write


def _forgotten_before_the_answer() -> None:
    """A client's spool has no more of what is under way."""
    original = outbox.Outbox._until_answered

    def until_answered(self: outbox.Outbox, items: Sequence[Any]) -> Any:
        with self._changed:
            assert self._spool is not None
            numbers = [entry.number for entry in list(self._waiting)[: len(items)]]
            self._spool.acknowledge(numbers)
        return original(self, items)

    setattr(outbox.Outbox, "_until_answered", until_answered)  # noqa: B010


def _what_was_left_stays() -> None:
    """A client does not read what its spool kept."""
    original = Spool.__init__

    def begin(self: Spool, *given: Any) -> None:
        original(self, *given)
        self.left = {}

    setattr(Spool, "__init__", begin)  # noqa: B010


PLANTED: dict[str, Callable[[], None]] = {
    "a cut is taken for an answer": _a_cut_is_taken_for_an_answer,
    "a new id each time": _a_new_id_each_time,
    "answered before the commit": _answered_before_the_commit,
    "forgotten before the answer": _forgotten_before_the_answer,
    "what was left stays": _what_was_left_stays,
}
