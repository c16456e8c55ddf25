"""What contributors and packagers get: the release command, the source distribution, the staged site, the workflow."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import drawdown
from tests.acceptance.commands import PROJECT


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"ci_{name}", PROJECT / ".ci" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release, site = script("release"), script("site")


def git(root: Path, *words: str) -> str:
    own = [
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    ]
    done = subprocess.run(["git", *own, *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    urls = '[project.urls]\nRepository = "https://example.com/us/drawdown/"\n'
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "drawdown"\nversion = "1.2.3"\n{urls}')
    (tmp_path / "README.md").write_text("[docs](docs/a.md#b) [folder](docs) [top](#top) [web](https://example.org)\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("x")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 1.2.3 - 2026-01-01\n\n### Added\n\n- A thing.\n\n## 1.2\n\n- Old.\n"
    )
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "begin")
    return tmp_path


def test_changelog_part_of_version_is_extracted(repository: Path) -> None:
    assert release.changes_of(repository, "1.2.3") == "### Added\n\n- A thing.\n"
    assert release.changes_of(repository, "1.2") == "- Old.\n"
    with pytest.raises(release.Refused, match=r"no part of 1\.2\.4"):
        release.changes_of(repository, "1.2.4")


def test_release_with_changed_tree_or_existing_tag_is_refused(repository: Path) -> None:
    assert release.require_releasable(repository, "1.2.3") == "v1.2.3"
    (repository / "new").write_text("x")
    with pytest.raises(release.Refused, match="not committed"):
        release.require_releasable(repository, "1.2.3")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "more")
    git(repository, "tag", "v1.2.3")
    with pytest.raises(release.Refused, match="is there already"):
        release.require_releasable(repository, "1.2.3")


def test_release_builds_checks_and_tags_without_upload(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / ".gitignore").write_text("dist/\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "ignore")
    (repository / "dist").mkdir()
    (repository / "dist" / "old.whl").write_text("of another version")
    ran: list[tuple[str, ...]] = []
    readmes: list[str] = []

    def run(root: Path, *words: str) -> None:
        ran.append(words)
        if words[1] == "build":
            readmes.append((Path(words[-1]) / "README.md").read_text())
            assert not (Path(words[-1]) / "dist").exists(), "the commit is built, and nothing else of the folder"
            for name in ("drawdown-1.2.3-py3-none-any.whl", "drawdown-1.2.3.tar.gz"):
                (root / "dist" / name).write_text(name)
        if words[1] == "cyclonedx_py":
            (root / "dist" / "sbom.json").write_text("{}")

    monkeypatch.setattr(release, "_run", run)
    monkeypatch.setenv("GIT_COMMITTER_NAME", "t")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "t@example.com")
    assert "not tagged" in release.release(repository, dry_run=True) and git(repository, "tag") == ""
    assert "tagged v1.2.3; nothing was uploaded" in release.release(repository, dry_run=False)
    assert git(repository, "tag", "-n9", "--list", "v1.2.3").split(maxsplit=1)[1].startswith("### Added")
    assert [words[1] for words in ran] == ["build", "twine", "cyclonedx_py"] * 2
    assert not any("upload" in words for words in ran)
    there = "https://example.com/us/drawdown"
    assert (
        readmes[0]
        == readmes[1]
        == (
            f"[docs]({there}/blob/v1.2.3/docs/a.md#b) [folder]({there}/tree/v1.2.3/docs) [top](#top) [web](https://example.org)\n"
        )
    )
    sums = (repository / "dist" / "SHA256SUMS").read_text()
    assert {line.split()[1] for line in sums.splitlines()} >= {"sbom.json", "CHANGES.md", "drawdown-1.2.3.tar.gz"}


@pytest.mark.parametrize(
    ("file", "text", "other", "why"),
    [
        ("pyproject.toml", "[project.urls]", "[project.other]", r"has no \[project.urls\]"),
        ("CHANGELOG.md", "1.2.3 - 2026-01-01", "1.2.3 - unreleased", r"does not date 1\.2\.3"),
    ],
)
def test_release_without_url_or_date_is_built_and_not_tagged(
    file: str, text: str, other: str, why: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (repository / file).read_text()
    assert text in page
    (repository / file).write_text(page.replace(text, other))
    (repository / ".gitignore").write_text("dist/\n")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "not yet")

    def run(root: Path, *words: str) -> None:
        if words[1] == "build":
            (root / "dist").mkdir()
            for name in ("drawdown-1.2.3-py3-none-any.whl", "drawdown-1.2.3.tar.gz"):
                (root / "dist" / name).write_text(name)

    monkeypatch.setattr(release, "_run", run)
    with pytest.raises(release.Refused, match=why):
        release.release(repository, dry_run=False)
    assert git(repository, "tag") == ""
    assert "not tagged" in release.release(repository, dry_run=True)


def test_package_version_is_read_from_pyproject() -> None:
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert drawdown.__version__ == wanted
    text = (PROJECT / "drawdown" / "__init__.py").read_text(encoding="utf-8")
    assert wanted not in text, "it is read, and not written again"
    with pytest.raises(AttributeError):
        drawdown.nothing  # noqa: B018


def test_source_distribution_contains_docs_and_changelog(tmp_path: Path) -> None:
    source = tmp_path / "source"
    left = shutil.ignore_patterns(".git", ".venv", "build", "dist", "tests", "__pycache__", "*.egg-info", ".*_cache")
    shutil.copytree(PROJECT, source, symlinks=True, ignore=left)
    line = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", line, str(tmp_path)], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {"CHANGELOG.md", "LICENSE", "NOTICE", "docs/providers.md", "ops/deploy/requirements.lock"} <= names
    assert {"drawdown/cli/main.py", "drawdown/__init__.py", "drawdown/worker/tick.py"} <= names


# The site.


def test_site_links_to_source_become_code_and_page_links_are_unchanged(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "ops" / "deploy").mkdir(parents=True)
    for name in ("docs/a.md", "docs/b.md", "ops/deploy/README.md", "code.py", "mkdocs.yml"):
        (tmp_path / name).write_text("x")
    text = (
        "[b](b.md#part) [d](../ops/deploy) [code](../code.py) [`code.py`](../code.py) [web](https://example.com/x)\n"
        "```sh\n[not](../code.py)\n```\n[dead](nowhere.md)\n"
    )
    (tmp_path / "docs" / "a.md").write_text(text)
    site.stage(tmp_path, tmp_path / "out")
    assert (tmp_path / "out" / "pages" / "docs" / "a.md").read_text() == (
        "[b](b.md#part) [d](../ops/deploy/README.md) code (`code.py`) `code.py` [web](https://example.com/x)\n"
        "```sh\n[not](../code.py)\n```\n[dead](nowhere.md)\n"
    )


def test_site_pages_links_resolve() -> None:
    kept = set(site.pages(PROJECT))
    dead = []
    for page in kept:
        text = re.sub(r"^```.*?^```[^\n]*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for _, target, _ in site.LINK.findall(text):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                dead.append((page.relative_to(PROJECT).as_posix(), target))
    assert dead == []


def test_site_menu_pages_exist() -> None:
    config = yaml.safe_load((PROJECT / "mkdocs.yml").read_text(encoding="utf-8"))

    def named(part: Any) -> list[str]:
        if isinstance(part, str):
            return [part]
        return [name for one in (part.values() if isinstance(part, dict) else part) for name in named(one)]

    there = {path.relative_to(PROJECT).as_posix() for path in site.pages(PROJECT)}
    assert set(named(config["nav"])) - there == set()
    assert config["validation"]["links"]["not_found"] == "warn", "with --strict a warning is an error"


# Contributors.


def test_workflow_tests_every_supported_python() -> None:
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = {one.rpartition(" ")[2] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)}
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == promised
    assert workflow["permissions"] == {"contents": "read"}
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = [run.split()[1] for run in runs if run.startswith("make ")]
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    uses = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", one) for one in uses), uses


def test_issue_forms_are_complete() -> None:
    for name in ("bug", "feature"):
        form = yaml.safe_load((PROJECT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
        assert form["name"] and form["description"] and form["body"]
        kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert {one["type"] for one in form["body"]} <= kinds
        assert len({one["id"] for one in form["body"] if "id" in one}) == sum("id" in one for one in form["body"])
    assert "Report a vulnerability" in (PROJECT / "SECURITY.md").read_text(encoding="utf-8")


def test_contributor_tools_are_dependency_groups() -> None:
    found = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"test", "coverage", "mutation", "docs", "fuzz", "release"} == set(found["dependency-groups"])
    assert {"plugin", "privacy", "columnar", "s3", "oidc", "cluster"} == set(found["project"]["optional-dependencies"])
