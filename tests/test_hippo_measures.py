"""Every measure against its definition by integrals, published formulas and the projection."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.linalg
from numpy.polynomial import Chebyshev, Legendre
from numpy.testing import assert_allclose
from scipy.integrate import quad_vec

from ssmlab import discretize
from ssmlab.hippo import MEASURES, fourier, lagt, legs, legt, lmu, project_function

every_measure = pytest.mark.parametrize("name", MEASURES)
ENDLESS = [name for name, measure in MEASURES.items() if np.isinf(measure.oldest)]
WINDOWED = [name for name in MEASURES if name not in ENDLESS]
SIZES = [1, 2, 3, 8, 13]


# --- the measures ---------------------------------------------------------------------------------


@every_measure
def test_the_functions_are_orthogonal_under_the_weight(name):
    measure, N = MEASURES[name], 7

    def products(s: float) -> np.ndarray:
        phi = measure.basis(N, np.array(s))
        return measure.weight(np.array(s)) * np.outer(phi, phi)

    gram, _ = quad_vec(products, 0, measure.oldest, epsabs=1e-12, epsrel=1e-12)
    assert_allclose(gram, np.diag(measure.energy(N)), atol=1e-9)


@every_measure
def test_the_weight_is_a_density_and_the_basis_keeps_the_shape_of_s(name):
    measure = MEASURES[name]
    total, _ = quad_vec(lambda s: measure.weight(np.array(s)), 0, measure.oldest)
    assert_allclose(total, 1)
    s = np.linspace(0, 1, 6).reshape(2, 3)
    assert measure.basis(4, s).shape == measure.kernel(4, s).shape == (2, 3, 4)
    assert_allclose(measure.basis(4, s)[1, 2], measure.basis(4, s[1, 2]))


@pytest.mark.parametrize(("age", "name"), [(-0.1, "legs"), (1.1, "legt"), (-0.1, "fourier")])
def test_an_age_outside_the_window_is_refused(age, name):
    with pytest.raises(ValueError, match=r"s must be real, from 0 \(now\) to (1|inf); got .*"):
        MEASURES[name].kernel(3, [0.5, age])


# --- the matrices, from their definition ----------------------------------------------------------


@pytest.mark.parametrize("N", SIZES)
@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_past_is_remembered_exactly(name, N):
    """h(t) = int e^{sA} B x(t - s) ds is the projection exactly if e^{sA} B is the kernel."""
    A, B = MEASURES[name].dynamics(N)
    for s in (0.0, 0.3, 1.0, 4.0):
        e_sA = np.array(mpmath.expm(mpmath.matrix(s * A)).tolist(), dtype=float)
        assert_allclose(e_sA @ B, MEASURES[name].kernel(N, s), atol=1e-11)


@pytest.mark.parametrize("N", SIZES)
@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_follows_from_integration_by_parts(name, N):
    """h' = K(0) x(t) - K(1) x(t - 1) + int K'(s) x(t - s) ds, and then x(t - s) = phi(s) . h.

    What leaves the window is phi(1) . h for polynomials. A Fourier series gives the mean of both
    ends there, with the sign of its period, so that x(t - 1) = 2 phi(1) . h -+ x(t).
    """
    measure = MEASURES[name]
    doubled, newest = (2, (-1) ** N) if name == "fourier" else (1, 0)
    K_0, K_1 = measure.kernel(N, 0.0), measure.kernel(N, 1.0)
    slopes = [
        Chebyshev.interpolate(lambda s, n=n: measure.kernel(N, s)[..., n], 60, [0, 1]).deriv()
        for n in range(N)
    ]

    def inside(s: float) -> np.ndarray:
        return np.outer([slope(s) for slope in slopes], measure.basis(N, np.array(s)))

    integral, _ = quad_vec(inside, 0, 1, epsabs=1e-10, epsrel=1e-10)
    A, B = measure.dynamics(N)
    assert_allclose(A, integral - doubled * np.outer(K_1, measure.basis(N, np.ones(()))), atol=2e-8)
    assert_allclose(B, K_0 - newest * K_1, atol=1e-12)


@pytest.mark.parametrize("N", SIZES)
def test_legs_over_time_follows_from_its_integral(N):
    """t c' = phi(1) x - c - int r phi'(r) x dr, with x(r) = phi(r) . c inside."""
    phi = [np.sqrt(2 * n + 1) * Legendre.basis(n, [0, 1]) for n in range(N)]
    r = Legendre([0.5, 0.5], [0, 1])
    antiderivatives = [[(r * phi_n.deriv() * phi_k).integ() for phi_k in phi] for phi_n in phi]
    moments = [[F(1) - F(0) for F in row] for row in antiderivatives]
    A, B = legs(N)
    assert_allclose(A, -np.eye(N) - np.array(moments), atol=1e-11)
    assert_allclose(B, [p(1) for p in phi], rtol=1e-13)


# --- the matrices, from other formulas ------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 7])
@pytest.mark.parametrize("theta", [1.0, 2.0, 784.0])
def test_published_entries_one_by_one(N, theta):
    for n in range(N):
        for k in range(N):
            root = ((2 * n + 1) * (2 * k + 1)) ** 0.5
            below = root if n > k else (n + 1 if n == k else 0)
            assert_allclose(legs(N)[0][n, k], -below, rtol=1e-15)
            sign = 1 if k <= n else (-1) ** (n - k)
            assert_allclose(legt(N, theta)[0][n, k], -root * sign / theta, rtol=1e-15)
            voelker = (2 * n + 1) / theta * (-1 if n < k else (-1) ** (n - k + 1))
            assert_allclose(lmu(N, theta)[0][n, k], voelker, rtol=1e-14)
            assert lagt(N)[0][n, k] == (-1 if n >= k else 0)
        assert_allclose(legs(N)[1][n], (2 * n + 1) ** 0.5)
        assert_allclose(legt(N, theta)[1][n], (2 * n + 1) ** 0.5 / theta)
        assert_allclose(lmu(N, theta)[1][n], (2 * n + 1) * (-1) ** n / theta, rtol=1e-14)
        assert lagt(N)[1][n] == 1


@pytest.mark.parametrize("N", [1, 5, 64, 256])
def test_symmetric_parts_have_low_rank(N):
    n = np.arange(N)
    p, r, ones = np.sqrt(n + 0.5), np.sqrt(2 * n + 1), np.ones(N)
    A, _ = legs(N)
    assert_allclose(A + A.T, -np.eye(N) - 2 * np.outer(p, p), atol=1e-12)
    A, _ = legt(N, 2.0)
    alternating = (-1.0) ** n * r
    assert_allclose(2 * (A + A.T), -np.outer(r, r) - np.outer(alternating, alternating), atol=1e-12)
    A, _ = lagt(N)
    assert_allclose(A + A.T, -np.eye(N) - np.outer(ones, ones))
    A, B = fourier(N, 2.0)
    assert_allclose(A + A.T, -2 * np.outer(B, B), atol=1e-12)


def test_eigenvalues_of_legs_are_minus_one_to_minus_n():
    eigenvalues, _ = mpmath.eig(mpmath.matrix(legs(12)[0]))
    found = sorted(float(value.real) for value in eigenvalues)
    assert_allclose(found, np.arange(-12, 0), rtol=1e-6)  # the eigenvectors' condition is 1e6 here


@every_measure
@pytest.mark.parametrize("N", [1, 2, 3, 8, 63, 64, 256, 300])
def test_any_size_is_stable_float64_and_finite(name, N):
    A, B = MEASURES[name].dynamics(N)
    assert A.shape == (N, N)
    assert B.shape == (N,)
    assert A.dtype == B.dtype == np.float64
    units = np.sqrt(MEASURES[name].energy(N))  # orthonormal coordinates, where no A lets h grow
    growth = scipy.linalg.eigvalsh((units[:, None] * A / units) + (units[:, None] * A / units).T)
    assert growth[-1] <= 1e-9
    if N <= 64:
        assert np.linalg.eigvals(A).real.max() < -0.3


@pytest.mark.parametrize("system", [legt, lmu, fourier])
def test_theta_is_a_change_of_time_unit(system):
    A, B = system(6)
    A_2, B_2 = system(6, 2.5)
    assert_allclose(2.5 * A_2, A)
    assert_allclose(2.5 * B_2, B)


# --- what the state is ----------------------------------------------------------------------------


def state_at(name: str, N: int, t: float, dt: float = 1e-3) -> np.ndarray:
    """Run h' = A h + B x from nothing at time 0, with the input held over fine steps."""
    A_bar, B_bar = discretize.zoh(*MEASURES[name].dynamics(N), dt)
    h = np.zeros(N)
    for k in range(round(t / dt)):
        h = A_bar @ h + B_bar * past((k + 0.5) * dt)
    return h


def past(t: np.ndarray | float) -> np.ndarray | float:
    """A smooth input, different at the two ends of the window [1, 2]."""
    return np.sin(3 * t) + 0.5 * np.cos(7 * t)


@pytest.mark.parametrize(
    ("name", "N", "error"),
    [
        ("legs", 9, 1e-5),
        ("lagt", 9, 1e-5),
        ("legt", 12, 2e-3),
        ("lmu", 12, 2e-3),
        ("fourier", 65, 0.08),
    ],
)
def test_the_state_is_the_projection_of_the_past(name, N, error):
    measure, t = MEASURES[name], 2.0
    integrand = lambda s: measure.kernel(N, s) * past(t - s)  # noqa: E731
    projection, _ = quad_vec(integrand, 0, min(measure.oldest, t), epsrel=1e-10)
    projection, h = (
        value * np.sqrt(measure.energy(N)) for value in (projection, state_at(name, N, t))
    )
    distance = np.linalg.norm(h - projection) / np.linalg.norm(projection)
    assert distance < error


def test_legt_converges_to_the_projection_fast():
    exact = project_function(lambda r: past(1 + r), 20)
    errors = [np.linalg.norm(state_at("legt", N, 2.0) - exact[:N]) for N in (4, 8, 12)]
    assert errors[1] < errors[0] / 5
    assert errors[2] < errors[1] / 5


@pytest.mark.parametrize("parity", [0, 1])
def test_fourier_kernels_end_with_the_window(parity):
    """Without the factor 2 a fifth of the kernel stays behind, whatever N."""
    energy_left = []
    for N in (8 + parity, 128 + parity):
        A, B = fourier(N)
        e_A = scipy.linalg.expm(A)
        gramian = scipy.linalg.solve_continuous_lyapunov(A, -np.outer(e_A @ B, e_A @ B))
        energy_left.append(gramian[0, 0])
    assert energy_left[1] < energy_left[0] / 8 < 0.02


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@every_measure
@pytest.mark.parametrize(("N", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError)])
def test_a_bad_size_is_refused(name, N, error):
    with pytest.raises(error, match=r"^N must be .*; got .*: pass"):
        MEASURES[name].dynamics(N)


@pytest.mark.parametrize("system", [legt, lmu, fourier])
@pytest.mark.parametrize("theta", [0.0, -1.0, np.inf, np.nan])
def test_a_bad_window_is_refused(system, theta):
    with pytest.raises(ValueError, match=r"^theta must be .*; got .*: pass"):
        system(3, theta)
