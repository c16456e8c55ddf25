"""Names of fields whose values are private, whatever they look like.

A name is taken without its case, its separators and the `s` of a plural: `ownerIds`, `OWNER-ID` and `owner_id` are one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from drawdown.events.privacy.readings import MAX_TEXT_CHARS, has_few_marks

_PRIVATE: Final = {
    "raw_actor_id": "actor actorid user userid uid username login member memberid person personid viewer viewerid "
    "createdby updatedby requestedby requester requesterid author authorid subjectid",
    "raw_account_id": "account accountid acct acctid customer customerid org orgid organisation organisationid "
    "organization organizationid tenant tenantid clientid billingaccount billingaccountid stripecustomer "
    "stripecustomerid wallet walletid",
    "raw_workspace_id": "workspace workspaceid projectid teamid spaceid siteid",
    "raw_owner_id": "owner ownerid payer payerid sponsor sponsorid supplierid creator creatorid",
    "subscription_id": "subscription subscriptionid stripesubscription stripesubscriptionid",
    "payment_id": "invoiceid paymentid chargeid paymentintent paymentintentid paymentmethod cardnumber checkoutid",
    "execution_id": "executionid runid jobid taskid predictionid requestid correlationid traceid spanid invocationid "
    "renderid workflowrunid workflowid sessionid sandboxid deviceid messageid eventid sampleid "
    "idempotencykey providerrequestid providerexecutionid",
    "object_key": "objectkey storagekey s3key r2key blobkey filekey bucketname objectpath filepath storagepath "
    "inputkey outputkey",
    "private_url": "signedurl presignedurl downloadurl uploadurl imageurl inputurl outputurl fileurl webhookurl "
    "callbackurl sourceurl avatarurl privateurl",
    "gateway_metadata": "cfray xrequestid xcorrelationid traceparent tracestate useragent xforwardedfor xrealip "
    "cfconnectingip xamzntraceid xvercelid gatewayid gatewaylogid gatewaymetadata requestheader responseheader",
    "ip_address": "ip ipaddress clientip remoteip remoteaddr remoteaddress sourceip",
    "email": "email emailaddress useremail",
    "personal_data": "phone phonenumber mobile firstname lastname fullname surname birthdate dateofbirth ssn passport "
    "streetaddress postaladdress",
    "image_bytes": "imagebyte imagebase64 imageb64 b64json imagedata rawimage thumbnail",
    "private_content": "prompt completion messagebody requestbody responsebody rawbody rawevent transcript",
}  # fmt: skip
_SECRET: Final = (
    "secret", "password", "passwd", "passphrase", "apikey", "accesskey", "secretkey", "privatekey", "signingkey",
    "authorization", "bearer", "cookie", "signature", "credential", "token", "webhookkey", "hmackey", "encryptionkey",
)  # fmt: skip
"""What the name of a secret ends with."""
BY_FIELD: Final = {name.removesuffix("s"): rule for rule, names in _PRIVATE.items() for name in names.split()}
NOTHING_SAID: Final = frozenset(
    ("", "redacted", "other", "unknown", "none", "n/a", "na", "anonymous", "system", "all", "total", "hidden", "masked")
)
"""What may stand for what is not said."""
_WHOLE: Final = frozenset(("gateway_metadata", "private_content", "personal_data", "image_bytes"))
"""Of an object of such a field every text is private."""
_NAMES: Final = frozenset(("name", "displayname", "label", "handle", "slug", "title", "value"))
"""Of the object of any private field, these are, too: `account: {name: …}`."""
_HOW_MUCH: Final = ("quantity", "quantitie", "count", "total", "second", "byte", "micro", "unit", "credit", "event")
"""What the name of a quantity ends with, bare. Of any numbers so long, one in ten has the check digit of a card."""
_MASK: Final = re.compile(r"[*•.…\[\](){}<> -]*|x{3,}|[\[(<]?redacted[\])>]?", re.IGNORECASE)


@lru_cache(4_096)
def bare(name: str) -> str:
    """A name without case and separators, and without the `s` of a plural. What `readings` does not read is cut."""
    cut = name[:MAX_TEXT_CHARS]
    folded = (unicodedata.normalize("NFKC", cut) if has_few_marks(cut) else cut).casefold()
    return "".join(filter(str.isalnum, folded)).removesuffix("s")


def rule_of(key: str, above: str, *, is_number: bool) -> str | None:
    """The rule by which the value of a field is private, for its bare name and the one above it: `actor: {id: …}`."""
    if BY_FIELD.get(above) in _WHOLE or key in _NAMES:
        found = BY_FIELD.get(above)
        if found is not None and not is_number:
            return found
    for name in (key, above + key):
        found = BY_FIELD.get(name)
        if found is not None and not (is_number and not name.endswith(("id", "number", "ip"))):
            return found
    if is_number:
        return "secret_field" if key in ("password", "pin", "passcode") else None
    return "secret_field" if key.endswith(_SECRET) else None


def says_how_much(key: str) -> bool:
    """Whether a field is a quantity, by its bare name: then its digits are no card's."""
    return key.endswith(_HOW_MUCH)


def rule_of_bytes(key: str) -> str | None:
    """The rule by which numbers in a list are private: bytes of a picture, one by one."""
    return "image_bytes" if BY_FIELD.get(key) == "image_bytes" else None


def rule_of_keys(key: str) -> str | None:
    """The rule by which the keys of an object are private, as those of `by_owner` and `per_account` are."""
    for head in ("by", "per"):
        if key.startswith(head):
            return BY_FIELD.get(key.removeprefix(head))
    return None


def says_nothing(text: str) -> bool:
    """Whether a value is redacted, or no value at all."""
    return text.strip().casefold() in NOTHING_SAID or _MASK.fullmatch(text.strip()) is not None
