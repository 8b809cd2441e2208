"""Read what was handed in, and put back each cell that is not the student's to change."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

LARGEST = 20_000_000
SETTINGS = ("points", "grade", "locked", "solution")


class UnreadableError(Exception):
    """What was handed in is no notebook; the message says why."""


def settings(cell: NotebookNode) -> dict[str, Any]:
    """Return what nbgrader knows of a cell, {} where it knows nothing."""
    found = cell.metadata.get("nbgrader")
    return found if isinstance(found, dict) else {}


def grade_id(cell: NotebookNode) -> str | None:
    """Return the name nbgrader gave a cell, or None."""
    name = settings(cell).get("grade_id")
    return name if isinstance(name, str) else None


def is_answer(cell: NotebookNode) -> bool:
    """Tell whether a cell is the student's to write."""
    return bool(settings(cell).get("solution"))


def is_test(cell: NotebookNode) -> bool:
    """Tell whether a cell holds the tests of a question."""
    known = settings(cell)
    return cell.cell_type == "code" and bool(known.get("grade")) and not known.get("solution")


def read(path: Path) -> NotebookNode:
    """Read a notebook, or say in one sentence why that is impossible.

    Raises
    ------
    UnreadableError
        The file is too large, no JSON, or JSON but no notebook.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise UnreadableError(f"{path.name} is too large: {size / 1e6:.0f} MB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old notebooks lack the ids of cells
            text = path.read_text("utf8")
            json.loads(text)
            notebook = nbformat.reads(text, as_version=4)
            nbformat.validate(notebook)
    except json.JSONDecodeError:
        raise UnreadableError(f"{path.name} is not JSON, hence no notebook") from None
    except UnicodeDecodeError:
        raise UnreadableError(f"{path.name} is no text, hence no notebook") from None
    except Exception as error:  # nbformat fails in many ways on what is no notebook
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UnreadableError(f"{path.name} is no valid notebook: {reason}") from None
    return notebook


def restore(submitted: NotebookNode, release: NotebookNode) -> tuple[NotebookNode, list[str]]:
    """Build the notebook that is graded: the release's cells, with the student's answers.

    Each named cell of the release is there once, in its order. Answers are the student's; all else
    is the release's. Cells that the student added keep their place among the others. Of two copies
    of an answer the last counts, as in nbgrader; the first becomes an ordinary cell.

    Returns
    -------
    notebook
        With no outputs.
    remarks
        One sentence for each thing that was not as released.
    """
    known = {name: cell for cell in release.cells if (name := grade_id(cell)) is not None}
    last = {grade_id(cell): index for index, cell in enumerate(submitted.cells)}
    remarks: list[str] = []
    found: dict[str, NotebookNode] = {}
    added: dict[str | None, list[NotebookNode]] = defaultdict(list)
    anchor = None
    for index, cell in enumerate(submitted.cells):
        name = grade_id(cell)
        if name in known and last[name] == index:
            found[name] = cell
            anchor = name
            continue
        if name in known:
            remarks.append(f"Cell {name!r} is there more than once; the last one counts.")
        elif name is not None:
            remarks.append(f"A cell has the unknown id {name!r}; it runs, but answers no question.")
        if name not in known or is_answer(known[name]):
            added[anchor].append(_plain(cell))

    cells, waiting = [], added[None]
    for cell in release.cells:
        name = grade_id(cell)
        if name is None:
            continue  # not locked: the student's own copy of it is among the added ones
        if name not in found:
            remarks.append(f"Cell {name!r} was missing; the released one was put back.")
            cells.append(_released(cell))
            continue
        cells += waiting
        waiting = added[name]
        cells.append(_answered(cell, found[name], remarks))
    cells += waiting
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index}"
    restored = nbformat.v4.new_notebook(cells=cells, metadata=release.metadata)
    return restored, list(dict.fromkeys(remarks))


def _answered(cell: NotebookNode, student: NotebookNode, remarks: list[str]) -> NotebookNode:
    """Return a cell of the release, with the student's answer if it is one."""
    name = grade_id(cell)
    if any(settings(cell).get(key) != settings(student).get(key) for key in SETTINGS):
        remarks.append(f"The settings of cell {name!r} were changed; the released ones count.")
    if student.cell_type != cell.cell_type:
        remarks.append(f"Cell {name!r} was turned from {cell.cell_type} into {student.cell_type}.")
    result = _released(cell)
    if is_answer(cell):
        result.source = student.source
        if cell.cell_type == "markdown" and "attachments" in student:
            result.attachments = student.attachments
    elif cell.source != student.source:
        remarks.append(f"The locked cell {name!r} was changed; the released one was put back.")
    return result


def _released(cell: NotebookNode) -> NotebookNode:
    """Copy a cell of the release."""
    result = nbformat.from_dict(cell)
    if result.cell_type == "code":
        result.update(outputs=[], execution_count=None)
    return result


def _plain(cell: NotebookNode) -> NotebookNode:
    """Copy a cell of the student, without its metadata and outputs."""
    result = _released(cell)
    result.metadata = NotebookNode()
    return result
