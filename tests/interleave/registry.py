"""The registry: every transaction that the product runs, and those of the programs beside it.

A new one takes one entry: `step` names a transaction of some steps (`of_steps.py`), `plain` calls a function with a
connection (`of_people.py`, `of_others.py`), `host` is another program's statement. `test_registry.py` is red while one
is missing here.
"""

from __future__ import annotations

from typing import Final

from tests.interleave.of_backfills import BACKFILLS
from tests.interleave.of_batches import BATCHES
from tests.interleave.of_console import CONSOLE
from tests.interleave.of_credits import CREDITS
from tests.interleave.of_declared import DECLARED
from tests.interleave.of_events import EVENTS
from tests.interleave.of_guard import GUARD
from tests.interleave.of_hooks import HOOKS
from tests.interleave.of_intake import INTAKE
from tests.interleave.of_jobs import JOBS
from tests.interleave.of_money import MONEY
from tests.interleave.of_others import HOSTS, SERVER
from tests.interleave.of_people import PEOPLE
from tests.interleave.of_plans import PLANS
from tests.interleave.of_pools import POOLS
from tests.interleave.of_programs import PROGRAMS
from tests.interleave.of_rates import RATES
from tests.interleave.of_runs import RUNS
from tests.interleave.of_steps import STEPS
from tests.interleave.of_suppliers import SUPPLIERS
from tests.interleave.of_terms import TERMS
from tests.interleave.party import Party

PARTIES: Final[dict[str, Party]] = {
    one.name: one
    for one in (
        *STEPS,
        *CREDITS,
        *HOOKS,
        *RUNS,
        *SUPPLIERS,
        *PLANS,
        *POOLS,
        *GUARD,
        *BACKFILLS,
        *DECLARED,
        *BATCHES,
        *JOBS,
        *TERMS,
        *PEOPLE,
        *EVENTS,
        *INTAKE,
        *SERVER,
        *PROGRAMS,
        *MONEY,
        *RATES,
        *CONSOLE,
        *HOSTS,
    )
}

APART: Final[dict[str, str]] = {
    "schema.database:write": "runs what all others ask for",
    "schema.database:read": "changes nothing",
    "schema.migrate:upgrade": "alone: the order of an upgrade lets nothing else run",
    "schema.roles:apply": "changes no row: it grants what may be done",
    "cli.app:write": "runs what all commands ask for, once a database that was restored would have been noticed",
    "server.http.threads:_write": "runs what a server asks for, once a restored database would have been noticed",
    "worker.history.incarnation:record_doubt": "writes down a doubt, as `recognise` does in a tick and a watch",
    "cli.nouns.reconcile:compare": "changes nothing: it refuses to go on where history was lost",
    **dict.fromkeys(
        (
            "cli.nouns.worker:worker_",
            "cli.cluster:beat",
            *(f"worker.cluster.membership:{what}" for what in ("note_done", "failed", "leave", "forget_schedules")),
        ),
        "of workers' own rows, on which nothing that is billed rests; those who come at once: test_cluster.py",
    ),
    "worker.cluster.install:install": "makes tables of its own, one at a time",
    "cli.nouns.database:init": "on a database that is being made",
    "cli.nouns.demo:host_writes": "on a database of its own",
    "cli.nouns.demo:build_fleet": "on a database of its own",
    **{
        f"cli.demo.{site}": "on a database of its own"
        for site in ("serve:let_in", "story:live", "story:prove", "story:turn", "stage:stopped", "stage:host_writes")
    },
    "cli.nouns.doctor:_written": "writes the one row of the watch as it is, as each round does: no value changes",
    "probe": "a seal that is rolled back: `seal` holds its locks longer",
    "orgs_of_bucket": "the first statements of `seal newcomers`, after a seal that failed",
    "replay_open": "reads once, after a replay or its dry run",
    "orgs_to_replay": "reads once, after a replay that failed",
    "worker.replay.replay:rehearse": "a replay whose transactions are rolled back: `replay` holds its locks longer",
    "server.console.action_forms:undone": "rolled back, whatever it is asked for",
    "server.console.screens.oncall.halts:_preview": "rolled back: it reads which cells a halt reaches",
    "server.console.screens.oncall.jobs:_preview": "rolled back: it reads a plan",
    "server.console.screens.oncall.jobs:_told_of_assignment": "rolled back: an assignment; `assign` holds its locks",
    "server.console.screens.money.jobs:_preview": "rolled back: it reads what was kept of comparisons",
    "read_sources": "reads once, before the folders are looked into",
    "new_files": "reads once; what another one took meanwhile is found by `take_batch`",
    "topup_asked": "reads once; what is changed meanwhile is found by `topup_queued`",
    "billed_by": "reads once, of a provider that cannot be used",
    "compared_to": "reads one mark of a provider, which only moves forward",
    "known_costs": "reads once, before a provider is asked; `learn_costs` reads again, and keeps what is newer than "
    "its answer; to a comparison of balances, a cost that is learned meanwhile is not known yet",
    "known_parts": "reads once, before balances are; what a read shows meanwhile counts from the next comparison on",
}
"""Transactions that are not explored, and why."""
