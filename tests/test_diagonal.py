"""Diagonal models: every initialisation, kernels against long double, DSS against its softmax."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal

from ssmlab import diagonal, s4
from ssmlab.diagonal import INITIALISATIONS, METHODS

LENGTHS = [1, 2, 3, 64, 100, 1001]
every_initialisation = pytest.mark.parametrize("name", INITIALISATIONS)

# What each initialisation is at N = 6, written down apart from the code.
A_OF_SIX = {
    "lin": [-0.5, -0.5 + np.pi * 1j, -0.5 + 2 * np.pi * 1j],
    "inv": [-0.5 + 30j / np.pi, -0.5 + 6j / np.pi, -0.5 + 1.2j / np.pi],
    "real": [-1, -2, -3],
    "legs": s4.dplr(6)[0],  # which test_s4 compares with LegS itself
}


def random_output(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*shape, 2)) @ [1, 1j]


def in_long_double(
    A: np.ndarray, B: np.ndarray, C: np.ndarray, dt: float, length: int, method: str
) -> np.ndarray:
    """Sum 2 Re C A_bar^l B_bar, one power after the other, in long double."""
    A, B, C = (M.astype(np.clongdouble) for M in (A, B, C))
    z = np.longdouble(dt) * A
    if method == "zoh":
        A_bar, B_bar = np.exp(z), (np.exp(z) - 1) / A * B
    else:
        A_bar, B_bar = (1 + z / 2) / (1 - z / 2), dt * B / (1 - z / 2)
    taps, h = [], B_bar
    for _ in range(length):
        taps.append(2 * (C * h).sum().real)
        h = A_bar * h
    return np.array(taps)


def assert_close(K: np.ndarray, truth: np.ndarray, tolerance: float) -> None:
    assert K.shape == truth.shape
    assert np.abs(K - truth).max() <= tolerance * np.abs(truth).max()


# --- initialisations -----------------------------------------------------------------------------


@every_initialisation
def test_initialisation_is_as_published(name):
    A, B = INITIALISATIONS[name](6)
    assert_allclose(A, A_OF_SIX[name])
    assert_allclose(B, s4.dplr(6)[2] / 2 if name == "legs" else 1)


@every_initialisation
@pytest.mark.parametrize("N", [2, 64, 256])
def test_initialisation_is_stable_with_one_mode_a_pair(name, N):
    A, B = INITIALISATIONS[name](N)
    assert A.shape == B.shape == (N // 2,)
    assert (A.real <= -0.49).all()
    assert (A.imag >= 0).all()


def test_inv_follows_the_large_frequencies_of_legs():
    legs, inv = (np.sort(INITIALISATIONS[name](256)[0].imag) for name in ("legs", "inv"))
    assert_allclose(inv[-10:], legs[-10:], rtol=0.07)


def test_half_of_b_makes_the_response_tend_to_that_of_legs():
    """The first coefficient of LegS answers a step by 1 - e^-t."""
    t = np.linspace(0.02, 4, 400)
    errors = []
    for N in (16, 64, 256):
        A, B = diagonal.legs(N)
        C = s4.dplr(N)[3][0]
        step = 2 * (np.expm1(np.outer(t, A)) @ (C * B / A)).real
        errors.append(np.sqrt(np.mean((step - 1 + np.exp(-t)) ** 2)))
    assert errors[0] > 1.9 * errors[1] > 3.6 * errors[2]


# --- kernels -------------------------------------------------------------------------------------


@every_initialisation
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("N", [2, 64])
def test_kernel_against_powers_in_long_double(name, method, length, N):
    A, B = INITIALISATIONS[name](N)
    C = random_output(N // 2)
    for dt in (0.001, 0.1):
        truth = in_long_double(A, B, C, dt, length, method)
        assert_close(diagonal.kernel(A, B, C, dt, length, method), truth, 1e-12)


@pytest.mark.parametrize("length", [1, 8, 101])
def test_it_is_s4_without_the_low_rank_part(length):
    A, B = diagonal.legs(16)
    C = random_output(8)
    ours = diagonal.kernel(A, B, C, 0.1, length, "bilinear")
    assert_close(ours, s4.kernel(A, 0 * A, B, C, 0.1, length), 1e-12)


def test_channels_are_independent():
    A, B = diagonal.lin(8)
    C, dt = random_output(3, 4), np.array([0.01, 0.1, 1.0])
    together = diagonal.kernel(A, B, C, dt, 20)
    assert together.shape == (20, 3)
    for c in range(3):
        assert_allclose(together[:, c], diagonal.kernel(A, B, C[c], dt[c], 20), rtol=1e-12)
    each = diagonal.kernel(np.stack([A, A, A]), B, C, dt, 20)
    assert_array_equal(each, together)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        ("complex64", "float32"),
        ("float32", "float32"),
        ("complex128", "float64"),
        ("int", "float64"),
    ],
)
def test_precision_follows_c(dtype, result):
    A, B = diagonal.lin(8)
    K_bar = diagonal.kernel(A, B, np.ones(4, dtype), 0.1, 10)
    assert K_bar.dtype == result


def test_single_precision_keeps_the_phase_of_fast_modes():
    A, B = diagonal.legs(64)
    C = random_output(32).astype("complex64")
    K_bar = diagonal.kernel(A, B, C, 0.001, 16384)
    assert_close(K_bar, diagonal.kernel(A, B, C.astype(complex), 0.001, 16384), 1e-6)


def test_no_table_of_all_powers_is_made():
    A, B = diagonal.lin(64)
    C = random_output(16, 32)
    tracemalloc.start()
    diagonal.kernel(A, B, C, 0.01, 16384)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 32 * 16384 * 16 / 10


def test_vandermonde_takes_powers():
    w, a = random_output(5), 0.9 * np.exp(1j * np.arange(5))
    assert_allclose(
        diagonal.vandermonde(w, a, 30), [(w * a**l).sum().real for l in range(30)], rtol=1e-12
    )


# --- DSS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 50])
def test_dss_is_a_softmax_over_time(length):
    A, W, dt = diagonal.lin(16)[0], random_output(3, 8), np.array([0.02, 0.1, 0.5])
    exponents = dt[:, None, None] * A[:, None] * np.arange(length)
    rows = np.exp(exponents) / np.exp(exponents).sum(-1, keepdims=True)
    truth = np.einsum("cn,cnl->lc", W / A, rows).real
    assert_close(diagonal.dss_kernel(A, W, dt, length), truth, 1e-12)
    real = np.array([-1.0, -2.0])
    weights = scipy.special.softmax(np.outer(real, 0.1 * np.arange(length)), axis=1)
    assert_close(diagonal.dss_kernel(real, real, 0.1, length), weights.sum(0), 1e-12)


# --- wrong arguments -----------------------------------------------------------------------------

A, B = diagonal.lin(6)
GOOD = {"A": A, "B": B, "C": random_output(2, 3), "dt": [0.1, 0.2], "length": 4}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"B": np.ones(2)},
            ValueError,
            r"A, B, C, dt must have .* got \(3,\), \(2,\), \(2, 3\), \(2,",
        ),
        ({"B": np.ones(1)}, ValueError, r"must have shapes .* got \(3,\), \(1,\)"),
        ({"C": np.ones((3, 3))}, ValueError, r"must have shapes .* \(3, 3\), \(2,\)"),
        ({"C": 1.0}, ValueError, r"must have shapes .* \(\)"),
        ({"C": np.ones((1, 2, 3))}, ValueError, "must have shapes"),
        ({"A": [np.inf, 0, 0]}, ValueError, "A must be finite; got inf at index"),
        ({"dt": [0.1, 0.0]}, ValueError, "dt must be positive; got 0.0: pass the time"),
        ({"dt": -1}, ValueError, "dt must be positive; got -1.0"),
        ({"dt": [[0.1, 0.2]]}, ValueError, r"dt must be one real number or one .*\(1, 2\): pass"),
        ({"dt": 0.1j}, ValueError, "dt must be one real number or one .* got complex128"),
        ({"length": 0}, ValueError, "length must be at least 1; got 0"),
        ({"method": "foh"}, ValueError, "method must be one of 'zoh', 'bilinear'; got 'foh'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_the_kernel(change, error, message):
    with pytest.raises(error, match=message):
        diagonal.kernel(**GOOD | change)


@every_initialisation
def test_a_state_of_no_pairs(name):
    with pytest.raises(ValueError, match=r"N must be even.* got 5: pass 6"):
        INITIALISATIONS[name](5)


def test_dss_refuses_a_mode_that_does_not_decay():
    with pytest.raises(ValueError, match="A must have negative real parts; got 0"):
        diagonal.dss_kernel([-1, 0], [1, 1], 0.1, 10)
