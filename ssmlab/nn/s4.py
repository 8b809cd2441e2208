r"""S4 as a layer: diagonal plus low rank."""

from __future__ import annotations

import torch
from torch import Tensor

from ssmlab import ops, s4
from ssmlab._typing import Float
from ssmlab.nn.state_space import Modes, StateSpaceLayer, complex_of, pairs_of


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
        Add the answer of a second C to the reversed sequence. Then there is no state and no step.

    Notes
    -----
    Lambda, P, C, D and dt are learned for each channel, B stays. C is learned, not
    :math:`\tilde C`: so any length will do. The real part of Lambda is :math:`-e^a`. ``forward``,
    ``step`` and ``kernel`` take ``rate``, a factor on every step size: 2 for a signal that keeps
    every second sample.
    Source: Gu, Goel and Ré (S4), arXiv:2111.00396; chapter 9.

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
        modes = s4.state_size("state", state) // 2
        super().__init__(channels, modes, dt_min=dt_min, dt_max=dt_max, bidirectional=bidirectional)
        self.P = torch.nn.Parameter(torch.empty(channels, modes, 2))
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        Lambda, P, B, _ = s4.dplr(2 * len(self.B))
        self._start_from(Lambda, B)
        self.P.copy_(pairs_of(P))

    def _advance(self, z: Modes, x: Float[Tensor, "... channels"], rate: float) -> Modes:
        A, P, B = self._A(), complex_of(self.P), complex_of(self.B).expand(self.frequency.shape)
        return ops.dplr_step(A, P, B, self._dt(rate), z, x)

    def _response(self, z: Modes, length: int, rate: float) -> Float[Tensor, "... length channels"]:
        P, C = complex_of(self.P), self._C()
        return ops.dplr_kernel(self._A(), P, z, C, self._dt(rate), length)
