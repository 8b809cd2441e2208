r"""From a function to its Legendre coefficients, and back.

On the seen interval, scaled to :math:`0 \le r \le 1` so that r = 1 is now,

.. math:: \varphi_n(r) = \sqrt{2n+1}\,P_n(2r - 1), \qquad
          c_n = \int_0^1 \varphi_n(r)\,f(r)\,\mathrm{d}r, \qquad
          f(r) \approx \sum_{n<N} c_n\,\varphi_n(r)

and no other N coefficients have a smaller mean squared error. Signals are (length,) or (length,
channels), time first; coefficients are (N,) or (channels, N), the state last; ``r`` holds fractions
of the seen interval, and outside of [0, 1], where polynomials of high degree explode, it is
refused. All work is in float64. Derived in chapter 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.polynomial import legendre
from scipy.special import roots_legendre

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.hippo._common import Coefficients, Values, coefficients, duration, norms, signal

_ROWS = 512  # the table of integrals of so many samples is in memory at one time


def basis(N: int, r: ArrayLike) -> Float[ndarray, "... state"]:
    r"""Evaluate the orthonormal basis, :math:`\varphi_n(r) = \sqrt{2n+1}\,P_n(2r - 1)`, n < N.

    The result has the shape of ``r``, then N.

    Examples
    --------
    >>> basis(3, [0.0, 0.5, 1.0]).round(3)
    array([[ 1.   , -1.732,  2.236],
           [ 1.   ,  0.   , -1.118],
           [ 1.   ,  1.732,  2.236]])
    """
    return _legendre(N, _fraction(r)) * norms(N)


def basis_integral(N: int, r: ArrayLike) -> Float[ndarray, "... state"]:
    r"""Integrate the basis from 0 to r.

    .. math:: \int_0^r \varphi_n = \frac{(P_{n+1} - P_{n-1})(2r - 1)}{2\sqrt{2n+1}}
              \quad (n > 0), \qquad \int_0^r \varphi_0 = r

    The result has the shape of ``r``, then N.

    Examples
    --------
    >>> basis_integral(2, [0.0, 0.5, 1.0]).round(3)
    array([[ 0.   ,  0.   ],
           [ 0.5  , -0.433],
           [ 1.   ,  0.   ]])
    """
    N, r = _check.width("N", N), _fraction(r)
    P = _legendre(N + 1, r)
    differences = (P[..., 2:] - P[..., :-2]) / (2 * norms(N)[1:])
    return np.concatenate([r[..., None], differences], axis=-1)


def gauss(nodes: int) -> tuple[Float[ndarray, "nodes"], Float[ndarray, "nodes"]]:
    r"""Gauss-Legendre points and weights on [0, 1], exact for all degrees below twice the nodes.

    The weights are :math:`1 / \sum_n \varphi_n(r)^2` over n < nodes, which keeps digits that other
    formulas lose at the ends. Both arrays are read-only.

    Examples
    --------
    >>> r, w = gauss(2)
    >>> r.round(4), w.round(4)
    (array([0.2113, 0.7887]), array([0.5, 0.5]))
    """
    return _gauss(_check.width("nodes", nodes))


@lru_cache(maxsize=16)
def _gauss(nodes: int) -> tuple[Float[ndarray, "nodes"], Float[ndarray, "nodes"]]:
    r = (roots_legendre(nodes)[0] + 1) / 2
    w = 1 / np.square(basis(nodes, r)).sum(axis=-1)
    r.flags.writeable = w.flags.writeable = False
    return r, w


def project(x: ArrayLike, N: int) -> Coefficients:
    r"""Project samples, held constant: :math:`x_k` on :math:`k/L \le r < (k+1)/L`. Exact.

    A sample costs N multiplications. The state of ``legt`` approximates the projection of the
    samples inside its window.

    Examples
    --------
    The mean, and the slope.

    >>> project([1.0, 3.0], 2).round(3)
    array([2.   , 0.866])
    """
    x, N = signal("x", x), _check.width("N", N)
    c = np.zeros((*x.shape[1:], N))
    for start in range(0, len(x), _ROWS):
        part = x[start : start + _ROWS]
        edges = np.arange(start, start + len(part) + 1) / len(x)
        c += part.T @ np.diff(basis_integral(N, edges), axis=0)
    return c


def project_function(
    f: Callable[[ndarray], ArrayLike], N: int, T: float = 1.0, *, nodes: int | None = None
) -> Coefficients:
    r"""Project a function by quadrature: :math:`c_n = \frac1T \int_0^T \varphi_n(t/T) f(t)\,dt`.

    Parameters
    ----------
    f : callable
        Takes an array of times, returns (times,) or (times, channels).
    N : int
        How many coefficients.
    T : float
        The interval is [0, T].
    nodes : int, optional
        How many times f is evaluated at; 4 N if not given, more where f itself needs more. A
        polynomial of degree at most 2 nodes - N is projected exactly.

    Returns
    -------
    c : ndarray, (N,) or (channels, N)

    Examples
    --------
    >>> project_function(np.square, 3).round(4)
    array([0.3333, 0.2887, 0.0745])
    """
    _check.function("f", f, "pass one of times, such as numpy.sin")
    N, T = _check.width("N", N), duration("T", T)
    r, w = gauss(4 * N if nodes is None else nodes)
    values = signal("f", f(T * r))
    if len(values) != len(r):
        raise ValueError(
            f"f must return one value for each of the {len(r)} times it is given; got "
            f"{len(values)}: write it with NumPy functions, so that it takes an array"
        )
    return (values.T * w) @ basis(N, r)


def merge(pieces: Sequence[ArrayLike], lengths: Sequence[float]) -> Coefficients:
    r"""Project what consecutive intervals hold on their union. Exact.

    .. math:: c = \sum_p w_p \int_0^1 \varphi(a_p + w_p u)\,f_p(u)\,\mathrm{d}u, \qquad
              f_p(u) = \sum_k c_{pk}\,\varphi_k(u)

    ``pieces`` are the coefficients of each interval, oldest first, ``lengths`` their lengths in any
    unit. Piece p begins at the fraction :math:`a_p` of the whole and is :math:`w_p` of it long.
    What it dropped is orthogonal on it to all polynomials of degree below N, and so to the basis of
    the whole, seen from inside the piece: c misses nothing. N Gauss points integrate it exactly.

    Examples
    --------
    >>> left, right = project([5.0, 2.0, 2.0], 8), project([4.0], 8)
    >>> np.allclose(merge([left, right], [3, 1]), project([5.0, 2.0, 2.0, 4.0], 8))
    True
    """
    parts = [coefficients("pieces", piece) for piece in _check.entries("pieces", pieces)]
    widths = [duration("lengths", length) for length in _check.entries("lengths", lengths)]
    shapes = [part.shape for part in parts]
    if len(set(shapes)) != 1 or len(widths) != len(parts):
        raise ValueError(
            f"pieces must be arrays of one shape, and lengths one number for each; got shapes "
            f"{shapes} and {len(widths)} lengths: project every piece on the same N functions"
        )
    N = shapes[0][-1]
    u, w = gauss(N)
    phi_u = basis(N, u).T
    shares = np.array(widths) / max(widths)  # no sum of them overflows
    shares /= shares.sum()
    starts = np.cumsum(shares) - shares
    c = np.zeros(shapes[0])
    for part, start, share in zip(parts, starts, shares, strict=True):
        r = np.clip(start + share * u, 0, 1)  # rounding may step over an end
        c += share * (part @ phi_u * w) @ basis(N, r)
    return c


def reconstruct(c: ArrayLike, r: ArrayLike) -> Values:
    r"""Draw the function again: :math:`f(r) = \sum_n c_n\,\varphi_n(r)`.

    Clenshaw's sum keeps no table of the basis, so that a million points need little memory.

    Examples
    --------
    >>> reconstruct(project([1.0, 3.0], 2), [0.0, 0.5, 1.0])
    array([0.5, 2. , 3.5])
    """
    c, r = coefficients("c", c), _fraction(r)
    if r.ndim > 1:
        raise ValueError(
            f"r must be a number or have shape (points,); got {r.shape}: pass r.ravel()"
        )
    return np.asarray(legendre.legval(2 * r - 1, (c * norms(c.shape[-1])).T)).T


def _legendre(N: int, r: ndarray) -> Float[ndarray, "... state"]:
    """P_n(2r - 1), n < N."""
    N = _check.count("N", N)
    return legendre.legvander(2 * r - 1, N - 1).reshape(*r.shape, N)


def _fraction(r: ArrayLike) -> Float[ndarray, "..."]:
    """Return fractions of the seen interval in float64."""
    r = _check.array("r", r)
    if np.iscomplexobj(r) or ((r < 0) | (r > 1)).any():
        raise ValueError(
            f"r must be real, from 0 to 1; got values from {r.min():g} to {r.max():g}: "
            "divide times by the length of the seen interval"
        )
    return r.astype(np.float64)
