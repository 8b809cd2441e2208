"""Train one small model on one task, with the mixer swapped by name; for chapter 10.

The task is ssmlab.tasks.latest_value: pairs of 8 keys and 8 values among blanks, each key written
three times on average; at the end each key is asked for, and its latest value counts. Embedding, two
blocks of 64 channels, AdamW with a cosine; nothing is chosen on the tests. One thread. The file is
written after each training; name mixers to train only these:

    python book/results/family_task.py
    python book/results/family_task.py mamba attention
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ssmlab import nn, tasks, timing
from tqdm import tqdm

SETTING = {
    "channels": 64,
    "layers": 2,
    "steps": 500,
    "batch": 32,
    "lr": 4e-3,
    "seeds": [0],
}
FILE = Path(__file__).with_suffix(".json")

MODELS: dict[str, dict[str, Any]] = {
    "s4d": {"mixer": "s4d", "state": 16},
    "lru": {"mixer": "lru", "state": 32},
    "retnet": {"mixer": "retnet", "heads": 2},
    "rwkv": {"mixer": "rwkv"},
    "sum": {"mixer": "memory", "heads": 2},
    "fixed decay": {"mixer": "memory", "heads": 2, "decay": "fixed"},
    "gate": {"mixer": "memory", "heads": 2, "decay": "gated"},
    "mamba": {"mixer": "mamba", "state": 16},
    "delta rule": {"mixer": "memory", "heads": 2, "delta": True},
    "gate, delta rule": {
        "mixer": "memory",
        "heads": 2,
        "decay": "gated",
        "delta": True,
    },
    "attention": {"mixer": "attention", "heads": 2},
}

#: What is asked of a trained model: length, number of writes.
TESTS = {
    "trained": {"length": 64, "writes": 24},
    "no rewriting": {"length": 64, "writes": 8},
    "more blanks": {"length": 256, "writes": 24},
    "more writes": {"length": 256, "writes": 96},
}


def batches(seed: int) -> Iterator[tasks.Batch]:
    """Draw batch after batch."""
    rng = np.random.default_rng(seed)
    while True:
        yield tasks.latest_value(SETTING["batch"], **TESTS["trained"], seed=rng)


@torch.no_grad()
def accuracy(model: nn.LanguageModel, test: dict[str, int]) -> float:
    """Share of right answers in 512 sequences that training did not draw."""
    tokens, targets = map(
        torch.tensor, tasks.latest_value(512, **test, seed=10**6)
    )
    answers = torch.cat(
        [
            model(part)[:, -targets.shape[1] :].argmax(-1)
            for part in tokens.split(64)
        ]
    )
    return (answers == targets).float().mean().item()


def run(name: str, seed: int) -> dict[str, Any]:
    """Train one model and test it."""
    torch.manual_seed(seed)
    model = nn.LanguageModel(
        81, SETTING["channels"], SETTING["layers"], **MODELS[name]
    )
    start = time.process_time()
    losses = nn.fit_language_model(
        model,
        batches(seed),
        steps=SETTING["steps"],
        lr=SETTING["lr"],
        progress=False,
    )
    return {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "cpu_seconds": time.process_time() - start,
        "loss": float(np.mean(losses[-20:])),
        "accuracy": {
            test: accuracy(model, options) for test, options in TESTS.items()
        },
    }


def main(names: list[str]) -> None:
    """Train the models that were named, or all, and put them into the result file."""
    rows = timing.load_results(FILE)["results"]["rows"] if FILE.exists() else []
    done = {(row["model"], row["seed"]): row for row in rows}
    order = [(name, seed) for name in MODELS for seed in SETTING["seeds"]]
    for name, seed in (
        bar := tqdm(
            [p for p in order if not names or p[0] in names], unit="model"
        )
    ):
        bar.set_postfix_str(name)
        done[name, seed] = run(name, seed)
        found = [done[pair] for pair in order if pair in done]
        timing.save_results(FILE, {"setting": SETTING, "rows": found})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
