"""Write the students' versions of assignments: without solutions and without hidden tests."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from ssm_classroom.course import Course, ask

# A zip needs no marks: nbgrader then opens no gradebook, which takes longer than all the rest.
NO_GRADEBOOK: dict[str, Any] = {
    "GenerateAssignment": {"no_database": True},
    "SaveCells": {"enabled": False},
}
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
