"""The network policies, held to the pods, the settings and the ports they are for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

import pytest

from drawdown.cli.settings import Settings
from tests.deploy.test_manifests import DEPLOY, documents, errors, pod_of

POLICIES = {one["metadata"]["name"]: one["spec"] for _, one in documents() if one["kind"] == "NetworkPolicy"}
PODS = {
    one["spec"].get("jobTemplate", one)["spec"]["template"]["metadata"]["labels"]["role"]: one
    for _, one in documents()
    if pod_of(one) is not None
}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", ())
    )


def of(role: str, direction: str) -> Iterator[dict[str, Any]]:
    """The rules that hold for a role's pods, all policies together."""
    for spec in POLICIES.values():
        if selects(spec["podSelector"], {"app": "drawdown", "role": role}):
            assert direction.capitalize() in spec["policyTypes"] or direction not in spec
            yield from spec.get(direction, ())


def reaches(role: str, address: str, port: int) -> bool:
    return any(
        ip_address(address) in ip_network(block["cidr"])
        and not any(ip_address(address) in ip_network(one) for one in block.get("except", ()))
        for rule in of(role, "egress")
        if port in [one["port"] for one in rule["ports"]]
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer)
    )


@pytest.mark.parametrize("role", PODS)
def test_network_policy_of_pod_allows_only_needed_egress(role: str) -> None:
    closing = [
        spec["policyTypes"]
        for spec in POLICIES.values()
        if selects(spec["podSelector"], {"app": "drawdown", "role": role})
    ]
    assert ["Ingress", "Egress"] in closing
    assert reaches(role, "10.1.2.3", 5432), "the database"
    assert not reaches(role, "169.254.169.254", 443) and not reaches(role, "169.254.169.254", 5432), (
        "the cloud's secrets"
    )
    assert not reaches(role, "10.1.2.3", 443), "the cluster's own services"
    assert not reaches(role, "203.0.113.7", 80)
    calls = role != "init"
    assert reaches(role, "203.0.113.7", 443) is calls and reaches(role, "2001:db8::7", 443) is calls


def test_network_policy_allows_ingress_to_server_port_only() -> None:
    assert [role for role in PODS if list(of(role, "ingress"))] == ["serve"]
    (rule,) = of("serve", "ingress")
    pod = pod_of(PODS["serve"])
    assert pod is not None
    assert [one["port"] for one in rule["ports"]] == [one["name"] for one in pod["containers"][0]["ports"]]
    assert all(peer for peer in rule["from"]), "an empty selector is everybody"


def test_network_policy_allows_calls_to_configured_cells() -> None:
    data = dict(documents(DEPLOY / "kubernetes" / "settings.yaml"))["settings.yaml#0"]["data"]
    given = Settings.model_validate({name.removeprefix("DRAWDOWN_").lower(): text for name, text in data.items()})
    ports = {urlsplit(one).port for one in given.cell_origins.split(",")}
    for network in given.cell_networks.split(","):
        for port in ports:
            assert port is not None and reaches("tick", str(ip_network(network)[7]), port)


def test_network_policy_schema_rejects_invalid_changes() -> None:
    _, policy, *_ = [one for _, one in documents() if one["kind"] == "NetworkPolicy"]
    text = json.dumps(policy)
    assert errors(policy) == []
    for old, new in (
        ("policyTypes", "policytypes"), ("Egress", "egress"), ("ipBlock", "ipblock"), ("10.0.0.0/8", "10.0.0.0"),
        ("TCP", "tcp"), ("networking.k8s.io/v1", "extensions/v1beta1"),
    ):  # fmt: skip
        assert old in text and errors(json.loads(text.replace(old, new))), new
