"""`import ssmlab` is light, and its parts load when they are first used."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from packaging.requirements import Requirement

import ssmlab
from ssmlab import _matrix, _typing


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


HEAVY = ("torch", "matplotlib", "ipywidgets", "pandas", "IPython", "numba", "scipy.signal")


def test_import_loads_nothing_heavy():
    listing = f"print([m for m in {HEAVY} if m in sys.modules])"
    assert run(f"import sys, ssmlab; {listing}") == "[]"
    assert run(f"import sys, ssmlab; ssmlab.lti, ssmlab.StateSpace; {listing}") == "[]"


def test_import_adds_nothing_to_numpy_and_scipy():
    code = """
import importlib.metadata, sys
import scipy.fft, scipy.linalg
before = set(sys.modules)
import ssmlab
ssmlab.discretize, ssmlab.lti, ssmlab.statespace
added = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(added & importlib.metadata.packages_distributions().keys()))
"""
    assert set(ast.literal_eval(run(code))) <= {"ssmlab", "jaxtyping", "wadler_lindig"}


def test_works_without_jaxtyping():
    code = """
import sys
sys.modules["jaxtyping"] = None  # importing it now raises ImportError
import ssmlab
print(ssmlab.StateSpace([-1], [1], [1]).discretize(0.5).simulate([1, 0])[0].round(4))
"""
    assert run(code) == "[0.3935 0.2387]"


@pytest.mark.parametrize("name", ["nn", "ops", "compat", "bench"])
def test_without_torch_one_sentence_says_what_to_install(name):
    code = f"""
import sys
sys.modules["torch"] = None  # importing it now raises ModuleNotFoundError
try:
    import ssmlab.{name}
except ModuleNotFoundError as error:
    print(error)
"""
    assert "of ssmlab need torch; install it with: pip install torch" in run(code)


@pytest.mark.parametrize("triton", ["3.2.0", "3.6.0", "3.7.1"])  # of torch 2.6, 2.11 and 2.13
def test_the_extra_keeps_a_torch_that_is_there(triton):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf8"))
    extra = map(Requirement, project["project"]["optional-dependencies"]["torch"])
    wanted = {requirement.name: requirement.specifier for requirement in extra}
    assert triton in wanted["triton"]
    assert "2.6" in wanted["torch"]


def test_version_is_that_of_the_package():
    assert ssmlab.__version__ == importlib.metadata.version("ssmlab")


def test_annotations_without_jaxtyping_are_plain_arrays(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    spec = importlib.util.spec_from_file_location("plain_typing", _typing.__file__)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    assert plain.Float is plain.Inexact
    assert plain.States is np.ndarray


def test_submodules_load_on_first_use():
    code = "import sys, ssmlab; print('ssmlab.lti' in sys.modules); print(ssmlab.lti.__name__)"
    assert run(code).split() == ["False", "ssmlab.lti"]


@pytest.mark.parametrize("name", ssmlab.__all__)
def test_every_public_name_exists_and_is_listed(name):
    assert getattr(ssmlab, name).__name__.endswith(name)
    assert name in dir(ssmlab)


def test_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'StatSpace'.*StateSpace"):
        ssmlab.StatSpace  # noqa: B018


def test_annotations_are_checked_in_the_tests():
    with pytest.raises(jaxtyping.TypeCheckError, match="times"):
        _matrix.times(np.ones((2, 2)), np.ones(3))
    with pytest.raises(jaxtyping.TypeCheckError, match="solve"):
        _matrix.solve(np.ones((2, 2)), np.ones(2, dtype=int))


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
#: Functions that define another all the same, and how often they are called.
ONCE = {
    ("_renamed.py", "old_names"): "for a module",
    ("explore.py", "_widgets"): "for a set of sliders",
    ("family/lru.py", "ring"): "for the parameters of a layer",
    ("nn/training.py", "fit_language_model"): "for a training",
    ("bench/roofline.py", "_cpu_kernel"): "for a process: cached",
    ("ops/scan/numba_kernel.py", "_add_of"): "for a type: by numba, when it compiles",
    ("viz.py", "block_diagram"): "for a picture",
}


def define_others(folder: Path) -> Iterator[tuple[str, str]]:
    """List the functions that define a function inside, with their files."""
    for path in folder.rglob("*.py"):
        for outer in ast.walk(ast.parse(path.read_text("utf8"))):
            inside = (node for node in ast.walk(outer) if node is not outer)
            if isinstance(outer, FUNCTIONS) and any(isinstance(n, FUNCTIONS) for n in inside):
                yield path.relative_to(folder).as_posix(), outer.name


def test_no_function_is_defined_per_step():
    """Shape checks would be compiled anew at each call: ten times slower tests, seen once."""
    assert set(define_others(Path(ssmlab.__file__).parent)) == set(ONCE)


def test_a_function_that_is_defined_per_step_is_found(tmp_path):
    text = "class Layer:\n    async def step(self):\n        def gate():\n            pass\n"
    Path(tmp_path, "layer.py").write_text(text, "utf8")
    assert list(define_others(tmp_path)) == [("layer.py", "step")]


def imported(code: str) -> set[str]:
    """Name the packages that a piece of code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"ssmlab"}


def test_the_extras_bring_what_the_chapters_import():
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text("utf8"))["project"]
    extras = project["optional-dependencies"]
    brought = [*project["dependencies"], *extras["book"], *extras["torch"]]
    names = {Requirement(text).name.replace("scikit-learn", "sklearn") for text in brought}
    wanted = set()
    for path in (root / "book").glob("*.ipynb"):
        cells = json.loads(path.read_text("utf8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        wanted |= imported(code)
    assert {"numpy", "sklearn", "matplotlib", "torch"} <= wanted <= names
