r"""What S4 and S4D share: one state space model for each channel, two ways to run it."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from ssmlab import _check, ops
from ssmlab._typing import Complex, Float
from ssmlab.nn import _check as nn_check
from ssmlab.nn.layer import Layer, Sample, Signal
from ssmlab.ops._precision import full_precision

States = Complex[Tensor, "batch channels modes"]
Modes = Complex[Tensor, "... channels modes"]


class StateSpaceLayer(Layer[States]):
    r"""What S4 and S4D share: :math:`y = 2 \operatorname{Re}(C z) + D x` in each channel.

    ``forward`` is a convolution, ``step`` the recurrence. Both take ``rate``, a factor on every
    step size: 2 for a signal that keeps every second sample. The parameters are stored as real
    numbers (a complex one with a last axis of 2), so that ``.double()`` and optimisers treat them
    as any other. Kernels are made from float64 tables and the state is complex128 for every type
    of parameters; the convolution is in float32 at least. A NaN in one sample makes all outputs of
    ``forward`` NaN in its channel, the earlier ones too, and of ``step`` the later ones only.
    """

    B: Tensor

    def __init__(
        self,
        channels: int,
        modes: int,
        *,
        dt_min: float,
        dt_max: float,
        bidirectional: bool,
    ) -> None:
        super().__init__(channels)
        self.bidirectional = bidirectional
        self.dt_range = nn_check.step_sizes(dt_min, dt_max)
        shape, directions = (channels, modes), (2,) * bidirectional
        self.log_dt = torch.nn.Parameter(torch.empty(channels))
        self.log_decay, self.frequency = (torch.nn.Parameter(torch.empty(shape)) for _ in range(2))
        self.C = torch.nn.Parameter(torch.empty(*directions, *shape, 2))
        self.D = torch.nn.Parameter(torch.empty(channels))
        self.register_buffer("B", torch.empty(modes, 2))

    def initial_state(self, batch: int) -> States:
        """Return the state before the first sample: zeros, (batch, channels, modes), complex128."""
        if self.bidirectional:
            raise ValueError(
                "bidirectional layers read the future, so they have no state and no step: make the "
                "layer with bidirectional=False"
            )
        shape = (_check.count("batch", batch), *self.frequency.shape)
        return torch.zeros(shape, dtype=torch.complex128, device=self.D.device)

    def time_scales(self) -> list[torch.nn.Parameter]:
        """Return all but C and D: what decays, how fast it turns, and in which unit of time."""
        return [p for name, p in self.named_parameters() if name not in ("C", "D")]

    def kernel(self, length: int, *, rate: float = 1.0) -> Float[Tensor, "... length channels"]:
        """Compute K_bar: (length, channels), or (2, length, channels) if bidirectional."""
        start = torch.zeros_like(self._A())
        B_bar = self._advance(start, torch.ones_like(self.D), _positive(rate))
        return self._response(B_bar, length, rate)

    def extra_repr(self) -> str:
        """Describe the sizes."""
        channels, modes = self.frequency.shape
        return f"channels={channels}, state={2 * modes}, bidirectional={self.bidirectional}"

    @torch.no_grad()
    def _start_from(self, A: np.ndarray, B: np.ndarray) -> None:
        low, high = map(math.log, self.dt_range)
        uniform = torch.rand(self.channels, dtype=torch.float64, device=self.log_dt.device)
        self.log_dt.copy_(low + uniform * (high - low))
        self.log_decay.copy_(torch.log(-torch.tensor(A.real)))
        self.frequency.copy_(torch.tensor(A.imag))
        self.C.copy_(torch.randn_like(self.C) * math.sqrt(0.5))
        self.D.normal_()
        self.B.copy_(pairs_of(B))

    def _like(self) -> Tensor:
        return self.D

    @abstractmethod
    def _advance(self, z: Modes, x: Float[Tensor, "... channels"], rate: float) -> Modes:
        """Compute A_bar z + B_bar x, in complex128."""

    @abstractmethod
    def _response(self, z: Modes, length: int, rate: float) -> Float[Tensor, "... length channels"]:
        """Compute 2 Re(C A_bar^l z) for l < length, in the type of C."""

    def _sequence(
        self, x: Signal, state: States | None, need_state: bool, *, rate: float = 1.0
    ) -> tuple[Signal, States | None]:
        rate, length = _positive(rate), x.shape[1]
        start = self.initial_state(len(x)) if need_state else None  # refused if bidirectional
        K_bar, u = self.kernel(length, rate=rate), x.to(self._wide())
        if self.bidirectional:
            backward = ops.fft_convolution(u.flip(1), K_bar[1]).flip(1)
            return (ops.fft_convolution(u, K_bar[0]) + backward).to(x.dtype) + self.D * x, None
        y = ops.fft_convolution(u, K_bar)
        if state is not None:
            y = y + self._response(self._advance(state, 0 * self.D, rate), length, rate)
        y = y.to(x.dtype) + self.D * x
        if start is None:
            return y, None
        with full_precision(x.device):
            return y, self._last_state(x, start if state is None else state, rate)

    def _sample(self, x_t: Sample, state: States, *, rate: float = 1.0) -> tuple[Sample, States]:
        state = self._advance(state, x_t, _positive(rate))
        y_t = 2 * (complex_of(self.C) * state).real.sum(-1)
        return y_t.to(x_t.dtype) + self.D * x_t, state

    def _last_state(self, x: Signal, z: States, rate: float) -> States:
        r"""Compute the state after x from the one before it, in blocks of T samples, T about √L.

        .. math:: z_{k+T} = \bar A^T z_k + \sum_{j < T} \bar A^{T-1-j} \bar B x_{k+1+j}

        as real matrices on (Re z, Im z), whose columns come from T steps of the recurrence.
        """
        T = math.isqrt(x.shape[1])
        rest = x.shape[1] % T
        for x_t in x[:, :rest].unbind(1):
            z = self._advance(z, x_t, rate)
        unit = torch.eye(2 * z.shape[-1], dtype=torch.float64, device=z.device)
        unit = torch.view_as_complex(unit.unflatten(1, (-1, 2)))[:, None]
        B_bar = self._advance(torch.zeros_like(z[:1]), torch.ones_like(self.D), rate)
        columns, inputs = torch.cat([unit.expand(-1, self.channels, -1), B_bar]), []
        for _ in range(T):
            inputs.append(_real(columns[-1]))
            columns = self._advance(columns, 0 * self.D, rate)
        A_T, forces = _real(columns[:-1]), torch.stack(inputs[::-1])
        h = _real(z)
        for block in x[:, rest:].double().split(T, 1):
            h = torch.einsum("bcs,scr->bcr", h, A_T) + torch.einsum("btc,tcr->bcr", block, forces)
        return torch.view_as_complex(h.unflatten(-1, (-1, 2)))

    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.D.dtype, torch.float32)

    def _C(self) -> Modes:
        return torch.view_as_complex(self.C.to(self._wide()))

    def _A(self) -> Modes:
        return torch.complex(-self.log_decay.double().exp(), self.frequency.double())

    def _dt(self, rate: float) -> Float[Tensor, "channels"]:
        return rate * self.log_dt.double().exp()


def pairs_of(value: np.ndarray) -> Float[Tensor, "... 2"]:
    """Write complex numbers as pairs of real ones."""
    return torch.view_as_real(torch.tensor(value))


def complex_of(pairs: Float[Tensor, "... 2"]) -> Complex[Tensor, "..."]:
    """Read pairs of real numbers as complex128."""
    return torch.view_as_complex(pairs.double())


def _real(z: Complex[Tensor, "... modes"]) -> Float[Tensor, "... state"]:
    return torch.view_as_real(z).flatten(-2)


def _positive(rate: float) -> float:
    return _check.positive("rate", rate, "pass 2 for a signal with half of the samples")
