"""Every model against every way of running it: they are one map.

A row of ``CASES`` is a model and its ways, functions ``way(model, x, h0) -> y``. The first is the
reference: the slowest and plainest. Each other way must agree with it at each length, from a zero
and from a non-zero initial state, to rounding. A new model is a new row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.signal

from ssmlab import DiscreteStateSpace, lti

LENGTHS = (1, 2, 7, 64, 1001)

Way = Callable[[Any, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model, the shapes that it takes, and the ways in which it can be run."""

    name: str
    make: Callable[[Callable], Any]  # from the fixture random_system
    ways: dict[str, Way]
    ports: tuple[int, ...]  # shape of x at one time
    state: tuple[int, ...]
    dtype: str


# --- linear time-invariant systems ---------------------------------------------------------------


def written_out_sum(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """y_k = C A^{k+1} h_{-1} + sum_j C A^{k-j} (B x_j + B_prev x_{j-1}) + D x_k, in complex128."""
    A = np.diag(system.A_bar) if system.A_bar.ndim == 1 else system.A_bar
    B, B_prev = (M.reshape(len(A), -1) for M in (system.B_bar, system.B_prev))
    C, D = system.C.reshape(-1, len(A)), system.D.reshape(system.outputs, -1)
    A, x_k = A.astype(complex), x.reshape(len(x), -1).astype(complex)
    CA = np.array([C @ np.linalg.matrix_power(A, j) for j in range(len(x) + 1)])
    forces = x_k @ B.T + np.vstack([0 * x_k[:1], x_k[:-1]]) @ B_prev.T
    y = x_k @ D.T
    for k in range(len(x)):
        y[k] += np.einsum("jos,js->o", CA[k::-1], forces[: k + 1])
    if h0 is not None:
        y += CA[1:] @ h0
    return y if system.C.ndim == 2 else y[:, 0]


def recurrence(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    return lti.recurrence(system, x, h0=h0)[0]


def convolution(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    return lti.convolution(system, x, h0=h0)


def scipy_dlsim(system: DiscreteStateSpace, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """scipy's simulation, which is real: a complex number becomes two real ones."""

    def real(M: np.ndarray) -> np.ndarray:
        return np.block([[M.real, -M.imag], [M.imag, M.real]])

    theirs = system.to_scipy()
    state = np.zeros(system.state) if h0 is None else h0
    start = theirs.A @ state
    x = x.reshape(len(x), -1)
    _, y, _ = scipy.signal.dlsim(
        (*map(real, (theirs.A, theirs.B, theirs.C, theirs.D)), system.dt),
        np.hstack([x.real, x.imag]),
        x0=np.hstack([start.real, start.imag]),
    )
    y = y[:, : system.outputs] + 1j * y[:, system.outputs :]
    return y if system.C.ndim == 2 else y[:, 0]


def time_invariant(
    inputs: int | None, outputs: int | None, form: str, dtype: str, method: str
) -> Case:
    def make(random_system: Callable) -> DiscreteStateSpace:
        system = random_system(
            0, state=4, inputs=inputs, outputs=outputs, diagonal=form == "diagonal", dtype=dtype
        )
        return system.discretize(0.1, method)

    return Case(
        name=f"{inputs or 1} to {outputs or 1}, {form}, {dtype}, {method}",
        make=make,
        ways={
            "written-out sum": written_out_sum,
            "recurrence": recurrence,
            "convolution": convolution,
            "scipy": scipy_dlsim,
        },
        ports=() if inputs is None else (inputs,),
        state=(4,),
        dtype=dtype,
    )


CASES = [
    time_invariant(None, None, "dense", "float64", "zoh"),
    time_invariant(None, None, "dense", "float32", "bilinear"),
    time_invariant(None, None, "diagonal", "complex128", "zoh"),
    time_invariant(None, 3, "dense", "complex128", "foh"),
    time_invariant(2, None, "diagonal", "float64", "exponential_euler"),
    time_invariant(2, 3, "dense", "float64", "foh"),
    time_invariant(2, 3, "diagonal", "complex64", "foh"),
    time_invariant(1, 1, "dense", "float64", "euler"),
]


# --- the test ------------------------------------------------------------------------------------

ROWS = [(case, way) for case in CASES for way in list(case.ways)[1:]]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("start", ["zero", "non-zero"])
@pytest.mark.parametrize(("case", "way"), ROWS, ids=[f"{case.name}: {way}" for case, way in ROWS])
def test_every_way_is_the_same_map(case, way, length, start, random_system):
    model = case.make(random_system)
    x = noise(1, (length, *case.ports), case.dtype)
    h0 = None if start == "zero" else noise(2, case.state, case.dtype)
    reference, *_ = case.ways.values()
    y, expected = case.ways[way](model, x, h0), reference(model, x, h0)
    assert y.shape == expected.shape
    tolerance = 50 * np.finfo(case.dtype).eps * np.abs(expected).max()
    assert np.abs(y - expected).max() <= tolerance


def noise(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    value = rng.normal(size=shape)
    if np.dtype(dtype).kind == "c":
        value = value + 1j * rng.normal(size=shape)
    return value.astype(dtype)
