"""The ladder of chapter 14: programs for one function, from a loop in Python to a kernel.

All take x and dt of shape (length, channels), A (channels, state), B and C (length, state), and
return y, (length, channels), of the selective scan that starts from zero. What the chapter shows is
what ``book/experiments/performance.py`` times: both import it from here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import exp
from typing import no_type_check

import numpy as np
import torch
from numba import njit

from ssmlab.ops import selective_scan

Array = np.ndarray
Lists = list[list[float]]


def problem(length: int, channels: int = 256, state: int = 16) -> tuple[Array, ...]:
    """Draw x, dt, A, B and C in float32; A is -1, -2, ... in every channel."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(length, channels))
    dt = rng.uniform(0.001, 0.1, size=(length, channels))
    A = -np.tile(np.arange(1.0, state + 1), (channels, 1))
    B, C = rng.normal(size=(2, length, state))
    return tuple(v.astype(np.float32) for v in (x, dt, A, B, C))


def python_loop(x: Lists, dt: Lists, A: Lists, B: Lists, C: Lists) -> Lists:
    """One number at a time."""
    h = [[0.0] * len(row) for row in A]
    y = []
    for t in range(len(x)):
        y.append([0.0] * len(A))
        for d in range(len(A)):
            for n, a in enumerate(A[d]):
                force = dt[t][d] * x[t][d] * B[t][n]
                h[d][n] = exp(dt[t][d] * a) * h[d][n] + force
                y[t][d] += C[t][n] * h[d][n]
    return y


def store_all(x: Array, dt: Array, A: Array, B: Array, C: Array) -> Array:
    """Every decay, every force and every state in memory."""
    a = np.exp(dt[:, :, None] * A)
    h = (dt * x)[:, :, None] * B[:, None]
    for t in range(1, len(x)):
        h[t] += a[t] * h[t - 1]
    return (C[:, None] * h).sum(-1)


def keep_h(x: Array, dt: Array, A: Array, B: Array, C: Array) -> Array:
    """Only the last state in memory."""
    h, y = np.zeros_like(A), np.empty_like(x)
    for t in range(len(x)):
        force = (dt[t] * x[t])[:, None] * B[t]
        h = np.exp(dt[t, :, None] * A) * h + force
        y[t] = h @ C[t]
    return y


@no_type_check
@njit
def compiled_loop(x, dt, A, B, C):
    """One number at a time, compiled."""
    h, y = np.zeros_like(A), np.zeros_like(x)
    for t in range(x.shape[0]):
        for d in range(x.shape[1]):
            for n in range(A.shape[1]):
                force = dt[t, d] * x[t, d] * B[t, n]
                h[d, n] = np.exp(dt[t, d] * A[d, n]) * h[d, n] + force
                y[t, d] += C[t, n] * h[d, n]
    return y


def from_lists(*arrays: Array) -> Array:
    """Call ``python_loop`` with lists, as it wants them."""
    return np.array(python_loop(*(v.tolist() for v in arrays)))


def backend(name: str, *arrays: Array) -> Array:
    """Call a backend of ``ops.selective_scan`` for one sequence."""
    x, dt, A, B, C = map(torch.as_tensor, arrays)
    return selective_scan(x[None], dt[None], A, B[None], C[None], backend=name)[0].numpy()


#: Its name -> the program, from the lowest rung to the highest.
RUNGS: dict[str, Callable[..., Array]] = {
    "Python": from_lists,
    "NumPy, store all": store_all,
    "NumPy, keep h": keep_h,
    "torch loop": partial(backend, "torch"),
    "compiled loop": compiled_loop,
    "compiled kernel": partial(backend, "cpu"),
}
