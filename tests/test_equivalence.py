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
import torch

from ssmlab import DiscreteStateSpace, diagonal, lti, nn, s4
from ssmlab.nn.layers import StateSpaceLayer

torch.set_num_threads(1)
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
    state_dtype: str | None = None  # that of x, if not given


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


# --- S4 and S4D ----------------------------------------------------------------------------------


def modes_written_out(layer: StateSpaceLayer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """2 Re C z_k + D x_k for each channel, by powers of its dense real A_bar in long double."""
    A, B, C, dt, D = parameters(layer)
    P = as_complex(layer.P) if isinstance(layer, nn.S4) else 0 * A
    y = D * x.astype(np.longdouble)
    for c in range(layer.channels):
        system = s4.system(A[c], P[c], B, C[c])
        if getattr(layer, "method", "bilinear") == "bilinear":
            A_bar, B_bar = bilinear_in_long_double(system.A, system.B, dt[c])
        else:
            growth = np.exp((dt[c] * A[c]).astype(np.clongdouble))
            b = (growth - 1) / A[c] * B
            re, im = np.diag(growth.real), np.diag(growth.imag)
            A_bar, B_bar = np.block([[re, -im], [im, re]]), np.concatenate([b.real, b.imag])
        CA = [system.C.astype(np.longdouble)]
        for _ in range(len(x)):
            CA.append(CA[-1] @ A_bar)
        y[:, c] += np.convolve(x[:, c], CA[:-1] @ B_bar)[: len(x)]
        if h0 is not None:
            y[:, c] += CA[1:] @ np.concatenate([h0[c].real, h0[c].imag])
    return y


def bilinear_in_long_double(A: np.ndarray, B: np.ndarray, dt: float) -> tuple[np.ndarray, ...]:
    I = np.eye(len(A), dtype=np.longdouble)
    M = I - np.longdouble(dt) / 2 * A
    inverse = np.linalg.inv(M.astype(float)).astype(np.longdouble)
    for _ in range(2):  # Newton
        inverse = inverse @ (2 * I - M @ inverse)
    return 2 * inverse - I, dt * inverse @ B


def s4_in_numpy(layer: nn.S4, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    A, B, C, dt, D = parameters(layer)
    P = as_complex(layer.P)
    start = [None] * layer.channels if h0 is None else h0
    return D * x + np.stack(
        [
            s4.recurrence(A[c], P[c], B, C[c], dt[c], x[:, c], h0=start[c])[0]
            for c in range(layer.channels)
        ],
        axis=1,
    )


def s4_generating_function(layer: nn.S4, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    """The convolution with S4's kernel, and the free response of the dense system."""
    A, B, C, dt, D = parameters(layer)
    P, y = as_complex(layer.P), D * x
    for c in range(layer.channels):
        y[:, c] += lti.convolve(x[:, c], s4.kernel(A[c], P[c], B, C[c], dt[c], len(x)))
        if h0 is not None:
            start = np.concatenate([h0[c].real, h0[c].imag])
            dense = s4.system(A[c], P[c], B, C[c]).discretize(dt[c], "bilinear")
            y[:, c] += lti.free_response(dense, len(x), start)
    return y


def s4d_in_numpy(layer: nn.S4D, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    A, B, C, dt, D = parameters(layer)
    K_bar = diagonal.kernel(A, np.broadcast_to(B, A.shape), C, dt, len(x), layer.method)
    y = D * x + np.stack([lti.convolve(*pair) for pair in zip(x.T, K_bar.T, strict=True)], 1)
    if h0 is not None:
        z = dt[:, None] * A
        A_bar = np.exp(z) if layer.method == "zoh" else (1 + z / 2) / (1 - z / 2)
        y += diagonal.vandermonde(2 * C * A_bar * h0, A_bar, len(x))
    return y


def forward(layer: StateSpaceLayer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    state = None if h0 is None else torch.tensor(h0)[None]
    return layer(torch.tensor(x)[None], state)[0].detach().numpy()


@torch.no_grad()
def step_by_step(layer: StateSpaceLayer, x: np.ndarray, h0: np.ndarray | None) -> np.ndarray:
    state = layer.initial_state(1) if h0 is None else torch.tensor(h0)[None]
    outputs = []
    for x_t in torch.tensor(x):
        y_t, state = layer.step(x_t[None], state)
        outputs.append(y_t[0])
    return torch.stack(outputs).numpy()


def as_complex(pairs: torch.Tensor) -> np.ndarray:
    return pairs.detach().double().numpy() @ [1, 1j]


def parameters(layer: StateSpaceLayer) -> tuple[np.ndarray, ...]:
    """Return A, B, C, dt and D in double precision."""
    log_decay, frequency, log_dt, D = (
        p.detach().double().numpy()
        for p in (layer.log_decay, layer.frequency, layer.log_dt, layer.D)
    )
    A = -np.exp(log_decay) + 1j * frequency
    return A, as_complex(layer.B), as_complex(layer.C), np.exp(log_dt), D


def s4_layer(name: str, make: Callable[[], StateSpaceLayer], dtype: str, **ways: Way) -> Case:
    def build(_: Callable) -> StateSpaceLayer:
        torch.manual_seed(0)
        return make().to(getattr(torch, dtype))

    both = {"forward": forward, "step by step": step_by_step}
    return Case(
        name=f"{name}, {dtype}",
        make=build,
        ways={"written-out sum": modes_written_out} | ways | both,
        ports=(3,),
        state=(3, 4),
        dtype=dtype,
        state_dtype="complex128",
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
    *(
        s4_layer("S4", lambda: nn.S4(3, 8), dtype, numpy=s4_in_numpy, fft=s4_generating_function)
        for dtype in ("float64", "float32")
    ),
    *(
        s4_layer(
            f"S4D {init} {method}",
            lambda init=init, method=method: nn.S4D(3, 8, init=init, method=method),
            dtype,
            numpy=s4d_in_numpy,
        )
        for init, method, dtype in (
            ("legs", "zoh", "float64"),
            ("lin", "bilinear", "float32"),
        )
    ),
]


# --- the test ------------------------------------------------------------------------------------

ROWS = [(case, way) for case in CASES for way in list(case.ways)[1:]]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("start", ["zero", "non-zero"])
@pytest.mark.parametrize(("case", "way"), ROWS, ids=[f"{case.name}: {way}" for case, way in ROWS])
def test_every_way_is_the_same_map(case, way, length, start, random_system):
    model = case.make(random_system)
    x = noise(1, (length, *case.ports), case.dtype)
    h0 = None if start == "zero" else noise(2, case.state, case.state_dtype or case.dtype)
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
