r"""S4: the kernel of a state space model whose A is normal plus low rank.

LegS is :math:`A = V (\Lambda - P P^*) V^*` with a unitary V: normal plus low rank (NPLR) as it
stands, diagonal plus low rank (DPLR) in the basis V. Its modes come in conjugate pairs, of which
one each is kept; the other is in every formula, as a factor 2 and a real part:

.. math:: z' = \Lambda z - 2 P \operatorname{Re}(P^* z) + B x, \qquad y = 2 \operatorname{Re}(C z)

``Lambda``, ``P``, ``B`` and ``C`` are complex, shape (modes,), and stand for state = 2 modes real
numbers. ``dt`` is the step size, positive, and the rule is the bilinear one; ``length`` is L, the
number of taps. Kernels and signals are real, (length,). Everything is computed in float64. The
layer with many channels, which learns and runs on a GPU, is :class:`ssmlab.nn.S4`. Source: Gu, Goel
and Ré, "Efficiently modeling long sequences with structured state spaces" (S4), arXiv:2111.00396.
Derived in chapter 9.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.fft

from ssmlab import _check, _matrix
from ssmlab._renamed import old_names
from ssmlab._typing import ArrayLike, Complex, Float, ndarray
from ssmlab.lti import DiscreteStateSpace
from ssmlab.statespace import StateSpace

Modes = Complex[ndarray, "modes"]
CANCELLED = 1e-3  # a smallest singular value of I - A_bar^L that costs three digits

__getattr__ = old_names(__name__, {"nplr": "dplr"})


def dplr(N: int) -> tuple[Modes, Modes, Modes, Complex[ndarray, "state modes"]]:
    r"""Write LegS as diagonal plus low rank: in the basis of its normal part.

    .. math:: A + p p^\top = -\tfrac12 I + S, \qquad p_n = \sqrt{n + \tfrac12}, \qquad
              S_{nk} = -\tfrac12 \operatorname{sgn}(n - k) \sqrt{(2n + 1)(2k + 1)}

    S is skew, so :math:`-iS` is Hermitian: its eigenvalues :math:`\omega` are real, its
    eigenvectors orthonormal, and a Hermitian eigensolver finds both without loss. Never diagonalise
    A itself: its eigenvectors have the condition number 9e10 at N = 16.

    Parameters
    ----------
    N : int
        State size, even.

    Returns
    -------
    Lambda : ndarray, (N/2,)
        :math:`-\tfrac12 + i\omega` for the positive :math:`\omega`, smallest first. The largest is
        about :math:`N^2/\pi`.
    P, B : ndarray, (N/2,)
        :math:`V^* p` and :math:`V^* B = \sqrt2\,P`.
    V : ndarray, (N, N/2)
        :math:`h = 2 \operatorname{Re}(V z)` and :math:`z = V^* h`; a real C becomes :math:`C V`. A
        column is fixed up to a phase only, which cancels in every kernel: compare :math:`|P|`, B/P
        or kernels.

    Examples
    --------
    >>> Lambda, P, B, V = dplr(4)
    >>> Lambda.round(3)
    array([-0.5+0.557j, -0.5+4.603j])
    >>> np.allclose(B, np.sqrt(2) * P)
    True
    """
    N = state_size("N", N)
    p = np.sqrt(np.arange(N) + 0.5)
    S = np.outer(p, p) * np.sign(np.arange(N) - np.arange(N)[:, None])
    omega, V = np.linalg.eigh(-1j * S)
    V = V[:, N // 2 :]
    P = V.conj().T @ p
    return -0.5 + 1j * omega[N // 2 :], P, np.sqrt(2) * P, V


def system(Lambda: ArrayLike, P: ArrayLike, B: ArrayLike, C: ArrayLike) -> StateSpace:
    r"""Write the modes as an ordinary real system, whose state is :math:`(\Re z, \Im z)`.

    .. math:: A = \begin{bmatrix} \Re\Lambda & -\Im\Lambda \\ \Im\Lambda & \Re\Lambda \end{bmatrix}
              - 2 p p^\top, \qquad p = \begin{bmatrix} \Re P \\ \Im P \end{bmatrix}, \qquad
              C = 2 \begin{bmatrix} \Re C & -\Im C \end{bmatrix}

    The dense twin, of 2 modes states: what the fast formulas are compared with.

    Examples
    --------
    In this basis LegS has the eigenvalues -1 and -2, as in any other.

    >>> Lambda, P, B, V = dplr(2)
    >>> system(Lambda, P, B, C=V[0]).eigenvalues().real.round(9)
    array([-1., -2.])
    """
    Lambda, P, B, C = _modes(Lambda=Lambda, P=P, B=B, C=C)
    p = np.concatenate([P.real, P.imag])
    rotation = np.block(
        [
            [np.diag(Lambda.real), -np.diag(Lambda.imag)],
            [np.diag(Lambda.imag), np.diag(Lambda.real)],
        ]
    )
    return StateSpace(
        rotation - 2 * np.outer(p, p),
        np.concatenate([B.real, B.imag]),
        2 * np.concatenate([C.real, -C.imag]),
    )


def truncate(Lambda: ArrayLike, P: ArrayLike, C: ArrayLike, dt: float, length: int) -> Modes:
    r"""Compute :math:`\tilde C = C (I - \bar A^L)`, which cuts the kernel off after L taps.

    S4 learns :math:`\tilde C`. It belongs to one length: another length, and the recurrent mode,
    need C, by :func:`untruncate`.

    Examples
    --------
    >>> Lambda, P, B, V = dplr(4)
    >>> C_tilde = truncate(Lambda, P, V[0], dt=0.1, length=10)
    >>> np.allclose(untruncate(Lambda, P, C_tilde, dt=0.1, length=10), V[0])
    True
    """
    Lambda, P, C = _modes(Lambda=Lambda, P=P, C=C)
    remainder, row = _remainder(Lambda, P, C, dt, length)
    return _as_modes(row @ remainder)


def untruncate(
    Lambda: ArrayLike, P: ArrayLike, C_tilde: ArrayLike, dt: float, length: int
) -> Modes:
    r"""Compute :math:`C = \tilde C (I - \bar A^L)^{-1}`, by a solve: back from :func:`truncate`.

    ``length`` is the one that C_tilde belongs to. A state that hardly decays within L steps makes
    :math:`I - \bar A^L` nearly singular, and C large.

    Examples
    --------
    See :func:`truncate`.
    """
    Lambda, P, C_tilde = _modes(Lambda=Lambda, P=P, C_tilde=C_tilde)
    remainder, row = _remainder(Lambda, P, C_tilde, dt, length)
    try:
        C = _matrix.solve(remainder.T, row)
    except np.linalg.LinAlgError:
        C = np.array(np.inf)
    if not np.isfinite(C).all():
        raise ValueError(
            "length must be so large, or dt, that every mode decays within length steps; got "
            f"{length} and {dt:g}, where I - A_bar^length is singular: keep C itself"
        )
    return _as_modes(C)


def generating_function(
    Lambda: ArrayLike, P: ArrayLike, B: ArrayLike, C_tilde: ArrayLike, dt: float, length: int
) -> Complex[ndarray, "frequencies"]:
    r"""Evaluate :math:`\sum_{l<L} \bar K_l w^l` at the roots of unity :math:`w_k = e^{-2\pi ik/L}`.

    The sum is :math:`\tilde C (I - w \bar A)^{-1} \bar B`. With the bilinear rule, Woodbury's
    identity for the low-rank part, and :math:`s = \sin(\pi k/L)`, :math:`c = \cos(\pi k/L)`, it is
    four Cauchy kernels r, sums over simple poles:

    .. math:: \hat K_k = e^{i\pi k/L} \left[ r_{\tilde C B}
              - \frac{c\, r_{\tilde C P}\, r_{P^* B}}{1 + c\, r_{P^* P}} \right], \qquad
              r_{ab} = \sum_n \frac{\Delta\, a_n b_n}{2is - \Delta \lambda_n c}
              + \frac{\Delta\, \overline{a_n b_n}}{2is - \Delta \bar\lambda_n c}

    C_tilde must belong to L. The result is (length // 2 + 1,), for k = 0 .. L/2; the others are
    their conjugates, for the kernel is real.

    The paper has :math:`z = 2(1 - w)/(1 + w)` in the denominators, which is infinite at
    :math:`w = -1`, a point of every even length. Since :math:`z = 2is/c`, each fraction is expanded
    by c here, and nothing is singular: at :math:`c = 0` the value is its limit,
    :math:`\tfrac\Delta2` times :math:`\tilde C B` over all modes, conjugates included.

    Examples
    --------
    >>> Lambda, P, B, V = dplr(4)
    >>> C_tilde = truncate(Lambda, P, V[0], dt=0.1, length=8)
    >>> K_hat = generating_function(Lambda, P, B, C_tilde, dt=0.1, length=8)
    >>> bool(np.isclose(K_hat[-1], 0.1 / 2 * 2 * (C_tilde @ B).real))
    True
    """
    Lambda, P, B, C_tilde = _modes(Lambda=Lambda, P=P, B=B, C_tilde=C_tilde)
    dt, length = _check.step_size(dt, Lambda, abs(P) ** 2, B), _check.count("length", length)
    angle = np.pi * np.arange(length // 2 + 1) / length
    s, c = np.sin(angle)[:, None], np.cos(angle)
    products = np.stack([C_tilde * B, C_tilde * P, P.conj() * B, P.conj() * P], axis=1)
    poles = np.outer(c, dt * Lambda)
    gaps, mirrored = 2j * s - poles, 2j * s - poles.conj()
    with np.errstate(divide="ignore", invalid="ignore"):
        r_CB, r_CP, r_PB, r_PP = ((dt / gaps) @ products + (dt / mirrored) @ products.conj()).T
        low_rank = 1 + c * r_PP
    if not (gaps.all() and mirrored.all() and low_rank.all()):
        raise ValueError(
            "Lambda must not give A_bar an eigenvalue that is a root of unity, where the sum over "
            f"{length} powers has no quotient; got {Lambda}: use kernel_in_blocks"
        )
    return np.exp(1j * angle) * (r_CB - c * r_CP * r_PB / low_rank)


def kernel(
    Lambda: ArrayLike, P: ArrayLike, B: ArrayLike, C: ArrayLike, dt: float, length: int
) -> Float[ndarray, "length"]:
    r"""Compute S4's kernel: generating function at the roots of unity, then an inverse FFT.

    .. math:: \bar K_l = 2 \operatorname{Re}(C \bar A^l \bar B), \qquad l < L

    About L state multiplications, and no power of A_bar but the one in :math:`\tilde C`. The error
    is relative to the largest tap. Where :math:`I - \bar A^L` cancels, for tiny L dt and for huge
    dt, :math:`\tilde C` has lost its digits, and :func:`kernel_in_blocks` takes over, which keeps
    them. That one is also for zero-order hold, whose A_bar is no longer diagonal plus low rank.

    Examples
    --------
    The first coefficient of LegS forgets like e^-t.

    >>> Lambda, P, B, V = dplr(64)
    >>> kernel(Lambda, P, B, C=V[0], dt=0.01, length=300)[[0, 100, 200]] / 0.01
    array([0.995, 0.366, 0.135])
    """
    Lambda, P, B, C = _modes(Lambda=Lambda, P=P, B=B, C=C)
    remainder, row = _remainder(Lambda, P, C, dt, length)
    if np.linalg.norm(remainder, -2) < CANCELLED:
        return kernel_in_blocks(system(Lambda, P, B, C).discretize(dt, "bilinear"), length)
    C_tilde = _as_modes(row @ remainder)
    return scipy.fft.irfft(generating_function(Lambda, P, B, C_tilde, dt, length), length)


def kernel_in_blocks(system: DiscreteStateSpace, length: int) -> Float[ndarray, "length"]:
    r"""Compute the kernel of a discrete system, with powers of A_bar in blocks of about √L.

    .. math:: \bar K_{iT + j} = (C \bar A^{iT}) (\bar A^j \bar B), \qquad 0 \le j < T

    The T columns on the right and the L/T rows on the left are each found by doubling: with
    :math:`\bar A^{2m}`, m columns become 2m in one product. The kernel is one more product. About L
    state + state³ log L multiplications, all in matrix products. The system must be real, with one
    input and one output and B_prev = 0; nothing else is asked of A, and so zero-order hold will do.

    Examples
    --------
    >>> kernel_in_blocks(DiscreteStateSpace([0.5], [1], [1]), 6)
    array([1.     , 0.5    , 0.25   , 0.125  , 0.0625 , 0.03125])
    """
    length = _check.count("length", length)
    if (
        not isinstance(system, DiscreteStateSpace)
        or system.D.ndim
        or np.result_type(system.A_bar, system.B_bar, system.C).kind == "c"
        or system.B_prev.any()
    ):
        raise ValueError(
            "system must be a real DiscreteStateSpace without input axis, output axis and B_prev; "
            f"got {system!r}: use ssmlab.lti.kernel for any other"
        )
    block = 2 ** math.ceil(math.log2(length) / 2)
    A_bar = _matrix.dense(system.A_bar)
    right, A_block = _powers(A_bar, system.B_bar, block)
    left, _ = _powers(A_block.T, system.C, -(-length // block))
    return (left.T @ right).reshape(-1)[:length]


def recurrence(
    Lambda: ArrayLike,
    P: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    dt: float,
    x: ArrayLike,
    *,
    h0: ArrayLike | None = None,
) -> tuple[Float[ndarray, "length"], Complex[ndarray, "length modes"]]:
    r"""Run the same map step by step, at a cost of O(state) for each step.

    The bilinear rule is :math:`\bar A = 2 R - I` and :math:`\bar B = \Delta R B` with
    :math:`R = (I - \tfrac\Delta2 A)^{-1}`, and Woodbury gives R from the diagonal
    :math:`d = (I - \tfrac\Delta2 \Lambda)^{-1}`:

    .. math:: z_k = R\,(2 z_{k-1} + \Delta B x_k) - z_{k-1}, \qquad
              R u = d u - \frac{\Delta\, d P}{1 + \Delta \operatorname{Re}(P^* d P)}
              \operatorname{Re}(P^* d u)

    C, not :math:`\tilde C`, reads the state.

    Parameters
    ----------
    Lambda, P, B, C : array_like, (modes,)
    dt : float
    x : array_like, (length,)
    h0 : array_like, (modes,), optional
        The state before the first sample; zero by default.

    Returns
    -------
    y : ndarray, (length,)
    h : ndarray, (length, modes)
        Every state; ``h[-1]`` as ``h0`` continues the run.

    Examples
    --------
    >>> Lambda, P, B, V = dplr(64)
    >>> y, h = recurrence(Lambda, P, B, V[0], 0.1, [1, 0, 0, 0])
    >>> np.allclose(y, kernel(Lambda, P, B, V[0], 0.1, 4))
    True
    """
    Lambda, P, B, C = _modes(Lambda=Lambda, P=P, B=B, C=C)
    dt, x = _check.step_size(dt, Lambda, abs(P) ** 2, B), _check.signal("x", x, ())
    if np.iscomplexobj(x):
        raise TypeError("x must be real; got complex numbers: run x.real and x.imag one by one")
    z = np.zeros_like(P) if h0 is None else _check.state_vector("h0", h0, len(P)) + 0j
    d = 1 / (1 - dt / 2 * Lambda)
    dP = d * P
    gain = dt * dP / (1 + dt * np.vdot(P, dP).real)
    h = np.empty((len(x), len(P)), complex)
    for k in range(len(x)):
        du = d * (2 * z + dt * B * x[k])
        z = du - gain * np.vdot(P, du).real - z
        h[k] = z
    return 2 * (h @ C).real, h


def state_size(name: str, value: int) -> int:
    """Return a state size that can be made of conjugate pairs: even and positive."""
    N = _check.width(name, value)
    if N % 2:
        raise ValueError(
            f"{name} must be even, for the modes come in conjugate pairs; got {N}: pass {N + 1}"
        )
    return N


def _modes(**arguments: ArrayLike) -> list[Modes]:
    """Check that all arguments are (modes,), and return them as complex128."""
    arrays = {name: _check.array(name, value) for name, value in arguments.items()}
    first, shape = next((name, a.shape) for name, a in arrays.items())
    for name, a in arrays.items():
        if a.ndim != 1 or a.size == 0 or a.shape != shape:
            raise ValueError(
                f"{name} must have shape (modes,), as {first} has; got {a.shape} beside {shape}: "
                "pass one number for each conjugate pair"
            )
    return [a.astype(complex) for a in arrays.values()]


def _remainder(
    Lambda: Modes, P: Modes, C: Modes, dt: float, length: int
) -> tuple[Float[ndarray, "state state"], Float[ndarray, "state"]]:
    """Compute I - A_bar^L in real form, and C in that form."""
    twin = system(Lambda, P, np.zeros_like(P), C).discretize(dt, "bilinear")
    A_bar = _matrix.dense(twin.A_bar)
    power = np.linalg.matrix_power(A_bar, _check.count("length", length))
    return np.eye(len(A_bar)) - power, twin.C


def _as_modes(row: Float[ndarray, "state"]) -> Modes:
    """Turn a row that reads (Re z, Im z) into the C of y = 2 Re(C z)."""
    real, imag = row.reshape(2, -1)
    return (real - 1j * imag) / 2


def _powers(
    A: Float[ndarray, "state state"], b: Float[ndarray, "state"], count: int
) -> tuple[Float[ndarray, "state count"], Float[ndarray, "state state"]]:
    """Compute the columns A^j b for j < count, and A to the count if that is a power of two."""
    columns = b[:, None]
    while columns.shape[1] < count:
        columns = np.hstack([columns, A @ columns])
        A = A @ A
    return columns[:, :count], A
