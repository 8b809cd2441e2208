"""The course folder, as nbgrader keeps it, and nbgrader itself."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

IGNORED = ["report.json", ".ipynb_checkpoints", "*.pyc", "__pycache__", ".DS_Store"]


class ClassroomError(Exception):
    """Something that a person has to put right; the message says what and how."""


@dataclass(frozen=True)
class Course:
    """A course folder: ``root`` holds ``source``, and what nbgrader makes of it."""

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
                f"assignment must be one of those in {self.root / 'source'} ({known}); got "
                f"{name!r}: name one of them, or another folder with --course"
            )
        return name

    def nbgrader(self, **settings: dict[str, Any]) -> Any:
        """Return nbgrader's interface to this folder, with further settings of its classes."""
        tools = os.path.dirname(sys.executable)  # nbgrader starts `alembic` by its name
        if tools not in os.environ.get("PATH", "").split(os.pathsep):
            os.environ["PATH"] = os.pathsep.join([tools, os.environ.get("PATH", "")])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nbgrader.apps import NbGraderAPI
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
