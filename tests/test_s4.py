"""S4's kernel against brute force in long double, in LegS's own basis, and its parts one by one."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from ssmlab import StateSpace, hippo, lti, s4

LENGTHS = [1, 2, 3, 64, 100, 1001]
LONG = np.longdouble


@functools.cache
def legs_kernel(N: int, dt: float, length: int) -> np.ndarray:
    """Return A_bar^l B_bar for l < length, bilinear, in long double; A is lower triangular."""
    A, B = (M.astype(LONG) for M in hippo.legs(N))
    implicit = np.eye(N, dtype=LONG) - LONG(dt) / 2 * A
    inverse = np.zeros((N, N), LONG)
    for n in range(N):
        inverse[n] = (np.eye(N, dtype=LONG)[n] - implicit[n, :n] @ inverse[:n]) / implicit[n, n]
    A_bar, h = 2 * inverse - np.eye(N, dtype=LONG), LONG(dt) * (inverse @ B)
    columns = []
    for _ in range(length):
        columns.append(h)
        h = A_bar @ h
    return np.array(columns)


def legs_modes(N: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return LegS with a random real C: Lambda, P, B, C in the modes, and C as it was."""
    Lambda, P, B, V = s4.dplr(N)
    C = np.random.default_rng(seed).normal(size=N)
    return Lambda, P, B, C @ V, C


def random_modes(seed: int, modes: int = 3) -> tuple[np.ndarray, ...]:
    """Return modes that are not LegS's: Lambda, P, B, C."""
    rng = np.random.default_rng(seed)
    Lambda, P, B, C = rng.normal(size=(4, modes, 2)) @ [1, 1j]
    return Lambda - np.abs(Lambda.real) - Lambda.real, P, B, C


def assert_close(K: np.ndarray, truth: np.ndarray, tolerance: float) -> None:
    assert K.shape == truth.shape
    assert np.abs(K - truth).max() <= tolerance * np.abs(truth).max()


# --- normal plus low rank ------------------------------------------------------------------------


@pytest.mark.parametrize("N", [2, 4, 16, 64, 256])
def test_dplr_is_legs(N):
    A, B_legs = hippo.legs(N)
    Lambda, P, B, V = s4.dplr(N)
    # An eigensolver's vectors are exact to eps * norm / gap, and the norm grows as N^2.
    exact = max(1e-14, np.finfo(float).eps * N**2)
    assert_allclose(V.conj().T @ V, np.eye(N // 2), atol=1e-13)
    assert_allclose(V.T @ V, 0, atol=exact)
    p = 2 * (V @ P).real
    assert_allclose(p, np.sqrt(np.arange(N) + 0.5), rtol=exact)
    normal = 2 * ((V * Lambda) @ V.conj().T).real
    assert_allclose(normal - np.outer(p, p), A, atol=4 * exact)
    assert_allclose(2 * (V @ B).real, B_legs, rtol=exact)


def test_the_frequencies_are_sorted_and_reach_n_squared_over_pi():
    Lambda, *_ = s4.dplr(256)
    assert (Lambda.real == -0.5).all()
    assert (np.diff(Lambda.imag) > 0).all()
    assert Lambda[0].imag > 0
    assert_allclose(Lambda[-1].imag, 256**2 / np.pi, rtol=0.01)


def test_the_real_system_is_the_same_map():
    Lambda, P, B, C, row = legs_modes(8)
    ours, theirs = s4.system(Lambda, P, B, C), StateSpace(*hippo.legs(8), row)
    s = np.array([0.3, 1 + 2j, 30j])
    assert_allclose(ours.transfer_function(s), theirs.transfer_function(s), rtol=1e-12)


# --- the kernel ----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dt", [0.001, 0.1])
@pytest.mark.parametrize("N", [2, 16, 64])
def test_kernel_against_powers_in_long_double(N, dt, length):
    *modes, C = legs_modes(N)
    truth = legs_kernel(N, dt, length) @ C
    assert_close(s4.kernel(*modes, dt, length), truth, 1e-12)
    system = s4.system(*modes).discretize(dt, "bilinear")
    assert_close(s4.kernel_in_blocks(system, length), truth, 1e-12)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_generating_function_is_the_truncated_sum_even_at_minus_one(length):
    Lambda, P, B, C, row = legs_modes(8)
    C_tilde = s4.truncate(Lambda, P, C, 0.1, length)
    K = legs_kernel(8, 0.1, length) @ row
    w = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    truth = (K * w[:, None] ** np.arange(length)).sum(1).astype(complex)
    assert_close(s4.generating_function(Lambda, P, B, C_tilde, 0.1, length), truth, 1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("length", [1, 6, 101])
def test_kernel_of_modes_that_are_not_those_of_legs(seed, length):
    modes = random_modes(seed)
    truth = lti.kernel(s4.system(*modes).discretize(0.3, "bilinear"), length)
    assert_close(s4.kernel(*modes, 0.3, length), truth, 1e-12)


@pytest.mark.parametrize("length", [5, 64])
def test_without_the_low_rank_part_the_modes_are_independent(length):
    Lambda, P, B, C = random_modes(0)
    A_bar = (1 + 0.05 * Lambda) / (1 - 0.05 * Lambda)
    B_bar = 0.1 * B / (1 - 0.05 * Lambda)
    truth = 2 * (A_bar ** np.arange(length)[:, None] @ (C * B_bar)).real
    assert_close(s4.kernel(Lambda, 0 * P, B, C, 0.1, length), truth, 1e-12)


def test_truncation_subtracts_the_tail():
    Lambda, P, B, C = random_modes(1)
    C_tilde = s4.truncate(Lambda, P, C, 0.1, 20)
    K = s4.kernel(Lambda, P, B, C, 0.1, 40)
    assert_close(s4.kernel(Lambda, P, B, C_tilde, 0.1, 20), K[:20] - K[20:], 1e-12)
    assert_close(s4.untruncate(Lambda, P, C_tilde, 0.1, 20), C, 1e-12)


@pytest.mark.parametrize("method", ["zoh", "bilinear", "euler"])
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_of_powers_serve_any_real_system(method, diagonal, length, random_system):
    system = random_system(0, state=5, diagonal=diagonal).discretize(0.1, method)
    assert_close(s4.kernel_in_blocks(system, length), lti.kernel(system, length), 1e-13)


# --- the recurrent mode --------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["zero", "non-zero"])
def test_recurrence_is_that_of_the_dense_system(start):
    modes, rng = random_modes(2), np.random.default_rng(3)
    x, z = rng.normal(size=50), rng.normal(size=(3, 2)) @ [1, 1j]
    if start == "zero":
        z = 0 * z
    y, h = s4.recurrence(*modes, 0.2, x, h0=None if start == "zero" else z)
    dense = s4.system(*modes).discretize(0.2, "bilinear")
    expected, states = lti.recurrence(dense, x, h0=np.concatenate([z.real, z.imag]))
    assert_close(y, expected, 1e-13)
    assert_close(np.hstack([h.real, h.imag]), states, 1e-13)


def test_both_modes_agree_over_4096_steps_and_a_run_can_be_continued():
    *modes, _ = legs_modes(64)
    x = np.random.default_rng(1).normal(size=4096)
    y, h = s4.recurrence(*modes, 0.01, x)
    assert_close(lti.convolve(x, s4.kernel(*modes, 0.01, 4096)), y, 1e-12)
    rest, _ = s4.recurrence(*modes, 0.01, x[1000:], h0=h[999])
    assert (rest == y[1000:]).all()


# --- wrong arguments -----------------------------------------------------------------------------

GOOD = dict(zip(("Lambda", "P", "B", "C"), random_modes(0), strict=True)) | {"dt": 0.1, "length": 4}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"P": np.ones(2)}, ValueError, r"P must have shape \(modes,\), as Lambda has; got \(2,\)"),
        ({"Lambda": np.ones((1, 3))}, ValueError, r"Lambda must have shape \(modes,\)"),
        ({"C": [1, np.nan, 1]}, ValueError, "C must be finite; got nan at index"),
        ({"B": ["a", "b", "c"]}, TypeError, "B must hold real or complex numbers"),
        ({"dt": 0}, ValueError, "dt must be positive; got 0"),
        ({"dt": -0.1}, ValueError, "dt must be positive; got -0.1"),
        ({"length": 0}, ValueError, "length must be at least 1; got 0"),
        ({"length": 2.5}, TypeError, "length must be a whole number; got 2.5"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_the_kernel(change, error, message):
    with pytest.raises(error, match=message):
        s4.kernel(**GOOD | change)


@pytest.mark.parametrize(
    ("N", "error", "message"),
    [
        (3, ValueError, "N must be even, for the modes come in conjugate pairs; got 3: pass 4"),
        (0, ValueError, "N must be at least 1; got 0"),
        (4.0, TypeError, "N must be a whole number; got 4.0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_state_of_no_pairs(N, error, message):
    with pytest.raises(error, match=message):
        s4.dplr(N)


def test_wrong_arguments_of_the_recurrence():
    modes = random_modes(0)
    with pytest.raises(ValueError, match=r"x must have shape \(length,\).*got \(4, 1\)"):
        s4.recurrence(*modes, 0.1, np.ones((4, 1)))
    with pytest.raises(ValueError, match=r"h0 must have shape \(3,\).*got \(6,\)"):
        s4.recurrence(*modes, 0.1, np.ones(4), h0=np.ones(6))


@pytest.mark.parametrize(
    "options", [{"inputs": 1}, {"outputs": 2}, {"dtype": "complex128"}, {"method": "foh"}]
)
def test_blocks_refuse_what_they_cannot_do(options, random_system):
    method = options.pop("method", "zoh")
    system = random_system(0, **options).discretize(0.1, method)
    with pytest.raises(ValueError, match=r"system must be a real DiscreteStateSpace.*lti.kernel"):
        s4.kernel_in_blocks(system, 4)


@pytest.mark.parametrize("dt", 10.0 ** np.arange(-20, 21, 2))
@pytest.mark.parametrize("N", [4, 8, 16])
def test_digits_at_extreme_steps(N, dt):
    Lambda, P, B, V = s4.dplr(N)
    for length in (15, 16):
        truth = s4.recurrence(Lambda, P, B, V[0], dt, np.eye(length)[0])[0]
        assert_close(s4.kernel(Lambda, P, B, V[0], dt, length), truth, 2e-12)


def test_a_signal_is_real():
    Lambda, P, B, V = s4.dplr(4)
    with pytest.raises(TypeError, match=r"x must be real; got complex"):
        s4.recurrence(Lambda, P, B, V[0], 0.1, [1, 1j])


def test_what_never_decays_cannot_be_found_again():
    with pytest.raises(ValueError, match=r"length must be .* singular: keep C"):
        s4.untruncate([0j], [0], [1], 0.1, 4)
