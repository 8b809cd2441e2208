"""What every member that reads tokens has in common: three forms of one linear map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray

Values = Float[ndarray, "*lead length values"]
S = TypeVar("S")


class Member(ABC, Generic[S]):
    """A causal linear map :math:`y = M v` whose coefficients came with the tokens.

    A member holds what its tokens say about remembering (keys, queries, decays), each of shape
    (..., length, size); leading axes are batch and heads. The values ``v``, (..., length, values),
    are its input, the book's x. ``recurrence``, ``parallel`` and ``chunked`` are the same map: each
    returns y, (..., length, values), and the *last* state, and takes the one that an earlier part
    returned. ``member[start:stop]`` is the member of these tokens alone.
    """

    lead: tuple[int, ...]
    length: int

    @abstractmethod
    def initial_state(self, values: int) -> S:
        """Return the state before the first token, for values of this size."""

    @abstractmethod
    def step(self, v_t: ArrayLike, state: S, t: int = 0) -> tuple[Float[ndarray, "..."], S]:
        """Take the value of token t, (..., values): return its output and the state after it.

        A member that was made for one token, as in generation, has t = 0.
        """

    @abstractmethod
    def parallel(self, v: ArrayLike, state: S | None = None) -> tuple[Values, S]:
        """Run all tokens at once, through a matrix over pairs of tokens: O(length²)."""

    @abstractmethod
    def mixing_matrix(self) -> Float[ndarray, "..."]:
        """Compute M, of which :math:`M_{ij}` is the weight of value j in output i."""

    def __getitem__(self, tokens: Any) -> Member[S]:
        """Return the member of some of the tokens."""
        if not isinstance(tokens, slice):
            raise TypeError(
                f"tokens must be a slice; got {tokens!r}: one token is [t : t + 1], and for its "
                "output there is step(v_t, state, t)"
            )
        return self._part(tokens)

    @abstractmethod
    def _part(self, tokens: slice) -> Member[S]:
        """Return the member of some of the tokens."""

    @abstractmethod
    def _check_state(self, state: S, v: Float[ndarray, "..."]) -> S:
        """Ask for a state that fits these values."""

    def __len__(self) -> int:
        """Count the tokens."""
        return self.length

    def recurrence(self, v: ArrayLike, state: S | None = None) -> tuple[Values, S]:
        """Run token by token: O(length), with a state of constant size."""
        v, state = self._check(v, state)
        y = np.empty_like(v)
        for t in range(self.length):
            y[..., t, :], state = self.step(v[..., t, :], state, t)
        return y, state

    def chunked(self, v: ArrayLike, state: S | None = None, *, chunk: int = 16) -> tuple[Values, S]:
        """Run chunk by chunk: parallel inside, a state in between; O(length · chunk).

        The last chunk may hold fewer tokens.
        """
        chunk = _check.count("chunk", chunk)
        v, state = self._check(v, state)
        y = np.empty_like(v)
        for start in range(0, self.length, chunk):
            part = slice(start, start + chunk)
            y[..., part, :], state = self[part].parallel(v[..., part, :], state)
        return y, state

    def _check(self, v: ArrayLike, state: Any) -> tuple[Values, S]:
        """Return values and a state that fit the tokens."""
        v = _check.real("v", v)
        if v.shape[:-1] != (*self.lead, self.length) or not v.size:
            raise ValueError(
                f"v must have shape {show(*self.lead, self.length, 'values')}, one value for each "
                f"token; got {v.shape}: give it the axes of the keys, and its own size last"
            )
        state = self.initial_state(v.shape[-1]) if state is None else state
        return v, self._check_state(state, v)

    def _check_token(self, t: int) -> None:
        if _check.count("t", t, least=0) >= self.length:
            raise ValueError(
                f"t must be one of the {self.length} tokens, counted from 0; got {t}: pass a "
                "smaller int"
            )

    def _check_step(
        self, v_t: ArrayLike, state: S, t: int
    ) -> tuple[Float[ndarray, "*lead values"], S]:
        """Return the values of one token, and a state that fits them."""
        self._check_token(t)
        v_t = _check.real("v_t", v_t)
        if v_t.ndim != len(self.lead) + 1 or v_t.shape[:-1] != self.lead or not v_t.size:
            raise ValueError(
                f"v_t must have shape {show(*self.lead, 'values')}; got {v_t.shape}: give it the "
                "axes of the keys but for the tokens"
            )
        return v_t, self._check_state(state, v_t)


def tokens(name: str, value: ArrayLike) -> Float[ndarray, "*lead length size"]:
    """Return real numbers with an axis of tokens and one for the size of a token."""
    array = _check.real(name, value)
    if array.ndim < 2 or not array.size:
        raise ValueError(
            f"{name} must have shape (..., length, size) with no axis of size 0; got "
            f"{array.shape}: put the tokens on the last axis but one"
        )
    return array


def fitted(
    name: str, value: ArrayLike, shape: tuple[int, ...], low: float = -np.inf, high: float = np.inf
) -> Float[ndarray, "..."]:
    """Return real numbers broadcast to a shape and within a range."""
    array = _check.real(name, value)
    try:
        result = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} must have shape {shape}, or one that broadcasts to it; got {array.shape}: "
            "see the keys for the sizes"
        ) from None
    outside = array[(array < low) | (array > high)]
    if outside.size:
        raise ValueError(
            f"{name} must lie between {low:g} and {high:g}; got {outside[0]:g}: pass what remains "
            "of the state after a step, not its logarithm"
        )
    return result


def arrays_of(state: object, kind: Any) -> list[Float[ndarray, "..."]]:
    """Return the arrays of a state that is a named tuple of them, of this kind."""
    fields = kind._fields
    if not isinstance(state, tuple) or len(state) != len(fields):
        raise TypeError(
            f"state must be a {kind.__name__} of {', '.join(fields)}; got a "
            f"{type(state).__name__}: pass what an earlier part returned, or initial_state"
        )
    return [_check.real(f"state.{name}", part) for name, part in zip(fields, state, strict=True)]


def show(*sizes: object) -> str:
    """Write a shape with names in it."""
    return f"({', '.join(map(str, sizes))})"
