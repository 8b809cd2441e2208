"""Write the students' versions of assignments: without solutions and without hidden tests."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import nbformat

from ssm_classroom.course import ClassroomError, Course, ask
from ssm_classroom.notebook import read

# A zip needs no marks: nbgrader then opens no gradebook, which takes longer than all the rest.
NO_GRADEBOOK: dict[str, Any] = {
    "GenerateAssignment": {"no_database": True},
    "SaveCells": {"enabled": False},
}
HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS[^\n]*\n?", re.M | re.S)
MARK = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[^\n]*\n?", re.M)
NOTE = """{name}

1. Python 3.11 or newer with: {packages}
   pip install {packages} jupyterlab
2. jupyter lab {name}.ipynb
3. Write your answers where the notebook says so. Do not delete, copy or rename its cells.
4. Before you hand it in: restart the kernel, run all cells, save. With the package ssm_classroom,
       python -m ssm_classroom check {name}.ipynb
   says in plain words what the public checks find.
"""
PACKAGES = ("numpy", "scipy", "matplotlib", "torch", "numba", "ssmlab")


def release(course: Course, name: str, due: datetime | None = None) -> Path:
    """Write the student's version of an assignment, and enter it into the gradebook."""
    ask(course.nbgrader().generate_assignment, course.check(name))
    if due is not None:
        with course.gradebook() as book:
            book.update_or_create_assignment(name, duedate=due)
    return course.place("release", name)


def release_solutions(course: Course, name: str) -> Path:
    """Write an assignment with its solutions, without hidden tests, once its deadline is over.

    Raises
    ------
    ClassroomError
        Somebody may still hand it in.
    """
    notebook = read(course.notebook("source", course.check(name)))
    with course.gradebook() as book:
        due = [a.duedate for a in book.assignments if a.name == name and a.duedate]
        due += [s.duedate for s in book.assignment_submissions(name) if due]
    if due and max(due) > datetime.now(UTC).replace(tzinfo=None):
        raise ClassroomError(
            f"assignment must be over; got {name!r}, which can be handed in until "
            f"{max(due):%Y-%m-%d %H:%M} UTC"
        )
    for cell in notebook.cells:
        cell.source = MARK.sub("", HIDDEN.sub("", cell.source)).strip("\n")
        cell.metadata.pop("nbgrader", None)
    place = course.place("solution", name)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(course.place("source", name), place)
    nbformat.write(notebook, place / f"{name}.ipynb")
    return place


def is_released(course: Course, name: str) -> bool:
    """Tell whether the student's version is there, and as new as the source."""
    released, source = course.notebook("release", name), course.notebook("source", name)
    return released.exists() and released.stat().st_mtime >= source.stat().st_mtime


def release_zips(course: Course, folder: Path) -> list[Path]:
    """Write a zip of the student's version of each assignment; the course stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="ssm-") as temporary:
        elsewhere = {"CourseDirectory": {"release_directory": temporary}}
        for name in course.assignments:
            ask(course.nbgrader(**NO_GRADEBOOK, **elsewhere).generate_assignment, name)
        return [_zip(Path(temporary, name), folder / f"{name}.zip") for name in course.assignments]


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
