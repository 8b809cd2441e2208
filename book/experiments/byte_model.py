"""Train the byte-level language model of the chapter on Mamba; the checkpoint lies in byte_model/.

A Mamba language model of two blocks reads the source of Python's standard library, byte by byte,
and predicts the next byte. byte_model.json holds the loss and the settings; byte_model/ the weights,
rounded to float16, in the official naming. The validation loss is that of the rounded weights, on
files that were not trained on. Run it anew (about ten minutes on one core, one on a GPU) with

    python book/experiments/byte_model.py
"""

from __future__ import annotations

import platform
from typing import Any

import common
import numpy as np
import torch
from ssmlab import nn, results, tasks, timing

SEED = 0
SIZES: dict[str, Any] = {
    "vocabulary": 256,
    "channels": 128,
    "layers": 2,
    "state": 16,
}
TRAINING: dict[str, Any] = {
    "batch": 8,
    "length": 256,
    "steps": 2500,
    "lr": 4e-3,
}


@torch.no_grad()
def validation_loss(
    model: nn.LanguageModel, windows: int, length: int
) -> float:
    """Return the mean cross-entropy, in nats a byte, over windows of unseen files."""
    text = tasks.python_source("validation")
    batch = tasks.windows(text, windows, length, seed=1)
    where = model.embedding.weight.device
    tokens, targets = (torch.tensor(part, device=where) for part in batch)
    logits = torch.cat([model(part) for part in tokens.split(8)])
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten()
    )
    return loss.item()


def main(quick: bool = False, commit: str = "") -> None:
    """Train, round, save, and measure what was saved."""
    training, windows, device = TRAINING, (64, 1024), common.device()
    if quick:
        training, windows = (
            TRAINING | {"steps": 10, "batch": 1, "length": 8},
            (1, 8),
        )
    torch.manual_seed(SEED)
    text = tasks.python_source()
    model = nn.LanguageModel(**SIZES).to(device)
    with timing.stopwatch() as took:
        losses = nn.fit_language_model(
            model,
            common.batches(
                lambda rng: tasks.windows(
                    text, training["batch"], training["length"], seed=rng
                ),
                SEED,
            ),
            steps=training["steps"],
            lr=training["lr"],
            warmup=50,
        )
    with common.record(__file__, quick) as path:
        folder = path.with_suffix("")
        nn.save_checkpoint(model.half(), folder)
        saved = nn.load_checkpoint(folder).to(device)
        measured = {
            "sizes": SIZES,
            "training": training,
            "seed": SEED,
            "parameters": sum(p.numel() for p in saved.parameters()),
            "bytes": sum(p.stat().st_size for p in folder.iterdir()),
            "text": f"the standard library of Python {platform.python_version()}",
            "text_bytes": len(text),
            "wall_seconds": took.wall,
            "loss": np.mean(np.reshape(losses, (-1, 10)), axis=1).round(4),
            "validation_loss": validation_loss(saved, *windows),
        }
        results.save_results(path, measured, commit=commit or None)


if __name__ == "__main__":
    common.command(main)
