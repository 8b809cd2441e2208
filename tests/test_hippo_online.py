"""The online steps against the projection, the dense matrices and the theory of their errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.integrate import quad_vec, solve_ivp

from ssmlab import discretize
from ssmlab.hippo import (
    basis,
    legs,
    legs_discrete,
    legs_online,
    legs_step,
    legt,
    legt_online,
    legt_step,
    project,
    reconstruct,
)
from ssmlab.hippo.online import ALPHA, LEGS_METHODS, LEGT_METHODS

seeds = st.integers(0, 2**32 - 1)


# --- LegS over time -------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 8, 64])
def test_the_exact_step_is_the_projection_of_all_samples_so_far(N):
    x = np.random.default_rng(N).normal(size=40)
    history = legs_online(x, N)
    for k in (0, 1, 2, 7, 39):
        assert_allclose(history[k], project(x[: k + 1], N), atol=1e-13)


def test_the_exact_step_is_a_projection_by_adaptive_quadrature():
    x = np.random.default_rng(0).normal(size=9)
    steps = [
        quad_vec(lambda r: basis(12, r), k / 9, (k + 1) / 9, epsabs=1e-14)[0] for k in range(9)
    ]
    assert_allclose(legs_online(x, 12)[-1], x @ steps, atol=1e-13)


def test_the_exact_step_solves_the_differential_equation():
    """c' = (A c + B x) / t from t = 3 to t = 4, x held."""
    A, B = legs(6)
    c = np.random.default_rng(0).normal(size=6)
    solution = solve_ivp(
        lambda t, c: (A @ c + B * 0.7) / t, (3, 4), c, method="DOP853", rtol=1e-13, atol=1e-13
    )
    assert_allclose(legs_step(c, 0.7, 3), solution.y[:, -1], atol=1e-11)


@pytest.mark.parametrize("method", LEGS_METHODS)
@pytest.mark.parametrize("N", [1, 2, 3, 16, 256])
@pytest.mark.parametrize("k", [0, 1, 2, 15, 1000])
def test_a_fast_step_is_its_dense_twin(method, N, k):
    rng = np.random.default_rng(k)
    c, x = rng.normal(size=(3, N)), rng.normal(size=3)
    A_bar, B_bar = legs_discrete(N, k, method)
    slow = c @ A_bar.T + np.outer(x, B_bar)
    scale = np.abs(A_bar).sum(axis=1).max()
    assert_allclose(legs_step(c, x, k, method), slow, atol=1e-13 * max(scale, N))
    assert_allclose(legs_step(c[0], x[0], k, method), slow[0], atol=1e-13 * max(scale, N))


@pytest.mark.parametrize("method", ALPHA)
def test_the_dense_step_is_written_out(method):
    N, k, alpha = 5, 3, ALPHA[method]
    A, B = legs(N)
    A_bar, B_bar = legs_discrete(N, k, method)
    implicit = np.eye(N) - alpha * A / (k + 1)
    assert_allclose(implicit @ A_bar, np.eye(N) + (1 - alpha) * A / (k + 1), atol=1e-14)
    assert_allclose(implicit @ B_bar, B / (k + 1), atol=1e-14)


@pytest.mark.parametrize("method", LEGS_METHODS)
def test_channels_run_side_by_side(method):
    x = np.random.default_rng(0).normal(size=(20, 2))
    history = legs_online(x, 4, method)
    assert history.shape == (20, 2, 4)
    for channel in range(2):
        assert_allclose(history[:, channel], legs_online(x[:, channel], 4, method), atol=1e-12)


@given(seeds, st.integers(1, 12), st.sampled_from(LEGS_METHODS))
def test_every_step_is_linear(seed, N, method):
    x, y = np.random.default_rng(seed).normal(size=(2, 12))
    both = legs_online(x - 2 * y, N, method)
    apart = legs_online(x, N, method) - 2 * legs_online(y, N, method)
    assert_allclose(both, apart, atol=1e-12 * (1 + np.abs(apart).max()))


@pytest.mark.usefixtures("unchecked")  # for speed: thousands of steps
def test_only_the_exact_step_ignores_the_sampling_rate():
    """Every sample repeated ten times: the same function of time, the same coefficients."""
    x = np.random.default_rng(0).normal(size=60)
    for method, least, most in [("exact", 0, 5e-14), ("bilinear", 0.02, 0.2)]:
        once = legs_online(x, 16, method)[-1]
        ten_times = legs_online(np.repeat(x, 10), 16, method)[-1]
        assert least <= np.abs(ten_times - once).max() <= most


@pytest.mark.usefixtures("unchecked")  # for speed: thousands of steps
def test_accuracy_of_the_steps_on_a_smooth_signal():
    """1000 samples, 64 coefficients, 1.5 and 4 cycles: exact 6e-5, bilinear 1e-2, backward 3e-2."""
    r = (np.arange(1000) + 0.5) / 1000
    x = np.sin(3 * np.pi * r) + 0.5 * np.cos(8 * np.pi * r)

    def error(method: str) -> float:
        c = legs_online(x, 64, method)[-1]
        return np.linalg.norm(reconstruct(c, r) - x) / np.linalg.norm(x)

    assert error("exact") < 1e-4
    assert 5e-3 < error("bilinear") < 2e-2
    assert 2e-2 < error("backward_euler") < 5e-2


@pytest.mark.usefixtures("unchecked")  # for speed: thousands of steps
def test_euler_leaves_the_earth_and_comes_back():
    """64 coefficients of the constant 1 pass 1e45 at step 45, and are right again at step 2000."""
    history = legs_online(np.ones(2000), 64, "euler")
    sizes = np.abs(history).max(axis=1)
    assert 44 <= sizes.argmax() <= 45
    assert sizes.max() > 1e45
    assert_allclose(history[-1], np.eye(64)[0], atol=1e-12)


# --- LegT over a sliding window -------------------------------------------------------------------


@pytest.mark.parametrize("method", ALPHA)
@pytest.mark.parametrize("N", [1, 2, 3, 16, 255, 256])
@pytest.mark.parametrize("dt", [1e-4, 0.01, 1.0])
def test_the_window_step_is_its_dense_twin(method, N, dt):
    rng = np.random.default_rng(N)
    c, x = rng.normal(size=(3, N)), rng.normal(size=3)
    A_bar, B_bar = discretize.METHODS[method](*legt(N, 2.0), dt)
    slow = c @ A_bar.T + np.outer(x, B_bar)
    scale = np.abs(A_bar).sum(axis=1).max()
    assert_allclose(legt_step(c, x, dt, 2.0, method), slow, atol=3e-13 * max(scale, N))
    assert_allclose(legt_step(c[0], x[0], dt, 2.0, method), slow[0], atol=3e-13 * max(scale, N))


@pytest.mark.parametrize("method", LEGT_METHODS)
def test_a_window_in_a_loop_is_the_discretized_system(method):
    x = np.random.default_rng(0).normal(size=(50, 2))
    A_bar, B_bar = discretize.METHODS[method](*legt(6, 20.0), 1.0)
    h = np.zeros(6)
    history = legt_online(x, 6, 20.0, method)
    assert history.shape == (50, 2, 6)
    for k in range(50):
        h = A_bar @ h + B_bar * x[k, 1]
        assert_allclose(history[k, 1], h, atol=1e-12)
    assert_allclose(legt_online(x[:, 1], 6, 20.0, method), history[:, 1], atol=1e-12)


def test_the_window_holds_its_last_samples():
    """The state approximates the projection of the samples inside, and forgets what has left."""
    x = np.sin(np.arange(3000) / 150)
    c = legt_online(x, 14, theta=1000)[-1]
    assert np.linalg.norm(c - project(x[-1000:], 14)) < 1e-3 * np.linalg.norm(c)
    flood = x + 100.0 * (np.arange(3000) < 500)
    after = legt_online(flood, 14, theta=1000)[-1]
    assert np.abs(after - c).max() < 1e-2


def test_twelve_numbers_delay_a_thousand_samples():
    """Error 6e-3, of which all but 6e-5 is the half sample that a zero-order hold is late."""
    x = lambda k: np.sin(4e-3 * np.pi * k) + 0.5 * np.sin(1.4e-3 * np.pi * k + 1)  # noqa: E731
    history = legt_online(x(np.arange(6000)), 12, theta=1000)
    delayed = (history @ basis(12, 0.0))[3000:]
    k = np.arange(3000, 6000)
    for delay, error in [(1000, 5.7e-3), (999.5, 6.2e-5)]:
        wanted = x(k - delay)
        found = np.linalg.norm(delayed - wanted) / np.linalg.norm(wanted)
        assert_allclose(found, error, rtol=0.1)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("k", [-1, 1.5, "now"])
def test_a_bad_sample_number_is_refused(k):
    for function in (lambda: legs_step([1.0], 1.0, k), lambda: legs_discrete(1, k)):
        with pytest.raises(ValueError, match=r"^k must be a whole number from 0 on; got .*: count"):
            function()


def test_an_unknown_method_is_refused_before_any_work():
    for function in (
        lambda: legs_step([1.0], 1.0, 1, "exakt"),
        lambda: legs_discrete(1, 1, "exakt"),
        lambda: legs_online([1.0], 1, "exakt"),
    ):
        with pytest.raises(ValueError, match=r"^method must be one of .*did you mean 'exact'\?$"):
            function()
    for function in (
        lambda: legt_step([1.0], 1.0, 0.1, method="zoh"),
        lambda: legt_online([1.0], 1, 5.0, "exact"),
    ):
        with pytest.raises(ValueError, match=r"^method must be one of 'euler', 'bilinear'"):
            function()


@pytest.mark.parametrize(
    ("c", "x"), [([1.0], [1.0]), ([[1.0]], 1.0), ([[1.0]], [1, 2]), ([1.0], 1j)]
)
def test_a_sample_that_does_not_fit_is_refused(c, x):
    with pytest.raises(
        ValueError, match=r"^x must be one real sample of shape .*; got .*: pass one"
    ):
        legs_step(c, x, 1)


@pytest.mark.parametrize("function", [legs_online, lambda x, N: legt_online(x, N, 5.0)])
def test_a_bad_signal_is_refused(function):
    with pytest.raises(ValueError, match=r"^x must be finite; got inf at index \(1,\)"):
        function([0.0, np.inf], 2)
    with pytest.raises(ValueError, match=r"^x must be real, of shape .* got .* \(0,\)"):
        function([], 2)


@pytest.mark.parametrize(("dt", "theta"), [(0.0, 1.0), (np.nan, 1.0), (1.0, 0.0), (1.0, -2.0)])
def test_a_bad_step_or_window_is_refused(dt, theta):
    with pytest.raises(ValueError, match=r"^(dt|theta) must be .*; got .*: pass"):
        legt_step([1.0], 1.0, dt, theta)
