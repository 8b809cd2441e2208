"""A copied answer is found, however it was dressed up; an own one is not."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssm_classroom.__main__ import main
from ssm_classroom.notebook import grade_id, is_answer, read
from ssm_classroom.similarity import SOLUTION, nodes, similarity
from tiny import QUIET, answered, hand_in

pytestmark = QUIET
BOOK = Path(__file__).resolve().parents[2] / "book" / "assignments"
MINE = """def double(x):
    total = 0 * x
    for k in range(2):
        if k >= 0:
            total = total + np.asarray(x)
    return total"""
COPIED = """def double(value):
    # all by myself
    'Doubles.'
    result=0*value
    for index in range(2):
        if (index >= 0):
            result = (result
                      + np.asarray(value))
    return result"""
OWN = """def double(x):
    pair = np.stack([x, x])
    return pair.sum(axis=0) if len(pair) == 2 else np.zeros(np.shape(x), dtype=float)"""


def test_a_copy_is_found_and_an_own_answer_is_not(mine, course, capsys):
    for student, text in (("ada", MINE), ("ben", COPIED), ("eve", OWN), ("zoe", "def (")):
        hand_in(mine, student, answered(course, text))
    hand_in(mine, "yan", b"no notebook")
    (pair,) = similarity(mine, "tiny")
    assert (pair.first, pair.second, pair.part) == ("ada", "ben", 1)
    assert pair.same == ("first_answer", "second_answer")
    assert main(["similarity", "--course", str(mine.root), "tiny"]) == 0
    assert "100%  ada and ben" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["01_discretization", "04_selectivity"])
def test_the_solution_is_known_in_other_words(mine, name):
    source = read(BOOK / "source" / name / f"{name}.ipynb")
    mine.place("source", name).mkdir()
    mine.notebook("source", name).write_bytes(
        (BOOK / "source" / name / f"{name}.ipynb").read_bytes()
    )
    for cell in source.cells:
        if is_answer(cell) and cell.cell_type == "code":
            text = re.sub(r"### (BEGIN|END) SOLUTION", "", cell.source)
            cell.source = ast.unparse(Renamed().visit(ast.parse(text)))
    hand_in(mine, "ada", source, name)
    (pair,) = similarity(mine, name)
    assert (pair.first, pair.second) == ("ada", SOLUTION)
    assert pair.part == 1
    answers = [c for c in source.cells if is_answer(c) and c.cell_type == "code"]
    assert list(pair.same) == [grade_id(cell) for cell in answers]


class Renamed(ast.NodeTransformer):
    """Gives each variable another name."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(f"q_{node.id}", node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(f"q_{node.arg}")


NAME = st.from_regex(r"[a-z_][a-z_0-9]{0,6}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name) and not hasattr(builtins, name)
)


@given(st.lists(NAME, min_size=3, max_size=3, unique=True), st.integers(0, 3))
def test_names_and_layout_change_nothing_and_numbers_do(names, number):
    def program(x: str, total: str, k: str, times: int, space: str) -> str:
        return (
            f"def f({x}):\n{space}{total} = {times} * {x}\n{space}return [{total} for {k} in {x}]"
        )

    first = nodes(program("x", "total", "k", 2, "    "))
    assert nodes(program(*names, 2, "  ")) == first
    assert (nodes(program(*names, number, " ")) == first) == (number == 2)


def test_a_program_that_python_cannot_read_has_no_nodes():
    assert nodes("x = " + "(" * 3000 + ")" * 3000) == nodes("\0") == nodes("def (") == ()
