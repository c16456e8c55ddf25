"""What the image installs: what pyproject.toml asks for, each by version and hash, and nothing of the tests'."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.acceptance.commands import PROJECT

DEPLOY = PROJECT / "ops" / "deploy"
LOCKS = (DEPLOY / "requirements.lock", DEPLOY / "build.lock")
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")


def asked() -> dict[str, Any]:
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(path: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """Each requirement by its name, with its hashes; whatever is neither is an error."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    text = re.sub(r" *#.*", "", path.read_text(encoding="utf-8")).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        words, *hashes = line.split("--hash=sha256:")
        one = Requirement(words.strip())
        assert canonicalize_name(one.name) not in found, "once each"
        found[canonicalize_name(one.name)] = one, [each.strip() for each in hashes]
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_lock_lines_pin_version_and_hashes(path: Path) -> None:
    assert pins(path)
    for one, hashes in pins(path).values():
        assert re.fullmatch(r"==[0-9][0-9a-z.+!]*", str(one.specifier)) and one.url is None, str(one)
        assert hashes and all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes), str(one)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_lock_does_not_name_package_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"://|^ *--(?!hash)|index", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("path", "section", "key"), [(LOCKS[0], "project", "dependencies"), (LOCKS[1], "build-system", "requires")]
)
def test_lock_satisfies_pyproject_requirements(path: Path, section: str, key: str) -> None:
    """After a change of pyproject.toml: `make lock`."""
    locked = pins(path)
    for one in map(Requirement, asked()[section][key]):
        pin, _ = locked[canonicalize_name(one.name)]
        (version,) = (each.version for each in pin.specifier)
        assert one.specifier.contains(version), f"{one} is locked as {version}"
        assert {f"{canonicalize_name(one.name)}-{extra}" for extra in one.extras} <= set(locked), "extras are packages"


IN_IMAGE = ("oidc", "cluster", "columnar", "s3")


def test_lock_of_image_excludes_test_and_release_packages() -> None:
    extras = asked()["project"]["optional-dependencies"]
    groups = [*extras.values(), *asked()["dependency-groups"].values()]
    names = {canonicalize_name(Requirement(one).name) for those in groups for one in those}
    wanted = {
        canonicalize_name(Requirement(one).name)
        for one in (*asked()["project"]["dependencies"], *(one for extra in IN_IMAGE for one in extras[extra]))
    }
    assert names and set(pins(LOCKS[0])) & (names - wanted) == set()


def test_dockerfile_installs_by_hash_only() -> None:
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installing = re.findall(r"pip (?:install|wheel)([^&\n]*)", text)
    assert len(installing) == 4
    for words in installing:
        assert ("--require-hashes" in words) is (".lock" in words)
        assert ".lock" in words or {"--no-index", "--no-deps"} <= set(words.split()), "from what is there alone"
    assert {path.name for path in LOCKS} == set(re.findall(r"-r (\S+)", text))


@pytest.mark.parametrize(
    ("target", "tool", "words"), [("lock", "uv", "--generate-hashes"), ("sbom", "cyclonedx-bom", "requirements.lock")]
)
def test_makefile_release_targets_use_bounded_tools(target: str, tool: str, words: str) -> None:
    assert re.search(rf"^{target}: release-tools$", MAKEFILE, re.MULTILINE) and words in MAKEFILE
    (found,) = [
        one for one in map(Requirement, asked()["dependency-groups"]["release"]) if canonicalize_name(one.name) == tool
    ]
    assert {each.operator for each in found.specifier} == {">=", "<"}
