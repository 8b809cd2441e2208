"""Checks of what a layer is given: one sentence that says what came and what to do."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ssmlab import _check
from ssmlab.ops import _check as ops_check
from ssmlab.ops._precision import is_autocast


def signal(
    name: str, x: Tensor, axes: tuple[str, ...], like: Tensor | None, channels: int
) -> Tensor:
    """Ask for a signal with these axes and the channels last, of the type of the parameters.

    Under ``torch.autocast`` it may be of another type, as what is before the layer made it; it is
    returned in that of the parameters.
    """
    ops_check.tensor(name, x)
    if x.ndim != len(axes) + 1 or x.shape[-1] != channels or 0 in x.shape:
        raise ValueError(
            f"{name} must have shape ({', '.join(axes)}, {channels}) and not be empty; got "
            f"{tuple(x.shape)}: put the {channels} channels last"
        )
    if like is None:
        return x
    ops_check.same_device(name, x, "the parameters are", like.device)
    if x.dtype == like.dtype:
        return x
    if not (x.is_floating_point() and is_autocast(x.device)):
        raise TypeError(
            f"{name} must be {like.dtype}, as the layer's parameters are; got {x.dtype}: convert "
            f"it with {name}.to({like.dtype})"
        )
    return x.to(like.dtype)


def step_sizes(dt_min: float, dt_max: float) -> tuple[float, float]:
    """Return the range from which step sizes are drawn."""
    dt_min, dt_max = _check.number("dt_min", dt_min), _check.number("dt_max", dt_max)
    if not 0 < dt_min <= dt_max:
        raise ValueError(
            f"dt_min and dt_max must be positive and in this order; got {dt_min} and {dt_max}: "
            "pass the range of the step sizes, such as 0.001 and 0.1"
        )
    return dt_min, dt_max


def seed(value: int) -> int:
    """Return a seed that torch's generators take."""
    value = _check.count("seed", value, least=0, most=None)
    if value >= 2**64:
        raise ValueError(f"seed must be below 2**64; got {value}: pass a smaller int")
    return value


def makes_layers(name: str, make: Any, channels: int, **options: Any) -> Any:
    """Call a function of the number of channels, and ask that it makes a layer."""
    layer = make(channels, **options) if callable(make) else None
    if not hasattr(layer, "initial_state"):
        what = f"one that makes a {type(layer).__name__}" if callable(make) else repr(make)
        raise TypeError(
            f"{name} must be a function from the number of channels to a Layer; got {what}: pass "
            "for example ssmlab.nn.S4D"
        )
    return layer
