r"""Causal convolution of many channels, by FFT."""

from __future__ import annotations

from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ssmlab._typing import Float
from ssmlab.ops._check import fit_together, transformed
from ssmlab.ops._precision import full_precision


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
    future would leak into the past. The rounding error is relative to the norm of x times that of
    K_bar, not to y. A NaN or an infinity in any sample makes all outputs of its channel NaN, the
    earlier ones too. Chapter 4.

    Examples
    --------
    >>> fft_convolution(torch.ones(3, 1), torch.tensor([[1.0], [0.5], [0.25]]))
    tensor([[1.0000],
            [1.5000],
            [1.7500]])
    """
    fit_together(x=x, K_bar=K_bar)
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
    K_bar = K_bar[:length]
    padded = fast_length(length + len(K_bar) - 1)
    with full_precision(x.device):
        if torch.compiler.is_compiling() or transformed(x, K_bar):
            return _convolve(_spectrum(x, padded), _spectrum(K_bar, padded), length, padded)
        return _Convolution.apply(x, K_bar, padded)


def fast_length(length: int) -> int:
    """Return a length at or above this one whose transform is fast; torch's compiler knows one."""
    if torch.compiler.is_compiling():
        return 1 << (length - 1).bit_length()
    return next_fast_len(length, real=True)


class _Convolution(torch.autograd.Function):
    """The gradient is a convolution too, backwards in time: real transforms are enough for it.

    The spectra are kept for it. Where it is to be differentiated in its turn they are found anew,
    as part of the graph.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, K_bar: Tensor, padded: int) -> Tensor:
        X, K = _spectrum(x, padded), _spectrum(K_bar, padded)
        ctx.save_for_backward(x, K_bar, X, K)
        ctx.padded = padded
        return _convolve(X, K, x.shape[-2], padded)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, K_bar, X, K), padded = ctx.saved_tensors, ctx.padded
        if torch.is_grad_enabled():
            X, K = _spectrum(x, padded), _spectrum(K_bar, padded)
        Y = _spectrum(dy, padded)
        of_kernel = (Y * X.conj()).reshape(-1, *Y.shape[-2:]).sum(0)
        dx = _convolve(Y, K.conj(), x.shape[-2], padded)
        return dx, torch.fft.irfft(of_kernel, padded)[..., : len(K_bar)].mT, None


def _spectrum(signal: Tensor, padded: int) -> Tensor:
    return torch.fft.rfft(signal.mT, padded)


def _convolve(X: Tensor, K: Tensor, length: int, padded: int) -> Tensor:
    return torch.fft.irfft(X * K, padded)[..., :length].mT
