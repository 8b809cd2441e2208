"""Train the models of the chapter on selectivity; selective_copying.json holds the results.

Repeat 4 symbols out of 8 that stand at random places among blanks (ssmlab.tasks). Every model is the
same language model of two of Mamba's blocks. In the place of the scan each block has nn.S6, in
which the step size dt, B and C follow from the input or are learned constants: all three is Mamba,
none is a time-invariant layer of real decays. "S4D" is nn.S4D in the same place, with twice the
numbers in its state. All train on length 64 only, with each of four learning rates, each from three
seeds, and are tested on fresh sequences of that length and of longer ones. Nothing is chosen here:
"validation", on other sequences of length 64, is there to choose a rate by. Run it anew (an hour or two
on a quiet core, minutes on a GPU) with

    python book/experiments/selective_copying.py --workers 8

Results: "task" and "training" hold the sizes, "lengths" the lengths of the tests, "chance" the
accuracy of a guess. Each of "runs" holds "model" ("Mamba", "S4D", or what follows from the input),
"seed", "lr", "selective" (a list of "dt", "B", "C"; empty for S4D), "parameters", "accuracy" (for each
length one number for each answer, from 0 to 1), "validation" (their mean), "loss" (means over 100
steps), and "wall_seconds" of the training, on a machine that had other work too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from ssmlab import nn, tasks, timing

SEEDS: tuple[int, ...] = (0, 1, 2)
RATES: tuple[float, ...] = (2e-3, 4e-3, 8e-3, 1.6e-2)
MODELS: dict[str, tuple[str, ...] | None] = {
    "Mamba": ("dt", "B", "C"),
    "none": (),
    "dt": ("dt",),
    "B": ("B",),
    "C": ("C",),
    "B and C": ("B", "C"),
    "S4D": None,
}
TASK = {"memorise": 4, "vocabulary": 10}
TRAINING: dict[str, Any] = {
    "length": 64,
    "batch": 32,
    "steps": 1200,
    "warmup": 100,
    "schedule": "cosine",
    "channels": 64,
    "layers": 2,
    "state": 8,
}
QUICK = {"steps": 1, "batch": 2, "channels": 8, "length": 8}
LENGTHS, SEQUENCES = (64, 128, 256, 512, 1024), 256


def make(name: str, training: dict[str, Any]) -> nn.LanguageModel:
    """Build the language model around one of MODELS."""
    channels, state = training["channels"], training["state"]
    selective = MODELS[name]
    vocabulary = TASK["vocabulary"]
    if selective is None:
        return language_model(vocabulary, channels, "s4d", state=2 * state)
    return language_model(
        vocabulary, channels, "s6", state=state, selective=selective
    )


def language_model(
    vocabulary: int, channels: int, mixer: str, **options: Any
) -> nn.LanguageModel:
    """Build two blocks that start with embeddings and logits of size 1.

    The published start, embeddings of size 0.02, stays at chance for longer
    than the 1000 steps that we tried.
    """
    layers = TRAINING["layers"]
    model = nn.LanguageModel(vocabulary, channels, layers, mixer, **options)
    torch.nn.init.normal_(model.embedding.weight)
    torch.nn.init.constant_(model.norm_f.weight, channels**-0.5)
    return model


Draw = Callable[..., tasks.Batch]


def train_and_test(
    model: nn.LanguageModel,
    draw: Draw,
    setup: dict[str, Any],
    case: common.Case,
    sequences: int,
) -> dict[str, Any]:
    """Train on a fresh batch at each step, and test on fresh sequences."""
    training, rng = setup["training"], np.random.default_rng(case["seed"])
    model.to(setup["device"])
    with timing.stopwatch() as took:
        losses = nn.fit_language_model(
            model,
            iter(
                lambda: draw(training["batch"], training["length"], seed=rng),
                None,
            ),
            steps=training["steps"],
            lr=case["lr"],
            warmup=training["warmup"],
            constant=training["schedule"] == "constant",
            progress=False,
        )

    def right(length: int, seed: int) -> np.ndarray:
        batch = draw(sequences, length, seed=seed)
        return common.by_answer(model, batch, at_once=32)

    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": right(training["length"], 2000).mean(),
        "accuracy": [
            right(length, 1000 + length) for length in setup["lengths"]
        ],
        "loss": np.reshape(losses, (-1, min(100, len(losses))))
        .mean(1)
        .round(5),
        "wall_seconds": took.wall,
    }


def run(
    setup: dict[str, Any], sequences: int, case: common.Case
) -> dict[str, Any]:
    """Train one model from one seed, and test it."""
    torch.manual_seed(case["seed"])
    model = make(case["model"], setup["training"])
    draw = partial(tasks.selective_copying, **TASK)
    tested = train_and_test(model, draw, setup, case, sequences)
    return {"selective": MODELS[case["model"]] or ()} | tested


def main(
    quick: bool = False,
    resume: bool = False,
    workers: int = 1,
    commit: str = "",
) -> None:
    """Train each model at each rate from each seed."""
    seeds, training, sequences = SEEDS, TRAINING, SEQUENCES
    if quick:
        seeds, training, sequences = SEEDS[:1], TRAINING | QUICK, 2
    setup = {
        "task": TASK,
        "training": training,
        "lengths": common.few(LENGTHS, quick),
        "chance": 1 / (TASK["vocabulary"] - 2),
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
