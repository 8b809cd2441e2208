"""Train the models of the chapter on diagonal matrices on digits; digits.json holds the results.

1,797 digits of 8 x 8 pixels, which scikit-learn ships, read as sequences of 64 numbers: row by row,
or in one fixed random order. Every model is the same classifier (2 blocks, 20 epochs of AdamW with
one cycle, batches of 32) around another layer; the GRU gets twice the channels. Each is trained with
both learning rates, from three seeds, on 1,257 digits; "accuracy" is that of the last epoch on 360
others. Nothing is chosen here: "validation", on the remaining 180, is there to choose a rate by. One
thread a run. Run it anew (about half an hour on one core) with

    python book/experiments/digits.py --workers 2
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import common
import numpy as np
import torch
from sklearn.datasets import load_digits
from ssmlab import nn, timing

SEEDS: tuple[int, ...] = (0, 1, 2)
EPOCHS, BATCH, DEPTH = 20, 32, 2
RATES: tuple[float, ...] = (8e-3, 2e-3)
SPLIT = [1257, 180, 360]
STEPS: dict[str, Any] = {"dt_min": 0.01, "dt_max": 0.5}


class GRU(torch.nn.Module):
    """A gated recurrent unit in the place of a state space layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(channels, channels, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over (batch, length, channels)."""
        return self.gru(x)[0]


def s4d(init: str) -> Callable[[int], nn.S4D]:
    """16 conjugate pairs in each channel: 32 real numbers."""
    return lambda channels: nn.S4D(channels, 32, init=init, **STEPS)


def real(channels: int) -> nn.S4D:
    """32 decays, 32 real numbers too; the frequencies stay zero."""
    layer = nn.S4D(channels, 64, init="real", **STEPS)
    layer.frequency.requires_grad_(False)
    return layer


def random(channels: int) -> nn.S4D:
    """16 pairs that nobody thought about: -exp(g) + i g', both g normal."""
    layer = nn.S4D(channels, 32, init="lin", **STEPS)
    torch.nn.init.normal_(layer.log_decay)
    torch.nn.init.normal_(layer.frequency)
    return layer


#: A layer, and the channels of its model.
MODELS: dict[str, tuple[Callable[[int], torch.nn.Module], int]] = {
    "S4D-LegS": (s4d("legs"), 32),
    "GRU": (GRU, 64),
    "S4D-Lin": (s4d("lin"), 32),
    "S4D-Inv": (s4d("inv"), 32),
    "S4D-Real": (real, 32),
    "S4D-random": (random, 32),
    "S4": (lambda channels: nn.S4(channels, 32, **STEPS), 32),
}


Digits = tuple[torch.Tensor, ...]


def digits(permuted: bool) -> Digits:
    """Return x and labels of 1,257 digits to train, 180 to choose by and 360 to test."""
    data, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data))
    pixels = rng.permutation(64) if permuted else np.arange(64)
    x = torch.tensor(data[order][:, pixels, None] / 16 - 0.5).float()
    y = torch.tensor(labels[order])
    parts = zip(x.split(SPLIT), y.split(SPLIT), strict=True)
    return tuple(part for pair in parts for part in pair)


def acting(model: torch.nn.Module, x: torch.Tensor) -> int:
    """Count the numbers that the output depends on: Im C of real poles is none of them."""
    model.zero_grad()
    model(x).square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return sum(int(torch.count_nonzero(g)) for g in gradients)


def run(epochs: int, kept: int | None, case: common.Case) -> dict[str, Any]:
    """Train one model from one seed, on all digits or on as many as are kept."""
    x, y, x_choose, y_choose, x_test, y_test = (
        part[:kept] for part in digits(case["permuted"])
    )
    torch.manual_seed(case["seed"])
    layer, channels = MODELS[case["model"]]
    model = nn.SequenceClassifier(
        1, 10, channels=channels, depth=DEPTH, layer=layer
    )
    with timing.stopwatch() as took:
        history = nn.fit(
            model,
            x,
            y,
            epochs=epochs,
            batch=BATCH,
            lr=case["lr"],
            seed=case["seed"],
            progress=False,
        )
    return {
        "channels": channels,
        "parameters": acting(model, x[:BATCH]),
        "wall_seconds": took.wall,
        "cpu_seconds": took.cpu,
        "loss": [round(epoch["loss"], 5) for epoch in history],
        "validation": nn.accuracy(model, x_choose, y_choose),
        "accuracy": nn.accuracy(model, x_test, y_test),
    }


def main(
    quick: bool = False,
    resume: bool = False,
    workers: int = 1,
    commit: str = "",
) -> None:
    """Train each model at each rate, on digits in both orders, from each seed."""
    seeds, epochs, kept = (
        (SEEDS[:1], 1, BATCH) if quick else (SEEDS, EPOCHS, None)
    )
    todo = common.grid(
        seed=seeds, model=MODELS, permuted=(False, True), lr=RATES
    )
    with common.record(__file__, quick) as path:
        common.make_runs(
            path,
            "runs",
            {"epochs": epochs, "batch": BATCH, "rates": RATES},
            partial(run, epochs, kept),
            todo,
            resume=resume,
            workers=workers,
            commit=commit,
        )


if __name__ == "__main__":
    common.command(main)
