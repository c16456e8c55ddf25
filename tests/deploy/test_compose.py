"""docker-compose.yml: each field is one that Compose knows, and what matters is set. No daemon is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
import yaml
from typer.main import get_command

from drawdown.cli.main import app

PROJECT: Final = Path(__file__).resolve().parents[2]
FILE: Final = PROJECT / "docker-compose.yml"

TEXT: Final = {"type": "string"}
TEXTS: Final = {"type": "array", "items": TEXT, "minItems": 1}
DURATION: Final = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}
SERVICE: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image", "networks", "restart", "healthcheck", "user", "cap_drop", "security_opt"],
    "properties": {
        "image": TEXT,
        "build": TEXT,
        "command": TEXTS,
        "environment": {"type": "object", "additionalProperties": TEXT},
        "user": {"type": "string", "pattern": "^[1-9][0-9]*:[1-9][0-9]*$"},
        "read_only": {"type": "boolean"},
        "tmpfs": TEXTS,
        "cap_drop": {"const": ["ALL"]},
        "security_opt": {"const": ["no-new-privileges:true"]},
        "volumes": TEXTS,
        "networks": TEXTS,
        "ports": TEXTS,
        "shm_size": {"type": "string", "pattern": "^[0-9]+(b|k|m|g|kb|mb|gb)$"},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "stop_grace_period": DURATION,
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["condition"],
                "properties": {
                    "condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
                },
            },
        },
        "healthcheck": {
            "oneOf": [
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["test", "interval", "timeout", "retries"],
                    "properties": {
                        "test": TEXTS,
                        "interval": DURATION,
                        "timeout": DURATION,
                        "start_period": DURATION,
                        "retries": {"type": "integer", "minimum": 1},
                    },
                },
                {"type": "object", "additionalProperties": False, "properties": {"disable": {"const": True}}},
            ]
        },
    },
}
"""Of Compose's own schema the fields that the file uses, and no others: a misspelt one fails."""
SCHEMA: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "services", "networks", "volumes"],
    "properties": {
        "name": TEXT,
        "services": {"type": "object", "additionalProperties": SERVICE},
        "networks": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {"internal": {"type": "boolean"}},
            },
        },
        "volumes": {"type": "object", "additionalProperties": {"type": "object", "maxProperties": 0}},
    },
    "patternProperties": {"^x-": {}},
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def test_compose_file_is_valid_and_references_resolve(compose: dict[str, Any]) -> None:
    jsonschema.validate(compose, SCHEMA)
    for service in compose["services"].values():
        assert set(service["networks"]) <= set(compose["networks"])
        named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert named <= set(compose["volumes"]), "each volume is a named one"
        assert set(service.get("depends_on", {})) <= set(compose["services"])


def ran(tool: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """A tool of this environment."""
    return subprocess.run([Path(sys.executable).parent / tool, *words], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("compose-spec", "docker-compose.yml"),
        ("github-workflows", ".github/workflows/test.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/feature.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_config_file_matches_published_schema(schema: str, file: str, tmp_path: Path) -> None:
    said = ran("check-jsonschema", "--builtin-schema", f"vendor.{schema}", PROJECT / file)
    assert said.returncode == 0, said.stdout + said.stderr
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("services: [1]\nbody: 7\nblank_issues_enabled: maybe\n", encoding="utf-8")
    assert ran("check-jsonschema", "--builtin-schema", f"vendor.{schema}", wrong).returncode == 1


def test_dockerfile_passes_hadolint(tmp_path: Path) -> None:
    said = ran("hadolint", PROJECT / "Dockerfile")
    assert said.returncode == 0, said.stdout + said.stderr
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN sudo cd /x && pip install y\n", encoding="utf-8")
    assert "DL3004" in ran("hadolint", tmp_path / "Dockerfile").stdout, "a finding would be told"


def test_compose_images_are_pinned_and_versions_equal(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert re.fullmatch(r"postgres:\d+\.\d+-\w+@sha256:[0-9a-f]{64}", images["db"])
    version = re.search(r'^version = "(.+)"', (PROJECT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None and images["drawdown"] == images["init"] == f"drawdown:{version[1]}"
    assert [name for name, service in compose["services"].items() if "build" in service] == ["init"]


def test_compose_state_folder_is_named_volume_of_image_path(compose: dict[str, Any]) -> None:
    image = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    (folder,) = re.findall(r"DRAWDOWN_STATE_DIR=(\S+)", image)
    (user,) = re.findall(r"^USER (\S+)", image, re.MULTILINE)
    for name in ("init", "drawdown"):
        assert compose["services"][name]["volumes"] == [f"state:{folder}"]
        assert compose["services"][name]["user"] == user and compose["services"][name]["read_only"] is True


def test_compose_database_is_initialized_first_and_not_published(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["drawdown"]["depends_on"]["init"] == {"condition": "service_completed_successfully"}
    assert services["init"]["depends_on"]["db"] == {"condition": "service_healthy"}
    assert services["db"]["networks"] == ["database"] and compose["networks"]["database"] == {"internal": True}
    assert "ports" not in services["db"] and services["drawdown"]["ports"] == ["127.0.0.1:8080:8080"]


def test_compose_password_is_required_from_environment(compose: dict[str, Any]) -> None:
    text = FILE.read_text(encoding="utf-8")
    given = [line for line in text.splitlines() if "PASSWORD" in line and not line.startswith("#")]
    assert given and all("${POSTGRES_PASSWORD:?" in line for line in given), "it is asked for, and has no default"


def test_compose_commands_and_options_exist(compose: dict[str, Any]) -> None:
    group: Any = get_command(app)
    for name in ("init", "drawdown"):
        command, *arguments = compose["services"][name]["command"]
        group.commands[command].make_context(command, arguments)


def test_compose_healthcheck_equals_image_healthcheck(compose: dict[str, Any]) -> None:
    image = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    _, *words = compose["services"]["drawdown"]["healthcheck"]["test"]
    assert all(word in image for word in words)
