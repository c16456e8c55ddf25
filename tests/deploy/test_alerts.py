"""Alerts and the dashboard use metrics and labels that exist, and each alert names a runbook that is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drawdown.schema.database import connect, read
from drawdown.schema.migrate import upgrade
from drawdown.server.metrics import measure, of_workers
from drawdown.server.process_metrics import REFUSED, GuardCalls, denials, fail_open_uses, guard_calls, intake, refusals
from drawdown.worker.cluster.lists import Cluster
from tests.acceptance.commands import PROJECT
from tests.world import Fleet

DEPLOY = PROJECT / "ops" / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "drawdown.json"

WORDS = {
    "absent", "and", "by", "delta", "histogram_quantile", "increase", "max", "or", "rate", "sum", "time", "unless",
    "without",
}  # fmt: skip
TOKEN = re.compile(
    r'(?P<range>\[\d+[smhdw]\])|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<number>\d+(\.\d+)?)|(?P<text>"[^"\\]*")'
    r"|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/><=(){},])|(?P<space>\s+)"
)


def tokens(expression: str) -> list[tuple[str, str]]:
    """Kinds and texts. Errors: ValueError for what is no token, or brackets that do not match."""
    found, at, open_ = [], 0, []
    while at < len(expression):
        match = TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"{expression!r}: no token at {at}")
        kind, text = str(match.lastgroup), match[0]
        if text in ("(", "{"):
            open_.append({"(": ")", "{": "}"}[text])
        elif text in (")", "}") and (not open_ or open_.pop() != text):
            raise ValueError(f"{expression!r}: brackets")
        if kind != "space":
            found.append((kind, text))
        at = match.end()
    if open_:
        raise ValueError(f"{expression!r}: brackets")
    return found


def uses(expression: str) -> Iterator[tuple[str, list[str]]]:
    """Each metric, with the labels it is selected by; and, as `by`, the labels it is grouped by."""
    all_ = tokens(expression)
    at = 0
    while at < len(all_):
        kind, text = all_[at]
        at += 1
        if kind != "name":
            continue
        close = {"{": "}", "(": ")"}.get(all_[at][1]) if at < len(all_) else None
        inside: list[str] = []
        if close is not None and (text in ("by", "without") or text not in WORDS):
            end = next(number for number in range(at, len(all_)) if all_[number][1] == close)
            inside = [word for sort, word in all_[at:end] if sort == "name"]
            at = end + 1
        if text in ("by", "without") or text not in WORDS:
            yield text, inside


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    assert [group["name"] for group in found["groups"]] == ["drawdown"]
    return list(found["groups"][0]["rules"])


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What there is: labels by metric, from a database that saw a tick and a round of the watch."""
    engine = connect(f"sqlite:///{tmp_path_factory.mktemp('metrics')}/m.db")
    upgrade(engine)
    fleet = Fleet(engine)
    fleet.tick()
    cut = 'UPDATE ticks SET report = REPLACE(report, \'"calls_cut": {}\', \'"calls_cut": {"fake": 2}\')'
    fleet.write(cut)
    fleet.write("UPDATE watch_state SET round_ms = 1")
    of_process = [refusals(dict.fromkeys(REFUSED, 0)), intake({("events", "invalid"): 0}), denials({"halted": 0})]
    of_process += [*guard_calls(GuardCalls()), fail_open_uses({"lost": 0})]
    of_process += of_workers(Cluster(1, 300, [], []))
    families = [*read(engine, lambda c: list(measure(c, fleet.clock.at_ms))), *of_process]
    engine.dispose()
    suffixes = {"counter": "_total", "gaugehistogram": "_bucket", "histogram": "_bucket"}
    return {
        family.name + suffixes.get(family.type, ""): {
            *family._labelnames,  # type: ignore[attr-defined]
            *(["le"] if family.type in ("gaugehistogram", "histogram") else []),
        }
        for family in families
    }


def missing(expression: str, exported: dict[str, set[str]]) -> list[str]:
    """Metrics, and labels of them, that an expression names and nobody exports."""
    found = list(uses(expression))
    metrics = [name for name, _ in found if name not in ("by", "without")]
    if not metrics or not set(metrics) <= set(exported):
        return sorted(set(metrics) - set(exported)) or ["an expression without a metric"]
    of_all = set().union(*(exported[one] for one in metrics))
    return [label for name, labels in found for label in set(labels) - exported.get(name, of_all)]


def test_alert_and_dashboard_metrics_and_labels_exist(exported: dict[str, set[str]]) -> None:
    texts = [*(rule["expr"] for rule in rules()), *queries()]
    assert {text: gone for text in texts if (gone := missing(text, exported))} == {}


def test_alert_check_unknown_metric_or_label_is_found(exported: dict[str, set[str]]) -> None:
    for text in ("drawdown_no_such > 0", "sum by (nothing) (drawdown_halts_due)", "halts_due > 0", "1 > 0",
                 'drawdown_halts_due{nothing="a"} > 0'):  # fmt: skip
        assert missing(text, exported), text


def test_alert_check_unparsable_expression_is_found() -> None:
    for text in ("(a", "a)", "a{b='c'}", "a > £", "sum(a}}"):
        with pytest.raises(ValueError, match=re.escape(repr(text))):
            tokens(text)


def test_alerts_are_complete_and_have_runbooks(exported: dict[str, set[str]]) -> None:
    rows = (PROJECT / "ops" / "runbooks" / "README.md").read_text(encoding="utf-8").splitlines()
    for rule in rules():
        name = rule["alert"]
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, name
        assert re.fullmatch(r"Drawdown[A-Z]\w+", name) and re.fullmatch(r"\d+[smh]", rule.get("for", "0s")), name
        assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"}), name
        runbook = PROJECT / rule["annotations"]["runbook"]
        assert runbook.parent == PROJECT / "ops" / "runbooks" and runbook.is_file(), name
        assert any(f"({runbook.name})" in row and f"`{name}`" in row for row in rows), f"{name}: named in the table"
        shown = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        kept = set().union(*(exported[metric] for metric, _ in uses(rule["expr"]) if metric in exported))
        assert set(shown) <= kept, f"{name}: a label that the alert has"


def test_alert_names_are_unique_and_every_metric_is_used(exported: dict[str, set[str]]) -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    watched = {name for text in (*(rule["expr"] for rule in rules()), *queries()) for name, _ in uses(text)}
    assert set(exported) - watched == set()


def test_alert_rate_functions_use_counters_only() -> None:
    """`increase` and `rate` take each fall of a gauge for a restart."""
    for text in (*(rule["expr"] for rule in rules()), *queries()):
        for name in re.findall(r"(?:increase|rate)\((\w+)", text):
            assert name.endswith("_total") or name == "drawdown_guard_seconds_bucket", text


def test_dashboard_panels_are_unique_and_do_not_overlap() -> None:
    found = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids) and found["uid"] == "drawdown"
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"


def test_deploy_pages_links_resolve() -> None:
    for page in DEPLOY.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), (page.name, link)
    assert Path(DEPLOY / "UPGRADE.md").is_file()


def test_alert_for_pushes_waiting_for_lookup_is_ticket() -> None:
    """A lookup waits for its provider's lag, a day at Stripe: nobody can do anything before."""
    rules = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
    queued = [rule for rule in rules if re.search(r'state=~?"[^"]*queued', rule["expr"])]
    assert [(rule["alert"], rule["labels"]["severity"]) for rule in queued] == [("DrawdownLookupsWait", "ticket")]
