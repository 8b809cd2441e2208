"""Train the models of chapter 11 on selective copying; selective_copying.json holds the results.

Repeat 4 symbols out of 8 that stand at random places among blanks (ssmlab.tasks). Every model is the
same language model of two of Mamba's blocks. In the place of the scan each block has nn.S6, in
which the step size dt, B and C follow from the input or are learned constants: all three is Mamba,
none is a time-invariant layer of real decays. "S4D" is nn.S4D in the same place, with twice the
numbers in its state. All train on length 64 only, in the same way, and are tested on fresh sequences
of that length and of longer ones. One thread. Run it anew (about half an hour on a quiet core) with

    rm book/results/selective_copying.json
    python book/results/selective_copying.py

A number behind it makes so many runs only; the next call goes on from there.

Results: "task" and "training" hold the sizes, "lengths" the lengths of the tests, "chance" the
accuracy of a guess. Each of "runs" holds "model" ("Mamba", "S4D", or what follows from the input),
"selective" (a list of "dt", "B", "C"; empty for S4D), "seed", "parameters", "accuracy" (one for each
length, from 0 to 1: right symbols of all that were asked for), "loss" (means over 100 steps), and
"wall_seconds" and "cpu_seconds" of the training, on a machine that had other work too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ssmlab import nn, tasks, timing

SEEDS = (0, 1, 2)
MODELS = {
    "Mamba": ("dt", "B", "C"),
    "none": (),
    "dt": ("dt",),
    "B": ("B",),
    "C": ("C",),
    "B and C": ("B", "C"),
    "S4D": None,
}
TASK = {"memorise": 4, "vocabulary": 10}
TRAINING = {
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
LENGTHS, SEQUENCES = (64, 128, 256, 512, 1024), 256
SLOWEST = 1e-3  # the largest learning rate of what sets time scales
SETS_TIME = ("A_log", "D", "dt_bias", "dt_proj.bias")
SETS_TIME += ("log_dt", "log_decay", "frequency")


def make(name: str) -> nn.LanguageModel:
    """Build the language model around one of MODELS."""
    channels, state = TRAINING["channels"], TRAINING["state"]
    selective = MODELS[name]
    if selective is None:
        mixer, options = "s4d", {"state": 2 * state}
    else:
        mixer, options = "s6", {"state": state, "selective": selective}
    return language_model(TASK["vocabulary"], channels, mixer, **options)


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
    return np.reshape(losses, (-1, 100)).mean(1).tolist()


def groups(model: nn.LanguageModel, lr: float) -> list[dict[str, Any]]:
    """Set apart what sets time scales, as when the stored runs were made.

    nn.parameter_groups differs in S4D's D and in Mamba's projection to dt.
    """
    slow, fast = [], []
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


def run(name: str, seed: int) -> dict[str, Any]:
    """Train one model from one seed, and test it."""
    torch.manual_seed(seed)
    model, rng = make(name), np.random.default_rng(seed)
    length, batch = TRAINING["length"], TRAINING["batch"]
    keys = ("steps", "lr", "warmup", "schedule")
    start, work = time.perf_counter(), time.process_time()
    loss = train(
        model,
        lambda: tasks.selective_copying(batch, length, **TASK, seed=rng),
        **{key: TRAINING[key] for key in keys},
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - work
    fresh = np.random.default_rng(1000)
    return {
        "model": name,
        "selective": MODELS[name] or (),
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "accuracy": [
            accuracy(
                model,
                lambda n, length=length: tasks.selective_copying(
                    n, length, **TASK, seed=fresh
                ),
            )
            for length in LENGTHS
        ],
        "loss": loss,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
    }


def make_runs(
    path: Path, setup: dict[str, Any], run: Callable[..., Any], todo: Any
) -> None:
    """Add the runs that the file does not hold, and write it after each."""
    rows = timing.load_results(path)["results"]["runs"] if path.exists() else []
    done = {(row["model"], row["seed"]) for row in rows}
    left = [pair for pair in todo if pair not in done]
    for name, seed in left[: int(sys.argv[1]) if sys.argv[1:] else None]:
        rows.append(run(name, seed))
        print(name, seed, rows[-1]["accuracy"], flush=True)
        timing.save_results(path, setup | {"runs": rows})


def main() -> None:
    """Train each model from each seed."""
    torch.set_num_threads(1)
    setup = {
        "task": TASK,
        "training": TRAINING,
        "lengths": LENGTHS,
        "chance": 1 / (TASK["vocabulary"] - 2),
    }
    todo = [(name, seed) for seed in SEEDS for name in MODELS]
    make_runs(Path(__file__).with_suffix(".json"), setup, run, todo)


if __name__ == "__main__":
    main()
