"""The record of a result: it comes back whole, and says where, when and with what it was made."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ssmlab import results
from ssmlab.timing import Timing


def git(folder: Path, *command: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    answer = subprocess.run(
        ["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def test_provenance_names_the_machine_and_the_versions():
    record = results.provenance()
    assert record["cpu"]
    assert record["cores"] >= 1
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["packages"]["numpy"] == np.__version__
    assert date.fromisoformat(record["date"]) <= date.today()


def fake_torch(*, in_use: bool) -> SimpleNamespace:
    cuda = SimpleNamespace(is_initialized=lambda: in_use, get_device_name=lambda: "Fake GPU")
    return SimpleNamespace(cuda=cuda)


def test_provenance_names_the_gpu_and_the_packages_in_use(monkeypatch):
    for name in ("torch", "numba", "triton"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    record = results.provenance()
    assert set(record["packages"]) == {"numpy", "scipy"}
    assert record["device"] == record["cpu"]
    monkeypatch.setitem(sys.modules, "torch", fake_torch(in_use=True))
    record = results.provenance()
    assert record["device"] == "Fake GPU"
    assert set(record["packages"]) == {"numpy", "scipy", "torch"}
    monkeypatch.setitem(sys.modules, "torch", fake_torch(in_use=False))
    assert results.provenance()["device"] == record["cpu"]


def test_provenance_takes_what_it_cannot_find_out(monkeypatch):
    monkeypatch.setattr(results, "_commit", lambda: (None, None))
    record = results.provenance(packages={"mambapy": "1.2.0"}, commit="49f4dfe")
    assert record["packages"]["mambapy"] == "1.2.0"
    assert (record["commit"], record["dirty"]) == ("49f4dfe", None)


def test_the_commit_that_is_found_counts_more_than_the_one_that_is_told(monkeypatch):
    monkeypatch.setattr(results, "_commit", lambda: ("found", False))
    assert results.provenance(commit="told")["commit"] == "found"


def test_the_commit_is_that_of_the_checkout_that_runs(tmp_path, monkeypatch):
    code = tmp_path / "ssmlab" / "results.py"
    code.parent.mkdir()
    code.write_text("# version 1\n")
    monkeypatch.setattr(results, "HERE", code)
    assert results._commit() == (None, None)  # no checkout
    git(tmp_path, "init")
    (tmp_path / "README").write_text("")
    git(tmp_path, "add", "README")
    git(tmp_path, "commit", "-m", "another project, with ssmlab inside its environment")
    assert results._commit() == (None, None)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "ssmlab")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert results._commit() == (head, False)
    (tmp_path / "README").write_text("a change that no measurement depends on")
    assert results._commit() == (head, False)
    code.write_text("# version 2\n")
    assert results._commit() == (head, True)


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert results._commit() == (None, None)


def test_the_processor_has_a_name_without_proc(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(results, "_ask", lambda *command: "Fake M9")
    assert results._cpu() == "Fake M9"


def test_results_come_back_with_their_provenance(tmp_path):
    path = tmp_path / "cost.json"
    t = Timing((1.0, 2.0, 3.0), calls=4)
    results.save_results(path, {"size": np.int64(7), "cost": np.array([1.5, 2.5]), "loop": t})
    record = results.load_results(path)
    assert record["results"]["size"] == 7
    assert record["results"]["cost"] == [1.5, 2.5]
    assert record["results"]["loop"] == {
        "samples": [1.0, 2.0, 3.0],
        "calls": 4,
        "median": 2.0,
        "quartiles": [1.5, 2.5],
    }
    assert record["provenance"] == results.provenance()
    assert path.read_text("utf8").endswith("}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)  # fmt: skip
def test_what_is_saved_is_what_is_loaded(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "provenance", dict)
        results.save_results(path, data)
    assert results.load_results(str(path))["results"] == data


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        ({"a": float("nan")}, ValueError, "data must hold finite numbers only"),
        ({"a": np.array([np.inf])}, ValueError, "data must hold finite numbers only"),
        ({"a": object()}, TypeError, "arrays and Timings; got object"),
    ],
)
def test_bad_results_leave_the_old_file_alone(tmp_path, data, error, sentence):
    path = tmp_path / "cost.json"
    results.save_results(path, 1)
    before = path.read_text()
    with pytest.raises(error, match=sentence):
        results.save_results(path, data)
    assert path.read_text() == before


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "cost.json"
    results.save_results(path, 1)
    before = path.read_text()
    monkeypatch.setattr(Path, "replace", lambda self, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        results.save_results(path, 2)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"results": 1}), "3"])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(
        ValueError, match=r"a file that save_results wrote; got .*other.json, .*: measure again"
    ):
        results.load_results(path)


# what a chapter reads


def test_a_record_is_found_beside_the_chapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    results.save_results("experiments/cost.json", 7)
    assert results.stored("cost") == results.load_results("experiments/cost.json")


def test_a_record_that_is_missing_says_how_it_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"got 'cost'.*make experiments/cost"):
        results.stored("cost")


@pytest.mark.parametrize(
    ("commit", "dirty", "end"),
    [
        ("49f4dfe354c4", False, "commit 49f4dfe"),
        ("49f4dfe354c4", True, "commit 49f4dfe with changes"),
        (None, None, "commit unknown"),
    ],
)
def test_a_citation_says_whether_the_commit_can_be_trusted(commit, dirty, end):
    made = {"device": "Fake M9", "date": "2026-11-24", "packages": {"numpy": "2", "scipy": "1"}}
    record = {"provenance": made | {"commit": commit, "dirty": dirty}}
    assert results.cite(record) == f"Fake M9, 2026-11-24, numpy 2, scipy 1, {end}"
