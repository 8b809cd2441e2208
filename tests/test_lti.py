"""The three views: each against its definition, and the properties that make a system LTI."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from ssmlab import DiscreteStateSpace, StateSpace, lti
from ssmlab.discretize import METHODS

LEAKY = DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1])
PORTS = [(None, None), (None, 2), (3, None), (3, 2), (1, 1)]

every_shape = pytest.mark.parametrize(("inputs", "outputs"), PORTS)


@st.composite
def discrete_systems(draw: st.DrawFn):
    """Draw a function from the fixture random_system to a stable discrete system."""
    shape = {
        "seed": draw(st.integers(0, 10**6)),
        "state": draw(st.integers(1, 5)),
        "inputs": draw(st.sampled_from([None, 1, 2, 3])),
        "outputs": draw(st.sampled_from([None, 1, 2, 3])),
        "diagonal": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float64", "complex128"])),
    }
    dt, method = draw(st.floats(0.01, 0.3)), draw(st.sampled_from(list(METHODS)))
    return lambda random_system: random_system(**shape).discretize(dt, method)


def noise(seed: int, length: int, system: DiscreteStateSpace) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(length, *system.B_bar.shape[1:]))


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Agree to rounding, relative to the largest number."""
    assert actual.shape == expected.shape
    assert_allclose(actual, expected, rtol=0, atol=2e-13 * max(1, np.abs(expected).max()))


# --- the views agree -----------------------------------------------------------------------------


@given(make=discrete_systems(), length=st.integers(1, 40), seed=st.integers(0, 99))
def test_recurrence_and_convolution_agree(make, length, seed, random_system):
    system = make(random_system)
    x, h0 = noise(seed, length, system), np.random.default_rng(seed).normal(size=system.state)
    assert_close(lti.convolution(system, x), lti.recurrence(system, x)[0])
    y, h = lti.recurrence(system, x, h0=h0)
    assert_close(lti.convolution(system, x, h0=h0), y)
    assert h.shape == (length, system.state)
    assert_array_equal(system.simulate(x, h0=h0)[0], y)


@given(make=discrete_systems())
def test_transfer_function_is_the_transform_of_the_kernel(make, random_system):
    """Where |z| = 3 the sum over 64 taps is complete."""
    system = make(random_system)
    z = 3 * np.exp(1j * np.array([0.0, 1.0, -2.0]))
    powers = z[:, None] ** -np.arange(64)
    G = np.tensordot(powers, lti.kernel(system, 64), axes=1) + system.D
    assert_close(lti.transfer_function(system, z), G)
    assert_array_equal(system.transfer_function(z), lti.transfer_function(system, z))


# --- linear, time-invariant, causal --------------------------------------------------------------


@given(make=discrete_systems(), seed=st.integers(0, 99), a=st.floats(-5, 5))
def test_linear(make, seed, a, random_system):
    system = make(random_system)
    x, v = noise(seed, 20, system), noise(seed + 1, 20, system)
    g, h = np.random.default_rng(seed).normal(size=(2, system.state))
    y_x = lti.recurrence(system, x, h0=g)[0]
    y_v = lti.recurrence(system, v, h0=h)[0]
    assert_close(lti.recurrence(system, x + a * v, h0=g + a * h)[0], y_x + a * y_v)


@given(make=discrete_systems(), seed=st.integers(0, 99), delay=st.integers(1, 10))
def test_time_invariant(make, seed, delay, random_system):
    system = make(random_system)
    x = noise(seed, 20, system)
    late = np.concatenate([np.zeros_like(x[:delay]), x])
    for run in (lambda x: lti.recurrence(system, x)[0], lambda x: lti.convolution(system, x)):
        assert_close(run(late)[delay:], run(x))


@given(make=discrete_systems(), seed=st.integers(0, 99), change=st.integers(1, 19))
def test_causal(make, seed, change, random_system):
    """A change of x at one time moves no y before it: nothing leaks back through the FFT."""
    system = make(random_system)
    x = noise(seed, 20, system)
    other = x.copy()
    other[change] += 1
    for run in (lambda x: lti.recurrence(system, x)[0], lambda x: lti.convolution(system, x)):
        assert_close(run(other)[:change], run(x)[:change])
        assert np.abs(run(other)[change:] - run(x)[change:]).max() > 0


# --- kernel and convolution ----------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize("diagonal", [False, True])
def test_kernel_by_matrix_powers(inputs, outputs, diagonal, random_system):
    s = random_system(0, inputs=inputs, outputs=outputs, diagonal=diagonal).discretize(0.1, "foh")
    K = lti.kernel(s, 9)
    assert K.shape == (9, *s.D.shape)
    A = np.diag(s.A_bar) if diagonal else s.A_bar
    assert_allclose(K[0], s.C @ s.B_bar, atol=1e-15)
    for j in range(1, 9):
        power = np.linalg.matrix_power(A, j - 1)
        assert_allclose(K[j], s.C @ power @ (A @ s.B_bar + s.B_prev), atol=1e-14)
    for length in (1, 2, 5):
        assert_allclose(lti.kernel(s, length), K[:length], rtol=1e-14)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 999])
@pytest.mark.parametrize("taps", [1, 2, 9, 64, 1000])
def test_convolve_is_numpys_convolve(length, taps):
    rng = np.random.default_rng(0)
    for imaginary in (0, 1j):
        x = rng.normal(size=length) + imaginary * rng.normal(size=length)
        K = rng.normal(size=taps) + imaginary * rng.normal(size=taps)
        assert_close(lti.convolve(x, K), np.convolve(x, K)[:length])
        assert_close(lti.convolve(x, K.real), np.convolve(x, K.real)[:length])


@every_shape
def test_convolve_sums_over_inputs(inputs, outputs):
    rng = np.random.default_rng(1)
    ports = tuple(n for n in (outputs, inputs) if n)
    K, x = rng.normal(size=(5, *ports)), rng.normal(size=(8, inputs) if inputs else 8)
    y = np.zeros((8, outputs) if outputs else 8)
    for k in range(8):
        for j in range(min(k + 1, 5)):
            y[k] += K[j] @ x[k - j] if inputs else K[j] * x[k - j]
    assert_close(lti.convolve(x, K), y)


def test_convolve_keeps_single_precision():
    for dtype in ("float32", "complex64"):
        assert lti.convolve(np.ones(5, dtype), np.ones(3, dtype)).dtype == dtype


def test_padding_keeps_the_future_out_of_the_past():
    x, K = np.zeros(64), 0.99 ** np.arange(64)
    x[63] = 1
    assert np.abs(lti.convolve(x, K)[:63]).max() < 1e-15


def test_unstable_systems_run_too():
    doubling = DiscreteStateSpace([2.0], [1], [1])
    y, _ = lti.recurrence(doubling, np.ones(30))
    assert_array_equal(y, 2.0 ** np.arange(1, 31) - 1)
    assert_close(lti.convolution(doubling, np.ones(30)), y)


# --- initial state -------------------------------------------------------------------------------


def test_free_response_has_already_seen_one_step():
    assert_array_equal(lti.free_response(LEAKY, 3, h0=[8]), [4, 2, 1])
    assert_array_equal(lti.recurrence(LEAKY, np.zeros(3), h0=[8])[0], [4, 2, 1])


def test_last_state_continues_the_run(random_system):
    s = random_system(2, inputs=2, outputs=2).discretize(0.1)
    x = noise(0, 21, s)
    y, h = lti.recurrence(s, x)
    first, h_first = lti.recurrence(s, x[:8])
    second, h_second = lti.recurrence(s, x[8:], h0=h_first[-1])
    assert_allclose(np.concatenate([first, second]), y, rtol=1e-14)
    assert_allclose(np.concatenate([h_first, h_second]), h, rtol=1e-14)


def test_one_step_later_than_scipy():
    """The step response of h' = -h + x at dt = 0.1, in both indices."""
    rc = StateSpace([-1], [1], [1]).discretize(0.1)
    ours = lti.recurrence(rc, np.ones(4))[0]
    assert_allclose(ours, [0.0952, 0.1813, 0.2592, 0.3297], atol=5e-5)
    _, theirs, _ = scipy.signal.dlsim(
        (np.diag(rc.A_bar), rc.B_bar[:, None], rc.C[None], 0, 0.1), np.ones(4)
    )
    assert_allclose(theirs[:, 0], [0, *ours[:3]], atol=1e-15)


# --- frequency response --------------------------------------------------------------------------


def test_frequency_response_is_the_steady_answer(random_system):
    s = random_system(3, outputs=2).discretize(0.25, "foh")
    omega = 1.3
    x = np.exp(1j * omega * 0.25 * np.arange(400))
    y, _ = lti.recurrence(s, x)
    assert_allclose(y[-5:], lti.frequency_response(s, omega) * x[-5:, None], atol=1e-12)


def test_frequency_response_agrees_with_scipy():
    b, a = scipy.signal.butter(3, 0.2)
    system = DiscreteStateSpace.from_scipy(scipy.signal.dlti(b, a, dt=0.5))
    w, G = scipy.signal.freqz(b, a, worN=64)  # in radians for each sample
    assert_allclose(lti.frequency_response(system, w / 0.5)[:, 0, 0], G, atol=1e-12)


def test_at_zero_only_the_previous_input_is_left():
    """At z = 0 the formula with z^-1 divides by zero, ours does not."""
    s = DiscreteStateSpace([0.5], [1], [3], D=7, B_prev=[2])
    assert lti.transfer_function(s, 0) == 3 * 2 / -0.5 + 7


# --- bad input -----------------------------------------------------------------------------------

RC = StateSpace([-1], [1], [1])
MIMO = DiscreteStateSpace([0.5], [[1, 1]], [[1], [1]])
BAD = {
    "continuous": (
        lambda: lti.recurrence(RC, [1]),
        "system must be a DiscreteStateSpace; got StateSpace: call .discretize",
    ),
    "no system": (lambda: lti.kernel([0.5], 3), "system must be a DiscreteStateSpace; got list"),
    "convolution": (lambda: lti.convolution(RC, [1]), "system must be"),
    "free": (lambda: lti.free_response(RC, 3, [1]), "system must be"),
    "transfer": (lambda: lti.transfer_function(RC, 1), "system must be"),
    "frequency": (lambda: lti.frequency_response(RC, 1), "system must be"),
    "empty": (lambda: lti.recurrence(LEAKY, []), "x must have at least one sample"),
    "two axes": (
        lambda: lti.recurrence(LEAKY, [[1]]),
        r"x must have shape \(length,\) .* got \(1, 1\)",
    ),
    "one axis": (
        lambda: lti.convolution(MIMO, [1]),
        r"x must have shape \(length, 2\) .* got \(1,\)",
    ),
    "a number": (lambda: lti.recurrence(LEAKY, 1), r"x must have shape \(length,\) .* got \(\)"),
    "inputs": (lambda: lti.recurrence(MIMO, np.ones((4, 3))), r"x must have shape \(length, 2\)"),
    "nan": (
        lambda: lti.recurrence(LEAKY, [1, np.nan]),
        r"x must be finite; got nan at index \(1,\)",
    ),
    "text": (lambda: lti.recurrence(LEAKY, ["a"]), "x must hold real or complex numbers"),
    "h0": (
        lambda: lti.recurrence(LEAKY, [1], h0=[1, 2]),
        r"h0 must have shape \(1,\), .* got \(2,\)",
    ),
    "h0 number": (lambda: lti.convolution(LEAKY, [1], h0=1), r"h0 must have shape \(1,\)"),
    "h0 nan": (lambda: lti.free_response(LEAKY, 3, [np.nan]), "h0 must be finite"),
    "length 0": (lambda: lti.kernel(LEAKY, 0), "length must be at least 1; got 0"),
    "length -1": (lambda: lti.free_response(LEAKY, -1, [1]), "length must be at least 1; got -1"),
    "length 2.0": (
        lambda: lti.kernel(LEAKY, 2.0),
        "length must be a whole number; got 2.0 of type float",
    ),
    "length bool": (lambda: lti.kernel(LEAKY, True), "length must be a whole number"),
    "length array": (
        lambda: lti.kernel(LEAKY, np.ones(2)),
        r"length must be a whole number; got an array of shape \(2,\)",
    ),
    "x of convolve": (
        lambda: lti.convolve([], [1]),
        r"x must have shape \(length,\) or \(length, inputs\)",
    ),
    "x of three axes": (lambda: lti.convolve(np.ones((1, 1, 1)), [1]), "x must have shape"),
    "K_bar": (
        lambda: lti.convolve([1], []),
        r"K_bar must have shape \(taps,\) or \(taps, outputs\) .* got \(0,\)",
    ),
    "K_bar inputs": (
        lambda: lti.convolve(np.ones((3, 2)), np.ones((3, 1))),
        r"K_bar must have shape \(taps, 2\) or \(taps, outputs, 2\)",
    ),
    "K_bar axes": (lambda: lti.convolve([1], np.ones((1, 1, 1))), "K_bar must have shape"),
    "K_bar nan": (lambda: lti.convolve([1], [np.nan]), "K_bar must be finite"),
    "z": (lambda: lti.transfer_function(LEAKY, 0.5), "z must not be an eigenvalue"),
    "omega complex": (lambda: lti.frequency_response(LEAKY, 1j), "omega must be real; got complex"),
    "omega nan": (lambda: lti.frequency_response(LEAKY, np.nan), "omega must be finite"),
    "unstable": (
        lambda: lti.frequency_response(DiscreteStateSpace([1.5], [1], [1]), 1),
        "system must be stable; got an eigenvalue of modulus 1.5",
    ),
    "integrator": (
        lambda: lti.frequency_response(DiscreteStateSpace([1], [1], [1]), 1),
        "system must be stable; .* modulus 1,",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, unchecked):
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@given(make=discrete_systems(), position=st.integers(0, 9), bad=st.sampled_from([np.nan, np.inf]))
def test_any_sample_that_is_not_finite_is_named(make, position, bad, random_system):
    system = make(random_system)
    x = noise(0, 10, system)
    x[position] = bad
    for run in (lti.recurrence, lti.convolution):
        with pytest.raises(
            ValueError, match=rf"^x must be finite; got {bad} at index \({position},"
        ):
            run(system, x)


@pytest.mark.parametrize("B_prev", [[1j], [1 / 3]])
def test_the_previous_input_keeps_its_digits(B_prev):
    """A complex or a double weight of x[k - 1], beside real and single ones of x[k]."""
    one = np.ones(1, np.float32)
    system = DiscreteStateSpace(one / 2, one, one, B_prev=B_prev)
    x = np.array([1, 0, 0], np.float32)
    y, _ = system.simulate(x)
    assert_array_equal(y, lti.kernel(system, 3))
    assert_array_equal(y[1:], [0.5 + B_prev[0], 0.25 + B_prev[0] / 2])
