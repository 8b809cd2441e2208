"""Projection and reconstruction against scipy, mpmath and the theory of Legendre series."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad_vec
from scipy.special import eval_legendre, roots_legendre, spherical_jn

from ssmlab.hippo import basis, basis_integral, gauss, merge, project, project_function, reconstruct

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 24)


def staircase_by_mpmath(x: np.ndarray, N: int) -> np.ndarray:
    """Integrate every step of the staircase against explicit polynomials, in 60 digits."""
    with mpmath.workdps(60):
        edges = [mpmath.mpf(2 * k) / len(x) - 1 for k in range(len(x) + 1)]
        P = [mpmath.taylor(lambda z, n=n: mpmath.legendre(n, z), 0, n)[::-1] for n in range(N)]
        areas = [[a / (n - i + 1) for i, a in enumerate(p)] + [0] for n, p in enumerate(P)]
        c = []
        for n in range(N):
            F = [mpmath.polyval(areas[n], z) for z in edges]
            steps = (x_k * (F[k + 1] - F[k]) for k, x_k in enumerate(x.tolist()))
            c.append(float(mpmath.sqrt(2 * n + 1) / 2 * mpmath.fsum(steps)))
    return np.array(c)


# --- the basis ------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 16, 256, 400])
def test_basis_is_scipys_legendre_polynomials(N):
    r = np.concatenate([[0, 1], np.linspace(0.01, 0.99, 50)])
    n = np.arange(N)
    expected = np.sqrt(2 * n + 1) * eval_legendre(n, 2 * r[:, None] - 1)
    assert_allclose(basis(N, r), expected, atol=1e-11)


def test_basis_keeps_its_digits_at_degree_255():
    r = np.array([0.0, 0.001, 0.3, 0.5, 0.987, 1.0])
    with mpmath.workdps(40):
        exact = [float(mpmath.legendre(255, 2 * mpmath.mpf(value) - 1)) for value in r]
    assert_allclose(basis(256, r)[:, 255], np.sqrt(511) * np.array(exact), atol=2e-12)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_basis_keeps_the_shape_of_r_and_computes_in_float64(shape):
    r = np.full(shape, 0.3, dtype="float32")
    for function in (basis, basis_integral):
        assert function(40, r).shape == (*shape, 40)
        assert_array_equal(function(40, r), function(40, r.astype("float64")), strict=True)


@pytest.mark.parametrize("N", [1, 2, 16, 256])
def test_basis_is_orthonormal(N):
    z, w = roots_legendre(N + 3)
    phi = basis(N, (z + 1) / 2)
    assert_allclose(phi.T * w / 2 @ phi, np.eye(N), atol=1e-11)


@pytest.mark.parametrize("N", [1, 2, 9])
def test_basis_integral_is_the_integral(N):
    for r in (0.0, 0.2, 0.77, 1.0):
        expected, _ = quad_vec(lambda u: basis(N, u), 0, r, epsabs=1e-13)
        assert_allclose(basis_integral(N, r), expected, atol=1e-12)


@pytest.mark.parametrize("nodes", [1, 2, 5, 64, 256, 500])
def test_gauss_integrates_all_degrees_below_twice_the_nodes(nodes):
    r, w = gauss(nodes)
    for degree in {0, 1, nodes, 2 * nodes - 1}:
        assert_allclose(w @ r**degree, 1 / (degree + 1), rtol=1e-12)
    phi = basis(nodes, r)
    assert_allclose(phi.T * w @ phi, np.eye(nodes), atol=1e-13)


def test_gauss_cannot_be_spoilt():
    r, _ = gauss(3)
    with pytest.raises(ValueError, match="read-only"):
        r[0] = 0


# --- projection -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "N"), [(1, 1), (1, 8), (2, 1), (7, 16), (60, 24), (1300, 5)])
def test_project_agrees_with_mpmath(length, N):
    x = np.random.default_rng(length).normal(size=length)
    assert_allclose(project(x, N), staircase_by_mpmath(x, N), atol=2e-15 * length**0.5)


def test_channels_are_projected_each_for_itself():
    x = np.random.default_rng(0).normal(size=(600, 3))
    c = project(x, 6)
    assert c.shape == (3, 6)
    for channel in range(3):
        assert_allclose(c[channel], project(x[:, channel], 6), atol=1e-15)


@given(seeds, sizes, st.integers(1, 40), st.integers(1, 12))
def test_project_is_linear_and_does_not_see_the_time_scale(seed, N, length, stretch):
    x, y = np.random.default_rng(seed).normal(size=(2, length))
    c = project(2 * x - 3 * y, N)
    assert_allclose(c, 2 * project(x, N) - 3 * project(y, N), atol=1e-13)
    assert_allclose(project(np.repeat(2 * x - 3 * y, stretch), N), c, atol=1e-13)


@given(seeds, sizes, st.integers(1, 40))
def test_no_other_coefficients_have_a_smaller_error(seed, N, length):
    """The energy of the staircase splits: what c holds, and the squared error."""
    x = np.random.default_rng(seed).normal(size=length)
    c = project(x, N)
    inside, w = gauss(N)  # exact for the square of the approximation within every step
    r = (np.arange(length)[:, None] + inside) / length
    error = np.mean((np.square(x[:, None] - reconstruct(c, r.ravel()).reshape(r.shape))) @ w)
    assert_allclose(error, np.mean(x**2) - c @ c, atol=1e-11)


@pytest.mark.parametrize("T", [1.0, 0.2, 30.0])
def test_project_function_agrees_with_adaptive_quadrature(T):
    def f(t: np.ndarray) -> np.ndarray:
        return np.exp(-t / T) * np.cos(9 * t / T)

    expected, _ = quad_vec(lambda r: basis(10, r) * f(T * r), 0, 1, epsabs=1e-13)
    assert_allclose(project_function(f, 10, T), expected, atol=1e-12)


def test_project_function_takes_channels_and_more_nodes():
    def f(t: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(300 * t), t], axis=-1)

    c = project_function(f, 3, nodes=400)
    assert c.shape == (2, 3)
    exact, _ = quad_vec(lambda t: np.sin(300 * t), 0, 1, epsabs=1e-12)
    assert_allclose(c[0, 0], exact, atol=1e-12)
    assert_allclose(c[1], [0.5, 1 / np.sqrt(12), 0], atol=1e-15)


# --- reconstruction -------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 256])
def test_reconstruct_sums_the_basis(N):
    rng = np.random.default_rng(N)
    c, r = rng.normal(size=(3, N)), rng.uniform(size=40)
    assert_allclose(reconstruct(c, r), basis(N, r) @ c.T, atol=1e-10)
    assert_allclose(reconstruct(c[0], r), basis(N, r) @ c[0], atol=1e-10)


@given(seeds, st.integers(1, 64))
def test_a_polynomial_comes_back(seed, N):
    c = np.random.default_rng(seed).normal(size=N)
    assert_allclose(project_function(lambda r: reconstruct(c, r), N), c, atol=1e-11)


def error_of(f, N: int) -> float:
    """Return the root mean square error of N coefficients, from Parseval's identity."""
    c = project_function(f, 300)
    return np.linalg.norm(c[N:])


def test_error_falls_geometrically_for_an_analytic_function():
    """For 1 / (1 + 25 z^2) by the factor (1 + sqrt(26)) / 5 a degree: its poles are at +-i/5."""
    f = lambda r: 1 / (1 + 25 * (2 * r - 1) ** 2)  # noqa: E731
    rate = (error_of(f, 41) / error_of(f, 81)) ** (1 / 40)
    assert_allclose(rate, (1 + np.sqrt(26)) / 5, rtol=5e-3)


@pytest.mark.parametrize(
    ("f", "order"), [(lambda r: 1.0 * (r > 0.3), 0.5), (lambda r: abs(r - 0.3), 1.5)]
)
def test_error_falls_as_a_power_at_a_jump_and_at_a_kink(f, order):
    """N^-1/2 for a jump, N^-3/2 for a jump of the slope, inside the interval."""
    x = f((np.arange(100_000) + 0.5) / 100_000)
    c = project(x, 400)
    energy = np.mean(x**2)
    N = np.array([25, 50, 100, 200, 400])
    errors = [np.sqrt(energy - c[:n] @ c[:n]) for n in N]
    assert_allclose(np.polyfit(np.log(N), np.log(errors), 1)[0], -order, atol=0.05)


@pytest.mark.parametrize("cycles", [72, 75, 80, 90])
def test_resolution_ends_at_n_over_pi_cycles(cycles):
    """Degree n of exp(i k z) is sqrt(2n+1) j_n(k), which falls beyond n = k = pi cycles."""
    N, (r, w) = 256, gauss(800)
    wave = np.stack([np.cos(2 * np.pi * cycles * r), np.sin(2 * np.pi * cycles * r)], axis=-1)
    c = project_function(lambda t: wave, N, nodes=800)
    error = np.sqrt(w @ np.square(reconstruct(c, r) - wave).sum(axis=-1))
    n = np.arange(N, 1000)
    tail = np.sum((2 * n + 1) * spherical_jn(n, np.pi * cycles) ** 2)
    assert_allclose(error, np.sqrt(tail), rtol=1e-6)
    assert (error < 0.1) == (cycles < N / np.pi)


# --- merging intervals ----------------------------------------------------------------------------


@given(seeds, sizes, st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_merged_pieces_are_the_projection_of_the_whole(seed, N, lengths):
    x = np.random.default_rng(seed).normal(size=sum(lengths))
    pieces = [project(part, N) for part in np.split(x, np.cumsum(lengths)[:-1])]
    assert_allclose(merge(pieces, lengths), project(x, N), atol=1e-13)
    assert_allclose(merge(pieces, [0.1 * length for length in lengths]), project(x, N), atol=1e-13)


def test_merge_at_256_coefficients_with_very_unequal_lengths():
    x = np.random.default_rng(0).normal(size=3000)
    pieces = [project(x[:2999], 256), project(x[2999:], 256)]
    assert_allclose(merge(pieces, [2999, 1]), project(x, 256), atol=1e-13)
    kept = merge([pieces[0], pieces[1]], [1e15, 1])
    assert_allclose(kept, pieces[0], atol=1e-11)


def test_merge_takes_channels():
    x = np.random.default_rng(0).normal(size=(30, 2))
    assert_allclose(
        merge([project(x[:9], 4), project(x[9:], 4)], [9, 21]), project(x, 4), atol=1e-14
    )


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [[-0.1], [0.5, 1.001], 2.0, [0.5j]])
def test_a_fraction_outside_the_interval_is_refused(r):
    for function in (lambda: basis(3, r), lambda: reconstruct(np.ones(3), r)):
        with pytest.raises(ValueError, match=r"^r must be real, from 0 to 1; got .*: divide"):
            function()


@pytest.mark.parametrize("x", [[], 1.0, [1j], np.zeros((2, 2, 2))])
def test_a_signal_of_the_wrong_shape_is_refused(x):
    with pytest.raises(ValueError, match=r"^x must be real, of shape .*; got .*: put time on"):
        project(x, 3)


def test_a_sample_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"^x must be finite; got nan at index \(2,\)"):
        project([0.0, 1.0, np.nan], 3)


@pytest.mark.parametrize("c", [[], 1.0, [1j], np.zeros((2, 2, 2))])
def test_coefficients_of_the_wrong_shape_are_refused(c):
    with pytest.raises(ValueError, match=r"^c must be real, of shape .*; got .*: put the state"):
        reconstruct(c, [0.5])


def test_a_function_that_does_not_take_arrays_is_refused():
    with pytest.raises(ValueError, match=r"^f must return one value for each of the 12 times"):
        project_function(lambda t: [1.0], 3)


@pytest.mark.parametrize(
    ("pieces", "lengths"),
    [([], []), ([[1.0]], []), ([[1.0], [1.0, 2.0]], [1, 1]), ([[1.0]], [1, 2])],
)
def test_pieces_that_do_not_fit_are_refused(pieces, lengths):
    with pytest.raises(ValueError, match=r"^pieces must be arrays of one shape, and lengths one"):
        merge(pieces, lengths)


def test_a_piece_without_length_is_refused():
    with pytest.raises(ValueError, match=r"^lengths must be positive; got 0.0"):
        merge([[1.0], [2.0]], [1, 0])


def test_lengths_may_be_as_large_as_a_float():
    pieces = [[1.0, 0.0], [2.0, 0.0]]
    assert_array_equal(merge(pieces, [1e308, 1e308]), merge(pieces, [1, 1]))
