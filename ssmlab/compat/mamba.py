"""The block of ``mamba_ssm.modules.mamba_simple``, its fused function, and its cache."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmlab import _check
from ssmlab._typing import Float, Inexact
from ssmlab.compat.convolution import causal_conv1d_fn, causal_conv1d_update
from ssmlab.compat.scan import selective_scan_fn

Signal = Float[Tensor, "batch length d_model"]


def mamba_inner_fn(
    xz: Float[Tensor, "batch both length"],
    conv1d_weight: Float[Tensor, "channels 1 taps"],
    conv1d_bias: Float[Tensor, "channels"] | None,
    x_proj_weight: Float[Tensor, "parts channels"],
    delta_proj_weight: Float[Tensor, "channels rank"],
    out_proj_weight: Float[Tensor, "d_model channels"],
    out_proj_bias: Float[Tensor, "d_model"] | None,
    A: Inexact[Tensor, "channels state"],
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Float[Tensor, "channels"] | None = None,
    delta_bias: Float[Tensor, "channels"] | None = None,
    B_proj_bias: Float[Tensor, "state"] | None = None,
    C_proj_bias: Float[Tensor, "state"] | None = None,
    delta_softplus: bool = True,
    checkpoint_lvl: int = 1,
    b_rms_weight: Float[Tensor, "state"] | None = None,
    c_rms_weight: Float[Tensor, "state"] | None = None,
    dt_rms_weight: Float[Tensor, "rank"] | None = None,
    b_c_dt_rms_eps: float = 1e-6,
) -> Float[Tensor, "batch length d_model"]:
    """Run all of a block that comes after its first projection, as mamba_ssm's fused function.

    Parameters
    ----------
    xz : Tensor, (batch, 2 * channels, length)
        What the first projection gives.
    B, C : Tensor, optional
        As for ``selective_scan_fn``; where they are left out, ``x_proj_weight`` makes them.
    b_rms_weight, c_rms_weight, dt_rms_weight, b_c_dt_rms_eps
        Norms of B, C and the factors of delta, as in Falcon-Mamba.
    checkpoint_lvl : int
        Of no effect: what torch saves is decided by its own checkpointing.

    Returns
    -------
    out : Tensor, (batch, length, d_model)

    Examples
    --------
    >>> block, x = Mamba(d_model=4), torch.ones(1, 5, 4)
    >>> out = mamba_inner_fn(
    ...     block.in_proj(x).mT, block.conv1d.weight, block.conv1d.bias, block.x_proj.weight,
    ...     block.dt_proj.weight, block.out_proj.weight, None, -block.A_log.exp(), D=block.D,
    ...     delta_bias=block.dt_proj.bias)
    >>> torch.allclose(out, block(x), atol=1e-6)
    True
    """
    x, z = xz.chunk(2, 1)
    x = _signal(causal_conv1d_fn(x, conv1d_weight[:, 0], conv1d_bias, activation="silu"))
    rank, parts = delta_proj_weight.shape[1], 2 if A.is_complex() else 1
    state = A.shape[1] * parts
    sizes = [rank, *(state for M in (B, C) if M is None)]
    r, *made = F.linear(x.mT, x_proj_weight).split(sizes, -1)
    r = r if dt_rms_weight is None else F.rms_norm(r, (rank,), dt_rms_weight, b_c_dt_rms_eps)

    wanted = ((B, B_proj_bias, b_rms_weight), (C, C_proj_bias, c_rms_weight))
    B, C = (
        _time_last(made.pop(0), bias, norm, b_c_dt_rms_eps, parts) if M is None else M
        for M, bias, norm in wanted
    )
    delta = F.linear(r, delta_proj_weight).mT
    y = selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(_signal(y).mT, out_proj_weight, out_proj_bias)


def _time_last(
    v: Tensor, bias: Tensor | None, norm: Tensor | None, eps: float, parts: int
) -> Tensor:
    """Bring a projected B or C to mamba_ssm's axes; a complex one has (Re, Im) side by side."""
    v = v if bias is None else v + bias
    v = v if norm is None else F.rms_norm(v, v.shape[-1:], norm, eps)
    return v.unflatten(-1, (-1, parts)).transpose(1, 2).flatten(2)


@dataclass
class InferenceParams:
    """What mamba_ssm hands from token to token: how far the text is, and the layers' states."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict[int, Any] = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        """Begin anew."""
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


class Mamba(nn.Module):
    """The block of :class:`ssmlab.nn.Mamba` with mamba_ssm's arguments, parameters and cache.

    Parameters
    ----------
    d_model, d_state, d_conv, expand : int
    dt_rank : int or "auto"
    dt_min, dt_max, dt_init_floor : float
        The step sizes start in this range, and not below the floor.
    dt_init : {"random", "constant"}
    dt_scale : float
    conv_bias, bias : bool
        Of the convolution; of the first and the last projection.
    use_fast_path : bool
        Of no effect.
    layer_idx : int, optional
        Where the states are in the cache.
    device, dtype
        Of the parameters; ``A_log`` and ``D`` are float32.

    Examples
    --------
    >>> block, x = Mamba(d_model=4, layer_idx=0), torch.randn(1, 3, 4)
    >>> cache = InferenceParams(max_seqlen=3, max_batch_size=1)
    >>> outputs = [block(x[:, :2], cache)]
    >>> cache.seqlen_offset = 2
    >>> outputs += [block(x[:, 2:], cache)]
    >>> torch.allclose(torch.cat(outputs, 1), block(x), atol=1e-6)
    True
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check.choice("dt_init", dt_init, ("random", "constant"))
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.d_model, self.d_state = _check.count("d_model", d_model), d_state
        self.d_conv, self.expand, self.layer_idx = d_conv, expand, layer_idx
        self.d_inner = int(expand * d_model)
        self.dt_rank = -(-d_model // 16) if dt_rank == "auto" else int(dt_rank)
        self.use_fast_path = use_fast_path
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **like)
        self.conv1d = nn.Conv1d(
            self.d_inner,
            self.d_inner,
            d_conv,
            groups=self.d_inner,
            padding=d_conv - 1,
            bias=conv_bias,
            **like,
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **like)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, **like)
        rates = torch.arange(1.0, d_state + 1, device=device).repeat(self.d_inner, 1)
        self.A_log = nn.Parameter(rates.log())
        self.D = nn.Parameter(torch.ones(self.d_inner, device=device))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **like)
        for kept in (self.A_log, self.D):
            kept._no_weight_decay = True  # type: ignore[attr-defined]
        self._start(dt_init, dt_scale, math.log(dt_min), math.log(dt_max), dt_init_floor)

    @torch.no_grad()
    def _start(self, kind: str, scale: float, low: float, high: float, floor: float) -> None:
        size = self.dt_rank**-0.5 * scale
        nn.init.uniform_(self.dt_proj.weight, size if kind == "constant" else -size, size)
        dt = torch.exp(low + torch.rand(self.d_inner) * (high - low)).clamp(min=floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]

    def forward(
        self, hidden_states: Signal, inference_params: InferenceParams | None = None
    ) -> Signal:
        """Run over (batch, length, d_model); with a cache, from its states and into them."""
        states = None
        if inference_params is not None:
            states = self._get_states_from_cache(inference_params, len(hidden_states))
            if inference_params.seqlen_offset > 0:
                return self.step(hidden_states, *states)[0]
        x, z = self.in_proj(hidden_states).mT.chunk(2, 1)
        if states is not None:
            states[0].copy_(F.pad(x, (self.d_conv - x.shape[-1], 0)))
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        x = _signal(causal_conv1d_fn(x, weight, bias, activation="silu"))
        y, last = self._scan(x, z, None)
        if states is not None:
            states[1].copy_(last)
        return self.out_proj(y.mT)

    def step(
        self, hidden_states: Signal, conv_state: Tensor, ssm_state: Tensor
    ) -> tuple[Signal, Tensor, Tensor]:
        """Run for one token, (batch, 1, d_model); the states move on in place."""
        if hidden_states.shape[1] != 1:
            raise ValueError(
                "hidden_states must hold one token of each text; got length "
                f"{hidden_states.shape[1]}: give the others to forward, or one by one"
            )
        x, z = self.in_proj(hidden_states).mT.chunk(2, 1)
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        x = causal_conv1d_update(x, conv_state, weight, bias, "silu")
        y, last = self._scan(x, z, ssm_state)
        ssm_state.copy_(last)
        return self.out_proj(y.mT), conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Make the states of the convolution and of the scan, zeros."""
        conv, ssm = self.conv1d.weight, self.dt_proj.weight
        shape = batch_size, self.d_inner
        return (
            conv.new_zeros(*shape, self.d_conv, dtype=dtype or conv.dtype),
            ssm.new_zeros(*shape, self.d_state, dtype=dtype or ssm.dtype),
        )

    def _scan(self, x: Tensor, z: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        sizes = [self.dt_rank, self.d_state, self.d_state]
        r, B, C = self.x_proj(x.mT).split(sizes, -1)
        y, last = selective_scan_fn(
            x,
            F.linear(r, self.dt_proj.weight).mT,
            -self.A_log.float().exp(),
            B.mT,
            C.mT,
            self.D.float(),
            z,
            self.dt_proj.bias.float(),
            True,
            True,
            initial_state=state,
        )
        return y, last

    def _get_states_from_cache(
        self, inference_params: InferenceParams, batch_size: int, initialize_states: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Find this layer's states, or make them."""
        if self.layer_idx is None:
            raise ValueError(
                "layer_idx must say where in the cache this layer's states are; got None: pass it "
                "to Mamba, another number for each layer"
            )
        cache = inference_params.key_value_memory_dict
        if self.layer_idx not in cache:
            cache[self.layer_idx] = self.allocate_inference_cache(batch_size, 0)
        if initialize_states:
            for state in cache[self.layer_idx]:
                state.zero_()
        return cache[self.layer_idx]


def _signal(result: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Return the outputs of a function that may return a state too."""
    return result[0] if isinstance(result, tuple) else result
