"""Ways to break what cells and vendors count, and what `verify` must say of each."""

from __future__ import annotations

from drawdown.schema.units import DAY_MS
from tests.integration.breaking import Broken
from tests.world import T0


def _of(text: str, *statements: str) -> Broken:
    return Broken(15, statements, text, org=None)


_ACME = "cell_id = 'cell-1' AND org_id = 'acme'"
_WHOLE = "cell_id = 'cell-1' AND org_id = ''"
DRIFT = {
    "a cell's day that is not the sum of its organisations'": _of(
        "its organisations sum to", f"UPDATE parity_checks SET theirs_s = theirs_s + 1 WHERE {_WHOLE}"
    ),
    "a cell's day that hides how far it is apart": _of(
        "0 apart", f"UPDATE parity_checks SET off_s = 0, ppm = 0 WHERE {_WHOLE}"
    ),
    "a cell's day at other parts per million": _of(
        "its organisations sum to", f"UPDATE parity_checks SET ppm = ppm - 1 WHERE {_WHOLE}"
    ),
    "an organisation's line that is gone": _of(
        "its organisations sum to", "DELETE FROM parity_checks WHERE org_id = 'far'"
    ),
    "a line that says equal and is not": _of(
        "does not match the verdict equal", f"UPDATE parity_checks SET verdict = 'equal' WHERE {_ACME}"
    ),
    "a line of other parts per million": _of(
        "does not match the verdict differs", f"UPDATE parity_checks SET ppm = 1 WHERE {_ACME}"
    ),
    "a line that takes unknown for nothing": _of(
        "3 by the cell, 3 apart", "UPDATE parity_checks SET ours_s = 0, off_s = 3, ppm = 1000000 WHERE org_id = 'gone'"
    ),
    "a verdict that there is not": _of(
        "does not match the verdict fine", "UPDATE parity_checks SET verdict = 'fine' WHERE org_id = 'gone'"
    ),
    "a line of a cell that nobody compared": _of(
        "the whole cell was compared at none",
        "INSERT INTO parity_checks (day_ms, cell_id, org_id, ours_s, theirs_s, withdrawn_s, off_s, ppm, verdict, "
        f"at_ms) VALUES ({T0}, 'cell-7', 'acme', 1, 1, 0, 0, 0, 'equal', {T0 + 2 * DAY_MS})",
    ),
    "a day that was compared before it was over": _of(
        f"compared at {T0 + DAY_MS}",
        f"UPDATE parity_checks SET at_ms = {T0 + DAY_MS} WHERE cell_id = 'cell-9'",
    ),
    "a bill of no file": _of(
        "in file 3, but that file was not imported",
        "INSERT INTO vendor_bills (number, vendor, service, day_ms, currency, billed_micro, is_final) "
        f"VALUES (3, 'cloud', 'vm', {T0 + DAY_MS}, 'USD', 1, TRUE)",
    ),
    "a final bill that was replaced": _of(
        "was final, but file 2 is not", "UPDATE vendor_bills SET is_final = TRUE WHERE number = 1",
        "UPDATE vendor_bills SET is_final = FALSE WHERE number = 2",
    ),
    "a file that is gone with its bills": _of(
        "found 1, numbered from 1 up to 2", "DELETE FROM vendor_bills WHERE number = 1",
        "DELETE FROM vendor_imports WHERE number = 1",
    ),
    "the last file, gone with its bills": _of(
        "lines of second is none, but the audit log has 2", "DELETE FROM vendor_bills WHERE number = 2",
        "DELETE FROM vendor_imports WHERE number = 2",
    ),
    "a line of a bill that is gone": _of(
        "lines of second is 1, but the audit log has 2", "DELETE FROM vendor_bills WHERE currency = 'EUR'"
    ),
    "a bill of another amount": _of(
        "money of second in USD is 32, but the audit log has 31",
        "UPDATE vendor_bills SET billed_micro = 32 WHERE billed_micro = 31"
    ),
    "a price at a vendor that nobody said": _of(
        "1 vcpu-hour and 6 USD for 3600, but the audit log has 1 vcpu-hour and 5 USD for 3600",
        "UPDATE vendor_units SET money_micro = 6 WHERE money_micro = 5",
    ),
    "a price at a vendor that is gone": _of(
        "is none, but the audit log has 1 vcpu-hour and 20 USD", "DELETE FROM vendor_units WHERE money_micro = 20"
    ),
}  # fmt: skip
