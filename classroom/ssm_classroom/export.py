"""One table of the points, for the instructor."""

from __future__ import annotations

from typing import Any

from ssm_classroom.course import Course

COLUMNS = ("assignment", "student", "question", "points", "possible", "total", "late", "by_hand")


def export(course: Course, names: list[str]) -> list[list[Any]]:
    """Return the table of points: ``COLUMNS``, then a row for each student and question.

    ``points`` is empty while a person has to mark the question; ``total`` is the sum of what is
    marked, for the whole assignment; ``late`` is in seconds.
    """
    rows: list[list[Any]] = [list(COLUMNS)]
    with course.gradebook() as book:
        for name in names:
            for submission in sorted(book.assignment_submissions(name), key=_student):
                late = round(submission.total_seconds_late)
                for grade in _grades(submission):
                    waits = bool(grade.needs_manual_grade)
                    points = "" if waits else f"{grade.score:g}"
                    total = f"{submission.score:g}"
                    row = (_safe(_student(submission)), grade.name, points, f"{grade.max_score:g}")
                    rows.append([name, *row, total, late, "yes" if waits else "no"])
    return rows


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
    return f"'{text}" if text[:1] in "=+-@" else text
