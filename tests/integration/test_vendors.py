"""What usage should cost at vendors, beside their bills: known answers, exact; unknown is not zero."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from drawdown.cli.main import run as drawdown
from drawdown.ledger.draws import Cost
from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy, Refused, UnknownId, UsageError
from drawdown.schema.typed.parsing import parse_percent
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.worker.checks.checks import check_vendors, last_checks
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change
from drawdown.worker.provider import vendors
from drawdown.worker.provider.vendors import (
    LEAST_MICRO,
    TOLERANCE_PPM,
    BillFile,
    BillLine,
    DriftLine,
    Units,
    costs,
    drift,
    import_bills,
    read_bills,
    set_units,
)
from tests.integration.guarding import Guarded
from tests.world import T0, Fleet

HEAD = "day,vendor,service,amount,currency,final\n"
LATER = T0 + 9 * DAY_MS
VM = Units("cloud", "vm", "vcpu-hour", 1, 3_600_000, 3600, "USD")
"""A millidollar a second of compute_1gb."""


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    """20,000 s a day for five days: 20 dollars each."""
    made = Fleet(engine)
    made.assign("acme", from_ms=T0)
    for day in range(5):
        made.sample("acme", T0 + day * DAY_MS + 7, 20_000)
    made.tick(T0 + 5 * DAY_MS + 2 * WINDOW_MS)
    return made


def mapped(fleet: Fleet, units: Units = VM, from_ms: int = T0, feature: str = "compute_1gb") -> None:
    write(fleet.engine, lambda c: set_units(c, feature, units, from_ms, fleet.by, new=False))


def bill(fleet: Fleet, *dollars: float, service: str = "vm", currency: str = "USD", final: bool = True) -> bool:
    lines = [
        BillLine("cloud", service, T0 + day * DAY_MS, currency, int(amount * 1_000_000), final)
        for day, amount in enumerate(dollars)
    ]
    file = BillFile(repr((lines, final)), lines)
    return write(fleet.engine, lambda c: import_bills(c, file, fleet.by))


def told(fleet: Fleet, now: int = LATER, tolerance: int = TOLERANCE_PPM, least: int = LEAST_MICRO) -> list[DriftLine]:
    return read(fleet.engine, lambda c: drift(c, T0, T0 + 5 * DAY_MS, now, tolerance, least))


def alerts(fleet: Fleet, now: int = LATER) -> list[int]:
    return [(line.day_ms - T0) // DAY_MS for line in told(fleet, now) if line.alerts]


def test_vendor_bill_equal_to_estimate_is_not_drift(fleet: Fleet) -> None:
    mapped(fleet)
    bill(fleet, 20, 20, 20, 20, 20)
    found = told(fleet)
    assert [(line.estimated_micro, line.billed_micro, line.state, line.is_off) for line in found] == [
        (20_000_000, 20_000_000, "final", False)
    ] * 5


@pytest.mark.parametrize(
    ("dollars", "days"),
    [
        ((20, 23, 23, 20, 20), []),
        ((20, 23.000001, 23.000001, 20, 20), [2]),
        ((20, 17, 17, 20, 20), []),
        ((20, 16.999999, 16.999999, 20, 20), [2]),
        ((20, 30, 20, 30, 20), []),
        ((30, 30, 30, 20, 30), [1, 2]),
    ],
)
def test_vendor_drift_above_15_percent_for_two_days_alerts(
    fleet: Fleet, dollars: tuple[float, ...], days: list[int]
) -> None:
    mapped(fleet)
    bill(fleet, *dollars)
    assert alerts(fleet) == days


def test_vendor_drift_on_first_day_of_range_uses_day_before(fleet: Fleet) -> None:
    mapped(fleet)
    bill(fleet, 30, 30)
    found = read(fleet.engine, lambda c: drift(c, T0 + DAY_MS, T0 + 2 * DAY_MS, LATER, TOLERANCE_PPM, LEAST_MICRO))
    assert [line.alerts for line in found] == [True]


def test_vendor_drift_of_last_two_days_does_not_alert(fleet: Fleet) -> None:
    mapped(fleet)
    bill(fleet, 30, 30, 30, 30, 30)
    assert alerts(fleet) == [1, 2, 3, 4]
    assert alerts(fleet, T0 + 6 * DAY_MS - 1) == [1, 2]
    assert alerts(fleet, T0 + 6 * DAY_MS) == [1, 2, 3]


def test_vendor_drift_of_small_amount_does_not_alert(fleet: Fleet) -> None:
    mapped(fleet, Units("cloud", "vm", "s", 1, 10, 1, "USD"))
    bill(fleet, 1.199999, 1.199999)
    assert not any(line.is_off for line in told(fleet))
    bill(fleet, 1.2, 1.2)
    assert alerts(fleet) == [1]


@pytest.mark.both_databases
def test_vendor_bill_imported_late_is_compared(fleet: Fleet) -> None:
    """Its days are older than the range of a comparison without days. It alerts for as long as a new day does."""
    mapped(fleet)
    fleet.clock.at_ms = T0 + 40 * DAY_MS
    assert recent(fleet) == []
    bill(fleet, 30, 30, 20, 30, 30)
    lines = [BillLine("net", "gb", T0 + 6 * DAY_MS, "USD", MICRO, False)]
    write(fleet.engine, lambda c: import_bills(c, BillFile("net", lines), fleet.by))
    found = [(0, "cloud", False), (1, "cloud", True), (2, "cloud", False), (3, "cloud", False), (4, "cloud", True)]
    for days in (0, vendors.SPAN_DAYS):
        fleet.clock.at_ms = T0 + (40 + days) * DAY_MS
        assert recent(fleet) == [*found, (6, "net", False)]
        kept = read(fleet.engine, last_checks)["vendors"]
        assert (kept.off, kept.alerts) == (4, 2)
    fleet.clock.at_ms += 1
    assert recent(fleet) == []


def test_vendor_bill_imported_late_alerts_with_earlier_bill(fleet: Fleet) -> None:
    """The bill of the next day differed before, alone."""
    mapped(fleet)
    fleet.clock.at_ms = T0 + 10 * DAY_MS
    for day, service in ((1, "vm"), (3, "disk")):
        lines = [BillLine("cloud", service, T0 + day * DAY_MS, "USD", 30 * MICRO, False)]
        write(fleet.engine, lambda c, its=lines: import_bills(c, BillFile(repr(its), its), fleet.by))  # type: ignore[misc]
    fleet.clock.at_ms = T0 + 40 * DAY_MS
    bill(fleet, 30)
    assert recent(fleet) == [(0, "cloud", False), (1, "cloud", True)]


@pytest.mark.parametrize(("days", "compared"), [(vendors.MAX_DAYS, True), (vendors.MAX_DAYS + 1, False)])
def test_vendor_bill_older_than_largest_range_is_not_compared(fleet: Fleet, days: int, *, compared: bool) -> None:
    fleet.clock.at_ms = T0 + days * DAY_MS
    bill(fleet, 30)
    assert recent(fleet) == [(0, "cloud", False)] * compared


def test_vendor_bill_imported_again_unchanged_does_not_alert_longer(fleet: Fleet) -> None:
    """A file of the month to date has all earlier days again."""
    mapped(fleet)
    fleet.clock.at_ms = T0 + 40 * DAY_MS
    bill(fleet, 30, 30)
    fleet.clock.at_ms += vendors.SPAN_DAYS * DAY_MS
    bill(fleet, 30, 30, 30)
    assert recent(fleet) == [(0, "cloud", False), (1, "cloud", True), (2, "cloud", True), (3, "cloud", False)]
    fleet.clock.at_ms += 1
    assert recent(fleet) == [(2, "cloud", True), (3, "cloud", False)]


def test_cut_list_of_vendor_drift_keeps_lines_that_alert(fleet: Fleet) -> None:
    mapped(fleet)
    bill(fleet, 30, 30, 20, 30, 20)
    lines = read(fleet.engine, lambda c: vendors.drift_of(c, T0, T0 + 5 * DAY_MS, fleet.clock.at_ms, 0, 0))
    assert [[(line.day_ms - T0) // DAY_MS for line in vendors.most_urgent(lines, most)] for most in (1, 3, 9)] == [
        [1], [0, 1, 3], [0, 1, 2, 3, 4],
    ]  # fmt: skip


def recent(fleet: Fleet) -> list[tuple[int, str, bool]]:
    found = write(fleet.engine, lambda c: check_vendors(c, fleet.clock.at_ms))
    return [((line.day_ms - T0) // DAY_MS, line.vendor, line.alerts) for line in found.drift]


def test_vendor_day_without_bill_is_unbilled(fleet: Fleet) -> None:
    mapped(fleet)
    bill(fleet, 20, 20)
    assert [(line.billed_micro, line.state, line.is_off) for line in told(fleet)][2:] == [(None, "unbilled", False)] * 3


def test_vendor_service_without_mapping_is_shown_as_unmapped(fleet: Fleet) -> None:
    mapped(fleet)
    bill(fleet, 20)
    bill(fleet, 20)
    assert {line.state for line in told(fleet)} == {"final", "unbilled"}
    lines = [
        BillLine("cloud", "disk", T0, "USD", 5_000_000, True),
        BillLine("cloud", "vm", T0, "USD", 20_000_000, True),
    ]
    write(fleet.engine, lambda c: import_bills(c, BillFile("two", lines), fleet.by))
    first = told(fleet)[0]
    assert (first.service, first.estimated_micro, first.billed_micro, first.state) == (
        "disk",
        None,
        5_000_000,
        "unmapped",
    )
    assert not first.is_off and not first.alerts


def test_vendor_days_before_mapping_are_unmapped(fleet: Fleet) -> None:
    mapped(fleet, from_ms=T0 + 3 * DAY_MS)
    bill(fleet, 50, 50, 50, 50, 50)
    assert [(line.estimated_micro, line.state, line.is_off, line.alerts) for line in told(fleet)] == [
        *[(None, "unmapped", False, False)] * 3,
        (20_000_000, "final", True, False),
        (20_000_000, "final", True, True),
    ]


def test_vendor_currencies_are_not_added(fleet: Fleet) -> None:
    mapped(fleet)
    bill(fleet, 20, 20, currency="EUR")
    found = [(line.currency, line.estimated_micro, line.billed_micro, line.state) for line in told(fleet)]
    assert found[:2] == [("EUR", None, 20_000_000, "unmapped")] * 2
    assert found[2:] == [("USD", 20_000_000, None, "unbilled")] * 5


def test_vendor_with_changed_currency_is_estimated_in_new_currency(fleet: Fleet) -> None:
    mapped(fleet)
    mapped(fleet, replace(VM, currency="EUR"), from_ms=T0 + 3 * DAY_MS)
    bill(fleet, 20, 20, 20, 20, 20)
    found = [(line.currency, line.estimated_micro, line.state, line.is_off) for line in told(fleet)]
    assert found[:2] == [("EUR", 20_000_000, "unbilled", False)] * 2
    assert found[2:5] == [("USD", 20_000_000, "final", False)] * 3
    assert found[5:] == [("USD", None, "unmapped", False)] * 2, "dollars that nothing was said to cost by then"


def test_vendor_bill_after_use_ended_is_drift(fleet: Fleet) -> None:
    mapped(fleet, from_ms=T0)
    lines = [BillLine("cloud", "vm", T0 + day * DAY_MS, "USD", 9_000_000, True) for day in (5, 6)]
    write(fleet.engine, lambda c: import_bills(c, BillFile("on", lines), fleet.by))
    found = read(fleet.engine, lambda c: drift(c, T0 + 5 * DAY_MS, T0 + 7 * DAY_MS, LATER, TOLERANCE_PPM, LEAST_MICRO))
    assert [(line.estimated_micro, line.is_off, line.alerts) for line in found] == [(0, True, False), (0, True, True)]


def test_vendor_latest_bill_file_of_day_applies_and_repeat_is_ignored(fleet: Fleet) -> None:
    mapped(fleet)
    assert bill(fleet, 10, 10, final=False) and not bill(fleet, 10, 10, final=False)
    assert bill(fleet, 11, final=False)
    assert [line.billed_micro for line in told(fleet)][:2] == [11_000_000, 10_000_000]
    assert [line.state for line in told(fleet)][:2] == ["provisional"] * 2
    assert bill(fleet, 20)
    with pytest.raises(Refused, match=r"already final.*--final"):
        bill(fleet, 12, final=False)
    assert [(line.billed_micro, line.state) for line in told(fleet)][:2] == [
        (20_000_000, "final"),
        (10_000_000, "provisional"),
    ]
    assert bill(fleet, 21) and told(fleet)[0].billed_micro == 21_000_000, "a corrected invoice"


def test_concurrent_bill_imports_with_same_number_are_refused_as_busy(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    bill(fleet, 1)
    original = vendors.SQL.pieces["insert_import", ""]
    monkeypatch.setitem(vendors.SQL.pieces, ("insert_import", ""), original.replace("+ 1", "+ 0"))
    vendors.SQL._ready.clear()
    with pytest.raises(DatabaseBusy, match="Try again"):
        bill(fleet, 2)
    monkeypatch.undo()
    vendors.SQL._ready.clear()
    assert bill(fleet, 2)


def test_vendor_cost_changes_by_day_and_is_append_only(fleet: Fleet) -> None:
    mapped(fleet)
    mapped(fleet)
    mapped(fleet, Units("cloud", "vm", "vcpu-hour", 1, 7_200_000, 3600, "USD"), T0 + 2 * DAY_MS)
    assert [line.estimated_micro for line in told(fleet)] == [20_000_000] * 2 + [40_000_000] * 3
    mapped(fleet, Units("cloud", "vm", "vcpu-hour", 1, 7_200_000, 3600, "USD"), T0 + DAY_MS)
    with pytest.raises(Refused, match=r"append-only\. Pass --from 2026-01-04, the earliest day for a new cost"):
        mapped(fleet, Units("cloud", "vm", "vcpu-hour", 2, 3_600_000, 3600, "USD"))
    with pytest.raises(UsageError, match="invalid start of a cost"):
        mapped(fleet, from_ms=T0 + 1)
    with pytest.raises(UnknownId, match="compute_1gb"):
        mapped(fleet, feature="compute_1g")
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action = 'vendor_set'") == 3
    for text in ("UPDATE vendor_units SET money_micro = 1", "DELETE FROM vendor_units"):
        with pytest.raises(Exception, match="append-only"):
            fleet.write(text)


def test_vendor_features_of_line_are_added_before_rounding(fleet: Fleet) -> None:
    third = Units("cloud", "vm", "u", 1, 1, 3 * 20_000, "USD")
    mapped(fleet, third)
    fleet.sample("acme", T0 + 9, 20_000, memory_mb=4096)
    fleet.tick(T0 + 5 * DAY_MS + 5 * WINDOW_MS)
    mapped(fleet, third, feature="compute_4gb")
    assert [line.estimated_micro for line in told(fleet) if line.vendor == "cloud"][:2] == [1, 0], "2/3 and 1/3"


@pytest.mark.both_databases
def test_vendor_estimate_includes_executions_and_guard_uses(engine: sa.Engine) -> None:
    """Receipts of runs, by their quantities, and uses, whoever paid, or where nobody did; what was reserved alone is
    none."""
    guarded = Guarded(engine)
    fleet = guarded.fleet
    guarded.limit("idea", 100)
    guarded.consume("idea", 3)
    guarded.reserve("idea", 4)
    guarded.metric("idea", price_micro=MICRO, phase=0)
    guarded.give("globex", 1)
    assert guarded.consume("idea", 5, org="globex").charged_micro == 0, "let through without credit, and used"
    guarded.metric("idea", price_micro=0)
    guarded.consume("idea", 7)
    fleet.write(
        "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
        f"VALUES ('gpu_s', {T0}, 5, 1, 1, 't', 't')"
    )
    request = Request("acme", MICRO)
    write(engine, lambda c: executions.accept(c, "run", request, fleet.by))
    write(engine, lambda c: executions.settle(c, "run", Cost(quantities={"gpu_s": 700}), fleet.by))
    for feature, service in (("idea", "ideas"), ("gpu_s", "gpus")):
        units = Units("cloud", service, "u", 1, 1_000_000, 1, "USD")
        write(engine, lambda c, f=feature, u=units: set_units(c, f, u, T0, fleet.by, new=True))  # type: ignore[misc]
    found = {line.service: line.estimated_micro for line in told(fleet)}
    assert found == {"ideas": 15_000_000, "gpus": 700_000_000}


def test_vendor_costs_show_credits_and_money_of_feature(fleet: Fleet) -> None:
    mapped(fleet)
    fleet.write(
        "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
        f"SELECT 'compute_1gb', {T0 + 1}, 5, 2, 1, 't', 't'"
    )
    (cost,) = read(fleet.engine, lambda c: costs(c, LATER))
    assert (cost.unit, cost.units, cost.money_micro, cost.per_quantity) == ("vcpu-hour", 1, 3_600_000, 3600)
    assert cost.credits_micro == 9_000


@pytest.mark.parametrize(("units", "money_micro", "per"), [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_vendor_cost_below_zero_is_refused(fleet: Fleet, units: int, money_micro: int, per: int) -> None:
    cost = Units("cloud", "net", "gb", units, money_micro, per, "USD")
    with pytest.raises(UsageError, match="expected 0 to"):
        write(fleet.engine, lambda c: set_units(c, "compute_1gb", cost, T0, fleet.by, new=True))


def test_vendor_costs_of_guarded_metric_show_its_price(fleet: Fleet) -> None:
    for price in (1_000_000, 2_000_000):
        change = Change(price_micro=price, per_units=25, phase=3)
        write(fleet.engine, lambda c, to=change: guard_terms.set_metric(c, "bandwidth", to, fleet.by, new=True))  # type: ignore[misc]
    units = Units("cloud", "net", "gb", 1, 40_000, 100, "USD")
    write(fleet.engine, lambda c: set_units(c, "bandwidth", units, T0, fleet.by, new=True))
    (cost,) = read(fleet.engine, lambda c: costs(c, LATER))
    assert (cost.feature, cost.money_micro, cost.per_quantity) == ("bandwidth", 40_000, 100)
    assert cost.credits_micro == 8_000_000
    fleet.write(
        "INSERT INTO ledger_rates (feature, start_ms, micro_credits, per_quantity, at_ms, actor, reason) "
        f"VALUES ('bandwidth', {T0}, 5, 1, 1, 't', 't')"
    )
    (cost,) = read(fleet.engine, lambda c: costs(c, LATER))
    assert cost.credits_micro == 8_000_000, "what was billed before has a rate for ever"
    write(fleet.engine, lambda c: guard_terms.set_metric(c, "bandwidth", Change(price_micro=0), fleet.by))
    (cost,) = read(fleet.engine, lambda c: costs(c, LATER))
    assert cost.credits_micro == 500


def file_of(folder: Path, text: str) -> str:
    made = folder / "bill.csv"
    made.write_text(text, encoding="utf-8")
    return str(made)


def test_bill_file_in_focus_or_simple_format_is_read(tmp_path: Path) -> None:
    small = file_of(tmp_path, HEAD + "2026-01-01,cloud,vm,0.1,USD,\n2026-01-01,cloud,vm,0.2,USD,true\n")
    (line,) = read_bills(small, is_final=False).lines
    assert line == BillLine("cloud", "vm", T0, "USD", 300_000, False)
    assert read_bills(small, is_final=True).lines[0].is_final
    focus = file_of(
        tmp_path,
        "\ufeffBilledCost,BillingCurrency,ChargePeriodStart,InvoiceId,ProviderName,ServiceName,Tags\n"
        '0.10000000000001,USD,2026-01-01T00:00:00Z,i-1,cloud,vm,"{""a"": 1}"\n'
        "0.1,USD,2026-01-01 23:00:00 UTC,i-1,cloud,vm,\n.1,USD,2026-01-01T23:00+00:00,i-1,cloud,vm,\n"
        "-1e-7,USD,2026-01-02T00:00:00Z,,cloud,vm,\n",
    )
    assert read_bills(focus, is_final=False).lines == [
        BillLine("cloud", "vm", T0, "USD", 300_000, True),
        BillLine("cloud", "vm", T0 + DAY_MS, "USD", 0, False),
    ]


@pytest.mark.parametrize("word", ["Correction", " correction"])
def test_bill_file_with_correction_line_is_refused(fleet: Fleet, tmp_path: Path, word: str) -> None:
    """It says by how much a day was wrong, and of a day the latest file holds, whole: 20.00 would become -1.00."""
    head = "BilledCost,BillingCurrency,ChargeClass,ChargePeriodStart,InvoiceId,ProviderName,ServiceName\n"
    first = file_of(tmp_path, head + "20,USD,,2026-01-01T00:00:00Z,i-1,cloud,vm\n")
    write(fleet.engine, lambda c: import_bills(c, read_bills(first, is_final=False), fleet.by))
    line = f"-1,USD,{word},2026-01-01T00:00:00Z,i-2,cloud,vm\n"
    for lines, at in (("", 2), ("21,USD,,2026-01-02T00:00:00Z,i-2,cloud,vm\n", 3)):
        with pytest.raises(
            UsageError, match=rf"line {at}: ChargeClass is Correction.* whole day with the corrected amounts"
        ):
            read_bills(file_of(tmp_path, head + lines + line), is_final=True)
    mapped(fleet)
    assert told(fleet)[0].billed_micro == 20_000_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "column day"),
        ("day,vendor,service,amount\n", "column currency"),
        ("day,day,vendor,service,amount,currency\n", "column day"),
        ("BilledCost\n", "column ChargePeriodStart"),
        (HEAD, "does not have bill lines"),
        (HEAD + "2026-01-01,cloud,vm,1,USD\n", "line 2: expected 6 fields"),
        (HEAD + "2026-02-30,cloud,vm,1,USD,\n", "line 2"),
        (HEAD + "1.1.2026,cloud,vm,1,USD,\n", "line 2: invalid day"),
        (HEAD + "2026-01-01,,vm,1,USD,\n", "line 2: invalid vendor"),
        (HEAD + "2026-01-01,cloud,v\x1bm,1,USD,\n", "line 2: invalid service"),
        (HEAD + "2026-01-01,cloud,vm,1,usd,\n", "line 2: invalid currency"),
        (HEAD + "2026-01-01,cloud,vm,1,USD,maybe\n", "line 2: invalid final 'maybe': expected true or false"),
        *((HEAD + f"2026-01-01,cloud,vm,{wrong},USD,\n", "line 2: invalid amount")
          for wrong in ("", "x", "NaN", "Infinity", "1e10", "1e999999", "1e-999999", "٣", "1" * 41,
                        "1E999999999999999999", "-1E999999999999999999", "1E" + "9" * 30, "1_000", " 1", "1 ", ".")),
        *((HEAD + f"{wrong},cloud,vm,1,USD,\n", "line 2: invalid day")
          for wrong in ("2026-01-01T99:99:99", "2026-01-01T00:00:00Z more", "2026-01-01 \x1b[31m", "0001-01-01",
                        "1969-12-31", "2026-01-01T00:00:00+09:00", "2026-01-01T")),
        (HEAD + '2026-01-01,cloud,"vm,1,USD,\n', "line 2"),
    ],
)  # fmt: skip
def test_bill_file_with_invalid_line_is_refused_with_line_number(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_bills(file_of(tmp_path, text), is_final=False)


def test_bill_file_too_large_or_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="larger than 64 MiB"):
        read_bills("/dev/zero", is_final=False)
    with pytest.raises(UsageError, match="No such file"):
        read_bills(str(tmp_path / "none"), is_final=False)
    monkeypatch.setattr(vendors, "MAX_LINES", 2)
    bill = tmp_path / "bill.csv"
    lines = [f"2026-01-01,v{number % 2},s,1,USD" for number in range(9)]
    bill.write_text("\n".join(["day,vendor,service,amount,currency", *lines]))
    assert [line.billed_micro for line in read_bills(str(bill), is_final=False).lines] == [5_000_000, 4_000_000]
    bill.write_text("\n".join([bill.read_text(), "2026-01-01,other,s,1,USD"]))
    with pytest.raises(UsageError, match="line 11: the file has more than 2"):
        read_bills(str(bill), is_final=False)


@pytest.mark.parametrize("text", ["1e999999", "1e-999999", "9" * 5_000, "NaN", "-1", "\u0661", "101", "0.00001"])
def test_vendor_drift_invalid_tolerance_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid percentage"):
        parse_percent(text)


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1, max_size=20))
def test_bill_amounts_are_summed_exactly(amounts: list[int]) -> None:
    row = {"vendor": "v", "service": "s", "day": "2026-01-01", "currency": "USD", "final": ""}
    total = Decimal(0)
    for micro in amounts:
        total += vendors._line({**row, "amount": f"{Decimal(micro).scaleb(-6):f}"})[1]
    assert vendors._micro(total) == sum(amounts)


def test_vendor_commands_import_once_and_report_drift(
    engine: sa.Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = Fleet(engine)
    url = engine.url.render_as_string(hide_password=False)
    line = ["--database-url", url, "--at", "2026-01-10", "--json", "vendor"]
    units = "compute_1gb --vendor cloud --service vm --unit vcpu-hour --units 1 --cost 3.60 --per 3600 --currency USD"
    assert drawdown([*line, "set", *units.split(), "--from", "2026-01-01"]) == 0
    bills = HEAD + "".join(f"2026-01-0{day},cloud,vm,30,USD,\n" for day in (1, 2, 9))
    for is_new in (True, False):
        capfd.readouterr()
        assert drawdown([*line, "import", file_of(tmp_path, bills)]) == 0
        assert json.loads(capfd.readouterr().out)["is_new"] is is_new
    assert drawdown([*line, "drift"]) == 1
    found = json.loads(capfd.readouterr().out)
    assert (found["alerts"], [one["alerts"] for one in found["drift"]]) == (1, [False, True, False])
    assert drawdown([*line, "drift", "--least", "30.01"]) == 0
    assert drawdown([*line, "costs"]) == 0
    for bad in (["drift", "--least", "x"], ["drift", "--from", "2026-01-01T00:05"], ["set", *units.split()]):
        assert drawdown([*line, *bad]) == 2
    assert fleet.one("SELECT COUNT(*) FROM operator_actions WHERE action LIKE 'vendor%'") == 2


def test_vendor_drift_command_without_days_covers_recent_import(fleet: Fleet, tmp_path: Path) -> None:
    mapped(fleet)
    url = fleet.engine.url.render_as_string(hide_password=False)
    line = ["--database-url", url, "--at", "2026-03-10", "vendor"]
    assert drawdown([*line, "drift"]) == 0
    bills = HEAD + "".join(f"2026-01-0{day},cloud,vm,30,USD,true\n" for day in range(1, 6))
    assert drawdown([*line, "import", file_of(tmp_path, bills)]) == 0
    for words, status in (([], 1), (["--keep"], 1), (["--to", "today"], 0), (["--from", "2026-01-01"], 1)):
        assert drawdown([*line, "drift", *words]) == status


def test_vendor_drift_range_outside_limits_is_refused(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped(fleet)

    def asked(from_ms: int, to_ms: int) -> int:
        return len(read(fleet.engine, lambda c: drift(c, from_ms, to_ms, LATER, 0, 0)))

    assert asked(T0 - 395 * DAY_MS, T0 + 5 * DAY_MS) == 5
    for span in ((T0 - 396 * DAY_MS, T0 + 5 * DAY_MS), (T0, T0), (T0 + 1, T0 + DAY_MS), (T0, T0 + DAY_MS + 1)):
        with pytest.raises(UsageError, match="whole days, at most 400"):
            asked(*span)
    monkeypatch.setattr(vendors, "MAX_ROWS", 4)
    with pytest.raises(UsageError, match="more than 4 rows"):
        asked(T0, T0 + 5 * DAY_MS)
    most = vendors.MAX_UNITS
    mapped(fleet, Units("cloud", "most", "u", most, most, most, "USD"))
    for wrong in (most + 1, 1, 1), (1, most + 1, 1), (1, 1, most + 1), (1, 1, 0):
        with pytest.raises(UsageError, match="expected 0 to"):
            mapped(fleet, Units("cloud", "other", "u", *wrong, "USD"))
