"""Every layer of ssmlab.nn, small, of 8 channels; and what its tests do with states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch

from ssmlab import nn
from ssmlab.diagonal import INITIALISATIONS, METHODS
from ssmlab.nn.linear_attention import DECAYS

torch.set_num_threads(1)

CHANNELS = 8
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()

LAYERS: dict[str, Callable[[], nn.Layer]] = {
    **{f"mixer {name}": partial(make, CHANNELS) for name, make in nn.MIXERS.items()},
    "S4": partial(nn.S4, CHANNELS, 8),
    **{
        f"S4D {init} {method}": partial(nn.S4D, CHANNELS, 8, init=init, method=method)
        for init, method in product(INITIALISATIONS, METHODS)
    },
    "S6 of constants": partial(nn.S6, CHANNELS, 5, selective=()),
    "S6 of dt and B": partial(nn.S6, CHANNELS, 5, selective=("dt", "B"), dt_rank=2),
    "Mamba, one tap": partial(nn.Mamba, CHANNELS, 5, conv=1, expand=1),
    "LRU": partial(nn.LRU, CHANNELS, 6),
    "RetNet": partial(nn.RetNet, CHANNELS, 2, chunk=5),
    "Attention": partial(nn.Attention, CHANNELS, 2),
    **{
        f"LinearAttention {decay}{' delta' * delta}": partial(
            nn.LinearAttention, CHANNELS, 2, decay=decay, delta=delta, chunk=5
        )
        for decay, delta in product(DECAYS, (False, True))
    },
}


def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return LAYERS[name]().to(dtype)


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def by_steps(layer: Any, x: torch.Tensor, state: Any, **options: Any) -> tuple[torch.Tensor, Any]:
    """Run over a sequence, one sample at a time."""
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state, **options)
        outputs.append(y_t)
    return torch.stack(outputs, 1), state


def leaves(state: Any) -> list[torch.Tensor]:
    """List the tensors of a state."""
    return [state] if isinstance(state, torch.Tensor) else [v for s in state for v in leaves(s)]


def rebuilt(state: Any, values: Iterator[torch.Tensor]) -> Any:
    """Put other tensors into a state."""
    if isinstance(state, torch.Tensor):
        return next(values)
    return type(state)(*(rebuilt(part, values) for part in state))
