r"""The LRU: a diagonal time-invariant model that was discrete from the start."""

from __future__ import annotations

import numpy as np

from ssmlab import _check, lti
from ssmlab._typing import ArrayLike, Complex, Float, Inexact, ndarray
from ssmlab.lti import DiscreteStateSpace

Signal = Float[ndarray, "length inputs"]
Outputs = Float[ndarray, "length outputs"]
State = Complex[ndarray, "state"]


class LRU:
    r"""The linear recurrent unit.

    .. math:: h_t = \lambda \circ h_{t-1} + \gamma \circ (B x_t), \qquad
              y_t = \operatorname{Re}(C h_t) + D \circ x_t

    .. math:: \lambda = \exp(-e^{\nu} + i e^{\theta}), \qquad
              \gamma = \sqrt{1 - \lvert \lambda \rvert^2}

    Parameters
    ----------
    nu, theta : array_like, (state,)
        The logarithms of the rate of decay and of the frequency, in 1/step and rad/step. The double
        exponential keeps :math:`\lvert \lambda \rvert < 1` whatever is learned.
    B : array_like, (state, inputs)
        Complex.
    C : array_like, (inputs, state)
        Complex; as many outputs as inputs.
    D : array_like, (inputs,)
        The direct path, channel by channel.

    Notes
    -----
    The state is shared by all channels, and h is not one half of conjugate pairs: there is no
    factor 2, unlike in S4D. ``system`` is the model as a :class:`~ssmlab.lti.DiscreteStateSpace`,
    of which y is the real part. The paper learns the logarithm of gamma from this start; here gamma
    follows lambda. Source: Orvieto et al., "Resurrecting recurrent neural networks for long
    sequences", arXiv:2303.06349; chapter 11.

    Examples
    --------
    >>> model = LRU.ring(state=8, channels=2, r_min=0.9, r_max=0.99, seed=0)
    >>> bool((abs(model.eigenvalues) > 0.9).all())
    True
    >>> y, h = model.recurrence(np.ones((5, 2)))
    >>> y.shape, h.shape
    ((5, 2), (8,))
    """

    def __init__(
        self, nu: ArrayLike, theta: ArrayLike, B: ArrayLike, C: ArrayLike, D: ArrayLike
    ) -> None:
        nu, theta, B, C, D = (
            _check.array(name, value)
            for name, value in {"nu": nu, "theta": theta, "B": B, "C": C, "D": D}.items()
        )
        if nu.ndim != 1 or nu.shape != theta.shape or np.iscomplexobj(nu) or np.iscomplexobj(theta):
            raise ValueError(
                f"nu and theta must be real, of one shape (state,); got {nu.dtype} {nu.shape} and "
                f"{theta.dtype} {theta.shape}: pass one pair for each eigenvalue"
            )
        if B.ndim != 2 or (C.shape, D.shape) != (B.shape[::-1], B.shape[1:]):
            raise ValueError(
                "B must have shape (state, inputs), C (inputs, state) and D (inputs,); got "
                f"{B.shape}, {C.shape} and {D.shape}: the LRU has as many outputs as inputs"
            )
        rate = np.exp(nu.astype(float))
        self.eigenvalues: State = np.exp(-rate + 1j * np.exp(theta.astype(float)))
        self.gamma: Float[ndarray, "state"] = np.sqrt(-np.expm1(-2 * rate))
        self.system = DiscreteStateSpace(
            self.eigenvalues, self.gamma[:, None] * B + 0j, C + 0j, np.diag(D) + 0j
        )

    @classmethod
    def ring(
        cls,
        state: int,
        channels: int,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * np.pi,
        seed: int = 0,
    ) -> LRU:
        r"""Draw the eigenvalues uniformly from the area of a ring, B, C and D from normal laws.

        The radii are :math:`0 \le r_{\min} < r_{\max} \le 1`, and angles come from (0, max_phase)
        in rad: see :func:`ring`.
        """
        state, channels = _check.count("state", state), _check.count("channels", channels)
        rng = _check.generator(seed)
        nu, theta = ring(rng.random(state), rng.random(state), r_min, r_max, max_phase)

        def normal(*shape: int) -> Complex[ndarray, "..."]:
            return rng.normal(size=shape) + 1j * rng.normal(size=shape)

        B = normal(state, channels) / np.sqrt(2 * channels)
        C = normal(channels, state) / np.sqrt(state)
        return cls(nu, theta, B, C, rng.normal(size=channels))

    def initial_state(self) -> State:
        """Return zeros, (state,)."""
        return np.zeros(self.system.state, complex)

    def step(
        self, x_t: ArrayLike, state: Inexact[ndarray, "state"]
    ) -> tuple[Float[ndarray, "outputs"], State]:
        """Take one sample, (inputs,): return the output and the state after it."""
        x_t, state = _check.real("x_t", x_t), _check.array("state", state)
        if x_t.shape != self.system.D.shape[1:] or state.shape != self.eigenvalues.shape:
            raise ValueError(
                f"x_t must have shape {self.system.D.shape[1:]} and the state "
                f"{self.eigenvalues.shape}; got {x_t.shape} and {state.shape}: pass one sample, "
                "and start with initial_state()"
            )
        h = self.system.A_bar * state + self.system.B_bar @ x_t
        return (self.system.C @ h + self.system.D @ x_t).real, h

    def recurrence(
        self, x: ArrayLike, state: Inexact[ndarray, "state"] | None = None
    ) -> tuple[Outputs, State]:
        """Run sample by sample: x and y are (length, inputs); the state is the last one."""
        y, h = lti.recurrence(self.system, _check.real("x", x), h0=state)
        return y.real, h[-1]

    def parallel(
        self, x: ArrayLike, state: Inexact[ndarray, "state"] | None = None
    ) -> tuple[Outputs, State]:
        """Run as a convolution: the same arguments and result as ``recurrence``."""
        x = _check.real("x", x)
        y = lti.convolution(self.system, x, h0=state).real
        age = np.arange(len(y))[::-1, None]
        driven = (self.eigenvalues**age * (x @ self.system.B_bar.T)).sum(0)
        start = self.initial_state() if state is None else _check.array("state", state)
        return y, driven + self.eigenvalues ** len(y) * start

    def mixing_matrix(self, length: int) -> Float[ndarray, "outputs inputs length length"]:
        """Compute M of each output and input: Toeplitz, whatever the tokens are."""
        K_bar = lti.kernel(self.system, length).real
        K_bar[0] += self.system.D.real
        t = np.arange(length)
        age = t[:, None] - t
        M = np.where(age[..., None, None] >= 0, K_bar[np.abs(age)], 0)
        return np.moveaxis(M, (0, 1), (2, 3))


def ring(
    u: ArrayLike,
    phase: ArrayLike,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 2 * np.pi,
) -> tuple[ndarray, ndarray]:
    r"""Map uniform numbers to eigenvalues that are uniform on the area of a ring.

    .. math:: \nu = \log\bigl(-\tfrac12 \log(u (r_{\max}^2 - r_{\min}^2) + r_{\min}^2)\bigr),
              \qquad \theta = \log(\varphi \, \varphi_{\max})

    ``u`` and ``phase`` are uniform on (0, 1), of one shape; ``max_phase`` is in rad; the result is
    ``(nu, theta)``. Area grows with the square of the radius, so it is the square that is uniform.
    Source: Orvieto et al., arXiv:2303.06349; chapter 11.

    Examples
    --------
    >>> nu, _ = ring([0.0, 0.5, 1.0], [0.5, 0.5, 0.5], r_min=0.6, r_max=0.8)
    >>> np.exp(-np.exp(nu)).round(3)
    array([0.6  , 0.707, 0.8  ])
    """
    r_min, r_max = _check.number("r_min", r_min), _check.number("r_max", r_max)
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(
            f"r_min and r_max must satisfy 0 <= r_min < r_max <= 1; got {r_min} and {r_max}: pass "
            "the radii of the ring, such as 0.9 and 0.999"
        )
    max_phase = _check.positive("max_phase", max_phase, "pass an angle in rad, such as 6.28")
    u, phase = _check.real("u", u), _check.real("phase", phase)
    if u.shape != phase.shape:
        raise ValueError(
            f"u and phase must have one shape; got {u.shape} and {phase.shape}: draw a radius and "
            "an angle for each eigenvalue"
        )
    for name, value in {"u": u, "phase": phase}.items():
        if ((value < 0) | (value > 1)).any():
            raise ValueError(
                f"{name} must lie between 0 and 1; got values from {value.min():g} to "
                f"{value.max():g}: draw them with rng.random(state)"
            )
    square = u * (r_max**2 - r_min**2) + r_min**2
    return np.log(-np.log(square) / 2), np.log(max_phase * phase)
