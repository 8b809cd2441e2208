"""Train the small Mamba whose step sizes chapter 16 looks at; it lies in induction_model/.

The task, the sizes and the training are those of Mamba in induction_heads.py, with seed 0. The
weights are rounded to float16; induction_model.json holds the accuracy of what was saved, on fresh
sequences of several lengths. One thread. Run it anew (about two minutes) with

    python book/experiments/induction_model.py
"""

from __future__ import annotations

from typing import Any

import common
import numpy as np
import torch
from ssmlab import nn, results, tasks, timing

SEED = 0
SIZES: dict[str, Any] = {
    "vocabulary": 16,
    "channels": 64,
    "layers": 2,
    "state": 16,
}
TRAINING: dict[str, Any] = {"batch": 64, "length": 64, "steps": 600, "lr": 3e-3}
LENGTHS: tuple[int, ...] = (64, 256, 1024)


def main(quick: bool = False) -> None:
    """Train, round, save, and measure what was saved."""
    training, lengths, sequences = TRAINING, LENGTHS, 128
    if quick:
        training = TRAINING | {"steps": 10, "batch": 2, "length": 8}
        lengths, sequences = common.few(LENGTHS, quick), 2
    torch.manual_seed(SEED)
    model = nn.LanguageModel(**SIZES)
    with timing.stopwatch() as took:
        losses = nn.fit_language_model(
            model,
            common.batches(
                lambda rng: tasks.induction_heads(
                    training["batch"], training["length"], seed=rng
                ),
                SEED,
            ),
            steps=training["steps"],
            lr=training["lr"],
            warmup=100,
            constant=True,
        )
    with common.record(__file__, quick) as path:
        folder = path.with_suffix("")
        nn.save_checkpoint(model.half(), folder)
        saved = nn.load_checkpoint(folder)
        tests = [
            tasks.induction_heads(sequences, length, seed=1000 + length)
            for length in lengths
        ]
        measured = {
            "sizes": SIZES,
            "training": training,
            "seed": SEED,
            "lengths": lengths,
            "accuracy": [
                common.answers_right(saved, batch, at_once=32)
                for batch in tests
            ],
            "loss": np.mean(np.reshape(losses, (-1, 10)), axis=1).round(4),
            "wall_seconds": took.wall,
            "cpu_seconds": took.cpu,
        }
        results.save_results(path, measured)


if __name__ == "__main__":
    common.command(main)
