r"""Discretization: from :math:`h' = A h + B x` to :math:`h_k = \bar A h_{k-1} + \bar B x_k`.

Every method takes ``(A, B, dt)``. ``A`` is dense, shape (state, state), or diagonal, stored as its
diagonal of shape (state,); ``B`` has shape (state,) for one input or (state, inputs); ``dt`` is the
time between two samples, positive, in the unit of time of ``A``. It returns ``(A_bar, B_bar)`` in
the shapes of ``A`` and ``B``, with NumPy's result type of the two: float32 stays float32, integers
become float64. :math:`x_k` is the input on the interval that ends at step k (the index of S4 and
Mamba). The order of a method is that of its error for a smooth input.

``METHODS`` maps each name to its function. Derived in chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import numpy as np

from ssmlab import _check, _matrix
from ssmlab._typing import ArrayLike, Inexact, InputMatrix, StateMatrix, ndarray


def phi1(z: ArrayLike) -> Inexact[ndarray, "..."]:
    r"""Compute :math:`\varphi_1(z) = (e^z - 1)/z`, with :math:`\varphi_1(0) = 1`.

    It is the mean of :math:`e^{sz}` over :math:`0 \le s \le 1`, element by element, for real or
    complex z. The quotient as written loses every digit for small z; ``expm1`` keeps them. Infinite
    where :math:`e^z` overflows.

    Examples
    --------
    >>> print(f"{(np.exp(1e-12) - 1) / 1e-12:.6f} {phi1(1e-12):.6f}")
    1.000089 1.000000
    >>> phi1([-1.6, 0])
    array([0.49881468, 1.        ])
    """
    z = _check.array("z", z)
    return np.where(z == 0, 1, np.expm1(z) / np.where(z == 0, 1, z))


def phi2(z: ArrayLike) -> Inexact[ndarray, "..."]:
    r"""Compute :math:`\varphi_2(z) = (e^z - 1 - z)/z^2`, with :math:`\varphi_2(0) = 1/2`.

    For :math:`|z| < 1`, where the quotient cancels, the series :math:`\sum_k z^k / (k + 2)!` is
    summed to 18 terms, beyond the last bit of float64. Infinite where :math:`e^z` overflows.

    Examples
    --------
    >>> phi2([-1, 0, 1e-9])
    array([0.36787944, 0.5       , 0.5       ])
    """
    z = _check.array("z", z)
    small = np.abs(z) < 1
    near, far = np.where(small, z, 0), np.where(small, 1, z)
    coefficients = np.array([1 / factorial(k + 2) for k in range(18)], z.dtype)
    series = np.polynomial.polynomial.polyval(near, coefficients)
    return np.where(small, series, (phi1(far) - 1) / far)


def zoh(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[StateMatrix, InputMatrix]:
    r"""Zero-order hold: exact if the input is constant between two samples.

    .. math:: \bar A = e^{\Delta A}, \qquad
              \bar B = \int_0^\Delta e^{sA}\,\mathrm{d}s\,B = \Delta\,\varphi_1(\Delta A)\,B

    A dense A goes through the exponential of one augmented matrix,
    :math:`\exp\left(\Delta \begin{bmatrix} A & B \\ 0 & 0 \end{bmatrix}\right)
    = \begin{bmatrix} \bar A & \bar B \\ 0 & I \end{bmatrix}`, so that a singular A is no exception.
    Order 1. Source: Van Loan, "Computing integrals involving the matrix exponential" (1978).

    Examples
    --------
    The double integrator, whose A has no inverse: a force moves position and velocity.

    >>> A_bar, B_bar = zoh(A=[[0, 1], [0, 0]], B=[0, 1], dt=0.1)
    >>> print(A_bar, B_bar)
    [[1.  0.1]
     [0.  1. ]] [0.005 0.1  ]
    """
    A, B, dt = _arguments(A, B, dt)
    if A.ndim == 1:
        return np.exp(dt * A), _matrix.times(dt * phi1(dt * A), B)
    A_bar, B_bar = _augmented_exponential(A, B, dt, order=1)
    return A_bar, B_bar


def foh(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[StateMatrix, InputMatrix, InputMatrix]:
    r"""First-order hold: exact if the input is a straight line between two samples.

    .. math:: h_k = \bar A h_{k-1} + \bar B x_k + \bar B_{\text{prev}} x_{k-1}, \qquad
              \bar A = e^{\Delta A}, \quad \bar B = \Delta\,\varphi_2(\Delta A)\,B, \quad
              \bar B_{\text{prev}} = \Delta\,(\varphi_1 - \varphi_2)(\Delta A)\,B

    The line needs both of its ends, so this is the one method that returns three matrices, the last
    in the shape of ``B``; it is found as a difference, and its error is relative to B_bar. A dense
    A goes through the exponential of
    :math:`\begin{bmatrix} \Delta A & \Delta B & 0 \\ 0 & 0 & I \\ 0 & 0 & 0 \end{bmatrix}`. Order
    2. Source: Van Loan (1978).

    Examples
    --------
    Ordinary integration with A = 0 becomes the trapezoid rule.

    >>> A_bar, B_bar, B_prev = foh(A=[[0]], B=[1], dt=0.1)
    >>> print(A_bar, B_bar, B_prev)
    [[1.]] [0.05] [0.05]
    """
    A, B, dt = _arguments(A, B, dt)
    if A.ndim == 1:
        A_bar = np.exp(dt * A)
        G1, G2 = (_matrix.times(dt * phi(dt * A), B) for phi in (phi1, phi2))
    else:
        A_bar, G1, G2 = _augmented_exponential(A, B, dt, order=2)
    return A_bar, G2, G1 - G2


def gbt(
    A: ArrayLike, B: ArrayLike, dt: float, alpha: float = 0.5
) -> tuple[StateMatrix, InputMatrix]:
    r"""Generalised bilinear transform: the slope is a weighted mean of both ends of the step.

    .. math:: \bar A = (I - \alpha \Delta A)^{-1} (I + (1 - \alpha) \Delta A), \qquad
              \bar B = (I - \alpha \Delta A)^{-1} \Delta B

    ``alpha``, from 0 to 1, is the weight of the new end: 0 is Euler, 1/2 bilinear, 1 backward
    Euler. C and D stay as they are, as in S4; ``scipy.signal.cont2discrete`` changes them too.
    Refuses A and dt where :math:`I - \alpha \Delta A` is singular.

    Examples
    --------
    >>> for alpha in (0, 0.5, 1):
    ...     print(*gbt(A=[-1.0], B=[1.0], dt=0.5, alpha=alpha))
    [0.5] [0.5]
    [0.6] [0.4]
    [0.66666667] [0.33333333]
    """
    A, B, dt = _arguments(A, B, dt)
    alpha = _check.number("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha must lie between 0 (Euler) and 1 (backward Euler); got {alpha:g}: "
            "pass 0.5 for the bilinear rule"
        )
    I = _matrix.identity(A)
    implicit, explicit = I - alpha * dt * A, I + (1 - alpha) * dt * A
    try:
        return _matrix.solve(implicit, explicit), _matrix.solve(implicit, dt * B)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"A must not have an eigenvalue at {1 / (alpha * dt):g}, where I - {alpha:g} dt A is "
            f"singular for dt = {dt:g}: use a smaller dt or the method 'zoh'"
        ) from None


def bilinear(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[StateMatrix, InputMatrix]:
    r"""Bilinear rule: the slope is the mean of both ends of the step.

    .. math:: \bar A = (I - \tfrac{\Delta}{2} A)^{-1} (I + \tfrac{\Delta}{2} A), \qquad
              \bar B = (I - \tfrac{\Delta}{2} A)^{-1} \Delta B

    The states are averaged over the step, the input is not: as in S4, :math:`x_k` stands for the
    whole step. So the order is 1; it is 2 only if x is averaged as well. Fast modes ring: their
    discrete eigenvalues approach -1, where zero-order hold's approach 0. Source: Tustin (1947); Gu,
    Goel and Ré (S4), arXiv:2111.00396.

    Examples
    --------
    >>> A_bar, B_bar = bilinear(A=[-1.0, -200.0], B=[1.0, 1.0], dt=1.0)
    >>> print(A_bar.round(3), B_bar.round(3))
    [ 0.333 -0.98 ] [0.667 0.01 ]
    """
    return gbt(A, B, dt, alpha=0.5)


def euler(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[StateMatrix, InputMatrix]:
    r"""Euler's rule: the slope is that of the old state.

    .. math:: \bar A = I + \Delta A, \qquad \bar B = \Delta B

    A stable A gives a stable recurrence only if :math:`|1 + \Delta\lambda| < 1` for each of its
    eigenvalues. Order 1.

    Examples
    --------
    >>> A_bar, B_bar = euler(A=[-1.0], B=[1.0], dt=2.1)
    >>> print(A_bar, B_bar)
    [-1.1] [2.1]
    """
    A, B, dt = _arguments(A, B, dt)
    return _matrix.identity(A) + dt * A, dt * B


def backward_euler(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[StateMatrix, InputMatrix]:
    r"""Backward Euler rule: the slope is that of the new state.

    .. math:: \bar A = (I - \Delta A)^{-1}, \qquad \bar B = (I - \Delta A)^{-1} \Delta B

    A stable A gives a stable recurrence for every step size; so do many unstable ones, which then
    look stable and are not. Order 1.

    Examples
    --------
    >>> A_bar, B_bar = backward_euler(A=[-1.0], B=[1.0], dt=3.0)
    >>> print(A_bar, B_bar)
    [0.25] [0.75]
    """
    return gbt(A, B, dt, alpha=1.0)


def exponential_euler(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[StateMatrix, InputMatrix]:
    r"""Exponential Euler rule: exact for the state, Euler for the input.

    .. math:: \bar A = e^{\Delta A}, \qquad \bar B = \Delta B

    Mamba's code runs this rule, though the paper prints zero-order hold. The name is Mamba-3's
    (arXiv:2603.15569); numerical analysis means zero-order hold by it. The two differ by the factor
    :math:`\varphi_1(\Delta A)`: 0.50 at :math:`\Delta a = -1.6`. Order 1. Source: Gu and Dao,
    "Mamba: linear-time sequence modeling with selective state spaces", arXiv:2312.00752; chapters 3
    and 12.

    Examples
    --------
    >>> A_bar, B_bar = exponential_euler(A=[-1.6], B=[1.0], dt=1.0)
    >>> print(A_bar, B_bar, zoh(A=[-1.6], B=[1.0], dt=1.0)[1] / B_bar)
    [0.20189652] [1.] [0.49881468]
    """
    A, B, dt = _arguments(A, B, dt)
    return _matrix.exponential(dt * A), dt * B


#: Each method by its name: what :meth:`ssmlab.statespace.StateSpace.discretize` accepts.
#:
#: :meta hide-value:
METHODS: dict[str, Callable[..., tuple[ndarray, ...]]] = {
    "zoh": zoh,
    "bilinear": bilinear,
    "euler": euler,
    "backward_euler": backward_euler,
    "exponential_euler": exponential_euler,
    "gbt": gbt,
    "foh": foh,
}


def _arguments(A: ArrayLike, B: ArrayLike, dt: float) -> tuple[ndarray, ndarray, float]:
    """Check the arguments and bring A and B to one type."""
    A = _check.state_matrix("A", A)
    B = _check.input_matrix("B", B, len(A))
    dtype = np.result_type(A, B)
    A, B = A.astype(dtype), B.astype(dtype)
    return A, B, _check.step_size(dt, A, B)


def _augmented_exponential(A: ndarray, B: ndarray, dt: float, order: int) -> list[ndarray]:
    """Compute e^{dt A} and dt phi_j(dt A) B for j = 1 .. order (Van Loan 1978).

    B enters linearly. It is scaled to size 1 on the way, else a large B would decide how often the
    exponential halves and squares, and A would lose its digits.
    """
    scale = 2.0 ** (int(np.frexp(np.abs(B).max())[1]) - 1)
    state, columns = len(A), B.reshape(len(A), -1) / scale
    inputs = columns.shape[1]
    M = np.zeros((state + order * inputs,) * 2, A.dtype)
    M[:state, :state] = dt * A
    M[:state, state : state + inputs] = dt * columns
    M[state:, state:] = np.eye(order * inputs, k=inputs)
    A_bar, *integrals = np.split(
        _matrix.exponential(M)[:state], state + inputs * np.arange(order), axis=1
    )
    return [A_bar, *(scale * integral.reshape(B.shape) for integral in integrals)]
