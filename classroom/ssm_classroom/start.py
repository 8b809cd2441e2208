"""Start a course of your own: a private copy of the sources, with the numbers of a new term."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from ssm_classroom.course import ClassroomError, Course

TERM = re.compile(r"^TERM = \d+\b", re.MULTILINE)


def start(course: Course, folder: Path, term: int | None = None) -> list[str]:
    """Copy the sources and the settings of a course; return the names of the assignments.

    Parameters
    ----------
    course : Course
        The course to copy; nothing that students handed in goes along.
    folder : Path
        The new course folder, which must not exist yet.
    term : int, optional
        What the line ``TERM = ...`` of each source says from now on: all numbers come from it.

    Raises
    ------
    ClassroomError
        The folder exists, or a source has no such line.
    """
    if not course.assignments:
        raise ClassroomError(
            f"course must hold assignments; got none in {course.root / 'source'}: name one by "
            "--course"
        )
    if folder.exists():
        raise ClassroomError(f"folder must be a new one; got {folder}, which is there already")
    texts = {}
    for name in course.assignments:
        path = course.notebook("source", name)
        texts[path] = path.read_text("utf8") if term is None else _of_term(path, term)
    shutil.copytree(course.root / "source", folder / "source")
    for path, text in texts.items():
        (folder / path.relative_to(course.root)).write_text(text, "utf8")
    if (settings := course.root / "nbgrader_config.py").exists():
        shutil.copy(settings, folder)
    return course.assignments


def _of_term(path: Path, term: int) -> str:
    """Return a source with another term."""
    notebook = json.loads(path.read_text("utf8"))
    count = 0
    for cell in notebook["cells"]:
        source, found = TERM.subn(f"TERM = {term}", "".join(cell["source"]))
        cell["source"], count = source.splitlines(keepends=True), count + found
    if count != 1:
        raise ClassroomError(f"source must have one line TERM = ...; got {count} in {path}")
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
