"""Measure what one more byte costs, for Mamba and for attention; see generation_costs.json.

Two language models of the same width and depth, 2 layers of 128 channels, with random weights: the
time of a step and the bytes of the state do not depend on them. Each has read a context of random
bytes; then one step is timed, all of them in turns. Batch 1, float32, one thread.
Attention keeps the keys and values of its context, and is measured twice: as ``nn.Attention`` does
it, whose step copies them, and written into room that was made beforehand. Run it anew (about a
minute) with

    python book/experiments/generation_costs.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import common
import torch
from ssmlab import nn, results, timing
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

SIZES = {"vocabulary": 256, "channels": 128, "layers": 2}
CONTEXTS = tuple(2**k for k in range(6, 16))


def numbers(state: Any) -> int:
    """Count the numbers in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel()
    return sum(numbers(part) for part in state)


def room_for_one_more(cache: nn.attention.Cache) -> list[Tensor]:
    """Copy keys and values, once, into tensors with a place for the next sample."""
    return [torch.cat([part, part[:, :, :1]], 2) for part in cache]


def step_in_place(
    model: nn.LanguageModel, token: Tensor, rooms: list[list[Tensor]], t: int
) -> Tensor:
    """Take the step of a model of ``nn.Attention`` at time t; keys and values go to place t."""
    x = model.embedding(token)
    for block, (K, V) in zip(model.layers, rooms, strict=True):
        layer = block.mixer
        qkv = layer.in_proj(block.norm(x)).chunk(3, -1)
        q, k, v = (part.view(1, layer.heads, 1, layer.size) for part in qkv)
        theta = 1e4 ** -(torch.arange(0, layer.size, 2).double() / layer.size)
        q, k = (
            nn.heads.rotate(part, theta, torch.tensor([float(t)]))
            for part in (q, k)
        )
        K[:, :, t : t + 1], V[:, :, t : t + 1] = k, v
        y = scaled_dot_product_attention(q, K[:, :, : t + 1], V[:, :, : t + 1])
        x = x + layer.out_proj(y.flatten(1))
    return model.norm_f(x) @ model.embedding.weight.T


@torch.no_grad()
def main(quick: bool = False) -> None:
    """Measure both models after each context."""
    torch.manual_seed(0)
    mamba, attention = (
        nn.LanguageModel(**SIZES, mixer=name) for name in ("mamba", "attention")
    )
    token, sizes = torch.tensor([0]), {}
    steps: dict[tuple[str, int], Callable[[], Any]] = {}
    for context in common.few(CONTEXTS, quick):
        prompt = torch.randint(256, (1, context))
        for name, model in (("mamba", mamba), ("attention", attention)):
            state = model.prefill(prompt)[1]
            steps[name, context] = partial(model.step, token, state)
            sizes[name, context] = 4 * numbers(state)
        rooms = [room_for_one_more(cache) for cache in state]
        steps["attention, in place", context] = partial(
            step_in_place, attention, token, rooms, context
        )
        sizes["attention, in place", context] = sizes["attention", context]
    times = timing.compare(
        {f"{name} {context}": step for (name, context), step in steps.items()},
        **common.pace(quick, repeat=15, seconds=0.3),
    ).timings
    rows = [
        {
            "way": name,
            "context": context,
            "step": times[f"{name} {context}"],
            "state_bytes": sizes[name, context],
        }
        for name, context in steps
    ]
    parameters = {
        name: sum(p.numel() for p in model.parameters())
        for name, model in (("mamba", mamba), ("attention", attention))
    }
    measured = {"sizes": SIZES, "parameters": parameters, "rows": rows}
    with common.record(__file__, quick) as path:
        results.save_results(path, measured)


if __name__ == "__main__":
    common.command(main)
