"""A program that uses the client, in a process of its own: python -m tests.client.program URL SPOOL COUNT HOW.

It prints each id once it is recorded. `HOW`: what it does then.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

from drawdown_client import Client, Settings
from tests.client.book import KEY


def record(client: Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        client.record("page.render", number, org_id="acme", event_id=f"{os.getpid()}-{number}")
        print(number, flush=True)


def main(url: str, spool: str, count: str, how: str) -> None:
    settings = Settings(spool=Path(spool) if spool else None, close_s=20.0, when_full="raise", queue_items=100_000)
    client = Client(url, KEY, settings)
    record(client, 100, int(count))
    if how == "hang":
        time.sleep(600)
    if how == "fork":
        child = os.fork()
        record(client, 5_000 if child else 9_000, int(count))
        if child:
            assert os.waitpid(child, 0)[1] == 0
    if how == "worker":
        worker = multiprocessing.get_context("fork").Process(target=record, args=(client, 5_000, int(count)))
        worker.start()
        worker.join()
        assert worker.exitcode == 0
    if how == "raise":
        raise RuntimeError("the program fails")
    if how == "exit":
        sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
