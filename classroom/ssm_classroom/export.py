"""The points: one long table for the instructor, or the table that a learning platform takes."""

from __future__ import annotations

import csv
import html
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssm_classroom.collect import origin
from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.names import same_folder
from ssm_classroom.roster import Person, Roster

COLUMNS = ("assignment", "student", "question", "points", "possible", "total", "late", "by_hand")
FORMULA = tuple("=+-@\t\r")
# Canvas changes the columns that it finds, and wants these.
CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
COMMENTS = ("Feedback comments", "Feedback to Learner")  # Moodle, and Blackboard where asked for


@dataclass(frozen=True)
class Marks:
    """What one student got for an assignment."""

    total: float
    possible: float
    waits: bool
    comment: str


def export(course: Course, names: list[str]) -> list[list[Any]]:
    """Return the table of points: ``COLUMNS``, then a row for each student and question.

    ``points`` is empty while a person has to mark the question; ``total`` is the sum of what is
    marked, for the whole assignment; ``late`` is in seconds, "LATE" where Canvas said no more, and
    empty where nothing is known.
    """
    rows: list[list[Any]] = [list(COLUMNS)]
    with course.gradebook() as book:
        for name in names:
            for submission in sorted(book.assignment_submissions(name), key=_student):
                late = _late(course, name, submission)
                for grade in _grades(submission):
                    waits = bool(grade.needs_manual_grade)
                    points = "" if waits else f"{grade.score:g}"
                    total = f"{submission.score:g}"
                    row = (_safe(_student(submission)), grade.name, points, f"{grade.max_score:g}")
                    rows.append([name, *row, total, late, "yes" if waits else "no"])
    return rows


def fill(
    course: Course, name: str, roster: Roster, column: str | None = None
) -> tuple[list[list[str]], list[str]]:
    """Write the points of an assignment into the table of a platform, and say what is missing.

    Moodle's worksheet and Blackboard's table get the comments too, where they have a column for
    them. A total stays as it is in the table while a question waits for a person.

    Parameters
    ----------
    course : Course
        The course folder.
    name : str
        An assignment in it.
    roster : Roster
        The table, as the platform gave it.
    column : str, optional
        The column, or a part of its name; by default the one that has the assignment's name.

    Returns
    -------
    rows
        The table: all of it, or what Canvas wants.
    notes
        A sentence for each thing that the instructor may want to know.

    Raises
    ------
    ClassroomError
        The table is of no platform, has no such column, or has another number of points.
    """
    if roster.kind == "own":
        raise ClassroomError(
            "into must be Moodle's worksheet, or Canvas's or Blackboard's gradebook; got a table "
            "with a column id: leave out --into for a table of ours"
        )
    head, rows = roster.head, [list(row) for row in roster.rows]
    at = head.index("Grade") if roster.kind == "Moodle" else _column(head, column or name)
    marks, whose = _marks(course, name), _keys(course, name)
    words = [head.index(comment) for comment in COMMENTS if comment in head]
    missing, waiting = [], []
    for person in roster.people:
        mark = marks.get(whose.get(person.key) or whose.get(same_folder(person.student)) or "")
        if mark is None:
            missing.append(person)
            continue
        _same_points(roster, person, at, mark.possible)
        if mark.waits:
            waiting.append(person)
            continue
        row = rows[person.row]
        row += [""] * (len(head) - len(row))
        row[at] = f"{mark.total:g}"
        for place in words:
            row[place] = _safe(mark.comment)
    if roster.kind == "Canvas":
        keep = [head.index(known) for known in CANVAS if known in head] + [at]
        rows = [[row[k] if k < len(row) else "" for k in keep] for row in rows]
    notes = [
        f"{text}: {', '.join(person.name or person.key for person in people)}"
        for text, people in (("No marks", missing), ("Left as it was, waits for you", waiting))
        if people
    ]
    return rows, notes


def write(path: Path, rows: list[list[Any]], like: Roster | None = None) -> None:
    """Write a table as CSV, or in the form of the table that it came from.

    Raises
    ------
    ClassroomError
        The file cannot be written.
    """
    try:
        encoding = like.encoding if like else "utf8"
        with path.open("w", encoding=encoding, newline="") as file:
            csv.writer(file, delimiter=like.delimiter if like else ",").writerows(rows)
    except OSError as error:
        raise ClassroomError(
            f"to must be a file that can be written; got {path} ({error.strerror})"
        ) from None


def _column(head: list[str], wanted: str) -> int:
    """Find the column of an assignment by a part of its name."""
    found = [k for k, text in enumerate(head) if wanted.casefold() in text.casefold()]
    exact = [k for k in found if re.sub(r" (\(\d+\)|\[.*)$", "", head[k]) == wanted]
    if len(exact or found) != 1:
        raise ClassroomError(
            f"column must be in the name of one column; got {wanted!r}, which is in "
            f"{len(found)} of {', '.join(head)}: name it with --column"
        )
    return (exact or found)[0]


def _marks(course: Course, name: str) -> dict[str, Marks]:
    """Read the marks of all students from the gradebook."""
    with course.gradebook() as book:
        return {
            _student(submission): Marks(
                submission.score,
                submission.max_score,
                any(grade.needs_manual_grade for grade in _grades(submission)),
                _comment(submission),
            )
            for submission in book.assignment_submissions(name)
        }


def _comment(submission: Any) -> str:
    """Return the points of each question and the instructor's comments, as HTML."""
    lines = [f"{g.name}: {g.score:g} of {g.max_score:g}" for g in _grades(submission)]
    lines += [
        f"{comment.name}: {comment.manual_comment}"
        for notebook in submission.notebooks
        for comment in notebook.comments
        if comment.manual_comment
    ]
    return "<br>".join(html.escape(line) for line in lines)


def _keys(course: Course, name: str) -> dict[str, str]:
    """Map what a platform calls a student, and the name in the course folder, to the latter."""
    known: dict[str, str] = {}
    for student in course.students("submitted", name):
        known[same_folder(student)] = student
    for student in course.students("submitted", name):
        if key := origin(course, name, student).get("key"):
            known[str(key)] = student
    return known


def _same_points(roster: Roster, person: Person, at: int, possible: float) -> None:
    """Refuse a table in which the assignment has another number of points."""
    head = roster.head
    if roster.kind == "Moodle" and "Maximum Grade" in head:
        text = roster.rows[person.row][head.index("Maximum Grade")]
    elif roster.kind == "Canvas":
        first = [row for row in roster.rows if row and row[0].strip() == "Points Possible"]
        text = first[0][at] if first else ""
    else:
        found = re.search(r"\[Total Pts: (?:up to )?([\d.,]+)", head[at])
        text = found[1] if found else ""
    number = re.fullmatch(r"[\d.]+", text.replace(",", ".").strip())
    if number and float(number[0]) != possible:
        raise ClassroomError(
            f"the assignment must have {possible:g} points on the platform; got {number[0]} in "
            f"{head[at]!r}: change its settings there, and download the table again"
        )


def _late(course: Course, name: str, submission: Any) -> int | str:
    """Return the seconds that a submission is late, or what else is known."""
    verdict = origin(course, name, _student(submission)).get("late")
    is_known = submission.timestamp is not None or verdict is not None
    if submission.assignment.duedate is not None and not is_known:
        return ""
    return round(submission.total_seconds_late) or ("LATE" if verdict else 0)


def _student(submission: Any) -> str:
    return str(submission.student.id)


def _grades(submission: Any) -> list[Any]:
    """The grades of a submission, in the order of the questions."""
    return [
        grade
        for notebook in submission.notebooks
        for cell in notebook.notebook.source_cells
        for grade in notebook.grades
        if grade.name == cell.name
    ]


def _safe(text: str) -> str:
    """Keep a spreadsheet from taking a student's name for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text
