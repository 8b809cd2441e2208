r"""One linear time-invariant system, three views: recurrence, convolution, transfer function.

The system is a :class:`DiscreteStateSpace`,

.. math:: h_k = \bar A h_{k-1} + \bar B x_k + \bar B_{\text{prev}} x_{k-1}, \qquad
          y_k = C h_k + D x_k,

with :math:`x_{-1} = 0`; :math:`\bar B_{\text{prev}}` is zero for every discretization but the
first-order hold. Time is the first axis of x, h and y. A signal has a second axis exactly if the
system has: x is (length, inputs) if B is (state, inputs), else (length,); y likewise with C.
``h0``, (state,), is the state :math:`h_{-1}` before the first sample, zero if it is not given; what
returns states returns all of them, (length, state), and ``h[-1]`` is the last. Results have NumPy's
result type of all that enters. Derived in chapter 4, ``DiscreteStateSpace`` in chapter 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import fft as scipy_fft

from ssmlab import _check, _matrix
from ssmlab._system import System, with_all_axes
from ssmlab._typing import (
    ArrayLike,
    Complex,
    Feedthrough,
    Inexact,
    InputMatrix,
    Kernel,
    OutputMatrix,
    Outputs,
    State,
    StateMatrix,
    States,
    ndarray,
)

if TYPE_CHECKING:
    import scipy.signal


@dataclass(frozen=True, eq=False, repr=False, init=False)
class DiscreteStateSpace(System):
    r"""A discrete linear time-invariant system.

    .. math:: h_k = \bar A h_{k-1} + \bar B x_k + \bar B_{\text{prev}} x_{k-1}, \qquad
              y_k = C h_k + D x_k, \qquad x_{-1} = 0

    Parameters
    ----------
    A_bar : array_like, (state, state) or (state,)
        One axis means a diagonal matrix.
    B_bar : array_like, (state,) or (state, inputs)
    C : array_like, (state,) or (outputs, state)
    D : array_like, shape of C without state + shape of B_bar without state
        0, the default, means no feedthrough in any of these shapes.
    dt : float
        Time between two samples.
    B_prev : array_like, shape of B_bar, optional
        Weight of the previous input, which the first-order hold needs; zero by default.

    Notes
    -----
    :math:`h_k` has seen :math:`x_k`, the index of S4 and Mamba. In scipy, :math:`y_k` sees
    :math:`x_k` through D only; :meth:`to_scipy` and :meth:`from_scipy` translate. ``state``,
    ``inputs`` and ``outputs`` are the sizes. The arrays are copied and read-only.

    Examples
    --------
    >>> leaky = DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1])
    >>> leaky
    DiscreteStateSpace(state=1, inputs=1, outputs=1, dt=1)
    >>> leaky.simulate([1, 0, 0])[0]
    array([1.  , 0.5 , 0.25])
    """

    A_bar: StateMatrix
    B_bar: InputMatrix
    C: OutputMatrix
    D: Feedthrough
    dt: float
    B_prev: InputMatrix

    def __init__(
        self,
        A_bar: ArrayLike,
        B_bar: ArrayLike,
        C: ArrayLike,
        D: ArrayLike = 0,
        dt: float = 1.0,
        B_prev: ArrayLike | None = None,
    ) -> None:
        A_bar = _check.state_matrix("A_bar", A_bar)
        B_bar = _check.input_matrix("B_bar", B_bar, len(A_bar))
        C = _check.output_matrix("C", C, len(A_bar))
        D = _check.feedthrough(D, B_bar, C)
        B_prev = np.zeros_like(B_bar) if B_prev is None else _check.array("B_prev", B_prev)
        if B_prev.shape != B_bar.shape:
            raise ValueError(
                f"B_prev must have the shape of B_bar, {B_bar.shape}; got {B_prev.shape}: "
                "leave it out if the previous input plays no part"
            )
        object.__setattr__(self, "dt", _check.step_size(dt))
        self._set(A_bar=A_bar, B_bar=B_bar, C=C, D=D, B_prev=B_prev)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, dt={self.dt:g})"

    def simulate(self, x: ArrayLike, *, h0: ArrayLike | None = None) -> tuple[Outputs, States]:
        """Run the recurrence: :func:`ssmlab.lti.recurrence`."""
        return recurrence(self, x, h0=h0)

    def eigenvalues(self) -> Inexact[ndarray, "state"]:
        """Compute the eigenvalues of A_bar, the poles of the system, in no particular order.

        Examples
        --------
        >>> DiscreteStateSpace(A_bar=[0.5, -0.25], B_bar=[1, 1], C=[1, 1]).eigenvalues()
        array([ 0.5 , -0.25])
        """
        return _matrix.eigenvalues(self.A_bar)

    def is_stable(self) -> bool:
        """Tell whether every eigenvalue has a modulus below 1, strictly; at 1, rounding decides.

        Examples
        --------
        >>> DiscreteStateSpace(A_bar=[1.0], B_bar=[1], C=[1]).is_stable()
        False
        """
        return bool((np.abs(self.eigenvalues()) < 1).all())

    def transfer_function(self, z: ArrayLike) -> Inexact[ndarray, "..."]:
        """Evaluate the z-transform of the kernel: :func:`ssmlab.lti.transfer_function`."""
        return transfer_function(self, z)

    def to_scipy(self) -> scipy.signal.StateSpace:
        r"""Convert to a discrete :class:`scipy.signal.StateSpace` with the same output.

        scipy's state lags: its equations are :math:`s_{k+1} = A s_k + B x_k` and
        :math:`y_k = C s_k + D x_k`. With
        :math:`s_k = \bar A h_{k-1} + \bar B_{\text{prev}} x_{k-1}`, both are the same map if

        .. math:: A = \bar A, \qquad B = \bar A \bar B + \bar B_{\text{prev}}, \qquad
                  C = C, \qquad D = C \bar B + D.

        An initial state :math:`h_{-1}` becomes :math:`s_0 = \bar A h_{-1}`.

        Examples
        --------
        >>> import scipy.signal
        >>> leaky = DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1])
        >>> t, y, s = scipy.signal.dlsim(leaky.to_scipy(), [1, 0, 0])
        >>> y[:, 0]
        array([1.  , 0.5 , 0.25])
        """
        from scipy.signal import StateSpace as ScipyStateSpace

        B = _matrix.times(self.A_bar, self.B_bar) + self.B_prev
        D = np.asarray(self.C @ self.B_bar + self.D)
        return ScipyStateSpace(*with_all_axes(self.A_bar, B, self.C, D), dt=self.dt)

    @classmethod
    def from_scipy(cls, system: scipy.signal.dlti) -> DiscreteStateSpace:
        r"""Convert a discrete system of :mod:`scipy.signal`, in any of its forms.

        The state stays scipy's, so the input reaches it one step late: :math:`\bar B = 0` and
        :math:`\bar B_{\text{prev}} = B`. Every matrix has two axes, as in scipy: one input means x
        of shape (length, 1). ``dt=True``, scipy's "unspecified", becomes 1.

        Examples
        --------
        >>> import scipy.signal
        >>> delayed = DiscreteStateSpace.from_scipy(scipy.signal.dlti([1], [1, -0.5]))
        >>> delayed.simulate([[1], [0], [0]])[0][:, 0]
        array([0. , 1. , 0.5])
        """
        _check.scipy_system(system, "dlti")
        system = system.to_ss()
        dt = 1.0 if system.dt is True else system.dt
        return cls(system.A, np.zeros_like(system.B), system.C, system.D, dt, system.B)


def recurrence(
    system: DiscreteStateSpace, x: ArrayLike, *, h0: ArrayLike | None = None
) -> tuple[Outputs, States]:
    r"""Run the system step by step, as a recurrent network does.

    .. math:: h_k = \bar A h_{k-1} + \bar B x_k + \bar B_{\text{prev}} x_{k-1}, \qquad
              y_k = C h_k + D x_k

    Cost: length steps of state² multiplications (dense) or state (diagonal); the memory that a step
    needs does not grow with length.

    Parameters
    ----------
    system : DiscreteStateSpace
    x : array_like, (length,) or (length, inputs)
    h0 : array_like, (state,), optional
        The state :math:`h_{-1}` before the first sample; zero by default.

    Returns
    -------
    y : ndarray, (length,) or (length, outputs)
    h : ndarray, (length, state)
        Every state; ``h[-1]`` as ``h0`` continues the run, if B_prev is zero.

    Examples
    --------
    A leaky counter: half of the state is lost at each step.

    >>> from ssmlab import DiscreteStateSpace
    >>> leaky = DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1])
    >>> y, h = recurrence(leaky, [1, 0, 0, 1])
    >>> y
    array([1.   , 0.5  , 0.25 , 1.125])
    """
    x = _signal(system, x)
    h_k = _initial_state(system, h0)
    Bx = _each(system.B_bar, x)
    Bx = Bx.astype(np.result_type(Bx, system.B_prev))
    Bx[1:] += _each(system.B_prev, x[:-1])
    h = np.empty(Bx.shape, np.result_type(system.A_bar, Bx, h_k))
    for k in range(len(x)):
        h_k = _matrix.times(system.A_bar, h_k) + Bx[k]
        h[k] = h_k
    return _each(system.C, h) + _each(system.D, x), h


def kernel(system: DiscreteStateSpace, length: int) -> Kernel:
    r"""Compute the convolution kernel: the answer to the input 1, 0, 0, ...

    .. math:: \bar K_j = C \bar A^j \bar B \; (+\; C \bar A^{j-1} \bar B_{\text{prev}}
              \text{ for } j \ge 1)

    One tap for each lag, (length,) + shape of D; D is not in it. One multiplication by A_bar for
    each tap, no power of A_bar.

    Examples
    --------
    >>> from ssmlab import DiscreteStateSpace
    >>> kernel(DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1]), 4)
    array([1.   , 0.5  , 0.25 , 0.125])
    """
    _check_system(system)
    length = _check.count("length", length)
    A_bar, B_bar, B_prev = system.A_bar, system.B_bar, system.B_prev
    h = np.empty((length, *B_bar.shape), np.result_type(A_bar, B_bar, B_prev))
    h[:1] = B_bar
    h[1:2] = _matrix.times(A_bar, B_bar) + B_prev
    for j in range(2, length):
        h[j] = _matrix.times(A_bar, h[j - 1])
    return _matrix.read(system.C, h, per_input=B_bar.ndim == 2)


def convolve(x: ArrayLike, K_bar: ArrayLike) -> Outputs:
    r"""Convolve a signal with a kernel by the fast Fourier transform, causally.

    .. math:: y_k = \sum_{j=0}^{k} \bar K_j \, x_{k-j}

    A product of discrete Fourier transforms is a *circular* convolution, in which the future leaks
    into the past. Zeros prevent it: both sequences are padded to the fast length at or above length
    + taps - 1. The rounding error is relative to the norm of x times that of K_bar, not to
    each y.

    Parameters
    ----------
    x : array_like, (length,) or (length, inputs)
    K_bar : array_like, (taps,), (taps, inputs), (taps, outputs) or (taps, outputs, inputs)
        The last axis is inputs exactly if ``x`` has two axes.

    Returns
    -------
    y : ndarray, (length,) or (length, outputs)
        As long as ``x``.

    Examples
    --------
    >>> convolve([1, 0, 0, 1], K_bar=[1, 0.5, 0.25, 0.125]).round(12)
    array([1.   , 0.5  , 0.25 , 1.125])
    """
    x, K_bar = _check.signal_and_kernel(x, K_bar)
    padded = scipy_fft.next_fast_len(len(x) + len(K_bar) - 1)
    if np.iscomplexobj(x) or np.iscomplexobj(K_bar):
        fft, inverse = scipy_fft.fft, scipy_fft.ifft
    else:
        fft, inverse = scipy_fft.rfft, scipy_fft.irfft
    product = "f...,f->f..." if x.ndim == 1 else "f...i,fi->f..."
    y = np.einsum(product, fft(K_bar, padded, axis=0), fft(x, padded, axis=0))
    return inverse(y, padded, axis=0)[: len(x)]


def convolution(
    system: DiscreteStateSpace, x: ArrayLike, *, h0: ArrayLike | None = None
) -> Outputs:
    r"""Run the system on the whole sequence at once, as a convolutional network does.

    .. math:: y_k = \sum_{j=0}^{k} \bar K_j \, x_{k-j} + D x_k + C \bar A^{k+1} h_{-1}

    The output is that of :func:`recurrence`, up to rounding, and there are no states to return. The
    kernel assumes :math:`h_{-1} = 0`: leaving out the last term for any other start is a common
    slip.

    Examples
    --------
    >>> from ssmlab import DiscreteStateSpace
    >>> leaky = DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1])
    >>> convolution(leaky, [1, 0, 0, 1], h0=[8]).round(12)
    array([5.   , 2.5  , 1.25 , 1.625])
    """
    x = _signal(system, x)
    y = convolve(x, kernel(system, len(x))) + _each(system.D, x)
    return y if h0 is None else y + free_response(system, len(x), h0)


def free_response(system: DiscreteStateSpace, length: int, h0: ArrayLike) -> Outputs:
    r"""Compute the output without any input: what is left of the initial state.

    .. math:: y_k = C \bar A^{k+1} h_{-1}

    The first sample has already seen one step: it is :math:`C \bar A h_{-1}`.

    Examples
    --------
    >>> from ssmlab import DiscreteStateSpace
    >>> free_response(DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1]), 3, h0=[8])
    array([4., 2., 1.])
    """
    _check_system(system)
    length = _check.count("length", length)
    h_k = _initial_state(system, h0)
    h = np.empty((length, system.state), np.result_type(system.A_bar, h_k))
    for k in range(length):
        h_k = _matrix.times(system.A_bar, h_k)
        h[k] = h_k
    return _each(system.C, h)


def transfer_function(system: DiscreteStateSpace, z: ArrayLike) -> Inexact[ndarray, "..."]:
    r"""Evaluate the z-transform of the kernel: the factor by which :math:`x_k = z^k` is multiplied.

    .. math:: G(z) = \sum_{j \ge 0} \bar K_j z^{-j} + D
              = C (zI - \bar A)^{-1} (z \bar B + \bar B_{\text{prev}}) + D

    ``z`` is any array of points of the complex plane that are no eigenvalues of A_bar; the result
    has the shape of z, then that of D. The sum converges where :math:`|z|` exceeds every
    eigenvalue's; the formula continues it to the rest of the plane. Control theory's
    :math:`C (zI - \bar A)^{-1} \bar B` has one factor z less, because there the state answers one
    step later.

    Examples
    --------
    At z = 1, a constant input: the leaky counter settles at twice its input.

    >>> from ssmlab import DiscreteStateSpace
    >>> print(transfer_function(DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1]), 1))
    2.0
    """
    _check_system(system)
    z = _check.array("z", z)
    zB = np.multiply.outer(z, system.B_bar) + system.B_prev
    return _matrix.transfer("z", z, system.A_bar, zB, system.C, system.D)


def frequency_response(system: DiscreteStateSpace, omega: ArrayLike) -> Complex[ndarray, "..."]:
    r"""Evaluate the transfer function on the unit circle, :math:`G(e^{i \omega \Delta})`.

    Its modulus and angle are the gain and the phase of the steady answer to the input
    :math:`e^{i \omega t}` sampled at :math:`t = k \Delta`: the system must be stable, else no
    answer is ever steady. ``omega`` is real, an angular frequency in radians for each unit of time;
    :math:`\pi/\Delta` is the highest that the samples can tell apart. The result has the shape of
    omega, then that of D.

    Examples
    --------
    >>> from ssmlab import DiscreteStateSpace
    >>> leaky = DiscreteStateSpace(A_bar=[0.5], B_bar=[1], C=[1])
    >>> print(np.abs(frequency_response(leaky, [0, np.pi / 2, np.pi])).round(4))
    [2.     0.8944 0.6667]
    """
    _check_system(system)
    omega = _check.array("omega", omega)
    if np.iscomplexobj(omega):
        raise TypeError(
            "omega must be real; got complex numbers: "
            "use transfer_function(system, z) for any other point of the plane"
        )
    if not system.is_stable():
        radius = np.abs(system.eigenvalues()).max()
        raise ValueError(
            f"system must be stable; got an eigenvalue of modulus {radius:.6g}, so that no answer "
            "is ever steady: use transfer_function(system, z) for the formula's value"
        )
    return transfer_function(system, np.exp(1j * omega * system.dt))


def _each(M: Inexact[ndarray, "..."], x: Inexact[ndarray, "length ..."]) -> ndarray:
    """Compute M x_k for every k: B x, C h and D x alike."""
    return np.multiply.outer(x, M) if x.ndim == 1 else x @ M.T


def _check_system(system: DiscreteStateSpace) -> None:
    if not isinstance(system, DiscreteStateSpace):
        raise TypeError(
            f"system must be a DiscreteStateSpace; got {type(system).__name__}: "
            "call .discretize(dt) on a continuous StateSpace first"
        )


def _signal(system: DiscreteStateSpace, x: ArrayLike) -> Inexact[ndarray, "length ..."]:
    _check_system(system)
    return _check.signal("x", x, system.B_bar.shape[1:])


def _initial_state(system: DiscreteStateSpace, h0: ArrayLike | None) -> State:
    if h0 is None:
        return np.zeros(system.state, system.A_bar.dtype)
    return _check.state_vector("h0", h0, system.state)
