"""The database is restored from an image of minutes, an hour or a day ago, and people recover it (rule R1).

Guarantee: what providers charged stays charged, what hosts wrote is written again, and what people changed is done
again while the database stands still, by the same commands; until it is recovered nothing is claimed, or sealed.
All chance comes from a source of its own, so that worlds without restores are what they were.

Not modelled: a backup of a history that was given up at an earlier restore, in which a sample was withdrawn that was
billed since (reconcile tells of it); restores beside a provider that cannot be asked for one push (a person compares
its console line by line), or beside a key store that fails open (a balance drawn on twice is explained by attempts, and
those are lost); a host that cannot tell that anything was lost goes on before one that can has said so.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from drawdown.schema.audit import By
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.catalog.terms import paused
from drawdown.worker.engine.effects import Transaction
from drawdown.worker.engine.witness import Witness
from drawdown.worker.history.recover import Recovered, recover
from tests.emulators.autumn import LOSS_FAULTS
from tests.simulation.actions import insert_again
from tests.simulation.invariants import is_closed
from tests.simulation.operators import add_rates, void_rejected
from tests.simulation.oracle import Oracle
from tests.simulation.people import decide
from tests.simulation.providers import AUTUMN, WHOLE
from tests.simulation.stepping import Task, Worker
from tests.simulation.world import Decision, World

IMAGES: Final = 6
CHANCE_OF_IMAGE: Final = 0.02
CHANCE_OF_RESTORE: Final = 0.004
CHANCE_WHILE_LOST: Final = 0.01
MOST_TRIES: Final = 400
PERSON_AFTER: Final = 300
AGES: Final = {"restored_minutes": 30 * MINUTE_MS, "restored_hours": DAY_MS, "restored_days": 1000 * DAY_MS}
DECISIVE: Final = frozenset({"seal", "sweep", "replay", "claim", "charge"})
"""Transactions that must change nothing while history is lost."""
_PUSHES: Final = "SELECT COUNT(*), COALESCE(SUM(attempts), 0) FROM pushes"


class Run(Protocol):
    """What drives the workers."""

    def begin(self, worker: Worker) -> None: ...

    def to_the_end(self, worker: Worker) -> None: ...


@dataclass
class Image:
    """A backup, and what was known when it was made."""

    at_ms: int
    data: bytes
    oracle: Oracle
    decisions: int
    to_withdraw: tuple[Decision, ...]
    """Withdrawals that an earlier restore had undone, and that nobody had made again by then."""

    def withdrawn(self, decisions: Sequence[Decision]) -> set[int]:
        """The withdrawals that hold in it, by the place of their decision."""
        made = {place for place, one in enumerate(decisions[: self.decisions]) if one.samples}
        return {place for place in made if not any(decisions[place] is one for one in self.to_withdraw)}


class Restores:
    """Images, restores, and the person who recovers."""

    def __init__(self, world: World, seed: int, wanted: bool | None) -> None:
        self.world = world
        self.rng = random.Random(f"restores of {seed}")
        often = self.rng.random() < 0.7
        self.on = possible(world) and (often if wanted is None else wanted)
        world.own_witness = self.on and self.rng.random() < 0.5
        self.images: list[Image] = []
        self.redone = False
        self.withdrawals: list[Decision] = []

    def happen(self) -> None:
        """Between any two steps: an image is made, or one is put back; then it is recovered."""
        if not self.on:
            return
        world, chance = self.world, self.rng.random()
        if world.lost_at is None:
            if chance < CHANCE_OF_IMAGE:
                self._keep()
            elif chance > 1 - CHANCE_OF_RESTORE and self.images:
                self.restore(self.rng.choice(self.images))
            elif world.unwritten and chance > 0.9:
                self._write_again(some=True)
            elif self.withdrawals and chance > 0.8:
                self._withdraw_again()
        elif chance > 1 - CHANCE_WHILE_LOST:
            world.faults.note("restored_again")
            self.restore(self.rng.choice(self.images))
        elif chance < 0.05:
            self._person_acts()

    def _keep(self) -> None:
        world = self.world
        if len(self.images) >= IMAGES:
            self.images.pop(self.rng.randrange(IMAGES))
        data = serialised(world)
        to_withdraw = tuple(self.withdrawals)
        self.images.append(Image(world.time.now, data, world.oracle.copy(), len(world.decisions), to_withdraw))
        world.faults.note("image")

    def restore(self, image: Image) -> None:
        world = self.world
        flying = self._who_dies(image)
        world.lost_keys |= {key for (key,) in world.rows("SELECT COALESCE(wire_key, key) FROM pushes")}
        world.wire.decided |= set(world.rows("SELECT org_id, at_ms FROM projections WHERE is_halted"))
        for server in world.servers:
            server.crash()  # its connections are cut
        world.gate_asks.clear()
        deserialise(world, image.data)
        self.images = [one for one in self.images if not self._withdrawn_since(image, one)]
        age = world.time.now - image.at_ms
        world.faults.note(next(name for name, most in AGES.items() if age < most))
        world.oracle = image.oracle.copy()
        world.unwritten = [name for name in world.written if name not in world.oracle.samples]
        world.redo = image.decisions
        self.withdrawals = list(image.to_withdraw)
        world.paused = set(world.read(paused))
        world.lost_at = world.time.now
        known = world.wire.known(dict(world.rows("SELECT COALESCE(wire_key, key), sent_qty FROM pushes")))
        world.wire.lose(known, flying)
        world.network.lose(known)
        self.redone = False
        if self.rng.random() < 0.3:
            self._replace_hosts()
        self._hold_blind()
        world.still = world.rows(_PUSHES)[0]
        world.say("world", f"RESTORES the database of {age // 1000} s ago; {len(world.unwritten)} samples are lost")

    def _withdrawn_since(self, image: Image, later: Image) -> bool:
        """Whether a later backup, of the history that is given up now, lacks samples that this one will bill."""
        decisions = self.world.decisions
        return bool(later.withdrawn(decisions) - image.withdrawn(decisions))

    def _who_dies(self, image: Image) -> set[tuple[str, str]]:
        """Some processes die with the server; others have a claim in their hands. A person's command ends."""
        flying = set[tuple[str, str]]()
        for worker in self.world.workers:
            if worker.task is None:
                continue
            held = _claims(worker)
            dies = not worker.ticks or self.rng.random() < 0.5 or worker.began_ms <= image.at_ms
            # The ledger lies in the database itself: a charge that is on its way there is cut off.
            if dies or any(provider == "embedded" for provider, _ in held):
                worker.crash()
            else:
                self.world.faults.note("lived_through_restore")
                flying |= held
        return flying

    def _replace_hosts(self) -> None:
        """Fresh machines: nobody remembers anything."""
        self.world.witnesses.clear()
        self.world.faults.note("hosts_replaced")

    def _hold_blind(self) -> None:
        """Whose host remembers nothing of what was lost stays down until somebody says so."""
        for worker in self.world.workers:
            worker.blind = not shows(self.world, self.world.witnesses.get(self.world.host(worker.name)))
            if worker.blind:
                worker.crash()

    def _person_acts(self) -> None:
        """First everything is done again, then `recover` is called."""
        world = self.world
        if not self.redone:
            self.do_again()
            return
        free = [one for one in world.workers if one.task is None and one.paused_until <= world.time.now]
        if free:
            self.start(self.rng.choice(free))

    def do_again(self) -> None:
        """Hosts write what is needed, and some of the rest; people repeat what they did."""
        world = self.world
        self._write_again(some=True)
        self.withdrawals += [one for one in world.decisions[world.redo :] if one.samples]
        for one in world.decisions[world.redo :]:
            if one.samples:
                continue
            try:
                one.again(world)
            except (Refused, UsageError) as error:
                world.breaches.append(f"R1: what was done cannot be done again: {error}")
        world.redo = len(world.decisions)
        self.redone = True
        world.faults.note("done_again")
        world.say("world", "does again what was lost")

    def _withdraw_again(self, *, looked_at: bool = False) -> None:
        """What is withdrawn before it is sealed leaves no push, and what was charged for it is never asked for."""
        world = self.world
        for one in list(self.withdrawals):
            if all(name in world.oracle.samples for name in one.samples) and is_closed(
                world, one.samples, looked_at=looked_at
            ):
                try:
                    one.again(world)
                except Refused as error:  # another try after the next tick
                    world.say("world", f"withdraws again: {error}")
                    continue
                self.withdrawals.remove(one)
                world.faults.note("withdrawn_again")

    def _write_again(self, *, some: bool, only: set[str] | None = None) -> None:
        world = self.world
        names = [name for name in world.unwritten if only is None or name in only]
        if some:
            names = [name for name in names if self.rng.random() < 0.5]
        insert_again(world, names)

    def start(self, worker: Worker) -> None:
        """`recover`, or, where nothing shows what happened, `recover --restored`."""
        world = self.world
        blind = all(one.blind for one in world.workers) and not _doubted(world)
        now = By(worker.clock.now_ms(), "sim", "recovers")
        worker.ticks, worker.doing = False, "recover"
        worker.task = Task(recover(worker.context, now, restored=blind or self.rng.random() < 0.2))
        world.faults.note("recover_restored" if blind else "recover")
        world.say(worker.name, "starts to recover")

    def finish(self, run: Run) -> None:
        """Whatever was left open is done now, until no host doubts any more."""
        world = self.world
        for _ in range(MOST_TRIES if self.on else 0):
            if world.lost_at is not None:
                self._recover_now(run)
                continue
            self._tick_all(run)
            if world.lost_at is None:
                break
        if world.lost_at is not None:
            world.breaches.append("R1: history is in doubt, and no recovery ends that")
            return
        self._write_again(some=False)
        for number in range(MOST_TRIES):
            if not self.withdrawals:
                break
            if number > PERSON_AFTER:
                for act in (add_rates, void_rejected, decide):  # what is rejected holds up the windows that give back
                    act(world)
            world.time.advance(WINDOW_MS)  # a window that is open is sealed only once it has passed
            self._tick_all(run)
            self._withdraw_again(looked_at=True)
        if self.withdrawals:
            world.breaches.append("R1: what was withdrawn cannot be withdrawn again")

    def _tick_all(self, run: Run) -> None:
        for worker in self.world.workers:
            worker.context.accept_clock = True
            run.begin(worker)
            run.to_the_end(worker)

    def _recover_now(self, run: Run) -> None:
        world, worker = self.world, self.world.workers[0]
        if not self.redone:
            self.do_again()
        if not _doubted(world):
            for one in world.workers:
                one.blind = True
        self.start(worker)
        run.to_the_end(worker)


def possible(world: World) -> bool:
    """See above: what is not modelled."""
    autumn = world.remote.get(AUTUMN)
    kinds = ("key_store_refuses", *LOSS_FAULTS)
    loses = autumn is not None and any(autumn.emulator.faults.rates.get(kind) for kind in kinds)
    return WHOLE not in world.billing and not loses and bool(world.remote)


def shows(world: World, witness: Witness | None) -> bool:
    """Whether what a host remembers is in no history that the database knows."""
    if witness is None:
        return False
    ((number, sends),) = world.rows("SELECT number, sends FROM incarnation")
    tick = world.rows("SELECT worker FROM ticks WHERE tick_id = :tick", tick=witness.tick_id)
    if witness.number != number:
        return bool(witness.number > number)
    return bool(witness.sends > sends) or (witness.tick_id > 0 and tick != [(witness.tick_worker,)])


def still(world: World, effect: Transaction, answer: Any) -> None:
    """Judge a transaction that was committed while history is lost; a recovery ends that."""
    if world.lost_at is None:
        began = effect.name == "begin_tick" and answer.doubted is not None
        if began or (effect.name == "watch" and _doubted(world)):
            _doubted_again(world)
        return
    if effect.name == "recover" and not effect.rollback:
        done: Recovered = answer[0]
        if done.found is not None:
            world.lost_at = None
            for worker in world.workers:
                worker.blind = False
            world.wire.recovered()
            world.faults.note("recovered")
            return
    if _doubted(world):
        for worker in world.workers:
            worker.blind = False
    now = world.rows(_PUSHES)[0]
    if effect.name in DECISIVE and now != world.still:
        world.breaches.append(f"R1: {effect.name} changed the outbox while history was lost: {world.still}, now {now}")
    world.still = now


def _doubted_again(world: World) -> None:
    """A host that remembers another recovery than the one that others went on from stops them all once more."""
    world.faults.note("doubted_again")
    world.lost_at = world.time.now
    world.still = world.rows(_PUSHES)[0]
    world.wire.lose(set(), {one for worker in world.workers for one in worker.claimed}, all_known=True)


def _doubted(world: World) -> bool:
    return bool(world.rows("SELECT 1 FROM incarnation WHERE doubted_ms IS NOT NULL"))


def _claims(worker: Worker) -> set[tuple[str, str]]:
    """What a process has claimed and not sent yet."""
    return set(worker.claimed)


def serialised(world: World) -> bytes:
    raw = world.engine.raw_connection()
    image: bytes = raw.driver_connection.serialize()  # type: ignore[union-attr]
    raw.close()
    return image


def deserialise(world: World, data: bytes) -> None:
    """By SQLite's own backup: a connection that is given other bytes keeps statements made for the old ones."""
    source, raw = sqlite3.connect(":memory:"), world.engine.raw_connection()
    source.deserialize(data)
    source.backup(raw.driver_connection)  # type: ignore[arg-type]
    source.close()
    raw.close()
