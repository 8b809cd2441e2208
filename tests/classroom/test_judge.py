"""The judge asks for data, and only data comes back."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import asdict

import numpy as np
import pytest
from nbformat.v4 import new_code_cell

from ssm_classroom import judge, remote, sandbox
from ssm_classroom.notebook import restore
from tiny import FIRST, LIMITS, QUIET, SECOND, SOURCE, WRONG, answered, released

pytestmark = QUIET

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
        (
            "while True:\n    pass",
            "1 / 0",
            ("name 'double' is not defined", "name 'half'"),
            "1.5 s",
        ),
    ],
)
def test_the_judge_judges_in_this_process_too(
    course, tmp_path, monkeypatch, first, second, messages, remark
):
    notebook, remarks = restore(answered(course, first, second), released(course))
    assert remarks == []
    folder = sandbox.prepared(tmp_path)
    (folder / "given").mkdir()
    limits = asdict(LIMITS) | {"output": 5000}
    job = {"source": SOURCE, "restored": notebook, "limits": limits, "isolated": False}
    (folder / "job.json").write_text(json.dumps(job))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    judge.main(folder)
    result = json.loads((folder / "result.json").read_text())
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


def test_values_travel_as_data():
    values = [None, True, 3, -2.5, np.inf, 1 + 2j, "x", (1, [2]), {"a": (1,), 2: None}]
    for value in values:
        assert remote.unpack(json.loads(json.dumps(remote.pack(value)))) == value
    for array in (np.eye(2), np.float32(3), np.arange(3) > 1, np.array(2j), np.zeros((0, 3))):
        back = remote.unpack(json.loads(json.dumps(remote.pack(array))))
        np.testing.assert_array_equal(back, array, strict=True)
        assert type(back) is type(array)


def test_what_is_no_data_does_not_travel():
    with pytest.raises(TypeError, match="must be data; got function"):
        remote.pack(len and (lambda: 0))
    for node in (
        {"array": ["|O8", [1], "AAAAAAAAAAA=", False]},
        {"handle": 3},
        {"class": "Same"},
        [1],
        {"float": "0x1p0", "complex": 2},
    ):
        with pytest.raises(ValueError, match="answer must be data"):
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
