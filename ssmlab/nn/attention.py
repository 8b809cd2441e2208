"""Softmax attention as a layer, the foil: its state is a cache that grows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn.heads import heads_of, rotate, split_heads
from ssmlab.nn.layer import Layer, Signal, describe


class Cache(NamedTuple):
    """The rotated keys and the values of all samples so far."""

    k: Float[Tensor, "batch heads past size"]
    v: Float[Tensor, "batch heads past size"]


class Attention(Layer[Cache]):
    r"""Causal softmax attention with rotary positions.

    .. math:: y_i = W_\text{out} \sum_{j \le i} M_{ij} v_j, \qquad
              M_{ij} \propto \exp(q_i^\top R^{j - i} k_j / \sqrt d)

    Parameters
    ----------
    channels : int
        An even number for each head.
    heads : int

    Notes
    -----
    q, k and v are projections of x without bias, of as many channels; R turns pair m of d/2 by
    :math:`10000^{-2m/d}` rad. The state is the key-value cache, 2 · channels numbers for each
    sample: a step copies and reads all of it. Training uses torch's
    ``scaled_dot_product_attention``, O(length²) in time. Chapter 11.

    Examples
    --------
    >>> layer = Attention(channels=8, heads=2)
    >>> y, cache = layer(torch.ones(1, 100, 8), return_state=True)
    >>> y.shape, cache.k.shape
    (torch.Size([1, 100, 8]), torch.Size([1, 2, 100, 4]))
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__(channels)
        self.size, self.heads = heads_of(channels, heads), heads
        self.in_proj = torch.nn.Linear(channels, 3 * channels, bias=False)
        self.out_proj = torch.nn.Linear(channels, channels, bias=False)

    def initial_state(self, batch: int) -> Cache:
        """Return an empty cache."""
        shape = _check.count("batch", batch), self.heads, 0, self.size
        return Cache(*(self.out_proj.weight.new_zeros(shape) for _ in Cache._fields))

    def extra_repr(self) -> str:
        """Describe the sizes."""
        return f"channels={self.channels}, heads={self.heads}"

    def _like(self) -> Tensor:
        return self.out_proj.weight

    def _sequence(self, x: Signal, state: Cache | None, need_state: bool) -> tuple[Signal, Cache]:
        state = self.initial_state(len(x)) if state is None else state
        q, k, v = (split_heads(part, self.heads) for part in self.in_proj(x).chunk(3, -1))
        length, past = x.shape[1], state.k.shape[2]
        t = torch.arange(past, past + length, dtype=torch.float64, device=x.device)
        even = torch.arange(0, self.size, 2, dtype=torch.float64, device=x.device)
        theta = 10000.0 ** -(even / self.size)
        q, k = rotate(q, theta, t), rotate(k, theta, t)
        cache = Cache(torch.cat([state.k, k], 2), torch.cat([state.v, v], 2))
        mask = None
        if past and length > 1:
            mask = t[:, None] >= torch.arange(past + length, device=x.device)
        y = F.scaled_dot_product_attention(q, *cache, attn_mask=mask, is_causal=not past)
        return self.out_proj(y.transpose(1, 2).flatten(2)), cache

    def _check_state(self, state: Any, batch: int) -> None:
        """Ask for a cache; its past may be of any length."""
        k = state.k if isinstance(state, Cache) else None
        past = k.shape[2] if isinstance(k, Tensor) and k.ndim == 4 else 0
        shape = batch, self.heads, past, self.size
        empty = self.out_proj.weight.new_empty(()).expand(shape)
        if describe(state) != describe(Cache(empty, empty)):
            raise ValueError(
                f"state must be {describe(Cache(empty, empty))}, with a past of any length; got "
                f"{describe(state)}: start with initial_state({batch})"
            )
