"""Measure what one more byte costs, for Mamba and for attention; see generation_costs.json.

Two language models of the same width and depth, 2 layers of 128 channels, with random weights: the
time of a step and the bytes of the state do not depend on them. Each has read a context of random
bytes; then one step is timed, all of them in turns. Batch 1, float32, one thread.
Attention keeps the keys and values of its context. Run it anew (about a minute) with

    python book/experiments/generation_costs.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

import common
import torch
from ssmlab import nn, results, timing

SIZES = {"vocabulary": 256, "channels": 128, "layers": 2}
MIXERS = ("mamba", "attention")
CONTEXTS = tuple(2**k for k in range(6, 15))


def numbers(state: Any) -> int:
    """Count the numbers in a state."""
    if isinstance(state, torch.Tensor):
        return state.numel()
    return sum(numbers(part) for part in state)


@torch.no_grad()
def main(quick: bool = False) -> None:
    """Measure both models after each context."""
    torch.manual_seed(0)
    models = {mixer: nn.LanguageModel(**SIZES, mixer=mixer) for mixer in MIXERS}
    token = torch.tensor([0])
    states = {
        (mixer, context): model.prefill(torch.randint(256, (1, context)))[1]
        for mixer, model in models.items()
        for context in common.few(CONTEXTS, quick)
    }
    steps = {
        f"{mixer} {context}": partial(models[mixer].step, token, state)
        for (mixer, context), state in states.items()
    }
    times = timing.compare(
        steps, **common.pace(quick, repeat=15, seconds=0.6)
    ).timings
    rows = [
        {
            "mixer": mixer,
            "context": context,
            "step": times[f"{mixer} {context}"],
            "state_bytes": 4 * numbers(state),
        }
        for (mixer, context), state in states.items()
    ]
    parameters = {
        mixer: sum(p.numel() for p in model.parameters())
        for mixer, model in models.items()
    }
    measured = {"sizes": SIZES, "parameters": parameters, "rows": rows}
    with common.record(__file__, quick) as path:
        results.save_results(path, measured)


if __name__ == "__main__":
    common.command(main)
