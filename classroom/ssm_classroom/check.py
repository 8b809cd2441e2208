"""Check a notebook before handing it in: what a student runs on the own machine."""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from ssm_classroom.notebook import UnreadableError, grade_id, read, settings

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def check(path: Path) -> list[str]:
    """Run a notebook and its public checks; return what is wrong, one text for each thing.

    nbgrader runs and validates it; the student's own code runs as the student, without a sandbox.
    """
    if not path.exists():
        return [f"There is no file {path}."]
    try:
        notebook = read(path)
    except UnreadableError as error:
        return [f"{error}. Save it as a notebook (.ipynb), and do not edit it as text."]
    names = [name for cell in notebook.cells if (name := grade_id(cell)) is not None]
    if not names:
        return [f"{path.name} is no assignment: no cell of it has a name that nbgrader knows."]
    problems = [
        f"The cell {name!r} is there {number} times: keep one, or its last copy counts."
        for name, number in Counter(names).items()
        if number > 1
    ]
    if problems:
        return problems
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = _validate(path)
    for cell in results.get("type_changed", []):
        kinds = f"from {cell['new_type']} into {cell['old_type']}"
        problems.append(f"A cell was turned {kinds}: turn it back.\n{_indent(cell['source'])}")
    for cell in results.get("changed", []):
        problems.append(
            "A cell that is not yours to change was changed; in grading the original comes back. "
            f"Copy it from the assignment you were given.\n{_indent(cell['source'])}"
        )
    for cell in results.get("failed", []):
        name = _named(notebook, cell["source"])
        problems.append(f"{name}: {_reason(cell['raw_error'])}")
    return problems


def _validate(path: Path) -> dict[str, Any]:
    """Let nbgrader run the notebook and look at its cells."""
    from nbgrader.validator import Validator
    from traitlets.config import Config

    transport = "tcp" if sys.platform == "win32" else "ipc"  # which needs no port
    validator = Validator(config=Config({"KernelManager": {"transport": transport}}))
    validator.log.setLevel("CRITICAL")
    return validator.validate(str(path.resolve()))


def _named(notebook: Any, source: str) -> str:
    """Name the question of a graded cell, and its points."""
    for cell in notebook.cells:
        if cell.source.strip() == source and settings(cell).get("grade"):
            return f"Question {grade_id(cell)!r} ({settings(cell).get('points', 0):g} points)"
    return "A question"


def _reason(error: str) -> str:
    """Return the last words of a traceback: what the check has to say."""
    if "NotImplementedError" in error or "You did not provide a response" in error:
        return "there is no answer yet."
    lines = [line for line in COLOURS.sub("", error).strip().splitlines() if line.strip()]
    start = max(
        (i for i, line in enumerate(lines) if re.match(r"\w+(Error|Exception)?:", line)),
        default=len(lines) - 1,
    )
    text = " ".join(lines[start:]) if lines else "it failed without a word"
    return text.removeprefix("AssertionError: ")


def _indent(source: str) -> str:
    lines = source.strip().splitlines()[:3]
    return "\n".join(f"        {line}" for line in lines)
