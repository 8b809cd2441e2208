r"""RWKV-4 as a layer: a weighted mean of the past in each channel, scanned in chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn.layer import Layer, Sample, Signal

Vector = Float[Tensor, "*lead channels"]
LOWEST = -1e38  # the logarithm of no weight at all


class Mean(NamedTuple):
    r"""Numerator and denominator, both divided by :math:`e^{\text{maximum}}`."""

    numerator: Vector
    denominator: Vector
    maximum: Vector


class State(NamedTuple):
    """The sample before, and the mean so far."""

    last: Float[Tensor, "batch channels"]
    mean: Mean


class RWKV(Layer[State]):
    r"""RWKV-4's time mixing.

    .. math::
        m_t = \frac{\sum_{j<t} e^{k_j - (t-1-j) w} v_j + e^{u + k_t} v_t}
                   {\sum_{j<t} e^{k_j - (t-1-j) w} + e^{u + k_t}}, \qquad
        y_t = W_\text{out} (\sigma(r_t) \circ m_t)

    Parameters
    ----------
    channels : int

    Notes
    -----
    k, v and r are projections of :math:`\mu x_t + (1 - \mu) x_{t-1}`, with their own learned mix
    :math:`\mu` for each channel; :math:`w = e^{\text{decay}}`. The decays, bonuses and mixes start
    as in the first layer of the published model, the matrices as torch's.
    Training takes :math:`\sqrt L` steps inside chunks, side by side, and :math:`\sqrt L` across
    them. It names no time scales: the published training gives decay and bonus a larger rate, not
    a smaller one. Source: Peng et al., arXiv:2305.13048; github.com/BlinkDL/RWKV-LM; chapter 11.

    Examples
    --------
    >>> layer = RWKV(channels=4).double()
    >>> x, state = torch.ones(1, 5, 4).double(), layer.initial_state(1)
    >>> for t in range(5):
    ...     y_t, state = layer.step(x[:, t], state)
    >>> torch.allclose(y_t, layer(x)[:, -1])
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.decay, self.bonus = (torch.nn.Parameter(torch.empty(channels)) for _ in range(2))
        self.mix = torch.nn.Parameter(torch.empty(3, channels))
        self.key, self.value, self.receptance, self.out_proj = (
            torch.nn.Linear(channels, channels, bias=False) for _ in range(4)
        )
        self._start()

    def initial_state(self, batch: int) -> State:
        """Return zeros and a maximum of -1e38, (batch, channels) each."""
        zero = self.decay.new_zeros(_check.count("batch", batch), self.channels)
        return State(zero, Mean(zero, zero, zero + LOWEST))

    def extra_repr(self) -> str:
        """Describe the sizes."""
        return f"channels={self.channels}"

    @torch.no_grad()
    def _start(self) -> None:
        n = torch.arange(self.channels, dtype=torch.get_default_dtype())
        self.decay.copy_(-5 + 8 * (n / max(self.channels - 1, 1)) ** 0.7)
        self.bonus.copy_(math.log(0.3) + ((n + 1) % 3 - 1) / 2)
        ramp = n / self.channels
        self.mix.copy_(torch.stack([ramp, ramp, ramp**0.5]))

    def _like(self) -> Tensor:
        return self.decay

    def _sequence(self, x: Signal, state: State | None, need_state: bool) -> tuple[Signal, State]:
        state = self.initial_state(len(x)) if state is None else state
        k, v, r = self._project(x, torch.cat([state.last[:, None], x[:, :-1]], 1))
        y, mean = weighted_mean(k, v, self.decay.exp(), self.bonus, state.mean)
        return self.out_proj(torch.sigmoid(r) * y), State(x[:, -1].clone(), mean)

    def _sample(self, x_t: Sample, state: State) -> tuple[Sample, State]:
        k, v, r = self._project(x_t, state.last)
        now = _add(state.mean, _token(self.bonus + k, v))
        mean = _add(_wait(state.mean, self.decay.exp()), _token(k, v))
        y = self.out_proj(torch.sigmoid(r) * now.numerator / now.denominator)
        return y, State(x_t, mean)

    def _project(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mix with the sample before, and project to k, v and r."""
        k, v, r = (torch.lerp(before, x, mix) for mix in self.mix)
        return self.key(k), self.value(v), self.receptance(r)


def weighted_mean(
    k: Signal,
    v: Signal,
    w: Float[Tensor, "channels"],
    u: Float[Tensor, "channels"],
    state: Mean,
) -> tuple[Signal, Mean]:
    r"""Compute RWKV-4's mean for every sample, and the state after the last.

    Parameters
    ----------
    k, v : Tensor, (batch, length, channels)
        Keys are logarithms of weights, of any size.
    w, u : Tensor, (channels,)
        Decay, at least 0, and bonus.
    state : Mean
        (batch, channels) each.

    Returns
    -------
    y : Tensor, (batch, length, channels)
    state : Mean

    Notes
    -----
    A chunked scan: chunks of about :math:`\sqrt L` samples side by side, then their ends in
    sequence, then each end into the next chunk. Its operator adds two weighted sums, divided by
    the larger of their largest weights. These maxima get no gradient: y does not depend on them.

    Examples
    --------
    >>> k, v = torch.tensor([[[200.0], [0.0], [200.0]]]), torch.tensor([[[1.0], [5.0], [3.0]]])
    >>> zero = torch.zeros(1, 1)
    >>> y, _ = weighted_mean(k, v, zero[0], zero[0], Mean(zero, zero, zero - 1e38))
    >>> y.flatten()
    tensor([1., 1., 2.])
    """
    length = k.shape[1]
    chunk = math.ceil(math.sqrt(length))
    rows = -(-length // chunk)
    padding = (0, 0, 0, rows * chunk - length)
    tokens = _token(F.pad(k, padding), F.pad(v, padding))
    columns = _unbind(_each(lambda part: part.unflatten(1, (rows, chunk)), tokens), 2)
    inside = list(accumulate(columns, lambda a, b: _add(_wait(a, w), b)))
    ends = _unbind(inside[-1], 1)
    starts = accumulate(ends[:-1], lambda a, b: _add(_wait(a, chunk * w), b), initial=state)
    start = _stack(list(starts), 1)
    after = _stack([_add(_wait(start, (t + 1) * w), part) for t, part in enumerate(inside)], 2)
    after = _each(lambda part: part.flatten(1, 2)[:, :length], after)
    before = _each(lambda s, part: torch.cat([s[:, None], part[:, :-1]], 1), state, after)
    now = _add(before, _token(u + k, v))
    return now.numerator / now.denominator, _each(lambda part: part[:, -1], after)


def _token(k: Vector, v: Vector) -> Mean:
    """One value of weight e^k."""
    return Mean(v, torch.ones_like(v), k)


def _wait(mean: Mean, decay: Vector) -> Mean:
    """Let time pass."""
    return mean._replace(maximum=mean.maximum - decay)


def _add(a: Mean, b: Mean) -> Mean:
    """Add two weighted sums, and divide by the larger of their weights."""
    top = torch.maximum(a.maximum, b.maximum).detach()
    p, q = (a.maximum - top).exp(), (b.maximum - top).exp()
    numerator, denominator = (p * a[i] + q * b[i] for i in (0, 1))
    return Mean(numerator, denominator, top)


def _each(function: Callable[..., Tensor], *means: Mean) -> Mean:
    return Mean(*map(function, *means))


def _unbind(mean: Mean, dim: int) -> list[Mean]:
    return [Mean(*parts) for parts in zip(*(part.unbind(dim) for part in mean), strict=True)]


def _stack(means: list[Mean], dim: int) -> Mean:
    return Mean(*(torch.stack(parts, dim) for parts in zip(*means, strict=True)))
