"""Train one small model on one task, with the mixer swapped by name; for chapter 11.

The task is ssmlab.tasks.latest_value: pairs of 8 keys and 8 values among blanks; at the end each key
is asked for, and its latest value counts. Training takes turns between logs in which a key is written
1, 2, 3 and 4 times on average. Embedding, one block of 64 channels, AdamW with a cosine; nothing is
chosen on the tests. One thread. Run it anew with

    python book/experiments/family_task.py
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle
from typing import Any

import common
import numpy as np
import torch
from ssmlab import nn, tasks, timing

SETTING: dict[str, Any] = {
    "channels": 64,
    "layers": 1,
    "steps": 600,
    "batch": 32,
    "lr": 5e-3,
    "seeds": [0],
}
LENGTH, WRITES = 40, (8, 16, 24, 32)

MODELS: dict[str, dict[str, Any]] = {
    "s4d": {"mixer": "s4d", "state": 16},
    "lru": {"mixer": "lru", "state": 32},
    "retnet": {"mixer": "retnet", "heads": 2},
    "rwkv": {"mixer": "rwkv"},
    "sum": {"mixer": "linear_attention", "heads": 2},
    "fixed decay": {
        "mixer": "linear_attention",
        "heads": 2,
        "decay": "fixed",
    },
    "gate": {"mixer": "simple_gla", "heads": 2},
    "mamba": {"mixer": "mamba", "state": 16},
    "delta rule": {"mixer": "deltanet", "heads": 2},
    "gate, delta rule": {"mixer": "gated_deltanet", "heads": 2},
    "attention": {"mixer": "attention", "heads": 2},
}

#: What is asked of a trained model.
TESTS: dict[str, dict[str, int]] = {
    "once": {"length": 40, "writes": 8},
    "4 times": {"length": 40, "writes": 32},
    "16 times": {"length": 136, "writes": 128},
    "4, silence": {"length": 136, "writes": 32},
}


def batches(setting: dict[str, Any], seed: int) -> Iterator[tasks.Batch]:
    """Draw batch after batch."""
    rng = np.random.default_rng(seed)
    for writes in cycle(WRITES):
        yield tasks.latest_value(
            setting["batch"], LENGTH, writes=writes, seed=rng
        )


def run(
    setting: dict[str, Any], sequences: int, name: str, seed: int
) -> dict[str, Any]:
    """Train one model and test it, on sequences that training did not draw."""
    torch.manual_seed(seed)
    model = nn.LanguageModel(
        81, setting["channels"], setting["layers"], **MODELS[name]
    )
    with timing.stopwatch() as took:
        losses = nn.fit_language_model(
            model,
            batches(setting, seed),
            steps=setting["steps"],
            lr=setting["lr"],
            progress=False,
        )
    tests = {
        test: tasks.latest_value(sequences, **options, seed=10**6)
        for test, options in TESTS.items()
    }
    return {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": took.cpu,
        "loss": float(np.mean(losses[-20:])),
        "accuracy": {
            test: common.answers_right(model, batch, at_once=64)
            for test, batch in tests.items()
        },
    }


def main(quick: bool = False, resume: bool = False) -> None:
    """Train each model from each seed, and write the record after each."""
    setting, sequences = SETTING, 512
    if quick:
        setting, sequences = (
            SETTING | {"steps": 1, "batch": 2, "channels": 8},
            2,
        )
    todo = [(name, seed) for name in MODELS for seed in setting["seeds"]]
    with common.record(__file__, quick) as path:
        common.make_runs(
            path,
            "rows",
            {"setting": setting},
            partial(run, setting, sequences),
            todo,
            resume=resume,
        )


if __name__ == "__main__":
    common.command(main)
