"""Train the models of chapter 10 on the digits; digits.json holds what the chapter prints.

1,797 digits of 8 x 8 pixels, which scikit-learn ships, read as sequences of 64 numbers: row by row,
or in one fixed random order. Every model is the same classifier (2 blocks, 20 epochs of AdamW with
one cycle, batches of 32) around another layer. Accuracy is that of the last epoch: nothing is chosen
on the test digits, but for the GRU, which gets twice the channels and the better one of two learning
rates. One thread. Run it anew (about a quarter of an hour) with

    python book/experiments/digits.py
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import common
import numpy as np
import torch
from sklearn.datasets import load_digits
from ssmlab import nn, results, timing
from tqdm import tqdm

SEEDS: tuple[int, ...] = (0, 1, 2)
EPOCHS, BATCH, DEPTH = 20, 32, 2
FAST, SLOW = 8e-3, 2e-3
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


@dataclass(frozen=True)
class Case:
    """A layer, a learning rate, and the order of the pixels."""

    name: str
    layer: Callable[[int], torch.nn.Module]
    channels: int = 32
    lr: float = FAST
    permuted: bool = False


CASES = (
    Case("S4D-LegS", s4d("legs")),
    Case("GRU", GRU, 64, SLOW),
    Case("S4D-Lin", s4d("lin")),
    Case("S4D-Inv", s4d("inv")),
    Case("S4D-Real", real),
    Case("S4D-random", random),
    Case("S4", lambda channels: nn.S4(channels, 32, **STEPS)),
    Case("S4D-LegS", s4d("legs"), permuted=True),
    Case("GRU", GRU, 64, SLOW, permuted=True),
    Case("S4D-Real", real, permuted=True),
    Case("GRU", GRU, 64, FAST),
    Case("GRU", GRU, 64, FAST, permuted=True),
)


Digits = tuple[torch.Tensor, ...]


def digits(permuted: bool) -> Digits:
    """Return x and labels of 1,437 training digits, then of 360 test digits."""
    data, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(data))
    pixels = rng.permutation(64) if permuted else np.arange(64)
    x = torch.tensor(data[order][:, pixels, None] / 16 - 0.5).float()
    y = torch.tensor(labels[order])
    return x[:1437], y[:1437], x[1437:], y[1437:]


def train(
    case: Case, seed: int, data: Digits, epochs: int = EPOCHS
) -> dict[str, Any]:
    """Train one model from one seed."""
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    model = nn.SequenceClassifier(
        1, 10, channels=case.channels, depth=DEPTH, layer=case.layer
    )
    with timing.stopwatch() as took:
        history = nn.fit(
            model,
            x,
            y,
            epochs=epochs,
            batch=BATCH,
            lr=case.lr,
            seed=seed,
            progress=False,
            test=(x_test, y_test),
        )
    return {
        "name": case.name,
        "permuted": case.permuted,
        "channels": case.channels,
        "lr": case.lr,
        "seed": seed,
        "parameters": sum(
            p.numel() for p in model.parameters() if p.requires_grad
        ),
        "wall_seconds": took.wall,
        "cpu_seconds": took.cpu,
        "accuracy": [record["accuracy"] for record in history],
        "loss": [record["loss"] for record in history],
    }


def main(quick: bool = False) -> None:
    """Train all models and write the record, anew after each."""
    data = {permuted: digits(permuted) for permuted in (False, True)}
    seeds, epochs = SEEDS, EPOCHS
    if quick:
        seeds, epochs = SEEDS[:1], 1
        data = {k: tuple(part[:BATCH] for part in v) for k, v in data.items()}
    rows = []
    with common.record(__file__, quick) as path:
        for seed, case in tqdm(list(itertools.product(seeds, CASES))):
            rows.append(train(case, seed, data[case.permuted], epochs))
            results.save_results(path, rows)


if __name__ == "__main__":
    common.command(main)
