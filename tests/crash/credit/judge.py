"""What a siege on credit came to, beside what its clients were told: to the micro-credit.

Guarantee: what each wallet has to hold is worked out from the plan of each request and the rows of the trace; of the
ledger nothing is taken for it but what expired, which `verify` proves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.tables import rows
from tests.crash.credit.client import records
from tests.crash.credit.requests import SHARE_PPM, SUPPLIER, Planned

STATES = {"settled": "settled", "given up": "released", "given up at a cost": "released", "left": "expired"}
RUNS = "SELECT reservation, state, amount_micro, drawn_micro FROM reservations"
ENTRIES = """
SELECT reservation, SUM(amount_micro), COUNT(DISTINCT key), COUNT(*) FROM ledger_entries
WHERE kind = 'execution' GROUP BY 1
"""
RECEIPTS = r"""
SELECT reservation, COUNT(*) FROM ledger_entries
WHERE kind = 'execution' AND key LIKE 'run\:%\:final\:%' AND amount_micro >= 0 AND key NOT LIKE '%\:-' GROUP BY 1
"""
DRAWS = (
    r"SELECT reservation, COUNT(*) FROM ledger_entries WHERE key LIKE 'run\:%\:d%' AND key NOT LIKE '%\:-' GROUP BY 1"
)
WALLETS = (
    r"SELECT SUBSTR(account_id, 8), balance_micro, held_micro FROM ledger_accounts WHERE account_id LIKE 'wallet\:%'"
)
EXPIRED = """
SELECT SUBSTR(from_account, 8), SUM(amount_micro) FROM ledger_entries WHERE kind = 'expiry' GROUP BY 1
"""
SETTLEMENTS = "SELECT reservation, supplier, gross_micro, net_micro FROM settlements"


@dataclass(frozen=True)
class Books:
    """What the runs of a siege came to, by the journals, where every sum was exact."""

    ends: Counter[str]
    charged_micro: int
    metered_micro: int
    shrunk: int
    """Runs of those that metering settles of whose hold it had drawn something."""


def judged(url: str, folder: Path, made: Sequence[Planned], given: Mapping[str, int], rate: int) -> Books:
    """Errors: AssertionError where a run or a wallet differs. `given`: micro-credits by organisation; `rate`: what a
    metered second costs, in micro-credits."""
    told = {one["line"]: one for journal in folder.glob("*.journal") for one in records(journal)}
    assert told.keys() == {one.line for one in made}, "each request has an end, and no other has one"
    charged, shrunk = _runs(url, made, told, rate)
    spent, metered = Counter[str](), Counter[str]()
    for one in made:
        spent[one.org] += charged.get(one.key, 0)
        metered[one.org] += one.seconds * rate
    expired: dict[str, int] = {str(org): int(str(micro)) for org, micro in rows(url, EXPIRED)}
    for org, balance, held in rows(url, WALLETS):
        name = str(org)
        left = given[name] - expired.get(name, 0) - spent[name] - metered[name]
        assert (balance, held) == (left, 0), f"{name}: (balance, held) is {balance, held}, and has to be {left, 0}"
    _settlements(url, made, told, charged)
    return Books(Counter(one["end"] for one in told.values()), sum(charged.values()), sum(metered.values()), shrunk)


def _runs(url: str, made: Sequence[Planned], told: Mapping[str, Any], rate: int) -> tuple[dict[str, int], int]:
    """What each run was charged: as planned, as its row and as its entries say; by one receipt where it was ended. One
    that metering settles is charged nothing; how many of those were drawn on, by no more than their samples cost."""
    kept = {str(key): more for key, *more in rows(url, RUNS)}
    entries = {str(key): more for key, *more in rows(url, ENTRIES)}
    receipts, draws = ({str(key): count for key, count in rows(url, text)} for text in (RECEIPTS, DRAWS))
    found: dict[str, int] = {}
    shrunk = 0
    for one in made:
        said = told[one.line]
        if said["end"] == "refused":
            assert one.key not in kept and one.key not in entries, f"{one.key} was refused, and is there"
            continue
        with_cost = not one.metered and said["end"] in ("settled", "given up at a cost")
        charged = one.charged(said["parts"], ended=with_cost, held=said["held"])
        is_now = kept.pop(one.key, None)
        if one.metered and is_now is not None:
            drawn, is_now = int(str(is_now[2])), [*is_now[:2], 0]
            assert 0 <= drawn <= one.seconds * rate, f"{one.key}: metering drew {drawn} of {one.seconds} seconds"
            shrunk += drawn > 0
        wanted = [STATES[said["end"]], said["held"], charged]
        assert is_now == wanted, f"{one.key} is {is_now}, and has to be {wanted}: {said} of {one}"
        sums = entries.pop(one.key, [0, 0, 0])
        assert sums[0] == charged and sums[1] == sums[2], f"{one.key}: {sums} in its entries, {charged} to be charged"
        assert receipts.get(one.key, 0) == with_cost, f"{one.key}: {receipts.get(one.key, 0)} receipts; {said}"
        assert draws.get(one.key, 0) == said["parts"], f"{one.key}: {draws.get(one.key, 0)} draws; {said}"
        found[one.key] = charged
    assert not kept and not entries, f"runs that nobody asked for: {list(kept)[:5]} {list(entries)[:5]}"
    return found, shrunk


def _settlements(url: str, made: Sequence[Planned], told: Mapping[str, Any], charged: Mapping[str, int]) -> None:
    """The supplier is owed its share of each run that ended, once."""
    wanted = {}
    for one in made:
        ended = STATES.get(told[one.line]["end"])
        if one.supplier is not None and (ended == "settled" or (ended == "released" and charged[one.key])):
            gross = charged[one.key]
            wanted[one.key] = (SUPPLIER, gross, gross * SHARE_PPM // 1_000_000)
    found = defaultdict[str, list[object]](list)
    for key, *more in rows(url, SETTLEMENTS):
        found[str(key)].append(tuple(more))
    assert found == {key: [line] for key, line in wanted.items()}, "a supplier is owed otherwise"
