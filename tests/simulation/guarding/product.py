"""What products ask of the guard, and what each answer has to be.

Guarantee: an answer is worked out before it is known; what was denied, or blocked, changes no book.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from drawdown.ledger.reservations import Denied
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.use import Wish
from drawdown.worker.verdict.effective_balance import unbilled_micro
from tests.simulation.callers import AGAIN
from tests.simulation.guarding.books import Said, Used, Who
from tests.simulation.guarding.calling import Call, Product
from tests.simulation.providers import MEMORY

NAMING: Final = ("ann", "cid", "far")
"""Who names a sponsor now and then; of one of them it does not pay."""
ASKERS: Final = ("ann", "bob", "cid", "acme-1", "acme-2", "used", "far")
FAR: Final = "far"
"""Whose balance a provider keeps: of its credit the guard knows nothing."""
REMOTE: Final = (
    "SELECT o.balance_read_ms FROM orgs o JOIN assignments a ON a.org_id = o.org_id "
    "WHERE o.org_id = :o AND a.provider = :provider AND a.end_ms IS NULL"
)
"""When the balance of such an organisation was read."""
PATRON: Final = "patron"
UNKNOWN: Final = ("balance_unknown", "needs_quantities")
HOUR_MS: Final = 60 * MINUTE_MS
LIVES_MS: Final = (None, 10 * MINUTE_MS, 10 * MINUTE_MS, 3 * HOUR_MS, 2 * DAY_MS)
AMOUNTS: Final = {"byte": (1, 7, 30, 60, 200)}
FEW: Final = (1, 1, 2, 3, 5)


def ask(product: Product) -> str:
    """Something is used, or held to be used; it is checked first, now and then."""
    rng = product.rng
    org, metric = rng.choice(ASKERS), rng.choice(sorted(product.books.metrics))
    amount = rng.choice(AMOUNTS.get(metric, FEW))
    payer = PATRON if org in NAMING and rng.random() < 0.3 else None
    what = "reserve" if rng.random() < 0.45 else "consume"
    wish = Wish(org, metric, amount, rng.choice(LIVES_MS) if what == "reserve" else None, payer=payer, subject="ann")
    gone = sorted(one for one in product.lost - product.books.uses.keys() if one.startswith(f"{org}-k"))
    key = rng.choice(gone) if gone and rng.random() < 0.15 else product.name(f"{org}-k")
    if rng.random() < 0.4:
        _check(product, wish)
    one = Call(what, key, org, wish)
    told = _take(product, one)
    _again(product, one)
    return told


def misuse(product: Product) -> str | None:
    """A key is used for something else; or what was used at once is settled."""
    if not product.books.uses:
        return None
    key = product.rng.choice(sorted(product.books.uses))
    use = product.books.uses[key]
    if use.state == "used" and product.rng.random() < 0.5:
        return _end(product, Call("settle", key, use.org, amount=1))
    what = "consume" if use.state == "used" else "reserve"
    one = Call(what, key, use.org, Wish(use.org, use.metric, use.asked + 1, subject="ann"))
    product.compare(one, product.call(one), {"denied": "other_content"})
    product.note("other_content")
    return f"uses {key} for something else"


def go_on(product: Product) -> str | None:
    """What is held grows, or ends."""
    held = [key for key, one in product.books.uses.items() if one.state in ("held", "expired")]
    if not held:
        return None
    key, how = product.rng.choice(held), product.rng.random()
    use = product.books.uses[key]
    amount = product.rng.choice((0, use.asked // 3, use.asked, use.amount + 1, 3 * use.asked))
    if how < 0.3:
        one = Call("extend", key, use.org, amount=product.rng.choice((None, amount or None, use.amount + use.asked)))
        one = replace(one, for_ms=product.rng.choice(LIVES_MS))
        told = _extend(product, one)
    else:
        one = Call("settle" if how < 0.8 else "release", key, use.org, amount=amount)
        told = _end(product, one)
    _again(product, one)
    return told


def hear(product: Product) -> str | None:
    """A call of some time ago is given again."""
    unheard = product.books.unheard
    if not unheard:
        return None
    (one,) = unheard.pop(product.rng.randrange(len(unheard)))
    product.note("called_again_later")
    return f"again: {_give(product, one)}"


def end_all(product: Product) -> None:
    """What is held is settled, or given up."""
    for key, use in sorted(product.books.uses.items()):
        if use.state in ("held", "expired"):
            product.world.say("guard", _end(product, Call("settle", key, use.org, amount=use.asked)))


def _again(product: Product, one: Call) -> None:
    chance = product.rng.random()
    if chance < AGAIN:
        product.note("called_again")
        _give(product, one)
    elif chance < 2 * AGAIN and one.what != "extend":
        product.books.unheard.append((one,))


def _give(product: Product, one: Call) -> str:
    if one.what in ("consume", "reserve"):
        return _take(product, one)
    return _extend(product, one) if one.what == "extend" else _end(product, one)


def _who(product: Product, org: str) -> Who:
    """Of an organisation's own row only what a provider's verdict wrote there is believed: its plan, and its halt."""
    books = product.books
    rows = product.world.rows('SELECT "plan", is_halted, halt_reason, stopped_at_ms FROM orgs WHERE org_id = :o', o=org)
    plan, halted, reason, stopped = rows[0] if rows else (None, False, None, None)
    why = "stopped" if stopped is not None else "halted" if halted and reason == "operator" else None
    return Who(org, books.plans.get(org, plan), org in books.bought or _topped(product, org) > 0, why)


def _topped(product: Product, org: str) -> int:
    text = "SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_entries WHERE kind = 'grant' AND to_account = :a"
    ((whole,),) = product.world.rows(f"{text} AND key LIKE 'topup:%'", a=f"wallet:{org}")
    return int(whole)


def free(product: Product, payer: str, at_ms: int | None = None) -> int:
    """What a wallet has: what it was given, less what samples and the guard charged, and what is held at a moment."""
    text = "SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_entries WHERE kind = 'usage' AND from_account = :a"
    ((metered,),) = product.world.rows(text, a=f"wallet:{payer}")
    books = product.books
    whole = books.given[payer] + _topped(product, payer) - int(metered)
    return whole - books.spent(payer) - books.holds(payer, product.now if at_ms is None else at_ms)


def available(product: Product, payer: str, at_ms: int | None = None) -> int:
    """What the guard may take of it: less what was used and is not charged yet, which has a test of its own."""
    now_ms = product.now if at_ms is None else at_ms
    waits = product.world.write(lambda c: unbilled_micro(c, payer, now_ms))
    return free(product, payer, at_ms) - int(waits)


def _payer(product: Product, wish: Wish) -> tuple[str, str]:
    """Who runs, and whose wallet pays."""
    named = product.books.metrics[wish.metric].payer
    if wish.payer is not None:
        return wish.org_id, wish.payer
    return (named, named) if named is not None else (wish.org_id, wish.org_id)


def _credit(product: Product, wish: Wish, price: int) -> str | None:
    """With which code a run at a price is refused."""
    runs, payer = _payer(product, wish)
    if payer != runs and (payer, runs) not in product.books.sponsors:
        return "payer_not_allowed"
    far = product.world.rows(REMOTE, o=payer, provider=MEMORY)  # a new organisation can begin there, too
    if far:  # only its provider knows the balance
        ((read_ms,),) = far
        return "balance_unknown" if read_ms is None else "needs_quantities"
    rows = product.world.rows("SELECT is_halted OR stopped_at_ms IS NOT NULL FROM orgs WHERE org_id = :o", o=runs)
    if rows and rows[0][0]:
        return "halted"
    return "no_credit" if price > available(product, payer) else None


def _decided(product: Product, wish: Wish, state: str = "used") -> tuple[Said, str | None, bool, int]:
    """What is said, the code of the credit where it was asked for and is none, whether it is unknown, and the price."""
    books, who, now = product.books, _who(product, wish.org_id), product.now
    said = books.decide(who, wish.metric, wish.quantity, now, now)
    terms, code, degraded = books.metrics[wish.metric], None, False
    price = terms.holds(wish.quantity) if state == "held" else terms.costs(wish.quantity)
    if price and said.decision != "block":
        code = _credit(product, wish, price)
        degraded = code in UNKNOWN
        if code is not None and not (degraded and terms.fails_open) and said.would != "block":
            said = books.decide(who, wish.metric, wish.quantity, now, now, code)
    return said, code, degraded, price


def _words(said: Said) -> dict[str, Any]:
    return {name: getattr(said, name) for name in vars(said)}


def _check(product: Product, wish: Wish) -> None:
    """It is told what would be answered, and nothing changes."""
    said = _decided(product, wish)[0]
    found = product.world.read(lambda c: guard.check(c, wish, product.now))
    product.compare(Call("check", "", wish.org_id, wish), found, {**_words(said), "charged_micro": 0, "state": None})
    slowly = product.world.read(lambda c: guard.step_by_step(c, wish, product.now))
    if found != slowly:
        product.breach(f"{wish} at {product.now}: {found}, and step by step {slowly}")
    _has(product, wish, product.now)
    product.note(f"checked_{said.decision}")


def _has(product: Product, wish: Wish, at_ms: int) -> None:
    """It is told what whoever pays has, at a moment that may be to come."""
    payer = _payer(product, wish)[1]
    found = product.world.read(lambda c: guard.check(c, wish, at_ms)).balance_micro
    if payer == wish.org_id and found not in (None, left := available(product, payer, at_ms)):
        product.breach(f"{payer} was told of {found} at {at_ms}, and has {left}")


def _take(product: Product, one: Call) -> str:
    """Used at once, or held."""
    assert one.wish is not None
    wish, books, now, state = one.wish, product.books, product.now, "used" if one.what == "consume" else "held"
    before = books.uses.get(one.key)
    if before is not None and before.said != (one.what, wish):  # the key was blocked, and given to another wish since
        product.compare(one, product.call(one), {"denied": "other_content"})
        return f"{one.what} {one.key}, of another wish"
    if before is not None:
        again = {"repeated": True, "charged_micro": 0, "decision": before.decision, "would": before.would}
        right = {"rule": before.rule, "quantity": before.amount, "degraded": before.degraded, **_money(before)}
        answer = product.call(one)
        if before.is_over(now):  # whether anything has looked at it since, or not
            del right["quantity"], right["price_micro"]
        product.compare(one, answer, {**again, **right})
        if not isinstance(answer, Denied) and answer.state != before.state and not before.is_over(now):
            product.breach(f"{one} is {answer.state}, and should be {before}")
        return f"{one.what} {one.key} again"
    said, code, degraded, price = _decided(product, wish, state)
    asked = price if said.decision != "block" or said.rule == "credits" else 0
    runs = bool(price) and code is None and said.decision != "block"
    charged = price if runs and state == "used" else 0
    want = {**_words(said), "price_micro": asked, "charged_micro": charged, "repeated": False, "degraded": degraded}
    payer = _payer(product, wish)[1]
    left = available(product, payer) - price if runs else 0
    answer = product.call(one)
    product.compare(one, answer, {**want, "state": None if said.decision == "block" else state})
    if runs and payer == wish.org_id and getattr(answer, "balance_micro", None) not in (None, left):
        product.breach(f"{one}: {payer} has {answer.balance_micro} after it, and should have {left}")
    _denied(product, wish, said, wish.quantity)
    product.note(f"{one.what}_{said.decision}" + ("" if said.would == said.decision else f"_{said.would}"))
    product.note(f"because_{said.reason}")
    if said.decision == "block":
        product.lost.add(one.key)
        return f"{one.what} {one.key}: {said.reason}"
    if one.emits:
        product.note("emitted")
    books.note_warned(_who(product, wish.org_id), wish.metric, wish.quantity, now, now)
    books.uses[one.key] = Used(
        wish.org_id, wish.metric, books.metrics[wish.metric], now, wish.quantity, wish.quantity, state,
        payer, (one.what, wish), said.decision, said.would, said.rule, runs, degraded, now + (wish.for_ms or HOUR_MS),
        price if runs and state == "held" else 0, charged, price if not runs and state == "used" else 0,
    )  # fmt: skip
    product.lost.add(one.key)
    return f"{one.what} {one.key}: {wish.quantity} {wish.metric} for {charged / MICRO}, {said.decision}"


def _money(use: Used) -> dict[str, object]:
    """What is told of a use's cost whenever it is told of: what it was, or what is held for it; and who pays."""
    price = use.terms.holds(use.amount) if use.state == "held" else use.charged_micro + use.forgone_micro
    return {"price_micro": price, "payer": use.payer if use.run else None}


def _denied(product: Product, wish: Wish, said: Said, amount: int) -> None:
    if said.would == "block":
        minute = product.now - product.now % MINUTE_MS
        spot = (wish.org_id, wish.metric, minute, said.reason, said.decision == "block")
        product.books.denied[spot] += 1


def _extend(product: Product, one: Call) -> str:
    use, books, now = product.books.uses[one.key], product.books, product.now
    if use.state != "held" or use.is_over(now):
        product.compare(one, product.call(one), {"denied": "ended"})
        return f"extends {one.key}, which is over"
    wanted, life_ms = max(one.amount or 0, use.amount), one.for_ms or HOUR_MS
    more, until = wanted - use.amount, max(use.expires_ms, now + life_ms)
    price, held = use.terms.holds(wanted), use.held_micro
    who = _who(product, use.org)
    if more:
        said = books.decide(who, use.metric, more, use.at_ms, now)
        if said.decision != "block" and use.run:
            if price - held > available(product, use.payer):
                if said.would != "block":
                    said = books.decide(who, use.metric, more, use.at_ms, now, "no_credit")
            else:
                held = max(price, held)
        answer = product.call(one)
        _denied(product, Wish(use.org, use.metric, more), said, more)
        if said.decision == "block":
            right = {"decision": "block", "reason": said.reason, "rule": said.rule, "state": "held"}
            product.compare(one, answer, right)
            product.note("extend_blocked")
            return f"extends {one.key} to {wanted}: {said.reason}"
    else:
        answer = product.call(one)
    want = {"state": "held", "quantity": wanted, "expires_ms": until, "charged_micro": 0}
    want |= _money(replace(use, amount=wanted))
    product.compare(one, answer, {**want, "repeated": (wanted, until) == (use.amount, use.expires_ms)})
    books.note_warned(who, use.metric, more, use.at_ms, now)
    books.uses[one.key] = replace(use, amount=wanted, expires_ms=until, held_micro=held)
    _has(product, Wish(use.org, use.metric, use.asked), until)  # just then nothing of it is held any more
    product.note("extended")
    return f"extends {one.key} to {wanted} until {until}"


def _paid(product: Product, use: Used, price: int, more: int) -> int:
    """What is charged of a price in the end. Who pays by the metric's word pays nothing beyond what was held if `more`
    is more than a limit allows, or if it has not so much."""
    wish = use.said[1]
    if use.payer == use.org or wish.payer is not None:
        return price
    who, over = replace(_who(product, use.org), stopped=None), use.is_over(product.now)
    said = product.books.decide(who, use.metric, more, use.at_ms, product.now)
    barred = more > 0 and (said.decision, said.reason) == ("block", "limit")
    kept = 0 if over else use.held_micro
    has = available(product, use.payer) + kept
    for cost in (price, min(price, use.held_micro)):
        if (cost <= use.held_micro or not barred) and (cost <= kept or cost <= has):
            if cost < price:
                product.note("forgone_by_metric")
            return cost
    product.note("forgone_by_metric")
    return 0


def _end(product: Product, one: Call) -> str:
    use, books, now = product.books.uses[one.key], product.books, product.now
    amount, state = one.amount or 0, "settled" if one.what == "settle" else "released"
    over = use.is_over(now)
    if use.state == state:
        again = {"repeated": True, "charged_micro": 0, "state": state, "quantity": amount, **_money(use)}
        product.compare(one, product.call(one), again if use.amount == amount else {"denied": "other_content"})
        return f"{one.what} {one.key} again"
    if use.state not in ("held", "expired") or (over and state == "released"):
        product.compare(one, product.call(one), {"denied": "ended"})
        return f"{one.what} {one.key}, which is {use.state}"
    price = use.terms.costs(amount)
    charged = _paid(product, use, price, amount - use.counts(now)) if use.run else 0
    answer = product.call(one)
    want = {"state": state, "quantity": amount, "charged_micro": charged, "repeated": False}
    product.compare(one, answer, {**want, "price_micro": price, "payer": use.payer if use.run else None})
    books.note_warned(_who(product, use.org), use.metric, amount - use.counts(now), use.at_ms, now)
    books.uses[one.key] = replace(
        use, state=state, amount=amount, charged_micro=charged, forgone_micro=price - charged, held_micro=0
    )
    product.note(f"{state}{'_late' if over else ''}")
    return f"{one.what} {one.key} at {amount}, for {charged / MICRO}"
