r"""RetNet as a layer: a matrix state that decays at a fixed rate, trained in chunks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn.heads import (
    Matrices,
    Tokens,
    heads_of,
    in_chunks,
    retention_decays,
    rotate,
    split_heads,
)
from ssmlab.nn.layer import Layer, Sample, Signal


class RetNet(Layer[Matrices]):
    r"""Multi-scale retention: a decay for each head, a norm for each head, and a gate.

    .. math:: S_t = \gamma S_{t-1} + \tilde k_t v_t^\top, \qquad
              y_t = W_\text{out} \bigl(\operatorname{swish}(g_t) \circ
              \operatorname{norm}(S_t^\top \tilde q_t)\bigr)

    Parameters
    ----------
    channels : int
        An even number for each head.
    heads : int
    chunk : int
        Tokens that training takes at once: the cost of a sequence is length · (chunk + size of a
        head).

    Notes
    -----
    q, k, v and the gate g are projections of x without bias, of as many channels; ~ is the rotation
    of :func:`ssmlab.family.retention`. The state is kept as the next token sees it, so it needs no
    position. The weights start as in torchscale: Xavier, with a gain of :math:`2^{-5/2}` but for
    the last. The norm is the paper's group norm, not learned; torchscale runs an RMS norm in its
    place, which keeps the mean, so that outputs of equal weights differ. Source: Sun et al.,
    arXiv:2307.08621; chapter 11.

    Examples
    --------
    >>> layer = RetNet(channels=8, heads=2)
    >>> y, state = layer(torch.ones(1, 100, 8), return_state=True)
    >>> y.shape, state.shape
    (torch.Size([1, 100, 8]), torch.Size([1, 2, 4, 4]))
    """

    def __init__(self, channels: int, heads: int = 4, *, chunk: int = 64) -> None:
        super().__init__(channels)
        self.size = heads_of(channels, heads)
        self.heads, self.chunk = heads, _check.count("chunk", chunk)
        self.in_proj = torch.nn.Linear(channels, 4 * channels, bias=False)
        self.out_proj = torch.nn.Linear(channels, channels, bias=False)
        self._start()

    def initial_state(self, batch: int) -> Matrices:
        """Return zeros, (batch, heads, keys, values)."""
        shape = _check.count("batch", batch), self.heads, self.size, self.size
        return self.out_proj.weight.new_zeros(shape)

    def extra_repr(self) -> str:
        """Describe the sizes."""
        return f"channels={self.channels}, heads={self.heads}, chunk={self.chunk}"

    def _start(self) -> None:
        for weight in self.in_proj.weight.chunk(4):
            torch.nn.init.xavier_uniform_(weight, gain=2**-2.5)
        torch.nn.init.xavier_uniform_(self.out_proj.weight)

    def _like(self) -> Tensor:
        return self.out_proj.weight

    def _sequence(
        self, x: Signal, state: Matrices | None, need_state: bool
    ) -> tuple[Signal, Matrices | None]:
        state = self.initial_state(len(x)) if state is None else state
        *tokens, g = self._project(x)
        y, state = in_chunks(self._retain, tokens, self.chunk, state, need_state)
        return self._mix_heads(y, g), state

    def _sample(self, x_t: Sample, state: Matrices) -> tuple[Sample, Matrices]:
        q, k, v, g = self._project(x_t[:, None])
        gamma, theta = self._constants()
        state = gamma.to(q.dtype) * state + k.mT @ v
        return self._mix_heads(q @ state, g)[:, 0], self._turn_back(state, theta, 1)

    def _retain(
        self, q: Tokens, k: Tokens, v: Tokens, state: Matrices, need_state: bool
    ) -> tuple[Tokens, Matrices | None]:
        """Run one chunk: a masked matrix inside, the state for what was before."""
        length = q.shape[2]
        gamma, theta = self._constants()
        t = torch.arange(length, dtype=torch.float64, device=q.device)
        q, k = rotate(q, theta, t), rotate(k, theta, t)
        mask = torch.tril(gamma ** (t[:, None] - t).clamp_min(0)).to(q.dtype)
        read = (gamma ** (t[:, None] + 1)).to(q.dtype)
        y = (q @ k.mT * mask) @ v + (read * q) @ state
        if not need_state:
            return y, None
        write = (gamma ** t.flip(0)[:, None]).to(q.dtype)
        state = (gamma**length).to(q.dtype) * state + (write * k).mT @ v
        return y, self._turn_back(state, theta, length)

    def _project(self, x: Signal) -> tuple[Tokens, Tokens, Tokens, Signal]:
        """Compute queries, keys and values of each head, and the gate."""
        q, k, v, g = self.in_proj(x).chunk(4, -1)
        q, k, v = (split_heads(part, self.heads) for part in (q, k * self.size**-0.5, v))
        return q, k, v, g

    def _mix_heads(self, y: Tokens, g: Signal) -> Signal:
        y = y.transpose(1, 2).flatten(2)
        y = F.group_norm(y.flatten(0, 1), self.heads).view_as(g)
        return self.out_proj(F.silu(g) * y)

    def _constants(self) -> tuple[Float[Tensor, "heads 1 1"], Float[Tensor, "pairs"]]:
        """Return gamma and the angles, in float64 whatever the parameters are."""
        device = self.out_proj.weight.device
        gamma = retention_decays(self.heads, device)
        exponents = torch.linspace(0, 1, self.size // 2, dtype=torch.float64, device=device)
        return gamma[:, None, None], 10000.0**-exponents

    @staticmethod
    def _turn_back(state: Matrices, theta: Float[Tensor, "pairs"], steps: int) -> Matrices:
        """Let the next token, at position 0 of its own chunk, meet the keys at their distance."""
        return rotate(state.mT, theta, torch.full_like(theta[:1], -steps)).mT
