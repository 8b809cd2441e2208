"""A file is named after what is in it, and the convention card says what the signatures say."""

from __future__ import annotations

import ast
import inspect
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ssmlab import DiscreteStateSpace, family, lti, nn, ops, s4, selective_scan

#: What somebody looks for -> the file that they open, and the name that they find there.
WHERE = {
    "two equations": ("statespace", "StateSpace"),
    "zero-order hold": ("discretize", "zoh"),
    "convolution kernel": ("lti", "kernel"),
    "LegS": ("hippo/measures", "legs"),
    "step": ("hippo/online", "legs_step"),
    "coefficients": ("hippo/projection", "project"),
    "whole past": ("hippo/streaming", "LegSMemory"),
    "DPLR": ("s4", "dplr"),
    "Cauchy kernel": ("s4", "generating_function"),
    "S4D-Lin": ("diagonal", "lin"),
    "DSS": ("diagonal", "dss_kernel"),
    "associative scan": ("scan", "blelloch"),
    "selective scan": ("selective", "selective_scan"),
    "Mamba block": ("mamba", "block"),
    "linear attention": ("family/linear_attention", "linear_attention"),
    "RetNet": ("family/retnet", "retention"),
    "gated linear attention": ("family/gla", "gla"),
    "DeltaNet": ("family/deltanet", "deltanet"),
    "Gated DeltaNet": ("family/deltanet", "gated_deltanet"),
    "RWKV-4": ("family/rwkv", "RWKV4"),
    "RWKV-6": ("family/rwkv", "rwkv6"),
    "softmax attention": ("family/attention", "Attention"),
    "matrix state": ("family/matrix_state", "MatrixState"),
    "linear recurrent unit": ("family/lru", "LRU"),
    "FFT": ("ops/convolution", "fft_convolution"),
    "Vandermonde": ("ops/vandermonde", "vandermonde"),
    "diagonal plus low rank": ("ops/dplr", "dplr_step"),
    "front door of the selective scan": ("ops/scan/front_door", "selective_scan"),
    "plain torch loop": ("ops/scan/torch_loop", "scan"),
    "compiled CPU kernel": ("ops/scan/numba_kernel", "scan"),
    "Triton kernels": ("ops/scan/triton_kernels", "scan"),
    "gate between two projections": ("nn/mamba", "Mamba"),
}


@pytest.mark.parametrize("words", WHERE)
def test_an_equation_is_found_by_the_name_of_its_file(words):
    path, name = WHERE[words]
    module = import_module(f"ssmlab.{path.replace('/', '.')}")
    assert getattr(module, name).__module__ == module.__name__
    text = Path(module.__file__).read_text()
    assert re.search(r"\s+".join(words.split()), text, re.IGNORECASE), f"{path} does not say it"


@pytest.mark.parametrize(
    ("module", "old", "new"), [(family, "Memory", "MatrixState"), (s4, "nplr", "dplr")]
)
def test_an_old_name_answers(module, old, new):
    with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new}"):
        assert getattr(module, old) is getattr(module, new)


# --- a module imports from those below it only ---------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]


def floors() -> list[set[str]]:
    """Read from CONTRIBUTING.md which modules stand on which floor, from the top down."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf8")
    (house,) = re.findall(r"^    ssmlab/ .*\n((?:      \S.*\n)+)", text, re.MULTILINE)
    return [set(re.findall(r"\S+", line[:21])) for line in house.splitlines()]


def imports() -> set[tuple[str, str]]:
    """List which module of the library imports which other one, anywhere in its files."""
    found = set()
    for path in (ROOT / "ssmlab").rglob("*.py"):
        importer = path.relative_to(ROOT / "ssmlab").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "ssmlab":
                found |= {(importer, alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ssmlab."):
                found.add((importer, node.module.split(".")[1]))
    return {(a, b) for a, b in found if a not in (b, "__init__")}


def floor_of(module: str) -> int:
    name = "_*" if module.startswith("_") else module
    (found,) = [i for i, names in enumerate(floors()) if name in names]
    return found


def test_every_module_stands_in_the_house():
    parts = {path.stem for path in (ROOT / "ssmlab").iterdir() if not path.stem.startswith("_")}
    assert set().union(*floors()) - {"_*"} == parts - {"py"}


@pytest.mark.parametrize(("importer", "imported"), sorted(imports()))
def test_imports_go_down(importer, imported):
    both_private = importer.startswith("_") and imported.startswith("_")
    assert both_private or floor_of(importer) < floor_of(imported)


# --- h0 or state, all states or the last ----------------------------------------------------------

LENGTH, CUT = 7, 3


def card() -> dict[str, set[str]]:
    """Read from the convention card which module has which name, and returns which states."""
    cells = json.loads((ROOT / "book/conventions.ipynb").read_text("utf8"))["cells"]
    (row,) = [
        line
        for cell in cells
        for line in "".join(cell["source"]).splitlines()
        if line.startswith("| before the first sample")
    ]
    form = (
        r".*\| `h0` in (.*?); `state` in (.*?) \|"
        r".*: all states.* from (.*?); the last alone from (.*?) \|"
    )
    found = re.fullmatch(form, row).groups()
    names = (set(re.findall(r"`(\w+)`", part)) for part in found)
    return dict(zip(("h0", "state", "all", "last"), names, strict=True))


def public_functions(module):
    """Return the functions that a module offers, and the methods of its classes but __init__."""
    for name, value in inspect.getmembers(module):
        if name.startswith("_") or not getattr(value, "__module__", "").startswith(module.__name__):
            continue
        if inspect.isfunction(value):
            yield value
        if inspect.isclass(value):
            yield from (f for n, f in inspect.getmembers(value, inspect.isfunction) if n[0] != "_")


@pytest.mark.parametrize("name", ["h0", "state"])
def test_the_name_of_the_first_state_is_that_of_the_card(name):
    other = {"h0": "state", "state": "h0"}[name]
    for module in sorted(card()[name]):
        functions = list(public_functions(import_module(f"ssmlab.{module}")))
        parameters = [set(inspect.signature(f).parameters) for f in functions]
        assert any(name in names for names in parameters), module
        assert not any(other in names for names in parameters), module


def maps():
    """Make one map of each module, ``run(x, h0) -> (y, h)``, x with time first."""
    rng = np.random.default_rng(0)
    system = DiscreteStateSpace([0.5, -0.3], [1, 2], [1, 1])
    modes = rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3))
    modes[0] = -abs(modes[0].real) + 1j * modes[0].imag
    A = -rng.uniform(size=(1, 3))
    B, C = rng.normal(size=(2, 1, 3))
    lru, layer = family.LRU.ring(4, 1), nn.LRU(1, state=4).double()

    def selective(x, h0):
        x = x[None, :, None]
        y, h = selective_scan(x, np.ones_like(x), A, B, C, h0=h0)
        return y[0, :, 0], h

    def fast(x, h0):
        arrays = [torch.tensor(a) for a in (x[None, :, None], np.ones((1, len(x), 1)), A, B, C)]
        y, h = ops.selective_scan(*arrays, h0=h0, return_last_state=True)
        return y[0, :, 0], h

    def member(x, state):
        y, state = lru.recurrence(x[:, None], state)
        return y[:, 0], state

    def trained(x, state):
        y, state = layer(torch.tensor(x)[None, :, None], state, return_state=True)
        return y[0, :, 0].detach(), state

    return {
        "lti": lambda x, h0: lti.recurrence(system, x, h0=h0),
        "s4": lambda x, h0: s4.recurrence(*modes, 0.1, x, h0=h0),
        "selective": selective,
        "ops": fast,
        "family": member,
        "nn": trained,
    }


@pytest.mark.parametrize("which", ["all", "last"])
def test_the_states_that_come_back_are_those_of_the_card(which):
    x = np.random.default_rng(1).normal(size=LENGTH)
    said = card()[which]
    assert said <= maps().keys()
    for module in sorted(said):
        run = maps()[module]
        first, h = run(x[:CUT], None)
        if which == "all":
            assert len(h) == CUT, module
            h = h[-1]
        second, _ = run(x[CUT:], h)
        assert_allclose(np.concatenate([first, second]), run(x, None)[0], atol=1e-12)


def test_the_card_speaks_of_every_module_with_a_state():
    modules = set(maps())
    assert card()["h0"] | card()["state"] == modules
    assert card()["all"] | card()["last"] == modules
