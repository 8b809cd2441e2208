"""Checks of tensors: one sentence that says what came, what was expected and what to do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def tensor(name: str, value: object) -> None:
    """Ask for a tensor, and say how an array or a list becomes one."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise TypeError(f"{name} must be dense; got {value.layout}: pass {name}.to_dense()")
        return
    what, advice = f"a {type(value).__name__}", "a tensor"
    if isinstance(value, np.ndarray):
        what, advice = "a NumPy array", f"torch.from_numpy({name})"
    elif isinstance(value, (list, tuple)):
        advice = f"torch.tensor({name})"
    raise TypeError(f"{name} must be a torch tensor; got {what}: pass {advice}")


def same_device(name: str, value: Tensor, others: str, device: torch.device) -> None:
    """Ask for a tensor where the others are: torch reads no index that is elsewhere."""
    if value.device != device:
        raise ValueError(
            f"{name} must be on {device}, as {others}; got {value.device}: move it with "
            f"{name}.to({str(device)!r})"
        )


def fit_together(**arguments: Tensor) -> None:
    """Ask for dense tensors on one device."""
    (first, like), *_ = arguments.items()
    for name, value in arguments.items():
        tensor(name, value)
        same_device(name, value, f"{first} is", like.device)


def readable(x: Tensor) -> bool:
    """Tell whether the numbers in x can be looked at.

    Not on the meta device, nor under vmap, nor while a graph is traced, exported or captured. A
    check of values is left out there; one of shapes never is.
    """
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        return False
    if x.is_meta or transformed(x):
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def transformed(*tensors: Tensor) -> bool:
    """Tell whether a tensor is in the hands of ``torch.func`` (grad, vmap, ...), or forward mode.

    What is written by hand is then left to torch's own operations, which both know.
    """
    if torch.compiler.is_compiling():
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    functorch = torch._C._functorch
    kinds = functorch.is_functorch_wrapped_tensor, functorch.is_legacy_batchedtensor
    return any(is_kind(t) for t in tensors for is_kind in kinds)


def complex_modes(**arguments: Tensor) -> None:
    """Ask for complex tensors with an axis for the modes, of one size."""
    fit_together(**arguments)
    modes = next(iter(arguments.values())).shape[-1:]
    for name, value in arguments.items():
        if not value.is_complex():
            raise TypeError(
                f"{name} must be complex; got {value.dtype}: convert it, for example with "
                f"{name}.to(torch.complex64)"
            )
        if value.ndim == 0 or value.shape[-1:] != modes or 0 in value.shape:
            raise ValueError(
                f"{name} must have the modes on its last axis, {modes[0] if modes else 'one'} as "
                f"in the first argument; got shape {tuple(value.shape)}: give each channel the "
                "same modes"
            )


def broadcasting(*tensors: Tensor) -> bool:
    """Tell whether the shapes broadcast."""
    try:
        torch.broadcast_shapes(*(t.shape for t in tensors))
    except RuntimeError:
        return False
    return True


def matrices(Lambda: Tensor, P: Tensor, **others: Tensor) -> None:
    """Ask for complex Lambda and P, (channels, modes), and for others with these axes last."""
    complex_modes(Lambda=Lambda, P=P, **others)
    if Lambda.ndim != 2 or P.shape != Lambda.shape:
        raise ValueError(
            f"Lambda and P must have shape (channels, modes); got {tuple(Lambda.shape)} and "
            f"{tuple(P.shape)}: give each channel its modes"
        )
    for name, value in others.items():
        if value.shape[-2:] != Lambda.shape:
            raise ValueError(
                f"{name} must have shape (..., channels, modes), {tuple(Lambda.shape)} as Lambda "
                f"at the end; got {tuple(value.shape)}: give each channel its modes"
            )


def per_channel(dt: Tensor, Lambda: Tensor) -> None:
    """Ask for one positive step size for each channel."""
    fit_together(Lambda=Lambda, dt=dt)
    channels = len(Lambda)
    wrong = dt.shape != (channels,) or not dt.is_floating_point()
    if wrong or (readable(dt) and not bool((dt > 0).all())):
        raise ValueError(
            f"dt must be real and positive, one number for each of the {channels} channels; got "
            f"{dt.dtype} of shape {tuple(dt.shape)}{_smallest(dt)}: pass shape ({channels},)"
        )


def _smallest(dt: Tensor) -> str:
    if dt.is_complex() or not dt.numel() or not readable(dt):
        return ""
    return f" with the smallest {dt.min().item():g}"
