"""What commands print is all that many an operator reads: nothing in it is to be taken for what is not so."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.schema.errors import Exit
from drawdown.schema.units import DAY_MS
from tests.integration.telling_events import event, told
from tests.integration.test_events_cli import Shell, begun
from tests.world import T0


@pytest.fixture
def shell(engine: sa.Engine, database_url: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    return begun(engine, database_url, capsys)


def test_limit_override_output_lists_limits_that_stay_in_force(shell: Shell) -> None:
    shell("guard set draw --credits 0 --phase 3 --new")
    shell("limit set draw 2 --per day")
    for make in (
        "override make draw 500 --org acme",
        "override ask draw 400 --org a*",
        "override make draw 9 --org a*",
    ):
        said = shell(f"{make} --expires +7d")
        assert (
            "the limit override does not replace a limit, because no limit per month exists; "
            "limits per day stay in force" in said
        ), said
        assert "no organisation" not in said
    assert "beside it" not in shell("override make draw 500 --org acme --per day --expires +7d")
    shell("limit set draw 90")
    said = shell("override make draw 500 --org nobody-* --permanent")
    assert "\nlimits per day stay in force\nno organisation matches nobody-* yet\n" in said, said
    shell("limit end draw")
    assert "this limit does not exist; its limit per day remains" in shell("limit end draw")


def test_command_range_in_the_future_is_refused(shell: Shell) -> None:
    """Nothing found there would pass for nothing wrong, and clear an alert."""
    shell("guard set draw --credits 0 --new")
    for words in (
        "guard reconcile --since +2d", "guard report draw --since tomorrow", "event invalid --from +1d",
        "event list --org acme --from +2h", "event summary --from +1d", "parity show --from +7d",
        "parity check --cells --from +2d --to +3d", "push list --from +1d", "audit list --from +1d",
        "export usage --from +1d", "ledger entries acme --from +1d", "reconcile --from tomorrow", "recover --since +1d",
    ):  # fmt: skip
        assert "in the future" in shell(words, 2), words


def test_guard_reservation_output_shows_state_and_end(shell: Shell) -> None:
    shell("guard set bw --credits 0 --new")
    shell("limit set bw none")
    assert "reserved until 2026-01-01T00:10:00.010Z" in shell("guard reserve r1 bw 10 --org acme --for 10m")
    assert "reserved until 2026-01-01T00:30:00.010Z" in shell("guard extend r1 --for 30m")
    for less in ("--to 1", "--for 1m"):
        assert "cannot shrink or end sooner" in shell(f"guard extend r1 {less}")
    assert shell("guard settle r1 7").startswith("settled: bw 7, allowed by unlimited\n")
    assert "; unchanged" in shell("guard settle r1 7")
    shell("guard reserve r2 bw 10 --org acme")
    assert shell("guard release r2").startswith("released: bw 0")


def test_usage_invalid_range_is_refused_with_reason(shell: Shell) -> None:
    assert "its end must be later than its start" in shell("usage acme --from +1d", 2)
    assert "longer than 400 days" in shell("usage acme --from 2020-01-10", 2)


def test_event_show_of_withdrawn_event_shows_withdrawal(shell: Shell) -> None:
    told(shell.fleet, event("a", 3))
    shell("event withdraw app a")
    shown = [line.split() for line in shell("event show app a").splitlines()]
    assert ["withdrawn", "yes"] in shown and ["withdrawn_reason", "not", "given"] in shown


def test_org_halt_undo_repeated_is_unchanged(shell: Shell) -> None:
    assert "`drawdown org halt acme --undo` ends the halt" in shell("org halt acme")
    assert "halted by an operator. Run `drawdown org halt acme --undo` to resume it" in shell("org resume acme", 1)
    first = shell("org halt acme --undo").splitlines()[0]
    assert first == "acme: no longer halted by an operator, but halted until its provider is asked; before: halted"
    assert shell("org halt acme --undo").splitlines()[0] == f"{first}; nothing changes"
    shell("tick")  # which halts it for its empty wallet
    assert "(credits_exhausted); before: halted; it had no operator's halt" in shell("org halt acme --undo")


def test_audit_list_separates_actions_with_given_time(
    shell: Shell, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The audit has it at that time, before what was done earlier."""

    def do(*words: str) -> str:
        assert run(["--json", "--database-url", database_url, *words]) == Exit.SETTLED
        return capsys.readouterr().out

    do("--at", "2026-01-06", "ledger", "grant", "acme", "7", "--key", "then")
    do("ledger", "grant", "acme", "8", "--key", "now")
    for via, key, other in (("cli --at", "then", "now"), ("cli", "now", "then")):
        said = do("audit", "list", "--via", via, "--target", "acme")
        assert f'"grant:{key}"' in said and f'"grant:{other}"' not in said


def test_org_and_push_lists_continue_and_start_at_given_place(shell: Shell) -> None:
    """By the place that a page names, whoever topped up since; and at no window that began before."""
    fleet = shell.fleet
    fleet.assign("globex", "initech", from_ms=T0)
    fleet.sample("acme", T0)
    fleet.tick_windows(3)
    for number, org in enumerate(("acme", "globex", "initech")):
        at = {"at": fleet.clock.at_ms + number, "org": org}
        fleet.write("UPDATE orgs SET runs_out_ms = :at, is_halted = false, halted_at = NULL WHERE org_id = :org", at)
    ends = "org list --runs-out-within 7d --sort end"
    first = shell.json(f"{ends} --most 2")
    assert first["next"] == f"{fleet.clock.at_ms + 1}:globex"
    fleet.write("UPDATE orgs SET runs_out_ms = NULL WHERE org_id = 'globex'")
    second = shell.json(f"{ends} --after {first['next']}")
    assert [row["org_id"] for row in (*first["orgs"], *second["orgs"])] == ["acme", "globex", "initech"]

    windows = [row["window_ms"] for row in shell.json("push list --state any --org acme")["pushes"]]
    assert windows, "something was sealed"
    later = shell.json(f"push list --state any --org acme --from {max(windows) + 1}")["pushes"]
    assert later == [] and shell.json(f"push list --state any --org acme --from {max(windows)}")["pushes"]


def test_org_override_never_halt_is_listed_until_end(shell: Shell) -> None:
    """Meant for an afternoon and forgotten, it is unpaid usage without an end."""
    shell.fleet.assign("globex", "initech")
    assert "override" not in shell("org list") and shell.json("org list --overridden")["orgs"] == []
    assert "never halted" not in shell("doctor", 1)
    shell("org override acme --never-halt")
    shell("org override globex --never-halt --until +1d")
    shell("org override initech --max-concurrent 3 --until +1d")
    assert "not halted whatever the balance, until it is undone" in " ".join(shell("org list").split())
    listed = shell.json("org list --overridden")["orgs"]
    words = [(row["org_id"], row["override_halted"], row["override_max_concurrent"]) for row in listed]
    assert words == [("acme", False, None), ("globex", False, None), ("initech", None, 3)]
    said = " ".join(shell("doctor", 1).split())
    assert (
        "2 organisations are never halted, because of your org overrides: acme permanently, globex until 2026-01-02T"
        in said
    )
    assert "drawdown org list --overridden" in said
    shell.fleet.clock.at_ms += 2 * DAY_MS  # no tick has forgotten those that have ended
    assert [row["org_id"] for row in shell.json("org list --overridden")["orgs"]] == ["acme"]
    words = [
        (row["org_id"], row["override_halted"], row["override_until_ms"]) for row in shell.json("org list")["orgs"]
    ]
    assert words == [("acme", False, None), ("globex", None, None), ("initech", None, None)]
    assert "1 organisation is never halted, because of your org overrides: acme permanently" in " ".join(
        shell("doctor", 1).split()
    )


def test_command_range_that_ends_before_start_is_refused(shell: Shell) -> None:
    """An empty list would say that there is nothing."""
    for words in (
              "event list --org acme", "push list", "sample list --org acme", "sample quarantined", "audit list",
              "usage acme", "export usage", "reconcile", "ledger entries acme",
    ):  # fmt: skip
        assert "range" in shell(f"{words} --from 2025-12-31 --to 2025-12-30", 2), words
        assert "range" in shell(f"{words} --from 2025-12-31 --to 2025-12-31", 2), words


def test_recover_repeated_lists_required_actions(shell: Shell) -> None:
    """Whoever lost the terminal has nothing else that says it."""
    never = shell("recover")
    assert "no history was lost: this is the database of the last tick (incarnation 1)" in never
    assert "`key list`" not in never
    assert "`--restored`" in never
    shell("tick")
    first = shell("recover --restored").splitlines()
    again = shell("recover").splitlines()
    assert again[0].startswith("recovered at 2026-01-01T00:00:00.010Z already (incarnation 2), and nothing was lost")
    kept = [line for line in first if line.startswith(("incarnation", "When ", "A key ", "The ledger"))]
    assert len(kept) == 5 and [line for line in again if line in kept] == kept
    assert "(incarnation 2)" in shell("recover --dry-run") and "no history was lost: " in never
    assert "Before the next payout, repeat them" in first[-1] and "batch" not in first[-1], "a batch is a file of usage"


def test_guard_use_repeated_shows_earlier_charge(shell: Shell) -> None:
    shell("ledger grant acme 10")
    shell("guard set draw --credits 1 --phase 3 --new")
    shell("limit set draw none")
    assert "costs 2.00, charged 2.00" in shell("guard consume k1 draw 2 --org acme")
    assert "costs 2.00, charged before: 2.00" in shell("guard consume k1 draw 2 --org acme")
    assert "costs 3.00, charged 0.00" in shell("guard reserve k2 draw 3 --org acme")
    assert "costs 3.00, charged 0.00" in shell("guard reserve k2 draw 3 --org acme"), "it is held, and nothing charged"
    assert "charged 3.00" in shell("guard settle k2 3")
    assert "charged before: 3.00" in shell("guard settle k2 3")
