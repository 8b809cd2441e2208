"""A tiny assignment, and the ways to answer it and to hand it in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ssm_classroom import sandbox
from ssm_classroom.course import Course
from ssm_classroom.notebook import grade_id, is_test, read
from ssm_classroom.sandbox import Limits

# nbgrader and what it stands on warn of their own futures.
QUIET = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LIMITS = Limits(cell=1.5, notebook=30, memory=3 * 2**30, output=200_000)
needs_sandbox = pytest.mark.skipif(bool(sandbox.available()), reason=sandbox.warning())
FIRST, SECOND = "def double(x):\n    return 2 * x", "def half(x):\n    return x / 2"
WRONG = "def double(x):\n    return 3 * x"


def cell(kind: Callable, source: str, name: str, **settings: object) -> NotebookNode:
    known = {"schema_version": 3, "grade_id": name, "task": False, "grade": False}
    known |= {"locked": False, "solution": False, **settings}
    return kind(source, metadata={"nbgrader": known})


def solution(name: str, source: str) -> NotebookNode:
    head, _, body = source.partition("\n")
    text = f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
    return cell(new_code_cell, text, name, solution=True)


def checks(name: str, public: str, hidden: str) -> NotebookNode:
    text = f"{public}\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
    return cell(new_code_cell, text, name, grade=True, locked=True, points=2)


HIDDEN_1 = """x = np.random.default_rng(1234567).normal(size=7)
np.testing.assert_allclose(double(x), 2 * x)"""
HIDDEN_2 = "assert half(7.0) == 3.5 and half(np.float64(1)) == 0.5"
SOURCE = new_notebook(
    cells=[
        cell(new_markdown_cell, "Double and halve, $2x$ and $x/2$.", "task", locked=True),
        cell(new_code_cell, "import numpy as np", "setup", locked=True),
        solution("first_answer", FIRST),
        checks("first", "assert double(3) == 6, 'twice 3 is 6'", HIDDEN_1),
        solution("second_answer", SECOND),
        checks("second", "assert half(4.0) == 2.0", HIDDEN_2),
        cell(
            new_markdown_cell,
            "### BEGIN SOLUTION\nBecause.\n### END SOLUTION",
            "why",
            grade=True,
            solution=True,
            points=1,
        ),
    ],
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
)


def released(course: Course, name: str = "tiny") -> NotebookNode:
    return read(course.notebook("release", name))


def answered(course: Course, first: str = FIRST, second: str = SECOND) -> NotebookNode:
    """The released notebook with answers in it."""
    notebook = released(course)
    for one in notebook.cells:
        one.source = {"first_answer": first, "second_answer": second}.get(grade_id(one), one.source)
    return notebook


def hand_in(
    course: Course, student: str, content: NotebookNode | bytes, name: str = "tiny"
) -> None:
    place = course.place("submitted", name, student)
    place.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (place / f"{name}.ipynb").write_bytes(raw)


def without(notebook: NotebookNode, name: str) -> NotebookNode:
    notebook.cells = [one for one in notebook.cells if grade_id(one) != name]
    return notebook


def edited(notebook: NotebookNode, name: str, **changes: object) -> NotebookNode:
    for one in notebook.cells:
        if grade_id(one) == name:
            for key, value in changes.items():
                target = one if key == "source" else one.metadata.nbgrader
                target[key] = value
    return notebook


def doubled(notebook: NotebookNode, name: str) -> NotebookNode:
    copy = next(one for one in notebook.cells if grade_id(one) == name)
    notebook.cells.append(nbformat.from_dict({**copy, "id": "copy", "source": WRONG}))
    return notebook


def questions(notebook: NotebookNode) -> list[NotebookNode]:
    return [one for one in notebook.cells if is_test(one)]


def hidden_lines(source: NotebookNode) -> set[str]:
    """The lines of solutions and hidden tests that stand nowhere else in the source."""
    secret, shown = [], []
    for one in source.cells:
        inside = False
        for line in map(str.strip, one.source.split("\n")):
            if "### BEGIN" in line:
                inside = True
            elif "### END" in line:
                inside = False
            else:
                (secret if inside else shown).append(line)
    return {line for line in secret if len(line) > 15} - set(shown)


def bare(text: str) -> str:
    """Letters and digits only, of HTML or of JSON."""
    return re.sub(r"<[^>]+>|&[#\w]+;|\\n|\W", "", text)
