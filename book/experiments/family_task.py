"""Train one small model on one task, with the mixer swapped by name; for the chapter of the family.

The task is ssmlab.tasks.latest_value: pairs of 8 keys and 8 values among blanks; at the end each key
is asked for, and its latest value counts. Training takes turns between logs in which a key is written
1, 2, 3 and 4 times on average. Embedding, one block of 64 channels, AdamW with a cosine. Every mixer
is trained on the same grid: two starts and four learning rates, each from three seeds. Nothing is
chosen here: "validation", on fresh logs like those of training, is there to choose a setting by, and
the tests have sequences of their own. Run it anew (hours on many cores, minutes on a GPU) with

    python book/experiments/family_task.py --workers 14

"start" is the scale of the embedding. 0.02 is the published one, and the logits start at 0.16; with 1
they would start at 8, and the last norm brings them down to 1. "curve" holds means of 100 losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from typing import Any

import common
import numpy as np
import torch
from ssmlab import nn, tasks, timing

SETTING: dict[str, Any] = {
    "channels": 64,
    "layers": 1,
    "steps": 1800,
    "batch": 32,
    "seeds": [0, 1, 2],
    "starts": [0.02, 1.0],
    "rates": [1e-3, 3e-3, 1e-2, 3e-2],
}
QUICK = {"steps": 1, "batch": 2, "channels": 8, "seeds": [0], "rates": [1e-3]}
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


def batches(size: int, seed: int) -> Iterator[tasks.Batch]:
    """Draw batch after batch."""
    rng = np.random.default_rng(seed)
    for writes in cycle(WRITES):
        yield tasks.latest_value(size, LENGTH, writes=writes, seed=rng)


def make(
    name: str, channels: int, layers: int, start: float
) -> nn.LanguageModel:
    """Build a model with embeddings of one size and logits of at most 1."""
    model = nn.LanguageModel(81, channels, layers, **MODELS[name])
    torch.nn.init.normal_(model.embedding.weight, std=start)
    logits = start * channels**0.5
    torch.nn.init.constant_(model.norm_f.weight, min(1.0, 1 / logits))
    return model


@torch.no_grad()
def validate(
    model: nn.LanguageModel, sequences: int, device: str
) -> dict[str, float]:
    """Measure on logs like those of training."""
    right, losses = [], []
    for batch in islice(batches(sequences // 2, 10**6 + 1), len(WRITES)):
        right.append(common.answers_right(model, batch, at_once=64))
        tokens, targets = (torch.tensor(part, device=device) for part in batch)
        logits = model(tokens)[:, -targets.shape[1] :].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets.flatten())
        losses.append(loss.item())
    return {
        "accuracy": float(np.mean(right)),
        "loss": min(99.0, float(np.mean(losses))),  # 99 if it is not a number
    }


def run(
    setting: dict[str, Any], sequences: int, device: str, case: common.Case
) -> dict[str, Any]:
    """Train one model and test it, on sequences that training did not draw."""
    torch.manual_seed(case["seed"])
    model = make(
        case["model"], setting["channels"], setting["layers"], case["start"]
    ).to(device)
    with timing.stopwatch() as took:
        losses = nn.fit_language_model(
            model,
            batches(setting["batch"], case["seed"]),
            steps=setting["steps"],
            lr=case["lr"],
            progress=False,
        )
    curve = np.reshape(losses, (-1, min(100, setting["steps"]))).mean(1)
    tests = {
        test: tasks.latest_value(sequences, **options, seed=10**6)
        for test, options in TESTS.items()
    }
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "wall_seconds": took.wall,
        "curve": np.nan_to_num(curve, nan=99.0).round(4),
        "validation": validate(model, sequences, device),
        "accuracy": {
            test: common.answers_right(model, batch, at_once=64)
            for test, batch in tests.items()
        },
    }


def main(
    quick: bool = False,
    resume: bool = False,
    workers: int = 1,
    commit: str = "",
) -> None:
    """Train each model in each setting from each seed."""
    setting, sequences = SETTING, 512
    if quick:
        setting, sequences = SETTING | QUICK, 2
    device = common.device()
    todo = common.grid(
        seed=setting["seeds"],
        model=MODELS,
        start=setting["starts"],
        lr=setting["rates"],
    )
    with common.record(__file__, quick) as path:
        common.make_runs(
            path,
            "rows",
            {"setting": setting},
            partial(run, setting, sequences, device),
            todo,
            resume=resume,
            workers=workers,
            commit=commit,
        )


if __name__ == "__main__":
    common.command(main)
