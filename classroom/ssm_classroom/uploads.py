"""The files in what a platform exports: a folder or a zip, and the zips of students in it.

Nothing is unpacked: no name that a student chose ever becomes a path on this machine.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from ssm_classroom.course import ClassroomError

LARGEST_FILE = 200_000_000  # bytes, unpacked
LARGEST_UPLOAD = 400_000_000  # bytes, unpacked, of all files in one zip of a student
MOST_FILES = 1000  # in one zip of a student
SYSTEM = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini", ".ipynb_checkpoints", ".git"}
DEEPEST = 3  # zips in zips


@dataclass(frozen=True)
class File:
    """One file, not read yet. ``trouble`` says why it cannot be.

    ``date`` is an instant, in UTC, only where ``is_here``, on this machine's disk; in a zip it has
    no zone, and is what the maker of the zip wants it to be.
    """

    path: str
    size: int = 0
    date: datetime = datetime.min
    read: Callable[[], bytes] = bytes
    trouble: str = ""
    is_here: bool = False

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def is_of_the_system(self) -> bool:
        """Whether a computer wrote it, not a person: ``.DS_Store``, ``._x``, checkpoints."""
        parts = PurePosixPath(self.path).parts
        return any(part.startswith("._") or part in SYSTEM for part in parts)

    def content(self) -> bytes:
        """Read it.

        Raises
        ------
        ClassroomError
            It cannot be read; the message says why, without naming the file.
        """
        if self.trouble:
            raise ClassroomError(self.trouble)
        if self.size > LARGEST_FILE:
            raise ClassroomError(f"too large, {self.size / 1e6:.0f} MB")
        try:
            return self.read()
        except Exception as error:  # a damaged zip fails in many ways
            reason = (str(error) or type(error).__name__).splitlines()[0][:100]
            raise ClassroomError(f"cannot be read ({reason})") from None


@contextmanager
def uploads(given: Path) -> Iterator[list[File]]:
    """Open a folder or a zip; its files, in order of their paths.

    Raises
    ------
    ClassroomError
        It is neither.
    """
    if given.is_dir():
        yield sorted(_folder(given), key=lambda file: file.path)
        return
    try:
        archive = ZipFile(given)
    except (BadZipFile, OSError, ValueError) as error:
        raise ClassroomError(
            f"given must be a folder or a zip; got {given} ({error}): give the platform's export"
        ) from None
    with archive:
        yield sorted(_entries(archive), key=lambda file: file.path)


def inside(file: File, depth: int = 1) -> list[File]:
    """Return the files in a zip, and in the zips in it; any other file itself."""
    if not file.name.lower().endswith(".zip") or file.is_of_the_system:
        return [file]
    if depth > DEEPEST:
        return [File(file.path, trouble="a zip in too many zips")]
    try:
        entries = _entries(ZipFile(io.BytesIO(file.content())))
    except ClassroomError as error:
        return [File(file.path, trouble=str(error))]
    except Exception:
        return [File(file.path, trouble="a damaged zip")]
    found: list[File] = [] if entries else [File(file.path, trouble="an empty zip")]
    for entry in entries[: MOST_FILES + 1]:
        whole = File(f"{file.path}/{entry.path}", entry.size, entry.date, entry.read)
        found += inside(whole, depth + 1)
        if len(found) > MOST_FILES or sum(one.size for one in found) > LARGEST_UPLOAD:
            return [File(file.path, trouble="a zip with too much in it")]
    return found


def _entries(archive: ZipFile) -> list[File]:
    return [
        File(
            entry.filename.replace("\\", "/"),
            entry.file_size,
            _date(entry),
            partial(archive.read, entry),
        )
        for entry in archive.infolist()
        if not entry.is_dir()
    ]


def _date(entry: ZipInfo) -> datetime:
    """Return the date in a zip, which names no zone; some programs write month 0."""
    try:
        return datetime(*entry.date_time)
    except ValueError:
        return datetime.min


def _folder(root: Path) -> Iterator[File]:
    """Walk a folder; links are not followed, since they may lead to what is not the student's."""
    errors: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=errors.append):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in [*names, *links]):
            text = path.relative_to(root).as_posix()
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode):
                yield File(text, trouble="a link, not a file")
            elif not stat.S_ISREG(state.st_mode):
                yield File(text, trouble="no plain file")
            else:
                date = datetime.fromtimestamp(state.st_mtime, UTC).replace(tzinfo=None)
                yield File(text, state.st_size, date, path.read_bytes, is_here=True)
    for error in errors:
        path = Path(error.filename)
        text = path.relative_to(root).as_posix() + "/"
        yield File(text, trouble=f"a folder that cannot be read ({error.strerror})")
