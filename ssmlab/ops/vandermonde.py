r"""The kernel of a diagonal model: a sum of powers, without a table of all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssmlab import _check
from ssmlab._typing import Complex, Float
from ssmlab.ops._check import broadcasting, complex_modes
from ssmlab.ops._precision import full_precision

Modes = Complex[Tensor, "... channels modes"]


def vandermonde(weights: Modes, A_bar: Modes, length: int) -> Float[Tensor, "... length channels"]:
    r"""Compute :math:`\operatorname{Re} \sum_n w_n a_n^l` for l < L, in each channel.

    .. math:: w_n a_n^{iT + j} = (w_n a_n^{iT}) \, a_n^j, \qquad 0 \le j < T \approx \sqrt L

    Two tables of about √L columns, found by doubling, and one real matrix product over (Re, Im).

    Parameters
    ----------
    weights, A_bar : Tensor, (..., channels, modes)
        Complex. For S4D the weights are :math:`2 C \bar B`. Leading axes broadcast.
    length : int
        L, at least 1.

    Returns
    -------
    K_bar : Tensor, (..., length, channels)
        float32 if ``weights`` is complex64, else float64.

    Notes
    -----
    Powers are taken in complex128 whatever the weights are: give A_bar in complex128 too, else its
    own rounding turns the phase of a fast mode within thousands of steps. The slow twin is
    :func:`ssmlab.diagonal.vandermonde`. Chapter 10.

    Examples
    --------
    >>> halves = torch.tensor([[0.5, -0.5]], dtype=torch.complex128)
    >>> vandermonde(torch.ones_like(halves), halves, 4).squeeze()
    tensor([2.0000, 0.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    complex_modes(weights=weights, A_bar=A_bar)
    if min(weights.ndim, A_bar.ndim) < 2 or not broadcasting(weights, A_bar):
        raise ValueError(
            f"weights and A_bar must have shape (..., channels, modes) and broadcast; got "
            f"{tuple(weights.shape)} and {tuple(A_bar.shape)}: give both the same channels"
        )
    length = _check.count("length", length)
    block = 2 ** math.ceil(math.log2(length) / 2)
    A_bar = A_bar.to(torch.complex128)
    right, A_block = _powers(A_bar, torch.ones_like(A_bar), block, weights.dtype)
    left, _ = _powers(A_block.conj(), weights.conj(), -(-length // block), weights.dtype)
    with full_precision(A_bar.device):
        K_bar = left.mT @ right
    return K_bar.flatten(-2)[..., :length].mT


def _powers(
    a: Modes, w: Modes, count: int, dtype: torch.dtype
) -> tuple[Float[Tensor, "... channels state count"], Modes]:
    """Tabulate (Re, Im) of w a^j for j < count by doubling; and a^count for a power of two."""
    table = w.to(a.dtype).expand(torch.broadcast_shapes(w.shape, a.shape))[..., None]
    while table.shape[-1] < count:
        more = count - table.shape[-1]
        table = torch.cat([table, table[..., :more] * a[..., None]], -1)
        a = a * a
    table = table.to(dtype)
    return torch.cat([table.real, table.imag], -2), a
