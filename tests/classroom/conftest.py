"""The course with the tiny assignment, and gradebooks that are made in no time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from ssm_classroom.course import Course
from ssm_classroom.release import release
from tiny import SOURCE


@pytest.fixture(scope="session")
def nbgraders_version() -> Iterator[Callable[[], str]]:
    """Spare each new gradebook the program that names its version, six seconds of work.

    The value is nbgrader's function that starts it.
    """
    from nbgrader import api

    with api._temp_alembic_ini("sqlite://") as ini:
        version = ScriptDirectory.from_config(Config(ini)).get_current_head()
    original = api.get_alembic_version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "get_alembic_version", lambda: version)
        yield original


@pytest.fixture(scope="session")
def course(tmp_path_factory: pytest.TempPathFactory, nbgraders_version: Callable) -> Course:
    """Make a course with one tiny assignment, and release it."""
    made = Course(tmp_path_factory.mktemp("course"))
    made.place("source", "tiny").mkdir(parents=True)
    nbformat.write(SOURCE, made.notebook("source", "tiny"))
    release(made, "tiny")
    return made


@pytest.fixture
def mine(course: Course, tmp_path: Path) -> Course:
    """Copy the source of that course into one where nothing has happened yet."""
    shutil.copytree(course.root / "source", tmp_path / "course" / "source")
    return Course(tmp_path / "course")
