"""The selective scan in torch: every backend, option and type against the NumPy reference."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scan_cases import (
    FORMS,
    PAIRS,
    assert_close,
    gradients,
    problem,
    reference,
    run,
    wide,
)
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import ssmlab
from ssmlab.ops import selective_scan, selective_scan_step

BACKENDS = ["torch", "cpu"]


#: Every pair, and every type: no code of the loop or the kernel is for a form *and* a type.
CASES = [(*pair, "float64", False) for pair in PAIRS]
CASES += [(form, form, "float64", True) for form in FORMS]
CASES += [("group", "group", "float32", complex_A) for complex_A in (False, True)]


@pytest.mark.parametrize(("B", "C", "dtype", "complex_A"), CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_against_the_reference(backend, B, C, dtype, complex_A):
    p = problem(B=B, C=C, complex_A=complex_A, dtype=dtype)
    y, h = run(p, backend)
    expected_y, expected_h = reference(**p)
    tolerance = 1e-13 if dtype == "float64" else 1e-6
    assert y.dtype == p["x"].dtype
    assert_close(y, expected_y, tolerance)
    assert_close(h, expected_h, tolerance)


@pytest.mark.parametrize("without", ["D", "z", "dt_bias", "h0", "softplus"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_options_left_out(backend, without):
    p = problem()
    p["dt"] = p["dt"].abs()
    softplus = without != "softplus"
    p.pop(without, None)
    y, h = run(p, backend, softplus=softplus)
    expected_y, expected_h = reference(**p, softplus=softplus)
    assert_close(y, expected_y, 1e-13)
    assert_close(h, expected_h, 1e-13)


@pytest.mark.parametrize(
    ("batch", "length", "channels", "state"),
    [(1, 1, 1, 1), (3, 2, 2, 5), (1, 32, 2, 8), (1, 65, 34, 16), (2, 99, 2, 17), (2, 33, 130, 3)],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sizes(backend, batch, length, channels, state):
    """One, odd, around a chunk of 32 and a block of 64; gradients against torch's own."""
    p = problem(batch, length, channels, state, B="group" if channels > 1 else "step", C="constant")
    assert_close(run(p, backend)[0], reference(**p)[0], 1e-12)
    expected = gradients(p, "torch")
    for name, value in gradients(p, backend).items():
        assert_close(value, expected[name], 1e-11)


@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_finite_differences(form, complex_A):
    p = problem(1, 3, 2, 1, B=form, C=form, complex_A=complex_A)
    names = list(p)
    values = [p[n].requires_grad_() for n in names]

    def function(*values):
        return run(dict(zip(names, values, strict=True)), "cpu")

    assert gradcheck(function, values)


@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
def test_gradients_in_single_precision(complex_A):
    p = problem(2, 70, 130, 4, B="group", C="group", complex_A=complex_A, dtype="float32")
    expected = gradients(wide(p), "torch")
    for name, value in gradients(p, "cpu").items():
        assert_close(value, expected[name], 1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_rounds_the_result_only(backend, dtype):
    p = problem(dtype=dtype, length=40)
    y, h = run(p, backend)
    expected_y, expected_h = reference(**p)
    assert y.dtype == p["x"].dtype
    assert h.dtype == torch.float32
    assert_close(y, expected_y, torch.finfo(y.dtype).eps)
    assert_close(h, expected_h, 1e-6)
    expected = gradients(wide(p), "torch")
    for name, value in gradients(p, backend).items():
        assert value.dtype == p[name].dtype
        assert_close(value, expected[name], 4 * torch.finfo(value.dtype).eps + 1e-5)


def test_second_derivative_of_the_loop():
    p = problem(1, 2, 2, 1)
    del p["h0"], p["D"]
    values = [v.requires_grad_() for v in p.values()]
    assert gradgradcheck(
        lambda *v: run(dict(zip(p, v, strict=True)), "torch")[0], values, atol=1e-4
    )


def test_second_derivative_of_the_kernel_is_refused():
    p = problem()
    x = p["x"].requires_grad_()
    with pytest.raises(RuntimeError, match=r"no second derivative.*use backend='torch'"):
        torch.autograd.grad(run(p, "cpu")[0].sum(), x, create_graph=True)


def test_many_gradients_at_a_time():
    p = problem()
    x = p["x"].requires_grad_()
    many = torch.randn(3, *x.shape, dtype=x.dtype)
    right = [torch.autograd.grad(run(p, "torch")[0], x, one)[0] for one in many]
    found = torch.autograd.grad(run(p, "torch")[0], x, many, is_grads_batched=True)[0]
    assert_close(found, torch.stack(right), 1e-12)
    with pytest.raises(RuntimeError, match=r"one gradient at a time.*use backend='torch'"):
        torch.autograd.grad(run(p, "cpu")[0], x, many, is_grads_batched=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # torch's own, in make_dual
def test_forward_mode():
    """The derivative in a direction, beside a difference quotient."""
    p = problem()
    direction = torch.randn_like(p["x"])
    with forward_ad.dual_level():
        y, h = run(p | {"x": forward_ad.make_dual(p["x"], direction)}, "auto")
        found = [forward_ad.unpack_dual(v).tangent for v in (y, h)]
    ends = (run(p | {"x": p["x"] + s * direction}, "cpu") for s in (1e-6, -1e-6))
    for tangent, above, below in zip(found, *ends, strict=True):
        assert_close(tangent, (above - below) / 2e-6, 1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend):
    p = problem(2, 9, 6, 4, B="group", C="group")
    strided = {
        k: v.transpose(1, 2).contiguous().transpose(1, 2) if v.ndim > 2 else v for k, v in p.items()
    }
    wider = {k: torch.cat([v, v], -1)[..., : v.shape[-1]] for k, v in p.items()}
    expected = run(p, backend)[0]
    for q in (strided, wider):
        assert not q["x"].is_contiguous()
        assert_close(run(q, backend)[0], expected, 1e-13)
        ours, theirs = gradients(q, backend), gradients(p, backend)
        for name in p:
            assert_close(ours[name], theirs[name], 1e-13)


def test_conjugate_views_are_read_as_what_they_are():
    p = problem(complex_A=True)
    conjugate = p | {k: p[k].conj() for k in "ABC"}
    solid = p | {k: p[k].conj().resolve_conj() for k in "ABC"}
    assert_close(run(conjugate, "cpu")[0], run(solid, "torch")[0], 1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_splitting_gives_the_whole(backend):
    p = problem(1, 9, 4, 3)
    whole, last = run(p, backend)
    timed = ("x", "dt", "B", "C", "z")
    first = p | {k: p[k][:, :5] for k in timed}
    second = p | {k: p[k][:, 5:] for k in timed}
    y1, h = run(first, backend)
    y2, h = run(second | {"h0": h}, backend)
    assert_close(torch.cat([y1, y2], 1), whole, 1e-13)
    assert_close(h, last, 1e-13)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_step_by_step_is_the_whole(backend, form):
    p = problem(B=form, C=form)
    whole, last = run(p, backend)
    h, samples = p["h0"], []
    for t in range(7):
        at = {k: p[k][:, t] for k in ("x", "dt", "z")}
        at |= {k: p[k] if form == "constant" else p[k][:, t : t + 1] for k in "BC"}
        y, h = selective_scan_step(**p | at | {"h0": h}, softplus=True, backend=backend)
        samples.append(y)
    assert_close(torch.stack(samples, 1), whole, 1e-13)
    assert_close(h, last, 1e-13)


def test_a_step_needs_no_gate():
    p = problem(2, 1, 4, 3)
    del p["z"]
    y, _ = selective_scan_step(**p | {k: p[k][:, 0] for k in ("x", "dt")}, backend="torch")
    assert_close(y, run(p, "torch", softplus=False)[0][:, 0], 1e-15)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_in_every_run(threads):
    """Also for another number of threads."""
    p = problem(2, 130, 70, 16, dtype="float32")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = [*run(p, "cpu"), *gradients(p, "cpu").values()]
        torch.set_num_threads(threads)
        for _ in range(2):
            got = [*run(p, "cpu"), *gradients(p, "cpu").values()]
            assert all(map(torch.equal, got, expected))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_channel_and_starts_at_its_time(backend):
    for name in ("x", "dt"):
        p = problem(1, 70, 66, 4, dtype="float32")
        p[name][0, 66, 33] = float("nan")
        y, _ = run(p, backend)
        bad = torch.zeros_like(y, dtype=torch.bool)
        bad[0, 66:, 33] = True
        assert torch.equal(y.isnan(), bad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", [0.0, 1e-7, 200.0])
@pytest.mark.parametrize("a", [0.0, 1e-3, -1e-3, -100.0])
def test_extreme_decays(a, step, dtype):
    """dt A from -20000, where e^z is 0, to 0.2; A may be slightly positive."""
    p = {k: v for k, v in problem(1, 20, 2, 2, dtype=dtype).items() if k in "xABCD"}
    p |= {"A": torch.full_like(p["A"], a), "dt": torch.full_like(p["x"], step)}
    expected, _ = reference(**p, softplus=False)
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    assert_close(run(p, "cpu", softplus=False)[0], expected, tolerance)
    ours, theirs = (gradients(q, b, softplus=False) for q, b in ((p, "cpu"), (wide(p), "torch")))
    for name in ("x", "B", "C", "A", "dt"):
        assert ours[name].isfinite().all()
        scale = theirs[name].abs().max() + 1e-30
        assert ((ours[name] - theirs[name]).abs().max() <= 10 * tolerance * scale).item()


def test_overflow_is_infinite():
    p = problem(1, 3, 1, 1, dtype="float32")
    p |= {"A": torch.full((1, 1), 50.0), "dt": torch.full((1, 3, 1), 10.0)}
    assert not run(p, "cpu", softplus=False)[1].isfinite().any()


def test_memory_of_the_gradient_is_that_of_a_few_inputs():
    """What the kernel keeps: the states at chunks, and parts of the gradients of B and C."""
    from ssmlab.ops.scan import numba_kernel

    p = problem(1, 4096, 256, 16, dtype="float32")
    plan = numba_kernel._Plan(p["x"], p["A"], p["B"], p["C"])
    parts = 2 * plan.parts(p["B"]).size
    saved = 4096 // numba_kernel.T * 256 * 16
    assert parts + saved <= 2 * p["x"].numel()


def test_the_gradient_of_the_loop_costs_linear_time():
    """No node of the graph makes a tensor of the size of x for one step."""
    p = problem(1, 50, 2, 2)
    p["x"].requires_grad_()
    y, _ = run(p, "torch")
    seen, stack = set(), [y.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [f for f, _ in node.next_functions]
    names = [node.name() for node in seen]
    assert "UnbindBackward0" in names
    assert "SelectBackward0" not in names


# --- which backend, and what is refused ----------------------------------------------------------


def test_auto_takes_the_kernel_on_a_cpu():
    p = problem(dtype="float32")
    assert torch.equal(run(p, "auto")[0], run(p, "cpu")[0])


def hide(monkeypatch, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a)
    )


def test_without_numba_auto_takes_the_loop(monkeypatch):
    hide(monkeypatch, "numba")
    p = problem(dtype="float32")
    assert torch.equal(run(p, "auto")[0], run(p, "torch")[0])
    with pytest.raises(ImportError, match=r"needs numba, which is not.*pip install numba"):
        run(p, "cpu")


def test_without_triton(monkeypatch):
    hide(monkeypatch, "triton")
    with pytest.raises(ImportError, match="needs triton, which is not installed"):
        run(problem(), "triton")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": np.ones((2, 7, 4))}, TypeError, "x must be a torch tensor; got a NumPy array"),
        ({"x": torch.ones(2, 7, 4, dtype=torch.int64)}, TypeError, "x must be of type float16"),
        (
            {"dt": torch.ones(2, 7, 4, device="meta")},
            ValueError,
            "dt must be on cpu, as x is; got meta",
        ),
        ({"dt": torch.ones(2, 7, 1)}, ValueError, r"dt must have shape \(2, 7, 4\)"),
        ({"z": torch.ones(7, 4)}, ValueError, r"z must have shape \(2, 7, 4\)"),
        ({"dt_bias": torch.ones(3)}, ValueError, r"dt_bias must have shape \(4,\)"),
        ({"B": torch.ones(2, 7, 3) * 1j}, TypeError, "B must be real, as A is"),
        ({"D": torch.ones(4) * 1j}, TypeError, "D must be real"),
        ({"backend": "cuda"}, ValueError, "backend must be one of"),
    ],
)
def test_a_wrong_argument_is_named(change, error, match, unchecked):
    with pytest.raises(error, match=match):
        selective_scan(**problem() | change)


def test_the_kernel_needs_tensors_on_the_cpu():
    p = {k: v.to("meta") for k, v in problem().items()}
    with pytest.raises(ValueError, match="backend 'cpu' needs tensors on the CPU; got meta"):
        run(p, "cpu")


def test_a_kernel_that_numba_keeps_on_disk_is_never_stale():
    """numba knows it by the text of its own file: so all that is compiled into it stands there."""
    from ssmlab.ops.scan import numba_kernel

    keeping = [
        path
        for path in Path(ssmlab.__file__).parent.rglob("*.py")
        if "cache=True" in path.read_text("utf8")
    ]
    assert keeping == [Path(numba_kernel.__file__)]
    nodes = [*ast.walk(ast.parse(keeping[0].read_text("utf8")))]
    ours = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module.startswith("ssmlab")]
    imported = {alias.asname or alias.name for n in ours for alias in n.names}
    kernels = [n for n in nodes if "no_type_check" in map(ast.unparse, decorators(n))]
    used = {n.id for kernel in kernels for n in ast.walk(kernel) if isinstance(n, ast.Name)}
    assert {"forward", "backward", "exp2"} <= {kernel.name for kernel in kernels}
    assert not imported & used


def decorators(node):
    return getattr(node, "decorator_list", [])


def test_torch_is_enough():
    """Importing the front door loads neither numba nor triton."""
    import subprocess

    code = "import sys, ssmlab.ops; print([m for m in ('numba', 'triton') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_gradients_of_y_alone_and_of_the_state_alone():
    p = problem()
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        expected = gradients(p, "torch", weights)
        for name, value in gradients(p, "cpu", weights).items():
            assert_allclose(value, expected[name], rtol=1e-11, atol=1e-12)


def test_torch_func_takes_the_loop():
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    A, B = -torch.rand(3, 2, dtype=torch.float64), torch.randn(2, 5, 2, dtype=torch.float64)

    def loss(A: torch.Tensor, x: torch.Tensor, B: torch.Tensor, **options: str) -> torch.Tensor:
        return selective_scan(x[None], x.abs()[None], A, B[None], B[None], **options).sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(A, x, B)
    for one, x_b, B_b in zip(found, x, B, strict=True):
        A_b = A.clone().requires_grad_()
        torch.testing.assert_close(one, *torch.autograd.grad(loss(A_b, x_b, B_b), A_b))
    with pytest.raises(ValueError, match=r"'auto' or 'torch' inside torch.func, .*got 'cpu'"):
        torch.func.grad(loss)(A, x[0], B[0], backend="cpu")
