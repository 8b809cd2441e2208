r"""RWKV: a weighted mean whose weights decay with time (RWKV-4), and a matrix state (RWKV-6)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.family.matrix_state import MatrixState, decays, queries_and_keys
from ssmlab.family.member import Member, Values, arrays_of, fitted, tokens

Vector = Float[ndarray, "*lead channels"]


class State(NamedTuple):
    r"""Numerator and denominator, both divided by :math:`e^{\text{maximum}}`."""

    numerator: Vector
    denominator: Vector
    maximum: Vector


class RWKV4(Member[State]):
    r"""RWKV-4's time mixing: a mean over the past, with a decay and a bonus for each channel.

    .. math::
        y_t = \frac{\sum_{j<t} e^{k_j - (t-1-j) w} v_j + e^{u + k_t} v_t}
                   {\sum_{j<t} e^{k_j - (t-1-j) w} + e^{u + k_t}}

    Parameters
    ----------
    k : array_like, (..., length, channels)
    w : array_like, (channels,)
        The rate of decay, at least 0: :math:`A = e^{-w}`, constant.
    u : array_like, (channels,)
        Takes the place of the decay for the token itself.

    Notes
    -----
    Numerator and denominator are one recurrence, :math:`h_t = e^{-w} h_{t-1} + e^{k_t} x_t`, with
    :math:`x = v` and :math:`x = 1`. The exponentials overflow for keys of some hundreds (89 in
    float32), so both are kept divided by the largest weight so far. Source: Peng et al., "RWKV:
    reinventing RNNs for the transformer era", arXiv:2305.13048; chapter 11.

    Examples
    --------
    A key is the logarithm of a weight, and 200 is no matter.

    >>> model = RWKV4(k=[[200.0], [0.0], [200.0]], w=[0.0], u=[0.0])
    >>> model.recurrence([[1.0], [5.0], [3.0]])[0].ravel()
    array([1., 1., 2.])
    """

    def __init__(self, k: ArrayLike, w: ArrayLike, u: ArrayLike) -> None:
        self.k = tokens("k", k)
        *lead, self.length, self.channels = self.k.shape
        self.lead = tuple(lead)
        self.w = fitted("w", w, (self.channels,), low=0)
        self.u = fitted("u", u, (self.channels,))

    def _part(self, tokens: slice) -> RWKV4:
        return RWKV4(self.k[..., tokens, :], self.w, self.u)

    def initial_state(self, values: int) -> State:
        """Return zeros and a maximum of -1e38, (..., channels) each; ``values`` is channels."""
        zero = np.zeros((*self.lead, _check.width("values", values)))
        return State(zero, zero, zero - 1e38)

    def step(self, v_t: ArrayLike, state: State, t: int = 0) -> tuple[Vector, State]:
        """Take the value of token t, (..., channels): return the output and the state after it."""
        (v_t, state), k_t = self._check_step(v_t, state, t), self.k[..., t, :]
        now = _add(state, self.u + k_t, v_t)
        decayed = state._replace(maximum=state.maximum - self.w)
        return now.numerator / now.denominator, _add(decayed, k_t, v_t)

    def parallel(self, v: ArrayLike, state: State | None = None) -> tuple[Values, State]:
        """Run all tokens at once: the sum as it is written, a softmax over the past."""
        v, state = self._check(v, state)
        t, start = np.arange(self.length), state.maximum[..., None]
        now = _sums(state, self._log_weights(), start - self.w[:, None] * t, v)
        last = self.k.mT - self.w[:, None] * t[::-1]
        end = start - self.w[:, None] * self.length
        after = _sums(state, last[..., None, :], end, v)
        return (now.numerator / now.denominator).mT, State(*(part[..., 0] for part in after))

    def mixing_matrix(self) -> Float[ndarray, "*lead channels length length"]:
        """Compute M of each channel: its rows are weights of a mean, at least 0 and of sum 1."""
        logs = self._log_weights()
        weights = np.exp(logs - logs.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def _log_weights(self) -> Float[ndarray, "*lead channels length length"]:
        """Tabulate the exponents of the sum, -inf for the future."""
        t = np.arange(self.length)
        age = t[:, None] - 1 - t
        logs = self.k.mT[..., None, :] - self.w[:, None, None] * age
        logs = np.where(age == -1, (self.u + self.k).mT[..., None, :], logs)
        return np.where(age < -1, -np.inf, logs)

    def _check_state(self, state: State, v: Float[ndarray, "..."]) -> State:
        shape = (*self.lead, self.channels)
        if v.shape[-1] != self.channels:
            raise ValueError(
                f"v must have the {self.channels} channels of k on its last axis; got "
                f"{v.shape[-1]}: each channel has its own keys here"
            )
        parts = arrays_of(state, State)
        if [part.shape for part in parts] != [shape] * 3:
            raise ValueError(
                f"state must be three arrays of shape {shape}; got shapes "
                f"{[part.shape for part in parts]}: pass the State that an earlier part returned"
            )
        return State(*parts)


def _add(state: State, exponent: Vector, v: Vector) -> State:
    """Add a value of weight e^exponent, and divide by the larger of the two weights."""
    top = np.maximum(state.maximum, exponent)
    old, new = np.exp(state.maximum - top), np.exp(exponent - top)
    return State(old * state.numerator + new * v, old * state.denominator + new, top)


def _sums(state: State, logs: ndarray, start: ndarray, v: Values) -> State:
    """Add up tokens of weight e^logs and a state of weight e^start; rows are on the last axis."""
    top = np.maximum(logs.max(-1), start)
    weights, old = np.exp(logs - top[..., None]), np.exp(start - top)
    return State(
        np.einsum("...cij,...jc->...ci", weights, v) + old * state.numerator[..., None],
        weights.sum(-1) + old * state.denominator[..., None],
        top,
    )


def rwkv6(q: ArrayLike, k: ArrayLike, decay: ArrayLike, bonus: ArrayLike) -> MatrixState:
    r"""RWKV-6: a gated memory that is read before it is written.

    .. math:: y_t = (S_{t-1} + \operatorname{diag}(u)\, k_t v_t^\top)^\top q_t, \qquad
              S_t = \operatorname{diag}(a_t) S_{t-1} + k_t v_t^\top

    The queries are RWKV's receptances r. ``bonus`` is u, (..., keys): the weight of the token
    itself, not from the input. The decay of token t acts on what the later tokens read:
    :math:`M_{t, t-1}` has no decay in it. Constant decays give RWKV-5. Source: Peng et al., "Eagle
    and Finch", arXiv:2404.05892; chapter 11.

    Examples
    --------
    >>> q = k = np.ones((3, 1))
    >>> rwkv6(q, k, decay=np.full((3, 1), 0.5), bonus=[3.0]).mixing_matrix()
    array([[3. , 0. , 0. ],
           [1. , 3. , 0. ],
           [0.5, 1. , 3. ]])
    """
    q, k = queries_and_keys(q, k)
    return MatrixState(q, k, decays(decay, k.shape), bonus=bonus)
