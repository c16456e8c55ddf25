"""Measure the database, both for a server and for a single tick.

process_metrics.py has the metrics of a server's process.

Guarantee: this module only reads, by indexes. If the values of a label are fixed, a count has a zero for each value.
Without it, an alert on a change would miss the first event. The metrics show each shard separately, so a failed or
missing shard is visible. An age is never negative, even if two clocks differ. If the database cannot be read, the only
metric is `drawdown_database_up 0`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from drawdown.schema.database import read
from drawdown.schema.pending import REASONS
from drawdown.schema.push_states import OPEN
from drawdown.schema.units import BUCKETS, DAY_MS, EXEMPT_PROVIDERS, MICRO, MINUTE_MS, SECOND_MS, WINDOW_MS, horizon
from drawdown.worker.batches.lists import files_left
from drawdown.worker.checks.checks import LastCheck, last_checks
from drawdown.worker.checks.proofs import last_held
from drawdown.worker.cluster.install import is_there
from drawdown.worker.cluster.lists import Cluster, read_cluster
from drawdown.worker.engine.shard import Shard
from drawdown.worker.features.lists import unmapped_events
from drawdown.worker.guard.lists import guard_figures
from drawdown.worker.guard.overrides import SOON_MS
from drawdown.worker.halts.ignored_halts import ignored_halts
from drawdown.worker.hooks.lists import list_endpoints
from drawdown.worker.parity.lists import parity_figures
from drawdown.worker.reconcile.lists import read_uncompared
from drawdown.worker.status import metrics as figures
from drawdown.worker.status.backlog import jobs_left, oldest_open, quarantined
from drawdown.worker.status.metrics import (
    UNANSWERED,
    EndedTick,
    attempts_since,
    calls_cut,
    ended_ticks,
    halted_orgs,
    provider_reads,
)
from drawdown.worker.topup.lists import figures as topup_figures
from drawdown.worker.usage.backfills import open_backfills
from drawdown.worker.verdict.rules import CREDIT_REASONS
from drawdown.worker.verdict.watch_state import rounds_of, unread_orgs, wrong_estimates
from drawdown.worker.wallets.lists import owed_figures, run_figures

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

PROBLEMS: Final = (
    "bad_id", "bad_org_id", "bad_sandbox_id", "bad_cell_id", "memory_missing", "memory_out_of_bounds",
    "interval_missing", "interval_not_a_number", "interval_negative", "interval_over_a_day", "interval_fractional",
    "ts_missing", "ts_not_milliseconds", "ts_before_2000", "ts_in_the_future", "id_conflict", "below_floor",
)  # fmt: skip
"""Reasons that have the value 0 before their first sample.

Without the 0, an alert on a change would miss the first sample.
"""

MOST_TYPES: Final = 20
"""Event types without a feature that have their own series."""
OTHER_TYPES: Final = "other"

OTHER_CELLS: Final = "other"
"""Label of all cells that are not registered, because samples may name any cell."""


def render(engine: sa.Engine, now_ms: int, doubt: Callable[[sa.Engine], str | None] = lambda _: None) -> bytes:
    """Return all metrics in Prometheus' text format.

    The function never raises an error. `doubt`: returns why the history may be lost by this machine's local checkpoint,
    before a tick records the doubt; None without a doubt.
    """
    try:
        doubted = doubt(engine) is not None
        metrics = read(engine, lambda connection: list(measure(connection, now_ms, doubted=doubted)))
    except Exception:
        metrics = [gauge("database_up", "1 if Drawdown can read the database, 0 if not.", [((), 0)])]
    return text(metrics)


def text(metrics: Iterable[Metric]) -> bytes:
    """Return metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_GivenMetrics(list(metrics)))
    return generate_latest(registry)


class _GivenMetrics(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def measure(connection: sa.Connection, now_ms: int, *, doubted: bool = False) -> Iterator[Metric]:
    """Yield all metrics of the database."""
    yield gauge("database_up", "1 if Drawdown can read the database, 0 if not.", [((), 1)])
    yield gauge(
        "history_doubted",
        "1 if the database may have lost history, 0 if not. Until you run `drawdown recover`, Drawdown does not seal "
        "or push.",
        [((), int(doubted or figures.doubted_histories(connection) > 0))],
    )
    yield from _sealing(connection, now_ms)
    yield from _outbox(connection, now_ms)
    yield from _organisations(connection, now_ms)
    yield from watching(connection, now_ms)
    yield from ticking(connection, now_ms)
    yield from working(connection)
    yield from ordering(connection, now_ms)
    yield from filing(connection)
    yield from uncompared(connection, now_ms)
    yield from reserving(connection, now_ms)
    yield from topping_up(connection, now_ms)
    yield from hooking(connection, now_ms)
    yield from comparing(connection, now_ms)
    yield from checking(connection, now_ms)
    yield from guarding(connection, now_ms)
    yield from _samples(connection, now_ms)
    webhooks = figures.webhooks_since(connection, now_ms - 12 * WINDOW_MS)
    yield gauge(
        "webhooks",
        "Authenticated webhooks received in the last hour, by provider and state.",
        webhooks.items(),
        ("provider", "state"),
    )


def _sealing(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    marks = figures.watermarks(connection)
    both = (("pack", marks.oldest_ms), ("held_back", marks.held_ms))
    lags = [((which,), seconds(now_ms - ms)) for which, ms in both if ms is not None]
    yield gauge(
        "watermark_lag_seconds",
        "Seconds since the oldest watermark of buckets (`pack`), or of organisations behind their bucket "
        "(`held_back`).",
        lags,
        ("of",),
    )
    helps = {
        "pending_seconds": "Seconds of sandbox usage that cannot be sealed yet, by reason.",
        "pending_units": "Units of event usage that cannot be sealed yet, by reason.",
    }
    for (name, says), found in zip(helps.items(), figures.pending(connection), strict=True):
        pending = dict.fromkeys(REASONS, 0) | found
        yield gauge(name, says, [((why,), used) for why, used in sorted(pending.items())], ("reason",))
    waiting = sorted(_unmapped(connection).items())
    yield gauge(
        "unmapped_units",
        f"Pending units of event types without a feature. Types after the {MOST_TYPES} with the most units share one "
        "series.",
        waiting,
        ("event_type",),
    )
    yield gauge(
        "dirty_windows",
        "Windows of organisations that ticks must still seal again.",
        [((), figures.dirty_windows(connection))],
    )
    oldest = oldest_open(connection)
    age = 0 if oldest is None else oldest.age_ms
    yield gauge(
        "oldest_transaction_seconds",
        "Seconds since the start of the oldest open PostgreSQL transaction with writes. Drawdown cannot bill inserts "
        "of an open transaction.",
        [] if age is None else [((), seconds(age))],
    )
    found = dict.fromkeys(PROBLEMS, 0) | quarantined(connection)
    bad = [((problem,), samples) for problem, samples in sorted(found.items())]
    yield gauge("quarantined_samples", "Quarantined samples that are not closed yet, by problem.", bad, ("problem",))


def _unmapped(connection: sa.Connection) -> Counter[tuple[str]]:
    """Return the units of unmapped event types, in at most MOST_TYPES separate series.

    Programs choose the names, so other types share one series.
    """
    found = sorted(unmapped_events(connection), key=lambda one: (-one.units, one.event_type))
    units = Counter({(OTHER_TYPES,): 0})
    for number, one in enumerate(found):
        units[one.event_type if number < MOST_TYPES else OTHER_TYPES,] += one.units
    return units


def _outbox(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    providers = figures.met_providers(connection) - EXEMPT_PROVIDERS
    counts: dict[tuple[str, str], int] = {(name, state): 0 for name in providers for state in OPEN}
    ages: dict[tuple[str, str], float] = {}
    owed: dict[tuple[str, str], float] = defaultdict(float)
    for some in figures.open_pushes(connection):
        key = (some.provider, some.state)
        counts[key] = counts.get(key, 0) + some.pushes
        ages[key] = max(ages.get(key, 0.0), seconds(now_ms - some.oldest_ms))
        owed[some.provider, some.feature] += some.owed
    labels = ("provider", "state")
    yield gauge("outbox_pushes", "Open pushes, by provider and state.", sorted(counts.items()), labels)
    yield gauge(
        "outbox_oldest_age_seconds",
        "Seconds since the oldest open push was sealed, by provider and state.",
        sorted(ages.items()),
        labels,
    )
    yield gauge(
        "open_quantity",
        "Quantity of open pushes in base units, by provider and feature. Unsealed usage is excluded.",
        sorted(owed.items()),
        ("provider", "feature"),
    )
    yield from calls(connection, now_ms)


def _organisations(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    due = figures.halts_due(connection)
    yield gauge("halts_due", "Halts that a cell has not acknowledged yet.", [((), due.count)])
    age = 0.0 if due.since_ms is None else seconds(now_ms - due.since_ms)
    yield gauge("halts_oldest_age_seconds", "Seconds since the oldest unacknowledged halt was issued.", [((), age)])
    ignored = len(ignored_halts(connection, Shard()))
    yield gauge(
        "halts_ignored",
        "Halts that a cell acknowledged repeatedly, although sandboxes of the organisation still run.",
        [((), ignored)],
    )
    yield gauge(
        "orgs_stopped",
        "Stopped organisations. Drawdown does not bill them until you run `drawdown org resume`.",
        [((), figures.stopped_orgs(connection))],
    )
    asked = figures.projections_due(connection, now_ms)
    yield gauge("projections_due", "Organisations with a projection that is due for a refresh.", [((), asked.count)])
    oldest = 0.0 if asked.since_ms is None else seconds(now_ms - asked.since_ms)
    yield gauge(
        "projections_oldest_age_seconds", "Seconds since the oldest projection refresh became due.", [((), oldest)]
    )
    yield gauge("providers_paused", "Providers paused by an operator.", [((), figures.paused_providers(connection))])


def _samples(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the number of samples of the last complete window, by cell.

    A registered cell without samples has 0, because the cell may be broken.
    """
    end = horizon(now_ms)
    seen = figures.samples_by_cell(connection, end - WINDOW_MS, end)
    named = {OTHER_CELLS if cell is None else cell: samples for cell, samples in seen.items()}
    values = sorted((dict.fromkeys(figures.registered_cells(connection), 0) | named).items())
    yield gauge(
        "cell_samples",
        "Samples in the last complete window of 300 s, by registered cell. `other`: all unregistered cells.",
        [((cell,), n) for cell, n in values],
        ("cell",),
    )


HALT_REASONS: Final = (*CREDIT_REASONS, "operator")


def watching(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of the watch, of halts, and of failed reads of providers."""
    watch = rounds_of(connection)
    if watch.last_ms is not None:  # before the first round, no watch has stopped
        yield gauge(
            "watch_last_round_timestamp_seconds",
            "Unix time in seconds of the last completed round of any watch.",
            [((), seconds(watch.last_ms))],
        )
    rounds = CounterMetricFamily("drawdown_watch_rounds", "Completed watch rounds of all processes since installation.")
    rounds.add_metric((), watch.count)
    yield rounds
    halted = dict.fromkeys(HALT_REASONS, 0) | halted_orgs(connection)
    yield gauge(
        "orgs_halted",
        "Halted organisations, by reason.",
        [((why,), n) for why, n in sorted(halted.items())],
        ("reason",),
    )
    wrong = CounterMetricFamily(
        "drawdown_wrong_estimates",
        "Halts since installation that were based on an estimate, and that a later read of the provider proved wrong.",
    )
    wrong.add_metric((), wrong_estimates(connection))
    yield wrong
    unread = unread_orgs(connection)
    yield gauge(
        "orgs_unread", "Organisations for which the last read of the provider failed, by provider.",
        [((row.provider,), row.orgs) for row in unread], ("provider",),
    )  # fmt: skip
    yield gauge(
        "orgs_unread_oldest_age_seconds",
        "Longest time in seconds for which all reads of an organisation's customer have failed, by provider.",
        [((row.provider,), seconds(now_ms - row.since_ms)) for row in unread], ("provider",),
    )  # fmt: skip


SHARD: Final = ("shard",)
CUT_LATELY_MS: Final = 15 * MINUTE_MS
"""Largest age of a tick that counts in `drawdown_calls_cut_to`."""


def ticking(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of the last ended tick of each shard, within a day."""
    newest = ended_ticks(connection, now_ms - DAY_MS)
    if newest is None:  # before the first tick, no tick has stopped
        return
    ended: dict[tuple[int, int], list[EndedTick]] = {}
    for tick in newest:
        ended.setdefault((tick.bucket_lo, tick.bucket_hi), []).append(tick)
    shards, missing = _in_use(list(ended))
    of = [((f"{lo}-{hi}",), ended[lo, hi][0]) for lo, hi in shards]
    well = [next((tick.finished_ms for tick in ended[shard] if tick.exit_status in (0, 75)), None) for shard in shards]
    yield gauge(
        "unticked_buckets", f"Buckets, of {BUCKETS}, without a completed tick in the last 24 hours.", [((), missing)]
    )
    yield _cut(connection, now_ms)
    yield gauge(
        "tick_duration_seconds", "Seconds from start to end of the last completed tick, by shard of buckets.",
        [(shard, seconds(row.finished_ms - row.started_ms)) for shard, row in of], SHARD,
    )  # fmt: skip
    yield gauge(
        "tick_last_exit_status", "Exit status of the last completed tick, by shard: 0 settled, 75 work pending, "
        "1 manual action needed.",
        [(shard, row.exit_status) for shard, row in of], SHARD,
    )  # fmt: skip
    yield gauge(
        "tick_last_end_timestamp_seconds", "Unix time in seconds of the end of the last completed tick, by shard.",
        [(shard, seconds(row.finished_ms)) for shard, row in of], SHARD,
    )  # fmt: skip
    yield gauge(
        "tick_last_success_timestamp_seconds",
        "Unix time in seconds at which the last tick with exit status 0 or 75 ended, by shard. Absent after 24 hours "
        "without such a tick.",
        [(shard, seconds(at)) for (shard, _), at in zip(of, well, strict=True) if at is not None], SHARD,
    )  # fmt: skip


def _cut(connection: sa.Connection, now_ms: int) -> Metric:
    """Return the metric of concurrent calls at providers that limit their rate.

    Its value is the lowest limit in the last 15 minutes. A series ends once ticks use the full number that the provider
    declares.
    """
    found = calls_cut(connection, now_ms - CUT_LATELY_MS)
    return gauge(
        "calls_cut_to",
        "Lowest limit of concurrent calls to a rate-limiting provider in the last 15 minutes, by provider.",
        [((provider,), at_once) for provider, at_once in found.items()],
        ("provider",),
    )


def ordering(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of queued jobs, zeros included.

    Without a zero, an alert on a change would miss the first job.
    """
    found = jobs_left(connection, now_ms)
    age = 0 if found.since_ms is None else now_ms - found.since_ms
    yield gauge("jobs_open", "Pending or running jobs.", [((), found.open)])
    yield gauge(
        "jobs_oldest_age_seconds", "Seconds since the oldest pending or running job was queued.", [((), seconds(age))]
    )
    yield gauge("jobs_failed", "Jobs that failed in the last 24 hours.", [((), found.failed)])


def filing(connection: sa.Connection) -> Iterator[Metric]:
    """Yield the numbers of files and query results of sources that were not imported."""
    found = files_left(connection)
    of = (("refused", found.refused), ("conflict", found.conflicts), ("failed", found.failing))
    yield gauge(
        "batch_files_left",
        "Files and query results that Drawdown has not imported from sources, by state (`refused`, `conflict` or "
        "`failed`).",
        [((state,), n) for state, n in of],
        ["state"],
    )


def uncompared(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of days and balances not compared with their provider."""
    found = read_uncompared(connection, now_ms)
    days = [((one.provider,), one.open_days) for one in found]
    yield gauge(
        "uncompared_days",
        "Customer-days that settled over 24 hours ago, and that Drawdown has not compared with the provider, by "
        "provider.",
        days,
        ["provider"],
    )
    left_out = [
        ((one.provider,), seconds(now_ms - one.balances_since_ms)) for one in found if one.balances_since_ms is not None
    ]
    yield gauge(
        "uncompared_balance_age_seconds",
        "Seconds since `reconcile` first skipped the balance that has been uncompared longest, by provider.",
        left_out,
        ["provider"],
    )
    ages = [((one.provider,), seconds(now_ms - one.compared_ms)) for one in found if one.compared_ms is not None]
    yield gauge(
        "compared_age_seconds",
        "Seconds since the end of the usage that Drawdown last compared with the provider's totals, by provider.",
        ages,
        ["provider"],
    )


def _in_use(newest_first: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """Return the shards in use, and the number of buckets without a tick.

    A shard is in use if it was the last to tick some bucket.
    """
    kept, left = [], set(range(BUCKETS))
    for lo, hi in newest_first:
        own = left & set(range(lo, hi + 1))
        if own:
            kept.append((lo, hi))
            left -= own
    return kept, len(left)


WORKER_STATES: Final = ("lives", "gone")
JOB_KINDS: Final = ("tick", "watch", "reconcile", "take_over")


def working(connection: sa.Connection) -> Iterator[Metric]:
    """Yield the metrics of workers: their states, their jobs, and the last failure."""
    found = read_cluster(connection) if is_there(connection) else None
    if found is not None:
        yield from of_workers(found)


def of_workers(found: Cluster) -> Iterator[Metric]:
    """Yield the metrics of the given state of a cluster."""
    counts = dict.fromkeys(WORKER_STATES, 0) | Counter(one.state for one in found.workers if one.state in WORKER_STATES)
    yield gauge("workers", "Workers of the last 24 hours, by state: `lives`, or `gone` (died without signing off).",
                [((state,), count) for state, count in sorted(counts.items())], ("state",))  # fmt: skip
    alive = found.of("lives")
    yield gauge("worker_jobs_done", "Jobs completed by each live worker since its start.",
                [((one.name,), one.done) for one in alive], ("worker",))  # fmt: skip
    yield gauge("worker_seen_age_seconds", "Seconds since the last heartbeat of each live worker.",
                [((one.name,), seconds(one.seen_ms)) for one in alive], ("worker",))  # fmt: skip
    jobs = {(kind, state): 0 for kind in JOB_KINDS for state in ("waits", "runs", "failed")}
    jobs |= {(one.kind, one.state): one.jobs for one in found.jobs if one.kind in JOB_KINDS}
    yield gauge("worker_jobs", "Waiting, running and failed jobs of workers, by kind and state.",
                sorted(jobs.items()), ("kind", "state"))  # fmt: skip
    ages = dict.fromkeys(JOB_KINDS, 0.0) | {
        one.kind: seconds(one.oldest_ms) for one in found.jobs if one.state == "waits"
    }
    yield gauge("worker_jobs_oldest_age_seconds", "Seconds since the oldest waiting worker job began to wait, by kind.",
                [((kind,), ages[kind]) for kind in JOB_KINDS], ("kind",))  # fmt: skip
    failed = [one.failed_ms for one in found.workers if one.failed_ms is not None]
    yield gauge("worker_last_failure_age_seconds",
                "Seconds since a job last failed at a worker of the last 24 hours. Absent without a failed job.",
                [((), seconds(min(failed)))] if failed else [])  # fmt: skip


CALL_LIMITS_MS: Final = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000)
CALL_LABELS: Final = ("provider", "outcome")


def calls(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of push attempts in the last five minutes, and of all reads."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    within: dict[tuple[str, str], dict[int | None, int]] = defaultdict(lambda: defaultdict(int))
    took: dict[tuple[str, str], int] = defaultdict(int)
    for some in attempts_since(connection, now_ms - WINDOW_MS, CALL_LIMITS_MS):
        key = (some.provider, some.outcome)
        counts[key] += some.attempts
        if some.outcome != UNANSWERED:  # the duration is unknown
            within[key][some.within_ms] += some.attempts
            took[key] += some.took_ms or 0
    yield gauge(
        "provider_attempts",
        "Push attempts of the last five minutes, by provider and outcome.",
        sorted(counts.items()),
        CALL_LABELS,
    )
    metric = GaugeHistogramMetricFamily(
        "drawdown_provider_attempt_seconds",
        "Seconds from claim to outcome of a push attempt in the last five minutes.",
        labels=CALL_LABELS,
    )
    for key in sorted(within):
        metric.add_metric(key, _buckets(within[key]), gsum_value=seconds(took[key]))
    yield metric
    reads = CounterMetricFamily(
        "drawdown_provider_reads",
        "Reads of customers at providers since installation, by provider and outcome.",
        labels=CALL_LABELS,
    )
    for row in provider_reads(connection):
        reads.add_metric((row.provider, row.outcome), row.reads)
    yield reads


def _buckets(within: dict[int | None, int]) -> list[tuple[str, float]]:
    """Return the buckets of a Prometheus histogram.

    Each bucket counts the attempts up to its limit, and the last bucket counts all.
    """
    found, total = [], 0
    for limit in (*CALL_LIMITS_MS, None):
        total += within.get(limit, 0)
        found.append(("+Inf" if limit is None else str(limit / SECOND_MS), float(total)))
    return found


def reserving(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of executions, settlements and freezes."""
    runs = run_figures(connection, now_ms, now_ms - DAY_MS)
    yield gauge("reservations_open", "Executions with reserved credit.", [((), runs.held)])
    yield gauge("reservations_overdue", "Expired reservations that are not released yet.", [((), runs.overdue)])
    age = 0 if runs.overdue_since_ms is None else now_ms - runs.overdue_since_ms
    yield gauge(
        "reservations_overdue_oldest_age_seconds",
        "Seconds since the oldest unreleased reservation expired.",
        [((), seconds(age))],
    )
    yield gauge("reservations_expired", "Executions that expired unsettled in the last 24 hours.", [((), runs.expired)])
    owed = owed_figures(connection)
    yield gauge(
        "settlements_waiting_credits",
        "Credits that you owe to suppliers and have not released in a payout.",
        [((), owed.waiting_micro / MICRO)],
    )
    yield gauge("settlement_freezes", "Active freezes of settlements or suppliers.", [((), owed.freezes)])
    age = 0 if owed.frozen_since_ms is None else now_ms - owed.frozen_since_ms
    yield gauge(
        "settlement_freezes_oldest_age_seconds",
        "Seconds since the oldest active freeze of a settlement or supplier began.",
        [((), seconds(age))],
    )


TOPUPS_OPEN: Final = ("due", "sending", "in_doubt")
TOPUPS_ENDED: Final = ("credited", "declined", "needs_customer", "given_up")


def topping_up(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of top-ups, zeros included.

    Without a zero, an alert on a change would miss the first top-up.
    """
    found = topup_figures(connection, now_ms - DAY_MS)
    counts = [((state,), found.open.get(state, (0, 0))[0]) for state in TOPUPS_OPEN]
    yield gauge("topups_open", "Unsettled top-ups, by state.", counts, ("state",))
    ages = [((state,), seconds(now_ms - oldest)) for state, (_, oldest) in sorted(found.open.items())]
    yield gauge(
        "topups_oldest_age_seconds", "Seconds since the oldest unsettled top-up began, by state.", ages, ("state",)
    )
    ended = [((state,), found.ended.get(state, 0)) for state in TOPUPS_ENDED]
    yield gauge("topups_ended", "Top-ups that ended in the last 24 hours, by state.", ended, ("state",))
    yield gauge(
        "topups_blocked",
        "Wallets for which Drawdown stopped automatic top-ups after a decline, or after a call that it cannot send.",
        [((), found.blocked)],
    )
    yield gauge(
        "topups_manual_review",
        "Top-ups that need manual review, because the payment differs from the requested payment.",
        [((), found.manual_review)],
    )
    yield gauge("topups_stopped", "1 if an operator stopped all top-ups, 0 if not.", [((), int(found.stopped))])


def hooking(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of each endpoint in use, zeros included.

    Without a zero, an alert on a change would miss the first message.
    """
    going = [row for row in list_endpoints(connection) if row.ended_ms is None]
    labels = ("endpoint",)
    yield gauge(
        "hook_messages_due",
        "Webhook messages pending delivery, by endpoint.",
        [((row.name,), row.due) for row in going],
        labels,
    )
    ages = [((row.name,), 0.0 if row.oldest_due_ms is None else seconds(now_ms - row.oldest_due_ms)) for row in going]
    yield gauge(
        "hook_messages_oldest_age_seconds",
        "Seconds since the event of the oldest pending webhook message, by endpoint.",
        ages,
        labels,
    )
    failed = [((row.name,), row.failed) for row in going]
    yield gauge(
        "hook_messages_failed", "Webhook messages that failed and need a manual replay, by endpoint.", failed, labels
    )


GUARD_RECENT_MS: Final = 60 * MINUTE_MS
"""Largest age of the denials of the guard that a metric counts."""


def guarding(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of the guard's tables, of all processes."""
    found = guard_figures(connection, now_ms, now_ms - GUARD_RECENT_MS, now_ms - DAY_MS, now_ms + SOON_MS)
    denied = [((name, _word(enforced)), times) for (name, enforced), times in sorted(found.denied.items())]
    yield gauge("guard_denied", "Requests of the last hour that the guard denied (`enforced` is `true`), or would deny "
                "in phase 3 (`false`).",
                denied, ("metric", "enforced"))  # fmt: skip
    fail_open = sorted(found.fail_open.items())
    yield gauge("guard_fail_open_uses", "Uses that the guard allowed in the last 24 hours while the credit was "
                "unknown, by metric.",
                [((name,), uses) for name, (uses, _) in fail_open], ("metric",))  # fmt: skip
    yield gauge("guard_fail_open_units", "Base units that the guard allowed in the last 24 hours while the credit was "
                "unknown, by metric.",
                [((name,), units) for name, (_, units) in fail_open], ("metric",))  # fmt: skip
    states = [(("waiting",), found.waiting), (("ending",), found.ending)]
    yield gauge(
        "guard_overrides",
        "Limit overrides, by state: `waiting` for approval, or `ending` within a week.",
        states,
        ("state",),
    )
    age = 0 if found.waiting_since_ms is None else now_ms - found.waiting_since_ms
    yield gauge(
        "guard_overrides_oldest_age_seconds",
        "Seconds since the request of the oldest limit override that waits for approval.",
        [((), seconds(age))],
    )


def _word(enforced: bool) -> str:
    return str(enforced).lower()


PARITY_RECENT_MS: Final = 8 * DAY_MS
"""Age of the start of the oldest day in the parity metrics, in milliseconds.

Eight days include each day that ended in the last week.
"""


def comparing(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of parity, from the last check of each cell's day."""
    found = parity_figures(connection, now_ms - PARITY_RECENT_MS)
    yield gauge("parity_differing", "Organisation-days in the last week that differ from the totals of cells.",
                [((), found.differing)])  # fmt: skip
    yield gauge("parity_unread", "Cell-days of the last week without readable totals.", [((), found.unread)])
    age = 0 if found.checked_ms is None else now_ms - found.checked_ms
    yield gauge(
        "parity_checked_age_seconds",
        "Seconds since the last check of the totals of cells, or 0 without a check.",
        [((), seconds(age))],
    )


CHECKS: Final = ("guard", "vendors")
NEVER: Final = LastCheck(0, 0, 0)


def checking(connection: sa.Connection, now_ms: int) -> Iterator[Metric]:
    """Yield the metrics of checks: guard counters, bills, proofs and backfills."""
    last = dict.fromkeys(CHECKS, NEVER) | last_checks(connection)
    label = ("check",)
    off = [((name,), one.off) for name, one in sorted(last.items())]
    yield gauge(
        "check_off",
        "Guard counters or vendor bill lines that differed in the last run of a check, by check.",
        off,
        label,
    )
    alerts = [((name,), one.alerts) for name, one in sorted(last.items())]
    yield gauge(
        "check_alerts",
        "Guard counters or vendor bill lines that needed manual review in the last run of a check, by check.",
        alerts,
        label,
    )
    ages = [((name,), seconds(now_ms - one.at_ms) if one.at_ms else 0.0) for name, one in sorted(last.items())]
    yield gauge(
        "check_age_seconds",
        "Seconds since the last run of a check, or 0 if the check has never run, by check.",
        ages,
        label,
    )
    held = last_held(connection, now_ms)
    ages = [
        ((name,), seconds(now_ms - at_ms) if at_ms else 0.0)
        for name, at_ms in (("continued", held.continued_ms), ("whole", held.whole_ms))
    ]
    yield gauge(
        "proof_age_seconds",
        "Seconds since `verify` last proved all invariants, or 0 without a proof, by run (`whole` or `continued`).",
        ages,
        ("run",),
    )
    open_ = open_backfills(connection)
    yield gauge("backfills_open", "Backfills that are neither closed nor reverted.", [((), open_.count)])
    age = 0 if open_.since_ms is None else now_ms - open_.since_ms
    yield gauge(
        "backfills_oldest_age_seconds", "Seconds since the oldest open backfill was opened.", [((), seconds(age))]
    )


def gauge(
    name: str, help_: str, values: Iterable[tuple[Sequence[str], float]], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """Return a metric, with the values of the labels of each sample."""
    metric = GaugeMetricFamily(f"drawdown_{name}", help_, labels=labels)
    for key, value in values:
        metric.add_metric(list(key), value)
    return metric


def seconds(ms: int | None) -> float:
    """Return milliseconds as seconds; 0 for None or a negative number."""
    return max(int(ms or 0), 0) / SECOND_MS
