"""client-js, the client for Node: its own tests, and a customer's sign-up with it over HTTP alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acceptance.commands import drawdown
from tests.server.test_process import serving
from tests.sqlite_databases import migrated

PACKAGE: Final = Path(__file__).resolve().parents[2] / "client-js"
SCOPES: Final = (
    "orgs:write", "orgs:read", "ledger:write", "ledger:read", "catalog:write", "catalog:read", "keys:write",
    "hooks:write", "events:write", "events:read", "usage:read", "guard", "guard:write",
)  # fmt: skip
HOOKS: Final = {"DRAWDOWN_HOOK_SECRET": "s" * 40, "DRAWDOWN_HOOK_ORIGINS": "https://product.example"}

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")


def node(*words: str, **more: str) -> str:
    env = {**os.environ, **more}
    done = subprocess.run(["node", *words], cwd=PACKAGE, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    return done.stdout


def test_node_client_own_tests_pass() -> None:
    assert "# fail 0" in node("--test")


def test_node_package_is_without_dependencies_and_lists_its_files() -> None:
    said = json.loads((PACKAGE / "package.json").read_text(encoding="utf-8"))
    assert not {"dependencies", "devDependencies", "peerDependencies"} & said.keys()
    assert [name for name in said["files"] if not (PACKAGE / name).exists()] == []
    sources = {path.name for path in PACKAGE.glob("*.js")}
    assert sources <= set(said["files"])


def test_node_client_sign_up_example_is_idempotent(tmp_path: Path) -> None:
    """As docs/sign-up.md has it; run twice, each call is done once: the same key, the same credit, one event."""
    database = f"sqlite:///{tmp_path}/drawdown.db"
    assert drawdown(migrated(database), "init").status == 0
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    words = ("--gives", "50", *scopes, "--reason", "signs up", "--quiet")
    key = drawdown(database, "key", "create", "product", *words).out.strip()

    def sign_up(url: str, *more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(node("examples/sign-up.mjs", *more, DRAWDOWN_URL=url, DRAWDOWN_KEY=key))
        return found

    with serving(database, HOOKS, tmp_path / "log") as (url, _process):
        first = sign_up(url)
        again = sign_up(url, "initech", str(first["begin"]))
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert first["granted"]["granted"] == 10 and first["key"]["key"].startswith("ddk_")
    assert first["found"]["event"]["status"] == "accepted" and again["found"]["event"]["status"] == "duplicate"
    assert first["available"] == again["available"] == pytest.approx(10 - 5 * 0.002)
    assert [(row["org_id"], row["feature"], row["used"]) for row in again["usage"]] == [("initech", "render", 5)]
    assert drawdown(database, "verify").status == 0
