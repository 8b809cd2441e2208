"""Train the small Mamba whose step sizes chapter 14 looks at; it lies in induction_model/.

The task, the sizes and the training are those of Mamba in induction_heads.py, with seed 0. The
weights are rounded to float16; induction_model.json holds the accuracy of what was saved, on fresh
sequences of several lengths. One thread. Run it anew (about two minutes) with

    python book/results/induction_model.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ssmlab import nn, tasks, timing

SEED = 0
SIZES = {"vocabulary": 16, "channels": 64, "layers": 2, "state": 16}
TRAINING = {"batch": 64, "length": 64, "steps": 600, "lr": 3e-3}
LENGTHS = (64, 256, 1024)


def batches(seed: int) -> Iterator[tasks.Batch]:
    """Draw batches for ever."""
    rng = np.random.default_rng(seed)
    while True:
        yield tasks.induction_heads(
            TRAINING["batch"], TRAINING["length"], seed=rng
        )


@torch.no_grad()
def accuracy(model: nn.LanguageModel, length: int) -> float:
    """Return the share of right answers in 128 fresh sequences."""
    tokens, targets = map(
        torch.tensor, tasks.induction_heads(128, length, seed=1000 + length)
    )
    guesses = [
        model.prefill(part)[0].argmax(-1, True) for part in tokens.split(32)
    ]
    return (torch.cat(guesses) == targets).double().mean().item()


def main() -> None:
    """Train, round, save, and measure what was saved."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = nn.LanguageModel(**SIZES)
    start, work = time.perf_counter(), time.process_time()
    losses = nn.fit_language_model(
        model,
        batches(SEED),
        steps=TRAINING["steps"],
        lr=TRAINING["lr"],
        warmup=100,
        constant=True,
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - work
    folder = Path(__file__).with_suffix("")
    nn.save_checkpoint(model.half(), folder)
    saved = nn.load_checkpoint(folder)
    timing.save_results(
        Path(__file__).with_suffix(".json"),
        {
            "sizes": SIZES,
            "training": TRAINING,
            "seed": SEED,
            "lengths": LENGTHS,
            "accuracy": [accuracy(saved, length) for length in LENGTHS],
            "loss": np.mean(np.reshape(losses, (-1, 10)), axis=1).round(4),
            "wall_seconds": wall,
            "cpu_seconds": cpu,
        },
    )


if __name__ == "__main__":
    main()
