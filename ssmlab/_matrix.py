"""What differs between a dense and a diagonal A, in one place.

A dense A has shape (state, state). A diagonal one is stored as its diagonal, shape (state,), and
every operation on it acts element by element.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.linalg

from ssmlab._typing import Feedthrough, Inexact, InputMatrix, OutputMatrix, StateMatrix, ndarray


def identity(A: StateMatrix) -> StateMatrix:
    """Return I, stored as A is."""
    return np.ones_like(A) if A.ndim == 1 else np.eye(len(A), dtype=A.dtype)


def dense(A: StateMatrix) -> Inexact[ndarray, "state state"]:
    """Return A as a full matrix."""
    return np.diag(A) if A.ndim == 1 else A


def times(A: StateMatrix, B: InputMatrix) -> InputMatrix:
    """Compute A B, or A h."""
    return (A * B.T).T if A.ndim == 1 else A @ B


def solve(A: StateMatrix, B: StateMatrix | InputMatrix) -> StateMatrix | InputMatrix:
    """Compute A^-1 B; LinAlgError if A is singular to working precision, however it is scaled."""
    if A.ndim == 1:
        if (np.abs(A) <= np.finfo(A.dtype).eps).any():
            raise np.linalg.LinAlgError("a diagonal element is zero")
        return times(1 / A, B)
    with warnings.catch_warnings():
        warnings.simplefilter("error", scipy.linalg.LinAlgWarning)
        try:
            return scipy.linalg.solve(A, B)
        except scipy.linalg.LinAlgWarning:
            return _solve_scaled(A, B)


def _solve_scaled(A: StateMatrix, B: ndarray) -> ndarray:
    """Scale rows and columns to a size of 1 first: other units make no matrix singular."""
    (gesvx,) = scipy.linalg.get_lapack_funcs(("gesvx",), (A, B))
    *_, X, _, _, _, info = gesvx(A, B.reshape(len(A), -1))
    if info:
        raise np.linalg.LinAlgError("singular to working precision")
    return np.asarray(X).reshape(B.shape)


def exponential(A: StateMatrix) -> StateMatrix:
    """Compute e^A, for A a matrix times a step size."""
    if A.ndim == 1:
        return np.exp(A)
    with np.errstate(over="ignore", invalid="ignore"):
        result = scipy.linalg.expm(A)
    if np.isnan(result).any():
        raise ValueError(
            "dt must be smaller for a dense A, whose exponential is lost where it is squared so "
            f"often; got one that makes dt A as large as {np.abs(A).max():.0e}: pass a smaller "
            "step, or A as its diagonal"
        )
    return np.asarray(result)


def eigenvalues(A: StateMatrix) -> Inexact[ndarray, "state"]:
    """Compute the eigenvalues of A, in no particular order."""
    return A if A.ndim == 1 else np.linalg.eigvals(A)


def read(C: OutputMatrix, h: ndarray, *, per_input: bool) -> ndarray:
    """Compute C h for many h at once, which have an input axis behind the state axis or none."""
    return np.asarray(C @ h if per_input else h @ C.T)


def transfer(
    name: str, s: ndarray, A: StateMatrix, B: ndarray, C: OutputMatrix, D: Feedthrough
) -> ndarray:
    """Compute C (s I - A)^-1 B + D at each point s; B carries the axes of s in front of its own."""
    try:
        h = _resolvent(s, A, B)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"{name} must not be an eigenvalue of the state matrix, where the transfer function is "
            f"infinite; got one in {s}: move that point"
        ) from None
    return np.asarray(read(C, h, per_input=B.ndim == s.ndim + 2) + D)


def _resolvent(s: ndarray, A: StateMatrix, B: ndarray) -> ndarray:
    if A.ndim == 2:
        columns = B if B.ndim == s.ndim + 2 else B[..., None]
        return np.linalg.solve(s[..., None, None] * identity(A) - A, columns).reshape(B.shape)
    gap = s[..., None] - A
    if (gap == 0).any():
        raise np.linalg.LinAlgError
    return B / gap.reshape(gap.shape + (1,) * (B.ndim - gap.ndim))
