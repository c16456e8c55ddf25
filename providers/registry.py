"""The list of providers, built from the settings.

The providers are the entry points of the group `drawdown.providers`.

Guarantee: a provider that cannot be loaded or built is named with its reason, and disables only itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import sqlalchemy as sa

from drawdown.providers.http import Http
from drawdown.providers.kit.clients import clients_of, trouble
from drawdown.providers.protocol import Capabilities, Provider, Setup
from drawdown.providers.validated_provider import ValidatedProvider
from drawdown.schema.clock import Clock
from drawdown.schema.text import in_short
from drawdown.schema.units import EXEMPT_PROVIDERS

GROUP: Final = "drawdown.providers"
PAYMENT_GROUP: Final = "drawdown.payments"
SHORTEST_SECRET: Final = 6
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True)
class Registry:
    """The usable providers, and the reasons why others are `broken`, by name."""

    providers: Mapping[str, Provider] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)

    @property
    def capabilities(self) -> dict[str, Capabilities]:
        return {name: provider.capabilities for name, provider in self.providers.items()}

    def renewed(self, made: Registry) -> Registry:
        """Return the providers of a newer registry.

        If a provider could not be built again, keep that of this registry.
        """
        kept = {name: provider for name, provider in self.providers.items() if name in made.broken}
        return Registry(
            {**made.providers, **kept}, {name: why for name, why in made.broken.items() if name not in kept}
        )


def installed() -> list[EntryPoint]:
    """Return the entry points installed on this machine, in the order of their names.

    If several entry points share a name, that of this package comes first.
    """
    return in_order(entry_points(group=GROUP))


def in_order(found: Iterable[EntryPoint]) -> list[EntryPoint]:
    """Return entry points by name. If names are equal, that of this package is first."""
    return sorted(found, key=lambda entry: (entry.name, package_of(entry) != "drawdown"))


def package_of(entry: EntryPoint) -> str:
    return "" if entry.dist is None else entry.dist.name


def settings_of(name: str, settings: Mapping[str, str], found: Iterable[EntryPoint]) -> dict[str, str]:
    """Return the settings of one name, by the rest of their names.

    A setting that fits two names belongs to the longer one: DRAWDOWN_STRIPE_X_KEY is a setting of `stripe_x`, not of
    `stripe`. The names are those of `found`, and of all installed providers and payment services.
    """
    there = [*found, *entry_points(group=GROUP), *entry_points(group=PAYMENT_GROUP)]
    longer = tuple(f"{entry.name}_" for entry in there if entry.name.startswith(f"{name}_"))
    own = {key: text for key, text in settings.items() if key.startswith(f"{name}_") and not key.startswith(longer)}
    return {key.removeprefix(f"{name}_"): text for key, text in own.items()}


def load(
    settings: Mapping[str, str], clock: Clock, http: Http, engine: sa.Engine, found: Iterable[EntryPoint] | None = None
) -> Registry:
    """Build every installed provider.

    `settings` holds each DRAWDOWN_… setting by the rest of its name, in lower case. `found`: the entry points to build;
    None: all installed entry points.
    """
    providers: dict[str, Provider] = {}
    broken: dict[str, str] = {}
    entries = installed() if found is None else list(found)
    for entry in entries:
        try:
            name = _checked_name(entry.name, {**providers, **broken})
            own = settings_of(name, settings, entries)
            providers[name] = ValidatedProvider(_checked(name, entry.load()(Setup(name, own, clock, http, engine))))
        except (Exception, SystemExit) as error:  # an error in another package's code disables only that provider
            is_second = entry.name in providers or entry.name in broken
            name = f"{entry.name} of {package_of(entry)}" if is_second else entry.name
            broken[name] = in_short(error, secrets_of(settings))
    return Registry(providers, broken)


def secrets_of(settings: Mapping[str, str]) -> list[str]:
    """Return the values of the settings that an error must not show.

    The longest comes first, because it may contain another.
    """
    return sorted((value for value in settings.values() if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def _checked_name(name: str, taken: Collection[str]) -> str:
    if not NAME.fullmatch(name) or name in EXEMPT_PROVIDERS:
        raise ValueError(
            f"{name!r} is not a valid name for a provider. Use at most 40 characters of a-z, 0-9 and _, with a letter "
            f"first, and not {' or '.join(sorted(EXEMPT_PROVIDERS))}"
        )
    if name in taken:
        raise ValueError(f"two installed packages provide {name}. Uninstall one of them")
    return name


def _checked(name: str, built: object) -> Provider:
    """Return the built provider if it is valid.

    Errors: TypeError for another object, ValueError for capabilities that contradict themselves.
    """
    if not isinstance(built, Provider):
        parts = ("name", "capabilities", "dormant", *(name for name in vars(Provider) if name[0] != "_"))
        missing = sorted({part for part in parts if not hasattr(built, part)})
        raise TypeError(f"{type(built).__name__} lacks {', '.join(missing)} of drawdown.providers.protocol.Provider")
    if built.name != name:
        raise ValueError(f"its name {built.name!r} differs from the name {name!r} of its entry point")
    for fault in built.capabilities.faults():
        raise ValueError(fault)
    for client in clients_of(built):
        if (why := trouble(client)) is not None:
            raise ValueError(why)
    return built
