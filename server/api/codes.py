"""List the codes of the HTTP API, with their meaning and fix.

`make docs` writes docs/codes.md from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from drawdown.worker.sources.samples.rows import ID_FIELDS


class CallCode(NamedTuple):
    """An error code of a call, with its HTTP statuses, its meaning and the fix."""

    statuses: tuple[int, ...]
    meaning: str


class ItemCode(NamedTuple):
    """A result code of one item in a request body.

    `code`: empty if the result has only a status. `items`: the kind of items that can have this result: `events`,
    `samples` or `both`.
    """

    status: str
    code: str
    items: str
    meaning: str


CALLS: Final[Mapping[str, CallCode]] = {
    "bad_request": CallCode((400,), "The request is malformed. The message names the wrong header, query or syntax"),
    "not_json": CallCode(
        (400, 415),
        "The body is not JSON. With 415, its `Content-Type` is not JSON. Send JSON as `application/json`",
    ),
    "bad_encoding": CallCode(
        (400, 415),
        "The body is declared as gzip, but is not gzip. With 415, `Content-Encoding` is neither gzip nor identity. "
        "Send the body in either form",
    ),
    "other_key": CallCode((400,), "The body's key and the header `Idempotency-Key` differ. Send the same key in both"),
    "cut_short": CallCode((400,), "The body ended too early. Send the whole body again"),
    "unauthorized": CallCode((401,), "The API key is missing, unknown, expired or revoked. Create or rotate a key"),
    "no_credit": CallCode(
        (402,),
        "The available credit of the wallet or at the provider is too low. Add credit, request less, or end other "
        "executions that reserve credit",
    ),
    "payer_limit": CallCode(
        (402,),
        "The request exceeds the payer's limit. Request less, or raise the limit with `POST "
        "/v1/payers/{payer}/orgs/{org_id}/allow`",
    ),
    "no_scope": CallCode((403,), "The key does not have the scope of this route. Use a key with this scope"),
    "foreign_org": CallCode(
        (403,), "The key is bound to another organisation. Use a key that may name this organisation"
    ),
    "grant_limit": CallCode(
        (403,),
        "The call gives more credit than the key may give in one call. Give less, or use a key with a higher `gives`",
    ),
    "foreign_key": CallCode(
        (403, 409),
        "Another API key began this execution or use. Use that API key, or an unbound API key. With 409, the "
        "execution's own key is taken. Choose another key for the execution",
    ),
    "unknown_execution": CallCode(
        (404,),
        "An execution with this key does not exist. Unless your API key is bound to an organisation, the message names "
        "the nearest key",
    ),
    "unknown_org": CallCode(
        (404,),
        "An organisation with this id does not exist. Check the spelling. If a key gets more than 50 responses with "
        "404 a second, Drawdown delays further responses by up to 5 seconds",
    ),
    "unknown_settlement": CallCode(
        (404,),
        "A settlement of an execution with this key does not exist. To list settlements, call `GET /v1/settlements`",
    ),
    "unknown_metric": CallCode(
        (404,), "The guard does not have a metric with this name. Add it with `POST /v1/metrics/{metric}`"
    ),
    "unknown_override": CallCode(
        (404, 422),
        "A limit override with this number does not exist. To list limit overrides, call `GET /v1/overrides`",
    ),
    "unknown_use": CallCode(
        (404,),
        "The guard does not have a use with this key. Check the key. Drawdown does not keep the key of a blocked use",
    ),
    "too_slow": CallCode((408,), "The body arrived too slowly. Send the body without pauses"),
    "above_cap": CallCode(
        (409,), "The execution would reserve more than the plan allows for one execution. Request less"
    ),
    "balance_unknown": CallCode(
        (409,),
        "The balance at the provider was never read, and Drawdown does not assume zero. The watch or the next tick "
        "reads the balance. Send the call again after that",
    ),
    "below_drawn": CallCode(
        (409,),
        "The execution has drawn more than this cost. To return credit, grant it. If a provider bills the "
        "organisation, call `POST /v1/samples/withdraw`",
    ),
    "beyond_balance": CallCode(
        (409,),
        "The call would move the wallet beyond a balance or a debt of 1,000,000,000,000 credits. Send a smaller amount",
    ),
    "beyond_hold": CallCode(
        (409,),
        "The cost exceeds the reservation, and the execution's overage is `refuse`. Extend the execution first",
    ),
    "billed_elsewhere": CallCode(
        (409,),
        "A provider bills the organisation, so a wallet of the embedded ledger does not pay for it. The message names "
        "the provider, and the call to use instead",
    ),
    "blocked": CallCode(
        (409,),
        "A person blocked the project or action. To unblock it, call `POST /v1/orgs/{org_id}/block` with `undo`",
    ),
    "ended": CallCode(
        (409,),
        "You cannot change this execution, use or limit override, because it has ended or was decided. An immediate "
        "use ends at once",
    ),
    "fails_closed": CallCode(
        (409,),
        "The call reports a use that a client allowed (`let_through`), but this metric does not allow such uses. To "
        "allow them, call `POST /v1/metrics/{metric}` with `fail` `open`",
    ),
    "halted": CallCode((409,), "The organisation is halted. To read the reason, call `GET /v1/orgs/{org_id}`"),
    "metered": CallCode(
        (409,),
        "The samples of the execution's sandboxes charge for it. Do not draw on the execution, and end it without "
        "a cost",
    ),
    "needs_quantities": CallCode(
        (409,),
        "A provider bills this organisation by features. Send quantities, not credits",
    ),
    "needs_wallet": CallCode(
        (409,),
        "A supplier, overage `cap` and sandboxes need a wallet at the embedded ledger. Omit these fields, or name "
        "a payer with a wallet",
    ),
    "no_rate": CallCode(
        (409,),
        "The feature does not have a price, or did not have a price when the execution was accepted. Send credits, or "
        "set a price with `POST /v1/rates/{feature}` or `POST /v1/providers/{provider}/rates/{feature}`",
    ),
    "no_wallet": CallCode(
        (409,), "The paying customer does not have a wallet. Call `POST /v1/wallets/{customer_id}/grants`"
    ),
    "not_metered": CallCode(
        (409,),
        "The feature does not have a mapping, or its samples cannot add up to the quantity. Call `POST "
        "/v1/features/{feature}/map`, or send another quantity",
    ),
    "of_a_use": CallCode((409,), "The execution belongs to a use of the guard. Settle or release the use"),
    "other_content": CallCode(
        (409,),
        "The key or number was used before, with different content. To repeat that call, send its first body. For "
        "another call, use a new key or number",
    ),
    "other_org": CallCode((409,), "The sandbox belongs to another organisation. Name a sandbox of this organisation"),
    "other_unit": CallCode((409,), "Earlier charges of the execution are in credits. Send its cost in credits"),
    "payer_not_allowed": CallCode(
        (409,),
        "The payer does not pay for this organisation, or not yet. Call `POST "
        "/v1/payers/{payer}/orgs/{org_id}/allow`, or omit the payer. Or the wallet belongs to a pool or to another "
        "organisation. Call `POST /v1/orgs/{org_id}/assign` with `customer_id`",
    ),
    "refused": CallCode((409,), "A rule forbids the request. The message explains why and names the next step"),
    "sandbox_taken": CallCode((409,), "An open execution names the sandbox. End that execution first"),
    "stopped": CallCode((409,), "The organisation is stopped. To read the reason, call `GET /v1/orgs/{org_id}`"),
    "too_many_asked": CallCode(
        (409,),
        "20 limit overrides of this metric and target wait for approval. Ask an operator to approve or refuse a limit "
        "override",
    ),
    "too_many_executions": CallCode(
        (409,),
        "The wallet has 1,000 open executions that metering settles, which is the maximum. Settle an execution, or "
        "name more sandboxes in each",
    ),
    "bad_event": CallCode(
        (409,),
        "Drawdown refused the event that the use emits, so it did not count the use. Correct the event. The message "
        "has the event's code and the reason",
    ),
    "too_many_sandboxes": CallCode((409,), "The execution names more than 100 sandboxes. Accept several executions"),
    "too_much_held": CallCode(
        (409,),
        "With this execution, all executions of the wallet would reserve more credit than the plan allows. Request "
        "less, wait until an execution ends, or change the plan",
    ),
    "too_large": CallCode(
        (413,),
        "The body is too large. Events and samples may have 4 MB, 8 MB unpacked, 1,000 items and 1,000 gzip members. "
        "A webhook may have 1 MB, and any other body 64 KB. Send a smaller body, or split the items",
    ),
    "bad_value": CallCode(
        (400, 422),
        "A value of the body or query is invalid. Correct the values in `details.wrong`. If `details` is missing, the "
        "message explains the error",
    ),
    "bad_items": CallCode(
        (422,),
        "Drawdown refused all items of the body. `results` explains each refusal. On OpenMeter's path, "
        "`details.results` lists the refused items, and Drawdown keeps the others",
    ),
    "bad_estimate": CallCode((422,), "The estimate must be above 0, and at most 1,000,000,000 credits"),
    "no_estimate": CallCode((422,), "The execution needs an estimate: credits, or quantities of features"),
    "settled_by_missing": CallCode(
        (422,),
        "The execution names sandboxes, but not [who charges](credits.md#executions-in-sandboxes). Send `settled_by`",
    ),
    "no_sandbox": CallCode(
        (422,), "Metering settles the execution, but the request does not name a sandbox. Name a sandbox"
    ),
    "metering_alone": CallCode(
        (422,),
        "If metering settles an execution, it cannot have a supplier, a payer, or an overage other than `charge`. "
        "Omit these fields",
    ),
    "unknown_feature": CallCode(
        (422,), "A feature with this name does not exist. To list features, call `GET /v1/features`"
    ),
    "unknown_project": CallCode(
        (422,), "An execution with this project does not exist. Check the spelling and case of the project"
    ),
    "unknown_subject": CallCode(
        (422,), "An execution with this subject does not exist. Check the spelling and case of the subject"
    ),
    "unknown_supplier": CallCode(
        (422,), "A supplier with this name does not exist. To add it, call `POST /v1/suppliers/{supplier}`"
    ),
    "unknown_action": CallCode(
        (422,), "An execution with this action does not exist. Check the spelling and case of the action"
    ),
    "unknown_payer": CallCode(
        (422,), "A payer with this name does not exist. To add it, call `POST /v1/payers/{payer}/orgs/{org_id}/allow`"
    ),
    "too_many_requests": CallCode(
        (429,),
        "The API key, organisation or address exceeds its rate. Wait for `Retry-After`. A key may send 1,000 requests "
        "and 50,000 items a second, an organisation 40,000 items, and twice as many in a burst",
    ),
    "busy": CallCode(
        (429, 503),
        "Too many batches, small requests or uses of one counter wait. With 503, the server or the database is busy, "
        "or a large batch waited too long. Wait for `Retry-After`, then send the call again",
    ),
    "clock_doubted": CallCode(
        (503,),
        "The server's clock is wrong, so Drawdown refuses the call. Wait until the operator sets the clock, then send "
        "the call again",
    ),
    "database": CallCode((503,), "The database is not available. Wait for `Retry-After`, then send the call again"),
    "answer_lost": CallCode((503,), "The call may have succeeded. Send the same call again, because this is safe"),
    "signature_repeated": CallCode(
        (409,), "An admin request with this signature was used before. Sign the request again with the present time"
    ),
    "not_found": CallCode((404,), "The path, or the provider in a webhook's path, does not exist. Correct the path"),
    "method_not_allowed": CallCode((405,), "The path does not support this method. Correct the method"),
    "webhook_refused": CallCode(
        (400,), "The webhook lacks a header, or is not signed by the provider. Compare the webhook's secret"
    ),
    "not_fetched": CallCode(
        (503,), "The webhook is genuine, but the server could not fetch its object. Send the webhook again"
    ),
    "provider_broken": CallCode(
        (503,), "The server's settings of the webhook's provider are invalid. The operator must correct them"
    ),
    "not_configured": CallCode((503,), "The secret of `/admin` or `/cron` is not set. The operator must set it"),
    "history_doubted": CallCode(
        (503,), "For `/readyz`: the database may have lost history. The operator must recover it"
    ),
    "too_many_headers": CallCode((431,), "The request has too many headers. Send fewer headers"),
    "too_many_connections": CallCode((503,), "The server is at its limit of connections. Wait for `Retry-After`"),
    "failed": CallCode((500,), "The server failed. The operator's log has the details"),
}

ITEMS: Final = (
    ItemCode("accepted", "", "both", "Drawdown keeps the item, and bills it once its window closes"),
    ItemCode(
        "accepted, duplicate",
        "subject_is_label",
        "events",
        "The key is bound to an organisation, which pays for the event. The subject of the CloudEvent is only a label. "
        "To bill the subject, use a key that is not bound",
    ),
    ItemCode("duplicate", "", "both", "Drawdown already has the item"),
    ItemCode(
        "duplicate", "withdrawn", "both", "Drawdown already has the item, but it was withdrawn, so it is not billed"
    ),
    ItemCode(
        "pending", "unmapped", "both", "Drawdown keeps the item, and bills it once its type or size has a feature"
    ),
    ItemCode(
        "pending", "unassigned", "both", "Drawdown keeps the item, and bills it once its organisation has a provider"
    ),
    ItemCode(
        "conflict",
        "other_content",
        "both",
        "The item's id is already stored with different content. Drawdown keeps the stored item. For different usage, "
        "send a new id. Do not repeat the same usage under a new id, because Drawdown bills both. The API key decides "
        "[the scope of an id](events.md#the-scope-of-an-id)",
    ),
    ItemCode("invalid", "empty_line", "both", "A line of JSON lines is empty. Send an item on each line"),
    ItemCode("invalid", "not_json", "both", "The item is not valid JSON. Fix its syntax"),
    ItemCode("invalid", "not_an_object", "both", "The item is JSON, but not an object. Send an object"),
    ItemCode(
        "invalid",
        "duplicate_keys",
        "both",
        "An object has a duplicate key, or two headers have the same attribute. Send each once",
    ),
    ItemCode(
        "invalid",
        "too_deep",
        "both",
        "The item's objects and arrays are nested more than 8 levels deep. Use fewer levels",
    ),
    ItemCode("invalid", "too_large", "both", "The item has more than 16 KB. Send a smaller item"),
    ItemCode(
        "invalid",
        "unknown_field",
        "both",
        "The item has an unknown field, most likely a mistyped name. Correct the name",
    ),
    ItemCode("invalid", "missing", "events", "A required field is missing. The message names the field"),
    ItemCode("invalid", "wrong_type", "events", "A field has the wrong type. The message names the field and the type"),
    ItemCode("invalid", "bad_specversion", "events", "A CloudEvent's `specversion` must be `1.0`"),
    ItemCode("invalid", "bad_data", "events", "A CloudEvent's `data` must be a JSON object with the quantity"),
    ItemCode(
        "invalid",
        "bad_id",
        "both",
        "An id or label must be a string of 1 to 200 characters, without control characters and U+FFFD to U+FFFF",
    ),
    ItemCode("invalid", "bad_text", "events", "A text has a NUL character or half of a surrogate pair"),
    ItemCode("invalid", "bad_number", "events", "A number is too large for a 64-bit floating-point number"),
    ItemCode("invalid", "bad_time", "events", "A time must be ISO 8601 with its offset, or milliseconds since 1970"),
    ItemCode("invalid", "bad_properties", "events", "Properties must be valid JSON values"),
    ItemCode("invalid", "properties_too_large", "events", "Properties may have at most 4,096 bytes and 100 values"),
    ItemCode("invalid", "not_whole", "events", "A quantity is not a whole number. Count in a smaller unit"),
    ItemCode("invalid", "bad_quantity", "events", "A quantity must be a whole number from 0 to 1,000,000,000,000"),
    ItemCode(
        "invalid", "too_old", "events", "The event's time is before 2000. Send milliseconds since 1970, or ISO 8601"
    ),
    ItemCode(
        "invalid", "in_the_future", "events", "The event's time is over five minutes ahead. Check the sender's clock"
    ),
    ItemCode(
        "invalid", "too_late", "both", "The item's window is below the organisation's floor, so it is closed for good"
    ),
    ItemCode(
        "invalid",
        "foreign_org",
        "both",
        "The key is bound to an organisation other than the item's. Send the key's organisation, or use another key",
    ),
    ItemCode(
        "invalid",
        "foreign_cell",
        "samples",
        "The key is bound to a cell other than the sample's. Send the key's cell, or use another key",
    ),
    ItemCode(
        "invalid",
        "foreign_source",
        "both",
        "The key is bound to another source. The id of a sample must begin with the source and a colon",
    ),
    ItemCode(
        "invalid",
        "reserved_id",
        "samples",
        "The item's id begins with `event:`, `run:` or `batch:`, which Drawdown reserves. Choose another id",
    ),
    ItemCode(
        "invalid",
        "too_many_types",
        "events",
        "The event's type is new, but 10,000 event types are in use already. Send a known type",
    ),
    ItemCode(
        "invalid",
        "too_many_org_types",
        "events",
        "The event's type is new, but keys of its organisation already added 100 event types. Send a known type",
    ),
    ItemCode(
        "invalid",
        "too_many_key_types",
        "events",
        "The event's type is new, but the API key, or all keys of its source, already added 1,000 event types. Add the "
        "type with `POST /v1/event-types/{event_type}/map`",
    ),
    ItemCode(
        "invalid",
        "key_repeated",
        "events",
        "Another item of the body has the same source and id, and was refused. Send this item alone",
    ),
    ItemCode(
        "invalid",
        "withdrawn",
        "events",
        "An event with the same source and id was withdrawn, and has been pruned since. Use a new id for different "
        "usage",
    ),
    ItemCode(
        "invalid",
        "charged_at_once",
        "events",
        "The guard charges for this event type in this window, so Drawdown would not bill the event. If the guard "
        "has not charged the use, send it to `POST /v1/guard/consume`",
    ),
    ItemCode("invalid", "id_missing", "samples", "The field `id` of the sample is missing"),
    ItemCode("invalid", "org_id_missing", "samples", "The field `org_id` of the sample is missing"),
    ItemCode("invalid", "sandbox_id_missing", "samples", "The field `sandbox_id` of the sample is missing"),
    ItemCode("invalid", "cell_id_missing", "samples", "The field `cell_id` of the sample is missing"),
    ItemCode("invalid", "memory_missing", "samples", "The field `memory_mb` of the sample is missing"),
    ItemCode("invalid", "interval_missing", "samples", "The field `interval_s` of the sample is missing"),
    ItemCode("invalid", "ts_missing", "samples", "The field `ts` of the sample is missing"),
    *(
        ItemCode(
            "invalid",
            f"bad_{name}",
            "samples",
            "An id must be a string of 1 to 200 characters, without control characters and U+FFFD to U+FFFF",
        )
        for name in ID_FIELDS[1:]
    ),
    ItemCode("invalid", "memory_not_a_number", "samples", "`memory_mb` must be whole megabytes, from 0 to 16,777,216"),
    ItemCode("invalid", "memory_fractional", "samples", "`memory_mb` must be whole megabytes, from 0 to 16,777,216"),
    ItemCode("invalid", "memory_out_of_bounds", "samples", "`memory_mb` must be whole megabytes, from 0 to 16,777,216"),
    ItemCode("invalid", "interval_not_a_number", "samples", "`interval_s` must be whole seconds, from 0 to 86,400"),
    ItemCode("invalid", "interval_fractional", "samples", "`interval_s` must be whole seconds, from 0 to 86,400"),
    ItemCode("invalid", "interval_negative", "samples", "`interval_s` must be whole seconds, from 0 to 86,400"),
    ItemCode("invalid", "interval_over_a_day", "samples", "`interval_s` must be whole seconds, from 0 to 86,400"),
    ItemCode("invalid", "cpu_not_a_number", "samples", "`cpu_count` must be a number from 0 to 100,000"),
    ItemCode("invalid", "cpu_out_of_bounds", "samples", "`cpu_count` must be a number from 0 to 100,000"),
    ItemCode(
        "invalid",
        "ts_unreadable",
        "samples",
        "A time must be ISO 8601 with its offset, or milliseconds since 1970",
    ),
    ItemCode(
        "invalid",
        "ts_before_2000",
        "samples",
        "The sample's time is before 2000. Send milliseconds since 1970, or ISO 8601",
    ),
    ItemCode(
        "invalid", "ts_in_the_future", "samples", "The sample's time is over five minutes ahead. Check the host's clock"
    ),
)
