"""A class of the classroom: honest, wrong, broken and hostile submissions, all made here."""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import shutil
import socket
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ssmlab.classroom import grading, judge, remote, sandbox
from ssmlab.classroom.__main__ import main
from ssmlab.classroom.check import check
from ssmlab.classroom.collect import collect
from ssmlab.classroom.course import Course, downloads
from ssmlab.classroom.notebook import grade_id, is_test, read, restore
from ssmlab.classroom.results import feedback
from ssmlab.classroom.sandbox import Limits

nbgrader = pytest.importorskip("nbgrader")

# nbgrader and what it stands on warn of their own futures.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
BOOK = Path(__file__).resolve().parents[1] / "book" / "assignments"
LIMITS = Limits(cell=4, notebook=30, memory=3 * 2**30, output=200_000)
needs_sandbox = pytest.mark.skipif(bool(sandbox.available()), reason=sandbox.warning())
FIRST, SECOND = "def double(x):\n    return 2 * x", "def half(x):\n    return x / 2"


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


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """Make a course with one tiny assignment, and release it."""
    made = Course(tmp_path_factory.mktemp("course"))
    made.place("source", "tiny").mkdir(parents=True)
    nbformat.write(SOURCE, made.notebook("source", "tiny"))
    made.release("tiny", due=None)
    return made


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


# Each hostile answer to the first question, the points it may have of 4, and what its line says.
WRONG = "def double(x):\n    return 3 * x"
REACH = """import socket, sys
said = ""
for reach in (
    lambda: open("COURSE/source/tiny/tiny.ipynb"),
    lambda: open("COURSE/gradebook.db"),
    lambda: open("COURSE/evil.txt", "w"),
    lambda: open(sys.prefix + "/evil.txt", "w"),
    lambda: socket.create_connection(("127.0.0.1", PORT), 2),
):
    try:
        reach()
        said += "reached! "
    except OSError as error:
        said += f"{type(error).__name__} {error.strerror} "
raise RuntimeError(said)
"""
ANSWERS: dict[str, tuple[str, float, str]] = {
    "right": (FIRST, 4, r"^$"),
    "wrong": (WRONG, 2, r"^$"),
    "knows only the public check": ("def double(x):\n    return 6", 2, r"^$"),
    "endless cell": ("while True:\n    pass", 2, "'first_answer' was interrupted after 4 s"),
    "endless function": (
        "def double(x):\n    while True:\n        pass",
        2,
        "A test that calls your code was interrupted after 4 s",
    ),
    "endless, and deaf": (
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True:\n    pass",
        0,
        "did not stop when it was interrupted",
    ),
    "exit": ("import os\nos._exit(0)", 0, "'first_answer' ended the kernel"),
    "exit in the function": (
        "import os\ndef double(x):\n    os._exit(0)",
        0,
        "A test that calls your code ended the kernel",
    ),
    "memory": ("import numpy as np\nhog = np.ones(2**33)", 2, "ended with .*MemoryError"),
    "endless output": (f"{FIRST}\nwhile True:\n    print('x' * 1000)", 4, r"wrote more than .* MB"),
    "reaches out": (
        f"{REACH}{FIRST}",
        2,
        "FileNotFoundError.*FileNotFoundError.*FileNotFoundError.*Read-only.*(unreachable|refused)",
    ),
    "leaves a process": (
        f"import subprocess\nsubprocess.Popen(['sleep', '98765'], start_new_session=True)\n{FIRST}",
        4,
        r"^$",
    ),
    "mends NumPy": (
        "import numpy as np, numpy.testing\n"
        "np.testing.assert_allclose = lambda *a, **k: None\n"
        f"np.allclose = np.all = np.array_equal = lambda *a, **k: True\n{WRONG}",
        2,
        r"^$",
    ),
    "mends Python": (
        "import builtins\n"
        "builtins.AssertionError = type('Fine', (Exception,), {})\n"
        f"builtins.abs = lambda x: 0\nbuiltins.__import__ = lambda *a, **k: None\n{WRONG}",
        0,
        r"",
    ),
    "mends IPython": (
        "get_ipython().run_cell = lambda *a, **k: None\n"
        f"get_ipython().showtraceback = lambda *a, **k: None\n{WRONG}",
        0,
        r"interrupted",
    ),
    "equals everything": (
        "class Same:\n"
        "    __eq__ = __le__ = __lt__ = lambda self, other: True\n"
        "    __hash__ = None\n"
        "    __sub__ = __rsub__ = __mul__ = lambda self, other: 0\n"
        "    def __array__(self, *a, **k):\n        import numpy\n        return numpy.zeros(7)\n"
        "def double(x):\n    return Same()",
        2,
        r"^$",
    ),
    "forges answers": (
        "import ssmlab.classroom.remote as r\n"
        "r.pack = lambda *a: {'array': ['|O8', [1], 'AAAAAAAAAAA=', False]}\n" + WRONG,
        0,
        r"",
    ),
    "asks the library": (
        "import ssmlab\nfrom ssmlab import discretize\n" + FIRST,
        2,
        "ended with (ModuleNotFoundError|ImportError)",
    ),
}
SANDBOXED = {"reaches out", "leaves a process"}


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


# Each way to hand in something broken, the points it may have, and what its line says.
FILES: dict[str, tuple[Callable[[Course], NotebookNode | bytes], float, str]] = {
    "untouched": (released, 0, r"^$"),
    "test deleted": (
        lambda c: without(answered(c, WRONG), "first"),
        2,
        "'first' was missing; the released one was put back",
    ),
    "test edited": (
        lambda c: edited(answered(c, WRONG), "first", source="assert True", points=200),
        2,
        "settings of cell 'first' were changed.*locked cell 'first' was changed",
    ),
    "test's id changed": (
        lambda c: edited(answered(c, WRONG), "first", grade_id="other"),
        2,
        "unknown id 'other'",
    ),
    "answer's id changed": (
        lambda c: edited(answered(c), "first_answer", grade_id="other"),
        4,
        "unknown id 'other'",
    ),
    "answer deleted": (
        lambda c: without(answered(c), "first_answer"),
        2,
        "'first_answer' was missing",
    ),
    "answer copied": (lambda c: doubled(answered(c), "first_answer"), 2, "more than once"),
    "not JSON": (lambda c: b"PK\x03\x04 this is no notebook", 0, "is not JSON.*Nothing of it ran"),
    "no text": (lambda c: b"\xff\xfe\x00", 0, "is no text"),
    "empty": (lambda c: b"", 0, "is not JSON"),
    "no notebook": (lambda c: b'{"cells": 3, "nbformat": 4, "nbformat_minor": 5}', 0, "no valid"),
    "deep": (lambda c: b"[" * 100_000, 0, "no valid notebook|not JSON"),
}


@pytest.fixture(scope="module")
def graded(course: Course) -> dict[str, grading.Outcome]:
    """Grade the whole class once: nothing in it stops the batch."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for student, (first, _, _) in ANSWERS.items():
            if student not in SANDBOXED or not sandbox.available():
                text = first.replace("COURSE", str(course.root)).replace("PORT", port)
                hand_in(course, student, answered(course, text))
        for student, (make, _, _) in FILES.items():
            hand_in(course, student, make(course))
        hand_in(course, "renamed", answered(course))
        file = course.notebook("submitted", "tiny", "renamed")
        file.rename(file.with_name("tiny (2).ipynb"))
        (file.parent / "timestamp.txt").write_text("2026-03-01 12:00:00 UTC\n")
        course.place("submitted", "tiny", "nothing").mkdir(parents=True)
        return {one.student: one for one in grading.grade(course, "tiny", limits=LIMITS)}


EXPECTED = {name: (points, line) for name, (_, points, line) in (ANSWERS | FILES).items()}
EXPECTED |= {
    "renamed": (4, "was called 'tiny.*2.*ipynb' instead of|was called tiny"),
    "nothing": (0, "There are no notebooks"),
}


@pytest.mark.parametrize("student", EXPECTED)
def test_nobody_gains_and_each_is_told(graded, student):
    if student in SANDBOXED and sandbox.available():
        pytest.skip(sandbox.warning())
    points, line = EXPECTED[student]
    outcome = graded[student]
    assert outcome.score == points, str(outcome)
    assert outcome.possible == 5
    assert re.search(line, "\n".join(outcome.remarks), re.DOTALL), str(outcome)


@needs_sandbox
def test_nothing_is_left_outside(course, graded):
    assert not (course.root / "evil.txt").exists()
    assert not Path(sys.prefix, "evil.txt").exists()
    lines = (p / "cmdline" for p in Path("/proc").glob("[0-9]*"))
    assert not any(b"98765" in p.read_bytes() for p in lines if p.exists())


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


def questions(notebook: NotebookNode) -> list[NotebookNode]:
    return [one for one in notebook.cells if is_test(one)]


def test_release_and_feedback_keep_the_secrets(course, graded):
    secrets = hidden_lines(SOURCE)
    assert any("1234567" in line for line in secrets)
    texts = [course.notebook("release", "tiny").read_text()]
    for student in ("untouched", "knows only the public check", "test deleted", "not JSON"):
        page = feedback(course, "tiny", student)
        texts.append(page.read_text())
        assert "twice 3 is 6" in texts[-1]
    for text in texts:
        for secret in secrets | {"HIDDEN TESTS", "BEGIN SOLUTION"}:
            assert re.sub(r"\W", "", secret) not in bare(text)
    assert judge.HIDDEN in texts[2]
    assert "was missing; the released one was put back" in texts[3]


def test_feedback_needs_no_network(course, graded):
    page = feedback(course, "tiny", "right")
    text = page.read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"']?(?:https?:)?//", text)
    assert "default-src 'none'" in text
    assert page.with_name("tex-svg.js").exists()
    assert "4.0 / 5.0" in text


def test_export_has_a_row_for_each_question(course, graded, capsys):
    assert main(["export", "--course", str(course.root), "tiny"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    mine = [row for row in rows if row["student"] == "wrong"]
    assert [(r["question"], r["points"], r["possible"]) for r in mine] == [
        ("first", "0", "2"),
        ("second", "2", "2"),
        ("why", "0", "1"),
    ]
    assert {(r["total"], r["late"], r["by_hand"]) for r in mine} == {("2", "0", "no")}
    assert len(rows) == 3 * len(graded)


def test_interrupted_run_goes_on_and_grading_twice_gives_the_same(course, tmp_path, graded):
    mine = Course(tmp_path)
    shutil.copytree(course.root / "source", tmp_path / "source")
    mine.release("tiny")
    late = "2026-05-01 12:00:00"
    with mine.gradebook() as book:
        book.update_or_create_assignment("tiny", duedate=late)
    for student, first in (("a", FIRST), ("b", WRONG)):
        hand_in(mine, student, answered(mine, first))
    stamp = mine.place("submitted", "tiny", "b") / "timestamp.txt"
    stamp.write_text("2026-05-01 13:00:00 UTC\n")
    run = grading.grade(mine, "tiny", jobs=1, limits=LIMITS)
    first = next(run)
    run.close()  # what an interruption does
    report = mine.place("executed", "tiny", first.student) / "report.json"
    written = report.stat().st_mtime_ns
    outcomes = {one.student: one for one in grading.grade(mine, "tiny", limits=LIMITS)}
    assert report.stat().st_mtime_ns == written
    assert {s: o.score for s, o in outcomes.items()} == {"a": 4, "b": 2}
    assert outcomes["b"].late == 3600
    assert outcomes["a"].late == 0
    again = {o.student: o for o in grading.grade(mine, "tiny", limits=LIMITS, again=True)}
    assert again == outcomes
    assert report.stat().st_mtime_ns > written
    hand_in(mine, "b", answered(mine))  # handed in once more
    assert {o.score for o in grading.grade(mine, "tiny", limits=LIMITS)} == {4}


def test_without_a_sandbox_it_grades_and_warns(course, monkeypatch):
    job = grading._job(course, "tiny", "right", LIMITS, False)
    assert all(test["passed"] for test in grading.run(job)["tests"].values())
    monkeypatch.setattr(sandbox, "available", lambda: "a reason")
    assert "(a reason): the submissions run as ordinary processes" in sandbox.warning()


RAISES = "def double(x):\n    raise UnicodeDecodeError('utf8', b'', 0, 1, 'odd')"
ENDS = "import os\ndef double(x):\n    os._exit(0)"


@pytest.mark.parametrize(
    ("first", "second", "messages", "remark"),
    [
        (WRONG, SECOND, ("AssertionError: twice 3 is 6", ""), ""),
        (
            FIRST + "\nprint('x' * 9000)\nprint('y')",
            "def half(x):\n    return 2.0",
            ("", judge.HIDDEN),
            "wrote more than",
        ),
        (
            RAISES,
            "def half(x):\n    return lambda: 0",
            (
                "UnicodeDecodeError: 'utf8' codec can't decode bytes in position 0-0: odd",
                "AssertionError: assert half(4.0) == 2.0",
            ),
            "",
        ),
        (
            ENDS,
            SECOND,
            ("A test that calls your code ended", "A test that calls your code ended"),
            "ended",
        ),
        ("while True:\n    pass", "1 / 0", ("name 'double' is not defined", "name 'half'"), "2 s"),
    ],
)
def test_the_judge_judges_in_this_process_too(
    course, tmp_path, monkeypatch, first, second, messages, remark
):
    notebook, remarks = restore(answered(course, first, second), released(course))
    assert remarks == []
    room = sandbox.furnished(tmp_path)
    (room / "given").mkdir()
    limits = asdict(LIMITS) | {"cell": 2, "output": 5000}
    job = {"source": SOURCE, "restored": notebook, "limits": limits, "isolated": False}
    (room / "job.json").write_text(json.dumps(job))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    judge.main(room)
    result = json.loads((room / "result.json").read_text())
    for name, message in zip(("first", "second"), messages, strict=True):
        assert result["tests"][name]["message"].startswith(message)
        assert result["tests"][name]["passed"] == (not message)
    for test in result["tests"].values():
        assert (
            test["passed"] or "(line " in test["private"] or "ended the kernel" in test["private"]
        )
    assert remark in " ".join(result["remarks"])


def test_the_students_side_answers_with_data(monkeypatch):
    said = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: said.append(data))

    def ask(*request):
        code = remote.request(*request)
        eval(code)
        return json.loads(said[-1][remote.MIME])

    monkeypatch.setattr(sys.modules["__main__"], "twice", lambda x: 2 * x, raising=False)
    names = remote.unpack(ask("names", ["twice", "absent"])["value"], lambda number: number)
    assert list(names) == ["twice"]
    assert ask("call", names["twice"], (4,), {}) == {"value": 8}
    assert ask("attribute", names["twice"], "__name__") == {"value": "<lambda>"}
    kind, text = ask("call", names["twice"], (), {})["error"]
    assert kind == "TypeError"
    assert "missing 1 required" in text
    handle = remote.Remote(ask, names["twice"])
    assert pickle.loads(pickle.dumps(handle))(3) == 6


def test_a_judge_that_dies_is_reported(course, graded, monkeypatch):
    monkeypatch.setattr(grading, "GRACE", -LIMITS.notebook + 0.05)
    result = grading.run(grading._job(course, "tiny", "right", LIMITS, False))
    assert "It was ended after 0.05 s" in result["remarks"][0]
    job = grading._job(course, "tiny", "right", LIMITS, False)
    monkeypatch.setattr(grading, "GRACE", 60)
    result = grading.run({**job, "limits": {**job["limits"], "unheard_of": 1}})
    assert "Judging it ended without a result: TypeError" in result["remarks"][0]
    assert result["tests"] == {}
    assert all(one.outputs[0].output_type == "error" for one in questions(result["notebook"]))


# The four assignments of the book, each with a mistake: it costs the points of its question.
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
def term(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A course with the assignments of the book."""
    made = Course(tmp_path_factory.mktemp("term"))
    shutil.copytree(BOOK / "source", made.root / "source")
    shutil.copy(BOOK / "nbgrader_config.py", made.root)
    return made


def test_each_assignment_of_the_book_is_here(term):
    assert term.assignments == list(MISTAKES)


@pytest.mark.parametrize("name", MISTAKES)
def test_assignments_of_the_book(term, name):
    term.release(name)
    source = read(term.notebook("source", name))
    hand_in(term, "reference", source, name)
    if name == "01_discretization":  # the others are as empty
        hand_in(term, "untouched", released(term, name), name)
    for question, (right, wrong) in MISTAKES[name].items():
        answer = next(one for one in source.cells if grade_id(one) == f"{question}_answer")
        assert right in answer.source
        answer.source = answer.source.replace(right, wrong)
    hand_in(term, "mistaken", source, name)
    outcomes = {one.student: one for one in grading.grade(term, name)}
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


def test_values_travel_as_data():
    values = [None, True, 3, -2.5, np.inf, 1 + 2j, "x", (1, [2]), {"a": (1,), 2: None}]
    for value in values:
        assert remote.unpack(json.loads(json.dumps(remote.pack(value)))) == value
    for array in (np.eye(2), np.float32(3), np.arange(3) > 1, np.array(2j), np.zeros((0, 3))):
        back = remote.unpack(json.loads(json.dumps(remote.pack(array))))
        np.testing.assert_array_equal(back, array, strict=True)
        assert type(back) is type(array)


def test_what_is_no_data_does_not_travel():
    with pytest.raises(TypeError, match="must be data, got function"):
        remote.pack(len and (lambda: 0))
    for node in (
        {"array": ["|O8", [1], "AAAAAAAAAAA=", False]},
        {"handle": 3},
        {"class": "Same"},
        [1],
        {"float": "0x1p0", "complex": 2},
    ):
        with pytest.raises(ValueError, match="the answer is"):
            remote.unpack(node)


def test_tensors_travel():
    torch = pytest.importorskip("torch")
    back = remote.unpack(remote.pack(torch.arange(3.0)))
    assert isinstance(back, torch.Tensor)
    assert back.tolist() == [0, 1, 2]


def test_remote_stands_for_what_is_no_data():
    asked = []

    def ask(*request):
        asked.append(request)
        return "answer"

    thing = remote.Remote(ask, 7)
    assert thing(1, b=2) == "answer"
    assert thing.weight == "answer"
    assert asked == [("call", 7, (1,), {"b": 2}), ("attribute", 7, "weight")]
    with pytest.raises(AttributeError):
        thing.__array__()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(): pass\nclass G: pass\nasync def h(): pass", {"f", "G", "h"}),
        ("a, (b, *c) = 1, (2, 3)\nd: int = 4\nimport os", {"a", "b", "c", "d"}),
    ],
)
def test_names_of_the_student(source, names):
    assert judge.defined(new_code_cell(source)) == names


# ---------------------------------------------------------------------------------- collecting


MINUTE = (2026, 3, 1, 12, 30, 0)


def packed(path: Path, files: dict[str, NotebookNode | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else json.dumps(content)
            archive.writestr(zipfile.ZipInfo(name, MINUTE), raw)
    return path


@pytest.mark.parametrize(
    ("files", "student", "file"),
    [
        (["Ada Lovelace_1234_assignsubmission_file_/tiny.ipynb"], "Ada_Lovelace_1234", "tiny"),
        (["all/Ada Lovelace_1234_assignsubmission_file_tiny.ipynb"], "Ada_Lovelace_1234", "tiny"),
        (["lovelaceada_LATE_123_456_tiny-1.ipynb"], "lovelaceada", "tiny-1"),
        (["lovelaceada_123_456_My Work.ipynb"], "lovelaceada", "My Work"),
        (["Tiny_ada1_attempt_2026-03-01-12-30-00_tiny.ipynb"], "ada1", "tiny"),
        (["ada1/tiny.ipynb"], "ada1", "tiny"),
        (["submitted/ada1/tiny/other.ipynb"], "ada1", "other"),
    ],
)
def test_collect_knows_the_platforms(course, tmp_path, files, student, file):
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root / "source", mine.root / "source")
    given = packed(tmp_path / "export.zip", {name: released(course) for name in files})
    (line,) = collect(mine, "tiny", given)
    assert line.startswith(f"{student}: handed in 2026-03-01 12:30 UTC")
    assert (f"called {file}.ipynb" in line) == (file != "tiny")
    assert read(mine.notebook("submitted", "tiny", student)).cells
    stamp = mine.place("submitted", "tiny", student) / "timestamp.txt"
    assert stamp.read_text() == "2026-03-01 12:30:00 UTC\n"


def test_collect_chooses_and_is_not_fooled(course, tmp_path):
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root / "source", mine.root / "source")
    new = answered(course)
    inner = packed(tmp_path / "inner.zip", {"work/tiny.ipynb": new})
    files = {
        "ada/notes.ipynb": new_notebook(cells=[new_markdown_cell("shopping")]),
        "ada/tiny.ipynb": new,
        "../../evil/tiny.ipynb": new,
        "/evil/tiny.ipynb": new,
        "bob/tiny.ipynb": b"no notebook",
        "carl/all.zip": inner.read_bytes(),
        "dora/all.zip": b"no zip",
        "__MACOSX/ada/tiny.ipynb": new,
        "loose.ipynb": new,
    }
    lines = collect(mine, "tiny", packed(tmp_path / "export.zip", files))
    assert "Left out, no student in its name: loose.ipynb" in lines
    assert [p.name for p in sorted((mine.root / "submitted").iterdir())] == ["ada", "bob", "carl"]
    assert read(mine.notebook("submitted", "tiny", "ada")).cells[2].source == FIRST
    assert not list(tmp_path.rglob("evil"))
    (line,) = collect(
        mine, "tiny", packed(tmp_path / "b.zip", {"w-eve-x.ipynb": new}), r"w-(?P<student>\w+)-.*"
    )
    assert line.startswith("eve: ")


def test_collect_takes_nbgraders_times(course, tmp_path):
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root / "source", mine.root / "source")
    hand_in(Course(tmp_path / "in"), "ada", released(course))
    place = Course(tmp_path / "in").place("submitted", "tiny", "ada")
    (place / "timestamp.txt").write_text("2026-02-03 04:05:06 UTC")
    (line,) = collect(mine, "tiny", tmp_path / "in")
    assert line.startswith("ada: handed in 2026-02-03 04:05 UTC")


def test_collect_says_what_is_wrong(course, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    command = ["collect", "--course", str(course.root)]
    assert main([*command, "tiny", str(tmp_path / "empty")]) == 2
    assert "no student's notebook in" in capsys.readouterr().err
    assert main([*command, "tiny", str(tmp_path / "missing.zip")]) == 2
    assert "neither a folder nor a zip" in capsys.readouterr().err
    assert main([*command, "huge", str(tmp_path)]) == 2
    assert "no assignment 'huge'" in capsys.readouterr().err


# -------------------------------------------------------------------- checking and command line


def test_check_says_what_fails_in_plain_words(course, tmp_path):
    def problems(notebook: NotebookNode | bytes) -> str:
        path = tmp_path / "tiny.ipynb"
        raw = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
        path.write_bytes(raw)
        return "\n".join(check(path))

    mine = edited(answered(course, WRONG), "why", source="Because.")
    assert problems(mine) == "Question 'first' (2 points): twice 3 is 6"
    assert "'second_answer' is there 2 times" in problems(doubled(mine, "second_answer"))
    assert "was changed" in problems(edited(answered(course), "first", source="assert 1"))
    assert "is not JSON" in problems(b"{")
    assert "is no assignment" in problems(new_notebook())
    assert check(tmp_path / "missing.ipynb") == [f"There is no file {tmp_path / 'missing.ipynb'}."]


def test_commands(course, tmp_path, capsys):
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root / "source", mine.root / "source")
    here = ["--course", str(mine.root)]
    assert main(["feedback", *here, "tiny"]) == 2
    assert "run `grade` first" in capsys.readouterr().err
    assert main(["grade", *here, "tiny"]) == 2
    assert "run `collect` first" in capsys.readouterr().err
    assert main(["release", *here, "--due", "2026-05-01T14:00+02:00"]) == 0
    capsys.readouterr()
    (tmp_path / "in" / "ada").mkdir(parents=True)
    notebook = edited(answered(mine), "why", source="Because.")
    nbformat.write(notebook, tmp_path / "in" / "ada" / "tiny.ipynb")
    assert main(["collect", *here, "tiny", str(tmp_path / "in")]) == 0
    assert main(["grade", *here, "tiny", "--memory", "3", "--notebook", "60"]) == 0
    assert "ada: 4 of 5 points, 1 more wait for a person" in capsys.readouterr().out
    assert main(["feedback", *here, "tiny"]) == 0
    assert main(["export", *here, "--to", str(tmp_path / "grades.csv")]) == 0
    assert ",ada,why,,1,4," in (tmp_path / "grades.csv").read_text()


def test_missing_nbgrader_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    assert main(["release"]) == 2
    assert "pip install 'ssmlab[classroom]'" in capsys.readouterr().err


def test_downloads_hold_the_release_and_a_note(course, tmp_path):
    (path,) = downloads(course, tmp_path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["tiny/README.txt", "tiny/tiny.ipynb"]
        assert "pip install numpy jupyterlab" in archive.read("tiny/README.txt").decode()
        assert b"HIDDEN" not in archive.read("tiny/tiny.ipynb")
    downloads(course, tmp_path)
    assert path.read_bytes() == content
