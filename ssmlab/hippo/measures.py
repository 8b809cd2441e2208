r"""The matrices whose state is the past: :math:`h' = A h + B x`, one pair (A, B) for each measure.

A *measure* weighs the past: :math:`w(s)` is the density at age s. With functions :math:`\varphi_n`
that are orthogonal under it, the best approximation of the past is

.. math:: x(t - s) \approx \sum_{n<N} h_n(t)\,\varphi_n(s), \qquad
          h_n(t) = \frac{\int w(s)\,\varphi_n(s)\,x(t - s)\,\mathrm{d}s}
                        {\int w(s)\,\varphi_n(s)^2\,\mathrm{d}s}

``legs``, ``legt``, ``lmu``, ``lagt`` and ``fourier`` take N, the size of the state, and a window
also its length ``theta``, positive, in the unit of time of A. They return A, (N, N), and B, (N,),
in closed form, in float64, for any N; ``MEASURES`` holds each beside its weight and its functions.
A carries its minus sign. Source: Gu, Dao, Ermon, Rudra and Ré (HiPPO), arXiv:2008.07669. LegS, LegT
and the LMU are derived in chapter 6, LegS as a time-invariant system in chapter 8; LagT and Fourier
follow the same lines, and the tests check them against their weights and functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import laguerre

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.hippo._common import duration, norms
from ssmlab.hippo.projection import basis

Dynamics = tuple[Float[ndarray, "state state"], Float[ndarray, "state"]]  # A, B


def legs(N: int) -> Dynamics:
    r"""Scaled Legendre: all of [0, t] weighs the same (over time), or age s weighs e^-s (frozen).

    .. math:: A_{nk} = -\begin{cases} \sqrt{(2n+1)(2k+1)} & n > k \\ n + 1 & n = k \\
              0 & n < k \end{cases} \qquad B_n = \sqrt{2n+1}

    Normalisation: :math:`\varphi_n(r) = \sqrt{2n+1}\,P_n(2r - 1)` is orthonormal for the uniform
    measure on [0, 1], where r = 1 is now. Over time the coefficients
    :math:`c_n(t) = \frac1t \int_0^t \varphi_n(s/t)\,x(s)\,\mathrm{d}s` follow
    :math:`c' = \frac1t (A c + B x)`. Without the 1/t the system is time-invariant, and
    :math:`e^{sA} B = e^{-s} \varphi(e^{-s})`, exactly.

    The eigenvalues of A are -1, ..., -N; with the minus sign lost they are positive, and the state
    explodes. :math:`A + A^T = -I - 2 p p^T` with :math:`p_n = \sqrt{n + 1/2}`. Source of the frozen
    form: How to Train Your HiPPO (arXiv:2206.12037).

    Examples
    --------
    >>> A, B = legs(3)
    >>> A.round(3)
    array([[-1.   ,  0.   ,  0.   ],
           [-1.732, -2.   ,  0.   ],
           [-2.236, -3.873, -3.   ]])
    """
    r = norms(N)
    return -np.tril(np.outer(r, r), -1) - np.diag(np.arange(1.0, N + 1)), r


def legt(N: int, theta: float = 1.0) -> Dynamics:
    r"""Translated Legendre: the last theta units of time weigh the same, older ones nothing.

    .. math:: A_{nk} = -\frac{\sqrt{(2n+1)(2k+1)}}{\theta}
              \begin{cases} 1 & k \le n \\ (-1)^{n-k} & k > n \end{cases} \qquad
              B_n = \frac{\sqrt{2n+1}}{\theta}

    Normalisation: :math:`\varphi_n(s) = \sqrt{2n+1}\,P_n(1 - 2s/\theta)` is orthonormal for the
    uniform measure on the ages :math:`0 \le s \le \theta`. Public codes differ in theta (1 or 2).
    What leaves the window, :math:`x(t - \theta)`, is not known any more; it is read from the
    approximation itself. So the state is the projection only in the limit of large N.

    Examples
    --------
    >>> A, B = legt(2, theta=4.0)
    >>> (4 * A).round(3)
    array([[-1.   ,  1.732],
           [-1.732, -3.   ]])
    """
    r, theta = norms(N), duration("theta", theta)
    alternating = np.outer(_signs(N), _signs(N))
    A = -np.outer(r, r) * np.where(np.tri(N, dtype=bool), 1, alternating)
    return _per_window(A, r, theta)


def lmu(N: int, theta: float = 1.0) -> Dynamics:
    r"""Legendre memory unit: LegT in other units, with :math:`D = diag((-1)^n \sqrt{2n+1})`.

    .. math:: A = D A_{\text{LegT}} D^{-1} = \frac{2n+1}{\theta}
              \begin{cases} -1 & n < k \\ (-1)^{n-k+1} & n \ge k \end{cases} \qquad
              B = D B_{\text{LegT}} = \frac{(2n+1)(-1)^n}{\theta}

    Normalisation: :math:`x(t - s) \approx \sum_n h_n P_n(2s/\theta - 1)`; these functions are
    orthogonal, not orthonormal, and each :math:`h_n` has the unit of the signal. Source: Voelker,
    Kajic and Eliasmith, "Legendre Memory Units" (2019).

    Examples
    --------
    >>> A, B = lmu(3)
    >>> A.round(9)
    array([[-1., -1., -1.],
           [ 3., -3., -3.],
           [-5.,  5., -5.]])
    """
    A, B = legt(N, theta)
    D = _signs(N) * norms(N)
    return D[:, None] * A / D, D * B


def lagt(N: int) -> Dynamics:
    r"""Translated Laguerre: age s weighs e^-s.

    .. math:: A_{nk} = -\begin{cases} 1 & n \ge k \\ 0 & n < k \end{cases} \qquad B_n = 1

    Normalisation: the Laguerre polynomials :math:`\varphi_n(s) = L_n(s)` are orthonormal for the
    weight :math:`e^{-s}`, and :math:`e^{sA} B = e^{-s} L(s)`, exactly. The weight is that of the
    frozen ``legs``, whose functions are polynomials in :math:`e^{-s}` instead of s. Public codes
    also have tilted forms, whose diagonal is -1/2.

    Examples
    --------
    >>> lagt(2)
    (array([[-1.,  0.],
           [-1., -1.]]), array([1., 1.]))
    """
    N = _check.width("N", N)
    return -np.tri(N), np.ones(N)


def fourier(N: int, theta: float = 1.0) -> Dynamics:
    r"""Fourier: the last theta units of time weigh the same; N frequencies around zero.

    .. math:: A = \frac1\theta (W - 2 v v^T), \qquad B = \frac2\theta v, \qquad v = \varphi(0)

    Normalisation: :math:`\sqrt2 \cos(\omega s/\theta)`, :math:`\sqrt2 \sin(\omega s/\theta)` and
    the constant 1 are orthonormal on :math:`0 \le s \le \theta`. W turns each pair,
    :math:`W_{\cos,\sin} = -\omega`, :math:`W_{\sin,\cos} = \omega`. An odd N, the usual Fourier
    series, has 1 and :math:`\omega = 2\pi, 4\pi, \dots`; in an even N one function would stay
    alone, so there :math:`\omega = \pi, 3\pi, \dots` and no constant.

    A Fourier series meets a jump in its middle: at s = 0 it gives
    :math:`\frac12 (x(t) + x(t - \theta))`, for even N with a minus. Solved for what leaves the
    window, :math:`x(t - \theta)`, this makes the factors 2. The code state-spaces/s4 has them at
    theta = 2 (``fourier``, where they are 1) and theta = 1 (``fourier2``), with a constant for even
    N; its ``fourier_decay`` has half of them, and its kernels do not end with the window. Source of
    the 2: How to Train Your HiPPO (arXiv:2206.12037); chapter 8.

    Examples
    --------
    >>> A, B = fourier(3)
    >>> A.round(3)
    array([[-2.   , -2.828,  0.   ],
           [-2.828, -4.   , -6.283],
           [ 0.   ,  6.283,  0.   ]])
    """
    theta, omega = duration("theta", theta), _frequencies(N)
    v = _fourier_basis(N, 0.0)
    turning = np.where(_sine(N), omega, 0)[1:]  # couples sine n with cosine n - 1
    A = np.diag(turning, -1) - np.diag(turning, 1) - 2 * np.outer(v, v)
    return _per_window(A, 2 * v, theta)


@dataclass(frozen=True)
class Measure:
    r"""A weight on the past, the functions that are orthogonal under it, and their dynamics.

    Ages s count in windows (theta = 1) or, where the past is endless, in time constants.

    Parameters
    ----------
    dynamics : callable, N -> (A, B)
    weight : callable, s -> w(s)
        The density of the measure at age s; its integral is 1.
    basis : callable, (N, s) -> array of shape (..., N)
        The functions; the approximation is x(t - s) ~ ``basis(N, s) @ h``.
    energy : callable, N -> array of shape (N,)
        The integrals of the weight times each function's square; all 1 if orthonormal.
    oldest : float
        The age at which the window ends; infinite for an endless past.

    Examples
    --------
    >>> MEASURES["lagt"].basis(3, np.array([0.0, 2.0]))
    array([[ 1.,  1.,  1.],
           [ 1., -1., -1.]])
    """

    dynamics: Callable[[int], Dynamics]
    weight: Callable[[ndarray], ndarray]
    basis: Callable[[int, ndarray], ndarray]
    energy: Callable[[int], ndarray] = np.ones
    oldest: float = math.inf

    def kernel(self, N: int, s: ArrayLike) -> Float[ndarray, "... state"]:
        r"""What :math:`e^{sA} B` is for ``legs`` and ``lagt``, and tends to for a window.

        .. math:: K_n(s) = \frac{w(s)\,\varphi_n(s)}{\int w \varphi_n^2}, \qquad
                  h_n(t) = \int K_n(s)\,x(t - s)\,\mathrm{d}s

        The ages ``s`` lie between 0 and ``oldest``; the result has their shape, then N.

        Examples
        --------
        >>> MEASURES["legs"].kernel(2, [0.0, np.log(2)]).round(3)
        array([[1.   , 1.732],
               [0.5  , 0.   ]])
        """
        N, s = _check.width("N", N), _check.array("s", s)
        if np.iscomplexobj(s) or ((s < 0) | (s > self.oldest)).any():
            raise ValueError(
                f"s must be real, from 0 (now) to {self.oldest:g}; got values from {s.min():g} to "
                f"{s.max():g}: pass ages inside the window"
            )
        weight = self.weight(s)[..., None]
        with np.errstate(over="ignore", invalid="ignore"):
            product = weight * self.basis(N, s) / self.energy(N)
        return np.where(weight == 0, 0, product)  # a polynomial may overflow where e^-s is 0


def _per_window(A: ndarray, B: ndarray, theta: float) -> Dynamics:
    """Change the unit of time from a window to that of theta."""
    with np.errstate(over="ignore"):
        A, B = A / theta, B / theta
    if not np.isfinite(A).all():
        raise ValueError(
            f"theta must be so long that A / theta does not overflow; got {theta:g}: measure time "
            "in a smaller unit"
        )
    return A, B


def _signs(N: int) -> Float[ndarray, "state"]:
    """(-1)^n, n < N."""
    return 1.0 - 2 * (np.arange(N) % 2)


def _sine(N: int) -> ndarray:
    """Which functions of the Fourier basis are sines: every other one, and the last."""
    return np.arange(N) % 2 != N % 2


def _frequencies(N: int) -> Float[ndarray, "state"]:
    """The angle by which each function of the Fourier basis turns over the window."""
    odd = _check.width("N", N) % 2
    return np.pi * (2 * ((np.arange(N) + odd) // 2) + 1 - odd)


def _fourier_basis(N: int, s: ArrayLike) -> Float[ndarray, "... state"]:
    """Cosines, each followed by its sine; 1 in front if N is odd."""
    omega = _frequencies(N)
    angle = np.multiply.outer(s, omega)
    return np.where(omega == 0, 1, np.sqrt(2) * np.where(_sine(N), np.sin(angle), np.cos(angle)))


def _laguerre(N: int, s: ArrayLike) -> Float[ndarray, "... state"]:
    """L_n(s), n < N."""
    return laguerre.lagvander(s, N - 1).reshape(*np.shape(s), N)


#: Each measure by its name.
MEASURES: dict[str, Measure] = {
    "legs": Measure(legs, lambda s: np.exp(-s), lambda N, s: basis(N, np.exp(-s))),
    "legt": Measure(legt, np.ones_like, lambda N, s: basis(N, 1 - s), oldest=1),
    "lmu": Measure(
        lmu,
        np.ones_like,
        lambda N, s: basis(N, s) / norms(N),
        energy=lambda N: 1 / norms(N) ** 2,
        oldest=1,
    ),
    "lagt": Measure(lagt, lambda s: np.exp(-s), _laguerre),
    "fourier": Measure(fourier, np.ones_like, _fourier_basis, oldest=1),
}
