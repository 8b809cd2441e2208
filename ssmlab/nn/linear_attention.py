r"""Linear attention as a layer, with the transition to choose: kept, decayed, gated, corrected."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn.heads import Matrices, Tokens, heads_of, in_chunks, retention_decays, split_heads
from ssmlab.nn.layer import Layer, Signal

Gates = Float[Tensor, "batch heads length"]

#: What a step keeps of the whole state: all, a fixed share for each head, or a share that the token
#: chooses.
DECAYS = ("none", "fixed", "gated")


class LinearAttention(Layer[Matrices]):
    r"""Linear attention and its kin, which differ in nothing but the transition of a matrix state.

    .. math:: S_t = a_t (I - \delta \beta_t k_t k_t^\top) S_{t-1} + \beta_t k_t v_t^\top, \qquad
              y_t = W_\text{out} \bigl(\operatorname{swish}(g_t) \circ
              \operatorname{norm}(S_t^\top q_t)\bigr)

    Parameters
    ----------
    channels : int
        An even number for each head.
    heads : int
    decay : {"none", "fixed", "gated"}
        :math:`a_t`: 1; RetNet's :math:`1 - 2^{-5-h}`; or :math:`\sigma(w^\top x_t + b)`, which
        starts near RetNet's.
    delta : bool
        Whether what the key holds is replaced (:math:`\delta = 1`) or added to (0).
    chunk : int
        Tokens that training takes at once.

    Notes
    -----
    Linear attention, a retention without rotation, Mamba-2's recurrence (GLA with one gate for each
    head, not for each key), DeltaNet and Gated DeltaNet are five of its six kinds. q and k have
    length 1, so that the delta rule is stable;
    :math:`\beta_t = \sigma(w^\top x_t + b)` says how much is written, in all kinds. The published
    layers have a short convolution before q, k and v, which this one has not. Decays are kept as
    logarithms, and only their differences are exponentiated. Source: Yang et al., arXiv:2406.06484
    and arXiv:2412.06464; in NumPy :class:`ssmlab.family.MatrixState`; chapter 11.

    Examples
    --------
    >>> layer = LinearAttention(channels=8, heads=2, decay="gated", delta=True)
    >>> y, state = layer(torch.ones(1, 100, 8), return_state=True)
    >>> y.shape, state.shape
    (torch.Size([1, 100, 8]), torch.Size([1, 2, 4, 4]))
    """

    def __init__(
        self,
        channels: int,
        heads: int = 4,
        *,
        decay: str = "none",
        delta: bool = False,
        chunk: int = 64,
    ) -> None:
        super().__init__(channels)
        self.size = heads_of(channels, heads)
        self.heads, self.chunk = heads, _check.count("chunk", chunk)
        self.decay, self.delta = _check.choice("decay", decay, DECAYS), bool(delta)
        self.in_proj = torch.nn.Linear(channels, 4 * channels, bias=False)
        self.out_proj = torch.nn.Linear(channels, channels, bias=False)
        self.beta = torch.nn.Linear(channels, heads)
        if self.decay == "gated":
            self.gate = torch.nn.Linear(channels, heads)
        self._start()

    def initial_state(self, batch: int) -> Matrices:
        """Return zeros, (batch, heads, keys, values)."""
        shape = _check.count("batch", batch), self.heads, self.size, self.size
        return self.out_proj.weight.new_zeros(shape)

    def extra_repr(self) -> str:
        """Describe the sizes and the transition."""
        return (
            f"channels={self.channels}, heads={self.heads}, decay={self.decay!r}, "
            f"delta={self.delta}, chunk={self.chunk}"
        )

    @torch.no_grad()
    def _start(self) -> None:
        if self.decay == "gated":
            self.gate.bias.copy_(math.log(2) * (5 + torch.arange(self.heads)))

    def _like(self) -> Tensor:
        return self.out_proj.weight

    def _sequence(
        self, x: Signal, state: Matrices | None, need_state: bool
    ) -> tuple[Signal, Matrices | None]:
        state = self.initial_state(len(x)) if state is None else state
        *qkv, g = self.in_proj(x).chunk(4, -1)
        q, k, v = (split_heads(part, self.heads) for part in qkv)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        tokens = q, k, v, self._log_decay(x), torch.sigmoid(self.beta(x)).mT
        y, state = in_chunks(self._read_and_write, tokens, self.chunk, state, need_state)
        y = F.rms_norm(y, (self.size,), eps=1e-5)
        return self.out_proj(F.silu(g) * y.transpose(1, 2).flatten(2)), state

    def _log_decay(self, x: Signal) -> Gates:
        if self.decay == "gated":
            return F.logsigmoid(self.gate(x)).mT
        a = torch.ones(self.heads, dtype=torch.float64, device=x.device)
        if self.decay == "fixed":
            a = retention_decays(self.heads, x.device)
        return a.log().to(x.dtype)[:, None].expand(len(x), -1, x.shape[1])

    def _read_and_write(
        self,
        q: Tokens,
        k: Tokens,
        v: Tokens,
        log_a: Gates,
        beta: Gates,
        state: Matrices,
        need_state: bool,
    ) -> tuple[Tokens, Matrices | None]:
        """Run one chunk: what the delta rule writes solves a triangular system."""
        c = log_a.cumsum(-1)
        ages = c[..., :, None] - c[..., None, :]
        later = torch.ones_like(ages[0, 0], dtype=torch.bool).triu(1)
        kept = ages.masked_fill(later, -math.inf).exp()
        since_start = c.exp()[..., None]
        write = beta[..., None] * v
        if self.delta:
            overlap = torch.tril(k @ k.mT * kept, -1) * beta[..., None]
            held = beta[..., None] * since_start * (k @ state)
            I = torch.eye(c.shape[-1], dtype=c.dtype, device=c.device)
            wide = torch.promote_types(c.dtype, torch.float32)  # torch solves no narrower system
            write = torch.linalg.solve_triangular(
                (I + overlap).to(wide), (write - held).to(wide), upper=False
            ).to(write.dtype)
        y = (q @ k.mT * kept) @ write + since_start * (q @ state)
        if not need_state:
            return y, None
        until_end = (c[..., -1:] - c).exp()[..., None]
        return y, since_start[..., -1:, :] * state + (until_end * k).mT @ write
