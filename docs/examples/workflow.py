"""An adapter, as an example: the steps of a product that runs workflows, as usage events.

The product's names, plans and units stay here. The core knows the envelope alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from drawdown.events.envelope import Unfit, UsageEvent

SOURCE = "workflow"
KINDS = {"StepSucceeded": "workflow.step", "StepFailed": "workflow.step", "AgentAnswered": "workflow.agent_answer"}
"""A step that failed was run, too. `RunQueued` and the like are no use."""
PLANS = {0: "free", 1: "pro", 2: "enterprise"}


def usage_event(sent: Mapping[str, object]) -> UsageEvent | None:
    """The usage event of one event of the product's; None for one that is no use.

    A step is counted in the milliseconds that it ran, an answer in tokens. Errors: Unfit.
    """
    kind = KINDS.get(str(sent["name"]))
    if kind is None:
        return None
    name = "tokens" if kind == "workflow.agent_answer" else "ran_ms"
    counted = sent[name]
    if not isinstance(counted, int):
        raise Unfit("wrong_type", f"invalid {name}: expected a whole number", name)
    ended = sent["ended_ms"]
    if not isinstance(ended, int):
        raise Unfit("wrong_type", "invalid ended_ms: expected milliseconds since 1970", "ended_ms")
    return UsageEvent(
        source=SOURCE,
        event_id=f"{sent['run']}/{sent['step']}/{sent.get('attempt', 1)}",
        event_type=kind,
        org_id=str(sent["team"]),
        quantity=counted,
        occurred_ms=ended,
        project=str(sent["flow"]) if "flow" in sent else None,
        plan_key=PLANS[int(str(sent.get("tier", 0)))],
    )
