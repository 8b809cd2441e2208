"""The layers that a language model can be built from, by name.

>>> sorted(MIXERS)
['attention', 'deltanet', 'gated_deltanet', 'linear_attention', 'lru', 'mamba', 'retnet', 'rwkv',
's4', 's4d', 's6', 'simple_gla']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from ssmlab.nn.attention import Attention
from ssmlab.nn.layer import Layer
from ssmlab.nn.linear_attention import LinearAttention
from ssmlab.nn.lru import LRU
from ssmlab.nn.mamba import Gated, Mamba
from ssmlab.nn.retnet import RetNet
from ssmlab.nn.rwkv import RWKV
from ssmlab.nn.s4 import S4
from ssmlab.nn.s4d import S4D
from ssmlab.nn.s6 import S6

Mixer = Callable[..., Layer[Any]]


def _gated(layer: Mixer) -> Mixer:
    """Put a layer that mixes time only into Mamba's block; options go to the layer."""
    return lambda channels, **options: Gated(channels, partial(layer, **options))


#: Name -> function of the number of channels and the mixer's options. S4, S4D and S6, which keep
#: channels apart, and the LRU stand in the place of the scan in Mamba's block. Four names are one
#: class, ``LinearAttention``; "simple_gla" is GLA with one gate for each head, not for each key.
#:
#: :meta hide-value:
MIXERS: Mapping[str, Mixer] = MappingProxyType(
    {
        "attention": Attention,
        "deltanet": partial(LinearAttention, delta=True),
        "gated_deltanet": partial(LinearAttention, decay="gated", delta=True),
        "linear_attention": LinearAttention,
        "lru": _gated(LRU),
        "mamba": Mamba,
        "retnet": RetNet,
        "rwkv": RWKV,
        "s4": _gated(S4),
        "s4d": _gated(S4D),
        "s6": _gated(S6),
        "simple_gla": partial(LinearAttention, decay="gated"),
    }
)
