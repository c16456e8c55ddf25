"""A wire between a client and PostgreSQL that can be cut: before a request arrives, or before its answer does.

Guarantee: the driver meets what it would meet on a network; the server did, or did not do, what was asked.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.database import connect

READY: Final = b"Z\x00\x00\x00\x05"
"""How the last message of an answer begins; one byte follows."""
CHUNK: Final = 65_536


class Wire:
    """Listens where a client finds "PostgreSQL"; `url` is its address."""

    def __init__(self, url: str) -> None:
        known = sa.make_url(url)
        self._server = str(Path(str(known.query["host"])) / ".s.PGSQL.5432")
        folder = tempfile.mkdtemp(prefix="dd-wire-")
        self.url = known.update_query_dict({"host": folder}).render_as_string(hide_password=False)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/.s.PGSQL.5432")
        self._listener.listen()
        self._cut: str | None = None
        self._pass = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, where: str, after_others: int = 0) -> None:
        """The next request is lost (`before`), or its answer (`after`); so many others come through first."""
        self._cut, self._pass = where, after_others

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._server)
        answers = threading.Thread(target=self._answers, args=(server, client), daemon=True)
        answers.start()
        with contextlib.suppress(OSError):
            while request := client.recv(CHUNK):
                if self._cut == "before" and not self._pass:
                    self._cut = None
                    break
                server.sendall(request)
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(CHUNK):
                ends = answer[-6:-1] == READY
                if self._cut == "after" and not self._pass:
                    if ends:
                        self._cut = None
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    continue
                client.sendall(answer)
                if ends and self._pass:
                    self._pass -= 1
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


class CutHand:
    """An engine behind a wire that is cut at one statement of its transaction, or at its commit."""

    def __init__(self, url: str) -> None:
        self._wire = Wire(url)
        self.engine = connect(self._wire.url)
        self._at: int | None = None
        self._where, self.statements, self._reading = "", 0, False
        sa.event.listen(self.engine, "begin", self._begun)
        sa.event.listen(self.engine, "before_cursor_execute", self._statement)
        sa.event.listen(self.engine, "commit", self._commit)

    def cut(self, at: int, where: str) -> None:
        """At which statement of the next transaction (0: its commit), and where."""
        self._at, self._where, self.statements = at, where, 0

    def disarm(self) -> bool:
        """Let what comes now through; whether the cut had not come yet."""
        waited, self._at = self._at is not None, None
        return waited

    def _begun(self, connection: sa.Connection) -> None:
        self.statements = 0
        self._reading = bool(connection.get_execution_options().get("reading"))

    def _statement(self, connection: sa.Connection, *_rest: Any) -> None:
        self.statements += 1
        if self._at == self.statements and not self._reading:
            raw: Any = connection.connection.dbapi_connection
            begins = raw.info.transaction_status == 0  # the driver says BEGIN first, and waits for the answer
            self._go(int(begins))

    def _commit(self, _connection: sa.Connection) -> None:
        if self._at == 0 and not self._reading:
            self._go(0)

    def _go(self, after_others: int) -> None:
        self._at = None
        self._wire.cut(self._where, after_others)

    def close(self) -> None:
        self.engine.dispose()
        self._wire.close()
