r"""Diagonal state space models: S4D and DSS, whose kernel is a sum of exponentials.

.. math:: z' = \Lambda z + B x, \quad y = 2 \operatorname{Re}(C z), \qquad
          \bar K_l = 2 \operatorname{Re} \sum_n C_n \bar A_n^l \bar B_n

As in :mod:`ssmlab.s4`, one mode of each conjugate pair is kept, and the factor 2 stands for the
other: state = 2 modes real numbers. ``A`` is the diagonal; ``A``, ``B``, ``C`` have shape (modes,),
or (channels, modes) for independent channels, which may share a (modes,). ``dt`` is the step size,
positive, () or (channels,); ``length`` is L, the number of taps. A kernel is real, (length,) or
(length, channels), in float32 if C is float32 or complex64, else in float64.

``INITIALISATIONS`` maps each name to a function that takes the state size N, even, and returns A
and B, (N/2,) each. The layer is :class:`ssmlab.nn.S4D`. Source: Gu, Gupta, Goel and Ré, "On the
parameterization and initialization of diagonal state space models" (S4D), arXiv:2206.11893. Derived
in chapter 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ssmlab import _check, discretize, s4
from ssmlab._typing import ArrayLike, Complex, Float, Inexact, ndarray

Modes = Inexact[ndarray, "modes"] | Inexact[ndarray, "channels modes"]
Kernels = Float[ndarray, "length"] | Float[ndarray, "length channels"]
Initial = tuple[Complex[ndarray, "modes"], Complex[ndarray, "modes"]]  # A, B

METHODS = ("zoh", "bilinear")


def legs(N: int) -> Initial:
    r"""S4D-LegS: the normal part of LegS, without the low rank, and half of its B.

    .. math:: \Lambda = V^* (A_{\text{LegS}} + p p^\top) V, \qquad B = \tfrac12 V^* B_{\text{LegS}}

    As N grows, its response tends to that of LegS with the whole B.

    Examples
    --------
    >>> A, B = legs(4)
    >>> A.round(3)
    array([-0.5+0.557j, -0.5+4.603j])
    """
    Lambda, _, B, _ = s4.dplr(N)
    return Lambda, B / 2


def lin(N: int) -> Initial:
    r"""S4D-Lin: frequencies at equal distances, :math:`A_n = -\tfrac12 + i \pi n`, B = 1.

    A damped Fourier series of period 2.

    Examples
    --------
    >>> lin(6)[0].round(2)
    array([-0.5+0.j  , -0.5+3.14j, -0.5+6.28j])
    """
    n = np.arange(s4.state_size("N", N) // 2)
    return -0.5 + 1j * np.pi * n, np.ones(len(n), complex)


def inv(N: int) -> Initial:
    r"""S4D-Inv: frequencies that fall as 1/n, as the large ones of S4D-LegS do, B = 1.

    .. math:: A_n = -\tfrac12 + i \frac N\pi \left( \frac{N}{2n + 1} - 1 \right)

    The fastest mode comes first.

    Examples
    --------
    >>> inv(6)[0].round(2)
    array([-0.5+9.55j, -0.5+1.91j, -0.5+0.38j])
    """
    N = s4.state_size("N", N)
    n = np.arange(N // 2)
    return -0.5 + 1j * N / np.pi * (N / (2 * n + 1) - 1), np.ones(N // 2, complex)


def real(N: int) -> Initial:
    """S4D-Real: decays without oscillation, :math:`A_n = -(n + 1)`, B = 1.

    The eigenvalues of LegS, but nothing else of it. A real pole and its conjugate are the same, so
    that each mode remembers one number, not two.

    Examples
    --------
    >>> real(6)[0].real
    array([-1., -2., -3.])
    """
    n = np.arange(s4.state_size("N", N) // 2)
    return -(n + 1.0) + 0j, np.ones(len(n), complex)


#: Each initialisation by its name: what :class:`ssmlab.nn.S4D` accepts.
#:
#: :meta hide-value:
INITIALISATIONS: dict[str, Callable[[int], Initial]] = {
    "legs": legs,
    "lin": lin,
    "inv": inv,
    "real": real,
}


def kernel(
    A: ArrayLike, B: ArrayLike, C: ArrayLike, dt: ArrayLike, length: int, method: str = "zoh"
) -> Kernels:
    r"""Compute S4D's kernel, :math:`\bar K_l = 2 \operatorname{Re} \sum_n C_n \bar A_n^l \bar B_n`.

    ``method`` is one of ``METHODS``. See :func:`vandermonde`, which does the work.

    Examples
    --------
    >>> kernel(A=[-1], B=[1], C=[0.5], dt=0.1, length=3)
    array([0.09516258, 0.08610666, 0.07791253])
    """
    dt, length = _step_sizes(dt), _check.count("length", length)
    method = _check.choice("method", method, METHODS)
    A, B, C, dt = _broadcast(A=A, B=B, C=C, dt=dt)
    # Independent modes are one large diagonal system, in the unit of time dt.
    A_bar, B_bar = discretize.METHODS[method]((dt * A).ravel(), (dt * B).ravel(), 1.0)
    weights = 2 * C * B_bar.reshape(A.shape)
    return vandermonde(weights.astype(_complex_type(C)), A_bar.reshape(A.shape), length)


def dss_kernel(A: ArrayLike, W: ArrayLike, dt: ArrayLike, length: int) -> Kernels:
    r"""Compute the kernel of DSS, whose exponentials are normalised like a softmax over time.

    .. math:: \bar K_l = \operatorname{Re} \sum_n \frac{W_n}{\lambda_n}
              \frac{e^{l \Delta \lambda_n}}{\sum_{r<L} e^{r \Delta \lambda_n}}

    The softmax divides a mode that grows by its own sum, and the authors use that; here the real
    part of A is negative. The sum over r is geometric, and what remains is S4D's kernel
    with zero-order hold, B = 1 and :math:`C = W / (2 (e^{L \Delta \lambda} - 1))`. So W belongs to
    one length, as S4's :math:`\tilde C` does, and there is no factor 2: DSS has no conjugate pairs.
    Source: Gupta, Gu and Berant, "Diagonal state spaces are as effective as structured state
    spaces" (DSS), arXiv:2203.14343.

    Examples
    --------
    With one mode and W = A, the taps sum to one.

    >>> dss_kernel(A=[-1], W=[-1], dt=0.5, length=3).round(4)
    array([0.5065, 0.3072, 0.1863])
    """
    dt, length = _step_sizes(dt), _check.count("length", length)
    A, W, dt = _broadcast(A=A, W=W, dt=dt)
    if (A.real >= 0).any():
        raise ValueError(
            f"A must have negative real parts; got {A.real.max():g}: DSS allows a mode that grows, "
            "but this function computes decaying modes only"
        )
    return kernel(A, np.ones_like(A), W / (2 * np.expm1(length * dt * A)), dt[..., 0], length)


def vandermonde(weights: ArrayLike, A_bar: ArrayLike, length: int) -> Kernels:
    r"""Compute :math:`\operatorname{Re} \sum_n w_n a_n^l` for l < L, without a table of all powers.

    .. math:: w_n a_n^{iT + j} = (w_n a_n^{iT}) \, a_n^j, \qquad 0 \le j < T \approx \sqrt L

    The powers :math:`a^j` and :math:`a^{iT}` are two tables of about √L columns; the real part of
    their product is one real matrix product over (Re, Im). The full table would need length times
    the memory of ``weights``, this one :math:`2 \sqrt{\text{length}}` times. The powers are taken
    in complex128 and then rounded: in float32 the phase of a fast mode would be lost after
    thousands of steps.

    Examples
    --------
    >>> vandermonde([1.0, 1.0], [0.5, -0.5], 5)
    array([2.   , 0.   , 0.5  , 0.   , 0.125])
    """
    length = _check.count("length", length)
    w, a = _broadcast(weights=weights, A_bar=A_bar)
    block = math.isqrt(length - 1) + 1
    dtype = _complex_type(w)
    inner = _powers(a, block)
    outer = w[..., None] * _powers(inner[..., -1] * a, -(-length // block))
    inner, outer = inner.astype(dtype), outer.astype(dtype)
    left = np.concatenate([outer.real, -outer.imag], axis=-2)
    right = np.concatenate([inner.real, inner.imag], axis=-2)
    K_bar = left.swapaxes(-1, -2) @ right
    return np.moveaxis(K_bar.reshape(*w.shape[:-1], -1)[..., :length], -1, 0)


def _powers(a: Modes, count: int) -> Complex[ndarray, "... count"]:
    """Tabulate a^j for j < count, each doubling the table by one multiplication."""
    table = np.ones((*a.shape, count), complex)
    done = 1
    while done < count:
        more = min(done, count - done)
        np.multiply(
            table[..., :more],
            (table[..., done - 1] * a)[..., None],
            out=table[..., done : done + more],
        )
        done += more
    return table


def _complex_type(value: ndarray) -> np.dtype:
    """Return complex64 for single precision, else complex128."""
    return np.result_type(value.dtype, np.complex64)


def _step_sizes(dt: ArrayLike) -> Inexact[ndarray, "..."]:
    """Return positive step sizes with an axis for the modes."""
    dt = _check.array("dt", dt)
    if dt.ndim > 1 or dt.size == 0 or np.iscomplexobj(dt):
        raise ValueError(
            f"dt must be one real number or one for each channel; got {dt.dtype} of shape "
            f"{dt.shape}: pass a step size that all channels share, or as many as there are"
        )
    _check.step_size(dt.min())
    return dt.astype(float)[..., None]


def _broadcast(**arguments: ArrayLike) -> list[ndarray]:
    """Check that the arguments fit each other, and bring them to one shape."""
    arrays = {name: _check.array(name, value) for name, value in arguments.items()}
    shapes = {name: a.shape for name, a in arrays.items()}
    modes = {shape[-1:] for name, shape in shapes.items() if name != "dt"}
    channels = {shape[:-1] for shape in shapes.values()} - {()}
    shape = (*channels, (), ())[0] + modes.pop()
    if modes or len(channels) > 1 or len(shape) not in (1, 2) or 0 in shape:
        if "dt" in shapes:
            shapes["dt"] = shapes["dt"][:-1]
        raise ValueError(
            f"{', '.join(shapes)} must have shapes (modes,) or (channels, modes) that fit each "
            f"other, and dt () or (channels,); got {', '.join(map(str, shapes.values()))}: "
            "give each channel the same modes"
        )
    return [np.broadcast_to(a, shape) for a in arrays.values()]
