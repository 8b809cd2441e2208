"""The Triton kernels: right under the interpreter, and compiled for a GPU that is not there.

The interpreter takes milliseconds for every line of a kernel, so the problems are small, and a
chunk has 2 steps in place of 8: a sequence of 5 then has two whole chunks and a part of one. A tile
has 8 channels: 9 are one tile and a part of one. Options and types do not meet in a kernel, so each
is tried once, in a sequence of 3, beside all forms of B and C in sequences of 5.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from scan_cases import (
    PAIRS,
    assert_close,
    gradients,
    problem,
    reference,
    run,
    wide,
)

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton runs on Linux x86-64 only", allow_module_level=True)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    from ssmlab.ops.scan import launch

    monkeypatch.setattr(launch, "STEPS", 2)


def check(p, y_tolerance, gradient_tolerance, **options):
    y, h = run(p, "triton", **options)
    expected_y, expected_h = reference(**p, **options)
    assert y.dtype == p["x"].dtype
    assert_close(y, expected_y, y_tolerance)
    assert_close(h, expected_h, min(y_tolerance, 1e-6))
    expected = gradients(wide(p), "torch", **options)
    for name, value in gradients(p, "triton", **options).items():
        assert value.dtype == p[name].dtype
        eps = 0 if value.dtype.itemsize > 2 else torch.finfo(value.dtype).eps
        assert_close(value, expected[name], gradient_tolerance + eps)


@pytest.mark.parametrize(("B", "C"), PAIRS)
def test_forms_of_B_and_C(B, C):
    check(problem(1, 5, 4, 3, B=B, C=C, dtype="float32"), 1e-6, 1e-5)


@pytest.mark.parametrize("without", ["D", "z", "dt_bias", "h0", "softplus"])
def test_options_left_out(without):
    p = problem(1, 3, 4, 3, dtype="float32")
    p["dt"] = p["dt"].abs()
    p.pop(without, None)
    check(p, 1e-6, 1e-5, softplus=without != "softplus")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-13), ("bfloat16", 8e-3), ("float16", 1e-3)]
)
def test_types(dtype, tolerance):
    gradient = 1e-12 if dtype == "float64" else 1e-5
    check(problem(1, 3, 4, 3, dtype=dtype), tolerance, gradient)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "state"),
    [(1, 1, 1, 1), (2, 2, 3, 5), (1, 4, 9, 8), (1, 7, 2, 16)],
)
def test_sizes(batch, length, channels, state):
    check(problem(batch, length, channels, state, dtype="float32"), 1e-6, 1e-5)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_other_chunks(steps, monkeypatch):
    from ssmlab.ops.scan import launch

    monkeypatch.setattr(launch, "STEPS", steps)
    check(problem(1, 5, 3, 3, dtype="float32"), 1e-6, 1e-5)


def test_any_strides():
    p = problem(1, 3, 4, 4, B="group", C="group", dtype="float32")
    strided = {
        k: v.transpose(1, 2).contiguous().transpose(1, 2) if v.ndim > 2 else v for k, v in p.items()
    }
    assert not strided["x"].is_contiguous()
    check(strided, 1e-6, 1e-5)
    gaps = torch.stack([p["x"], p["x"]], -1)[..., 0]
    check(p | {"x": gaps, "dt": strided["dt"], "B": strided["B"]}, 1e-6, 1e-5)  # not two alike


@pytest.mark.parametrize("complex_A", [False, True])
def test_negated_views(complex_A):
    """Of size 1, any strides count as contiguous: a copy that is not needed is not made."""
    p = problem(1, 1, 1, 1, complex_A=complex_A)
    y, h = run(p, "triton")
    lazy = {
        k: v if v.is_complex() else torch.complex(torch.zeros_like(v), -v).conj().imag
        for k, v in p.items()
    }
    assert lazy["x"].is_neg()
    assert torch.equal(run(lazy, "triton")[0], y)
    # The gradients that come in are negated here.
    for M in (y, h):
        x, flipped = (v.clone().requires_grad_() for v in (p["x"], p["x"]))
        got = run(p | {"x": x}, "triton")[M is h]
        (torch.complex(torch.zeros_like(got.real), got.real).conj() * -1j).real.sum().backward()
        run(p | {"x": flipped}, "triton")[M is h].real.sum().backward()
        assert torch.equal(x.grad, -flipped.grad)


def test_offsets_of_64_bits(monkeypatch):
    from ssmlab.ops.scan import launch

    monkeypatch.setattr(launch, "LIMIT", 8)
    check(problem(1, 5, 4, 3, B="group", C="constant", dtype="float32"), 1e-6, 1e-5)


def test_offsets_that_32_bits_cannot_hold():
    """The states of B and C lie 2^30 numbers apart; what is between them is not touched."""
    p = problem(1, 3, 2, 3, dtype="float32")
    far = torch.empty(2**31 + 3, dtype=torch.bfloat16).as_strided((1, 3, 3), (0, 1, 2**30))
    far.copy_(p["B"])
    found = []
    for M in (far, far.clone(memory_format=torch.contiguous_format)):
        x = p["x"].clone().requires_grad_()
        y, _ = run(p | {"x": x, "B": M, "C": M}, "triton")
        found.append((y, *torch.autograd.grad(y.sum(), x)))
    assert all(map(torch.equal, *found))


def test_a_launch_is_on_the_device_of_its_arrays_with_the_batch_on_the_first_axis(monkeypatch):
    """The other axes of a grid end at 65,535; -1 is no device."""
    from ssmlab.ops.scan import launch
    from ssmlab.ops.scan.backend import Problem

    now, seen = [], []

    @contextmanager
    def device(index):
        now.append(index)
        yield
        now.pop()

    class Kernel:
        def __getitem__(self, grid):
            return lambda *_, **__: seen.append((grid, *now))

    monkeypatch.setattr(torch.cuda, "device", device)
    x, A = torch.zeros(1).expand(70_000, 1, 20), torch.zeros(20, 2)
    problem = Problem(x, x, A, A, A, A, D=None, z=None, dt_bias=None, softplus=False)
    launch.Call(problem).launch(Kernel(), [x], [], {})
    assert seen == [((140_000,), -1)]
    many = problem._replace(x=x[:1].expand(2**30, 1, 20))
    with pytest.raises(ValueError, match=r"x must need fewer .*: split the batch"):
        launch.Call(many)


def test_very_negative_steps_keep_their_digits():
    """softplus(-12) is 6e-6: 1 + e^v would lose three digits of it."""
    p = {k: v for k, v in problem(1, 2, 2, 2, dtype="float32").items() if k in "xABC"}
    p["dt"] = torch.full((1, 2, 2), -12.0)
    check(p, 1e-6, 1e-5)
    p["dt"] = torch.full((1, 2, 2), 30.0)
    check(p, 1e-6, 1e-5)


def test_nan_stays_in_its_channel_and_starts_at_its_time():
    for name in ("x", "dt"):
        p = problem(1, 5, 10, 4, dtype="float32")
        p[name][0, 3, 9] = float("nan")
        y, _ = run(p, "triton")
        bad = torch.zeros_like(y, dtype=torch.bool)
        bad[0, 3:, 9] = True
        assert torch.equal(y.isnan(), bad)


def test_the_same_bits_in_every_run():
    p = problem(1, 3, 10, 3, dtype="float32")
    first, second = ([*run(p, "triton"), *gradients(p, "triton").values()] for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_second_derivative_is_refused():
    p = problem(1, 2, 1, 1)
    x = p["x"].requires_grad_()
    with pytest.raises(RuntimeError, match=r"'triton' has no second derivative"):
        torch.autograd.grad(run(p, "triton")[0].sum(), x, create_graph=True)


@pytest.mark.parametrize(
    ("B", "C", "dtype"), [(*pair, "float64") for pair in PAIRS] + [("group", "group", "float32")]
)
def test_complex_A(B, C, dtype):
    """Kernels of their own: every pair again, in one type; what they read says the type."""
    tolerances = (1e-13, 1e-12) if dtype == "float64" else (1e-6, 1e-5)
    check(problem(1, 5, 4, 3, B=B, C=C, complex_A=True, dtype=dtype), *tolerances)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "state"), [(1, 1, 1, 1), (2, 2, 3, 5), (1, 4, 9, 8)]
)
def test_sizes_with_a_complex_A(batch, length, channels, state):
    check(problem(batch, length, channels, state, complex_A=True), 1e-13, 1e-12)


def test_options_and_strides_with_a_complex_A():
    p = problem(1, 3, 4, 4, B="group", C="group", complex_A=True)
    check({k: p[k] for k in ("x", "dt", "A", "B", "C")}, 1e-13, 1e-12, softplus=True)
    strided = {k: v.mT.contiguous().mT if v.ndim > 2 else v for k, v in p.items()}
    check(strided, 1e-13, 1e-12)
    lazy = p | {k: p[k].conj() for k in ("A", "B", "C", "h0")}
    assert lazy["A"].is_conj()
    assert torch.equal(
        run(lazy, "triton")[0], run(p | {k: lazy[k].resolve_conj() for k in lazy}, "triton")[0]
    )
    first, second = ([*run(p, "triton"), *gradients(p, "triton").values()] for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_second_derivative_with_a_complex_A_is_refused():
    p = problem(1, 2, 1, 1, complex_A=True)
    x = p["x"].requires_grad_()
    with pytest.raises(RuntimeError, match=r"'triton' has no second derivative"):
        torch.autograd.grad(run(p, "triton")[0].sum(), x, create_graph=True)


def test_a_gpu_is_needed(monkeypatch):
    import triton

    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match=r"'triton' needs tensors on a GPU; got cpu"):
        run(problem(), "triton")


def test_compiles_without_a_gpu():
    """For compute capability 9.0; the forward pass keeps everything in registers."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("triton_resources.py")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, env=environment
    )
    used = json.loads(done.stdout)
    print("\n".join(f"{name}: {resources}" for name, resources in used.items()))
    for name, resources in used.items():
        assert resources["local"] == 0
        if name.startswith("forward"):
            assert resources["stack"] == 0  # no spill
        assert resources["stack"] <= (32 if "complex" in name else 288)  # 32: of sine and cosine
        assert resources["shared"] <= 1024
