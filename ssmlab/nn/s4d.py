r"""S4D as a layer: a diagonal state matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmlab import _check, diagonal, ops, s4
from ssmlab._typing import Float
from ssmlab.nn.state_space import Modes, StateSpaceLayer, complex_of


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
        Add the answer of a second C to the reversed sequence. Then there is no state and no step.

    Notes
    -----
    Lambda, C, D and dt are learned for each channel; B is a factor of C and stays. ``forward``,
    ``step`` and ``kernel`` take ``rate``, as in S4. Source: Gu, Gupta, Goel and Ré (S4D),
    arXiv:2206.11893; chapter 10.

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
        modes = s4.state_size("state", state) // 2
        super().__init__(channels, modes, dt_min=dt_min, dt_max=dt_max, bidirectional=bidirectional)
        self._start()

    def extra_repr(self) -> str:
        """Describe the sizes and the choices."""
        return f"{super().extra_repr()}, init={self.init!r}, method={self.method!r}"

    def _start(self) -> None:
        self._start_from(*diagonal.INITIALISATIONS[self.init](2 * len(self.B)))

    def _advance(self, z: Modes, x: Float[Tensor, "... channels"], rate: float) -> Modes:
        A_bar, B_bar = self._discretize(rate)
        return A_bar * z + B_bar * x[..., None]

    def _response(self, z: Modes, length: int, rate: float) -> Float[Tensor, "... length channels"]:
        A_bar, _ = self._discretize(rate)
        C = self._C()
        return ops.vandermonde((2 * C * z).to(C.dtype), A_bar, length)

    def _discretize(self, rate: float) -> tuple[Modes, Modes]:
        A, B, dt = self._A(), complex_of(self.B), self._dt(rate)[:, None]
        if self.method == "bilinear":
            d = 1 / (1 - dt / 2 * A)
            return 2 * d - 1, dt * d * B
        return torch.exp(dt * A), _expm1(dt * A) / A * B


def _expm1(z: Modes) -> Modes:
    """Compute e^z - 1 without cancellation; torch has it for real numbers only."""
    x, y = z.real, z.imag
    real = torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2) ** 2
    return torch.complex(real, torch.exp(x) * torch.sin(y))
