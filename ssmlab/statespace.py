r"""The two equations, :math:`h' = A h + B x` and :math:`y = C h + D x`, and their discrete twins.

Shapes decide everything and nothing is coerced: there is an input axis exactly if B has one, and an
output axis exactly if C has one.

======  ====================  ==========================  ==================================
matrix  one input and output  one input, several outputs  several inputs and outputs
======  ====================  ==========================  ==================================
B       (state,)              (state,)                    (state, inputs)
C       (state,)              (outputs, state)            (outputs, state)
D       ()                    (outputs,)                  (outputs, inputs)
x       (length,)             (length,)                   (length, inputs)
y       (length,)             (length, outputs)           (length, outputs)
======  ====================  ==========================  ==================================

A is dense, shape (state, state), or diagonal, stored as its diagonal of shape (state,).
Matrices may be real or complex, float32 or float64; integers become float64. Control theory writes
u for our x and x for our h. Derived in chapter 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmlab import _check, _matrix
from ssmlab._system import System, with_all_axes
from ssmlab._typing import (
    ArrayLike,
    Feedthrough,
    Inexact,
    InputMatrix,
    Kernel,
    OutputMatrix,
    Outputs,
    StateMatrix,
    States,
    ndarray,
)
from ssmlab.discretize import METHODS, zoh
from ssmlab.lti import DiscreteStateSpace

if TYPE_CHECKING:
    import scipy.signal


@dataclass(frozen=True, eq=False, repr=False, init=False)
class StateSpace(System):
    r"""A continuous linear time-invariant system.

    .. math:: h'(t) = A h(t) + B x(t), \qquad y(t) = C h(t) + D x(t)

    Parameters
    ----------
    A : array_like, (state, state) or (state,)
        Carries its minus sign: a decay has a negative A. One axis means a diagonal matrix.
    B : array_like, (state,) or (state, inputs)
    C : array_like, (state,) or (outputs, state)
    D : array_like, shape of C without state + shape of B without state
        0, the default, means no feedthrough in any of these shapes.

    Notes
    -----
    ``state``, ``inputs`` and ``outputs`` are the sizes. The arrays are copied and read-only. Two
    systems are equal only if they are one object: the same map has many A, B, C.

    Examples
    --------
    A mass of 1 on a spring of 4 with a damper of 0.4; the state is position and velocity.

    >>> spring = StateSpace(A=[[0, 1], [-4, -0.4]], B=[0, 1], C=[1, 0])
    >>> spring
    StateSpace(state=2, inputs=1, outputs=1)
    >>> print(f"{spring.impulse_response([10.0])[0]:.4f}")
    0.0590
    """

    A: StateMatrix
    B: InputMatrix
    C: OutputMatrix
    D: Feedthrough

    def __init__(self, A: ArrayLike, B: ArrayLike, C: ArrayLike, D: ArrayLike = 0) -> None:
        A = _check.state_matrix("A", A)
        B = _check.input_matrix("B", B, len(A))
        C = _check.output_matrix("C", C, len(A))
        self._set(A=A, B=B, C=C, D=_check.feedthrough(D, B, C))

    def discretize(self, dt: float, method: str = "zoh", **options: Any) -> DiscreteStateSpace:
        """Sample the system at the step size dt; C and D stay the same. Chapter 3.

        Parameters
        ----------
        dt : float
            Step size, positive, in the unit of time of A.
        method : str
            A name in :data:`ssmlab.discretize.METHODS`.
        **options
            What else the method takes: ``alpha`` for ``"gbt"``.

        Returns
        -------
        DiscreteStateSpace

        Examples
        --------
        >>> rc = StateSpace(A=[-1], B=[1], C=[1])
        >>> print(rc.discretize(0.1).A_bar, rc.discretize(0.1, "gbt", alpha=0).A_bar)
        [0.90483742] [0.9]
        """
        function = METHODS[_check.choice("method", method, METHODS)]
        with np.errstate(over="ignore", invalid="ignore"):
            A_bar, B_bar, *B_prev = function(self.A, self.B, dt, **options)
        if not all(np.isfinite(M).all() for M in (A_bar, B_bar, *B_prev)):
            raise ValueError(
                f"dt must be so small that the state does not overflow within a step; got {dt:g} "
                f"for eigenvalues up to {np.abs(self.eigenvalues()).max():g}: pass a smaller step"
            )
        return DiscreteStateSpace(A_bar, B_bar, self.C, self.D, dt, *B_prev)

    def impulse_response(self, t: ArrayLike) -> Kernel:
        """Compute the exact answer to a unit impulse at time 0, :math:`K(t) = C e^{tA} B`.

        ``t`` is a list of times of at least 0; the answer is (times,) + shape of D, with one column
        for an impulse in each of several inputs. D's part, an impulse of size D at t = 0, is not a
        number and is left out.

        Examples
        --------
        >>> StateSpace(A=[-1], B=[1], C=[1]).impulse_response([0, 1])
        array([1.        , 0.36787944])
        """
        h = self._propagate(_check.times(t), self.B)
        return _matrix.read(self.C, h, per_input=self.B.ndim == 2)

    def step_response(self, t: ArrayLike) -> Kernel:
        r"""Compute the exact answer to an input that is 1 from time 0 on.

        .. math:: s(t) = C \int_0^t e^{\tau A} \, \mathrm{d}\tau \, B + D

        Times and shape are those of :meth:`impulse_response`. The integral is zero-order hold's
        :math:`\bar B` for a step of size t, so that a singular A is no exception. The limit
        :math:`-C A^{-1} B + D` exists only for a stable A.

        Examples
        --------
        A capacitor reaches 63 per cent of the source's voltage after one time constant.

        >>> StateSpace(A=[-1], B=[1], C=[1]).step_response([0, 1])
        array([0.        , 0.63212056])
        """
        times = _check.times(t).tolist()
        h = np.stack([zoh(self.A, self.B, t_k)[1] if t_k > 0 else 0 * self.B for t_k in times])
        return _matrix.read(self.C, h, per_input=self.B.ndim == 2) + self.D

    def free_response(self, t: ArrayLike, h0: ArrayLike) -> Outputs:
        """Compute the exact output without any input, :math:`y(t) = C e^{tA} h(0)`.

        ``t`` is a list of times of at least 0, ``h0``, (state,), the state at time 0. Stable is not
        the same as shrinking: with A = [[-1, 100], [0, -2]] the state first grows 25-fold.

        Examples
        --------
        >>> growing = StateSpace(A=[[-1, 100], [0, -2]], B=[0, 1], C=[1, 0])
        >>> print(growing.free_response([np.log(2)], h0=[0, 1]).round(6))
        [25.]
        """
        h0 = _check.state_vector("h0", h0, self.state)
        return self._propagate(_check.times(t), h0) @ self.C.T

    def simulate(
        self, x: ArrayLike, dt: float, *, method: str = "zoh", h0: ArrayLike | None = None
    ) -> tuple[Outputs, States]:
        r"""Discretize, then run the recurrence over a sampled input.

        Parameters
        ----------
        x : array_like, (length,) or (length, inputs)
            :math:`x_k` drives the step that ends at time :math:`(k + 1) \Delta`.
        dt : float
            Step size, positive.
        method : str
            A name in :data:`ssmlab.discretize.METHODS`. Zero-order hold, the default, is exact for
            an input that is constant over each step.
        h0 : array_like, (state,), optional
            The state at time 0; zero by default.

        Returns
        -------
        y : ndarray, (length,) or (length, outputs)
        h : ndarray, (length, state)
            The state at times :math:`\Delta, 2\Delta, \dots`

        Examples
        --------
        >>> y, h = StateSpace(A=[-1], B=[1], C=[1]).simulate([1, 1, 1, 1], dt=0.1)
        >>> print(y.round(4))
        [0.0952 0.1813 0.2592 0.3297]
        """
        return self.discretize(dt, method).simulate(x, h0=h0)

    def eigenvalues(self) -> Inexact[ndarray, "state"]:
        """Compute the eigenvalues of A, the poles of the system, in no particular order.

        Examples
        --------
        >>> spring = StateSpace(A=[[0, 1], [-4, 0]], B=[0, 1], C=[1, 0])
        >>> print(np.sort(spring.eigenvalues().imag))
        [-2.  2.]
        """
        return _matrix.eigenvalues(self.A)

    def is_stable(self) -> bool:
        """Tell whether every eigenvalue has a negative real part, strictly.

        Examples
        --------
        >>> [StateSpace(A=[a], B=[1], C=[1]).is_stable() for a in (-1, 0, 1)]
        [True, False, False]
        """
        return bool((self.eigenvalues().real < 0).all())

    def transfer_function(self, s: ArrayLike) -> Inexact[ndarray, "..."]:
        """Evaluate :math:`G(s) = C (sI - A)^{-1} B + D`, the factor of the input :math:`e^{st}`.

        ``s`` is any array of points of the complex plane that are no eigenvalues of A; the result
        has the shape of s, then that of D. On the imaginary axis it is the frequency response, if
        the system is stable. Chapter 4.

        Examples
        --------
        >>> print(StateSpace(A=[-1], B=[1], C=[1]).transfer_function([0, 1j]))
        [1. +0.j  0.5-0.5j]
        """
        s = _check.array("s", s)
        B = np.broadcast_to(self.B, s.shape + self.B.shape)
        return _matrix.transfer("s", s, self.A, B, self.C, self.D)

    def transform(self, T: ArrayLike) -> StateSpace:
        r"""Change the basis of the state, a similarity transform: the map stays the same.

        .. math:: h \to T^{-1} h, \qquad A \to T^{-1} A T, \qquad B \to T^{-1} B, \qquad C \to C T,
                  \qquad D \to D

        ``T``, (state, state), is invertible; its columns are the new basis. The new A is dense.

        Examples
        --------
        >>> system = StateSpace(A=[-1, -2], B=[1, 1], C=[1, 1])
        >>> system.transform([[1, 1], [0, 1]]).A
        array([[-1.,  1.],
               [ 0., -2.]])
        """
        T = _check.array("T", T)
        if T.shape != (self.state, self.state):
            raise ValueError(
                f"T must have shape {(self.state, self.state)}; got {T.shape}: "
                "pass a square matrix whose columns are the new basis"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            AT, C = _matrix.dense(self.A) @ T, self.C @ T
        _ask_for_finite(T, AT, C)
        try:
            A, B = (_matrix.solve(T, M) for M in (AT, self.B))
        except np.linalg.LinAlgError:
            raise ValueError(
                "T must be invertible; got a matrix that is singular to working precision: "
                "pass linearly independent columns"
            ) from None
        _ask_for_finite(T, A, B)
        return StateSpace(A, B, C, self.D)

    def to_scipy(self) -> scipy.signal.StateSpace:
        """Convert to :class:`scipy.signal.StateSpace`, where every matrix has two axes.

        Examples
        --------
        >>> StateSpace(A=[-1], B=[1], C=[1]).to_scipy().B
        array([[1.]])
        """
        from scipy.signal import StateSpace as ScipyStateSpace

        return ScipyStateSpace(*with_all_axes(self.A, self.B, self.C, self.D))

    @classmethod
    def from_scipy(cls, system: scipy.signal.lti) -> StateSpace:
        """Convert a continuous system of :mod:`scipy.signal`, in any of its forms.

        Every matrix has two axes, as in scipy: one input means x of shape (length, 1).

        Examples
        --------
        >>> import scipy.signal
        >>> StateSpace.from_scipy(scipy.signal.TransferFunction([1], [1, 0.4, 4])).A
        array([[-0.4, -4. ],
               [ 1. ,  0. ]])
        """
        _check.scipy_system(system, "lti")
        system = system.to_ss()
        return cls(system.A, system.B, system.C, system.D)

    def _propagate(self, times: ndarray, v: ndarray) -> ndarray:
        """Compute e^{t A} v for each time t."""
        return np.stack(
            [_matrix.times(_matrix.exponential(t_k * self.A), v) for t_k in times.tolist()]
        )


def _ask_for_finite(T: ndarray, *products: ndarray) -> None:
    """Ask for a T with which nothing overflows."""
    if not all(np.isfinite(M).all() for M in products):
        raise ValueError(
            "T must be of a size at which A, B and C do not overflow; got entries up to "
            f"{np.abs(T).max():g}: choose other units"
        )
