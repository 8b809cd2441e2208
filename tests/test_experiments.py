"""Each experiment runs on small sizes, and what it would store has the form of what is stored."""

from __future__ import annotations

import ast
import importlib
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ssmlab import nn, results

FOLDER = Path(__file__).parents[1] / "book" / "experiments"
ON_A_GPU = {"gpu_checks", "selective_scan_gpu"}
SHARED = {"common", "works_with"}
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import an experiment as Python does when it runs the script: its folder comes first."""
    monkeypatch.syspath_prepend(FOLDER)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in (*NAMES, *SHARED):
        sys.modules.pop(name, None)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect what is written, wherever that is."""
    records = []
    save = results.save_results

    def spy(path: Path, data: Any, **settings: Any) -> None:
        save(path, data, **settings)
        records.append(results.load_results(path))

    monkeypatch.setattr(results, "save_results", spy)
    return records


def form(value: Any) -> Any:
    """What kind of thing it is: of a dict the keys, of a list the kinds of its parts."""
    if isinstance(value, dict):
        return {key: form(part) for key, part in value.items()}
    if isinstance(value, list):
        return {json.dumps(form(part), sort_keys=True) for part in value}
    return "number" if isinstance(value, int | float) else type(value).__name__


def fits(quick: Any, stored: Any) -> bool:
    """Whether the stored record has every part of the quick one, in the same form."""
    if isinstance(quick, dict) and isinstance(stored, dict):
        return all(key in stored and fits(part, stored[key]) for key, part in quick.items())
    if isinstance(quick, list) and isinstance(stored, list):
        return all(any(fits(part, other) for other in stored) for part in quick)
    return quick is None or form(quick) == form(stored)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ON_A_GPU])
def test_a_quick_run_makes_a_record_of_the_stored_form(name, load, saved, capfd):
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*.[js]*")}
    load(name).main(quick=True)
    assert fits(saved[-1]["results"], results.load_results(FOLDER / f"{name}.json")["results"])
    assert {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*.[js]*")} == before


@torch.no_grad()
def test_a_step_in_place_is_the_step_of_the_layer(load):
    costs = load("generation_costs")
    torch.manual_seed(0)
    model = nn.LanguageModel(**costs.SIZES, mixer="attention")
    token, (_, state) = torch.tensor([7]), model.prefill(torch.randint(256, (1, 20)))
    rooms = [costs.room_for_one_more(cache) for cache in state]
    in_place = costs.step_in_place(model, token, rooms, 20)
    torch.testing.assert_close(in_place, model.step(token, state)[0], rtol=0, atol=1e-5)


def test_a_run_that_was_interrupted_goes_on(load, tmp_path):
    common, path, made = load("common"), tmp_path / "runs.json", []

    def run(case: dict[str, Any]) -> dict[str, Any]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(case)
        return {"right": case["seed"]}

    todo = common.grid(seed=(0, 1), model=("a", "b"))
    with pytest.raises(KeyboardInterrupt):
        common.make_runs(path, "runs", {"lr": 1}, run, todo)
    assert made == [{"seed": 0, "model": "a"}, {"seed": 0, "model": "b"}]
    made.clear()
    common.make_runs(path, "runs", {"lr": 1}, run, todo, resume=True)
    assert made == [{"seed": 1, "model": "a"}, {"seed": 1, "model": "b"}]
    rows = results.load_results(path)["results"]
    assert rows == {"lr": 1, "runs": [case | {"right": case["seed"]} for case in todo]}


def test_runs_side_by_side_come_in_the_order_of_their_cases(load, tmp_path):
    common, path = load("common"), tmp_path / "runs.json"
    todo = common.grid(x=(3.0, 1.0, 2.0))
    common.make_runs(path, "runs", {}, double, todo, workers=2, commit="abc")
    record = results.load_results(path)["results"]["runs"]
    assert record == [{"x": x, "twice": 2 * x} for x in (3.0, 1.0, 2.0)]


def double(case: dict[str, float]) -> dict[str, float]:
    return {"twice": 2 * case["x"]}


def test_a_record_that_is_not_quick_lies_beside_its_script(load):
    with load("common").record(str(FOLDER / "digits.py"), quick=False) as path:
        assert path == FOLDER / "digits.json"


@pytest.mark.parametrize("name", ["three_views", "selective_scan_gpu"])
def test_the_command_line_says_what_the_script_does(name, load, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--quick" in said
    assert load(name).__doc__.partition("\n")[0] in said


@pytest.mark.parametrize("name", sorted(ON_A_GPU))
def test_a_script_for_a_gpu_says_that_it_needs_one(name, load, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="a GPU, and torch finds none here"):
        load(name).main(quick=True)


def test_the_gpu_script_compares_the_same_numbers(load):
    """Its problem and its gradients, by Triton's interpreter."""
    gpu = load("selective_scan_gpu")
    problem = gpu.problem(1, 3, 5, torch.float32, "cpu", C="constant")
    got, expected = (gpu.results_of(problem, way, way == "torch") for way in ("triton", "torch"))
    assert got.keys() == expected.keys() == {"y", "h", *problem}
    for name, value in expected.items():
        torch.testing.assert_close(got[name].double(), value.double(), rtol=1e-4, atol=1e-4)


def test_gpu_checks_go_on_after_a_process_has_ended_and_stop_in_time(load):
    gpu = load("gpu_checks")
    pairs = [("feature", str(i)) for i in range(5)]

    def start(left):
        """Two rows, then the end; and where the third check comes first, nothing at all."""
        for pair in () if left[0] == pairs[2] else left[:2]:
            yield gpu.row(pair, "yes") | {"broken": True}

    rows = gpu.run_all(pairs, start, deadline=float("inf"))
    assert [(r["feature"], r["case"]) for r in rows] == pairs
    assert [r["outcome"] for r in rows] == ["yes"] * 2 + ["the process ended at once"] + ["yes"] * 2
    late = gpu.run_all(pairs, start, deadline=0.0)
    assert [r["outcome"] for r in late] == ["yes"] + ["not tried"] * 4


def test_every_pair_of_the_gpu_checks_has_a_check(load):
    gpu = load("gpu_checks")
    cases = {case.name for case in gpu.CASES}
    alone, together = gpu.listed(quick=False)
    assert len({*alone, *together}) == len(alone) + len(together)
    for feature, case in alone + together:
        assert case in gpu.SCANS if feature == "scan" else feature in gpu.CHECKS and case in cases


def test_the_last_channels_of_a_large_scan_are_those_of_a_small_one(load, monkeypatch):
    gpu = load("gpu_checks")
    monkeypatch.setattr(gpu, "GPU", "cpu")
    assert gpu.scan_elements(True, 20, 2, backward=True) < 1e-6


# --- where the records come from -----------------------------------------------------------------

#: Records that are to be measured again, and what is wrong with each.
OWED = {"selective_scan_gpu": "its commit does not hold the script"}

#: Libraries that our scripts time beside ours.
PEERS = {"mamba_ssm", "mambapy", "transformers", "fla"}


def git(*arguments: str) -> str | None:
    """Ask git; None if it disagrees."""
    command = ("git", "-C", FOLDER, *arguments)
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    return None if done.returncode else done.stdout


def code(text: str) -> str:
    """What a script does: its text without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def complaint(name: str, record: dict[str, Any]) -> str | None:
    """Say what is wrong with a record: its commit must hold the script, as it is now, unchanged."""
    made = record["provenance"]
    commit = str(made["commit"])
    if git("merge-base", "--is-ancestor", commit, "HEAD") is None:
        return "its commit is not in the history"
    script = git("show", f"{commit}:book/experiments/{name}.py")
    if script is None:
        return "its commit does not hold the script"
    if code(script) != code((FOLDER / f"{name}.py").read_text("utf8")):
        return "its script has changed since"
    unknown = {peer for peer in PEERS if f'"{peer}' in json.dumps(record)} - made["packages"].keys()
    if unknown:
        return f"it times {', '.join(sorted(unknown))} of an unknown version"
    return "it was measured with changes" if made["dirty"] else None


def needs_history() -> None:
    if git("rev-parse", "--is-shallow-repository") != "false\n":
        pytest.skip("a checkout without its history")


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_a_record_comes_from_a_commit(name: str) -> None:
    needs_history()
    assert complaint(name, results.load_results(FOLDER / f"{name}.json")) == OWED.get(name)


def test_a_record_of_unknown_origin_is_seen() -> None:
    needs_history()
    record = results.load_results(FOLDER / "three_views.json")
    made = record["provenance"]
    first = git("log", "--reverse", "--format=%H", "--", "performance.py").split()[0]
    assert complaint("three_views", record) is None
    assert complaint("not there", record) == "its commit does not hold the script"
    peer = record | {"results": ["mambapy"]}
    assert complaint("three_views", peer) == "it times mambapy of an unknown version"
    for name, changes, wrong in (
        ("three_views", {"commit": "0" * 40}, "its commit is not in the history"),
        ("three_views", {"dirty": True}, "it was measured with changes"),
        ("performance", {"commit": first}, "its script has changed since"),
    ):
        assert complaint(name, record | {"provenance": made | changes}) == wrong


def test_a_script_changes_only_if_its_code_does() -> None:
    text = 'def f(x):\n    """Say it."""\n    return x  # here\n'
    assert code(text) == code("def f(x): return x")
    assert code(text) != code(text.replace("return x", "return -x"))
