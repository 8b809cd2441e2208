"""`make book` builds what has changed, and nothing twice: the Makefile with tools that only log."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOL = """#!/bin/sh
echo "$(basename $0) $1 $2" >> log
mkdir -p _build/assignments
touch _build/assignments/a.zip
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def folder(tmp_path):
    """The Makefile beside a small book and an environment of two programs that only log."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    sources = ["requirements.txt", "pyproject.toml", "_config.yml", "_toc.yml"]
    sources += [
        "tools/freshness.py",
        "tools/reader_copy.py",
        "ssmlab/lti.py",
        "book/one.ipynb",
        "book/experiments/a.json",
    ]
    sources += ["book/experiments/a.py", "book/assignments/nbgrader_config.py"]
    sources += ["book/assignments/source/a/a.ipynb", "classroom/pyproject.toml"]
    sources += [".venv/bin/python", ".venv/bin/jupyter-book"]
    for name in sources:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TOOL)
        path.chmod(0o755)
    (tmp_path / ".venv" / ".complete").touch()
    return tmp_path


@pytest.fixture(autouse=True)
def no_make_above(monkeypatch):
    """Under ``make test`` these would be calls of its own, which say where they are."""
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)


def make_book(folder: Path) -> list[str]:
    """Say which programs `make book` starts."""
    log = folder / "log"
    log.unlink(missing_ok=True)
    done = subprocess.run(["make", "book"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines() if log.exists() else []


def change(path: Path) -> None:
    """Make a file newer than all others."""
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (time.time() + 1, time.time() + 1))


def test_nothing_is_built_twice(folder):
    assert "jupyter-book build ." in make_book(folder)
    assert make_book(folder) == []
    for left_over in ("__pycache__/lti.cpython-311.pyc", "__pycache__/lti.kernel-1.py311.nbi"):
        change(folder / "ssmlab" / left_over)
    change(folder / "book" / "experiments" / "a.py")
    assert make_book(folder) == []


@pytest.mark.parametrize(
    "name", ["ssmlab/lti.py", "book/one.ipynb", "book/experiments/a.json", "_toc.yml"]
)
def test_change_is_built(folder, name):
    make_book(folder)
    change(folder / name)
    log = make_book(folder)
    assert "jupyter-book build ." in log
    assert not any("release" in line for line in log), "the assignments have not changed"


def test_compiled_code_is_kept_out_of_the_sources(folder):
    done = subprocess.run(
        ["make", "--eval", "print: ; @echo $$NUMBA_CACHE_DIR", "print"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{folder}/_build/numba"
