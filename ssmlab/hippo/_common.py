"""What the modules of HiPPO share: the shapes of their arrays, checks, and one constant."""

from __future__ import annotations

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray

Coefficients = Float[ndarray, "state"] | Float[ndarray, "channels state"]  # c
Signal = Float[ndarray, "length"] | Float[ndarray, "length channels"]  # x
Values = Float[ndarray, ""] | Float[ndarray, "channels"] | Signal  # at one point or at many


def norms(N: int) -> Float[ndarray, "state"]:
    """Return sqrt(2n + 1), n < N, which makes Legendre polynomials orthonormal on [0, 1]."""
    return np.sqrt(2 * np.arange(_check.width("N", N)) + 1)


def duration(name: str, value: float) -> float:
    """Return a positive length of time."""
    return _check.positive(name, value, "pass a length of time")


def signal(name: str, value: ArrayLike) -> Signal:
    """Return a real signal of at least one sample."""
    x = _check.array(name, value)
    if x.ndim not in (1, 2) or x.size == 0 or np.iscomplexobj(x):
        raise ValueError(
            f"{name} must be real, of shape (length,) or (length, channels), with at least one "
            f"sample; got {x.dtype} of shape {x.shape}: put time on the first axis"
        )
    return x


def coefficients(name: str, value: ArrayLike) -> Coefficients:
    """Return real coefficients."""
    c = _check.array(name, value)
    if c.ndim not in (1, 2) or c.size == 0 or np.iscomplexobj(c):
        raise ValueError(
            f"{name} must be real, of shape (state,) or (channels, state); got {c.dtype} of shape "
            f"{c.shape}: put the state on the last axis"
        )
    return c
