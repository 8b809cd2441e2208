"""The two classes: exact responses, changes of basis, scipy and back, bad input."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re

import numpy as np
import pytest
import scipy.integrate
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from ssmlab import DiscreteStateSpace, StateSpace, lti

SPRING = StateSpace(A=[[0, 1], [-4, -0.4]], B=[0, 1], C=[1, 0])
LEAKY = DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1])
PORTS = [(None, None), (None, 2), (3, None), (3, 2), (1, 1)]
TIMES = np.linspace(0, 5, 6)

every_shape = pytest.mark.parametrize(("inputs", "outputs"), PORTS)
dense_and_diagonal = pytest.mark.parametrize("diagonal", [False, True])
real_and_complex = pytest.mark.parametrize("dtype", ["float64", "complex128"])


# --- exact responses -----------------------------------------------------------------------------


def test_spring_by_hand():
    """y(t) = e^{-t/5} sin(w t)/w with w^2 = 4 - 1/25."""
    w = np.sqrt(3.96)
    assert_allclose(
        SPRING.impulse_response(TIMES), np.exp(-TIMES / 5) * np.sin(w * TIMES) / w, atol=1e-14
    )
    assert SPRING.impulse_response([10.0])[0] == pytest.approx(0.0590, abs=5e-5)


def test_capacitor_after_one_time_constant():
    rc = StateSpace([-1], [1], [1])
    assert_allclose(rc.step_response([0, 1]), [0, 1 - np.exp(-1)], rtol=1e-15)
    assert_allclose(rc.free_response([0, 1], [1]), [1, np.exp(-1)], rtol=1e-15)


def test_responses_agree_with_scipy():
    for port in range(2):
        system = StateSpace(
            [[0, 1], [-4, -0.4]], [[1, 0], [0, 1]], [[1, 0], [1, 1]], [[2, 0], [0, 3]]
        )
        theirs = scipy.signal.StateSpace(
            system.A, system.B[:, [port]], system.C, system.D[:, [port]]
        )
        T = np.linspace(0, 5, 51)
        _, impulse, _ = scipy.signal.lsim(
            scipy.signal.StateSpace(system.A, system.B[:, [port]], system.C, np.zeros((2, 1))),
            np.zeros(len(T)),
            T,
            X0=system.B[:, port],
        )
        _, step, _ = scipy.signal.lsim(theirs, np.ones(len(T)), T)
        assert_allclose(system.impulse_response(T)[:, :, port], impulse, atol=1e-12)
        assert_allclose(system.step_response(T)[:, :, port], step, atol=1e-12)


@every_shape
@dense_and_diagonal
@real_and_complex
def test_responses_against_an_ode_solver(inputs, outputs, diagonal, dtype, random_system):
    s = random_system(0, inputs=inputs, outputs=outputs, diagonal=diagonal, dtype=dtype)
    A = np.diag(s.A) if diagonal else s.A
    h0 = np.array([1.0, -2.0, 0.5])

    def solve(h: np.ndarray, force: np.ndarray) -> np.ndarray:
        """Return C h at each of TIMES for h' = A h + force."""
        options = {"t_eval": TIMES, "method": "DOP853", "rtol": 1e-11, "atol": 1e-12}
        start = h.astype(complex)
        states = scipy.integrate.solve_ivp(lambda t, h: A @ h + force, (0, 5), start, **options).y
        return (s.C @ states).T

    free = s.free_response(TIMES, h0)
    assert_allclose(free, solve(h0, np.zeros(3)), atol=1e-8)
    impulse, step = s.impulse_response(TIMES), s.step_response(TIMES)
    assert impulse.shape == step.shape == TIMES.shape + s.D.shape
    for port in range(s.inputs):
        b = s.B.reshape(3, -1)[:, port]
        column = (..., port) if inputs else (...,)
        assert_allclose(impulse[column], solve(b, np.zeros(3)), atol=1e-8)
        assert_allclose(step[column], solve(np.zeros(3), b) + s.D[column], atol=1e-8)


def test_step_response_of_an_integrator_is_a_ramp():
    for A in ([0], [[0]]):
        assert_allclose(StateSpace(A, [1], [1]).step_response(TIMES), TIMES, atol=1e-14)


def test_stable_is_not_the_same_as_shrinking():
    system = StateSpace([[-1, 100], [0, -2]], [0, 1], [1, 0])
    assert system.is_stable()
    assert_allclose(system.free_response([np.log(2)], [0, 1]), [25], rtol=1e-14)


@dense_and_diagonal
def test_simulate_is_exact_for_a_held_input(diagonal, random_system):
    s = random_system(1, diagonal=diagonal)
    y, h = s.simulate(np.ones(20), 0.25)
    assert_allclose(y, s.step_response(0.25 * np.arange(1, 21)), rtol=1e-12)
    assert h.shape == (20, 3)
    y, _ = s.simulate(np.zeros(20), 0.25, h0=[1, 2, 3])
    assert_allclose(y, s.free_response(0.25 * np.arange(1, 21), [1, 2, 3]), rtol=1e-12)


# --- structure -----------------------------------------------------------------------------------


def test_repr_is_one_line():
    assert repr(SPRING) == "StateSpace(state=2, inputs=1, outputs=1)"
    assert (
        repr(SPRING.discretize(0.1)) == "DiscreteStateSpace(state=2, inputs=1, outputs=1, dt=0.1)"
    )


@every_shape
@dense_and_diagonal
def test_sizes(inputs, outputs, diagonal, random_system):
    s = random_system(2, state=4, inputs=inputs, outputs=outputs, diagonal=diagonal)
    for system in (s, s.discretize(0.1)):
        assert (system.state, system.inputs, system.outputs) == (4, inputs or 1, outputs or 1)
        assert system.D.shape == tuple(n for n in (outputs, inputs) if n)


def test_arrays_are_copied_and_read_only():
    A = np.array([[-1.0]])
    system = StateSpace(A, [1], [1])
    A[0, 0] = 5
    assert system.A[0, 0] == -1
    for owner in (system, system.discretize(0.1, "foh")):
        for field in dataclasses.fields(owner):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(owner, field.name, 0)
            if field.name != "dt":
                with pytest.raises(ValueError, match="read-only"):
                    getattr(owner, field.name)[...] = 0


def test_a_system_equals_itself_and_can_be_a_key():
    assert SPRING == SPRING
    assert StateSpace([-1], [1], [1]) != StateSpace([-1], [1], [1])
    assert {SPRING: 1}[SPRING] == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_types_are_kept_by_every_way(dtype, random_system):
    s = random_system(3, dtype=dtype)
    s = StateSpace(s.A, s.B, s.C)  # the default D takes part in no promotion
    assert s.D.dtype == dtype
    h0 = np.ones(3, dtype)
    assert s.impulse_response([0, 1]).dtype == dtype
    assert s.step_response([0, 1]).dtype == dtype
    assert s.free_response([0, 1], h0).dtype == dtype
    d = s.discretize(0.1, "foh")
    x = np.ones(4, dtype)
    assert [a.dtype for a in d.simulate(x, h0=h0)] == [dtype, dtype]
    assert lti.convolution(d, x, h0=h0).dtype == dtype
    assert lti.kernel(d, 4).dtype == dtype


def test_a_number_as_feedthrough():
    assert StateSpace([-1], [1], [1], 2).D == 2
    assert StateSpace(np.float32([-1]), np.float32([1]), np.float32([1]), 2.5).D.dtype == "float32"
    assert StateSpace([-1], [1], [1], 2j).D.dtype == "complex128"
    assert_array_equal(StateSpace([-1], [[1, 1]], [[1], [1], [1]]).D, np.zeros((3, 2)), strict=True)


# --- eigenvalues, stability, transfer function ---------------------------------------------------


@pytest.mark.parametrize(
    ("A", "stable"),
    [([-1], True), ([0], False), ([[0, 1], [-1, 0]], False), ([-1, 2], False), ([-0.1 + 9j], True)],
)
def test_stability(A, stable):
    ones = np.ones(len(A))
    system = StateSpace(A, ones, ones)
    assert system.is_stable() is stable


@dense_and_diagonal
def test_sampling_maps_eigenvalues_by_exp(diagonal, random_system):
    s = random_system(4, diagonal=diagonal, dtype="complex128")
    mapped = np.sort_complex(np.exp(0.1 * s.eigenvalues()))
    assert_allclose(np.sort_complex(s.discretize(0.1).eigenvalues()), mapped, rtol=1e-12)


@every_shape
@dense_and_diagonal
@real_and_complex
def test_transfer_function_by_its_formula(inputs, outputs, diagonal, dtype, random_system):
    system = random_system(5, inputs=inputs, outputs=outputs, diagonal=diagonal, dtype=dtype)
    s = np.array([[0.3, 1j], [2 - 1j, -0.5j]])
    G = system.transfer_function(s)
    assert G.shape == s.shape + system.D.shape
    A = np.diag(system.A) if diagonal else system.A
    for index in np.ndindex(s.shape):
        exact = system.C @ np.linalg.inv(s[index] * np.eye(3) - A) @ system.B + system.D
        assert_allclose(G[index], exact, rtol=1e-12)
        assert_allclose(system.transfer_function(s[index]), exact, rtol=1e-12)


def test_transfer_function_agrees_with_scipy():
    omega, G = scipy.signal.freqs([1], [1, 0.4, 4], np.linspace(0, 10, 50))
    assert_allclose(SPRING.transfer_function(1j * omega), G, rtol=1e-10)


@pytest.mark.parametrize("A", [[-1.0, -2.0], [[-1.0, 0], [0, -2.0]]])
def test_transfer_function_at_a_pole(A):
    with pytest.raises(ValueError, match="s must not be an eigenvalue"):
        StateSpace(A, [1, 1], [1, 1]).transfer_function([0, -2])
    with pytest.raises(ValueError, match="z must not be an eigenvalue"):
        DiscreteStateSpace(A, [1, 1], [1, 1]).transfer_function(-2)


# --- change of basis -----------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), diagonal=st.booleans(), dtype=st.sampled_from(["f8", "c16"]))
def test_a_change_of_basis_keeps_the_map(seed, diagonal, dtype, random_system):
    s = random_system(seed, inputs=2, outputs=2, diagonal=diagonal, dtype=dtype)
    rng = np.random.default_rng(seed)
    T = np.linalg.qr(rng.normal(size=(3, 3)))[0] * [0.5, 1, 2]
    t = s.transform(T)
    assert_allclose(t.impulse_response(TIMES), s.impulse_response(TIMES), atol=1e-12)
    assert_allclose(t.transfer_function([1, 1j]), s.transfer_function([1, 1j]), atol=1e-12)
    K = lti.kernel(s.discretize(0.1, "bilinear"), 32)
    assert_allclose(lti.kernel(t.discretize(0.1, "bilinear"), 32), K, atol=1e-12)
    h0 = np.ones(3)
    x = rng.normal(size=(16, 2))
    y, h = s.simulate(x, 0.1, h0=T @ h0)
    y_t, h_t = t.simulate(x, 0.1, h0=h0)
    assert_allclose(y_t, y, atol=1e-12)
    assert_allclose(h_t @ T.T, h, atol=1e-12)


def test_diagonalising_and_back(random_system):
    s = random_system(6)
    eigenvalues, V = np.linalg.eig(s.A)
    assert_allclose(s.transform(V).A, np.diag(eigenvalues), atol=1e-13)
    assert_allclose(s.transform(V).transform(np.linalg.inv(V)).A, s.A, atol=1e-13)


# --- scipy and back ------------------------------------------------------------------------------


@every_shape
@dense_and_diagonal
@pytest.mark.parametrize("method", ["zoh", "foh"])
def test_to_scipy_simulates_the_same(inputs, outputs, diagonal, method, random_system):
    s = random_system(7, inputs=inputs, outputs=outputs, diagonal=diagonal)
    d = s.discretize(0.2, method)
    x = np.random.default_rng(0).normal(size=(20, inputs) if inputs else 20)
    h0 = np.array([1.0, -1.0, 2.0])
    y, h = d.simulate(x, h0=h0)
    A_bar = np.diag(d.A_bar) if diagonal else d.A_bar
    _, y_scipy, s_k = scipy.signal.dlsim(d.to_scipy(), x, x0=A_bar @ h0)
    assert_allclose(y.reshape(y_scipy.shape), y_scipy, atol=1e-13)
    Bx = np.multiply.outer(x, d.B_bar) if inputs is None else x @ d.B_bar.T
    assert_allclose(h - Bx, s_k, atol=1e-13)


@every_shape
@real_and_complex
def test_continuous_round_trip(inputs, outputs, dtype, random_system):
    s = random_system(8, inputs=inputs, outputs=outputs, dtype=dtype)
    there = s.to_scipy()
    back = StateSpace.from_scipy(there)
    for name in "ABCD":
        original = getattr(s, name)
        assert_array_equal(getattr(back, name).reshape(original.shape), original)
        assert_array_equal(getattr(back, name), getattr(there, name))


@every_shape
@real_and_complex
def test_discrete_round_trip_is_the_same_map(inputs, outputs, dtype, random_system):
    d = random_system(9, inputs=inputs, outputs=outputs, dtype=dtype).discretize(0.2, "foh")
    back = DiscreteStateSpace.from_scipy(d.to_scipy())
    assert back.dt == 0.2
    assert_array_equal(back.B_bar, np.zeros_like(back.B_bar))
    z = np.array([1.5, 1j - 0.4])
    assert_allclose(
        back.transfer_function(z).reshape(z.shape + d.D.shape), d.transfer_function(z), rtol=1e-11
    )
    x = np.random.default_rng(0).normal(size=(20, d.inputs))
    y = d.simulate(x if inputs else x[:, 0])[0]
    assert_allclose(back.simulate(x)[0].reshape(y.shape), y, atol=1e-13)


def test_from_scipy_takes_every_form():
    poles = StateSpace.from_scipy(scipy.signal.lti([], [-1, -2], 3))
    assert_allclose(poles.transfer_function(1.0).item(), 0.5)
    filtered = DiscreteStateSpace.from_scipy(scipy.signal.dlti([1, 0.5], [1, -0.5], dt=0.1))
    x = np.random.default_rng(0).normal(size=30)
    y = scipy.signal.lfilter([1, 0.5], [1, -0.5], x)
    assert_allclose(filtered.simulate(x[:, None])[0][:, 0], y, atol=1e-13)
    assert DiscreteStateSpace.from_scipy(scipy.signal.dlti([1], [1, -0.5])).dt == 1


@pytest.mark.parametrize(
    ("convert", "wrong", "message"),
    [
        (
            StateSpace.from_scipy,
            LEAKY.to_scipy(),
            "must be a scipy.signal.lti; got StateSpaceDiscrete",
        ),
        (
            DiscreteStateSpace.from_scipy,
            SPRING.to_scipy(),
            "must be a scipy.signal.dlti; got StateSpaceCont",
        ),
        (
            StateSpace.from_scipy,
            SPRING,
            "must be a scipy.signal.lti; got StateSpace of ssmlab:",
        ),
    ],
)
def test_from_scipy_refuses_other_systems(convert, wrong, message):
    with pytest.raises(TypeError, match=message):
        convert(wrong)


# --- bad input -----------------------------------------------------------------------------------

A, B, C = [[0, 1], [-4, -1]], [0, 1], [1, 0]
BAD = {
    "A": (lambda: StateSpace(np.ones((2, 3)), B, C), "A must be a square matrix"),
    "B": (lambda: StateSpace(A, [1], C), r"B must have shape \(2,\) for one input"),
    "C": (
        lambda: StateSpace(A, B, [[1], [0]]),
        r"C must have shape \(2,\) for one output .* got \(2, 1\)",
    ),
    "no output": (lambda: StateSpace(A, B, np.ones((0, 2))), "C must have shape"),
    "C is a number": (lambda: StateSpace(A, B, 1), "C must have shape"),
    "D": (lambda: StateSpace(A, B, C, [1]), r"D must have shape \(\), .* got \(1,\)"),
    "D for MIMO": (lambda: StateSpace(A, np.eye(2), C, 1), r"D must have shape \(2,\)"),
    "D boolean": (lambda: StateSpace(A, B, C, False), "D must hold real or complex"),
    "A_bar": (lambda: DiscreteStateSpace(1.0, B, C), "A_bar must be a square matrix"),
    "B_bar": (lambda: DiscreteStateSpace(A, [np.nan, 0], C), "B_bar must be finite"),
    "B_prev": (
        lambda: DiscreteStateSpace(A, B, C, B_prev=[1]),
        r"B_prev must have the shape of B_bar, \(2,\); got \(1,\)",
    ),
    "dt": (lambda: DiscreteStateSpace(A, B, C, dt=0), "dt must be positive"),
    "method": (
        lambda: SPRING.discretize(0.1, "bilnear"),
        r"method must be one of 'zoh', .*; got 'bilnear': did you mean 'bilinear'\?",
    ),
    "no such method": (
        lambda: SPRING.discretize(0.1, "#"),
        "method must be one of .* got '#': pick one of these",
    ),
    "method is None": (lambda: SPRING.discretize(0.1, None), "method must be one of .* got None"),
    "method of simulate": (lambda: SPRING.simulate([1], 0.1, method="ZOH"), "did you mean 'zoh'"),
    "option": (
        lambda: SPRING.discretize(0.1, "zoh", alpha=1),
        "unexpected keyword argument 'alpha'",
    ),
    "t negative": (
        lambda: SPRING.impulse_response([-1]),
        "t must be a list of real times of at least 0",
    ),
    "t number": (lambda: SPRING.step_response(1.0), "t must be a list of real times"),
    "t empty": (lambda: SPRING.step_response([]), "t must be a list"),
    "t complex": (lambda: SPRING.step_response([1j]), "t must be a list of real times"),
    "t nan": (lambda: SPRING.step_response([np.nan]), "t must be finite"),
    "h0": (lambda: SPRING.free_response([1], [1]), r"h0 must have shape \(2,\), .* got \(1,\)"),
    "s": (lambda: SPRING.transfer_function([np.inf]), "s must be finite"),
    "T": (lambda: SPRING.transform([1, 2]), r"T must have shape \(2, 2\); got \(2,\)"),
    "T singular": (lambda: SPRING.transform([[1, 1], [1, 1]]), "T must be invertible"),
    "T nearly singular": (
        lambda: SPRING.transform([[1, 1], [1, 1 + 3e-16]]),
        "T must be invertible",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, unchecked):
    call, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@given(
    name=st.sampled_from("ABC"),
    wrong=hnp.arrays(
        float, hnp.array_shapes(min_dims=0, min_side=0, max_side=4), elements=st.just(1)
    ),
)
def test_any_wrong_shape_is_named(name, wrong):
    fits = {
        "A": wrong.shape in ((2,), (2, 2)),
        "B": wrong.shape == (2,) or (wrong.ndim == 2 and wrong.shape[0] == 2 and wrong.size > 0),
        "C": wrong.shape == (2,) or (wrong.ndim == 2 and wrong.shape[1] == 2 and wrong.size > 0),
    }[name]
    matrices = {"A": A, "B": B, "C": C} | {name: wrong}
    if fits:
        StateSpace(**matrices)
    elif name == "A" and wrong.ndim in (1, 2) and wrong.size and len({*wrong.shape}) == 1:
        with pytest.raises(ValueError, match=r"^B must have shape"):  # a good A, then B is wrong
            StateSpace(**matrices)
    else:
        with pytest.raises(
            ValueError, match=rf"^{name} must .* got (shape )?{re.escape(str(wrong.shape))}:"
        ):
            StateSpace(**matrices)


@given(
    name=st.sampled_from(["A_bar", "B_bar", "C", "D", "B_prev"]),
    bad=st.sampled_from([np.nan, np.inf, -np.inf, complex(0, np.nan)]),
    position=st.integers(0, 3),
)
def test_any_number_that_is_not_finite_is_named(name, bad, position):
    matrices = {
        "A_bar": np.eye(2),
        "B_bar": np.eye(2),
        "C": np.eye(2),
        "D": np.eye(2),
        "B_prev": np.eye(2),
    }
    matrices[name] = matrices[name].astype(complex)
    matrices[name].flat[position] = bad
    index = (position // 2, position % 2)
    with pytest.raises(
        ValueError, match=rf"^{name} must be finite; got .* at index \({index[0]}, {index[1]}\)"
    ):
        DiscreteStateSpace(**matrices)


def test_a_change_of_units_is_no_singular_matrix():
    system = StateSpace([[0, 1], [-4, -0.4]], [0, 1], [1, 0])
    scaled = system.transform(np.diag([1e9, 1e-9]))
    assert_allclose(scaled.A, [[0, 1e-18], [-4e18, -0.4]], rtol=1e-15)
    with pytest.raises(ValueError, match="singular to working precision"):
        system.transform(np.ones((2, 2)))


def test_masked_samples_are_refused():
    x = np.ma.masked_array([1.0, 1e6, 1.0], mask=[0, 1, 0])
    with pytest.raises(TypeError, match=r"x must have no masked values; got 1.*x\.filled"):
        StateSpace([-1.0], [1], [1]).simulate(x, 0.1)


def test_a_mask_in_a_list_is_refused():
    masked = np.ma.masked_array([1.0, 1e6], mask=[0, 1])
    for x in ([masked, masked], [1.0, np.ma.masked]):
        with pytest.raises(TypeError, match="x must have no masked values"):
            SPRING.simulate(x, 0.1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_read_only_too(copied):
    for system in (SPRING, SPRING.discretize(0.1)):
        twin = copied(system)
        with pytest.raises(ValueError, match="read-only"):
            twin.C[0] = 5
        assert_array_equal(twin.C, system.C)


@pytest.mark.parametrize("dt", [1e300, 1.7e308])
@pytest.mark.parametrize("A", [[-1e10], [[-1e10]], [1e10]])
@pytest.mark.parametrize("method", ["zoh", "foh", "bilinear", "exponential_euler", "euler"])
def test_a_step_that_overflows_is_named(A, dt, method, unchecked):
    with pytest.raises(ValueError, match=r"dt must be so small that .* overflow"):
        StateSpace(A, [1], [1]).discretize(dt, method)


def test_a_growing_state_that_overflows_names_the_step():
    with pytest.raises(ValueError, match=r"dt must be so small that the state does not overflow"):
        StateSpace([800.0], [1], [1]).discretize(1.0)


def test_units_in_which_nothing_fits_are_named():
    with pytest.raises(ValueError, match=r"T must be of a size at which A, B and C"):
        SPRING.transform(np.diag([1e200, 1e-200]))
