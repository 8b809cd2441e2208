r"""What a backend of the selective scan gets, what it gives, and what it refuses.

A *whole* backend is a function from a :class:`Problem` to the outputs and the last state. A *bare*
one runs :math:`h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t`, :math:`y_t = C_t h_t` only, on the
first six tensors, all of one precision; :func:`surround` makes it whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab.ops._check import transformed


class Problem(NamedTuple):
    """The arguments of :func:`ssmlab.ops.selective_scan`, checked."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    h0: Tensor  # never left out, and of the type to compute in
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    softplus: bool


Whole = Callable[[Problem], tuple[Tensor, Tensor]]
Bare = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def surround(scan: Bare, problem: Problem) -> tuple[Tensor, Tensor]:
    """Run a bare scan, with the step sizes, the direct path and the gate in torch around it."""
    x, dt, A, B, C, h0, D, z, dt_bias, softplus = problem
    state, real = h0.dtype, h0.dtype.to_real()
    u, dt = x.to(real), dt.to(real)
    dt = dt if dt_bias is None else dt + dt_bias.to(real)
    dt = F.softplus(dt) if softplus else dt
    y, h = scan(u, dt, A.to(state), B.to(state), C.to(state), h0)
    y = y if D is None else y + u * D.to(real)
    y = y if z is None else y * F.silu(z.to(real))
    return y.to(x.dtype), h


def check_gradients(backend: str, *gradients: Tensor) -> None:
    """Ask, in a hand-written backward pass, for one gradient, which is not to be differentiated.

    Raises
    ------
    RuntimeError
        If the pass runs under ``create_graph=True`` or ``is_grads_batched=True``.

    Examples
    --------
    >>> check_gradients("cpu")
    Traceback (most recent call last):
        ...
    RuntimeError: backend 'cpu' has no second derivative; create_graph=True asks for it: use
    backend='torch', which nn.Mamba and nn.S6 have as an attribute
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"backend {backend!r} has no second derivative; create_graph=True asks for it: use "
            "backend='torch', which nn.Mamba and nn.S6 have as an attribute"
        )
    if transformed(*gradients):
        raise RuntimeError(
            f"backend {backend!r} takes one gradient at a time; is_grads_batched=True gives many: "
            "use backend='torch', which nn.Mamba and nn.S6 have as an attribute"
        )
