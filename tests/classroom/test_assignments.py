"""The assignments: each question stands alone, and each known mistake costs it and says why.

That the classroom marks whole notebooks so is in test_term.py.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

SOURCE = Path(__file__).resolve().parents[2] / "book" / "assignments" / "source"
GUIDE = SOURCE.parents[1] / "instructors_guide.md"
NAMES = sorted(path.name for path in SOURCE.iterdir())


@cache
def cells(name: str) -> list[SimpleNamespace]:
    notebook = nbformat.read(SOURCE / name / f"{name}.ipynb", as_version=4)
    return [
        SimpleNamespace(kind=cell.cell_type, text=cell.source, **cell.metadata.nbgrader)
        for cell in notebook.cells
        if "nbgrader" in cell.metadata
    ]


def text(name: str, grade_id: str) -> str:
    return next(cell.text for cell in cells(name) if cell.grade_id == grade_id)


def graded(name: str) -> list[SimpleNamespace]:
    return [cell for cell in cells(name) if cell.grade]


QUESTIONS = [(name, c.grade_id) for name in NAMES for c in graded(name) if c.kind == "code"]


def mark(name: str, question: str, answer: str, years: int = 0) -> None:
    """Run one question: the given cell, an answer, and the test cell; nothing else."""
    given, changes = re.subn(
        r"^TERM = 20\d\d", rf"\g<0> + {years}", text(name, "setup"), flags=re.M
    )
    assert changes == 1
    namespace: dict[str, object] = {}
    exec(given, namespace)
    exec(answer, namespace)
    exec(text(name, question), namespace)


@pytest.mark.parametrize("years", [0, 1])
@pytest.mark.parametrize(("name", "question"), QUESTIONS)
def test_question_stands_alone_in_this_term_and_the_next(name, question, years):
    mark(name, question, text(name, f"{question}_answer"), years)


# (assignment, question): [(text of the solution, text of the mistake, words of the message)]
MISTAKES = {
    ("01_discretization", "zoh"): [
        ("dt * phi1 * b", "dt * b", "That is exponential Euler"),
        ("np.exp(z), dt", "1 + z, dt", "would be Euler's rule"),
        (
            "np.where(z == 0, 1.0, np.expm1(safe) / safe)",
            "np.expm1(z) / z",
            "Where do you divide by a?",
        ),
        ("np.expm1(safe) / safe", "(np.exp(safe) - 1) / safe", "See np.expm1"),
    ],
    ("01_discretization", "bilinear"): [
        (
            "solve(I - dt / 2 * A, I + dt / 2 * A)",
            "solve(I + dt / 2 * A, I - dt / 2 * A)",
            "upside down",
        ),
        ("np.linalg.solve(I - dt / 2 * A, dt * B)", "dt * B", "B_bar is dt B = 0.5"),
        (
            "np.linalg.solve(I - dt / 2 * A, I + dt / 2 * A)",
            "(I + dt / 2 * A) / (I - dt / 2 * A)",
            "A cart, position",
        ),
    ],
    ("01_discretization", "recurrence"): [
        ("y[k] = C @ h", "y[k] = C @ (h - B_bar * x[k])", "one step late"),
        ("np.empty(len(x)), h0", "np.empty(len(x)), 0 * h0", "No input, h_(-1) = 8"),
        ("A_bar @ h", "A_bar.T @ h", "Wrong for other sizes"),
    ],
    ("01_discretization", "kernel"): [
        ("K_bar[j] = C @ h", "K_bar[j] = C @ (A_bar @ h)", "has not been multiplied by A_bar yet"),
        ("return K_bar", "return K_bar[::-1]", "in reverse order"),
        ("h = A_bar @ h", "h = h @ A_bar", "not transposed?"),
    ],
    ("01_discretization", "convolve"): [
        ("n = L + len(K_bar) - 1", "n = L", "the future changes the past"),
        ("n = L + len(K_bar) - 1", "n = 2 * L", "longer than the signal?"),
        ("rfft(K_bar, n), n)", "rfft(K_bar, n))", "begins 8, 20, 34, 49"),
    ],
    ("01_discretization", "transfer_function"): [
        ("I - A_bar / p", "p * I - A_bar", "the formula of control theory"),
        ("I - A_bar / p", "I - A_bar * p", "z^-1, not z"),
    ],
    ("02_hippo", "legs"): [
        (
            "-np.tril(np.outer(root, root), -1) - np.diag",
            "np.tril(np.outer(root, root), -1) + np.diag",
            "Where is the minus sign?",
        ),
        ("A = -np.tril", "A = np.tril", "Below the diagonal"),
        ("np.arange(N) + 1.0", "np.arange(N) + 0.0", "Entries count from n = 0"),
        ("return A, root", "return A.T, root", "Is A transposed?"),
    ],
    ("02_hippo", "basis"): [
        ("np.sqrt(2 * n + 1) * P", "P", "the factor that makes the square"),
        ("2 * r[:, None] - 1", "r[:, None]", "do you use 2r - 1?"),
        ("np.sqrt(2 * n + 1) * P", "(np.sqrt(2 * n + 1) * P).T", "one row for each point"),
    ],
    ("02_hippo", "project"): [
        ("x @ np.diff", "x[::-1] @ np.diff", "is the past reversed?"),
        ("+ 1) / 2 *", "+ 1) *", "c_0 is the mean"),
    ],
    ("02_hippo", "exact_step"): [
        ("np.log((k + 1) / k)", "1 / k", "it changes during the step"),
        ("np.log((k + 1) / k)", "1 / (k + 1)", "it changes during the step"),
        (" + step[:N, N] * x", "", "N = 1 is the mean"),
    ],
    ("02_hippo", "fast_step"): [
        ("step = 1 / (k + 1)", "step = 1 / k", "Both c and 1/t belong to the end"),
        ("total += root * new[n]", "total += root * c[n]", "the NEW coefficients"),
    ],
    ("02_hippo", "recall"): [
        ("np.empty(lags), B_bar", "np.empty(lags), A_bar @ B_bar", "Does lag 0 begin with B_bar?"),
        ("P + variance * np.eye(len(P))", "P", "The noise has no effect"),
        ("variance * np", "variance**2 * np", "squared once more?"),
    ],
    ("03_s4", "split"): [
        ("p = np.sqrt(-np.diag(A) - 0.5)", "p = -np.diag(A) - 0.5", "You return p^2"),
        ("/ 2 + np.outer", "/ 2 - np.outer", "is a sign lost"),
    ],
    ("03_s4", "modes"): [
        ("-0.5 + 1j * w", "1j * w", "Then it is S that you diagonalise"),
        ("-1j * S", "1j * S", "If S comes out transposed"),
    ],
    ("03_s4", "truncate"): [
        ("C - C @ np.linalg.matrix_power(A_bar, length)", "C", "You return C."),
        ("(A_bar, length)", "(A_bar, length - 1)", "begins with l = 3"),
        ("np.linalg.matrix_power(A_bar, length)", "A_bar**length", "Is the power a matrix power"),
    ],
    ("03_s4", "diagonal_kernel"): [
        ("return 2 *", "return", "the other half of the pair"),
        ("dt * b / (1 - dt / 2 * a)", "dt * b", "b_bar is dt b"),
        ("(1 + dt / 2 * a) / (1 - dt / 2 * a)", "np.exp(dt * a)", "would be zero-order hold"),
        ("c * b_bar", "c.conj() * b_bar", "nothing is conjugated"),
    ],
    ("03_s4", "resolvent"): [
        (
            "cauchy @ (P.conj() * B), cauchy @ (P.conj() * P)",
            "cauchy @ (P * B), cauchy @ (P * P)",
            "is P conjugated",
        ),
        ("CB - CP", "CB + CP", "so R is 6 / (g + 2)"),
        ("C * B", "C.conj() * B", "compare with np.linalg.solve"),
    ],
    ("03_s4", "s4_kernel"): [
        ("np.fft.ifft(K_hat)", "1 / length * np.fft.fft(K_hat)", "backwards in time"),
        (
            "cauchy @ (P.conj() * B), cauchy @ (P.conj() * P)",
            "cauchy @ (P * B), cauchy @ (P * P)",
            "modes of any phase",
        ),
        ("CB - c * CP * PB / (1 + c * PP)", "CB", "the taps are (1/3)^(l+1)"),
        ("np.exp(1j * angle) * (", "np.exp(1j * angle) / c * c * (", "For even lengths"),
    ],
    ("04_selectivity", "coefficients"): [
        (
            'held if rule == "zoh" else kick',
            'kick if rule == "zoh" else held',
            "the two rules are swapped",
        ),
        ("np.expm1(z) / z", "(np.exp(z) - 1) / z", "loses digits"),
    ],
    ("04_selectivity", "selective_scan"): [
        ("y[t] = C[t] @ h", "y[t] = C[t] @ (h - B_bar[t] * x[t])", "A first output of 0"),
        ("if reset[t] else", "if t and reset[t - 1] else", "it belongs before that step"),
        ("B_bar[t] * x[t]", "B_bar[t] * x[t] * (not reset[t])", "forget the new sample"),
    ],
    ("04_selectivity", "combine"): [
        (
            "later[0] * earlier[1] + later[1]",
            "earlier[0] * later[1] + earlier[1]",
            "the other order",
        ),
        ("later[0] * earlier[1] + later[1]", "earlier[1] + later[1]", "= 0.45 h + 2.9"),
    ],
    ("04_selectivity", "mixing_matrix"): [
        (
            "np.exp(exponent)",
            "np.exp(between[..., None] * A) * causal[..., None]",
            "M is not finite",
        ),
        ("time[:, None] - time", "time[:, None] - time + dt", "the newest sample has not decayed"),
        (
            "np.where(causal[..., None], between[..., None] * A, -np.inf)",
            "between[..., None] * A",
            "output i would read later inputs",
        ),
    ],
    ("04_selectivity", "doubling"): [
        ("new_a, new_b = a.copy(), b.copy()", "new_a, new_b = a, b", "Entry 0 is b itself"),
        (
            "a[distance:] * b[:-distance] + b[distance:]",
            "a[:-distance] * b[distance:] + b[:-distance]",
            "Round 1 combines neighbours",
        ),
    ],
    ("04_selectivity", "backward"): [
        ("a[t + 1] * total[t + 1]", "0", "the recurrence has to be followed backwards"),
        ("a[t + 1] * total[t + 1]", "a[t] * total[t + 1]", "(you use a_1)"),
        ("total * before", "total * h", "by the state before it"),
    ],
}
CASES = [(*key, *case) for key, cases in MISTAKES.items() for case in cases]


@pytest.mark.parametrize(("name", "question", "right", "wrong", "words"), CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::numpy.exceptions.ComplexWarning")
def test_mistake_is_found_and_named(name, question, right, wrong, words):
    answer = text(name, f"{question}_answer")
    assert answer.count(right) == 1
    with pytest.raises(AssertionError, match=re.escape(words)):
        mark(name, question, answer.replace(right, wrong))


@pytest.mark.parametrize("name", NAMES)
def test_assignment_is_what_the_guide_says(name):
    """The points and minutes in the headings are those of the cells, and of the guide's table."""
    headings = "\n".join(cell.text for cell in cells(name) if cell.grade_id.endswith("_task"))
    found = re.findall(r"^## Question \d\. .*\((\d+) points, (\d+) minutes\)$", headings, re.M)
    points, minutes = zip(*(map(int, pair) for pair in found), strict=True)
    assert [cell.points for cell in graded(name)] == list(points)
    assert [cell.grade_id for cell in graded(name)][-1].endswith("_explained")
    row = next(line for line in GUIDE.read_text("utf8").splitlines() if f"{name}.zip" in line)
    numbers = [int(cell) for cell in row.split("|") if cell.strip().isdigit()]
    assert numbers == [len(points), sum(points[:-1]), points[-1], sum(minutes)]


@pytest.mark.parametrize("name", NAMES)
def test_cells_say_what_nbgrader_needs(name):
    ids = [cell.grade_id for cell in cells(name)]
    assert len(set(ids)) == len(ids)
    for cell in cells(name):
        assert cell.schema_version == 3
        assert cell.locked != cell.solution
        assert ("### BEGIN SOLUTION" in cell.text) == bool(cell.solution)
        assert ("### BEGIN HIDDEN TESTS" in cell.text) == (bool(cell.grade) and not cell.solution)


@pytest.mark.parametrize("me", ["reference", "20260317", "ada@uni.example", "Zoë"])
def test_a_figure_of_ones_own_shows_what_the_model_answer_says(me):
    name = "01_discretization"
    space: dict = {}
    for one in ("setup", "zoh_answer", "bilinear_answer", "recurrence_answer"):
        exec(text(name, one), space)
    exec(text(name, "orders_data"), space)
    nobody = space["a"]
    space["ME"] = me
    exec(text(name, "orders_data"), space)
    assert -2 < space["a"] < -1
    assert space["a"] != nobody
    one, errors = np.ones(1), {}
    a, T = space["a"], space["T"]
    for x, exact in (("staircase", space["EXACT_STAIRCASE"]), ("sine", space["EXACT_SINE"])):
        for n in (256, 512):
            samples = space[x](T / n * np.arange(1, n + 1))
            a_bar, b_bar = space["zoh"](np.array([a]), one, T / n)
            rules = {"zoh": (np.diag(a_bar), b_bar)}
            rules["bilinear"] = space["bilinear"](np.array([[a]]), one, T / n)
            for rule, (A_bar, B_bar) in rules.items():
                y = space["recurrence"](A_bar, B_bar, one, samples, np.zeros(1))
                errors[rule, x, n] = abs(y[-1] - exact)
    ratio = {key[:2]: errors[key] / errors[*key[:2], 512] for key in errors if key[2] == 256}
    assert errors["zoh", "staircase", 512] < 1e-14
    assert ratio["bilinear", "staircase"] == pytest.approx(4, rel=0.01)
    assert ratio["zoh", "sine"] == pytest.approx(2, rel=0.01)
    assert ratio["bilinear", "sine"] == pytest.approx(2, rel=0.01)
