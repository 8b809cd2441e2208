r"""The LRU as a layer: a diagonal recurrence of complex numbers, trained as a convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmlab import _check, family
from ssmlab._typing import Complex, Float
from ssmlab.nn.layer import Layer, Sample, Signal
from ssmlab.ops._precision import full_precision
from ssmlab.ops.convolution import fast_length

State = Complex[Tensor, "batch state"]


class LRU(Layer[State]):
    r"""The linear recurrent unit, whose state all channels share.

    .. math:: h_t = \lambda \circ h_{t-1} + \gamma \circ (B x_t), \qquad
              y_t = \operatorname{Re}(C h_t) + D \circ x_t, \qquad
              \lambda = \exp(-e^{\nu} + i e^{\theta})

    Parameters
    ----------
    channels : int
    state : int
        Complex numbers in the state.
    r_min, r_max : float
        The eigenvalues start uniformly in the ring between these radii.
    max_phase : float
        And at angles below this one, in rad.

    Notes
    -----
    nu, theta and the logarithm of gamma are learned, where gamma starts as
    :math:`\sqrt{1 - \lvert \lambda \rvert^2}`; B, C and D start from normal laws. It is linear: a
    block around it must bring the nonlinearity. Training convolves each number of the state with
    the powers of its eigenvalue, by FFT; the state is complex128. It names no time scales: all
    parameters learn at one rate, where the public code minimal-LRU gives nu, theta, gamma and B a
    smaller one. Source: Orvieto et al., arXiv:2303.06349; chapter 11.

    Examples
    --------
    >>> layer = LRU(channels=3, state=8).double()
    >>> x, state = torch.ones(1, 5, 3).double(), layer.initial_state(1)
    >>> for t in range(5):
    ...     y_t, state = layer.step(x[:, t], state)
    >>> torch.allclose(y_t, layer(x)[:, -1])
    True
    """

    def __init__(
        self,
        channels: int,
        state: int = 64,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
    ) -> None:
        super().__init__(channels)
        self.state = _check.count("state", state)
        self.ring = (r_min, r_max, max_phase)
        self.nu, self.theta, self.gamma_log = (
            torch.nn.Parameter(torch.empty(state)) for _ in range(3)
        )
        self.B = torch.nn.Parameter(torch.empty(state, channels, 2))
        self.C = torch.nn.Parameter(torch.empty(channels, state, 2))
        self.D = torch.nn.Parameter(torch.empty(channels))
        self._start()

    def initial_state(self, batch: int) -> State:
        """Return zeros, (batch, state), complex128."""
        shape = _check.count("batch", batch), self.state
        return torch.zeros(shape, dtype=torch.complex128, device=self.nu.device)

    def extra_repr(self) -> str:
        """Describe the sizes."""
        return f"channels={self.channels}, state={self.state}"

    @torch.no_grad()
    def _start(self) -> None:
        uniform = torch.rand(2, self.state, dtype=torch.float64, device="cpu")  # NumPy reads it
        u, phase = uniform.clamp_min(1e-12).numpy()
        nu, theta = map(torch.from_numpy, family.ring(u, phase, *self.ring))
        self.nu.copy_(nu)
        self.theta.copy_(theta)
        self.gamma_log.copy_(torch.log(-torch.expm1(-2 * nu.exp())) / 2)
        self.B.copy_(torch.randn_like(self.B) / math.sqrt(2 * self.channels))
        self.C.copy_(torch.randn_like(self.C) / math.sqrt(self.state))
        self.D.normal_()

    def _like(self) -> Tensor:
        return self.D

    def _sequence(self, x: Signal, state: State | None, need_state: bool) -> tuple[Signal, State]:
        state = self.initial_state(len(x)) if state is None else state
        length = x.shape[1]
        u = self._write(x)
        powers = self._powers(length + 1)
        padded = fast_length(2 * length - 1)
        spectrum = torch.fft.fft(u.mT, padded) * torch.fft.fft(powers[:, :-1].to(u.dtype), padded)
        h = torch.fft.ifft(spectrum)[..., :length] + (powers[:, 1:] * state[..., None]).to(u.dtype)
        return self._read(h.mT) + self.D * x, h[..., -1].to(state.dtype)

    def _sample(self, x_t: Sample, state: State) -> tuple[Sample, State]:
        state = self._powers(2)[:, 1] * state + self._write(x_t)
        return self._read(state) + self.D * x_t, state

    def _powers(self, count: int) -> Complex[Tensor, "state count"]:
        """Tabulate the powers of the eigenvalues in complex128, where phases stay exact."""
        log = torch.complex(-self.nu.double().exp(), self.theta.double().exp())
        exponents = torch.arange(count, dtype=torch.float64, device=log.device)
        return torch.exp(log[:, None] * exponents)

    def _write(self, x: Float[Tensor, "... channels"]) -> Complex[Tensor, "... state"]:
        B = (self.gamma_log.exp()[:, None, None] * self.B).to(self._wide())
        with full_precision(x.device):
            x = x.to(B.dtype)
            return torch.complex(x @ B[..., 0].mT, x @ B[..., 1].mT)

    def _read(self, h: Complex[Tensor, "... state"]) -> Float[Tensor, "... channels"]:
        C = self.C.to(h.real.dtype)
        with full_precision(h.device):
            return (h.real @ C[..., 0].mT - h.imag @ C[..., 1].mT).to(self.C.dtype)

    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.D.dtype, torch.float32)
