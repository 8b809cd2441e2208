r"""HiPPO one sample at a time: LegS over [0, t], LegT over a sliding window.

LegS over time is time-varying, :math:`c' = \frac1t (A c + B x)`. The step that takes in sample k is
a step of :math:`h' = A h + B x` whose size shrinks: 1/(k+1), or, exact for a staircase,
:math:`\ln\frac{k+1}{k}`, because on the clock :math:`\ln t` the system is time-invariant. LegT is
time-invariant to begin with.

Coefficients ``c`` are (N,) or (channels, N), and ``x`` is one sample, () or (channels,), for a
step, and a signal, (length,) or (length, channels), for what follows it from nothing; ``k`` is how
many samples were seen before. ``method`` is one of ``LEGS_METHODS`` or ``LEGT_METHODS``.

``legs_discrete`` gives the dense matrices of a step: the slow, readable twin. The steps themselves
cost O(N). In the moments :math:`m_n = c_n / \sqrt{2n+1}` both A are quotients of banded matrices,
:math:`A = E^{-1} F`, because :math:`(2n+1) P_n = P'_{n+1} - P'_{n-1}`; so :math:`(I - zA) m = b` is
the banded system :math:`(E - zF) m = E b`. Source: HiPPO (arXiv:2008.07669). Chapter 6 derives the
step, by running sums; the banded system is the same sums for both matrices.
"""

from __future__ import annotations

import numbers
from functools import lru_cache

import numpy as np
from scipy.linalg import solve_banded

from ssmlab import _check, discretize
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.hippo._common import Coefficients, coefficients, duration, norms, signal
from ssmlab.hippo.measures import Dynamics, legs, legt
from ssmlab.hippo.projection import merge

#: Which share of a step is implicit, for each rule that costs O(N).
ALPHA: dict[str, float] = {"euler": 0.0, "bilinear": 0.5, "backward_euler": 1.0}
#: The steps of LegS over time.
LEGS_METHODS = (*ALPHA, "exact")
#: The steps of LegT over a window.
LEGT_METHODS = (*ALPHA, "zoh")

History = Float[ndarray, "length state"] | Float[ndarray, "length channels state"]
Banded = Float[ndarray, "3 state"]  # the diagonal above the main one, the main one, the one below
Bands = tuple[Banded, Banded, float]  # E, F and the first entry of E B; the others are 0


def legs_discrete(N: int, k: int, method: str = "exact") -> Dynamics:
    r"""Form the matrices of the LegS step that takes in sample k: :math:`\bar A c + \bar B x_k`.

    "exact" solves :math:`c' = \frac1t (A c + B x)` from t = k to k + 1 while x stays at
    :math:`x_k`: a zero-order hold with the step :math:`\ln\frac{k+1}{k}`. At k = 0 nothing was
    seen, and :math:`c = x_0 e_0`. The others are rules of ``discretize`` with the step 1/(k+1).

    "euler" has eigenvalues outside the unit circle while k + 1 < N/2: for N = 64 and the constant
    input 1, the state passes 1e45 before it comes back.

    Examples
    --------
    After the second sample, the mean of the two, and the slope.

    >>> A_bar, B_bar = legs_discrete(2, 1)
    >>> A_bar.round(3), B_bar.round(3)
    (array([[ 0.5  ,  0.   ],
           [-0.433,  0.25 ]]), array([0.5  , 0.433]))
    """
    N, k = _check.width("N", N), _sample(k)
    if _check.choice("method", method, LEGS_METHODS) != "exact":
        A_bar, B_bar = discretize.METHODS[method](*legs(N), 1 / (k + 1))
        return A_bar, B_bar
    if k == 0:
        return np.zeros((N, N)), np.eye(N)[0]
    return discretize.zoh(*legs(N), np.log1p(1 / k))


def legs_step(c: ArrayLike, x: ArrayLike, k: int, method: str = "exact") -> Coefficients:
    r"""Take in sample k: :math:`\bar A c + \bar B x_k`, with the matrices of ``legs_discrete``.

    O(N) for "euler", "bilinear" and "backward_euler". "exact" merges the interval of k samples with
    that of one, in O(N^2); ``LegSMemory`` makes it O(N) on average.

    Examples
    --------
    The samples 2, 2, 2 and then 4: the mean becomes 2.5.

    >>> legs_step([2.0, 0.0], 4.0, k=3).round(3)
    array([2.5 , 0.65])
    """
    c, x = _pair(c, x)
    k = _sample(k)
    if _check.choice("method", method, LEGS_METHODS) != "exact":
        return _banded_step(_legs_bands(c.shape[-1]), c, x, 1 / (k + 1), ALPHA[method])
    newest = np.zeros(c.shape)
    newest[..., 0] = x
    return merge([c, newest], [k, 1]) if k else newest


def legt_step(
    c: ArrayLike, x: ArrayLike, dt: float, theta: float = 1.0, method: str = "bilinear"
) -> Coefficients:
    r"""Take in one sample of the window theta: :math:`\bar A c + \bar B x`, in O(N).

    The matrices are those of ``discretize`` for ``legt(N, theta)``; ``dt`` and ``theta`` have one
    unit. There is no "zoh", which would cost O(N^2).

    Examples
    --------
    >>> c = legt_step(np.zeros(3), 1.0, dt=0.1)
    >>> A_bar, B_bar = discretize.bilinear(*legt(3), 0.1)
    >>> np.allclose(c, B_bar)
    True
    """
    c, x = _pair(c, x)
    step = _check.step_size(dt) / duration("theta", theta)
    alpha = ALPHA[_check.choice("method", method, ALPHA)]
    if not np.isfinite(step * 4 * c.shape[-1]):
        raise ValueError(
            f"dt must be so small a part of theta that dt A does not overflow; got {dt:g} and "
            f"{theta:g}: pass a smaller step"
        )
    return _banded_step(_legt_bands(c.shape[-1]), c, x, step, alpha)


def legs_online(x: ArrayLike, N: int, method: str = "exact") -> History:
    """Follow the LegS coefficients from nothing through all samples.

    The result holds the coefficients after each sample, (length, N) or (length, channels, N).
    ``LegSMemory`` keeps the last only, and is far faster to feed.

    Examples
    --------
    One coefficient is the running mean.

    >>> legs_online([1.0, 3.0, 5.0], 1).T
    array([[1., 2., 3.]])
    """
    x, N = signal("x", x), _check.width("N", N)
    _check.choice("method", method, LEGS_METHODS)
    history = np.empty((*x.shape, N))
    c = np.zeros(history.shape[1:])
    for k, x_k in enumerate(x):
        history[k] = c = legs_step(c, x_k, k, method)
    return history


def legt_online(x: ArrayLike, N: int, theta: float, method: str = "zoh") -> History:
    """Follow the LegT coefficients of the last theta samples, from nothing through all samples.

    "zoh" is exact for a staircase, in O(N^2) a sample; the others are ``legt_step``, in O(N). The
    result holds the coefficients after each sample, (length, N) or (length, channels, N);
    ``reconstruct(history[k], 1 - age / theta)`` draws the window.

    Examples
    --------
    The window has filled with ones.

    >>> legt_online(np.ones(50), 2, theta=10)[-1].round(3)
    array([1., 0.])
    """
    x, N, theta = signal("x", x), _check.width("N", N), duration("theta", theta)
    if _check.choice("method", method, LEGT_METHODS) == "zoh":
        A_bar, B_bar = discretize.zoh(*legt(N, theta), 1.0)
    history = np.empty((*x.shape, N))
    c = np.zeros(history.shape[1:])
    for k, x_k in enumerate(x):
        if method == "zoh":
            c = c @ A_bar.T + np.multiply.outer(x_k, B_bar)
        else:
            c = legt_step(c, x_k, 1.0, theta, method)
        history[k] = c
    return history


@lru_cache(maxsize=16)
def _legs_bands(N: int) -> Bands:
    """E takes the difference of neighbours: it turns the sums in A into single terms."""
    n = np.arange(N)
    E, F = np.zeros((2, 3, N))
    E[1], E[2] = 1, -1
    F[1], F[2] = -(n + 1), -n
    return E, F, 1.0


@lru_cache(maxsize=16)
def _legt_bands(N: int) -> Bands:
    """E m = m_{n+1} - m_{n-1}, with m_{-1} = -m_0 and m_N = m_{N-1}; then F is diagonal."""
    E, F = np.zeros((2, 3, N))
    E[0], E[2] = 1, -1
    E[1, 0] += 1
    E[1, -1] += 1
    F[1] = -2 * norms(N) ** 2
    return E, F, 2.0


def _banded_step(bands: Bands, c: ndarray, x: ndarray, step: float, alpha: float) -> Coefficients:
    """(E - alpha step F) m_new = (E + (1 - alpha) step F) m + step E B x, in moments m."""
    E, F, input_0 = bands
    r = norms(c.shape[-1])
    above, main, below = E + (1 - alpha) * step * F
    m = c / r
    right = main * m
    right[..., :-1] += above[1:] * m[..., 1:]
    right[..., 1:] += below[:-1] * m[..., :-1]
    right[..., 0] += step * input_0 * x
    return solve_banded((1, 1), E - alpha * step * F, right.T).T * r


def _sample(k: int) -> int:
    """Return the number of a sample, counted from 0."""
    if not isinstance(k, numbers.Integral) or k < 0:
        raise ValueError(f"k must be a whole number from 0 on; got {k!r}: count samples from 0")
    return int(k)


def _pair(c: ArrayLike, x: ArrayLike) -> tuple[Coefficients, Float[ndarray, "..."]]:
    """Return coefficients and the sample that fits them."""
    c, x = coefficients("c", c), _check.array("x", x)
    if x.shape != c.shape[:-1] or np.iscomplexobj(x):
        raise ValueError(
            f"x must be one real sample of shape {c.shape[:-1]}, which follows from c of shape "
            f"{c.shape}; got {x.dtype} of shape {x.shape}: pass one number for each channel"
        )
    return c, x
