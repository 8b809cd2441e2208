r"""Gated linear attention: a matrix state whose rows decay as each token says."""

from __future__ import annotations

from ssmlab._typing import ArrayLike
from ssmlab.family.matrix_state import MatrixState, decays, queries_and_keys


def gla(q: ArrayLike, k: ArrayLike, decay: ArrayLike) -> MatrixState:
    r"""Gated linear attention: :math:`S_t = \operatorname{diag}(a_t) S_{t-1} + k_t v_t^\top`.

    ``decay`` holds :math:`a_t`, what each row of S keeps. With one number for all keys, (...,
    length, 1), it is the recurrence of Mamba-2. Source: Yang et al., "Gated linear attention
    transformers", arXiv:2312.06635; chapter 11.

    Examples
    --------
    >>> import numpy as np
    >>> q = k = np.ones((3, 1))
    >>> gla(q, k, decay=[[1.0], [1.0], [0.0]]).mixing_matrix()
    array([[1., 0., 0.],
           [1., 1., 0.],
           [0., 0., 1.]])
    """
    q, k = queries_and_keys(q, k)
    return MatrixState(q, k, decays(decay, k.shape))
