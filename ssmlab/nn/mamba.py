r"""The Mamba block: a short convolution, a sequence layer and a gate between two projections.

.. math:: [u, z] = W_\text{in} x, \qquad u \leftarrow \operatorname{silu}(\text{conv}(u)), \qquad
          y = W_\text{out} \, (\text{layer}(u) \odot \operatorname{silu}(z))

In ``Mamba`` the layer is the selective scan; in ``Gated`` it is any other, so that two layers can
be compared inside the same block. Chapter 16.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from ssmlab import _check, ops
from ssmlab._typing import Float
from ssmlab.nn import _check as nn_check
from ssmlab.nn.layer import Layer, Sample, Signal

Inner = Float[Tensor, "batch length inner"]
Past = Float[Tensor, "batch taps inner"]
State = Float[Tensor, "batch inner state"]


class BlockState(NamedTuple):
    """What a block keeps: the last inputs of its convolution, and the state of its layer."""

    conv: Past
    layer: Any


class GatedBlock(Layer[BlockState]):
    """What ``Mamba`` and ``Gated`` share; ``inner`` = expand * channels is the width inside."""

    def __init__(self, channels: int, *, conv: int, expand: int) -> None:
        super().__init__(channels)
        self.inner = _check.count("expand", expand) * channels
        taps = _check.count("conv", conv)
        self.in_proj = nn.Linear(channels, 2 * self.inner, bias=False)
        self.conv1d = nn.Conv1d(self.inner, self.inner, taps, groups=self.inner)
        self.out_proj = nn.Linear(self.inner, channels, bias=False)

    def initial_state(self, batch: int) -> BlockState:
        """Return the state before the first sample: zeros."""
        return BlockState(self._no_past(_check.count("batch", batch)), self._layer_state(batch))

    @abstractmethod
    def _mix(self, u: Inner, z: Inner, state: Any, need_state: bool) -> tuple[Inner, Any]:
        """Run the layer on u and multiply by silu(z); return y, and the last state if needed."""

    @abstractmethod
    def _mix_one(self, u: Inner, z: Inner, state: Any) -> tuple[Inner, Any]:
        """Do the same for one sample, (batch, 1, inner)."""

    @abstractmethod
    def _layer_state(self, batch: int) -> Any:
        """Return the layer's state before the first sample."""

    def _sequence(
        self, x: Signal, state: BlockState | None, need_state: bool
    ) -> tuple[Signal, BlockState]:
        past, before = (self._no_past(len(x)), None) if state is None else state
        u, z, conv = self._before(x, past)
        y, after = self._mix(u, z, before, need_state)
        return self.out_proj(y), BlockState(conv, after)

    def _sample(self, x_t: Sample, state: BlockState) -> tuple[Sample, BlockState]:
        u, z, conv = self._before(x_t[:, None], state.conv)
        y, after = self._mix_one(u, z, state.layer)
        return self.out_proj(y[:, 0]), BlockState(conv, after)

    def _before(self, x: Signal, past: Past) -> tuple[Inner, Inner, Past]:
        """Project and convolve: return u, z and the convolution's state."""
        u, z = self.in_proj(x).chunk(2, -1)
        if is_plain(self.conv1d):
            weight, bias = self.conv1d.weight[:, 0], cast(Tensor, self.conv1d.bias)
            u, conv = causal_convolution(u, weight, bias, past)
        else:
            seen = torch.cat([past, u], 1)
            u, conv = self.conv1d(seen.mT).mT, seen[:, u.shape[1] :].clone()
        return F.silu(u), z, conv

    def _no_past(self, batch: int) -> Past:
        return self.conv1d.weight.new_zeros(batch, self.conv1d.kernel_size[0] - 1, self.inner)

    def _like(self) -> Tensor:
        return self.conv1d.weight  # no quantization of the projections takes it away


class Mamba(GatedBlock):
    r"""Mamba's block: the step size, B and C of its scan follow from the input.

    .. math:: [r, B, C] = W_x u, \qquad \Delta = \operatorname{softplus}(W_\Delta r + b), \qquad
              h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t, \qquad
              y_t = (C_t h_t + D u_t) \odot \operatorname{silu}(z_t)

    Parameters
    ----------
    channels : int
        Numbers at one time, in and out.
    state : int
        Numbers in the state of an inner channel.
    conv : int
        Taps of the causal convolution.
    expand : int
        Inner channels for each channel.
    dt_rank : int, optional
        Numbers in r; channels / 16, rounded up, by default.
    dt_min, dt_max : float
        The step sizes start in this range, uniformly in their logarithm.

    Notes
    -----
    ``A_log`` starts as ln(1..state), D as 1, the bias b as the inverse softplus of the step sizes
    drawn, :math:`\Delta + \ln(1 - e^{-\Delta})`. Parameters have the names of the official code.
    The state is float32 also if the parameters are bfloat16. For second derivatives set ``backend``
    of the layer to "torch", which is slow. Source: Gu and Dao, arXiv:2312.00752,
    section 3.4 and figure 3; github.com/state-spaces/mamba. Chapter 16.

    Examples
    --------
    >>> layer = Mamba(channels=4, state=8)
    >>> x, state = torch.ones(1, 5, 4), layer.initial_state(1)
    >>> for t in range(5):
    ...     y_t, state = layer.step(x[:, t], state)
    >>> torch.allclose(y_t, layer(x)[:, -1], atol=1e-6)
    True
    """

    backend = "auto"

    def __init__(
        self,
        channels: int,
        state: int = 16,
        *,
        conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__(channels, conv=conv, expand=expand)
        self.state = _check.count("state", state)
        self.dt_rank = _check.count("dt_rank", -(-channels // 16) if dt_rank is None else dt_rank)
        self.dt_range = nn_check.step_sizes(dt_min, dt_max)
        self.x_proj = nn.Linear(self.inner, self.dt_rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.inner)
        self.A_log = nn.Parameter(torch.empty(self.inner, state))
        self.D = nn.Parameter(torch.empty(self.inner))
        self._start()

    def extra_repr(self) -> str:
        """Describe the sizes."""
        return f"channels={self.channels}, state={self.state}, dt_rank={self.dt_rank}"

    def time_scales(self) -> list[nn.Parameter]:
        """Return A and the projection to dt; and D, which the official code sets apart too."""
        return [self.A_log, self.D, *self.dt_proj.parameters()]

    @torch.no_grad()
    def _start(self) -> None:
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        low, high = map(math.log, self.dt_range)
        dt = torch.exp(low + torch.rand_like(self.dt_proj.bias) * (high - low))
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.A_log.copy_(torch.arange(1.0, self.state + 1).log())
        self.D.fill_(1)

    def _mix(
        self, u: Inner, z: Inner, state: State | None, need_state: bool
    ) -> tuple[Inner, State]:
        r, B, C = self.x_proj(u).split([self.dt_rank, self.state, self.state], -1)
        if is_plain(self.dt_proj):  # the scan adds the bias, in float32 at least
            dt, bias = F.linear(r, self.dt_proj.weight), self.dt_proj.bias
        else:
            dt, bias = self.dt_proj(r), None
        y, h = ops.selective_scan(
            u,
            dt,
            -self.A_log.to(self._wide()).exp(),
            B,
            C,
            self.D,
            z,
            dt_bias=bias,
            softplus=True,
            h0=state,
            return_last_state=True,
            backend=self.backend,
        )
        return y, h

    def _mix_one(self, u: Inner, z: Inner, state: State) -> tuple[Inner, State]:
        return self._mix(u, z, state, True)

    def _layer_state(self, batch: int) -> State:
        return self.A_log.new_zeros(batch, *self.A_log.shape, dtype=self._wide())

    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.A_log.dtype, torch.float32)


class Gated(GatedBlock):
    r"""Mamba's block around another layer.

    Parameters
    ----------
    channels : int
        Numbers at one time, in and out.
    make : callable
        From the number of inner channels to a :class:`Layer`.
    conv : int
        Taps of the causal convolution.
    expand : int
        Inner channels for each channel.

    Examples
    --------
    >>> from ssmlab.nn import S4D
    >>> Gated(4, S4D)(torch.zeros(1, 9, 4)).shape
    torch.Size([1, 9, 4])
    """

    layer: Layer[Any]

    def __init__(
        self, channels: int, make: Callable[[int], Layer[Any]], *, conv: int = 4, expand: int = 2
    ) -> None:
        super().__init__(channels, conv=conv, expand=expand)
        self.layer = nn_check.makes_layers("make", make, self.inner)

    def _mix(self, u: Inner, z: Inner, state: Any, need_state: bool) -> tuple[Inner, Any]:
        if need_state:
            y, state = self.layer(u, state, return_state=True)
        else:
            y = self.layer(u, state)
        return y * F.silu(z), state

    def _mix_one(self, u: Inner, z: Inner, state: Any) -> tuple[Inner, Any]:
        y, state = self.layer.step(u[:, 0], state)
        return y[:, None] * F.silu(z), state

    def _layer_state(self, batch: int) -> Any:
        return self.layer.initial_state(batch)


def is_plain(module: nn.Module) -> bool:
    """Tell whether a module is torch's own, with no hook: its weights may be read past it."""
    before, after = module._forward_pre_hooks, module._forward_hooks
    backward = [*module._backward_pre_hooks, *module._backward_hooks]
    hooked = before or after or backward or _has_any_global_hook() or "forward" in vars(module)
    return type(module) in (nn.Linear, nn.Conv1d) and not hooked


def causal_convolution(
    x: Signal,
    weight: Float[Tensor, "channels taps"],
    bias: Float[Tensor, "channels"],
    past: Float[Tensor, "batch before channels"],
) -> tuple[Signal, Float[Tensor, "batch before channels"]]:
    r"""Convolve each channel with a few taps, :math:`y_t = b + \sum_j w_j x_{t - (n - 1) + j}`.

    Parameters
    ----------
    x : Tensor, (batch, length, channels)
    weight : Tensor, (channels, taps)
        The last tap meets the newest sample.
    bias : Tensor, (channels,)
    past : Tensor, (batch, taps - 1, channels)
        The samples before x.

    Returns
    -------
    y : Tensor, (batch, length, channels)
    past : Tensor, (batch, taps - 1, channels)
        The last samples, for the next call.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> taps, zero = torch.tensor([[10.0, 1.0]]), torch.zeros(1)
    >>> y, past = causal_convolution(x, taps, zero, past=torch.zeros(1, 1, 1))
    >>> y.flatten(), past.flatten()
    (tensor([ 1., 12., 23.]), tensor([3.]))
    """
    length = x.shape[1]
    seen = torch.cat([past, x], 1)
    y = bias
    for j, w_j in enumerate(weight.unbind(1)):
        y = y + w_j * seen[:, j : j + length]
    return y, seen[:, length:].clone()  # a view would keep the whole sequence alive
