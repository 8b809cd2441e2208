"""What the layers of the family share: one map over a sequence and for one sample, with a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn import _check as nn_check

Signal = Float[Tensor, "batch length channels"]
Sample = Float[Tensor, "batch channels"]
S = TypeVar("S")


class SequenceLayer(torch.nn.Module, ABC, Generic[S]):
    """A causal layer, (batch, length, channels) to the same shape.

    ``forward`` runs over a whole sequence at once, ``step`` for one sample: the same map. A state
    that one of them returns goes into the next call of either.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = _check.count("channels", channels)

    def forward(
        self, x: Signal, state: S | None = None, *, return_state: bool = False
    ) -> Signal | tuple[Signal, S]:
        """Run over the whole sequence at once.

        Parameters
        ----------
        x : Tensor, (batch, length, channels)
            Of the type of the parameters.
        state : optional
            From ``initial_state`` or an earlier call; that before the first sample by default.
        return_state : bool
            Whether to return the state after the last sample too.

        Returns
        -------
        y : Tensor, (batch, length, channels)
        state
            With ``return_state``.

        Raises
        ------
        TypeError, ValueError
            If ``x`` or ``state`` has the wrong type or shape.
        """
        nn_check.signal("x", x, ("batch", "length"), self._like(), self.channels)
        if state is None:
            state = self.initial_state(len(x))
        self._check_state(state, len(x))
        y, state = self._sequence(x, state)
        return (y, state) if return_state else y

    def step(self, x_t: Sample, state: S) -> tuple[Sample, S]:
        """Run for one sample, as a recurrent network.

        Parameters
        ----------
        x_t : Tensor, (batch, channels)
        state
            From ``initial_state`` or an earlier call.

        Returns
        -------
        y_t : Tensor, (batch, channels)
        state

        Raises
        ------
        TypeError, ValueError
            If ``x_t`` or ``state`` has the wrong type or shape.
        """
        nn_check.signal("x_t", x_t, ("batch",), self._like(), self.channels)
        self._check_state(state, len(x_t))
        return self._sample(x_t, state)

    @abstractmethod
    def initial_state(self, batch: int) -> S:
        """Return the state before the first sample."""

    @abstractmethod
    def _sequence(self, x: Signal, state: S) -> tuple[Signal, S]:
        """Run over a sequence; return the outputs and the last state."""

    def _sample(self, x_t: Sample, state: S) -> tuple[Sample, S]:
        """Run for one sample: a sequence of length 1, unless a layer knows better."""
        y, state = self._sequence(x_t[:, None], state)
        return y[:, 0], state

    def _check_state(self, state: Any, batch: int) -> None:
        """Ask for the shapes and types of ``initial_state``."""
        expected = self.initial_state(batch)
        if describe(state) != describe(expected):
            raise ValueError(
                f"state must be {describe(expected)}; got {describe(state)}: start with "
                f"initial_state({batch})"
            )

    def _like(self) -> Tensor:
        """Return a parameter, whose type and device are those of the layer."""
        return next(self.parameters())


def heads_of(channels: int, heads: int) -> int:
    """Return the size of a head: an even number, as it is rotated in pairs."""
    channels, heads = _check.count("channels", channels), _check.count("heads", heads)
    size, rest = divmod(channels, heads)
    if rest or size % 2:
        raise ValueError(
            f"channels must be an even multiple of heads; got {channels} channels and {heads} "
            f"heads: pass for example {2 * heads * max(1, round(size / 2))} channels"
        )
    return size


def split_heads(x: Signal, heads: int) -> Float[Tensor, "batch heads length size"]:
    """Give each head its own axis."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def rotate(
    x: Float[Tensor, "*lead length size"],
    theta: Float[Tensor, "pairs"],
    position: Float[Tensor, "#length"],
) -> Float[Tensor, "*lead length size"]:
    r"""Turn each pair of neighbouring numbers by theta times the position, in rad.

    theta and the position are float64 whatever x is: a float32 angle of 10,000 rad is off by up to
    5e-4 rad.
    """
    angle = torch.outer(position, theta)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def describe(state: Any) -> str:
    """Write down a state's types and shapes."""
    if isinstance(state, Tensor):
        return f"{str(state.dtype).removeprefix('torch.')} of shape {tuple(state.shape)}"
    if isinstance(state, tuple):
        return f"{type(state).__name__}({', '.join(map(describe, state))})"
    return f"a {type(state).__name__}"
