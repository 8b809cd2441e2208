r"""The kernel of S4, whose A is diagonal plus low rank, and one step of it.

.. math:: z' = \Lambda z - 2 P \operatorname{Re}(P^* z) + B x, \qquad y = 2 \operatorname{Re}(C z)

is discretized by the bilinear rule, :math:`\bar A = 2R - I` and :math:`\bar B = \Delta R B` with
:math:`R = (I - \tfrac\Delta2 A)^{-1}`. By Woodbury's identity R is diagonal plus low rank too: with
:math:`d = (I - \tfrac\Delta2 \Lambda)^{-1}`,

.. math:: R u = d u - \frac{\Delta\, d P}{1 + \Delta \operatorname{Re}(P^* d P)}
          \operatorname{Re}(P^* d u)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmlab import _check
from ssmlab._typing import Complex, Float
from ssmlab.ops._check import broadcasting, fit_together, matrices, per_channel
from ssmlab.ops._precision import full_precision

Modes = Complex[Tensor, "channels modes"]
States = Complex[Tensor, "... channels modes"]


def dplr_step(
    Lambda: Modes,
    P: Modes,
    B: Modes,
    dt: Float[Tensor, "channels"],
    z: States,
    x: Float[Tensor, "... channels"],
) -> States:
    r"""Advance the state by one step, :math:`z_k = \bar A z_{k-1} + \bar B x_k`, in O(modes).

    Parameters
    ----------
    Lambda, P, B : Tensor, (channels, modes)
        Complex.
    dt : Tensor, (channels,)
        Step sizes, positive.
    z : Tensor, (..., channels, modes)
        The states.
    x : Tensor, (..., channels)
        The inputs.

    Returns
    -------
    z : Tensor, (..., channels, modes)
        With z = 0 and x = 1 this is :math:`\bar B`.

    Notes
    -----
    The slow twin is :func:`ssmlab.s4.recurrence`. Chapter 9.

    Examples
    --------
    >>> one = torch.ones(1, 1, dtype=torch.complex64)
    >>> dplr_step(-one, 0 * one, one, dt=torch.ones(1), z=3 * one, x=torch.zeros(1))
    tensor([[1.+0.j]])
    """
    matrices(Lambda, P, B=B, z=z)
    per_channel(dt, Lambda)
    fit_together(z=z, x=x)
    if x.is_complex() or x.shape[-1:] != Lambda.shape[:1] or not broadcasting(x, z[..., 0]):
        raise ValueError(
            f"x must be real, of shape (..., channels) to fit z; got {x.dtype} of shape "
            f"{tuple(x.shape)} beside {tuple(z.shape)}: pass one number for each channel"
        )
    step = dt[:, None]
    d = 1 / (1 - step / 2 * Lambda)
    dP = d * P
    gain = step * dP / (1 + step * _dot(P, dP))
    du = d * (2 * z + step * B * x[..., None])
    return du - gain * _dot(P, du) - z


def dplr_kernel(
    Lambda: Modes,
    P: Modes,
    B_bar: States,
    C: States,
    dt: Float[Tensor, "channels"],
    length: int,
) -> Float[Tensor, "... length channels"]:
    r"""Compute :math:`2 \operatorname{Re}(C \bar A^l \bar B)` for l < L, in each channel.

    .. math:: \bar K_{iT + j} = (C \bar A^{iT}) (\bar A^j \bar B), \qquad 0 \le j < T

    In real arithmetic, on the state :math:`(\Re z, \Im z)`. The T columns and the L/T rows are
    found by doubling, with :math:`\bar A, \bar A^2, \bar A^4, \dots`; the kernel is one product.

    Parameters
    ----------
    Lambda, P : Tensor, (channels, modes)
        Complex.
    B_bar, C : Tensor, (..., channels, modes)
        Complex. :math:`\bar A h` in the place of B_bar gives the answer to the initial state h.
    dt : Tensor, (channels,)
        Step sizes, positive.
    length : int
        L, at least 1.

    Returns
    -------
    K_bar : Tensor, (..., length, channels)
        float32 if ``C`` is complex64, else float64.

    Notes
    -----
    The powers are taken in float64 and rounded before the last product. :math:`A + A^*` is negative
    if the real parts of Lambda are, so that :math:`\bar A` is a contraction and no power grows. No
    length is built into C. The slow twins are :func:`ssmlab.s4.kernel`, by
    generating function, and :func:`ssmlab.s4.kernel_in_blocks`. Chapter 9.

    Examples
    --------
    >>> one = torch.ones(1, 1, dtype=torch.complex128)
    >>> dplr_kernel(-one, 0 * one, one, one / 2, torch.tensor([1.0]), 4).squeeze()
    tensor([1.0000, 0.3333, 0.1111, 0.0370], dtype=torch.float64)
    """
    matrices(Lambda, P, B_bar=B_bar, C=C)
    per_channel(dt, Lambda)
    if not broadcasting(B_bar, C):
        raise ValueError(
            f"B_bar and C must have leading axes that broadcast; got {tuple(B_bar.shape)} and "
            f"{tuple(C.shape)}: give them the same ones"
        )
    length = _check.count("length", length)
    block = 2 ** math.ceil(math.log2(length) / 2)
    dtype = C.real.dtype
    Lambda, P, B_bar, C = (M.to(torch.complex128) for M in (Lambda, P, B_bar, C))
    with full_precision(Lambda.device):
        A_bar = _bilinear(Lambda, P, dt.double()[:, None])
        right, A_block = _powers(A_bar, _real(B_bar), block)
        left, _ = _powers(A_block.mT, 2 * _real(C.conj()), -(-length // block))
        K_bar = left.to(dtype).mT @ right.to(dtype)
    return K_bar.flatten(-2)[..., :length].mT


def _bilinear(
    Lambda: Modes, P: Modes, step: Float[Tensor, "channels 1"]
) -> Float[Tensor, "channels state state"]:
    """Write A_bar = 2 R - I as a real matrix on (Re z, Im z)."""
    d = 1 / (1 - step / 2 * Lambda)
    gain = step / (1 + step * _dot(P, d * P))
    re, im = torch.diag_embed(2 * d.real - 1), torch.diag_embed(2 * d.imag)
    rotation = torch.cat([torch.cat([re, -im], -1), torch.cat([im, re], -1)], -2)
    return rotation - 2 * _real(gain * d * P)[..., None] * _real(d.conj() * P)[..., None, :]


def _powers(
    A: Float[Tensor, "channels state state"], b: Float[Tensor, "... channels state"], count: int
) -> tuple[Float[Tensor, "... channels state count"], Float[Tensor, "channels state state"]]:
    """Compute the columns A^j b for j < count, and A to the count if that is a power of two."""
    columns = b[..., None]
    while columns.shape[-1] < count:
        columns = torch.cat([columns, A @ columns], -1)
        A = A @ A
    return columns[..., :count], A


def _dot(P: Modes, u: States) -> Float[Tensor, "... channels 1"]:
    """Compute Re(P* u)."""
    return (P.conj() * u).real.sum(-1, keepdim=True)


def _real(z: States) -> Float[Tensor, "... channels state"]:
    return torch.cat([z.real, z.imag], -1)
