"""An account: a wallet in its parts, as people and programs read it. Reads only.

Guarantee: what is due in the wallet by now counts as done, as it does for whoever reserves: a hold that is over is
free, a month that began is given; and what was used and is not charged yet is not available. What is left of the
lots, less what no lot paid for, is the balance; available, reserved and unbilled are the balance, too, with what is
over: what is left of lots that are over and not booked yet is in the balance, and in no lot. A tier that falls due is
in the balance sooner than in the lots.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from drawdown.ledger import lots, maturing
from drawdown.ledger.accounts import wallet_account
from drawdown.providers.embedded import NAME as EMBEDDED
from drawdown.schema import ids
from drawdown.schema.sql import queries, together
from drawdown.schema.units import EXEMPT_PROVIDERS, in_credits
from drawdown.worker.catalog.wallets import billers_part, terms_part, with_wallets
from drawdown.worker.verdict.unbilled import unbilled_micro
from drawdown.worker.wallets.ledger import view_lots

SQL = queries(__file__)


@dataclass(frozen=True)
class Account:
    """A customer's wallet, in micro-credits. `unbilled`: used, and not charged yet. `over`: left of lots that are
    over, and reserved by no run: it is on its way out of the balance. `included` to `refund`: what is left of lots of
    each kind. `owed`: used, and paid for by no lot. `hold`: of what its runs cost, what suppliers wait for; it was
    charged, and is in nothing else here."""

    customer_id: str
    plan: str | None
    available_micro: int
    reserved_micro: int
    unbilled_micro: int
    over_micro: int
    balance_micro: int
    included_micro: int
    bonus_micro: int
    purchased_micro: int
    sponsor_micro: int
    refund_micro: int
    owed_micro: int
    hold_micro: int

    def in_credits(self) -> dict[str, int | float]:
        """Each amount by its name, in credits."""
        suffix = "_micro"
        return {
            name.removesuffix(suffix): in_credits(value) for name, value in vars(self).items() if name.endswith(suffix)
        }


def account_of(connection: sa.Connection, customer_id: str, now_ms: int) -> Account:
    """What a customer has; nothing where the wallet was never used."""
    hold = SQL.part("hold", {"customer_id": customer_id, "now_ms": now_ms}, of_settlements="of_customer")
    look = maturing.look_part(customer_id, now_ms)
    read = together(connection, look=look, lots=lots.wallets_part([customer_id]), hold=hold)
    found, given = maturing.look_ahead_by(connection, customer_id, read["look"], now_ms)
    kept = lots.lots_of([customer_id], [vars(row) for row in read["lots"]])[customer_id]
    in_lots = view_lots(connection, kept, given, customer_id, now_ms)
    kinds = {f"{kind}_micro": micro for kind, micro in in_lots.left_by_kind().items()}
    unbilled = unbilled_micro(connection, customer_id, now_ms)
    return Account(
        customer_id=customer_id,
        plan=found.plan,
        available_micro=found.available_micro - unbilled,
        reserved_micro=found.held_micro,
        unbilled_micro=unbilled,
        over_micro=found.lapsed_micro,
        balance_micro=found.balance_micro,
        owed_micro=in_lots.owed_micro - in_lots.back_micro,
        hold_micro=int(read["hold"][0].hold_micro),
        **kinds,
    )


@dataclass(frozen=True)
class PaidFrom:
    """Whose wallet pays for an organisation's runs, and who bills it now (None: nobody). `keeper`: the biller, where it
    keeps the balance itself and no wallet here pays; `has_wallet`: whether anything ever moved in that wallet;
    `begins_ms`: when its first assignment begins, or began."""

    customer_id: str
    provider: str | None
    keeper: str | None
    has_wallet: bool
    begins_ms: int | None

    @property
    def is_here(self) -> bool:
        """Whether a balance is kept here: of whom another provider bills, once its wallet was given credit."""
        return self.keeper is None and (self.has_wallet or self.provider == EMBEDDED)

    @property
    def takes_credit(self) -> bool:
        """Whether credit is given here. Who is billed afterwards has no wallet: the end of one would halt it."""
        return self.is_here or (self.keeper is None and self.provider in (None, *EXEMPT_PROVIDERS))


def payer_of(connection: sa.Connection, org_id: str, now_ms: int) -> str:
    """Whose wallet pays for an organisation's runs: its customer's at a biller that keeps wallets here, else its own.
    Errors: UnknownId."""
    return paid_from(connection, org_id, now_ms).customer_id


def paid_from(connection: sa.Connection, org_id: str, now_ms: int) -> PaidFrom:
    """The same, with who bills it; of an id that is a customer's alone, who bills that. Errors: UnknownId."""
    values = {"org_id": org_id, "own": wallet_account(org_id), "now_ms": now_ms}
    found = together(
        connection,
        biller=SQL.part("biller", values),
        customer=billers_part(org_id, now_ms),
        terms=terms_part(),
    )
    row, here = found["biller"][0], with_wallets(found["terms"])
    if row.customer_id and row.provider in here:
        return PaidFrom(str(row.customer_id), row.provider, None, bool(row.has_theirs), row.begins_ms)
    provider = row.provider
    if provider is None:
        ids.require(connection, ids.CUSTOMER, org_id)
        provider = min(
            (one.provider for one in found["customer"]), key=lambda one: (one not in here, one), default=None
        )
    keeper = None if provider is None or provider in {*here, *EXEMPT_PROVIDERS} else provider
    return PaidFrom(org_id, provider, keeper, bool(row.has_own), row.begins_ms)
