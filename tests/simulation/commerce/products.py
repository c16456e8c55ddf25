"""Products that run things on credit: by receipt, settled by metering, or of organisations that a provider bills.

Guarantee: what each answer has to be is worked out here from what the product was told before.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Final

from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied, Overage
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from tests.simulation.actions import insert
from tests.simulation.commerce.books import BEYOND, CLUBS, FAR, FEATURE, MEMBERS, POOL, RUNNERS, SHOPPERS, SIZE, Ran
from tests.simulation.commerce.buyers import asked_of
from tests.simulation.commerce.calling import Shop
from tests.simulation.oracle import Sample
from tests.stateful.settlements import Owed

SIZES: Final = (900, 20_000, 150_000, 600_000)
LIVES_MS: Final = (10 * MINUTE_MS, 60 * MINUTE_MS, 2 * DAY_MS, 20 * DAY_MS)
OVERAGES: Final[tuple[Overage, ...]] = ("charge", "cap", "refuse")
REMOTE_OVERAGES: Final[tuple[Overage, ...]] = ("charge", "refuse")
SUPPLIERS: Final = ("firm", "loose")
PAYERS: Final = {"studio": (POOL,), "maker": (POOL,), "lab": ("maker",), "club-poor": ("studio",)}
ALL: Final = 0.15
"""How often a run is to hold all that there may be, or a micro-credit more."""
BOXES: Final = 6
GOES_ON: Final = 0.6
"""How often a run that metering settles uses its sandboxes rather than ends."""
LATE_MS: Final = (0, 0, MINUTE_MS, 20 * MINUTE_MS, 3 * DAY_MS)


def accept(shop: Shop) -> str:
    """A run that its receipt settles, perhaps of a supplier's, perhaps paid by another."""
    org, overage = shop.rng.choice(RUNNERS), shop.rng.choice(OVERAGES)
    supplier = shop.rng.choice((None, *SUPPLIERS, *SUPPLIERS))
    payer = shop.rng.choice((None, None, *PAYERS.get(org, ())))
    amount = shop.rng.choice(SIZES)
    if (payer or org) != CLUBS[0] and shop.rng.random() < ALL:
        amount = max(_room(shop, payer or org) + shop.rng.choice((0, 1)), 1)
    request = Request(org, amount, overage=overage, supplier=supplier, payer=payer)
    return _accept(shop, request, Ran("", payer or org, 0, overage, 0, supplier=supplier))


def accept_metered(shop: Shop) -> str:
    """A run whose sandboxes' samples charge for it."""
    org = shop.rng.choice(MEMBERS)
    boxes = tuple(f"{org}-{shop.rng.randrange(BOXES)}" for _ in range(shop.rng.choice((1, 2))))
    request = Request(org, shop.rng.choice(SIZES), settled_by="metering", sandboxes=boxes)
    return _accept(shop, request, Ran("", org, 0, "charge", 0, kind="metering", boxes=boxes))


def accept_remote(shop: Shop) -> str:
    """A run of one whose balance a provider keeps, or has none to keep: in quantities."""
    org, overage = shop.rng.choice((FAR, FAR, BEYOND)), shop.rng.choice(REMOTE_OVERAGES)
    request = Request(org, quantities={FEATURE: shop.rng.choice((30, 900, 20_000))}, overage=overage)
    return _accept(shop, request, Ran("", org, 0, overage, 0, kind="remote"))


def _accept(shop: Shop, request: Request, ran: Ran) -> str:
    key = shop.name("shop-run-")
    request = replace(request, for_ms=shop.rng.choice(LIVES_MS[2:] if request.sandboxes else LIVES_MS))
    answer = shop.call(
        f"accept {key}", lambda c, by: executions.accept(c, key, request, by), lambda answer: bool(answer.repeated)
    )
    if isinstance(answer, Denied):
        shop.note(f"denied_{answer.code}")
        return f"asks to run {key} of {request.org_id}: {answer.code}"
    made = answer.reservation
    amount = made.amount_micro if request.amount_micro is None else request.amount_micro
    until = shop.now + (request.for_ms or 0)
    if (made.customer_id if ran.kind != "remote" else ran.customer, made.expires_ms) != (ran.customer, until):
        shop.breach(f"{key} was asked of {ran.customer} until {until}, and is {made}")
    more = {"key": key, "amount": amount, "expires_ms": until, "org": request.org_id, "accepted_ms": shop.now}
    shop.books.runs[key] = replace(ran, **more)  # type: ignore[arg-type]
    if ran.customer in CLUBS:
        asked_of(shop, ran.customer)
    if ran.kind == "receipt" and _room(shop, ran.customer) < 0:
        shop.breach(f"{key} was let hold {amount}: {-_room(shop, ran.customer)} more than {ran.customer} has")
    shop.note(f"accepted_{ran.kind}_{made.hold}")
    return f"runs {key} of {request.org_id}, paid by {ran.customer}, at {amount}"


def _room(shop: Shop, customer: str) -> int:
    """What a wallet has, less what runs hold of it that their receipts settle: no more is available. What metering has
    drawn of the others' holds by now only it knows."""
    text = "SELECT COALESCE(SUM(amount_micro), 0) FROM ledger_lines WHERE account_id = :id"
    ((balance,),) = shop.world.rows(text, id=f"wallet:{customer}")
    those = [one for one in shop.books.runs.values() if (one.customer, one.kind) == (customer, "receipt")]
    return int(balance) - sum(one.left for one in those if one.expires_ms > shop.now)


def go_on(shop: Shop) -> str | None:
    """A run draws, grows or ends."""
    going = [_now(shop, one) for one in shop.books.runs.values() if one.state in ("held", "expired")]
    if not going:
        return None
    ran, how = shop.rng.choice(going), shop.rng.random()
    if ran.kind == "metering" and ran.state == "held" and shop.rng.random() < GOES_ON:
        return use(shop, ran)
    amount = shop.rng.choice((0, 7, ran.amount // 3, ran.amount, 2 * ran.amount))
    amount = min(amount, 40_000) if ran.kind == "remote" else amount
    if how < 0.15:
        return _extend(shop, ran, ran.amount + amount)
    if how < 0.5 and ran.kind != "metering":
        return _draw(shop, ran, amount)
    return _end(shop, ran, amount, "settled" if how < 0.85 else "released")


def end_all(shop: Shop) -> None:
    """Whatever still runs is settled or given up."""
    for one in list(shop.books.runs.values()):
        ran = _now(shop, one)
        if ran.state in ("held", "expired"):
            state = "settled" if ran.drawn or ran.state == "expired" else "released"
            shop.world.say("world", _end(shop, ran, 0, state))


def _now(shop: Shop, ran: Ran) -> Ran:
    """A run that is over is expired, whether anything has looked at it since or not; so is one that any worker's clock
    took for over."""
    early = ran.expires_ms <= shop.world.latest and _kept(shop, ran.key) == "expired"
    if ran.state == "held" and (ran.expires_ms <= shop.now or early):
        shop.note("expired")
        ran = shop.books.runs[ran.key] = replace(ran, state="expired")
    return ran


def _kept(shop: Shop, key: str) -> str:
    return str(shop.world.rows("SELECT state FROM reservations WHERE reservation = :key", key=key)[0][0])


def _draw(shop: Shop, ran: Ran, amount: int) -> str:
    number = ran.draws
    answer = shop.call(
        f"draw {number} of {ran.key}",
        lambda c, by: executions.draw(c, ran.key, number, _cost(ran, amount), by),
        lambda answer: bool(answer.drawn.repeated),
    )
    if not _judged(shop, ran, f"draw {number}", answer, amount, open_=ran.state == "held"):
        return f"draws {amount} for {ran.key}: {answer.code}"
    shop.note(f"drawn_{ran.kind}")
    after = replace(ran, drawn=ran.drawn + _charged(shop, ran, f"d{number}", answer, amount), draws=number + 1)
    shop.books.runs[ran.key] = after
    return f"draws {amount} for {ran.key}"


def _extend(shop: Shop, ran: Ran, to: int) -> str:
    for_ms = shop.rng.choice(LIVES_MS)
    until = max(ran.expires_ms, shop.now + for_ms)
    work = partial(_longer, key=ran.key, to=to, for_ms=for_ms)
    answer = shop.call(f"extend {ran.key}", work, lambda answer: bool(answer.repeated), later=False)
    if isinstance(answer, Denied):
        if ran.state == "held" and answer.code not in ("no_credit", "payer_limit", "payer_not_allowed"):
            shop.breach(f"{ran} was to grow to {to}: {answer.code}, {answer}")
        return f"extends {ran.key} to {to}: {answer.code}"
    if ran.state != "held":
        shop.breach(f"{ran} was extended")
    shop.books.runs[ran.key] = replace(ran, amount=max(ran.amount, to), expires_ms=until)
    shop.note("extended")
    return f"extends {ran.key} to {to}"


def _longer(connection: Any, by: Any, key: str, to: int, for_ms: int) -> Any:
    return executions.extend(connection, key, to or None, for_ms, by)


def _end(shop: Shop, ran: Ran, amount: int, state: str) -> str:
    """With what it drew, and an amount more; a product that forgets that metering charges for it is told so."""
    act = executions.settle if state == "settled" else executions.release
    if ran.kind == "metering":
        if shop.rng.random() < 0.3:
            refused = shop.call("a receipt", lambda c, by: act(c, ran.key, Cost(amount), by), lambda _: True)
            if not isinstance(refused, Denied):
                shop.breach(f"{ran} took a receipt: {refused!r:.200}")
            shop.note("receipt_of_metered_refused")
        cost = None
    else:
        cost = _cost(ran, ran.drawn + amount)
    answer = shop.call(
        f"{ran.key} is {state}",
        lambda c, by: act(c, ran.key, cost, by),
        lambda answer: bool(answer.drawn.repeated),
    )
    open_ = ran.state == "held" or state == "settled"
    if not _judged(shop, ran, state, answer, amount, open_=open_):
        return f"{ran.key} is to be {state} at {amount} more: {answer.code}"
    after = replace(ran, drawn=ran.drawn + _charged(shop, ran, "final", answer, amount), state=state)
    shop.books.runs[ran.key] = after
    shop.note(f"{state}_{ran.kind}" + ("_late" if ran.state == "expired" else ""))
    _use(shop, after)
    if ran.supplier is not None and (state == "settled" or after.drawn):
        _owe(shop, after)
    return f"{ran.key} is {state} at {amount} more"


def _cost(ran: Ran, amount: int) -> Cost:
    return Cost(quantities={FEATURE: amount}) if ran.kind == "remote" else Cost(amount)


def _judged(shop: Shop, ran: Ran, what: str, answer: Any, amount: int, *, open_: bool) -> bool:
    """Whether something was done; and it had to be, or not."""
    if ran.kind == "remote":  # what it may cost is priced by the provider's rates: the judge looks at what is billed
        may = open_ and (ran.overage == "charge" or amount == 0 or isinstance(answer, Denied) is False)
    else:
        may = open_ and (ran.kind == "metering" or ran.costs(amount) is not None)
    if not isinstance(answer, Denied):
        if not may:
            shop.breach(f"{what} of {ran} by {amount} was done: {answer!r:.300}")
        return True
    limited = answer.code == "payer_limit" and ran.customer != ran.org
    if may and not limited:
        shop.breach(f"{what} of {ran} by {amount} was refused: {answer.code}, {answer}")
    return False


def _charged(shop: Shop, ran: Ran, number: str, answer: Any, amount: int) -> int:
    """What a run drew now: micro-credits; of one that a provider bills, base units, which come as a sample."""
    if ran.kind == "remote":
        if amount:
            name = f"run:{ran.key}:{number}:{FEATURE}:0"
            shop.world.oracle.took(Sample(name, ran.org, shop.now, SIZE, amount, good=True))
        return amount
    should = 0 if ran.kind == "metering" else ran.costs(amount)
    if answer.drawn.charged_micro != should:
        shop.breach(f"{number} of {ran} by {amount} was charged {answer.drawn.charged_micro}, should be {should}")
    return should or 0


def _use(shop: Shop, ran: Ran) -> None:
    """What a run cost is a use of its payer's lots, of the moment of its acceptance."""
    if ran.kind == "receipt" and ran.customer in shop.books.lots:
        shop.books.lots[ran.customer].uses.append((ran.accepted_ms, ran.drawn))


def _owe(shop: Shop, ran: Ran) -> None:
    terms = shop.books.terms[str(ran.supplier)]
    net = ran.drawn * (terms.share_ppm or 0) // 1_000_000
    until, least = shop.now + (terms.hold_ms or 0), terms.threshold_micro or 0
    shop.books.owed[ran.key] = Owed(str(ran.supplier), ran.drawn, net, until, least, bool(terms.takes_clawbacks))
    shop.note("owed")


def use(shop: Shop, run: Ran | None = None) -> str:
    """Sandboxes are used: of runs that metering settles, and others."""
    org = shop.rng.choice(SHOPPERS)
    metered = [one for one in shop.books.runs.values() if one.kind == "metering" and _now(shop, one).state == "held"]
    box, since = f"{org}-other", 0
    if run is None and metered and shop.rng.random() < 0.7:
        run = shop.rng.choice(metered)
    if run is not None:
        org, box, since = run.org, run.boxes[0], run.accepted_ms if shop.rng.random() < 0.9 else 0
    made = []
    for _ in range(shop.rng.randrange(1, 5)):
        ts = max(shop.now - shop.rng.choice(LATE_MS) - shop.rng.randrange(5 * MINUTE_MS), since)
        seconds = shop.rng.choice((1, 30, 60, 300, 900))
        made.append(Sample(shop.name("shop-s"), org, ts, SIZE, seconds, good=True))
    insert(shop.world, made, box=box)
    if shop.rng.random() < 0.2:
        insert(shop.world, made, box=box)
    shop.note("used_by_metered" if since else "used")
    return f"uses {[one.seconds for one in made]} s of {org} in {box}"
