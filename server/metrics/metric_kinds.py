"""The kinds of metrics. Guarantee: an age is never negative, even where two clocks differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily

from drawdown.schema.units import SECOND_MS


def gauge(
    name: str, help_: str, values: Iterable[tuple[Sequence[str], float]], labels: Sequence[str] = ()
) -> GaugeMetricFamily:
    """One metric; each value is given with those of its labels."""
    metric = GaugeMetricFamily(f"drawdown_{name}", help_, labels=labels)
    for key, value in values:
        metric.add_metric(list(key), value)
    return metric


def seconds(ms: int | None) -> float:
    """Milliseconds as seconds."""
    return max(int(ms or 0), 0) / SECOND_MS
