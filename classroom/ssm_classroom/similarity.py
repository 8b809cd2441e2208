"""Whose answers are alike: programs compared as trees, without names, comments and layout.

Each answer becomes the sequence of the nodes of its syntax tree, in which a variable is only the
number of its first appearance. Runs of ``RUN`` nodes are its fingerprints. What was released, and
what many in the class have, says nothing and is left out; the rest is compared pair by pair.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from nbformat import NotebookNode

from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.notebook import UnreadableError, grade_id, is_answer, read

RUN = 8  # nodes in a fingerprint
FEWEST = 12  # fingerprints that two must share to be named
SOLUTION = "the solution"
MARK = re.compile(r"^\s*### (BEGIN|END) SOLUTION.*$|^\s*[%!].*$", re.MULTILINE)


@dataclass(frozen=True)
class Alike:
    """Two whose answers share ``shared`` fingerprints, ``part`` of the shorter one's."""

    first: str
    second: str
    part: float
    shared: int
    same: tuple[str, ...]  # answers whose trees are equal

    def __str__(self) -> str:
        line = f"{self.part:4.0%}  {self.first} and {self.second}, {self.shared} places"
        return line + (f"; the same tree in {', '.join(self.same)}" if self.same else "")


def similarity(course: Course, name: str, least: float = 0.5) -> list[Alike]:
    """Compare all submissions of an assignment with each other and with the solution.

    Parameters
    ----------
    course : Course
        The course folder.
    name : str
        An assignment in it.
    least : float
        The part of the shorter answers that two must share to be listed.

    Returns
    -------
    list of Alike
        Most alike first.

    Raises
    ------
    ClassroomError
        Nothing was handed in.
    """
    students = course.students("submitted", course.check(name))
    if not students:
        raise ClassroomError(
            f"assignment must be handed in; got no submission of {name!r}: run `collect` first"
        )
    source = read(course.notebook("source", name)).cells
    locked = {grade_id(cell) for cell in source if not is_answer(cell)} - {None}
    answers = {s: _read(course.notebook("submitted", name, s), locked) for s in students}
    answers[SOLUTION] = _read(course.notebook("source", name), locked)
    release = course.notebook("release", name)
    given = _prints(_read(release, locked) if release.exists() else {})
    found = {who: _prints(mine) for who, mine in answers.items()}
    count = Counter(p for who in students for p in found[who])
    many = max(5, len(students) // 5)
    common = given | {p for p, number in count.items() if number > many}
    rare = {who: marks - common for who, marks in found.items()}
    pairs = [_alike(a, b, rare, answers) for a, b in combinations([*students, SOLUTION], 2)]
    listed = [pair for pair in pairs if pair.part >= least and pair.shared >= FEWEST]
    return sorted(listed, key=lambda pair: (-pair.part, -pair.shared, pair.first, pair.second))


def _alike(
    first: str,
    second: str,
    rare: dict[str, set[tuple[str, ...]]],
    answers: dict[str, dict[str, tuple]],
) -> Alike:
    shared = len(rare[first] & rare[second])
    shorter = min(len(rare[first]), len(rare[second])) or 1
    same = (q for q, tree in answers[first].items() if tree and answers[second].get(q) == tree)
    return Alike(first, second, shared / shorter, shared, tuple(same))


def _read(path: Path, locked: set[str | None]) -> dict[str, tuple[str, ...]]:
    """Return the tree of each cell of a student's own in a notebook; {} where there is none."""
    try:
        cells: list[NotebookNode] = read(path).cells
    except (UnreadableError, OSError):
        return {}
    return {
        grade_id(cell) or f"cell {number}": nodes(cell.source)
        for number, cell in enumerate(cells)
        if cell.cell_type == "code" and grade_id(cell) not in locked
    }


def _prints(trees: dict[str, tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return the fingerprints of the trees of one student."""
    return {tree[k : k + RUN] for tree in trees.values() for k in range(len(tree) - RUN + 1)}


def nodes(source: str) -> tuple[str, ...]:
    """Return the nodes of a program without what is easily changed; () where it is none.

    Examples
    --------
    >>> nodes("lambda x: 2 * x") == nodes("lambda second : 2*second  # mine")
    True
    >>> nodes("2 * x") == nodes("x * 2")
    False
    """
    try:
        tree = ast.parse(MARK.sub("", source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    names: dict[str, str] = {}
    return tuple(_label(node, names) for node in _walk(tree))


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Go through a tree from left to right, without docstrings and annotations."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        children = [
            child
            for field, value in ast.iter_fields(node)
            if field not in ("annotation", "returns", "ctx")
            for child in (value if isinstance(value, list) else [value])
            if isinstance(child, ast.AST) and not _is_text(child)
        ]
        waiting += reversed(children)


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is only a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _label(node: ast.AST, names: dict[str, str]) -> str:
    """Name a node: its kind, and of names only which it is."""
    kind = type(node).__name__
    if isinstance(node, ast.Name):
        return f"{kind} {names.setdefault(node.id, str(len(names)))}"
    if isinstance(node, ast.arg):
        return f"{kind} {names.setdefault(node.arg, str(len(names)))}"
    if isinstance(node, ast.Attribute):
        return f"{kind} {node.attr}"
    if isinstance(node, ast.Constant):
        return f"{kind} {node.value!r}"
    return kind
