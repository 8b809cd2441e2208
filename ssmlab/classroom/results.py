"""Give results back: a page for each student, and one table for the instructor."""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssmlab.classroom.course import Course, ask

COLUMNS = ("assignment", "student", "question", "points", "possible", "total", "late", "by_hand")
# nbgrader's pages show the hidden tests, and load MathJax from the network.
PAGES: dict[str, Any] = {
    "GenerateFeedback": {
        "preprocessors": [
            "nbgrader.preprocessors.GetGrades",
            "nbgrader.preprocessors.ClearHiddenTests",
            "nbgrader.preprocessors.ClearMarkScheme",
            "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
        ]
    },
    "ClearHiddenTests": {"enforce_metadata": False},
    "ClearMarkScheme": {"enforce_metadata": False},
    "HTMLExporter": {"sanitize_html": True, "embed_images": False},
}
REMOTE = re.compile(
    r"<script[^>]*\bsrc\s*=\s*[\"']?(?:https?:)?//[^>]*>\s*</script>", re.IGNORECASE
)
OLD_MATHJAX = re.compile(
    r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->", re.DOTALL
)
MATHJAX = r"""<script>
window.MathJax = {tex: {inlineMath: [["$", "$"], ["\\(", "\\)"]]}};
</script>
<script src="tex-svg.js" defer></script>"""
# The browser itself sees to it that a page loads nothing, whatever a student's output holds.
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; font-src data:; script-src {scripts}\">"
)


def feedback(course: Course, name: str, student: str) -> Path:
    """Write the page of one student: answers, points, comments, and what the checks said.

    It holds no hidden test and no solution, and needs no network.
    """
    ask(course.nbgrader(**PAGES).generate_feedback, name, student)
    page = course.place("feedback", name, student) / f"{name}.html"
    mathjax = _mathjax()
    text = OLD_MATHJAX.sub("", page.read_text("utf8"))
    text = REMOTE.sub("", text)
    scripts = "'none'"
    if mathjax is not None:
        _share(mathjax, page.with_name("tex-svg.js"))
        scripts = "'unsafe-inline' 'self' file:"
        text = text.replace("</head>", f"{MATHJAX}\n</head>", 1)
    text = text.replace("<head>", f"<head>\n{POLICY.format(scripts=scripts)}", 1)
    page.write_text(text, "utf8")
    return page


def _mathjax() -> Path | None:
    """Find MathJax in one file, if the package that brings it is installed."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "static" / "mathjax" / "tex-svg.js"


def _share(file: Path, place: Path) -> None:
    """Put a file beside the page, without using its space again where that is possible."""
    place.unlink(missing_ok=True)
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def export(course: Course, names: list[str]) -> list[list[Any]]:
    """Return the table of points: `COLUMNS`, then a row for each student and question.

    `points` is empty while a person has to mark the question; `total` is the sum of what is marked,
    for the whole assignment; `late` is in seconds.
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
