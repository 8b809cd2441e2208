"""The notebooks that one student handed in for an assignment, and which of them counts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from nbformat import NotebookNode

from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.notebook import UnreadableError, grade_id, is_answer, read
from ssm_classroom.owners import Owner
from ssm_classroom.uploads import File


@dataclass(frozen=True)
class Version:
    """A notebook that one student handed in."""

    path: Path
    shown: str  # what the student called it
    date: datetime
    owner: Owner
    cells: int  # of this assignment; -1 if it cannot be read
    whole: bool  # it is this assignment, not another one that shares a few cells
    touched: bool  # an answer differs from the release

    @property
    def rank(self) -> tuple[object, ...]:
        """Order the versions of one student: the newest that is the assignment, and begun."""
        again = re.search(r"-(\d+)\.ipynb$", self.shown)  # Canvas adds -1, -2
        time = self.owner.time or datetime.min.replace(tzinfo=UTC)
        newest = (time, int(again[1]) if again else 0, self.date, self.shown)
        return (self.whole, min(self.cells, 1), self.touched, *newest)

    def against(self, best: Version) -> str:
        """Say why another version counts."""
        if self.cells < 0:
            return "cannot be read"
        if not self.whole and best.whole:
            return "not this assignment, or little of it"
        return "as released" if best.touched and not self.touched else "an older version"


class Measure:
    """Reads the notebooks of students, and compares them with the assignment."""

    def __init__(self, course: Course, name: str, folder: Path) -> None:
        self.wanted = {grade_id(c) for c in read(course.notebook("source", name)).cells} - {None}
        self.folder = folder
        self.count = 0
        release = course.notebook("release", name)
        cells = read(release).cells if release.exists() else []
        self.given = {cell.source.strip() for cell in cells} | {""}

    def version(self, file: File, shown: str, owner: Owner) -> Version:
        """Read one file; a ClassroomError says why it is no version."""
        if file.is_of_the_system:
            raise ClassroomError("of the system")
        name = file.name.lower()
        is_named = ".ipynb" in name
        if not is_named and PurePosixPath(name).suffix not in {".json", ".txt", ""}:
            raise ClassroomError(file.trouble or "no notebook")
        content = file.content()
        self.count += 1
        path = self.folder / f"{self.count}.ipynb"
        path.write_bytes(content)
        try:
            cells = read(path).cells
        except (UnreadableError, OSError):
            if not is_named:
                path.unlink()
                raise ClassroomError("no notebook") from None
            return Version(path, shown, file.date, owner, -1, False, False)
        found = {grade_id(cell) for cell in cells} & self.wanted
        if not is_named and not found:
            raise ClassroomError("not this assignment")
        touched = any(c.source.strip() not in self.given for c in cells if _is_written(c))
        whole = 2 * len(found) >= len(self.wanted)
        return Version(path, shown, file.date, owner, len(found), whole, touched)


def _is_written(cell: NotebookNode) -> bool:
    """Whether a student may have written a cell: an answer, or one without a name."""
    return is_answer(cell) or grade_id(cell) is None
