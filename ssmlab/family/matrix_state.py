r"""The matrix state: a time-varying state space model that all channels of the values share."""

from __future__ import annotations

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.family.member import Member, Values, fitted, show, tokens

State = Float[ndarray, "*lead keys values"]


class MatrixState(Member[State]):
    r"""Keys and values in one matrix, :math:`S_t = G_t S_{t-1} + \beta_t k_t v_t^\top`.

    .. math::
        G_t = (I - \beta_t k_t k_t^\top) \operatorname{diag}(a_t), \qquad
        y_t = S_t^\top q_t

    In the book's letters: :math:`A_t = G_t`, :math:`B_t = \beta_t k_t`, :math:`C_t = q_t^\top`, and
    each channel of v is an input x of this one system.

    Parameters
    ----------
    q, k : array_like, (..., length, keys)
        Queries and keys.
    decay : array_like, (..., length, keys), or one that broadcasts to it
        What remains of each row of S: :math:`a_t`. With a last axis of 1 it is a number for each
        token.
    beta : array_like, (..., length), optional
        The delta rule: by how much the value stored under k is replaced by v. Without it the
        rank-one part of G is absent and v is added with weight 1.
    bonus : array_like, (..., keys), optional
        Read before writing, :math:`y_t = (S_{t-1} + \operatorname{diag}(u)\, k_t v_t^\top)^\top
        q_t`: the weight u of the token itself (RWKV).

    Notes
    -----
    The delta rule multiplies by an eigenvalue :math:`1 - \beta \lvert k \rvert^2`: it is stable for
    :math:`0 \le \beta \lvert k \rvert^2 \le 2`, so keys are usually of length 1. Within a chunk the
    delta rule is a gated memory of other values,
    :math:`w_t = \beta_t (v_t - (a_t \circ S_{t-1})^\top k_t)`, which solve a triangular system.
    Chapter 11.

    Examples
    --------
    The delta rule replaces what a key holds; a sum adds to it.

    >>> q = k = [[1.0, 0.0], [1.0, 0.0]]
    >>> MatrixState(q, k).recurrence([[5.0], [7.0]])[0].ravel()
    array([ 5., 12.])
    >>> MatrixState(q, k, beta=[1.0, 1.0]).recurrence([[5.0], [7.0]])[0].ravel()
    array([5., 7.])
    """

    def __init__(
        self,
        q: ArrayLike,
        k: ArrayLike,
        decay: ArrayLike = 1.0,
        *,
        beta: ArrayLike | None = None,
        bonus: ArrayLike | None = None,
    ) -> None:
        self.q, self.k = queries_and_keys(q, k)
        *lead, self.length, self.keys = self.k.shape
        self.lead = tuple(lead)
        decay = _check.real("decay", decay)
        size = 1 if decay.shape[-1:] in ((), (1,)) else self.keys
        self.decay = fitted("decay", decay, (*self.k.shape[:-1], size))
        self.beta = None if beta is None else fitted("beta", beta, self.k.shape[:-1])
        self.bonus = None if bonus is None else fitted("bonus", bonus, (*self.lead, self.keys))

    def _part(self, tokens: slice) -> MatrixState:
        q, k, decay = (array[..., tokens, :] for array in (self.q, self.k, self.decay))
        beta = None if self.beta is None else self.beta[..., tokens]
        return MatrixState(q, k, decay, beta=beta, bonus=self.bonus)

    def initial_state(self, values: int) -> State:
        """Return zeros, (..., keys, values)."""
        return np.zeros((*self.lead, self.keys, _check.width("values", values)))

    def transition(self, t: int) -> Float[ndarray, "*lead keys keys"]:
        """Write out the matrix :math:`G_t`, the book's :math:`A_t`."""
        self._check_token(t)
        G = np.eye(self.keys) * self.decay[..., t, None, :]
        if self.beta is None:
            return G
        k = self.k[..., t, :]
        return G - self.beta[..., t, None, None] * k[..., None] * (k[..., None, :] @ G)

    def step(self, v_t: ArrayLike, state: State, t: int = 0) -> tuple[Float[ndarray, "..."], State]:
        """Take the value of token t, (..., values); the state is (..., keys, values)."""
        v_t, state = self._check_step(v_t, state, t)
        q, k, decay = (array[..., t, :, None] for array in (self.q, self.k, self.decay))
        kept = decay * state
        write = v_t[..., None, :]
        if self.beta is not None:
            write = self.beta[..., t, None, None] * (write - k.mT @ kept)
        after = kept + k * write
        read = after
        if self.bonus is not None:
            read = state + self.bonus[..., None] * k * v_t[..., None, :]
        return (q.mT @ read)[..., 0, :], after

    def parallel(self, v: ArrayLike, state: State | None = None) -> tuple[Values, State]:
        """Run all tokens at once: y = (scores) w, with w = v but for the delta rule.

        The table of products of decays has length² entries, times keys if the decays differ in
        them. It is built by multiplication, so that a decay of 0 is no special case.
        """
        v, state = self._check(v, state)
        P = self._products()
        read = self._read(P)
        w = v
        if self.beta is not None:
            w = self._solve(P, v - (self.k * P[..., 1:, 0, :]) @ state)
        y = self._scores(read) @ w + (self.q * read[..., 0, :]) @ state
        last = P[..., -1, :, :]
        after = last[..., 0, :, None] * state + (last[..., 1:, :] * self.k).mT @ w
        return y + self._direct()[..., None] * v, after

    def mixing_matrix(self) -> Float[ndarray, "*lead length length"]:
        r"""Compute M with :math:`y = M v` from a zero state, lower triangular.

        Without the delta rule and for scalar decays
        :math:`M_{ij} = (q_i \cdot k_j)\, a_i \cdots a_{j+1}`.
        """
        P, I = self._products(), np.eye(self.length)
        M = self._scores(self._read(P))
        if self.beta is not None:
            M = M @ self._solve(P, np.broadcast_to(I, M.shape))
        return M + self._direct()[..., None] * I

    def _check_state(self, state: State, v: Float[ndarray, "..."]) -> State:
        shape = (*self.lead, self.keys, v.shape[-1])
        state = _check.real("state", state)
        if state.shape != shape:
            raise ValueError(
                f"state must have shape {shape}, {show('...', 'keys', 'values')}; got "
                f"{state.shape}: pass the state that an earlier part returned"
            )
        return state

    def _products(self) -> Float[ndarray, "*lead times times decays"]:
        r"""Tabulate :math:`P_{ij} = a_i \cdots a_{j+1}`, 0 above the diagonal.

        Row and column 0 are the initial state, a token before the first: times is length + 1.
        """
        later = np.tri(self.length + 1, k=-1, dtype=bool)[..., None]
        a = np.concatenate([np.ones_like(self.decay[..., :1, :]), self.decay], -2)
        P = np.cumprod(np.where(later, a[..., :, None, :], 1), axis=-3)
        return P * np.tri(self.length + 1)[..., None]

    def _read(self, P: ndarray) -> Float[ndarray, "*lead length times decays"]:
        """Select the products that a query meets: after its token's write, or before it."""
        return P[..., 1:, :, :] if self.bonus is None else P[..., :-1, :, :]

    def _scores(self, read: ndarray) -> Float[ndarray, "*lead length length"]:
        return np.einsum("...in,...ijn,...jn->...ij", self.q, read[..., 1:, :], self.k)

    def _solve(self, P: ndarray, v: Values) -> Values:
        r"""Find what the delta rule writes: w = beta (v - strictly lower (k P k) w)."""
        K = np.tril(np.einsum("...in,...ijn,...jn->...ij", self.k, P[..., 1:, 1:, :], self.k), -1)
        assert self.beta is not None
        beta = self.beta[..., None]
        return np.linalg.solve(np.eye(self.length) + beta * K, beta * v)

    def _direct(self) -> Float[ndarray, "*lead length"]:
        """Weigh the token itself where the query reads before the write."""
        if self.bonus is None:
            return np.zeros(self.k.shape[:-1])
        return np.einsum("...n,...in,...in->...i", self.bonus, self.q, self.k)


def queries_and_keys(q: ArrayLike, k: ArrayLike) -> tuple[ndarray, ndarray]:
    """Return two arrays of one shape, (..., length, keys)."""
    q, k = tokens("q", q), tokens("k", k)
    if q.shape != k.shape:
        raise ValueError(
            f"q and k must have the same shape, (..., length, keys); got {q.shape} and {k.shape}: "
            "give each token one query and one key of the same size"
        )
    return q, k


def decays(decay: ArrayLike, shape: tuple[int, ...]) -> Float[ndarray, "*lead length decays"]:
    """Return decays between 0 and 1, one for each token, and for each key or for all of them."""
    decay = tokens("decay", decay)
    return fitted("decay", decay, shape if decay.shape[-1] > 1 else (*shape[:-1], 1), 0, 1)
