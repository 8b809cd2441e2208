r"""The layers that a language model can be built from, by name.

A mixer is a layer from (batch, length, channels) to the same shape that reads only the past. Three
methods make it one:

- ``forward(x, state=None, *, return_state=False)``: y, and with ``return_state`` (y, state);
- ``step(x_t, state)``: (y_t, state) for one sample, the same map;
- ``initial_state(batch)``: the state before the first sample.

>>> sorted(MIXERS)
['attention', 'lru', 'mamba', 'memory', 'retnet', 'rwkv', 's4', 's4d']
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ssmlab.nn.attention import Attention
from ssmlab.nn.layers import S4, S4D
from ssmlab.nn.lru import LRU
from ssmlab.nn.mamba import Gated, Mamba
from ssmlab.nn.memory import Memory
from ssmlab.nn.retnet import RetNet
from ssmlab.nn.rwkv import RWKV


def _gated(layer: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Put a layer that mixes time only into Mamba's block; options go to the layer."""
    return lambda channels, **options: Gated(channels, lambda inner: layer(inner, **options))


#: Name -> function of the number of channels and the mixer's options. S4 and S4D, which keep
#: channels apart, and the LRU are linear: they stand in the place of the scan in Mamba's block.
#:
#: :meta hide-value:
MIXERS: dict[str, Callable[..., Any]] = {
    "attention": Attention,
    "lru": _gated(LRU),
    "mamba": Mamba,
    "memory": Memory,
    "retnet": RetNet,
    "rwkv": RWKV,
    "s4": _gated(S4),
    "s4d": _gated(S4D),
}
