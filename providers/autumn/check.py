"""The faults of an Autumn account, in lines with the next step. Pure.

Guarantee: each line names the setting, feature or customer it is about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drawdown.providers.autumn.customers import AutumnCustomer, Unreadable
from drawdown.providers.autumn.settings import AutumnSettings


@dataclass(frozen=True)
class AutumnFeature:
    """`of` are the features a credit system pays for."""

    name: str
    kind: str
    consumable: bool
    archived: bool
    of: frozenset[str]


def read_features(body: Mapping[str, object]) -> dict[str, AutumnFeature]:
    """The account's features. Errors: Unreadable."""
    listed = body.get("list")
    if not isinstance(listed, list):
        raise Unreadable("Autumn's answer has no list of features")
    found = [_feature(item) for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str)]
    return {feature.name: feature for feature in found}


def _feature(item: Mapping[str, object]) -> AutumnFeature:
    credits = item.get("credit_schema")
    items = credits if isinstance(credits, list) else []
    paid = [part.get("metered_feature_id") for part in items if isinstance(part, dict)]
    kind = str(item.get("type"))
    return AutumnFeature(
        name=str(item["id"]),
        kind=kind,
        consumable=kind == "credit_system" or (kind == "metered" and item.get("consumable") is not False),
        archived=item.get("archived") is True,
        of=frozenset(str(name) for name in paid),
    )


def feature_lines(settings: AutumnSettings, listed: Mapping[str, AutumnFeature], features: Sequence[str]) -> list[str]:
    """Features that cannot be billed, and settings that name none."""
    lines = [line for name in sorted(set(features)) if (line := _billed(name, listed.get(name))) is not None]
    name = settings.balance_feature
    if name is not None and (name not in listed or not listed[name].consumable):
        lines.append(f"{settings.variable('balance_feature')} names {name}, which is no consumable feature at Autumn")
    held = listed.get(settings.concurrency_feature)
    if held is not None and held.consumable:
        lines.append(
            f"{settings.variable('concurrency_feature')} names {held.name}, which is consumable at Autumn: "
            "concurrency is held, not used up"
        )
    return lines


def _billed(name: str, found: AutumnFeature | None) -> str | None:
    if found is None:
        return f"feature {name}: Autumn has none of that name; create it there, metered and consumable"
    if found.archived:
        return f"feature {name} is archived at Autumn"
    if found.kind != "metered":
        return f"feature {name} is {found.kind} at Autumn, and only metered ones can be charged"
    if not found.consumable:
        return f"feature {name} is not consumable at Autumn: usage would be held, not used up"
    return None


@dataclass
class CheckReport:
    """Gathers lines."""

    settings: AutumnSettings
    listed: Mapping[str, AutumnFeature]
    lines: list[str] = field(default_factory=list)

    def customer(self, customer_id: str, customer: AutumnCustomer, features: Sequence[str]) -> None:
        """A charge of a feature without a balance is answered 200 and charges nothing (recorded)."""
        has = customer.balances.keys()
        paid = has | {name for credit in has if credit in self.listed for name in self.listed[credit].of}
        for name in sorted(set(features) - paid):
            self.lines.append(
                f"customer {customer_id} has no balance of {name}: its usage would be charged nothing; "
                "give it a plan that grants some"
            )
        wanted = self.settings.balance_feature
        if wanted is not None and wanted not in has:
            self.lines.append(f"customer {customer_id} has no balance of {wanted}, so it would be halted")
