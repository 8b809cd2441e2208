r"""A small classifier of sequences: residual blocks around any layer, and a mean over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn import _check as nn_check
from ssmlab.nn.layer import redraw
from ssmlab.nn.s4d import S4D


class Block(nn.Module):
    r"""A residual block: normalise, mix time in each channel, then mix channels at each time.

    .. math:: x \mapsto x + \operatorname{GLU}(W \operatorname{GELU}(\text{layer}(\text{norm}(x))))
    """

    layer: Any  # a Layer, or any module as long as no step is asked for

    def __init__(self, channels: int, layer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(channels), layer
        self.mix = nn.Sequential(
            nn.GELU(), nn.Dropout(dropout), nn.Linear(channels, 2 * channels), nn.GLU()
        )

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """Run over (batch, length, channels); options go to the layer."""
        return x + self.mix(self.layer(self.norm(x), **options))

    def step(self, x_t: Tensor, state: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """Run for one sample, (batch, channels)."""
        y_t, state = self.layer.step(self.norm(x_t), state, **options)
        return x_t + self.mix(y_t), state


class ClassifierState(NamedTuple):
    """What a classifier keeps between two samples: the layers' states, and the mean's sum."""

    layers: tuple[Tensor, ...]
    total: Float[Tensor, "batch channels"]
    length: int


class SequenceClassifier(nn.Module):
    r"""Blocks between a linear encoder and a linear read-out of the mean over time.

    Parameters
    ----------
    inputs, classes : int
        Numbers in a sample; number of classes.
    channels, depth : int
        Width of the blocks, and how many there are.
    layer : callable
        From the number of channels to a layer for each block; S4D with state 32 by default.
    dropout : float

    Notes
    -----
    The weights are drawn from torch's generator: call ``torch.manual_seed`` first. Chapter 10.

    Examples
    --------
    >>> import torch
    >>> model = SequenceClassifier(1, 10, channels=8, depth=2)
    >>> model(torch.zeros(5, 64, 1)).shape
    torch.Size([5, 10])
    """

    blocks: Any  # a ModuleList, of Blocks

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        channels: int = 64,
        depth: int = 2,
        layer: Callable[[int], nn.Module] | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        channels = _check.count("channels", channels)
        make = layer or (lambda channels: S4D(channels, 32))
        self.encoder = nn.Linear(_check.count("inputs", inputs), channels)
        self.blocks = nn.ModuleList(
            Block(channels, make(channels), dropout) for _ in range(_check.count("depth", depth))
        )
        self.norm = nn.LayerNorm(channels)
        self.decoder = nn.Linear(channels, _check.count("classes", classes))

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as the constructor did; see ``Layer.reset_parameters``."""
        redraw(*self.children())

    def forward(
        self, x: Float[Tensor, "batch length inputs"], **options: Any
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits of whole sequences; options, such as rate=2, go to each layer."""
        weight = self.encoder.weight
        x = nn_check.signal("x", x, ("batch", "length"), weight, self.encoder.in_features)
        x = self.encoder(x)
        for block in self.blocks:
            x = block(x, **options)
        return self.decoder(self.norm(x).mean(1))

    def step(
        self, x_t: Float[Tensor, "batch inputs"], state: ClassifierState, **options: Any
    ) -> tuple[Float[Tensor, "batch classes"], ClassifierState]:
        """Take one sample, and return the logits of the sequence so far and the new state."""
        weight = self.encoder.weight
        x_t = nn_check.signal("x_t", x_t, ("batch",), weight, self.encoder.in_features)
        if not isinstance(state, ClassifierState) or len(state.layers) != len(self.blocks):
            raise ValueError(
                f"state must be a ClassifierState of {len(self.blocks)} layers; got a "
                f"{type(state).__name__}: start with initial_state({len(x_t)})"
            )
        x_t, layers = self.encoder(x_t), []
        for block, before in zip(self.blocks, state.layers, strict=True):
            x_t, after = block.step(x_t, before, **options)
            layers.append(after)
        total, length = state.total + self.norm(x_t), state.length + 1
        return self.decoder(total / length), ClassifierState(tuple(layers), total, length)

    def initial_state(self, batch: int) -> ClassifierState:
        """Return the state before the first sample."""
        layers = tuple(block.layer.initial_state(batch) for block in self.blocks)
        return ClassifierState(layers, self.norm.weight.new_zeros(batch, len(self.norm.weight)), 0)
