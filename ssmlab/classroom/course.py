"""The course folder, as nbgrader keeps it, and nbgrader itself."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

IGNORED = ["report.json", ".ipynb_checkpoints", "*.pyc", "__pycache__", ".DS_Store"]
NOTE = """{name}

1. Python 3.11 or newer with: {packages}
   pip install {packages} jupyterlab
2. jupyter lab {name}.ipynb
3. Write your answers where the notebook says so. Do not delete, copy or rename its cells.
4. Before you hand it in: restart the kernel, run all cells, save. With nbgrader and ssmlab,
       python -m ssmlab.classroom check {name}.ipynb
   says in plain words what the public checks find.
"""
PACKAGES = ("numpy", "scipy", "matplotlib", "torch", "numba", "ssmlab")


class ClassroomError(Exception):
    """Something that a person has to put right; the message says what and how."""


@dataclass(frozen=True)
class Course:
    """A course folder: `root` holds `source`, and what nbgrader makes of it."""

    root: Path

    @property
    def assignments(self) -> list[str]:
        """The names of the assignments, in order."""
        sources = (self.root / "source").glob("*/*.ipynb")
        return sorted({p.stem for p in sources if p.parent.name == p.stem})

    def place(self, step: str, name: str, student: str = ".") -> Path:
        """Return the folder of an assignment in one step, of one student in most."""
        return self.root / step / student / name

    def notebook(self, step: str, name: str, student: str = ".") -> Path:
        """Return the place of the notebook in one step."""
        return self.place(step, name, student) / f"{name}.ipynb"

    def students(self, step: str, name: str) -> list[str]:
        """The students who have the assignment in one step, in order."""
        return sorted(p.parent.name for p in (self.root / step).glob(f"*/{name}") if p.is_dir())

    def check(self, name: str) -> str:
        """Return the name of an assignment, if there is one of that name."""
        if name not in self.assignments:
            known = ", ".join(self.assignments) or "none"
            raise ClassroomError(
                f"no assignment {name!r} in {self.root / 'source'}; known: {known}"
            )
        return name

    def nbgrader(self, **settings: dict[str, Any]) -> Any:
        """Return nbgrader's interface to this folder, with further settings of its classes."""
        require_nbgrader()
        tools = os.path.dirname(sys.executable)  # nbgrader starts `alembic` by its name
        if tools not in os.environ.get("PATH", "").split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join([tools, os.environ.get("PATH", "")])
        from nbgrader.apps import NbGraderAPI
        from traitlets.config import Config
        from traitlets.config.loader import PyFileConfigLoader

        config = Config()
        if (self.root / "nbgrader_config.py").exists():
            config = PyFileConfigLoader("nbgrader_config.py", str(self.root)).load_config()
        config.merge(Config({"CourseDirectory": {"root": str(self.root.resolve())}}))
        config.CourseDirectory.ignore = IGNORED
        config.merge(Config(settings))
        api = NbGraderAPI(config=config)
        api.log.setLevel(logging.CRITICAL)  # what matters comes back as the result
        return api

    @contextmanager
    def gradebook(self) -> Iterator[Any]:
        """Open the gradebook of this course."""
        with self.nbgrader().gradebook as book:
            yield book

    def release(self, name: str, due: datetime | None = None) -> Path:
        """Write the student's version of an assignment, and enter it into the gradebook."""
        ask(self.nbgrader().generate_assignment, self.check(name))
        if due is not None:
            with self.gradebook() as book:
                book.update_or_create_assignment(name, duedate=due)
        return self.place("release", name)

    def is_released(self, name: str) -> bool:
        """Tell whether the student's version is there, and as new as the source."""
        released, source = self.notebook("release", name), self.notebook("source", name)
        return released.exists() and released.stat().st_mtime >= source.stat().st_mtime


def require_nbgrader() -> None:
    """Say in one sentence what to do where nbgrader is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nbgrader.apps  # noqa: F401
    except ImportError as error:
        raise ClassroomError(
            f"the classroom needs nbgrader ({error}): pip install 'ssmlab[classroom]'"
        ) from None


def ask(function: Any, *arguments: Any, **keywords: Any) -> None:
    """Call nbgrader, and raise what it reports.

    Raises
    ------
    ClassroomError
        It did not succeed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = function(*arguments, **keywords)
    if not result["success"]:
        text = (result.get("error") or result.get("log") or "no reason given").strip()
        raise ClassroomError(f"nbgrader: {text.splitlines()[-1]}")


def downloads(course: Course, folder: Path) -> list[Path]:
    """Write a zip of the student's version of each assignment; the course stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="ssmlab-") as temporary:
        copy = Course(Path(temporary))
        shutil.copytree(course.root / "source", copy.root / "source")
        if (config := course.root / "nbgrader_config.py").exists():
            shutil.copy(config, copy.root)
        return [_zip(copy.release(name), folder / f"{name}.zip") for name in copy.assignments]


def _zip(released: Path, path: Path) -> Path:
    """Pack a released assignment, the same bytes every time."""
    name = released.name
    text = (released / f"{name}.ipynb").read_text("utf8")
    packages = " ".join(p for p in PACKAGES if f"import {p}" in text or f"from {p}" in text)
    files = {p.relative_to(released): p.read_bytes() for p in released.rglob("*") if p.is_file()}
    files[Path("README.txt")] = NOTE.format(name=name, packages=packages).encode()
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for file, content in sorted(files.items()):
            archive.writestr(ZipInfo(f"{name}/{file.as_posix()}"), content, ZIP_DEFLATED)
    return path
