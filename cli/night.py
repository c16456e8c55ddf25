"""`drawdown nightly` beside the ticks of a process that lives on, in a process of its own.

Guarantee: it is the command as it is given by hand: its proof takes no memory from the ticks, nor do its failures end
them. What it came to is an event. It ends where the command that started it is told to end.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from drawdown.cli.settings.settings import Settings
from drawdown.cli.stopping import LOOK_S, Stopping
from drawdown.schema.errors import MEANINGS, Exit

log = structlog.get_logger()

COMMAND: Final = (sys.executable, "-c", "from drawdown.cli.main import main; main()", "nightly", "--json")
ENDED: Final = (-signal.SIGTERM, -signal.SIGINT)
"""What stops a machine tells all of its processes at once: it may be told before we are."""
ENDS_WITHIN_S: Final = 20.0
"""How long it is waited for, once it was told to end."""


@dataclass
class Night:
    """What is done once a night."""

    settings: Settings
    stopping: Stopping

    def run(self) -> None:
        """Do it, and say what it came to."""
        environment = self.settings.environment()
        with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.PIPE, text=True) as nightly:  # noqa: S603 our own
            said = self._said(nightly)
        if said is None or nightly.returncode in ENDED:
            log.warning("nightly_stopped", detail="the next night makes up for it")
            return
        status, failed = Exit.PERSON, ["drawdown nightly"]
        with suppress(ValueError, KeyError, TypeError):  # it was killed, or failed before its first command
            found = json.loads(said)
            status = Exit(found["exit_status"])
            failed = [f"{one['exit_status']} of drawdown {one['command']}" for one in found["nightly"]
                      if one["exit_status"]]  # fmt: skip
        tell = log.info if status == Exit.SETTLED else log.warning if status == Exit.LEFT else log.error
        tell("nightly_ended", exit_status=int(status), meaning=MEANINGS[status], failed=failed)

    def _said(self, nightly: subprocess.Popen[str]) -> str | None:
        """What it printed; None where it was told to end meanwhile."""
        while not self.stopping.is_set():
            with suppress(subprocess.TimeoutExpired):
                return nightly.communicate(timeout=LOOK_S)[0]
        nightly.terminate()
        try:
            nightly.communicate(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            nightly.kill()
        return None
