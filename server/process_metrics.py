"""Count refusals, items and guard decisions of one process.

The database does not store these counts, so they begin at zero with the process.

Guarantee: each label has a bounded number of values, for any input of callers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric

from drawdown.worker.guard.lists import MOST_NAMES, OTHER

REFUSED: Final = ("batches", "bodies", "connections", "items", "keys", "requests", "strangers")
CALLS: Final = ("check", "consume", "reserve", "settle", "release", "extend")
DECIDING: Final = ("check", "consume", "reserve", "extend")
LIMITS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class GuardCalls:
    """The number and the durations of this process's guard responses. For one thread."""

    def __init__(self) -> None:
        self.decided: Counter[tuple[str, str, str, str]] = Counter()
        """Number of decisions by call, metric, decision and enforcement (`true` or `false`)."""
        self.took: dict[str, Counter[float | None]] = {call: Counter() for call in CALLS}
        """Number of responses of each call, by the smallest limit of LIMITS_S that the duration met.

        The limit is None above all limits.
        """
        self.sums: Counter[str] = Counter()
        self._named: set[str] = set()

    def answered(self, call: str, answer: Mapping[str, object]) -> None:
        """Count the guard's decision in this response.

        A repeat, a settlement or a release is not counted.
        """
        if call in DECIDING and not answer["repeated"]:
            enforced = str(answer["enforced"]).lower()
            self.decided[call, self._name(str(answer["metric"])), str(answer["decision"]), enforced] += 1

    def timed(self, call: str, took_s: float) -> None:
        """Count the duration of a response, in seconds from its request on."""
        self.took[call][next((limit for limit in LIMITS_S if took_s <= limit), None)] += 1
        self.sums[call] += took_s  # type: ignore[assignment]

    def _name(self, metric: str) -> str:
        if metric not in self._named and len(self._named) >= MOST_NAMES:
            return OTHER
        self._named.add(metric)
        return metric


def refusals(refused: Mapping[str, int]) -> Metric:
    """Return the refusals of this process, by kind."""
    return _counted(
        "server_refused",
        "Requests and connections that this process refused since its start above a limit, by kind of limit (`what`).",
        "what",
        refused,
    )


def fail_open_uses(uses: Mapping[str, int]) -> Metric:
    """Return the uses that the guard allowed while its database was unavailable.

    The metric counts the uses by outcome.
    """
    says = "Guard uses that this process allowed since its start while its database was unavailable, by outcome."
    return _counted("guard_fail_open", says, "outcome", uses)


def denials(denied: Mapping[str, int]) -> Metric:
    """Return the refused calls of programs of this process, by code."""
    return _counted("programs_denied", "API calls that this process refused since its start, by code.", "code", denied)


def intake(items: Mapping[tuple[str, str], int]) -> Metric:
    """Return the items that programs sent to this process, by kind and outcome."""
    labels = ("kind", "status")
    metric = CounterMetricFamily(
        "drawdown_intake_items",
        "Events and samples that this process answered since its start, by kind and status.",
        labels=labels,
    )
    for found, count in sorted(items.items()):
        metric.add_metric(found, count)
    return metric


def guard_calls(calls: GuardCalls) -> Iterator[Metric]:
    """Yield the guard's decisions of this process, and the durations of its responses."""
    labels = ("call", "metric", "decision", "enforced")
    metric = CounterMetricFamily(
        "drawdown_guard_decisions",
        "Guard decisions of this process since its start, without repeats, by call, metric, decision and enforcement.",
        labels=labels,
    )
    for key, times in sorted(calls.decided.items()):
        metric.add_metric(key, times)
    yield metric
    took = HistogramMetricFamily(
        "drawdown_guard_seconds",
        "Seconds from request to response of a guard call, in this process since its start, by call.",
        labels=("call",),
    )
    for call in CALLS:
        buckets, total = [], 0
        for limit in (*LIMITS_S, None):
            total += calls.took[call][limit]
            buckets.append(("+Inf" if limit is None else str(limit), float(total)))
        took.add_metric((call,), buckets, sum_value=float(calls.sums[call]))
    yield took


def _counted(name: str, says: str, label: str, counts: Mapping[str, int]) -> Metric:
    metric = CounterMetricFamily(f"drawdown_{name}", says, labels=(label,))
    for value, count in sorted(counts.items()):
        metric.add_metric((value,), count)
    return metric
