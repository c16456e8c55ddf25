"""The faults of an Autumn account, one line each with the next step.

Guarantee: this module is pure. Each line names its setting, feature or customer. A customer has one line for each kind
of fault, even if the fault concerns several features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from drawdown.providers.autumn.credits import AutumnFeature, Schema, decimals
from drawdown.providers.autumn.customers import AutumnCustomer, decider
from drawdown.providers.autumn.settings import AutumnSettings
from drawdown.providers.validated_provider import MAX_COST, MAX_DECIMALS


def feature_lines(settings: AutumnSettings, schema: Schema, features: Sequence[str]) -> list[str]:
    """Return the faults of features and of settings that name features, one line each."""
    billed = sorted(set(features))
    lines = [line for name in billed if (line := _billed(name, schema.features.get(name))) is not None]
    for name in billed:
        lines += _costs(name, schema)
    decides = decider(settings, schema)
    outside = [name for name in billed if schema.is_consumable(name) and schema.is_in_none(name)]
    if outside and decides in schema.systems:
        lines.append(
            f"credit system {decides} alone decides about halts, but does not pay for {', '.join(outside)}. Add each "
            f"to it at Autumn, or set {settings.variable('balance_feature')} to another balance"
        )
    if (fault := balance_feature_fault(settings, schema)) is not None:
        lines.append(fault)
    held = schema.features.get(settings.concurrency_feature)
    if held is not None and held.consumable:
        lines.append(
            f"{settings.variable('concurrency_feature')} names {held.name}, which is consumable at Autumn, but "
            "concurrency is not used up. Name a feature that is not consumable"
        )
    return lines


def balance_feature_fault(settings: AutumnSettings, schema: Schema) -> str | None:
    """Return the fault of BALANCE_FEATURE; None if it is valid.

    A missing feature would count as a balance of zero, and seats would count as credit.
    """
    name = settings.balance_feature
    if name is None or (name in schema.features and schema.features[name].consumable):
        return None
    return (
        f"{settings.variable('balance_feature')} names {name}, which is not a consumable feature at Autumn. "
        "Set it to a feature or a credit system of this account"
    )


def _billed(name: str, found: AutumnFeature | None) -> str | None:
    if found is None:
        return f"feature {name} does not exist at Autumn. Create it there, metered and consumable"
    if found.archived:
        return f"feature {name} is archived at Autumn. Restore it, or map its usage to another feature"
    if found.kind != "metered":
        return (
            f"feature {name} is {found.kind} at Autumn, and Autumn charges only metered features. Create a "
            "metered feature"
        )
    if not found.consumable:
        return f"feature {name} is not consumable at Autumn, so usage would not be used up. Create a consumable feature"
    return None


def _costs(name: str, schema: Schema) -> Iterator[str]:
    """Yield a line for each fault of a feature's costs in the credit systems."""
    payers = sorted(schema.payers(name))
    if len(payers) > 1:
        yield (
            f"feature {name} is in {len(payers)} credit systems at Autumn ({', '.join(payers)}), so its cost is "
            "unknown. Leave it in one credit system"
        )
    found = schema.features.get(name)
    if payers and found is not None and found.kind == "metered" and not found.consumable:
        yield (
            f"feature {name} is held as seats at Autumn, and credit system {payers[0]} charges for it. "
            "Create a consumable feature for its usage"
        )
    for system in payers:
        cost = schema.cost(name, system)
        if cost is None:
            yield f"feature {name} does not have a readable cost in credit system {system}. Set a cost at Autumn"
        elif cost <= 0:
            yield f"feature {name} costs {cost:f} in credit system {system}: its usage is free. Set a cost above zero"
        elif cost > MAX_COST:
            yield (
                f"feature {name} costs {cost:f} in credit system {system}: Drawdown counts costs up to {MAX_COST:,} "
                "credits. Use a smaller unit of usage"
            )
        elif decimals(cost) > MAX_DECIMALS:
            yield (
                f"feature {name} costs {cost:f} in credit system {system}: Autumn keeps balances to {MAX_DECIMALS} "
                "decimals. Use a larger unit of usage, or a cost with fewer decimals"
            )


@dataclass
class CheckReport:
    """The lines of one check."""

    settings: AutumnSettings
    schema: Schema
    lines: list[str] = field(default_factory=list)

    def customer(self, customer_id: str, customer: AutumnCustomer, features: Sequence[str]) -> None:
        """Add the faults of one customer.

        If the customer lacks a balance of a feature, Autumn returns 200 without a charge (observed in recorded calls).
        """
        has = customer.balances.keys()
        unpaid = sorted(name for name in set(features) - has if not has & set(self.schema.payers(name)))
        if unpaid:
            self.lines.append(
                f"customer {customer_id} does not have a balance of {', '.join(unpaid)}, so Autumn would not charge "
                "its usage. Give the customer a plan that grants a balance, or credits of a credit system that pays "
                "for the feature"
            )
        wanted = self.settings.balance_feature
        if wanted is not None and wanted not in has:
            self.lines.append(
                f"customer {customer_id} does not have a balance of {wanted}, so Drawdown would halt it. Give the "
                "customer a plan with this balance"
            )
        for control in customer.controls.unknown:
            self.lines.append(
                f"customer {customer_id} has {control}, which Drawdown does not understand. Autumn may refuse "
                "usage that Drawdown allows. Remove the control, or report it"
            )
