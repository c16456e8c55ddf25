"""Rules for secrets: tokens, keys, passwords, signatures.

Guarantee: no pattern has a repetition without an end, here and in the other files of rules, so what one costs grows
with the text and no faster. Each has texts that it must and must not match in `tests/unit/test_privacy_rules.py`.
"""

from __future__ import annotations

import base64
import re
from typing import Final

from drawdown.events.privacy.rule import rule

DIGIT: Final = r"(?=[a-z]{0,40}\d)"
"""What follows holds a digit behind letters."""
MIXED: Final = (
    r"(?:(?=[a-z]{0,40}\d)(?=\d{0,40}[a-z])[a-z0-9]{4}|"
    r"(?-i:(?=[a-z0-9]{0,40}[A-Z])(?=[A-Z0-9]{0,40}[a-z])[A-Za-z0-9]{10}))"
)
"""Letters with a digit among them, or in both cases: no word of a language."""


def _is_basic(found: str) -> bool:
    """Whether what stands behind `Basic` is a name and a password."""
    text = re.split(r"[\s:=]+", found.rstrip("="))[-1]
    try:
        return b":" in base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return False


SECRETS: Final = (
    rule(
        "bearer_token",
        "a bearer token",
        r"\bbearer[\s:=]{1,3}(?:[a-z0-9]{20}|(?=[a-z_.~+/-]{0,30}\d)[\w.~+/-]{6}|[a-z]{1,30}[-_.~+/][\w.~+/-]{3}|(?-i:[a-z0-9._~+/-]{1,40}[A-Z])[\w.~+/-]{8})",
        needles="bearer",
    ),
    rule(
        "authorization",
        "a header that lets somebody in",
        r"authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:basic|bearer|token|digest|apikey)\s{1,3}[^\s\"']{4}",
        r"\b(?:x-api-key|x-auth-token|set-cookie|cookie)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"']{6}",
        needles="authorization x-api-key x-auth-token cookie",
    ),
    rule(
        "basic_auth",
        "a name with a password, as HTTP has them",
        r"\bbasic[\s:=]{1,3}[a-z0-9+/]{8,200}={0,2}",
        needles="basic",
        holds=_is_basic,
    ),
    rule("json_web_token", "a JSON web token", r"\beyJ[\w-]{8,500}\.[\w-]{4}", needles="eyj"),
    rule(
        "private_key",
        "a private key",
        r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY",
        r"\bAGE-SECRET-KEY-1[a-z0-9]{8}",
        needles="private age-secret",
    ),
    rule(
        "webhook_secret",
        "a secret that signs webhooks",
        r"\bwhsec_[\w+/=-]{3}",
        r"\bwhsk_\w{8}",
        needles="whsec_ whsk_",
    ),
    rule(
        "payment_key",
        "a key of a payment service",
        r"\b(?:sk|rk|pk)_(?:live|test)_\w{3}",
        r"\bam_[sp]k_\w{4}",
        r"\bsq0(?:atp|csp|idp)-[\w-]{8}",
        r"\bEAAA[\w-]{40}",
        needles="k_live_ k_test_ am_sk_ am_pk_ sq0 eaaa",
    ),
    rule("api_key", "a key of this program's", r"\bddk_[\w-]{16}", needles="ddk_"),
    rule(
        "model_key",
        "a key of a service for models",
        r"\bsk-(?:ant|proj|or|svcacct|admin|lf)-[\w-]{8}",
        r"\bsk-[a-z0-9]{20}",
        rf"\b(?:hf|gsk|r8|xai|pplx|nvapi|jina|tgp_v1)[_-]{DIGIT}\w{{16}}",
        r"\bhf_[a-z0-9]{20}",
        r"\bfal_[\w-]{16}",
        needles="sk- hf_ gsk_ r8_ xai- pplx- nvapi- jina_ tgp_v1_ fal_",
    ),
    rule(
        "cloud_key",
        "a key of a cloud",
        r"\b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}\b",
        r"\bAIza[\w-]{30}",
        r"\bya29\.[\w-]{10}",
        r"\bGOCSPX-[\w-]{16}",
        r"\bAccountKey=[\w+/=]{16}",
        r"\bdo[opr]_v1_[0-9a-f]{16}",
        r"\bLTAI[a-z0-9]{12}",
        r"\bv1\.0-[0-9a-f]{24}-[0-9a-f]{32}",
        needles="akia asia abia acca aroa aida aiza ya29. gocspx- accountkey= doo_v1_ dop_v1_ dor_v1_ ltai v1.0-",
    ),
    rule(
        "code_host_token",
        "a token of a host of code or packages",
        r"\bgh[pousr]_[a-z0-9]{16}",
        r"\bgithub_pat_\w{16}",
        r"\bgl(?:pat|dt|rt|ptt|cbt)-[\w-]{12}",
        r"\bnpm_[a-z0-9]{20}",
        r"\bpypi-[\w-]{16}",
        r"\bATATT3[\w=-]{16}",
        r"\bdckr_pat_[\w-]{8}",
        r"\blin_api_\w{16}",
        needles="ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- gldt- glrt- glptt- glcbt- npm_ pypi- atatt3 dckr_pat_ "
        "lin_api_",
    ),
    rule(
        "chat_token",
        "a token or address of a chat",
        r"\bxox[abeoprs]-[\w-]{8}",
        r"\bxapp-\d-[\w-]{8}",
        r"hooks\.slack\.com/(?:services|workflows)/",
        r"discord(?:app)?\.com/api/webhooks/",
        r"\b\d{8,10}:AA[\w-]{30}",
        needles="xox xapp- hooks.slack.com discord :aa",
    ),
    rule(
        "mail_key",
        "a key of a service for mail or messages",
        r"\bSG\.[\w-]{12,40}\.[\w-]{12}",
        r"\bkey-[0-9a-f]{32}",
        r"\b(?:AC|SK)[0-9a-f]{32}\b",
        r"\bre_[a-z0-9]{6,12}_[a-z0-9]{10}",
        r"\bxkeysib-[0-9a-f]{16}",
        needles="sg. key- ac sk re_ xkeysib-",
    ),
    rule(
        "shop_token",
        "a token of a shop or another service",
        r"\bshp(?:at|ca|pa|ss)_[0-9a-f]{16}",
        r"\bdapi[0-9a-f]{32}",
        r"\bdop_v\d_\w{16}",
        r"\bhvs\.[\w-]{16}",
        r"\bsntrys_[\w=+/-]{16}",
        r"\bphc_[a-z0-9]{16}",
        r"\bntn_[a-z0-9]{16}",
        r"\bsecret_[a-z0-9]{20}",
        r"\bsvix_[\w-]{8}",
        r"\btskey-[\w-]{8}",
        needles="shp dapi dop_v hvs. sntrys_ phc_ ntn_ secret_ svix_ tskey-",
    ),
    rule(
        "named_secret",
        "a secret with its name before it",
        r"(?:secret|token|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key|credential)s?[\"']?\s{0,3}[:=]{1,2}\s{0,3}[\"']?"
        r"(?=[^\s\"',;&]{0,60}\d)(?=[^\s\"',;&]{0,60}[a-z])(?!ref_)[^\s\"',;&*<\[]{8}",
        r"(?:password|passwd|pwd|passphrase|passcode)[\"']?\s{0,3}[:=]{1,2}\s{0,3}[\"']?(?=[^\s\"',;]{0,60}[\d!@#$%^&])[^\s\"',;*<\[]{4}",
        needles="secret token key credential passw pwd pass",
    ),
    rule(
        "session_cookie",
        "a session's cookie",
        r"\b(?:session|sess|sid|connect\.sid|csrf|xsrf|jsessionid|phpsessid|__(?:secure|host)-[\w.-]{1,30})(?:[_-]?(?:id|token))?="
        r"[^\s;&\"']{6}",
        needles="sess sid= csrf xsrf __",
    ),
    rule(
        "url_password", "a URL with a name and a password", r"://[^\s/@:\"']{0,100}:[^\s/@\"']{1,200}@", needles="://"
    ),
    rule(
        "signed_url",
        "a URL that lets whoever has it in",
        r"[?&](?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|token|access_token|"
        r"auth|api_?key|key|awsaccesskeyid|key-pair-id|googleaccessid|hdnts|hmac|jwt|code|secret)=[^\s&#\"']{4}",
        needles="=",
    ),
)
