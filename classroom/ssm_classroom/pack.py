"""Pack the pages of a class as the learning platform takes them back."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from ssm_classroom.collect import origin
from ssm_classroom.course import ClassroomError, Course

SCRIPT = '<script src="tex-svg.js" defer></script>'


def pack(course: Course, name: str, path: Path) -> list[str]:
    """Write the pages of an assignment into a zip, under the names that the platform gave.

    Moodle takes it as *Upload multiple feedback files in a zip*, Canvas as *Upload Submissions*.
    Where neither was there, each student has a folder. A page holds what draws its formulas, so
    that it is one file.

    Returns
    -------
    list of str
        The names in the zip.

    Raises
    ------
    ClassroomError
        There is no page, or the zip cannot be written.
    """
    students = [
        student
        for student in course.students("feedback", course.check(name))
        if (course.place("feedback", name, student) / f"{name}.html").exists()
    ]
    if not students:
        raise ClassroomError(f"assignment must have pages; got none of {name!r}: run `feedback`")
    names = []
    try:
        with ZipFile(path, "w", ZIP_DEFLATED) as archive:
            for student in students:
                page = course.place("feedback", name, student) / f"{name}.html"
                names.append(_prefix(course, name, student) + page.name)
                archive.writestr(names[-1], whole(page))
    except OSError as error:
        raise ClassroomError(
            f"zip must be a file that can be written; got {path} ({error.strerror})"
        ) from None
    return names


def whole(page: Path) -> str:
    """Return a page with the script that stands beside it in it."""
    text, beside = page.read_text("utf8"), page.with_name("tex-svg.js")
    if SCRIPT not in text or not beside.exists():
        return text
    script = beside.read_text("utf8").replace("</script", "<\\/script")
    # At the end, where a script without an address runs when all is there, as `defer` does.
    text = text.replace(SCRIPT, "", 1)
    head, end, tail = text.rpartition("</body>")
    return f"{head}<script>{script}</script>\n{end}{tail}"


def _prefix(course: Course, name: str, student: str) -> str:
    """Return what the platform wants before the name of the page."""
    known = origin(course, name, student)
    prefix = str(known.get("prefix") or "")
    if known.get("platform") == "Moodle":  # "Ada_7_assignsubmission_file_/" or without the /
        return prefix if prefix.endswith("/") else f"{prefix.rstrip('_')}_/"
    return prefix if known.get("platform") == "Canvas" else f"{student}/"
