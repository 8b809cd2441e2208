"""The NumPy reference of the selective scan, against scipy, mpmath and ssmlab."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from ssmlab import StateSpace, lti, selective_scan
from ssmlab.selective import METHODS


def problem(seed=0, batch=2, length=7, channels=4, state=3, form="step", kind="float64"):
    """Random x, dt, A, B, C; ``form`` is how B and C depend on time."""
    rng = np.random.default_rng(seed)
    shape = {
        "step": (batch, length, state),
        "group": (batch, length, 2, state),
        "constant": (channels, state),
    }[form]

    def normal(*shape):
        value = rng.normal(size=shape)
        return value + 1j * rng.normal(size=shape) if kind == "complex128" else value

    x = rng.normal(size=(batch, length, channels))
    dt = rng.uniform(0.01, 1, size=x.shape)
    A = -rng.uniform(0.1, 2, size=(channels, state)) + 0 * normal(channels, state)
    if kind == "complex128":
        A = A + 1j * rng.normal(size=A.shape)
    return x, dt, A, normal(*shape), normal(*shape)


@pytest.mark.parametrize("kind", ["float64", "complex128"])
@pytest.mark.parametrize("form", ["step", "group", "constant"])
@pytest.mark.parametrize("method", METHODS)
def test_is_the_written_out_sum(method, form, kind):
    """y_i = sum_j C_i (prod of A_bar over j+1..i) B_bar_j x_j, term by term."""
    x, dt, A, B, C = problem(form=form, kind=kind)
    D, h0 = np.arange(4.0), np.random.default_rng(1).normal(size=(2, 4, 3)) * (1 + 0 * A)
    y, h = selective_scan(x, dt, A, B, C, D, h0=h0, method=method)

    def at(M, b, t, c):
        return {2: lambda: M[c], 3: lambda: M[b, t], 4: lambda: M[b, t, c // 2]}[M.ndim]()

    for b, t, c in np.ndindex(x.shape):
        total = np.exp(A[c] * dt[b, : t + 1, c].sum()) * h0[b, c]
        for j in range(t + 1):
            z = dt[b, j, c] * A[c]
            weight = dt[b, j, c] * ((np.exp(z) - 1) / z if method == "zoh" else 1)
            decay = np.exp(A[c] * dt[b, j + 1 : t + 1, c].sum())
            total = total + decay * weight * at(B, b, j, c) * x[b, j, c]
        out = (at(C, b, t, c) * total).sum()
        out = 2 * out.real if kind == "complex128" else out
        assert_allclose(y[b, t, c], out + D[c] * x[b, t, c], rtol=1e-11, atol=1e-12)
        if t == x.shape[1] - 1:
            assert_allclose(h[b, c], total, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_constant_steps_are_a_time_invariant_system(method):
    x, _, A, B, C = problem(form="constant", length=30)
    y, _ = selective_scan(x, np.full(x.shape, 0.3), A, B, C, method=method)
    for c in range(4):
        system = StateSpace(A[c], B[c], C[c]).discretize(0.3, method)
        assert_allclose(y[1, :, c], lti.convolution(system, x[1, :, c]), atol=1e-12)


def test_zoh_solves_the_differential_equation():
    """For an input that is constant over each step, to the tolerance of scipy's solver."""
    x, dt, A, B, C = problem(batch=1, length=3, channels=1, state=2)
    h = np.zeros(2)
    for t in range(3):
        force = B[0, t] * x[0, t, 0]
        solution = solve_ivp(
            lambda _, h, force=force: A[0] * h + force, (0, dt[0, t, 0]), h, rtol=1e-11, atol=1e-13
        )
        h = solution.y[:, -1]
    assert_allclose(selective_scan(x, dt, A, B, C, method="zoh")[1][0, 0], h, rtol=1e-9)


def test_the_theorem_of_gating():
    """N = 1, A = -1, B = 1, dt = softplus(s), zoh: h = (1 - g) h + g x, with g = sigmoid(s)."""
    s, x = np.random.default_rng(3).normal(size=(2, 1, 9, 1))
    g, h, gated = 1 / (1 + np.exp(-s)), 0.0, []
    for t in range(9):
        h = (1 - g[0, t, 0]) * h + g[0, t, 0] * x[0, t, 0]
        gated.append(h)
    one = [[1.0]]
    y, _ = selective_scan(x, np.log1p(np.exp(s)), [[-1.0]], one, one, method="zoh")
    assert_allclose(y[0, :, 0], gated, atol=1e-14)
    euler, _ = selective_scan(x, np.log1p(np.exp(s)), [[-1.0]], one, one)
    assert np.abs(euler - y).max() > 0.1


def test_to_forty_digits():
    x, dt, A, B, C = problem(batch=1, length=40, channels=1, state=1)
    with mpmath.workdps(40):
        h = mpmath.mpf(0)
        for t in range(40):
            step = mpmath.mpf(dt[0, t, 0])
            h = mpmath.exp(step * A[0, 0]) * h + step * B[0, t, 0] * x[0, t, 0]
        expected = float(h * C[0, -1, 0])
    assert_allclose(selective_scan(x, dt, A, B, C)[0][0, -1, 0], expected, rtol=1e-13)


def test_splitting_gives_the_whole():
    x, dt, A, B, C = problem(form="group", length=9, kind="complex128")
    whole, last = selective_scan(x, dt, A, B, C)
    first, h = selective_scan(x[:, :4], dt[:, :4], A, B[:, :4], C[:, :4])
    second, h = selective_scan(x[:, 4:], dt[:, 4:], A, B[:, 4:], C[:, 4:], h0=h)
    assert_allclose(np.concatenate([first, second], 1), whole, rtol=0, atol=0)
    assert_allclose(h, last, rtol=0, atol=0)


def test_is_float64_whatever_comes():
    x, dt, A, B, C = (v.astype(np.float32) for v in problem())
    y, h = selective_scan(x, dt, A, B, C)
    assert y.dtype == h.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": np.ones((7, 4))}, ValueError, r"x must have shape \(batch, length, channels\)"),
        ({"x": np.ones((2, 0, 4))}, ValueError, "no axis of size 0"),
        ({"dt": np.ones((2, 7, 1))}, ValueError, r"dt must have shape \(2, 7, 4\).*got \(2, 7, 1"),
        ({"dt": np.full((2, 7, 4), np.nan)}, ValueError, "dt must be finite"),
        ({"A": np.ones(4)}, ValueError, r"A must have shape \(4, state\)"),
        ({"A": np.ones((4, 0))}, ValueError, r"A must have shape \(4, state\)"),
        ({"B": np.ones((2, 7, 3, 3))}, ValueError, r"B must have shape .*divisor of 4"),
        ({"B": np.ones((2, 7, 2, 3)), "C": np.ones((2, 7, 4, 3))}, ValueError, "same groups"),
        ({"C": np.ones((2, 6, 3))}, ValueError, r"C must have shape \(2, 7, 3\)"),
        ({"C": np.ones((4, 3)) * 1j}, TypeError, "C must be real, as A is"),
        ({"dt": np.ones((2, 7, 4)) * 1j}, TypeError, "dt must be real"),
        ({"D": np.ones(3)}, ValueError, r"D must have shape \(4,\)"),
        ({"h0": np.ones((4, 3))}, ValueError, r"h0 must have shape \(2, 4, 3\)"),
        ({"method": "zho"}, ValueError, "did you mean 'zoh'"),
    ],
)
def test_a_wrong_argument_is_named(change, error, match, unchecked):
    arguments = dict(zip(("x", "dt", "A", "B", "C"), problem(), strict=True)) | change
    with pytest.raises(error, match=match):
        selective_scan(**arguments)
