r"""Causal convolution of many channels, by FFT."""

from __future__ import annotations

from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssmlab._typing import Float
from ssmlab.ops._check import tensor


def fft_convolution(
    x: Float[Tensor, "... length channels"], K_bar: Float[Tensor, "taps channels"]
) -> Float[Tensor, "... length channels"]:
    r"""Convolve each channel with its own kernel, :math:`y_{kc} = \sum_j \bar K_{jc}\,x_{k-j,c}`.

    Parameters
    ----------
    x : Tensor, (..., length, channels)
        float32 or float64.
    K_bar : Tensor, (taps, channels)
        Of the same type.

    Returns
    -------
    y : Tensor, (..., length, channels)

    Notes
    -----
    Both are padded with zeros to the fast length at or above length + taps - 1: without them the
    future would leak into the past. The rounding error is relative to the largest y. It can be
    differentiated once. Chapter 4.

    Examples
    --------
    >>> fft_convolution(torch.ones(3, 1), torch.tensor([[1.0], [0.5], [0.25]]))
    tensor([[1.0000],
            [1.5000],
            [1.7500]])
    """
    tensor("x", x)
    tensor("K_bar", K_bar)
    if x.dtype not in (torch.float32, torch.float64) or K_bar.dtype != x.dtype:
        raise TypeError(
            f"x and K_bar must both be float32 or both float64; got {x.dtype} and {K_bar.dtype}: "
            "convert one of them"
        )
    if x.ndim < 2 or K_bar.ndim != 2 or x.shape[-1] != K_bar.shape[-1] or not K_bar.numel():
        raise ValueError(
            "x must have shape (..., length, channels) and K_bar (taps, channels), with at least "
            f"one tap; got {tuple(x.shape)} and {tuple(K_bar.shape)}: put channels last"
        )
    length = x.shape[-2]
    if not x.numel():
        raise ValueError(f"x must not be empty; got shape {tuple(x.shape)}: pass a longer signal")
    return _Convolution.apply(x, K_bar[:length])


class _Convolution(torch.autograd.Function):
    """The gradient is a convolution too, backwards in time: real transforms are enough for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, K_bar: Tensor) -> Tensor:
        length, taps = x.shape[-2], len(K_bar)
        padded = next_fast_len(length + taps - 1, real=True)
        X, K = (torch.fft.rfft(signal.mT, padded) for signal in (x, K_bar))
        ctx.save_for_backward(X, K)
        ctx.sizes = length, taps, padded
        return torch.fft.irfft(X * K, padded)[..., :length].mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        X, K = ctx.saved_tensors
        length, taps, padded = ctx.sizes
        Y = torch.fft.rfft(grad.mT, padded)
        of_kernel = (Y * X.conj()).reshape(-1, *Y.shape[-2:]).sum(0)
        return (
            torch.fft.irfft(Y * K.conj(), padded)[..., :length].mT,
            torch.fft.irfft(of_kernel, padded)[..., :taps].mT,
        )
