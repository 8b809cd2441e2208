"""Train Mamba and S4D on induction heads; induction_heads.json holds the results.

Say which of 15 symbols followed the trigger, when it comes again (ssmlab.tasks). Both models are the
same language model of two of Mamba's blocks: with the selective scan in them, or with nn.S4D in its
place, which has twice the numbers in its state. Both train on length 64 only, in the same way, and
are tested on fresh sequences of that length and of longer ones. One thread. Run it anew (about seven
minutes on a quiet core) with

    python book/experiments/induction_heads.py

Results: as in selective_copying.py, without "selective". A run has one answer for each sequence.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import common
import numpy as np
import torch
from selective_copying import QUICK, accuracy, language_model, train
from ssmlab import tasks, timing

SEEDS: tuple[int, ...] = (0, 1)
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "Mamba": ("mamba", {"state": 16}),
    "S4D": ("s4d", {"state": 32}),
}
VOCABULARY = 16
TRAINING: dict[str, Any] = {
    "length": 64,
    "batch": 64,
    "steps": 600,
    "lr": 3e-3,
    "warmup": 100,
    "schedule": "constant",
    "channels": 64,
    "layers": 2,
    "state": 16,
}
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)


def run(setup: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Train one model from one seed, and test it."""
    torch.manual_seed(seed)
    mixer, options = MODELS[name]
    training = setup["training"]
    model = language_model(VOCABULARY, training["channels"], mixer, **options)
    rng = np.random.default_rng(seed)
    length, batch = training["length"], training["batch"]
    keys = ("steps", "lr", "warmup", "schedule")
    with timing.stopwatch() as took:
        loss = train(
            model,
            lambda: tasks.induction_heads(
                batch, length, vocabulary=VOCABULARY, seed=rng
            ),
            **{key: training[key] for key in keys},
        )
    fresh = np.random.default_rng(1000)
    return {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": [
            accuracy(
                model,
                partial(
                    tasks.induction_heads,
                    length=length,
                    vocabulary=VOCABULARY,
                    seed=fresh,
                ),
            )
            for length in setup["lengths"]
        ],
        "loss": loss,
        "wall_seconds": took.wall,
        "cpu_seconds": took.cpu,
    }


def main(quick: bool = False, resume: bool = False) -> None:
    """Train both models from each seed, and write the record after each."""
    seeds, training = SEEDS, TRAINING
    if quick:
        seeds, training = SEEDS[:1], TRAINING | QUICK
    setup = {
        "task": {"vocabulary": VOCABULARY},
        "training": training,
        "lengths": common.few(LENGTHS, quick),
        "chance": 1 / (VOCABULARY - 1),
    }
    todo = [(name, seed) for seed in seeds for name in MODELS]
    with common.record(__file__, quick) as path:
        common.make_runs(
            path, "runs", setup, partial(run, setup), todo, resume=resume
        )


if __name__ == "__main__":
    common.command(main)
