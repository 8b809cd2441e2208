r"""RetNet: a matrix state with one constant decay for each head, and keys that turn."""

from __future__ import annotations

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.family.matrix_state import MatrixState, queries_and_keys
from ssmlab.family.member import fitted, tokens


def retention(q: ArrayLike, k: ArrayLike, gamma: ArrayLike, *, start: int = 0) -> MatrixState:
    r"""RetNet: a fixed decay for each head, and a rotation that grows with the position.

    .. math:: S_t = \gamma S_{t-1} + \tilde k_t v_t^\top, \qquad y_t = S_t^\top \tilde q_t, \qquad
              \tilde q_t = R^t q_t, \quad \tilde k_t = R^t k_t / \sqrt d

    ``gamma``, between 0 and 1, is one number for each of the leading axes
    (:func:`retention_decays`) or one for all; the number d of keys is even; ``start`` is the
    position of the first token. Two rotations leave their difference,
    :math:`\tilde q_i \cdot \tilde k_j = q_i^\top R^{j - i} k_j / \sqrt d`: M is Toeplitz if q and k
    are constant. In complex pairs :math:`A = \gamma e^{i \theta}`, a diagonal state space model.
    Source: Sun et al., "Retentive network", arXiv:2307.08621, and its code in torchscale; chapter
    11.

    Examples
    --------
    >>> ones = np.ones((4, 2))
    >>> retention(ones, ones, gamma=0.5).mixing_matrix()[:, 0].round(3)
    array([ 1.414,  0.382, -0.147, -0.175])
    """
    q, k = queries_and_keys(q, k)
    lead, d = q.shape[:-2], q.shape[-1]
    decay = fitted("gamma", gamma, lead, 0, 1)[..., None, None]
    q, k = rotate(q, start=start), rotate(k / np.sqrt(d), start=start)
    return MatrixState(q, k, decay)


def retention_decays(heads: int) -> Float[ndarray, "heads"]:
    r"""Compute RetNet's decays :math:`\gamma_h = 1 - 2^{-5 - h}`.

    Examples
    --------
    >>> retention_decays(3)
    array([0.96875  , 0.984375 , 0.9921875])
    """
    return 1 - 2.0 ** (-5 - np.arange(_check.count("heads", heads)))


def rotate(x: ArrayLike, *, start: int = 0) -> Float[ndarray, "*lead length keys"]:
    r"""Turn each pair of neighbouring numbers by its angle times the position.

    .. math:: \theta_m = 10000^{-m / (d/2 - 1)}, \qquad 0 \le m < d/2

    ``x`` has shape (..., length, keys) with an even number d of keys, and so has the result;
    ``start`` is the position of the first token. The angles are those of RetNet's code, where the
    slowest is 1/10000 rad; those of rotary embeddings elsewhere are :math:`10000^{-2m/d}`.

    Examples
    --------
    >>> rotate(np.ones((2, 2)) * [1.0, 0.0]).round(3)
    array([[1.   , 0.   ],
           [0.54 , 0.841]])
    """
    x, start = tokens("x", x), _check.count("start", start, least=0)
    *_, length, d = x.shape
    if d % 2:
        raise ValueError(f"keys must be even, to be rotated in pairs; got {d}: add or drop one")
    theta = 10000.0 ** -np.linspace(0, 1, d // 2)
    turn = np.exp(1j * np.outer(start + np.arange(length), theta))
    z = turn * (x[..., ::2] + 1j * x[..., 1::2])
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def head_norm(y: ArrayLike, *, eps: float = 1e-5) -> Float[ndarray, "..."]:
    """Normalise the outputs of each head: mean 0 and variance 1 over the last axis, not learned.

    RetNet's group norm. It takes away a positive factor, so that no normaliser is needed, as long
    as the variance is far above ``eps``.

    Examples
    --------
    >>> head_norm([1.0, 3.0]).round(3)
    array([-1.,  1.])
    """
    y, eps = _check.real("y", y), _check.number("eps", eps)
    if not y.size or not y.ndim or eps < 0:
        raise ValueError(
            f"y must have shape (..., size) and hold a number, and eps be at least 0; got "
            f"{y.shape} and {eps}: pass the outputs of each head on the last axis"
        )
    centred = y - y.mean(-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + eps)


def swish(x: ArrayLike) -> Float[ndarray, "..."]:
    r"""Compute :math:`x \sigma(x)`, RetNet's gate.

    Examples
    --------
    >>> swish([-1000.0, 0.0, 1000.0])
    array([  -0.,    0., 1000.])
    """
    x = _check.real("x", x)
    return np.asarray(x * (1 + np.tanh(x / 2)) / 2)
