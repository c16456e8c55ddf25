"""The wheel holds all that the program reads: from it alone, without this checkout, a database is made."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.acceptance.commands import PROJECT

PACKAGES = [one.parent for one in PROJECT.glob("*/__init__.py") if one.parent.name not in ("tests", "drawdown")]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
LINES = """
import sys
sys.path[:0] = sys.argv[1:3]
from drawdown.schema import database, migrate
migrate.upgrade(database.connect(sys.argv[3]))
print(migrate.__file__, migrate.REVISIONS[-1])
"""
"""Run without `site`: what an editable installation hooks into it is not there to help."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of what the image is built from: building leaves traces."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for path in PACKAGES:
        shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "ops" / "runbooks", source / "ops" / "runbooks")
    shutil.copytree(PROJECT / "drawdown", source / "drawdown", symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(PROJECT / name, source)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_alone_can_create_database(unpacked: Path, tmp_path: Path) -> None:
    libraries = Path(str(sa.__file__)).parents[1]
    url = f"sqlite:///{tmp_path}/new.db"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LINES, str(unpacked), str(libraries), url],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    file, revision = done.stdout.split()
    assert Path(file).is_relative_to(unpacked)
    with sa.create_engine(url).connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == revision


def test_wheel_contains_all_data_files(unpacked: Path) -> None:
    wanted = {
        str(path.relative_to(PROJECT))
        for package in PACKAGES
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    there = {str(path.relative_to(unpacked / "drawdown")) for path in (unpacked / "drawdown").rglob("*")}
    assert wanted - there == set()


def test_wheel_contains_documentation_named_by_units(unpacked: Path) -> None:
    """The units run what is installed in an environment in /opt/drawdown; a wheel's data goes there."""
    named = {
        line.removeprefix("Documentation=file:/opt/drawdown/")
        for unit in (PROJECT / "ops" / "deploy" / "systemd").glob("*.service")
        for line in unit.read_text(encoding="utf-8").splitlines()
        if line.startswith("Documentation=")
    }
    assert named
    (data,) = unpacked.glob("drawdown-*.data/data")
    assert [name for name in named if not (data / name).is_file()] == []
    assert (data / "share/drawdown/runbooks/cell-gone.md").is_file(), "and what it links to"
