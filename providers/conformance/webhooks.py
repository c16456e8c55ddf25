"""The part of the suite for webhooks: believed only from the service, only in time, and only for the customer to read.

Guarantee: each webhook is signed as the service signs it. Any later change of it is stated by the test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from drawdown.providers.conformance.bench import (
    FOREIGN,
    LOST,
    NONSENSE,
    WRONG_TYPES,
    Secret,
    changed,
    fields,
    instead,
    paths,
    retyped,
)
from drawdown.providers.conformance.tools import Tools, awaited, outcomes
from drawdown.providers.protocol import CustomerChanged, Notice, PushRefused, ReadFailed, WebhookRefused
from drawdown.schema.units import DAY_MS, SECOND_MS


class WebhookTests(Tools):
    """What comes in from outside."""

    def webhook(self, by: Secret = "current") -> tuple[Mapping[str, str], bytes]:
        """One that says the customer changed, signed with this secret."""
        body = self.bench.change_of(self.bench.customer)
        return self.bench.signed(body, by), body

    def test_a_webhook_names_who_changed_by_the_old_secret_and_the_new(self) -> None:
        secrets: tuple[Secret, ...] = ("current", "previous")
        for secret in secrets:
            headers, body = self.webhook(secret)
            assert self.notices(headers, body) == [CustomerChanged(self.bench.customer)], secret

    def test_a_webhook_that_comes_twice_says_the_same_or_is_refused(self) -> None:
        headers, body = self.webhook()
        first = self.notices(headers, body)
        self.bench.advance(SECOND_MS)
        assert self.refuses(headers, body) or self.notices(headers, body) == first

    def test_a_forged_webhook_is_refused(self) -> None:
        assert self.refuses(*self.webhook("strange"))
        headers, body = self.webhook()
        for forged in (body + b" ", body.replace(self.bench.customer.encode(), b"someone"), b"{}", b"", b"\xff\xfe"):
            assert self.refuses(headers, forged), forged[:40]
        assert self.refuses(headers, self.bench.change_of(self.bench.unknown_customer)), "signed for another body"

    def test_a_webhook_without_its_signature_is_refused(self) -> None:
        headers, body = self.webhook()
        unsigned = [name for name in headers if self.refuses({k: v for k, v in headers.items() if k != name}, body)]
        assert unsigned, "no header is missed"
        for name in unsigned:
            own = headers[name]
            for value in (
                "",
                own[:-1],
                own[: len(own) // 2],
                own + "\N{SNOWMAN}",
                "v1=",
                "v1,",
                "t=1,v1=00",
                "0" * 9999,
            ):
                assert self.refuses({**headers, name: value}, body), (name, value[:20])
        assert self.refuses({}, body)

    def test_a_stale_webhook_is_refused(self) -> None:
        headers, body = self.webhook()
        self.bench.advance(DAY_MS)
        assert self.refuses(headers, body)

    def test_a_genuine_webhook_may_say_anything(self) -> None:
        """Somebody with the secret, or the service in a later version."""
        texts = [b"", b"{}", b"[]", b"null", b"7", b'{"type"', b'"\xff"', b"[" * 100_000, b'{"type": "news.of.2030"}']
        for body in texts:
            assert self.harmless(body) == [], body[:30]
        genuine = self.bench.change_of(self.bench.customer)
        for path in paths(json.loads(genuine)):
            for value in WRONG_TYPES:
                self.harmless(json.dumps(changed(json.loads(genuine), path, value)).encode())

    def test_a_late_refusal_is_told_once_it_can_be_read(self) -> None:
        request = self.request(customer=self.bench.unknown_customer)
        self.run(outcomes(self.bench.provider, [request]))
        headers, body = self.bench.late_refusal(request)
        strange = {name: instead(answer) for name, answer in {**NONSENSE, **FOREIGN}.items()}
        for name, spoil in {**LOST, **strange}.items():
            calls = self.wire.calls
            with self.wire.spoiled(spoil):
                found = self.run(awaited(self.bench.provider.notices(headers, body, self.now_ms)))
            assert isinstance(found, ReadFailed) or self.wire.calls == calls, f"{name}: the webhook must come again"
            self.clean(found)
        self.wire.last = None
        (refusal,) = self.notices(headers, body)
        assert isinstance(refusal, PushRefused) and refusal.key == request.key
        for path in paths(fields(self.wire.last)):
            for value in WRONG_TYPES:
                with self.wire.spoiled(retyped(path, value)):
                    self.told(headers, body)

    def harmless(self, body: bytes) -> Sequence[Notice]:
        return self.told(self.bench.signed(body, "current"), body)

    def told(self, headers: Mapping[str, str], body: bytes) -> Sequence[Notice]:
        """What it says, which may be nothing; a refusal, or a failure to read more, is nothing too."""
        try:
            found = self.run(awaited(self.bench.provider.notices(headers, body, self.now_ms)))
        except WebhookRefused as error:
            self.clean(str(error))
            return []
        told = [] if isinstance(found, ReadFailed) else list(found)
        assert all(isinstance(notice, CustomerChanged | PushRefused) for notice in told), told
        names = [notice.customer_id if isinstance(notice, CustomerChanged) else notice.key for notice in told]
        assert all(isinstance(name, str) for name in names), told
        self.clean(*told)
        return told
