"""Every transaction that the product opens is explored, or named with a reason why not."""

from __future__ import annotations

import ast

from drawdown.server.declarations import ACTIONS
from tests.interleave import sites
from tests.interleave.footprint import Footprint, is_settled, points
from tests.interleave.of_declared import BY_HAND
from tests.interleave.registry import APART, PARTIES

REGISTERED = {one.site for one in PARTIES.values()} - {"host"}


def test_transactions_are_explored_or_excluded_with_reason() -> None:
    missing = {site: where for site, where in sites.sites().items() if site not in REGISTERED | APART.keys()}
    assert not missing, f"add them to tests/interleave/registry.py (five lines each): {missing}"


def test_declared_actions_are_each_explored() -> None:
    """HTTP and forms do the same one, in one transaction, as the command does it."""
    explored = {name: BY_HAND.get(name, f"cli.declared:run {name}") for name in ACTIONS}
    parties = tuple(PARTIES)
    missing = [
        name for name, party in explored.items() if not any(f"{one} ".startswith(f"{party} ") for one in parties)
    ]
    assert missing == [], "add a party, or name in BY_HAND whose deed it is"
    assert BY_HAND.keys() <= ACTIONS.keys()


def test_registry_names_only_existing_transactions() -> None:
    assert (REGISTERED | APART.keys()) - sites.sites().keys() == set()
    assert not REGISTERED & APART.keys()


def test_transaction_scan_finds_added_transaction() -> None:
    added = """
def begin_anew(engine, app, threads):
    write(engine, work)
    transact(work)
    app.write(work)
    threads.write(work)
    with engine.begin():
        pass
    yield Transaction("anew", work)
    sys.stdout.write("no transaction")
"""
    opened = [ast.unparse(call.func) for _, call in sites._calls(ast.parse(added)) if sites._opens(call)]
    assert opened == ["write", "transact", "app.write", "threads.write", "engine.begin"]


def of(reads: str = "", writes: str = "", shares: str = "") -> Footprint:
    return Footprint(frozenset(reads), frozenset(writes), frozenset(), frozenset(shares))


def test_interleaving_points_are_where_first_reads_or_locks_written_rows() -> None:
    first = [of("a"), of("b"), of("a"), of("c", "c"), of("b")]
    assert points(first, of("c", "b")) == [1, 2, 5]
    assert points(first, of("", "c")) == [1, 4]
    assert points(first, of("abc")) == [], "who only reads is the same to the first wherever it stands"


def test_interleaving_wait_is_settled_unless_locks_cross() -> None:
    assert is_settled([of("", "a")], [of("a")]), "what is not committed is seen by nobody"
    assert not is_settled([of("", "a")], [of("", "a")])
    assert not is_settled([of("b", "b", "b")], [of("", "b")])
