"""Give back: a page for each student, which needs no network and shows no hidden test."""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ssm_classroom.course import Course, ask

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
