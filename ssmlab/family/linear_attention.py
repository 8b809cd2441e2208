r"""Linear attention: a matrix state that forgets nothing."""

from __future__ import annotations

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.family.matrix_state import MatrixState


def linear_attention(q: ArrayLike, k: ArrayLike) -> MatrixState:
    r"""Attention without the softmax: :math:`S_t = S_{t-1} + k_t v_t^\top`, which forgets nothing.

    ``q`` and ``k`` come after the feature map, if there is one: :func:`elu_plus_one`. Its authors
    divide by :math:`q_t \cdot \sum_j k_j`: this is the output for one more value, the constant 1.
    Source: Katharopoulos, Vyas, Pappas and Fleuret, "Transformers are RNNs", arXiv:2006.16236;
    chapter 11.

    Examples
    --------
    >>> k = elu_plus_one([[0.0, 1.0], [2.0, -1.0]])
    >>> y, _ = linear_attention(q=k, k=k).recurrence([[4.0, 1.0], [4.0, 1.0]])
    >>> y[:, 0] / y[:, 1]
    array([4., 4.])
    """
    return MatrixState(q, k)


def elu_plus_one(x: ArrayLike) -> Float[ndarray, "..."]:
    r"""Compute :math:`\varphi(x) = \operatorname{elu}(x) + 1`: positive features.

    :math:`e^x` below 0, :math:`x + 1` above. Source: arXiv:2006.16236; chapter 11.

    Examples
    --------
    >>> elu_plus_one([-1.0, 0.0, 2.0]).round(3)
    array([0.368, 1.   , 3.   ])
    """
    x = _check.real("x", x)
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
