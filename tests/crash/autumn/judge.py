"""The judge of the siege of Autumn: the service's own books beside the samples, in credits, to the last digit.

Guarantee: of our tables only that is read which a person was told: amounts of balances, pushes in doubt, and rejected
ones. A difference is explained if it is exactly that, and if what was told is what some of the service's own mishaps
came to, each at the cost of its charge. Anything else is silent (nothing was told) or unexplained.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Final

from tests.acceptance.tables import rows
from tests.crash.autumn.books import Books, Watched, drawn_of
from tests.crash.autumn.setting import BY_HAND, CHANGED, NEW_COST, Setting, Struck
from tests.emulators.autumn_losses import Charge
from tests.emulators.serve import CREDITS, CREDITS_PER_GB_SECOND

TOLD = """
SELECT customer_id, feature, told_qty, scale, unsure_qty FROM balance_marks
WHERE provider = 'autumn' AND (told_qty <> 0 OR unsure_qty <> 0)
"""
OPEN = """
SELECT state, customer_id, feature, COALESCE(wire_key, key), sent_qty FROM pushes
WHERE state NOT IN ('accepted', 'voided')
"""
BACK_LATER = """
SELECT p.customer_id, p.feature, p.window_ms, SUM(p.sent_qty) FROM pushes p
JOIN dirty_windows d ON d.org_id = p.org_id AND d.window_ms = p.window_ms
WHERE p.state <> 'voided' GROUP BY p.customer_id, p.feature, p.window_ms HAVING MAX(p.state) = 'rejected'
"""
"""A window is given back nothing while a push of it waits: its windows are counted as dirty."""
VOIDED = "SELECT COALESCE(wire_key, key) FROM pushes WHERE state = 'voided'"
Amounts = Mapping[str, Fraction]
"""Credits by customer."""
MOST_SUMS: Final = 50_000
"""Of a customer's mishaps: where they come to more different sums, what was told is not held against them."""
PARTS: Final = 10**12
"""To the credit."""
NEWER: Final = Fraction(NEW_COST) - Fraction(CREDITS_PER_GB_SECOND) * 8
"""By how much a unit of the changed feature costs more since."""
Mishap = tuple[Fraction, Fraction]
"""Credits that were drawn beyond what was billed, and how many units of the changed feature at its new cost."""


@dataclass
class Verdict:
    """What was found. Amounts are credits, by customer."""

    exact: int = 0
    """Customers whose balance is samples times cost, with nothing told."""
    told: dict[str, Fraction] = field(default_factory=dict)
    """Differences of balances that a person was told, each exactly."""
    doubted: dict[str, Fraction] = field(default_factory=dict)
    """Pushes in doubt that were not charged."""
    waiting: dict[str, Fraction] = field(default_factory=dict)
    """Rejected pushes: they wait for credit."""
    back_later: dict[str, Fraction] = field(default_factory=dict)
    """Known to be charged too much, in windows with a rejected push: given back once that is settled."""
    ranged: int = 0
    """Customers of whom a person was told an amount, and by how much more it may be: the difference lies in that."""
    unweighed: int = 0
    """Customers of whom something was told, and whose mishaps are too many to weigh it against them."""
    silent: dict[str, Fraction] = field(default_factory=dict)
    unexplained: dict[str, str] = field(default_factory=dict)
    other_states: list[tuple[object, ...]] = field(default_factory=list)

    @property
    def wrong(self) -> str | None:
        """Why the siege failed; None: it did not."""
        if self.silent or self.unexplained or self.other_states:
            return f"silent {_some(self.silent)}; unexplained {_some(self.unexplained)}; open {self.other_states[:5]}"
        return None


def _some(found: Mapping[str, object]) -> str:
    first = ", ".join(f"{name}: {one}" for name, one in list(found.items())[:5])
    return f"{len(found)} ({first})" if found else "0"


def shown(amount: Fraction) -> str:
    """A decimal, without loss: costs have few digits."""
    return f"{float(amount):.10f}".rstrip("0").rstrip(".")


def judge(
    url: str,
    setting: Setting,
    autumn: Struck,
    beside: Amounts,
    made_up: Amounts,
    unsure: Amounts,
    undecided: frozenset[str] = frozenset(),
) -> Verdict:
    """Customer by customer. `beside`: what the last comparison told and did not remember. `made_up`: what of that a
    person put right by hand before. `unsure`: by how much more that may be, as was told with it. `undecided`: those
    that wait for a person's decision are left out."""
    found = Verdict()
    told, ranges = _told(url)
    doubted, waiting, others = _open(url, autumn)
    found.other_states = [one for one in others if one[0] not in undecided]
    found.back_later = _back_later(url, setting)
    voided = {str(key) for (key,) in rows(url, VOIDED)}
    used = setting.used()
    for customer in setting.customers:
        name = customer.name
        if name in undecided:
            continue
        units = {feature: used[name, feature] for feature in customer.features}
        apart = told.get(name, Fraction(0)) + beside.get(name, Fraction(0))
        missing = doubted.get(name, Fraction(0)) + waiting.get(name, Fraction(0))
        missing -= found.back_later.get(name, Fraction(0))
        beyond = _beyond(autumn, name, units) - apart + missing
        claimed = apart + made_up.get(name, Fraction(0))
        is_asked = claimed or (beyond and CHANGED in units)
        weighing = Weighing(
            _mishaps(autumn, name, voided) if is_asked else (), _either(autumn, name, voided) if is_asked else ()
        )
        found.unweighed += weighing.sums is None
        is_weighed = weighing.explains(claimed, beyond) or (not claimed and _is_other_push(autumn, name, beyond))
        if (
            not is_weighed
            and beyond in _rests(_lost(autumn), name)
            and weighing.explains(claimed + beyond, Fraction(0))
        ):
            is_weighed, beyond = True, Fraction(0)  # the lost charge was told, and not the rest of its last unit
        if (
            not is_weighed
            and beyond in _rests(autumn.account.doubles, name)
            and weighing.explains(claimed, Fraction(0))
        ):
            is_weighed, beyond = True, Fraction(0)  # of two charges of a push, the one that a limit cut counts
        may_be = ranges.get(name, Fraction(0)) + unsure.get(name, Fraction(0))
        found.ranged += not is_weighed and may_be > 0
        if not is_weighed and may_be and CHANGED in units:
            most = int(may_be / NEWER)
            some = [number * NEWER for number in range(-most, most + 1)]
            is_weighed = any(weighing.explains(claimed - one, beyond + one) for one in some)
        if not is_weighed and beyond and abs(beyond) <= may_be:
            continue  # the difference lies in the range that a person was shown
        if beyond and not (CHANGED in units and is_weighed):
            if apart or missing:
                found.unexplained[name] = f"{shown(beyond)} beside told {shown(apart)} and open {shown(missing)}"
            else:
                found.silent[name] = beyond
        elif not is_weighed:
            found.unexplained[name] = f"{shown(claimed)} was told, and no mishaps come to that"
        elif not apart and not missing:
            found.exact += 1
    found.told |= {name: amount for name, amount in told.items() if amount}
    found.doubted |= doubted
    found.waiting |= waiting
    return found


def cost_of(feature: str) -> Fraction:
    """Before any change."""
    return Fraction(CREDITS_PER_GB_SECOND) * int(feature.removeprefix("compute_").removesuffix("gb"))


def _beyond(autumn: Struck, name: str, used: Mapping[str, int]) -> Fraction:
    """What the balance lacks beyond samples times cost; own units count at the feature's cost. The rest of a unit that
    a limit ended is charged to nobody, and no person is told of it."""
    account = autumn.account
    drawn = Fraction(_books(autumn).drawn.get((name, CREDITS), 0)) - Fraction(account.changed.get((name, CREDITS), 0))
    for feature in used:
        drawn += Fraction(_books(autumn).drawn.get((name, feature), 0)) * cost_of(feature)
    expected = sum((units * cost_of(feature) for feature, units in used.items()), Fraction(0))
    mishaps = {id(one) for one in (*account.eventless, *account.doubles)}  # with their exact credits
    broken = [one for one in _books(autumn).broken if one.customer == name and id(one) not in mishaps]
    expected += sum((_rounding(one)[0] for one in broken), Fraction(0))
    return drawn - expected - _books(autumn).at_cost.get((name, CHANGED, Fraction(NEW_COST)), Fraction(0)) * NEWER


def _books(autumn: Struck) -> Books:
    books = autumn.account.books
    assert isinstance(books, Books)
    return books


def _mishaps(autumn: Struck, name: str, voided: Set[str]) -> list[Mishap]:
    """What the service lost, doubled or clamped inside a unit, and what a person changed without a record. `voided`:
    keys of pushes that were voided."""
    account = autumn.account
    lost = _lost(autumn)
    found = [_mishap(one, sign) for one, sign in _whole(autumn, name, voided) if not _is_changed(one)]
    eventless = {id(one) for one in account.eventless}
    known = {id(one) for one in _books(autumn).broken}
    found += [_rounding(one) for one in lost if one.customer == name and id(one) not in known]
    found += [_rounding(one) for one in _books(autumn).broken if one.customer == name and id(one) in eventless]
    assert isinstance(account, Watched)
    for one, asked in account.limited:  # a person who decides about a push sees no part of it
        if one.customer == name and id(one) in eventless:
            found.append(((Fraction(one.value) - Fraction(asked)) * cost_of(one.feature), Fraction(0)))
    if autumn.by_hand.get(name):
        found.append((-autumn.by_hand[name] * Fraction(BY_HAND), Fraction(0)))
    return found


def _lost(autumn: Struck) -> list[Charge]:
    account = autumn.account
    undone = account.store.undone_charges
    ids = {id(one) for one in undone}
    return [*undone, *(one for one in account.undrawn if id(one) not in ids), *account.lost]


def _whole(autumn: Struck, name: str, voided: Set[str]) -> list[tuple[Charge, int]]:
    """Charges of a customer that were lost (-1) or drawn twice (1). What was drawn without an event is, too: the push
    was found absent, voided, and sent again."""
    account = autumn.account
    again = [*account.doubles, *(one for one in account.eventless if one.key in voided)]
    found = [*((one, -1) for one in _lost(autumn)), *((one, 1) for one in again)]
    return [(one, sign) for one, sign in found if one.customer == name]


def _is_changed(made: Charge) -> bool:
    """Whether own units of the changed feature were drawn."""
    return made.feature == CHANGED and bool(drawn_of(made.feature, made.parts)[0])


def _either(autumn: Struck, name: str, voided: Set[str]) -> list[tuple[Mishap, Mishap]]:
    """Mishaps with own units of the changed feature, which come to what the cost of their moment says: that of before
    or the new one."""
    found = []
    for made, sign in _whole(autumn, name, voided):
        if _is_changed(made):
            own, (credits, units) = sign * drawn_of(made.feature, made.parts)[0], _mishap(made, sign)
            found.append(((credits, units), (credits + own * NEWER, units + own)))
    return found


def _is_other_push(autumn: Struck, name: str, beyond: Fraction) -> bool:
    """Whether the difference is the new cost of units that were given back, and that no charge doubled, or of units
    that were lost. If pushes that were sent twice made up an amount that others drew or lost, the credits are exact,
    and other units gave them back."""
    of_newer = name, CHANGED, Fraction(NEW_COST)
    doubled = [Fraction(one.value) for one in autumn.account.doubles if one.customer == name and one.feature == CHANGED]
    units = [one for one in _books(autumn).given_back.get(of_newer, ()) if one not in doubled]
    units += [-_mishap(one, -1)[1] for one in _lost(autumn) if one.customer == name]
    sums = {Fraction(0)}
    for one in units:
        sums |= {before + one for before in sums}
        if len(sums) > MOST_SUMS:
            return False
    return beyond > 0 and beyond / NEWER in sums


def _rounding(made: Charge) -> Mishap:
    """A limit ended the charge inside a unit: that unit counts as billed whole. Without an event its rest is told."""
    value = Fraction(made.value)
    whole = ceil(value) if value > 0 else -ceil(-value)
    return (value - whole) * cost_of(made.feature), Fraction(0)


def _rests(charges: Sequence[Charge], name: str) -> set[Fraction]:
    """Return the sums of the rests of units that limits ended in these charges: nobody is charged for them."""
    sums = {Fraction(0)}
    for rest in [_rounding(one)[0] for one in charges if one.customer == name]:
        sums |= {before + rest for before in sums}
        assert len(sums) <= MOST_SUMS, f"limits ended more charges of {name} than can be weighed"
    return sums - {0}


def _mishap(made: Charge, sign: int) -> Mishap:
    own, credits = drawn_of(made.feature, made.parts)
    units = Fraction(made.value) - own
    is_newer = made.feature == CHANGED and units and credits / units == Fraction(NEW_COST)
    return sign * (own * cost_of(made.feature) + credits), sign * units if is_newer else Fraction(0)


class Weighing:
    """A customer's mishaps, and what was told of them; `either`: of each one of two.

    `sums`: all that some of them come to; None: too many."""

    def __init__(self, mishaps: Sequence[Mishap], either: Sequence[tuple[Mishap, Mishap]] = ()) -> None:
        ways = [*((one,) for one in mishaps), *either]
        self._most_units = sum((max(abs(units) for _, units in way) for way in ways), Fraction(0))
        self.sums: set[tuple[int, Fraction]] | None = {(0, Fraction(0))}
        for way in ways:
            grown = set(self.sums)
            for credits, units in way:
                amount = _parts(credits)
                assert amount is not None, f"{credits} has more digits than any charge"
                grown |= {(before + amount, old + units) for before, old in self.sums}
            self.sums = grown
            if len(self.sums) > MOST_SUMS:
                self.sums = None
                return

    def explains(self, claimed: Fraction, beyond: Fraction) -> bool:
        """Whether some mishaps come to what was told. A unit of the changed feature that was lost or drawn twice was
        one of the old cost or of the new: what is beyond that is of those at the new one."""
        units = -beyond / NEWER
        if self.sums is None:
            return units.denominator == 1 and abs(units) <= self._most_units
        amount = _parts(claimed)
        return amount is not None and (amount, units) in self.sums


def _parts(credits: Fraction) -> int | None:
    """Credits in parts that each charge is a whole number of; None: they are none."""
    found = credits * PARTS
    return found.numerator if found.denominator == 1 else None


def _told(url: str) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """What a person was told of balances, and by how much more that may be."""
    found: dict[str, Fraction] = {}
    unsure: dict[str, Fraction] = {}
    for customer, feature, quantity, scale, more in rows(url, TOLD):
        assert feature == CREDITS, "balances are compared in credits"
        found[str(customer)] = Fraction(int(str(quantity)), int(str(scale)))
        unsure[str(customer)] = Fraction(int(str(more)), int(str(scale)))
    return found, unsure


def _open(url: str, autumn: Struck) -> tuple[dict[str, Fraction], dict[str, Fraction], list[tuple[object, ...]]]:
    """What pushes in doubt were not charged, and rejected ones; both are told with their amounts. And other states."""
    doubted: dict[str, Fraction] = defaultdict(Fraction)
    waiting: dict[str, Fraction] = defaultdict(Fraction)
    others: list[tuple[object, ...]] = []
    for state, customer, feature, key, quantity in rows(url, OPEN):
        amount = int(str(quantity)) * cost_of(str(feature))
        if state == "in_doubt":
            doubted[str(customer)] += amount if autumn.charged_under(str(key)) is None else 0
        elif state == "rejected":
            waiting[str(customer)] += amount
        else:
            others.append((str(customer), state, key))
    return dict(doubted), dict(waiting), others


def _back_later(url: str, setting: Setting) -> dict[str, Fraction]:
    """What is charged beyond the samples of a window that waits for a rejected push."""
    used = setting.used_by_window()
    found: dict[str, Fraction] = defaultdict(Fraction)
    for customer, feature, window, quantity in rows(url, BACK_LATER):
        units = int(str(quantity)) - used.get((str(customer), str(feature), int(str(window))), 0)
        if units > 0:
            found[str(customer)] += units * cost_of(str(feature))
    return dict(found)
