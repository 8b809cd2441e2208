"""What layers with heads share: the heads themselves, their rotation, and work in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn.layer import Signal

#: The state of a layer of matrices: one for each head.
Matrices = Float[Tensor, "batch heads keys values"]
Tokens = Float[Tensor, "batch heads length size"]


def heads_of(channels: int, heads: int) -> int:
    """Return the size of a head: an even number, as it is rotated in pairs."""
    channels, heads = _check.count("channels", channels), _check.count("heads", heads)
    size, rest = divmod(channels, heads)
    if rest or size % 2:
        raise ValueError(
            f"channels must be an even multiple of heads; got {channels} channels and {heads} "
            f"heads: pass for example {2 * heads * max(1, round(size / 2))} channels"
        )
    return size


def split_heads(x: Signal, heads: int) -> Tokens:
    """Give each head its own axis."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def retention_decays(heads: int, device: torch.device) -> Float[Tensor, "heads"]:
    """Compute 1 - 2^(-5 - h) in float64; there, since no CUDA graph may hold a copy from the CPU.

    >>> retention_decays(2, torch.device("cpu"))
    tensor([0.9688, 0.9844], dtype=torch.float64)
    """
    return 1 - torch.exp2(-5 - torch.arange(heads, dtype=torch.float64, device=device))


def rotate(
    x: Float[Tensor, "*lead length size"],
    theta: Float[Tensor, "pairs"],
    position: Float[Tensor, "#length"],
) -> Float[Tensor, "*lead length size"]:
    r"""Turn each pair of neighbouring numbers by theta times the position, in rad.

    theta and the position are float64 whatever x is: a float32 angle of 10,000 rad is off by up to
    5e-4 rad.
    """
    angle = torch.outer(position, theta)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def in_chunks(
    run: Callable[..., tuple[Tokens, Any]],
    tokens: Sequence[Float[Tensor, "batch heads length ..."]],
    size: int,
    state: Matrices,
    need_state: bool,
) -> tuple[Tokens, Any]:
    """Run over chunks of this size, one after the other; the state goes from each to the next.

    ``run`` takes a chunk of each of the tokens, the state, and whether the next one is needed.
    """
    chunks = list(zip(*(part.split(size, 2) for part in tokens), strict=True))
    outputs = []
    for left, chunk in zip(range(len(chunks) - 1, -1, -1), chunks, strict=True):
        y, state = run(*chunk, state, need_state or left > 0)
        outputs.append(y)
    return torch.cat(outputs, 2), state
