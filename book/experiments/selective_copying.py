"""Train the models of chapter 12 on selective copying; selective_copying.json holds the results.

Repeat 4 symbols out of 8 that stand at random places among blanks (ssmlab.tasks). Every model is the
same language model of two of Mamba's blocks. In the place of the scan each block has nn.S6, in
which the step size dt, B and C follow from the input or are learned constants: all three is Mamba,
none is a time-invariant layer of real decays. "S4D" is nn.S4D in the same place, with twice the
numbers in its state. All train on length 64 only, in the same way, and are tested on fresh sequences
of that length and of longer ones. One thread. Run it anew (about half an hour on a quiet core) with

    python book/experiments/selective_copying.py

Results: "task" and "training" hold the sizes, "lengths" the lengths of the tests, "chance" the
accuracy of a guess. Each of "runs" holds "model" ("Mamba", "S4D", or what follows from the input),
"selective" (a list of "dt", "B", "C"; empty for S4D), "seed", "parameters", "accuracy" (one for each
length, from 0 to 1: right symbols of all that were asked for), "loss" (means over 100 steps), and
"wall_seconds" and "cpu_seconds" of the training, on a machine that had other work too.
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
    "steps": 600,
    "lr": 8e-3,
    "warmup": 100,
    "schedule": "cosine",
    "channels": 64,
    "layers": 2,
    "state": 8,
}
QUICK = {"steps": 1, "batch": 2, "channels": 8, "length": 8}
LENGTHS, SEQUENCES = (64, 128, 256, 512, 1024), 256
SLOWEST = 1e-3  # the largest learning rate of what sets time scales
SETS_TIME = (
    "A_log",
    "D",
    "dt_bias",
    "dt_proj.bias",
    "log_dt",
    "log_decay",
    "frequency",
)


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


def logits(model: nn.LanguageModel, batch: tasks.Batch) -> torch.Tensor:
    """Give the logits at the steps that ask for an answer."""
    answers = batch.targets.shape[1]
    return model(torch.from_numpy(batch.tokens))[:, -answers:]


def train(
    model: nn.LanguageModel,
    draw: Callable[[], tasks.Batch],
    *,
    steps: int,
    lr: float,
    warmup: int,
    schedule: str,
) -> list[float]:
    """Train on a fresh batch at each step; give the means of 100 losses."""
    losses = nn.fit_language_model(
        model,
        iter(draw, None),
        steps=steps,
        lr=lr,
        warmup=warmup,
        constant=schedule == "constant",
        groups=groups(model, lr),
        progress=False,
    )
    return np.reshape(losses, (-1, min(100, steps))).mean(1).tolist()


def groups(model: nn.LanguageModel, lr: float) -> list[dict[str, Any]]:
    """Set apart what sets time scales, as when the stored runs were made.

    nn.parameter_groups differs in S4D's D and in Mamba's projection to dt.
    """
    slow: list[torch.nn.Parameter] = []
    fast: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (slow if name.endswith(SETS_TIME) else fast).append(parameter)
    return [
        {"params": fast, "lr": lr, "weight_decay": 0.01},
        {"params": slow, "lr": min(lr, SLOWEST), "weight_decay": 0.0},
    ]


@torch.no_grad()
def accuracy(
    model: nn.LanguageModel, draw: Callable[[int], tasks.Batch]
) -> float:
    """Give the share of right answers in fresh sequences, 32 at a time."""
    right = []
    for _ in range(SEQUENCES // 32):
        batch = draw(32)
        right.append(logits(model, batch).argmax(-1).numpy() == batch.targets)
    return float(np.mean(right))


def run(setup: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Train one model from one seed, and test it."""
    torch.manual_seed(seed)
    training = setup["training"]
    model, rng = make(name, training), np.random.default_rng(seed)
    length, batch = training["length"], training["batch"]
    keys = ("steps", "lr", "warmup", "schedule")
    with timing.stopwatch() as took:
        loss = train(
            model,
            lambda: tasks.selective_copying(batch, length, **TASK, seed=rng),
            **{key: training[key] for key in keys},
        )
    fresh = np.random.default_rng(1000)
    return {
        "model": name,
        "selective": MODELS[name] or (),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": [
            accuracy(
                model,
                partial(
                    tasks.selective_copying, length=length, **TASK, seed=fresh
                ),
            )
            for length in setup["lengths"]
        ],
        "loss": loss,
        "wall_seconds": took.wall,
        "cpu_seconds": took.cpu,
    }


def main(quick: bool = False, resume: bool = False) -> None:
    """Train each model from each seed, and write the record after each."""
    seeds, training = SEEDS, TRAINING
    if quick:
        seeds, training = SEEDS[:1], TRAINING | QUICK
    setup = {
        "task": TASK,
        "training": training,
        "lengths": common.few(LENGTHS, quick),
        "chance": 1 / (TASK["vocabulary"] - 2),
    }
    todo = [(name, seed) for seed in seeds for name in MODELS]
    with common.record(__file__, quick) as path:
        common.make_runs(
            path, "runs", setup, partial(run, setup), todo, resume=resume
        )


if __name__ == "__main__":
    common.command(main)
