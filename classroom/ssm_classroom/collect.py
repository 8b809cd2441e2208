"""Collect what was handed in, from a folder or a zip as learning platforms export it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.notebook import LARGEST, UnreadableError, grade_id, read

# How platforms name what students hand in; each names `student`, and the rest of the file's name.
PATTERNS = {
    "Moodle": r"(?P<student>[^/]+?_\d+)_assignsubmission_file_?/?(?P<file>.+)",
    "Canvas": r"(?P<student>[^/_]+)_(?:(?P<late>LATE)_)?(?P<id>\d+)_\d+_(?P<file>[^/]+)",
    "Blackboard": r"[^/]*?_(?P<student>[^/_]+)_attempt_(?P<time>[\d-]{19})_?(?P<file>[^/]*)",
    "a folder for each student": r"(?:submitted/)?(?P<student>[^/]+)/(?P<file>.+)",
}
UNSAFE = re.compile(r"[^\w.@+-]+")


@dataclass(frozen=True)
class Found:
    """One file that somebody handed in."""

    path: Path
    student: str
    time: datetime
    name: str

    @property
    def version(self) -> int:
        """Canvas adds -1, -2 to the name of what is handed in again."""
        number = re.search(r"-(\d+)\.ipynb$", self.name)
        return int(number[1]) if number else 0


def collect(course: Course, name: str, given: Path, pattern: str | None = None) -> list[str]:
    """Put what was handed in for an assignment into the course folder; say what was done.

    Of several notebooks of one student the one with most cells of this assignment counts, and of
    those the newest. The names of files do not matter, except for finding the student.

    Parameters
    ----------
    course : Course
        The course folder.
    name : str
        An assignment in it.
    given : Path
        A folder or a zip.
    pattern : str, optional
        A regular expression for paths in it, with groups ``student``, and perhaps ``time`` and
        ``file``; by default the export of Moodle, Canvas or Blackboard, or a folder for each
        student.

    Raises
    ------
    ClassroomError
        ``given`` is not there, is no zip, or holds no notebook of a student.
    """
    released = course.notebook("source", course.check(name))
    wanted = {grade_id(cell) for cell in read(released).cells} - {None}
    with TemporaryDirectory(prefix="ssm-") as temporary:
        folder = given if given.is_dir() else _unpack(given, Path(temporary))
        files = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
        found = [f for path in files if (f := _whose(path, folder, pattern))]
        if not found:
            raise ClassroomError(
                f"given must hold a student's notebook; got none in {given}: give it as Moodle, "
                "Canvas or Blackboard export it, or with one folder for each student, or say "
                "--pattern"
            )
        lines = [f"Left out, no student in its name: {p.name}" for p in _rest(files, found)]
        for student in sorted({f.student for f in found}):
            lines.append(_keep(course, name, wanted, [f for f in found if f.student == student]))
    return lines


def _keep(course: Course, name: str, wanted: set[str | None], found: list[Found]) -> str:
    """Put the notebook that counts into the course folder."""
    best = max(found, key=lambda f: (_matches(f.path, wanted), f.time, f.version))
    place = course.place("submitted", name, best.student)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shutil.copyfile(best.path, place / f"{name}.ipynb")
    (place / "timestamp.txt").write_text(f"{best.time:%Y-%m-%d %H:%M:%S} UTC\n", "utf8")
    line = f"{best.student}: handed in {best.time:%Y-%m-%d %H:%M} UTC"
    if best.name and PurePosixPath(best.name).name != f"{name}.ipynb":
        line += f", called {PurePosixPath(best.name).name}"
    return line + (f", one of {len(found)}" if len(found) > 1 else "")


def _matches(path: Path, wanted: set[str | None]) -> int:
    """Count the cells of the assignment in a notebook; -1 if it is none."""
    try:
        return len({grade_id(cell) for cell in read(path).cells} & wanted)
    except (UnreadableError, OSError):
        return -1


def _whose(path: Path, folder: Path, pattern: str | None) -> Found | None:
    """Tell who handed in a file, and when: as its name says, or else as its date does."""
    text = path.relative_to(folder).as_posix()
    texts = [text] if "/" not in text else [text, text.partition("/")[2]]
    for expression in [pattern] if pattern else PATTERNS.values():
        for candidate in texts[: 1 if pattern else 2]:
            if match := re.fullmatch(expression, candidate):
                groups = match.groupdict()
                student = UNSAFE.sub("_", groups["student"]).strip("._")
                time = _time(groups.get("time")) or _stamped(path)
                return Found(path, student, time, groups.get("file") or path.name)
    return None


def _stamped(path: Path) -> datetime:
    """Return the time in nbgrader's timestamp.txt beside a file, or else the file's own."""
    stamp = path.with_name("timestamp.txt")
    text = stamp.read_text("utf8", "replace") if stamp.exists() else ""
    return _time(text) or datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _time(text: str | None) -> datetime | None:
    """Read a time such as 2026-01-30-15-00-00."""
    if len(digits := re.findall(r"\d+", text or "")) < 6:
        return None
    year, month, day, hour, minute, second = map(int, digits[:6])
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def _rest(files: list[Path], found: list[Found]) -> Iterator[Path]:
    named = {f.path for f in found}
    return (path for path in files if path not in named)


def _unpack(given: Path, folder: Path) -> Path:
    """Unpack the notebooks of a zip, with their dates, and those of zips in it."""
    try:
        archive = ZipFile(given)
    except (BadZipFile, OSError) as error:
        raise ClassroomError(
            f"given must be a folder or a zip; got {given} ({error}): give the platform's export"
        ) from None
    with archive:
        for entry in archive.infolist():
            parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
            is_safe = parts and parts[0] != "/" and ".." not in parts
            wanted = (
                entry.filename.endswith((".ipynb", ".zip", "timestamp.txt"))
                and "__MACOSX" not in parts
            )
            if entry.is_dir() or not is_safe or not wanted or entry.file_size > LARGEST:
                continue
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_bytes(archive.read(entry))
            except (BadZipFile, OSError, RuntimeError, ValueError):  # damaged, or with a password
                target.write_bytes(b"")
            stamp = datetime(*entry.date_time, tzinfo=UTC).timestamp()  # a zip has no time zones
            os.utime(target, (stamp, stamp))
            if target.suffix == ".zip":
                inner = target.with_suffix("")
                inner.mkdir(exist_ok=True)
                with suppress(ClassroomError):  # somebody's broken zip is nobody else's trouble
                    _unpack(target, inner)
    return folder
