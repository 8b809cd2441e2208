"""Checks of tensors: one sentence that says what came, what was expected and what to do."""

from __future__ import annotations

from torch import Tensor


def complex_modes(**arguments: Tensor) -> None:
    """Ask for complex tensors with an axis for the modes, of one size."""
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


def per_channel(dt: Tensor, channels: int) -> None:
    """Ask for one positive step size for each channel."""
    if dt.shape != (channels,) or not dt.is_floating_point() or not bool((dt > 0).all()):
        raise ValueError(
            f"dt must be real and positive, one number for each of the {channels} channels; got "
            f"{dt.dtype} of shape {tuple(dt.shape)}{_smallest(dt)}: pass shape ({channels},)"
        )


def _smallest(dt: Tensor) -> str:
    return f" with the smallest {dt.min().item():g}" if dt.numel() and not dt.is_complex() else ""
