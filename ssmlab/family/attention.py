r"""Softmax attention, the foil: a weighted mean too, but of a past that no finite state holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.family.matrix_state import queries_and_keys
from ssmlab.family.member import Member, Values, arrays_of


class Cache(NamedTuple):
    """The keys and values of all tokens so far: what attention must keep."""

    k: Float[ndarray, "*lead past keys"]
    v: Float[ndarray, "*lead past values"]


class Attention(Member[Cache]):
    r"""Causal softmax attention, :math:`y_i = \sum_{j \le i} M_{ij} v_j`.

    .. math:: M_{ij} = \frac{e^{q_i \cdot k_j / \sqrt d}}
                            {\sum_{l \le i} e^{q_i \cdot k_l / \sqrt d}}

    Its state is the cache of all keys and values: a step costs as much as the past is long, and a
    sequence its square. Chapter 11.

    Examples
    --------
    >>> model = Attention(q=[[0.0], [0.0]], k=[[1.0], [2.0]])
    >>> model.recurrence([[4.0], [8.0]])[0].ravel()
    array([4., 6.])
    """

    def __init__(self, q: ArrayLike, k: ArrayLike) -> None:
        self.q, self.k = queries_and_keys(q, k)
        *lead, self.length, self.keys = self.k.shape
        self.lead = tuple(lead)

    def _part(self, tokens: slice) -> Attention:
        return Attention(self.q[..., tokens, :], self.k[..., tokens, :])

    def initial_state(self, values: int) -> Cache:
        """Return an empty cache."""
        values = _check.width("values", values)
        return Cache(np.zeros((*self.lead, 0, self.keys)), np.zeros((*self.lead, 0, values)))

    def step(self, v_t: ArrayLike, state: Cache, t: int = 0) -> tuple[Float[ndarray, "..."], Cache]:
        """Take the value of token t, (..., values): append it, and read the whole cache."""
        v_t, state = self._check_step(v_t, state, t)
        y, cache = self[t : t + 1].parallel(v_t[..., None, :], state)
        return y[..., 0, :], cache

    def parallel(self, v: ArrayLike, state: Cache | None = None) -> tuple[Values, Cache]:
        """Run all tokens at once, after the keys and values of an earlier part, if any."""
        v, state = self._check(v, state)
        cache = Cache(*(np.concatenate(pair, -2) for pair in zip(state, (self.k, v), strict=True)))
        return self._weights(cache.k) @ cache.v, cache

    def mixing_matrix(self) -> Float[ndarray, "*lead length length"]:
        """Compute M: its rows are weights of a mean, positive and of sum 1."""
        return self._weights(self.k)

    def _weights(self, k: Float[ndarray, "*lead all keys"]) -> Float[ndarray, "*lead length all"]:
        """Take the softmax over the keys up to each query, the last of which is its own."""
        scores = self.q @ k.mT / np.sqrt(self.keys)
        past = k.shape[-2] - self.length
        scores = np.where(np.tri(self.length, k.shape[-2], past, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def _check_state(self, state: Cache, v: Float[ndarray, "..."]) -> Cache:
        state = Cache(*arrays_of(state, Cache))
        k, values = state.k.shape, state.v.shape
        past = values[-2] if len(values) > 1 else 0
        expected = (*self.lead, past, self.keys), (*self.lead, past, v.shape[-1])
        if (k, values) != expected:
            raise ValueError(
                f"state must be a Cache of shapes (..., past, {self.keys}) and (..., past, "
                f"{v.shape[-1]}); got {k} and {values}: pass the cache that an earlier part "
                "returned"
            )
        return state
