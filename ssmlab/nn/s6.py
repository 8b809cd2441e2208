r"""S6, the selective layer alone: the scan that Mamba's block is built around."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ssmlab import _check, ops
from ssmlab._typing import Float
from ssmlab.nn import _check as nn_check
from ssmlab.nn.layer import Layer, Signal, redraw

State = Float[Tensor, "batch channels state"]

#: What may follow the input; the rest is constant.
SELECTIVE = ("dt", "B", "C")


class S6(Layer[State]):
    r"""A diagonal system for each channel, whose step size, B and C follow the input, or do not.

    .. math:: h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t, \qquad y_t = C_t h_t + D x_t, \qquad
              \Delta_t = \operatorname{softplus}(W_2 W_1 x_t + b)

    with :math:`B_t = W_B x_t` and :math:`C_t = W_C x_t`.

    Parameters
    ----------
    channels : int
    state : int
        Numbers in the state of a channel.
    selective : iterable of {"dt", "B", "C"}
        What follows the input. The others are learned constants, B and C for each channel. None of
        the three is a time-invariant layer of real decays.
    dt_rank : int, optional
        Numbers in :math:`W_1 x_t`; channels / 32, rounded up, by default.
    dt_min, dt_max : float
        The step sizes start in this range, uniformly in their logarithm.

    Notes
    -----
    The name is the paper's, for S4 with selection and a scan; none and all three are its
    algorithms 1 and 2. ``Mamba`` is a block around the scan, with the parameters of the official
    code; its rank of dt is the same, as it is twice as wide inside. At the start
    :math:`A = -(1, \dots, N)`, D = 1 and a constant B = 1; a constant C is drawn. Source: Gu and
    Dao, arXiv:2312.00752, section 3.2; in NumPy :func:`ssmlab.selective.selective_scan`;
    chapter 12.

    Examples
    --------
    >>> layer = S6(channels=4, state=8, selective=("dt",))
    >>> y, state = layer(torch.ones(1, 100, 4), return_state=True)
    >>> y.shape, state.shape
    (torch.Size([1, 100, 4]), torch.Size([1, 4, 8]))
    """

    dt: Any  # a Sequential of two projections
    B: Any  # a projection, or a Parameter
    C: Any

    backend = "auto"

    def __init__(
        self,
        channels: int,
        state: int = 16,
        *,
        selective: Iterable[str] = SELECTIVE,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__(channels)
        self.state = _check.count("state", state)
        chosen = {_check.choice("selective", name, SELECTIVE) for name in selective}
        self.selective = tuple(name for name in SELECTIVE if name in chosen)
        rank = _check.count("dt_rank", -(-channels // 32) if dt_rank is None else dt_rank)
        self.dt_range = nn_check.step_sizes(dt_min, dt_max)
        self.A_log = torch.nn.Parameter(torch.empty(channels, state))
        self.D = torch.nn.Parameter(torch.empty(channels))
        self.dt_bias = torch.nn.Parameter(torch.empty(channels))
        if "dt" in chosen:
            self.dt = torch.nn.Sequential(_undrawn(channels, rank), _undrawn(rank, channels))
        for name in ("B", "C"):
            constant = torch.nn.Parameter(torch.empty(channels, state))
            setattr(self, name, _undrawn(channels, state) if name in chosen else constant)
        self.reset_parameters()

    def initial_state(self, batch: int) -> State:
        """Return zeros, (batch, channels, state), at least float32."""
        shape = _check.count("batch", batch), self.channels, self.state
        return self.A_log.new_zeros(shape, dtype=self._wide())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew, the bias of dt first."""
        low, high = self.dt_range
        dt = low * torch.exp(torch.rand_like(self.dt_bias) * math.log(high / low))
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.A_log.copy_(torch.arange(1.0, self.state + 1).log())
        self.D.fill_(1)
        if "dt" in self.selective:
            redraw(self.dt)
            up = self.dt[1].weight
            torch.nn.init.uniform_(up, -(up.shape[1] ** -0.5), up.shape[1] ** -0.5)
        if "B" in self.selective:
            redraw(self.B)
        else:
            self.B.fill_(1)
        if "C" in self.selective:
            redraw(self.C)
        else:
            self.C.normal_()

    def _like(self) -> Tensor:
        return self.D

    def time_scales(self) -> list[torch.nn.Parameter]:
        """Return A and the bias of dt; and D, which the official code sets apart too."""
        return [self.A_log, self.D, self.dt_bias]

    def extra_repr(self) -> str:
        """Describe the sizes, and what follows the input."""
        return f"channels={self.channels}, state={self.state}, selective={self.selective}"

    def _sequence(self, x: Signal, state: State | None, need_state: bool) -> tuple[Signal, State]:
        B, C = self._follow("B", x), self._follow("C", x)
        dt = self.dt(x) if "dt" in self.selective else torch.zeros_like(x)
        y, h = ops.selective_scan(
            x,
            dt,
            -self.A_log.to(self._wide()).exp(),
            B,
            C,
            self.D,
            dt_bias=self.dt_bias,
            softplus=True,
            h0=state,
            return_last_state=True,
            backend=self.backend,
        )
        return y, h

    def _follow(self, name: str, x: Signal) -> Float[Tensor, "..."]:
        """Return B or C: for each step if it follows the input, else for each channel."""
        value = getattr(self, name)
        if name in self.selective:
            return value(x)
        return value.clone()  # NumPy would keep hold of a storage that FSDP frees

    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.A_log.dtype, torch.float32)


def _undrawn(inputs: int, outputs: int) -> torch.nn.Module:
    """Make a projection whose weights are not drawn yet."""
    device = torch.get_default_device()
    return torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs, bias=False, device=device)
