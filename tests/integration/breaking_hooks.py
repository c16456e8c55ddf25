"""Ways to break what the operator's product was told, and what `verify` must say of each."""

from __future__ import annotations

from tests.integration.breaking import Broken

_HALT = "message_id = (SELECT message_id FROM hook_messages WHERE event = 'organisation.halted')"


def _of(text: str, *statements: str) -> Broken:
    return Broken(13, statements, text, org="hooked")


HOOKS = {
    "a message of a halt that never was": _of(
        "reports organisation.halted:hooked:",
        "UPDATE hook_messages SET at_ms = at_ms + 1 WHERE event = 'organisation.halted'",
    ),
    "a message of a top-up that never was": _of(
        "reports topup.credited:topup:hooked:1, which is not on record",
        "INSERT INTO hook_messages (message_id, event, fact, org_id, at_ms, body) "
        "VALUES ('msg_1', 'topup.credited', 'topup.credited:topup:hooked:1', 'hooked', 0, '{}')",
    ),
    "a message of an approval that was a refusal": _of(
        "reports override.approved:2, which is not on record",
        "INSERT INTO hook_messages (message_id, event, fact, org_id, at_ms, body) "
        "VALUES ('msg_2', 'override.approved', 'override.approved:2', 'hooked', 0, '{}')",
    ),
    "a delivery that was never sent": _of(
        "is delivered at app, which its history does not allow (calls: 0",
        f"UPDATE hook_deliveries SET attempts = 0 WHERE {_HALT}",
    ),
    "a delivery that was given up at once": _of(
        "is failed at app, which its history does not allow (calls: 1, failures: 1",
        f"UPDATE hook_deliveries SET state = 'failed', failures = 1 WHERE {_HALT}",
    ),
}
