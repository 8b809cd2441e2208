"""The four assignments of the book, graded: each mistake costs the points of its question."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ssm_classroom.course import Course
from ssm_classroom.feedback import feedback
from ssm_classroom.grade import grade
from ssm_classroom.notebook import grade_id, read
from ssm_classroom.release import release
from tiny import QUIET, bare, hand_in, hidden_lines, questions, released

pytestmark = QUIET
BOOK = Path(__file__).resolve().parents[2] / "book" / "assignments"
MISTAKES = {
    "01_discretization": {
        "bilinear": (
            "np.linalg.solve(I - dt / 2 * A, I + dt / 2 * A)",
            "np.linalg.solve(I + dt / 2 * A, I - dt / 2 * A)",
        ),
        "convolve": ("n = L + len(K_bar) - 1", "n = L"),
    },
    "02_hippo": {
        "legs": (
            "A = -np.tril(np.outer(root, root), -1) - np",
            "A = np.tril(np.outer(root, root), -1) + np",
        )
    },
    "03_s4": {"resolvent": ("P.conj()", "P")},
    "04_selectivity": {
        "coefficients": (
            'held if rule == "zoh" else kick',
            'kick if rule == "zoh" else held',
        )
    },
}


@pytest.fixture(scope="module")
def term(tmp_path_factory: pytest.TempPathFactory, nbgraders_version: Callable) -> Course:
    """A course with the assignments of the book."""
    made = Course(tmp_path_factory.mktemp("term"))
    shutil.copytree(BOOK / "source", made.root / "source")
    shutil.copy(BOOK / "nbgrader_config.py", made.root)
    return made


def test_each_assignment_of_the_book_is_here(term):
    assert term.assignments == list(MISTAKES)


@pytest.mark.parametrize("name", MISTAKES)
def test_assignments_of_the_book(term, name):
    release(term, name)
    source = read(term.notebook("source", name))
    hand_in(term, "reference", source, name)
    if name == "01_discretization":  # the others are as empty
        hand_in(term, "untouched", released(term, name), name)
    for question, (right, wrong) in MISTAKES[name].items():
        answer = next(one for one in source.cells if grade_id(one) == f"{question}_answer")
        assert right in answer.source
        answer.source = answer.source.replace(right, wrong)
    hand_in(term, "mistaken", source, name)
    outcomes = {one.student: one for one in grade(term, name, jobs=os.cpu_count() or 1)}
    points = {
        one.metadata.nbgrader.grade_id: one.metadata.nbgrader.points for one in questions(source)
    }
    full = sum(points.values())
    lost = sum(points[question] for question in MISTAKES[name])
    assert full >= 16
    assert outcomes["reference"].score == full
    assert outcomes["mistaken"].score == full - lost
    assert "untouched" not in outcomes or outcomes["untouched"].score == 0
    assert outcomes["reference"].by_hand > 0
    texts = [term.notebook("release", name).read_text()]
    if "untouched" in outcomes:
        texts.append(feedback(term, name, "untouched").read_text())
    for secret in hidden_lines(read(term.notebook("source", name))):
        assert not any(re.sub(r"\W", "", secret) in bare(text) for text in texts)
