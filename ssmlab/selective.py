r"""The selective scan: a state space model whose step size, B and C follow the input.

.. math:: h_t = \bar A_t h_{t-1} + \bar B_t x_t, \qquad y_t = C_t h_t + D x_t

Each channel has its own state, and A is diagonal. Here the recurrence is written as the equation
reads, in float64. ``ssmlab.ops.selective_scan`` is its fast twin, with gradients. Derived in
chapter 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, Inexact, ndarray
from ssmlab.discretize import phi1

Signal = Float[ndarray, "batch length channels"]
State = Inexact[ndarray, "batch channels state"]

#: The factor of :math:`\Delta B x` in each method, a function of :math:`z = \Delta A`.
#:
#: :meta hide-value:
METHODS: dict[str, Callable[[ndarray], ndarray]] = {
    "exponential_euler": np.ones_like,
    "zoh": phi1,
}


def selective_scan(
    x: ArrayLike,
    dt: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    *,
    h0: ArrayLike | None = None,
    method: str = "exponential_euler",
) -> tuple[Signal, State]:
    r"""Run :math:`h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t`, :math:`y_t = C_t h_t + D x_t`.

    Parameters
    ----------
    x : array_like, (batch, length, channels)
    dt : array_like, (batch, length, channels)
        Step sizes, in the unit of time of A. A negative one is taken as it is: decays grow.
    A : array_like, (channels, state)
        The diagonal of each channel's A; real, or complex with half of each conjugate pair.
    B, C : array_like
        (batch, length, state) for each step; (batch, length, groups, state) for each step and group
        of neighbouring channels; (channels, state) if constant. Complex only if A is.
    D : array_like, (channels,), optional
        The direct path; none by default.
    h0 : array_like, (batch, channels, state), optional
        The state before the first step; 0 by default.
    method : {"exponential_euler", "zoh"}
        "zoh" multiplies :math:`\Delta B x` by :math:`\varphi_1(\Delta A) = (e^{\Delta A} - 1) /
        (\Delta A)`.

    Returns
    -------
    y : ndarray, (batch, length, channels)
        float64.
    h : ndarray, (batch, channels, state)
        The state after the last step, float64 or complex128: give it as ``h0`` to go on.

    Notes
    -----
    A complex A means :math:`y = 2 \operatorname{Re}(C h) + D x`: the other half of each pair
    contributes the conjugate. Mamba's code runs "exponential_euler"; its paper prints "zoh".
    Source: Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
    arXiv:2312.00752, algorithm 2; chapter 12.

    Examples
    --------
    A step size of 0 keeps the state: the second sample is not seen.

    >>> y, h = selective_scan(x=[[[1.0], [5.0], [1.0]]], dt=[[[1.0], [0.0], [1.0]]],
    ...                       A=[[-1.0]], B=[[1.0]], C=[[1.0]])
    >>> y.ravel().round(3)
    array([1.   , 1.   , 1.368])
    """
    factor = METHODS[_check.choice("method", method, METHODS)]
    given = {"x": x, "dt": dt, "A": A, "B": B, "C": C}
    given |= {name: value for name, value in {"D": D, "h0": h0}.items() if value is not None}
    arrays = {name: _float64(name, value) for name, value in given.items()}
    check_shapes(**arrays)
    check_kinds({name: value.dtype.kind == "c" for name, value in arrays.items()})
    x, dt, A, B, C = (arrays[name] for name in ("x", "dt", "A", "B", "C"))
    batch, length, channels = x.shape
    h = arrays.get("h0", np.zeros((batch, *A.shape))).astype(A.dtype)
    y = np.empty_like(x)
    for t in range(length):
        z = dt[:, t, :, None] * A
        B_bar = dt[:, t, :, None] * factor(z) * _at(B, t, channels)
        h = np.exp(z) * h + B_bar * x[:, t, :, None]
        Ch = (_at(C, t, channels) * h).sum(-1)
        y[:, t] = 2 * Ch.real if np.iscomplexobj(A) else Ch
    return y + arrays.get("D", 0) * x, h


@runtime_checkable
class Shaped(Protocol):
    """Anything with a shape: a NumPy array or a torch tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""


def check_shapes(x: Shaped, dt: Shaped, A: Shaped, B: Shaped, C: Shaped, **others: Shaped) -> None:
    """Ask for shapes that fit each other; ``others``: D, z, dt_bias, h0 where given.

    The sentence names the first argument that does not fit.

    Examples
    --------
    >>> x, A, B = np.ones((1, 9, 4)), np.ones((4, 16)), np.ones((1, 9, 16))
    >>> check_shapes(x, x, A, B, C=B[:, :8])
    Traceback (most recent call last):
        ...
    ValueError: C must have shape (1, 9, 16) for each step, (1, 9, groups, 16) with groups a divisor
    of 4, or (4, 16) if constant; got (1, 8, 16): see x and A for the sizes
    """
    if len(x.shape) != 3 or 0 in x.shape:
        raise ValueError(
            "x must have shape (batch, length, channels) with no axis of size 0; "
            f"got {tuple(x.shape)}: add the missing axes, and put channels last"
        )
    batch, length, channels = x.shape
    if len(A.shape) != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(
            f"A must have shape ({channels}, state), one row for each channel of x; "
            f"got {tuple(A.shape)}: pass the diagonal of each channel's A"
        )
    state = A.shape[1]
    expected = {
        "dt": (batch, length, channels),
        "z": (batch, length, channels),
        "D": (channels,),
        "dt_bias": (channels,),
        "h0": (batch, channels, state),
    }
    for name, value in {"dt": dt, **others}.items():
        if tuple(value.shape) != expected[name]:
            raise ValueError(
                f"{name} must have shape {expected[name]}, which follows from x and A; "
                f"got {tuple(value.shape)}: give it these axes, in this order"
            )
    for name, value in {"B": B, "C": C}.items():
        shape = tuple(value.shape)
        step, constant = (batch, length, state), (channels, state)
        grouped = len(shape) == 4 and shape[:2] + shape[3:] == step and shape[2] > 0
        if shape not in (step, constant) and not (grouped and channels % shape[2] == 0):
            raise ValueError(
                f"{name} must have shape {step} for each step, ({batch}, {length}, groups, {state})"
                f" with groups a divisor of {channels}, or {constant} if constant; got {shape}: "
                "see x and A for the sizes"
            )
    groups = [v.shape[2] if len(v.shape) == 4 else 1 for v in (B, C) if len(v.shape) > 2]
    if len(set(groups)) > 1:
        raise ValueError(
            f"B and C must have the same groups; got {groups[0]} and {groups[1]}: repeat the "
            "smaller one"
        )


def check_kinds(is_complex: dict[str, bool]) -> None:
    """Ask for real arguments; with a complex A, for B, C and h0 of either kind.

    The sentence names the first argument that is complex and must not be.

    Examples
    --------
    >>> check_kinds({"x": False, "A": False, "B": True})
    Traceback (most recent call last):
        ...
    TypeError: B must be real, as A is; got complex numbers: make A complex, or pass B.real
    """
    for name, value in is_complex.items():
        if value and name in ("B", "C", "h0") and not is_complex["A"]:
            raise TypeError(
                f"{name} must be real, as A is; got complex numbers: make A complex, or pass "
                f"{name}.real"
            )
        if value and name not in ("A", "B", "C", "h0"):
            raise TypeError(
                f"{name} must be real; got complex numbers: only A, B, C and h0 may be complex"
            )


def _float64(name: str, value: ArrayLike) -> Inexact[ndarray, "..."]:
    """Return a finite array in double precision."""
    array = _check.array(name, value)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _at(M: ndarray, t: int, channels: int) -> Inexact[ndarray, "..."]:
    """Return B or C at step t, in a shape that broadcasts to (batch, channels, state)."""
    if M.ndim == 2:
        return M
    if M.ndim == 3:
        return M[:, t, None]
    return np.repeat(M[:, t], channels // M.shape[2], axis=1)
