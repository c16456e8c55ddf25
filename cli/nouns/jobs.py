"""`drawdown job`: list queued jobs and their progress, and cancel a queued job."""

from __future__ import annotations

from typing import Final

from drawdown.cli.declared import of_noun
from drawdown.worker.jobs.lists import LISTS
from drawdown.worker.jobs.queue import ACTIONS

QUEUED: Final = "queued as job {}. The next tick starts the job. To see its progress, run `drawdown job list`"
commands = of_noun("job", *ACTIONS, *LISTS)
