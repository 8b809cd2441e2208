"""Train the models of chapter 11 on selective copying; selective_copying.json holds the results.

Repeat 4 symbols out of 8 that stand at random places among blanks (ssmlab.tasks). Every model is the
same language model of two of Mamba's blocks. In the place of the scan each block has a `Scan`, in
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

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from ssmlab import nn, ops, tasks, timing
from torch.nn.functional import cross_entropy

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


class Scan(torch.nn.Module):
    """Mamba's scan, with each of dt, B and C from the input or constant."""

    def __init__(self, channels: int, state: int, selective: tuple[str, ...]):
        super().__init__()
        n = torch.arange(1.0, state + 1)
        self.A_log = torch.nn.Parameter(n.log().repeat(channels, 1))
        self.D = torch.nn.Parameter(torch.ones(channels))
        dt = 1e-3 * torch.exp(torch.rand(channels) * math.log(100))
        self.dt_bias = torch.nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.dt: Any = None
        self.B: Any = None
        self.C: Any = None
        if "dt" in selective:
            rank = -(-channels // 32)
            self.dt = torch.nn.Sequential(
                torch.nn.Linear(channels, rank, bias=False),
                torch.nn.Linear(rank, channels, bias=False),
            )
            torch.nn.init.uniform_(self.dt[1].weight, -(rank**-0.5), rank**-0.5)
        for name, start in (("B", torch.ones), ("C", torch.randn)):
            if name in selective:
                value: Any = torch.nn.Linear(channels, state, bias=False)
            else:
                value = torch.nn.Parameter(start(channels, state))
            setattr(self, name, value)

    def forward(self, u: torch.Tensor, state: None = None) -> Any:
        """Run over (batch, length, channels)."""
        B, C = (
            M(u) if isinstance(M, torch.nn.Module) else M
            for M in (self.B, self.C)
        )
        return ops.selective_scan(
            u,
            torch.zeros_like(u) if self.dt is None else self.dt(u),
            -self.A_log.exp(),
            B,
            C,
            self.D,
            dt_bias=self.dt_bias,
            softplus=True,
        )


def make(name: str, training: dict[str, Any]) -> nn.LanguageModel:
    """Build the language model around one of MODELS."""
    channels, state = training["channels"], training["state"]
    selective = MODELS[name]
    nn.MIXERS["scan"] = lambda width: nn.Gated(
        width, lambda inner: Scan(inner, state, selective or ())
    )
    mixer = "s4d" if selective is None else "scan"
    options = {"state": 2 * state} if selective is None else {}
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
    """Train by AdamW on a fresh batch at each step; give the mean losses."""
    slow: list[torch.nn.Parameter] = []
    fast: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (slow if name.endswith(SETS_TIME) else fast).append(parameter)
    groups = [
        {"params": fast, "lr": lr, "weight_decay": 0.01},
        {"params": slow, "lr": min(lr, SLOWEST), "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def rate(step: int) -> float:
        fall = 0.5 * (1 + math.cos(math.pi * step / steps))
        rise = min(1.0, (step + 1) / warmup)
        return rise * (fall if schedule == "cosine" else 1.0)

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    losses = []
    for _ in range(steps):
        batch = draw()
        targets = torch.from_numpy(batch.targets).flatten()
        loss = cross_entropy(logits(model, batch).flatten(0, 1), targets)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        scheduler.step()
        losses.append(loss.item())
    return np.reshape(losses, (-1, min(100, steps))).mean(1).tolist()


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
    models = ("Mamba", "S4D") if quick else tuple(MODELS)
    todo = [(name, seed) for seed in seeds for name in models]
    with common.record(__file__, quick) as path:
        common.make_runs(
            path, "runs", setup, partial(run, setup), todo, resume=resume
        )


if __name__ == "__main__":
    common.command(main)
