"""Train Mamba and S4D on induction heads; induction_heads.json holds the results.

Say which of 15 symbols followed the trigger, when it comes again (ssmlab.tasks). Both models are the
same language model of two of Mamba's blocks: with the selective scan in them, or with nn.S4D in its
place, which has twice the numbers in its state. Both train on length 64 only, with each of three
learning rates, each from three seeds, and are tested on fresh sequences of that length and of longer
ones. Run it anew (an hour on a quiet core, minutes on a GPU) with

    python book/experiments/induction_heads.py --workers 8

Results: as in selective_copying.py, without "selective". A run has one answer for each sequence.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import common
import torch
from selective_copying import QUICK, language_model, train_and_test
from ssmlab import tasks

SEEDS: tuple[int, ...] = (0, 1, 2)
RATES: tuple[float, ...] = (1e-3, 3e-3, 8e-3)
MODELS: dict[str, tuple[str, dict[str, int]]] = {
    "Mamba": ("mamba", {"state": 16}),
    "S4D": ("s4d", {"state": 32}),
}
VOCABULARY = 16
TRAINING: dict[str, Any] = {
    "length": 64,
    "batch": 64,
    "steps": 1200,
    "warmup": 100,
    "schedule": "constant",
    "channels": 64,
    "layers": 2,
    "state": 16,
}
LENGTHS, SEQUENCES = (64, 128, 256, 512, 1024, 2048, 4096), 256


def run(
    setup: dict[str, Any], sequences: int, case: common.Case
) -> dict[str, Any]:
    """Train one model from one seed, and test it."""
    torch.manual_seed(case["seed"])
    mixer, options = MODELS[case["model"]]
    channels = setup["training"]["channels"]
    model = language_model(VOCABULARY, channels, mixer, **options)
    draw = partial(tasks.induction_heads, vocabulary=VOCABULARY)
    return train_and_test(model, draw, setup, case, sequences)


def main(
    quick: bool = False,
    resume: bool = False,
    workers: int = 1,
    commit: str = "",
) -> None:
    """Train both models at each rate from each seed."""
    seeds, training, sequences = SEEDS, TRAINING, SEQUENCES
    if quick:
        seeds, training, sequences = SEEDS[:1], TRAINING | QUICK, 2
    setup = {
        "task": {"vocabulary": VOCABULARY},
        "training": training,
        "lengths": common.few(LENGTHS, quick),
        "chance": 1 / (VOCABULARY - 1),
        "device": common.device(),
    }
    todo = common.grid(seed=seeds, model=MODELS, lr=RATES)
    with common.record(__file__, quick) as path:
        common.make_runs(
            path,
            "runs",
            setup,
            partial(run, setup, sequences),
            todo,
            resume=resume,
            workers=workers,
            commit=commit,
        )


if __name__ == "__main__":
    common.command(main)
