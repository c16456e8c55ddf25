"""`events.aggregate` of the emulated Autumn: what was asked is added up, or what was deducted, by day or hour.

Guarantee: the shapes and refusals are as recorded, and so are the sums: in binary fractions, in the order of the time.
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.emulators.autumn_call import Ask, Refused, bad
from tests.emulators.autumn_list import Event
from tests.emulators.autumn_numbers import Json

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
RANGES = {"24h": 1, "7d": 7, "30d": 30, "90d": 90}


def check_filters(ask: Ask) -> None:
    filters = ask.body.get("filter_by")
    for name, text in filters.items() if isinstance(filters, dict) else ():
        if not isinstance(text, str):
            kind = "boolean" if isinstance(text, bool) else "null" if text is None else "number"
            raise bad(f"filter_by.{name}: must be a string (received {kind})")


def aggregate(ask: Ask) -> Json:
    """The whole answer."""
    asked, deducted = ask.body, ask.body.get("aggregate_on") == "deducted"
    if deducted and asked.get("filter_by"):
        raise Refused(400, "invalid_request", "filter_by is not supported when aggregate_on is set")
    if deducted and not asked.get("customer_id"):
        raise Refused(400, "invalid_request", "customer_id is required when aggregate_on is set")
    check_filters(ask)
    feature, span = str(asked.get("feature_id")), asked.get("custom_range")
    width = HOUR_MS if asked.get("bin_size") == "hour" else DAY_MS
    start, end = ask.now_ms - RANGES[str(asked.get("range", "30d"))] * DAY_MS, ask.now_ms
    if isinstance(span, dict):
        start, end = int(span["start"]), int(span["end"])
    every = {name: value for name, value in asked.items() if name != "feature_id"}
    seen = [one for one in reversed(ask.account.events.find(every, ask.now_ms)) if start <= one.ts <= end]
    found = [one for one in seen if one.feature == feature]
    periods = range(start - start % width, end + 1, width)
    by_period = {ts: [one for one in found if ts <= one.ts < ts + width] for ts in periods}
    group = str(asked.get("group_by", ""))
    answer: Json = {
        "list": [_period(ts, feature, events, group) for ts, events in by_period.items()],
        "total": {feature: {"count": len(found), "sum": _sum(one.value for one in found)}},
    }
    if not deducted:
        return answer
    return answer | {"deductions": [_deducted(ask, feature, ts, _within(seen, ts, width), group) for ts in periods]}


def _within(events: list[Event], ts: int, width: int) -> list[Event]:
    return [one for one in events if ts <= one.ts < ts + width]


def _sum(values: Iterable[object]) -> float:
    return sum((float(str(one)) for one in values), 0.0)


def _period(ts: int, feature: str, events: list[Event], group: str) -> Json:
    """Grouped by a property, events without it count in the total only (I5)."""
    if not group.startswith("properties."):
        return {"period": ts, "values": {feature: _sum(one.value for one in events)}}
    name, groups = group.removeprefix("properties."), dict[str, list[Event]]()
    for one in events:
        if name in one.properties:
            groups.setdefault(str(one.properties[name]), []).append(one)
    sums = {text: _sum(one.value for one in those) for text, those in groups.items()}
    return {"period": ts, "values": {feature: _sum(sums.values())}, "grouped_values": {feature: sums}}


def _deducted(ask: Ask, feature: str, ts: int, events: list[Event], group: str) -> Json:
    """By balance. Asked by the pool, all that was deducted from it; else all that a feature's events deducted."""
    pool = ask.account.features[feature].kind == "credit_system" if feature in ask.account.features else False
    taken = [
        (one, part)
        for one in events
        for part in one.deductions
        if (part["feature_id"] == feature if pool else one.feature == feature)
    ]
    values: dict[str, object] = {}
    for name in dict.fromkeys(str(part["feature_id"]) for _, part in taken):
        those = [(one, part) for one, part in taken if part["feature_id"] == name]
        ids = dict.fromkeys(str(part["balance_id"]) for _, part in those)
        values[name] = {
            "feature_type": ask.account.features[name].kind,
            **_figures(those),
            "balances": [_balance(ask, name, [one for one in those if one[1]["balance_id"] == each]) for each in ids],
        }
    answer: Json = {"period": ts, "values": values}
    if group == "$feature_id":
        grouped: dict[str, dict[str, object]] = {}
        for one, part in taken:
            name, balance_id = str(part["feature_id"]), str(part["balance_id"])
            same = [each for each in taken if each[1]["balance_id"] == balance_id and each[0].feature == one.feature]
            told = {"deducted": _figures(same)["deducted"], "credit_cost": _cost(ask, name, same)}
            grouped.setdefault(balance_id, {})[one.feature] = told
        answer["grouped_values"] = grouped
    return answer


def _figures(taken: list[tuple[Event, Json]]) -> Json:
    return {"deducted": _sum(part["value"] for _, part in taken), "events": len({one.name for one, _ in taken})}


def _balance(ask: Ask, feature: str, taken: list[tuple[Event, Json]]) -> Json:
    part = taken[0][1]
    named = {"balance_id": part["balance_id"], "entity_id": None, "plan_id": part["plan_id"], "reset": part["reset"]}
    return {**named, "credit_cost": _cost(ask, feature, taken), **_figures(taken)}


def _cost(ask: Ask, pool: str, taken: list[tuple[Event, Json]]) -> object:
    """Of a unit, where all events are of one feature that the schema has."""
    features = {one.feature for one, _ in taken}
    return ask.account.features[pool].credit_schema.get(features.pop()) if len(features) == 1 else None
