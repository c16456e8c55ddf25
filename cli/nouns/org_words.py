"""What is said of an operator's word over organisations: overrides and halts. Pure."""

from __future__ import annotations

from drawdown.schema.text import typed
from drawdown.schema.typed.parsing import show_time
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs.lists import OrgRow


def word(said: orgs.Override) -> str:
    """What an operator says, in words."""
    if not said.says_something:
        return "no override"
    parts = []
    if said.halted is not None:
        parts.append("halted whatever the balance" if said.halted else "not halted whatever the balance")
    if said.max_concurrent is not None:
        parts.append(f"{said.max_concurrent:,} sandboxes at once whatever the plan")
    return f"{' and '.join(parts)}, {f'until {show_time(said.until_ms)}' if said.until_ms else 'until it is undone'}"


def word_of(row: OrgRow) -> str | None:
    """The same of an organisation in a list; None where it has no override."""
    said = orgs.Override(row.override_max_concurrent, row.override_halted, row.override_until_ms)
    return word(said) if said.says_something else None


def stands(done: orgs.Overridden) -> str:
    most = done.max_concurrent_sandboxes
    return f"{'halted' if done.is_halted else 'runs'}, {'no limit' if most is None else f'{most:,}'} at once"


def halt_lines(done: list[orgs.Halted], *, undo: bool, dry_run: bool) -> list[str]:
    would = "would be " if dry_run else ""
    lines = []
    for org in done[:50]:
        before = "halted" if org.was_halted else "running"
        now = f"halted ({org.halt_reason})" if org.is_halted else "running"
        lifted = (
            undo and org.is_halted and (org.before or org.halt_reason == "operator")
        )  # the reason outlives the halt
        if lifted:
            now = "halted no longer by an operator, and until its provider is asked"
        note = "; it was so before" if lifted else "; no operator's halt held it"
        note = note if undo and not org.before else ""
        note = "; an operator's halt held it already" if org.before and not undo else note
        lines.append(f"{org.org_id}: {would}{now}; before: {before}{note}")
    if len(done) > 50:
        lines.append(f"… and {len(done) - 50:,} more")
    if dry_run:
        return [*lines, f"{len(done):,} organisations; nothing was changed; for just these: --expect {len(done)}"]
    if undo:
        return [*lines, f"{len(done):,} organisations; the next tick asks the provider again"]
    lift = f"`drawdown org halt {typed(done[0].org_id, '--undo')}`" if len(done) == 1 else "--undo in the same command"
    return [*lines, f"{len(done):,} organisations; run `drawdown tick` to tell the cells now; {lift} lifts it"]
