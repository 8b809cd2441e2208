"""Every discretization against scipy, mpmath, its order of accuracy and its stability map."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ssmlab import DiscreteStateSpace, StateSpace, lti
from ssmlab.discretize import (
    METHODS,
    backward_euler,
    bilinear,
    euler,
    exponential_euler,
    foh,
    gbt,
    phi1,
    phi2,
    zoh,
)

EPS = np.finfo(float).eps
every_method = pytest.mark.parametrize("method", METHODS)

# What each method should do, written down apart from the code. Tests take each method from METHODS,
# so that a new one without a line in these tables fails.
SCIPY = {
    "zoh": "zoh",
    "bilinear": "bilinear",
    "euler": "euler",
    "backward_euler": "backward_diff",
    "gbt": "gbt",
    "foh": "foh",
    "exponential_euler": None,  # scipy has none; mpmath covers it below
}
ORDER = {"foh": 2} | dict.fromkeys(METHODS.keys() - {"foh"}, 1)
STABLE = {
    "zoh": lambda z: z.real < 0,
    "foh": lambda z: z.real < 0,
    "exponential_euler": lambda z: z.real < 0,
    "bilinear": lambda z: z.real < 0,
    "gbt": lambda z: z.real < 0,
    "euler": lambda z: abs(1 + z) < 1,
    "backward_euler": lambda z: abs(1 - z) > 1,
}


# --- phi functions -------------------------------------------------------------------------------


def phi_by_mpmath(order: int, z: complex) -> complex:
    """Evaluate (e^z - 1)/z or (e^z - 1 - z)/z^2 with digits to spare."""
    with mpmath.workdps(650):
        w = mpmath.mpmathify(z)
        value = mpmath.exp(w) - 1 - (w if order == 2 else 0)
        return complex(value / w**order) if w else 1 / order


RADII = np.concatenate([np.logspace(-300, -20, 15), np.logspace(-19, 2.8, 400)])


@pytest.mark.parametrize(
    "direction", [1, -1, 1j, -1j, *np.exp(2j * np.pi * np.arange(1, 8, 2) / 9)]
)
@pytest.mark.parametrize(("order", "phi"), [(1, phi1), (2, phi2)])
def test_phi_is_exact_to_a_few_ulp(order, phi, direction):
    z = RADII * direction
    exact = np.array([phi_by_mpmath(order, z_k) for z_k in z.tolist()])
    assert (np.abs(phi(z) - exact) <= 8 * EPS * np.abs(exact)).all()


def test_phi_at_zero_keeps_shape_and_type():
    for dtype in ("float32", "float64", "complex64", "complex128"):
        z = np.zeros((2, 1, 3), dtype)
        assert_array_equal(phi1(z), np.ones_like(z), strict=True)
        assert_array_equal(phi2(z), np.full_like(z, 0.5), strict=True)
    assert phi1(0).shape == phi2(0).shape == ()


# --- against scipy and mpmath --------------------------------------------------------------------


@pytest.mark.parametrize("method", [method for method in METHODS if SCIPY[method]])
@pytest.mark.parametrize("dt", [0.01, 1.0])
def test_agrees_with_cont2discrete(method, dt, random_system):
    options = {"alpha": 0.3} if method == "gbt" else {}
    system = random_system(1, state=4, inputs=2, outputs=3)
    A, B, C, D, _ = scipy.signal.cont2discrete(
        (system.A, system.B, system.C, system.D), dt, SCIPY[method], **options
    )
    ours = system.discretize(dt, method, **options)
    if method == "foh":  # scipy's state has absorbed the previous input: compare translated systems
        ours = ours.to_scipy()
        assert_allclose(ours.C, C)
        assert_allclose(ours.D, D, rtol=1e-12)
        assert_allclose(ours.A, A, rtol=1e-12)
        assert_allclose(ours.B, B, rtol=1e-12)
    else:
        assert_allclose(ours.A_bar, A, rtol=1e-12)
        assert_allclose(ours.B_bar, B, rtol=1e-12)
        assert_array_equal(ours.C, system.C)
        assert_array_equal(ours.D, system.D)


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 1])
def test_scipys_other_c_and_d_average_the_input(alpha, random_system):
    """scipy's gbt is our A_bar and B_bar with x_k and x_{k-1} weighted alpha and 1 - alpha."""
    system = random_system(2, state=4, inputs=2, outputs=3)
    A_bar, B_bar = gbt(system.A, system.B, 0.3, alpha)
    averaged = DiscreteStateSpace(
        A_bar, alpha * B_bar, system.C, system.D, 0.3, B_prev=(1 - alpha) * B_bar
    )
    matrices = (system.A, system.B, system.C, system.D)
    theirs = scipy.signal.cont2discrete(matrices, 0.3, "gbt", alpha=alpha)
    x = np.random.default_rng(0).normal(size=(50, 2))
    _, y, _ = scipy.signal.dlsim(theirs, x)
    assert_allclose(averaged.simulate(x)[0], y, atol=1e-13)


MATRICES = {
    "double integrator": ([[0, 1], [0, 0]], [0, 1]),
    "singular": ([[-1, 1], [2, -2]], [[1, 0.5], [3, -1]]),
    "stiff": ([[-40, 3], [1, -0.01]], [1, 1]),
    "defective": ([[-2, 1], [0, -2]], [1, 1]),
    "diagonal": ([-1.5, 0, 1e-9, -30], [1, 2, 3, 4]),
    "complex diagonal": ([-0.5 + 3j, -1e-8 + 1e-8j], [[1, 1j], [2 - 1j, 0]]),
}


def by_mpmath(method: str, A: np.ndarray, B: np.ndarray, dt: float) -> list[np.ndarray]:
    """Discretize with 60 digits, each function of A by its power series."""
    with mpmath.workdps(60):
        M = mpmath.matrix((np.diag(A) if A.ndim == 1 else A).tolist()) * mpmath.mpf(dt)
        B = mpmath.matrix(B.reshape(len(A), -1).tolist()) * mpmath.mpf(dt)
        eye = mpmath.eye(len(A))

        def series(shift: int) -> mpmath.matrix:
            total, term = 0 * eye, eye / mpmath.factorial(shift)
            for k in range(1, 400):
                total, term = total + term, term * M / (k + shift)
            return total

        if method in ("bilinear", "gbt", "backward_euler"):
            alpha = mpmath.mpf(1) if method == "backward_euler" else mpmath.mpf(1) / 2
            inverse = (eye - alpha * M) ** -1
            result = [inverse * (eye + (1 - alpha) * M), inverse * B]
        else:
            result = {
                "euler": lambda: [eye + M, B],
                "exponential_euler": lambda: [series(0), B],
                "zoh": lambda: [series(0), series(1) * B],
                "foh": lambda: [series(0), series(2) * B, (series(1) - series(2)) * B],
            }[method]()
        return [np.array(m.tolist(), complex) for m in result]


@every_method
@pytest.mark.parametrize("name", MATRICES)
def test_agrees_with_sixty_digits(method, name):
    A, B = (np.array(M, complex if "complex" in name else float) for M in MATRICES[name])
    A_bar, *rest = METHODS[method](A, B, 0.7)
    got = [np.diag(A_bar) if A.ndim == 1 else A_bar, *rest]
    for ours, exact in zip(got, by_mpmath(method, A, B, 0.7), strict=True):
        atol = 4 * EPS * np.abs(exact).max()
        assert_allclose(ours.reshape(exact.shape), exact, rtol=1e-13, atol=atol)


@every_method
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_diagonal_is_the_dense_diagonal(method, dtype, random_system):
    system = random_system(3, inputs=2, diagonal=True, dtype=dtype)
    A_bar, *rest = METHODS[method](system.A, system.B, 0.3)
    dense_A_bar, *dense_rest = METHODS[method](np.diag(system.A), system.B, 0.3)
    assert_allclose(np.diag(A_bar), dense_A_bar, atol=1e-14)
    for B, dense_B in zip(rest, dense_rest, strict=True):
        assert_allclose(B, dense_B, atol=1e-14)


@every_method
def test_inputs_do_not_mix(method, random_system):
    system = random_system(4, inputs=2)
    for column in range(2):
        for together, alone in zip(
            METHODS[method](system.A, system.B, 0.3)[1:],
            METHODS[method](system.A, system.B[:, column], 0.3)[1:],
            strict=True,
        ):
            assert_allclose(together[:, column], alone, rtol=1e-12)


# --- what each method promises -------------------------------------------------------------------


@every_method
def test_order_of_accuracy_on_a_sine(method):
    """The error at t = 4 falls by 2^order when the step is halved."""
    a = -1.3
    exact = (np.exp(a * 4) - np.cos(4) - a * np.sin(4)) / (1 + a**2)
    errors = []
    for steps in (200, 400):
        dt = 4 / steps
        x = np.sin(dt * np.arange(1, steps + 1))
        y, _ = StateSpace([a], [1], [1]).simulate(x, dt, method=method)
        errors.append(abs(y[-1] - exact))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(ORDER[method], abs=0.02)


@every_method
def test_stability_map(method):
    """The set of dt * lambda for which the recurrence is stable."""
    z = np.add.outer(np.linspace(-4.05, 4, 47), 1j * np.linspace(-4, 4, 41)).ravel()
    A_bar = METHODS[method](z, np.ones(z.size), 1.0)[0]
    assert_array_equal(np.abs(A_bar) < 1, STABLE[method](z))


def integrate(system: StateSpace, x: list[float], dt: float, *, line: bool) -> np.ndarray:
    """Return the states at the ends of the steps, by an ODE solver that knows no matrix."""
    h, states, old = np.zeros(system.state), [], 0.0
    for new in x:

        def slope(t: float, h: np.ndarray, old: float = old, new: float = new) -> np.ndarray:
            return system.A @ h + system.B * (old + (new - old) * t / dt if line else new)

        h = scipy.integrate.solve_ivp(slope, (0, dt), h, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        states.append(h)
        old = new
    return np.array(states)


@pytest.mark.parametrize(("method", "line"), [("zoh", False), ("foh", True)])
def test_exact_on_its_own_kind_of_input(method, line):
    """Zero-order hold on a staircase, first-order hold on straight lines."""
    spring = StateSpace([[0, 1], [-4, -0.4]], [0, 1], [1, 0])
    x = [1.0, -2.0, 0.5, 3.0, 3.0, 0.0]
    _, h = spring.simulate(x, 0.8, method=method)
    assert_allclose(h, integrate(spring, x, 0.8, line=line), atol=1e-10)


@every_method
def test_only_dt_a_and_dt_b_matter(method, random_system):
    """K(dt, A, B) = K(50 dt, A/50, B/50): the step size is a time scale."""
    s = random_system(5)
    K = lti.kernel(s.discretize(0.1, method), 64)
    slowed = StateSpace(s.A / 50, s.B / 50, s.C, s.D).discretize(5, method)
    assert_allclose(lti.kernel(slowed, 64), K, atol=1e-14)


def test_gbt_contains_the_three_rules(random_system):
    s = random_system(6)
    for alpha, rule in ((0, euler), (0.5, bilinear), (1, backward_euler)):
        for got, expected in zip(gbt(s.A, s.B, 0.2, alpha), rule(s.A, s.B, 0.2), strict=True):
            assert_allclose(got, expected, rtol=1e-14)


def test_mambas_rule_differs_from_zero_order_hold_by_phi1():
    ratio = zoh([-1.6, -16], [1, 1], 1)[1] / exponential_euler([-1.6, -16], [1, 1], 1)[1]
    assert_allclose(ratio, [0.4988, 0.0625], atol=1e-4)


@given(a=st.floats(-50, 50), dt=st.floats(1e-6, 10), x=st.floats(-1e3, 1e3))
def test_holds_agree_on_a_constant_input(a, dt, x):
    """With x_k = x_{k-1} there is nothing between the samples to disagree about."""
    _, B_bar = zoh([a], [x], dt)
    _, B_new, B_prev = foh([a], [x], dt)
    assert_allclose(B_new + B_prev, B_bar, rtol=1e-12)


# --- types and bad input -------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_types_are_kept(method, diagonal, dtype, random_system):
    s = random_system(7, diagonal=diagonal, dtype=dtype)
    for got in METHODS[method](s.A, s.B, 0.1):
        assert got.dtype == dtype
    for got in METHODS[method](s.A, s.B.real.astype("float32"), 0.1):
        assert got.dtype == dtype


@every_method
def test_integers_become_float64(method):
    for got in METHODS[method]([[0, 1], [-4, -1]], [0, 1], 1):
        assert got.dtype == "float64"


def test_float32_step_size_is_one_number(unchecked):
    assert_allclose(zoh([-1.0], [1.0], np.float32(0.5))[0], np.exp(-0.5), rtol=1e-14)


A, B = [[0, 1], [-4, -1]], [0, 1]
BAD = {
    "not square": (
        (np.ones((2, 3)), B, 0.1),
        ValueError,
        r"A must be a square .* got shape \(2, 3\)",
    ),
    "three axes": ((np.ones((2, 2, 2)), B, 0.1), ValueError, "A must be a square"),
    "a number": ((2.0, B, 0.1), ValueError, "A must be a square"),
    "no state": (([], [], 0.1), ValueError, "A must be a square"),
    "ragged": (([[1, 2], [3]], B, 0.1), ValueError, "A must be a rectangular array"),
    "text": (
        ([["a", "b"], ["c", "d"]], B, 0.1),
        TypeError,
        "A must hold real or complex .* dtype <U1",
    ),
    "objects": (([[None, 1], [1, 1]], B, 0.1), TypeError, "A must hold .* dtype object"),
    "booleans": (([[True, False], [False, True]], B, 0.1), TypeError, "A must hold .* dtype bool"),
    "half floats": ((np.ones((2, 2), "float16"), B, 0.1), TypeError, "A must hold .* float16"),
    "nan": (
        ([[0, np.nan], [1, 1]], B, 0.1),
        ValueError,
        r"A must be finite; got nan at index \(0, 1\)",
    ),
    "B too long": ((A, [1, 2, 3], 0.1), ValueError, r"B must have shape \(2,\) .* got \(3,\)"),
    "B is a row": ((A, [[0, 1]], 0.1), ValueError, r"B must have shape \(2,\) .* got \(1, 2\)"),
    "B has no input": ((A, np.ones((2, 0)), 0.1), ValueError, r"B must have shape"),
    "B is a number": ((A, 1.0, 0.1), ValueError, r"B must have shape"),
    "B infinite": ((A, [0, np.inf], 0.1), ValueError, r"B must be finite; got inf at index \(1,\)"),
    "dt zero": ((A, B, 0), ValueError, "dt must be positive; got 0.0"),
    "dt negative": ((A, B, -0.1), ValueError, "dt must be positive; got -0.1"),
    "dt nan": ((A, B, np.nan), ValueError, "dt must be finite; got nan"),
    "dt infinite": ((A, B, np.inf), ValueError, "dt must be finite; got inf"),
    "dt an array": ((A, B, np.array([0.1])), TypeError, r"dt must be one real .* shape \(1,\)"),
    "dt text": ((A, B, "0.1"), TypeError, "dt must be one real number; got '0.1' of type str"),
    "dt complex": ((A, B, 0.1j), TypeError, "dt must be one real number"),
    "dt missing": ((A, B, None), TypeError, "dt must be one real number; got None"),
    "dt boolean": ((A, B, True), TypeError, "dt must be one real number"),
}


@every_method
@pytest.mark.parametrize("case", BAD)
def test_bad_input(method, case, unchecked):
    arguments, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        METHODS[method](*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan, "half"])
def test_bad_alpha(alpha, unchecked):
    with pytest.raises((ValueError, TypeError), match="alpha must"):
        gbt(A, B, 0.1, alpha)


@pytest.mark.parametrize("form", [np.asarray, np.diag])
def test_implicit_rule_at_its_pole(form):
    """At dt a = 2 the bilinear rule divides by zero; backward Euler at dt a = 1."""
    message = "A must not have an eigenvalue at 20, where I - 0.5 dt A is singular for dt = 0.1"
    with pytest.raises(ValueError, match=message):
        bilinear(form([20.0, -1.0]), [1, 1], 0.1)
    with pytest.raises(ValueError, match="eigenvalue at 10"):
        backward_euler(form([10.0, -1.0]), [1, 1], 0.1)
    euler(form([20.0, -1.0]), [1, 1], 0.1)


def test_nearly_singular_is_singular_too():
    basis = np.array([[1.0, 1.0], [1.0, 1.1]])
    A = basis @ np.diag([20.0, -1.0]) @ np.linalg.inv(basis)
    with pytest.raises(ValueError, match="A must not have an eigenvalue at 20"):
        bilinear(A, [1, 1], 0.1)


@pytest.mark.parametrize("method", ["zoh", "foh"])
@pytest.mark.parametrize("size", [1e-200, 1e-9, 1e12, 1e100, 1e300])
def test_the_size_of_b_costs_no_digits(method, size):
    A, B = np.array([[-0.3, 1.0], [0.0, -2.0]]), np.array([1.0, -0.7])
    expected = METHODS[method](A, B, 0.1)
    A_bar, *rest = METHODS[method](A, size * B, 0.1)
    assert_allclose(A_bar, expected[0], rtol=1e-14)
    for mine, theirs in zip(rest, expected[1:], strict=True):
        assert_allclose(mine / size, theirs, rtol=1e-13)


@pytest.mark.parametrize("rule", [bilinear, backward_euler])
@pytest.mark.parametrize("scale", [1e-17, 1e17])
def test_a_matrix_that_is_badly_scaled_is_not_singular(rule, scale):
    """Against the diagonal form, and against itself in other units of the states."""
    A, B = np.array([-1.0, -scale]), np.array([1.0, 1.0])
    for dense, right in zip(rule(np.diag(A), B, 1.0), rule(A, B, 1.0), strict=True):
        assert_allclose(np.diag(dense) if dense.ndim == 2 else dense, right, rtol=1e-14)
    T = np.diag([1e9, 1e-9])
    A, B = np.array([[0.0, 1.0], [-4.0, -0.4]]), np.array([0.0, 1.0])
    A_bar, B_bar = rule(A, B, 1.0)
    A_scaled, B_scaled = rule(np.linalg.inv(T) @ A @ T, np.linalg.inv(T) @ B, 1.0)
    assert_allclose(T @ A_scaled @ np.linalg.inv(T), A_bar, rtol=1e-13)
    assert_allclose(T @ B_scaled, B_bar, rtol=1e-13)


@pytest.mark.parametrize("A", [[[2.0, 1.0], [0.0, -1.0]], [[2e9, 1e-9], [0.0, -1.0]]])
def test_a_singular_matrix_is_singular_in_any_units(A):
    with pytest.raises(ValueError, match="must not have an eigenvalue at 2"):
        bilinear(A, [1.0, 1.0], 2 / A[0][0] if A[0][0] > 2 else 1.0)


@pytest.mark.parametrize("rule", [zoh, foh])
def test_an_exponential_that_is_lost_is_refused(rule):
    with pytest.raises(ValueError, match=r"dt must be smaller for a dense A.*as large as 1e"):
        rule([[-1.0]], [1.0], 1e50)


def test_a_step_that_overflows_is_named():
    with pytest.raises(ValueError, match=r"dt must be so small.*got 1\.7e\+308"):
        bilinear([[0, 1], [-4, -0.4]], [0, 1], 1.7e308)
