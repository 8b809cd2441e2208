"""Train Mamba and S4D on induction heads; induction_heads.json holds the results.

Say which of 15 symbols followed the trigger, when it comes again (ssmlab.tasks). Both models are the
same language model of two of Mamba's blocks: with the selective scan in them, or with nn.S4D in its
place, which has twice the numbers in its state. Both train on length 64 only, in the same way, and
are tested on fresh sequences of that length and of longer ones. One thread. Run it anew (about seven
minutes on a quiet core) as described in selective_copying.py, with

    python book/results/induction_heads.py

Results: as in selective_copying.py, without "selective". A run has one answer for each sequence.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from selective_copying import accuracy, language_model, make_runs, train
from ssmlab import tasks

SEEDS = (0, 1)
MODELS = {
    "Mamba": ("mamba", {"state": 16}),
    "S4D": ("s4d", {"state": 32}),
}
VOCABULARY = 16
TRAINING = {
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


def run(name: str, seed: int) -> dict[str, Any]:
    """Train one model from one seed, and test it."""
    torch.manual_seed(seed)
    mixer, options = MODELS[name]
    model = language_model(VOCABULARY, TRAINING["channels"], mixer, **options)
    rng = np.random.default_rng(seed)
    length, batch = TRAINING["length"], TRAINING["batch"]
    keys = ("steps", "lr", "warmup", "schedule")
    start, work = time.perf_counter(), time.process_time()
    loss = train(
        model,
        lambda: tasks.induction_heads(
            batch, length, vocabulary=VOCABULARY, seed=rng
        ),
        **{key: TRAINING[key] for key in keys},
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - work
    fresh = np.random.default_rng(1000)
    return {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": [
            accuracy(
                model,
                lambda n, length=length: tasks.induction_heads(
                    n, length, vocabulary=VOCABULARY, seed=fresh
                ),
            )
            for length in LENGTHS
        ],
        "loss": loss,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
    }


def main() -> None:
    """Train both models from each seed."""
    torch.set_num_threads(1)
    setup = {
        "task": {"vocabulary": VOCABULARY},
        "training": TRAINING,
        "lengths": LENGTHS,
        "chance": 1 / (VOCABULARY - 1),
    }
    todo = [(name, seed) for seed in SEEDS for name in MODELS]
    make_runs(Path(__file__).with_suffix(".json"), setup, run, todo)


if __name__ == "__main__":
    main()
