r"""The selective scan as a plain torch loop: any device, any order of derivatives.

The slow twin of the kernels: one step of the recurrence in one line.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssmlab._typing import Float, Inexact


def scan(
    x: Float[Tensor, "batch length channels"],
    dt: Float[Tensor, "batch length channels"],
    A: Inexact[Tensor, "channels state"],
    B: Inexact[Tensor, "..."],
    C: Inexact[Tensor, "..."],
    h0: Inexact[Tensor, "batch channels state"],
) -> tuple[Float[Tensor, "batch length channels"], Inexact[Tensor, "batch channels state"]]:
    r"""Run :math:`h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t`, :math:`y_t = C_t h_t`.

    The outputs, twice the real part for a complex A, and the last state. Arguments are those of
    :func:`ssmlab.ops.selective_scan`, all of one precision. ``unbind`` and not ``x[:, t]``: the
    gradient of each slice would be a tensor of the size of x, and the cost of all of them quadratic
    in the length. Chapter 14.

    Examples
    --------
    >>> x = torch.ones(1, 3, 1)
    >>> y, h = scan(x, x, A=torch.zeros(1, 1), B=x, C=x, h0=torch.zeros(1, 1, 1))
    >>> y.flatten()
    tensor([1., 2., 3.])
    """
    h, outputs = h0, []
    steps = zip(x.unbind(1), dt.unbind(1), _steps(B, x), _steps(C, x), strict=True)
    for x_t, dt_t, B_t, C_t in steps:
        h = torch.exp(dt_t[..., None] * A) * h + (dt_t * x_t)[..., None] * B_t
        outputs.append((C_t * h).sum(-1))
    y = torch.stack(outputs, 1)
    return (2 * y.real if y.is_complex() else y), h


def _steps(M: Tensor, x: Tensor) -> list[Tensor]:
    """List B_t or C_t for each t, in a shape that broadcasts to (batch, channels, state)."""
    if M.ndim == 2:
        return [M] * x.shape[1]
    if M.ndim == 3:
        return list(M[:, :, None].unbind(1))
    return [m.repeat_interleave(x.shape[2] // M.shape[2], 1) for m in M.unbind(1)]
