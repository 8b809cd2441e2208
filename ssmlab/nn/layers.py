r"""S4 and S4D as layers: one state space model for each channel, two ways to run it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from ssmlab import _check, diagonal, ops, s4
from ssmlab._typing import Complex, Float
from ssmlab.nn import _check as nn_check

Signal = Float[Tensor, "batch length channels"]
Sample = Float[Tensor, "batch channels"]
States = Complex[Tensor, "batch channels modes"]
Modes = Complex[Tensor, "... channels modes"]


class StateSpaceLayer(torch.nn.Module, ABC):
    r"""What S4 and S4D share: :math:`y = 2 \operatorname{Re}(C z) + D x` in each channel.

    ``forward`` is a convolution over the whole sequence, ``step`` the recurrence for one sample:
    the same map. The parameters are stored as real numbers (a complex one with a last axis of 2),
    so that ``.double()`` and optimisers treat them as any other. Kernels are made from float64
    tables and the state is complex128 for every type of parameters.
    """

    B: Tensor

    def __init__(
        self,
        channels: int,
        A: np.ndarray,
        B: np.ndarray,
        *,
        dt_min: float,
        dt_max: float,
        bidirectional: bool,
    ) -> None:
        super().__init__()
        self.channels = _check.count("channels", channels)
        self.bidirectional = bidirectional
        dt_min, dt_max = nn_check.step_sizes(dt_min, dt_max)
        shape = (channels, len(A))
        uniform = torch.rand(channels, dtype=torch.float64)
        log_dt = math.log(dt_min) + uniform * (math.log(dt_max) - math.log(dt_min))
        self.log_dt = _parameter(log_dt)
        self.log_decay = _parameter(torch.log(-torch.tensor(A.real)).expand(shape))
        self.frequency = _parameter(torch.tensor(A.imag).expand(shape))
        directions = (2,) if bidirectional else ()
        self.C = torch.nn.Parameter(torch.randn(*directions, *shape, 2) * math.sqrt(0.5))
        self.D = torch.nn.Parameter(torch.randn(channels))
        self.register_buffer("B", _pairs(B).to(self.D.dtype))

    def forward(
        self,
        x: Signal,
        state: States | None = None,
        *,
        rate: float = 1.0,
        return_state: bool = False,
    ) -> Signal | tuple[Signal, States]:
        r"""Run over the whole sequence at once, as a convolution.

        Parameters
        ----------
        x : Tensor, (batch, length, channels)
            Of the type of the parameters.
        state : Tensor, (batch, channels, modes), optional
            The state before the first sample; zero by default.
        rate : float
            Factor on every step size: 2 for a signal that keeps every second sample.
        return_state : bool
            Whether to return the state after the last sample too.

        Returns
        -------
        y : Tensor, (batch, length, channels)
        state : Tensor, (batch, channels, modes)
            With ``return_state``: give it to ``step``, or to the next ``forward``.

        Raises
        ------
        TypeError, ValueError
            If ``x`` or ``state`` has the wrong type or shape, ``rate`` is not positive, or a state
            is given to or asked of a bidirectional layer.
        """
        nn_check.signal("x", x, ("batch", "length"), self.D, self.channels)
        rate, length = _positive_rate(rate), x.shape[1]
        K_bar = self.kernel(length, rate=rate)
        if self.bidirectional:
            if state is not None or return_state:
                raise ValueError(_NO_STATE)
            backward = ops.fft_convolution(x.flip(1), K_bar[1]).flip(1)
            return ops.fft_convolution(x, K_bar[0]) + backward + self.D * x
        y = ops.fft_convolution(x, K_bar) + self.D * x
        if state is not None:
            self._check_state(state, len(x))
            y = y + self._response(self._advance(state, 0 * self.D, rate), length, rate)
        if not return_state:
            return y
        return y, self._last_state(x, self.initial_state(len(x)) if state is None else state, rate)

    def step(self, x_t: Sample, state: States, *, rate: float = 1.0) -> tuple[Sample, States]:
        r"""Run for one sample, as a recurrent network.

        Parameters
        ----------
        x_t : Tensor, (batch, channels)
        state : Tensor, (batch, channels, modes)
            From ``initial_state`` or the step before.
        rate : float
            As in ``forward``.

        Returns
        -------
        y_t : Tensor, (batch, channels)
        state : Tensor, (batch, channels, modes)

        Raises
        ------
        TypeError, ValueError
            If ``x_t`` or ``state`` has the wrong type or shape, ``rate`` is not positive, or the
            layer is bidirectional.
        """
        self._check_causal()
        nn_check.signal("x_t", x_t, ("batch",), self.D, self.channels)
        self._check_state(state, len(x_t))
        state = self._advance(state, x_t, _positive_rate(rate))
        y_t = 2 * (_complex(self.C) * state).real.sum(-1)
        return y_t.to(x_t.dtype) + self.D * x_t, state

    def initial_state(self, batch: int) -> States:
        """Return the state before the first sample: zeros, (batch, channels, modes), complex128."""
        self._check_causal()
        shape = (_check.count("batch", batch), *self.frequency.shape)
        return torch.zeros(shape, dtype=torch.complex128, device=self.D.device)

    def kernel(self, length: int, *, rate: float = 1.0) -> Float[Tensor, "... length channels"]:
        """Compute K_bar: (length, channels), or (2, length, channels) if bidirectional."""
        start = torch.zeros_like(self._A())
        B_bar = self._advance(start, torch.ones_like(self.D), _positive_rate(rate))
        return self._response(B_bar, length, rate)

    def extra_repr(self) -> str:
        """Describe the sizes."""
        channels, modes = self.frequency.shape
        return f"channels={channels}, state={2 * modes}, bidirectional={self.bidirectional}"

    @abstractmethod
    def _advance(self, z: Modes, x: Float[Tensor, "... channels"], rate: float) -> Modes:
        """Compute A_bar z + B_bar x, in complex128."""

    @abstractmethod
    def _response(self, z: Modes, length: int, rate: float) -> Float[Tensor, "... length channels"]:
        """Compute 2 Re(C A_bar^l z) for l < length, in the type of C."""

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

    def _A(self) -> Modes:
        return torch.complex(-self.log_decay.double().exp(), self.frequency.double())

    def _dt(self, rate: float) -> Float[Tensor, "channels"]:
        return rate * self.log_dt.double().exp()

    def _check_causal(self) -> None:
        if self.bidirectional:
            raise ValueError(_NO_STATE)

    def _check_state(self, state: Tensor, batch: int) -> None:
        shape = (batch, *self.frequency.shape)
        if state.shape != shape or not state.is_complex():
            raise ValueError(
                f"state must be complex, of shape {shape}; got {state.dtype} of shape "
                f"{tuple(state.shape)}: start with initial_state({batch})"
            )


class S4(StateSpaceLayer):
    r"""S4: diagonal plus low rank, starting from LegS, bilinear.

    .. math:: z' = \Lambda z - 2 P \operatorname{Re}(P^* z) + B x, \qquad
              y = 2 \operatorname{Re}(C z) + D x

    Parameters
    ----------
    channels : int
    state : int
        Real numbers in the state of a channel, even: state/2 conjugate pairs.
    dt_min, dt_max : float
        The step sizes are drawn from this range, uniformly in their logarithm.
    bidirectional : bool
        Add the answer of a second C to the reversed sequence. Then there is no ``step``.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive whole number, ``state`` is odd, or the range is empty.

    Notes
    -----
    Lambda, P, C, D and dt are learned for each channel, B stays. C is learned, not
    :math:`\tilde C`: so any length will do. The real part of Lambda is :math:`-e^a`.
    Source: Gu, Goel and Ré (S4), arXiv:2111.00396; chapter 8.

    Examples
    --------
    >>> layer = S4(channels=3, state=8).double()
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
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        bidirectional: bool = False,
    ) -> None:
        Lambda, P, B, _ = s4.dplr(s4.state_size("state", state))
        super().__init__(
            channels, Lambda, B, dt_min=dt_min, dt_max=dt_max, bidirectional=bidirectional
        )
        self.P = _parameter(_pairs(P).expand(channels, -1, -1))

    def _advance(self, z: Modes, x: Float[Tensor, "... channels"], rate: float) -> Modes:
        A, P, B = self._A(), _complex(self.P), _complex(self.B).expand(self.frequency.shape)
        return ops.dplr_step(A, P, B, self._dt(rate), z, x)

    def _response(self, z: Modes, length: int, rate: float) -> Float[Tensor, "... length channels"]:
        C = torch.view_as_complex(self.C)
        return ops.dplr_kernel(self._A(), _complex(self.P), z, C, self._dt(rate), length)


class S4D(StateSpaceLayer):
    r"""S4D: a diagonal state matrix.

    .. math:: z' = \Lambda z + B x, \qquad y = 2 \operatorname{Re}(C z) + D x

    Parameters
    ----------
    channels : int
    state : int
        Real numbers in the state of a channel, even: state/2 conjugate pairs.
    init : str
        A name in :data:`ssmlab.diagonal.INITIALISATIONS`.
    method : str
        The discretization, "zoh" or "bilinear".
    dt_min, dt_max : float
        The step sizes are drawn from this range, uniformly in their logarithm.
    bidirectional : bool
        Add the answer of a second C to the reversed sequence. Then there is no ``step``.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive whole number, ``state`` is odd, the range is empty, or a name is
        unknown.

    Notes
    -----
    Lambda, C, D and dt are learned for each channel; B is a factor of C and stays. Source: Gu,
    Gupta, Goel and Ré (S4D), arXiv:2206.11893; chapter 9.

    Examples
    --------
    >>> S4D(channels=3, state=8, init="inv")
    S4D(channels=3, state=8, bidirectional=False, init='inv', method='zoh')
    """

    def __init__(
        self,
        channels: int,
        state: int = 64,
        *,
        init: str = "legs",
        method: str = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        bidirectional: bool = False,
    ) -> None:
        self.init = _check.choice("init", init, diagonal.INITIALISATIONS)
        self.method = _check.choice("method", method, diagonal.METHODS)
        A, B = diagonal.INITIALISATIONS[init](s4.state_size("state", state))
        super().__init__(channels, A, B, dt_min=dt_min, dt_max=dt_max, bidirectional=bidirectional)

    def extra_repr(self) -> str:
        """Describe the sizes and the choices."""
        return f"{super().extra_repr()}, init={self.init!r}, method={self.method!r}"

    def _advance(self, z: Modes, x: Float[Tensor, "... channels"], rate: float) -> Modes:
        A_bar, B_bar = self._discretize(rate)
        return A_bar * z + B_bar * x[..., None]

    def _response(self, z: Modes, length: int, rate: float) -> Float[Tensor, "... length channels"]:
        A_bar, _ = self._discretize(rate)
        weights = 2 * torch.view_as_complex(self.C) * z
        return ops.vandermonde(weights.to(_complex_type(self.C)), A_bar, length)

    def _discretize(self, rate: float) -> tuple[Modes, Modes]:
        A, B, dt = self._A(), _complex(self.B), self._dt(rate)[:, None]
        if self.method == "bilinear":
            d = 1 / (1 - dt / 2 * A)
            return 2 * d - 1, dt * d * B
        return torch.exp(dt * A), _expm1(dt * A) / A * B


_NO_STATE = (
    "bidirectional layers read the future, so they have no state and no step: "
    "make the layer with bidirectional=False"
)


def _expm1(z: Modes) -> Modes:
    """Compute e^z - 1 without cancellation; torch has it for real numbers only."""
    x, y = z.real, z.imag
    real = torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2) ** 2
    return torch.complex(real, torch.exp(x) * torch.sin(y))


def _parameter(value: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(value.to(torch.get_default_dtype()).clone())


def _pairs(value: np.ndarray) -> Float[Tensor, "... 2"]:
    return torch.view_as_real(torch.tensor(value))


def _complex(pairs: Float[Tensor, "... 2"]) -> Complex[Tensor, "..."]:
    return torch.view_as_complex(pairs.double())


def _real(z: Complex[Tensor, "... modes"]) -> Float[Tensor, "... state"]:
    return torch.view_as_real(z).flatten(-2)


def _complex_type(value: Tensor) -> torch.dtype:
    return torch.complex64 if value.dtype == torch.float32 else torch.complex128


def _positive_rate(rate: float) -> float:
    result = _check.number("rate", rate)
    if result <= 0:
        raise ValueError(
            f"rate must be positive; got {result}: pass 2 for a signal with half of the samples"
        )
    return result
