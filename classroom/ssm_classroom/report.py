"""What came out of grading: who passed which question, what is odd, what waits."""

from __future__ import annotations

import json
from statistics import median
from typing import Any

from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.names import printable


def report(course: Course, name: str) -> list[str]:
    """Return lines about the marks of an assignment, for the instructor.

    Raises
    ------
    ClassroomError
        Nothing of it is graded.
    """
    course.check(name)
    remarks = {student: _remarks(course, name, student) for student in _graded(course, name)}
    with course.gradebook() as book:
        marked = [s for s in book.assignment_submissions(name) if s.student.id in remarks]
        if not marked:
            raise ClassroomError(
                f"assignment must be graded; got no marks for {name!r}: run `grade` first"
            )
        scores = sorted(submission.score for submission in marked)
        lines = [
            f"{name}: {len(scores)} graded, median {median(scores):g} of {marked[0].max_score:g} "
            f"points, from {scores[0]:g} to {scores[-1]:g}"
        ]
        grades = [g for s in marked for notebook in s.notebooks for g in notebook.grades]
        cells = [c for notebook in marked[0].notebooks for c in notebook.notebook.source_cells]
        for cell in cells:
            if mine := [grade for grade in grades if grade.name == cell.name]:
                lines.append("  " + _question(cell.name, mine))
        left = sorted({g.student.id for g in grades if g.needs_manual_grade})
        nothing = sorted(s.student.id for s in marked if s.score == 0)
        late = sorted(s.student.id for s in marked if s.total_seconds_late > 0)
    odd = [f"{student} ({count})" for student, count in sorted(remarks.items()) if count]
    lines += [
        f"{text}: {', '.join(students)}"
        for text, students in (
            ("Wait for you", left),
            ("Late", late),
            ("Not a single point", nothing),
            ("With remarks", odd),
        )
        if students
    ]
    return [printable(line) for line in lines]


def waiting(course: Course, name: str) -> list[str]:
    """Return the students with an answer that a person has to mark."""
    with course.gradebook() as book:
        marked = book.assignment_submissions(name)
        return sorted(printable(s.student.id) for s in marked if s.needs_manual_grade)


def _question(name: str, grades: list[Any]) -> str:
    """Say how a question went."""
    possible = grades[0].max_score
    done = [grade.score for grade in grades if not grade.needs_manual_grade]
    full = sum(score == possible for score in done)
    line = f"{name} ({possible:g} points): {full} of {len(done)} in full"
    if left := len(grades) - len(done):
        line += f", {left} wait"
    if done and max(done) == 0:
        line += ". Nobody has a point: look at the question"
    return line


def _graded(course: Course, name: str) -> list[str]:
    return course.students("autograded", name)


def _remarks(course: Course, name: str, student: str) -> int:
    """Count what `grade` found odd about a submission."""
    path = course.place("executed", name, student) / "report.json"
    try:
        return len(json.loads(path.read_text("utf8"))["remarks"])
    except (OSError, ValueError, KeyError):
        return 0
