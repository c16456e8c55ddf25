"""Queue jobs that accept a provider's changed settings.

A job accepts only the settings that this server had when the job was queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import sqlalchemy as sa

from drawdown.schema.declare import ID, Action, Fact, Invocation, Values
from drawdown.schema.errors import Refused
from drawdown.schema.text import typed
from drawdown.worker.jobs.job_payloads import AcceptJob
from drawdown.worker.jobs.queue import place, same_as
from drawdown.worker.provider import actions as providers
from drawdown.worker.provider.faces import require_biller


@dataclass(frozen=True)
class ProviderAccepted:
    """The job that accepts a provider's changed settings."""

    provider: str
    job_id: int


def _accept_job(connection: sa.Connection, asked: Invocation, provider: str) -> AcceptJob:
    """Return the job that accepts a provider's settings.

    Errors: UnknownId for an unknown provider; Refused if this server does not have its settings.
    """
    known = asked.providers
    require_biller(connection, known, provider, "it does not have settings")
    if known is None or provider not in known.capabilities:
        command = typed("drawdown", "provider", "accept", provider)
        raise Refused(f"this machine lacks the settings of {provider}. Run `{command}` on a machine that has them")
    return AcceptJob(provider, providers.terms_of(known.capabilities[provider]))


def _accept(
    connection: sa.Connection, asked: Invocation, provider: Annotated[str, ID, "Name of the provider"]
) -> ProviderAccepted:
    return ProviderAccepted(provider, place(connection, _accept_job(connection, asked, provider), asked.by))


def _changes(connection: sa.Connection, asked: Invocation, values: Values) -> Sequence[Fact]:
    job = _accept_job(connection, asked, values["provider"])
    known = asked.providers
    assert known is not None  # `_accept_job` refuses if this server lacks the provider's settings
    moved = providers.changes(connection, job.provider, known.capabilities[job.provider])
    unsent, sent = providers.open_at(connection, job.provider)
    return [
        *(Fact(part, f"{was}; with this server's settings: {now}") for part, (was, now) in moved.items()),
        Fact("Unsent pushes to seal again", f"{unsent:,}", fixed=False),
        Fact("Sent pushes that are not settled (must be 0)", f"{sent:,}", fixed=False),
        Fact("Already queued", "no" if same_as(connection, job) is None else "yes"),
    ]


ACTIONS: Final = (
    Action(
        "provider accept",
        "Accept changed settings",
        "Queue a job that accepts a provider's changed settings. The settings are those of this server.",
        _accept,
        lambda done: f"{done.provider}: queued. The next tick starts the job",
        path="/v1/providers/{provider}/accept",
        scope="jobs:write",
        facts=_changes,
        by_hand=True,
    ),
)
