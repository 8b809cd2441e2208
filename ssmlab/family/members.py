r"""The members with a matrix state: each is a choice of decay, delta rule and bonus.

=================  ===========================================  =====================
member             matrix :math:`A_t`                           depends on the input
=================  ===========================================  =====================
linear_attention   :math:`I`                                    q, k
retention          :math:`\gamma I`, per head                   q, k
gla                :math:`\operatorname{diag}(a_t)`             q, k, a
rwkv6              :math:`\operatorname{diag}(a_t)`, bonus u    q, k, a
deltanet           :math:`I - \beta_t k_t k_t^\top`             q, k, beta
gated_deltanet     :math:`a_t (I - \beta_t k_t k_t^\top)`       q, k, beta, a
=================  ===========================================  =====================
"""

from __future__ import annotations

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.family.member import fitted, real, tokens
from ssmlab.family.memory import Memory, queries_and_keys


def linear_attention(q: ArrayLike, k: ArrayLike) -> Memory:
    r"""Attention without the softmax: :math:`S_t = S_{t-1} + k_t v_t^\top`, which forgets nothing.

    Parameters
    ----------
    q, k : array_like, (..., length, keys)
        After the feature map, if there is one: :func:`elu_plus_one`.

    Returns
    -------
    Memory

    Raises
    ------
    TypeError, ValueError
        If an argument is complex or not finite, or the shapes differ.

    Notes
    -----
    Its authors divide by :math:`q_t \cdot \sum_j k_j`: this is the output for one more value, the
    constant 1. Source: Katharopoulos, Vyas, Pappas and Fleuret, "Transformers are RNNs",
    arXiv:2006.16236; chapter 10.

    Examples
    --------
    >>> k = elu_plus_one([[0.0, 1.0], [2.0, -1.0]])
    >>> y, _ = linear_attention(q=k, k=k).recurrence([[4.0, 1.0], [4.0, 1.0]])
    >>> y[:, 0] / y[:, 1]
    array([4., 4.])
    """
    return Memory(q, k)


def retention(q: ArrayLike, k: ArrayLike, gamma: ArrayLike, *, start: int = 0) -> Memory:
    r"""RetNet: a fixed decay for each head, and a rotation that grows with the position.

    .. math:: S_t = \gamma S_{t-1} + \tilde k_t v_t^\top, \qquad y_t = S_t^\top \tilde q_t, \qquad
              \tilde q_t = R^t q_t, \quad \tilde k_t = R^t k_t / \sqrt d

    Parameters
    ----------
    q, k : array_like, (..., length, keys)
        An even number d of keys.
    gamma : array_like, one for each of the leading axes, or one number
        Between 0 and 1: :func:`retention_decays`.
    start : int
        The position of the first token.

    Returns
    -------
    Memory
        Of the rotated queries and scaled keys.

    Raises
    ------
    TypeError, ValueError
        If an argument is complex or not finite, keys is odd, the shapes do not fit, or gamma is out
        of range.

    Notes
    -----
    Two rotations leave their difference, :math:`\tilde q_i \cdot \tilde k_j = q_i^\top R^{j - i}
    k_j / \sqrt d`: M is Toeplitz if q and k are constant. In complex pairs
    :math:`A = \gamma e^{i \theta}`, a diagonal state space model. Source: Sun et al., "Retentive
    network", arXiv:2307.08621, and its code in torchscale; chapter 10.

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
    return Memory(q, k, decay)


def gla(q: ArrayLike, k: ArrayLike, decay: ArrayLike) -> Memory:
    r"""Gated linear attention: :math:`S_t = \operatorname{diag}(a_t) S_{t-1} + k_t v_t^\top`.

    Parameters
    ----------
    q, k : array_like, (..., length, keys)
    decay : array_like, (..., length, keys)
        Between 0 and 1, from the token: what each row of S keeps.

    Returns
    -------
    Memory

    Raises
    ------
    TypeError, ValueError
        If an argument is complex or not finite, the shapes do not fit, or a decay is out of range.

    Notes
    -----
    With one number for all keys, (..., length, 1), it is the recurrence of Mamba-2. Source: Yang et
    al., "Gated linear attention transformers", arXiv:2312.06635; chapter 10.

    Examples
    --------
    >>> q = k = np.ones((3, 1))
    >>> gla(q, k, decay=[[1.0], [1.0], [0.0]]).mixing_matrix()
    array([[1., 0., 0.],
           [1., 1., 0.],
           [0., 0., 1.]])
    """
    q, k = queries_and_keys(q, k)
    return Memory(q, k, _gate(decay, k.shape))


def rwkv6(q: ArrayLike, k: ArrayLike, decay: ArrayLike, bonus: ArrayLike) -> Memory:
    r"""RWKV-6: a gated memory that is read before it is written.

    .. math:: y_t = (S_{t-1} + \operatorname{diag}(u)\, k_t v_t^\top)^\top q_t, \qquad
              S_t = \operatorname{diag}(a_t) S_{t-1} + k_t v_t^\top

    Parameters
    ----------
    q, k : array_like, (..., length, keys)
        Receptances (RWKV's r) and keys.
    decay : array_like, (..., length, keys)
        Between 0 and 1, from the token. Constant decays give RWKV-5.
    bonus : array_like, (..., keys)
        u: the weight of the token itself, not from the input.

    Returns
    -------
    Memory

    Raises
    ------
    TypeError, ValueError
        If an argument is complex or not finite, the shapes do not fit, or a decay is out of range.

    Notes
    -----
    The decay of token t acts on what the later tokens read: :math:`M_{t, t-1}` has no decay in it.
    Source: Peng et al., "Eagle and Finch", arXiv:2404.05892; chapter 10.

    Examples
    --------
    >>> q = k = np.ones((3, 1))
    >>> rwkv6(q, k, decay=np.full((3, 1), 0.5), bonus=[3.0]).mixing_matrix()
    array([[3. , 0. , 0. ],
           [1. , 3. , 0. ],
           [0.5, 1. , 3. ]])
    """
    q, k = queries_and_keys(q, k)
    return Memory(q, k, _gate(decay, k.shape), bonus=bonus)


def deltanet(q: ArrayLike, k: ArrayLike, beta: ArrayLike) -> Memory:
    r"""DeltaNet: replace what the key holds, :math:`S_t = S_{t-1} + \beta_t k_t (v_t - S_{t-1}^\top k_t)^\top`.

    Parameters
    ----------
    q, k : array_like, (..., length, keys)
        Keys of length 1: ``k / np.linalg.norm(k, axis=-1, keepdims=True)``.
    beta : array_like, (..., length)
        Between 0 (keep) and 1 (replace), from the token; up to 2 for a negative eigenvalue.

    Returns
    -------
    Memory

    Raises
    ------
    TypeError, ValueError
        If an argument is complex or not finite, the shapes do not fit, or beta is out of range.

    Notes
    -----
    A step of gradient descent on :math:`\tfrac12 \lvert S^\top k_t - v_t \rvert^2`. Source: Yang et
    al., "Parallelizing linear transformers with the delta rule", arXiv:2406.06484; chapter 10.

    Examples
    --------
    >>> q = k = [[1.0, 0.0], [1.0, 0.0]]
    >>> deltanet(q, k, beta=[1.0, 0.5]).recurrence([[4.0], [8.0]])[0].ravel()
    array([4., 6.])
    """  # noqa: E501
    return gated_deltanet(q, k, beta, 1.0)


def gated_deltanet(q: ArrayLike, k: ArrayLike, beta: ArrayLike, decay: ArrayLike) -> Memory:
    r"""Gated DeltaNet: :math:`S_t = a_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top`.

    Parameters
    ----------
    q, k : array_like, (..., length, keys)
        Keys of length 1.
    beta : array_like, (..., length)
        Between 0 and 2, from the token.
    decay : array_like, (..., length), or one number
        Between 0 and 1, from the token: what remains of the whole state.

    Returns
    -------
    Memory

    Raises
    ------
    TypeError, ValueError
        If an argument is complex or not finite, the shapes do not fit, or a gate is out of range.

    Notes
    -----
    Source: Yang, Kautz and Hatamizadeh, "Gated delta networks", arXiv:2412.06464; chapter 10.

    Examples
    --------
    A decay of 0 clears the memory, then the token is written.

    >>> q = k = [[1.0, 0.0], [0.0, 1.0]]
    >>> gated_deltanet(q, k, beta=[1.0, 1.0], decay=[1.0, 0.0]).recurrence([[4.0], [8.0]])[1].ravel()
    array([0., 8.])
    """  # noqa: E501
    q, k = queries_and_keys(q, k)
    beta = fitted("beta", beta, k.shape[:-1], 0, 2)
    decay = fitted("decay", decay, k.shape[:-1], 0, 1)
    return Memory(q, k, decay[..., None], beta=beta)


def elu_plus_one(x: ArrayLike) -> Float[ndarray, "..."]:
    r"""Compute :math:`\varphi(x) = \operatorname{elu}(x) + 1`: positive features.

    Notes
    -----
    :math:`e^x` below 0, :math:`x + 1` above. Source: arXiv:2006.16236; chapter 10.

    Examples
    --------
    >>> elu_plus_one([-1.0, 0.0, 2.0]).round(3)
    array([0.368, 1.   , 3.   ])
    """
    x = real("x", x)
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def retention_decays(heads: int) -> Float[ndarray, "heads"]:
    r"""Compute RetNet's decays :math:`\gamma_h = 1 - 2^{-5 - h}`.

    Raises
    ------
    TypeError, ValueError
        If ``heads`` is no positive whole number.

    Examples
    --------
    >>> retention_decays(3)
    array([0.96875  , 0.984375 , 0.9921875])
    """
    return 1 - 2.0 ** (-5 - np.arange(_check.count("heads", heads)))


def rotate(x: ArrayLike, *, start: int = 0) -> Float[ndarray, "*lead length keys"]:
    r"""Turn each pair of neighbouring numbers by its angle times the position.

    .. math:: \theta_m = 10000^{-m / (d/2 - 1)}, \qquad 0 \le m < d/2

    Parameters
    ----------
    x : array_like, (..., length, keys)
    start : int
        The position of the first token.

    Returns
    -------
    ndarray, (..., length, keys)

    Raises
    ------
    TypeError, ValueError
        If ``x`` is complex or not finite, or keys is odd.

    Notes
    -----
    The angles are those of RetNet's code, where the slowest is 1/10000 rad; those of rotary
    embeddings elsewhere are :math:`10000^{-2m/d}`.

    Examples
    --------
    >>> rotate(np.ones((2, 2)) * [1.0, 0.0]).round(3)
    array([[1.   , 0.   ],
           [0.54 , 0.841]])
    """
    x = tokens("x", x)
    *_, length, d = x.shape
    if d % 2:
        raise ValueError(f"keys must be even, to be rotated in pairs; got {d}: add or drop one")
    theta = 10000.0 ** -np.linspace(0, 1, d // 2)
    turn = np.exp(1j * np.outer(start + np.arange(length), theta))
    z = turn * (x[..., ::2] + 1j * x[..., 1::2])
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def head_norm(y: ArrayLike, *, eps: float = 1e-5) -> Float[ndarray, "..."]:
    """Normalise the outputs of each head: mean 0 and variance 1 over the last axis, not learned.

    RetNet's group norm; it takes away any positive factor, so that no normaliser is needed.

    Examples
    --------
    >>> head_norm([1.0, 3.0]).round(3)
    array([-1.,  1.])
    """
    y = real("y", y)
    centred = y - y.mean(-1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + eps)


def swish(x: ArrayLike) -> Float[ndarray, "..."]:
    r"""Compute :math:`x \sigma(x)`, RetNet's gate.

    Examples
    --------
    >>> swish([-1000.0, 0.0, 1000.0])
    array([  -0.,    0., 1000.])
    """
    x = real("x", x)
    return x * (1 + np.tanh(x / 2)) / 2


def _gate(decay: ArrayLike, shape: tuple[int, ...]) -> Float[ndarray, "*lead length decays"]:
    """Return decays between 0 and 1, one for each token, and for each key or for all of them."""
    decay = tokens("decay", decay)
    return fitted("decay", decay, shape if decay.shape[-1] > 1 else (*shape[:-1], 1), 0, 1)
