r"""DeltaNet: a matrix state that replaces what a key holds, and its gated form."""

from __future__ import annotations

from ssmlab._typing import ArrayLike
from ssmlab.family.matrix_state import MatrixState, queries_and_keys
from ssmlab.family.member import fitted


def deltanet(q: ArrayLike, k: ArrayLike, beta: ArrayLike) -> MatrixState:
    r"""DeltaNet: replace what the key holds.

    .. math:: S_t = S_{t-1} + \beta_t k_t (v_t - S_{t-1}^\top k_t)^\top

    ``beta`` is 0 to keep and 1 to replace; up to 2 gives a negative eigenvalue. A step of gradient
    descent on :math:`\tfrac12 \lvert S^\top k_t - v_t \rvert^2`. Source: Yang et al.,
    "Parallelizing linear transformers with the delta rule", arXiv:2406.06484; chapter 11.

    Examples
    --------
    >>> q = k = [[1.0, 0.0], [1.0, 0.0]]
    >>> deltanet(q, k, beta=[1.0, 0.5]).recurrence([[4.0], [8.0]])[0].ravel()
    array([4., 6.])
    """
    return gated_deltanet(q, k, beta, 1.0)


def gated_deltanet(q: ArrayLike, k: ArrayLike, beta: ArrayLike, decay: ArrayLike) -> MatrixState:
    r"""Gated DeltaNet: :math:`S_t = a_t (I - \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top`.

    ``decay`` holds :math:`a_t`, (..., length), or is one number: what remains of the whole state.
    Source: Yang, Kautz and Hatamizadeh, "Gated delta networks", arXiv:2412.06464; chapter 11.

    Examples
    --------
    A decay of 0 clears the memory, then the token is written.

    >>> q = k = [[1.0, 0.0], [0.0, 1.0]]
    >>> model = gated_deltanet(q, k, beta=[1.0, 1.0], decay=[1.0, 0.0])
    >>> model.recurrence([[4.0], [8.0]])[1].ravel()
    array([0., 8.])
    """
    q, k = queries_and_keys(q, k)
    beta = fitted("beta", beta, k.shape[:-1], 0, 2)
    decay = fitted("decay", decay, k.shape[:-1], 0, 1)
    return MatrixState(q, k, decay[..., None], beta=beta)
