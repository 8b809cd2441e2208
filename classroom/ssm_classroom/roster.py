"""The class: a table of your own, or the one that a learning platform gives and takes back."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo
from pathlib import Path

from ssm_classroom.course import ClassroomError
from ssm_classroom.names import folder_name, same_folder
from ssm_classroom.times import instant

# What the first line of each table has; the first column names what the submissions carry.
KINDS = {
    "Moodle": ("Identifier", "Last modified (submission)"),
    "Canvas": ("ID", "Student", "Section"),
    "Blackboard": ("Username", "Last Name", "First Name"),
    "own": ("id",),
}


@dataclass(frozen=True)
class Person:
    """One student; ``key`` is what the platform writes on the submissions."""

    key: str
    student: str  # the name in the course folder, "" where the submission gives it
    name: str
    email: str
    time: datetime | None
    row: int


@dataclass(frozen=True)
class Roster:
    """A table as it is, and the people in it.

    Moodle's is the *grading worksheet* of an assignment, Canvas's the export of the gradebook,
    Blackboard's that of the grade centre; your own has columns ``id``, and perhaps ``name``,
    ``email`` and ``time``.
    """

    kind: str
    rows: list[list[str]]
    delimiter: str
    encoding: str
    people: tuple[Person, ...]

    @property
    def head(self) -> list[str]:
        """The names of the columns."""
        return [cell.strip() for cell in self.rows[0]]

    def find(self, key: str, student: str) -> Person | None:
        """Find who handed something in, by the key or by the name in the course folder."""
        for person in self.people:
            if person.key == key or same_folder(person.student) == same_folder(student) != "":
                return person
        return None


def read_roster(path: Path, where: tzinfo | None = None) -> Roster:
    """Read a table; ``where`` is the zone of the times in it that name none.

    Raises
    ------
    ClassroomError
        It is none of the four kinds, has nobody in it, or has somebody twice.
    """
    text, encoding = _text(path)
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    head = [cell.strip() for cell in rows[0]] if rows else []
    kind = next((kind for kind, needs in KINDS.items() if set(needs) <= set(head)), None)
    if kind is None:
        raise ClassroomError(
            "roster must be Moodle's grading worksheet, Canvas's or Blackboard's gradebook in "
            f"English, or a table with a column id; got {path} with the columns "
            f"{', '.join(head)[:200] or 'of none'}"
        )
    people = tuple(_people(kind, head, rows, where))
    seen: dict[str, Person] = {}
    for person in people:
        for mark in (f"key {person.key}", f"student {same_folder(person.student) or person.key}"):
            other = seen.setdefault(mark, person)
            if other is not person:
                raise ClassroomError(
                    f"roster must name everybody once; got {other.key!r} in line {other.row + 1} "
                    f"and {person.key!r} in line {person.row + 1} of {path}, which give one name"
                )
    if not people:
        raise ClassroomError(f"roster must name somebody; got nobody in {path}")
    return Roster(kind, rows, delimiter, encoding, people)


def _text(path: Path) -> tuple[str, str]:
    """Read a table in UTF-8, or in UTF-16 as Blackboard writes it."""
    try:
        raw = path.read_bytes()
        marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb": "utf-8-sig"}
        encoding = marks.get(raw[:2], "utf-8")
        return raw.decode(encoding), encoding
    except (OSError, UnicodeDecodeError) as error:
        raise ClassroomError(
            f"roster must be a table in UTF-8 or UTF-16; got {path} ({error})"
        ) from None


def _people(
    kind: str, head: list[str], rows: list[list[str]], where: tzinfo | None
) -> Iterator[Person]:
    for number, row in enumerate(rows[1:], 1):
        cells = dict(zip(head, (cell.strip() for cell in row), strict=False))
        key = cells.get(KINDS[kind][0], "")
        if kind == "Moodle":  # "Participant 1301"
            key = re.sub(r"\D", "", key)
        if not key or cells.get("Student") == "Student, Test":  # Canvas has two such lines
            continue
        name = cells.get("Full name") or cells.get("Student") or cells.get("name", "")
        if kind == "Blackboard":
            name = f"{cells['First Name']} {cells['Last Name']}"
        email = cells.get("Email address") or cells.get("email", "")
        student = {
            "Moodle": email or cells.get("ID number", ""),
            "Canvas": "",
            "Blackboard": key,
            "own": key,
        }[kind]
        time = cells.get("Last modified (submission)") or cells.get("time", "")
        yield Person(key, folder_name(student), name, email, instant(time, where), number)
