"""The list of payment services, built from the settings.

The services are the entry points of the group `drawdown.payments`.

Guarantee: a service that cannot be loaded or built is named with its reason, and disables only itself. A reason never
shows a secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

import sqlalchemy as sa

from drawdown.providers.http import Http
from drawdown.providers.payments.protocol import PaymentCapabilities, PaymentService
from drawdown.providers.protocol import Setup
from drawdown.providers.registry import NAME, PAYMENT_GROUP, in_order, package_of, secrets_of, settings_of
from drawdown.schema.clock import Clock
from drawdown.schema.text import in_short

GROUP = PAYMENT_GROUP


@dataclass(frozen=True)
class PaymentServices:
    """The usable payment services, and the reasons why others are `broken`, by name."""

    services: Mapping[str, PaymentService] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def capabilities(self) -> dict[str, PaymentCapabilities]:
        return {name: service.capabilities for name, service in self.services.items()}

    @property
    def dormant(self) -> list[str]:
        """Return the names of the dormant services, such as those without a key."""
        return sorted(name for name, service in self.services.items() if service.dormant is not None)


def load(
    settings: Mapping[str, str], clock: Clock, http: Http, engine: sa.Engine, found: Iterable[EntryPoint] | None = None
) -> PaymentServices:
    """Build every installed service.

    `settings` holds each DRAWDOWN_… setting by the rest of its name, in lower case. `found`: the entry points to build;
    None: all installed entry points.
    """
    services: dict[str, PaymentService] = {}
    broken: dict[str, str] = {}
    entries = in_order(entry_points(group=GROUP) if found is None else found)
    for entry in entries:
        name = entry.name
        is_second = name in services or name in broken
        own = settings_of(name, settings, entries)
        try:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a valid name for a payment service. Use at most 40 characters of a-z, 0-9 and "
                    "_, with a letter first"
                )
            if is_second:
                raise ValueError(f"two installed packages provide {name}. Uninstall one of them")
            services[name] = _checked(name, entry.load()(Setup(name, own, clock, http, engine)))
        except (Exception, SystemExit) as error:  # an error in another package's code disables only that service
            broken[f"{name} of {package_of(entry)}" if is_second else name] = in_short(error, secrets_of(settings))
    return PaymentServices(services, broken)


def _checked(name: str, built: object) -> PaymentService:
    """Return the built service if it is valid.

    Errors: TypeError for another object, ValueError for capabilities that cannot be obeyed.
    """
    if not isinstance(built, PaymentService):
        parts = ("name", "capabilities", "dormant", *(name for name in vars(PaymentService) if name[0] != "_"))
        missing = ", ".join(sorted({part for part in parts if not hasattr(built, part)}))
        raise TypeError(
            f"{type(built).__name__} lacks {missing} of drawdown.providers.payments.protocol.PaymentService"
        )
    can = built.capabilities
    if built.name != name:
        raise ValueError(f"its name {built.name!r} differs from the name {name!r} of its entry point")
    if not 0 <= can.lookup_lag_ms <= can.applied_within_ms:
        raise ValueError(
            f"lookup_lag_ms is {can.lookup_lag_ms}: expected 0 to applied_within_ms, which is {can.applied_within_ms}"
        )
    return built
