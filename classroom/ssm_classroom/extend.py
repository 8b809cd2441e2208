"""Give one student more time."""

from __future__ import annotations

import warnings
from datetime import datetime

from ssm_classroom.course import ClassroomError, Course


def extend(course: Course, name: str, student: str, until: datetime) -> str:
    """Set a deadline of one student for an assignment; say what it was.

    ``until`` is in UTC, without saying so, as nbgrader keeps times.

    Raises
    ------
    ClassroomError
        The assignment has no deadline, or the student has not handed in yet.
    """
    if student not in course.students("submitted", course.check(name)):
        raise ClassroomError(
            f"student must have handed in {name!r}; got {student!r}: run `collect` first, and take "
            "the name that it prints"
        )
    with course.gradebook() as book:
        due = book.update_or_create_assignment(name).duedate
        if due is None:
            raise ClassroomError(
                f"assignment must have a deadline; got {name!r} without one: run `release --due`"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy, of nbgrader's way to add a submission
            book.update_or_create_student(student)
            book.update_or_create_submission(name, student)
        more = (until - due).total_seconds() / 60
        book.grant_extension(name, student, minutes=more)
    return f"{student}: until {until:%Y-%m-%d %H:%M} UTC, instead of {due:%Y-%m-%d %H:%M} UTC"
