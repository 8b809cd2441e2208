"""A class of wrong, broken and hostile submissions: nobody gains, and each is told."""

from __future__ import annotations

import csv
import io
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nbformat import NotebookNode

from ssm_classroom import grade, judge, sandbox
from ssm_classroom.__main__ import main
from ssm_classroom.course import Course
from ssm_classroom.feedback import feedback
from tiny import (
    FIRST,
    LIMITS,
    QUIET,
    SOURCE,
    WRONG,
    answered,
    bare,
    doubled,
    edited,
    hand_in,
    hidden_lines,
    needs_sandbox,
    released,
    without,
)

pytestmark = QUIET
SECONDS = f"{LIMITS.cell:g} s"

# Each hostile answer to the first question, the points it may have of 4, and what its line says.
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
    "endless cell": ("while True:\n    pass", 2, f"'first_answer' was interrupted after {SECONDS}"),
    "endless function": (
        "import time\ndef double(x):\n    while True:\n        time.sleep(0.01)",
        2,
        f"A test that calls your code was interrupted after {SECONDS}",
    ),
    "endless, and deaf": (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "while True:\n    time.sleep(0.01)",
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
        "import ssm_classroom.remote as r\n"
        "r.pack = lambda *a: {'array': ['|O8', [1], 'AAAAAAAAAAA=', False]}\n" + WRONG,
        0,
        r"",
    ),
    "asks the library": (
        "import ssmlab\nfrom ssmlab import discretize\n" + FIRST,
        2,
        "ended with (ModuleNotFoundError|ImportError)",
    ),
    "insists on the library": (
        "import sys\nsys.modules.pop('ssmlab')\nimport ssmlab\n" + FIRST,
        2,
        "ended with ModuleNotFoundError: No module named 'ssmlab'",
    ),
}
SANDBOXED = {"reaches out", "leaves a process", "insists on the library"}


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
def graded(course: Course) -> dict[str, grade.Outcome]:
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
        outcomes = grade.grade(course, "tiny", jobs=os.cpu_count() or 1, limits=LIMITS)
        return {one.student: one for one in outcomes}


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
    until = time.monotonic() + 10  # the system takes a namespace apart after the judge has left it
    while leftovers() and time.monotonic() < until:
        time.sleep(0.1)
    assert leftovers() == []


def leftovers() -> list[bytes]:
    """Find the process that a student leaves, by its command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_bytes())
        except OSError:  # it has ended
            continue
    return [line for line in found if b"98765" in line]


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
