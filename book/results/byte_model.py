"""Train the byte-level language model of chapter 14; the checkpoint lies in byte_model/.

A Mamba language model of two blocks reads the source of Python's standard library, byte by byte,
and predicts the next byte. byte_model.json holds the loss and the settings; byte_model/ the weights,
rounded to float16, in the official naming. The validation loss is that of the rounded weights, on
files that were not trained on. One thread. Run it anew (about ten minutes) with

    python book/results/byte_model.py
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ssmlab import nn, tasks, timing

SEED = 0
SIZES = {"vocabulary": 256, "channels": 128, "layers": 2, "state": 16}
TRAINING = {"batch": 8, "length": 256, "steps": 2500, "lr": 4e-3}


def batches(text: np.ndarray, seed: int) -> Iterator[tasks.Batch]:
    """Cut windows out of the text for ever."""
    rng = np.random.default_rng(seed)
    while True:
        yield tasks.windows(
            text, TRAINING["batch"], TRAINING["length"], seed=rng
        )


@torch.no_grad()
def validation_loss(model: nn.LanguageModel, length: int = 1024) -> float:
    """Return the mean cross-entropy, in nats a byte, over windows of unseen files."""
    text = tasks.python_source("validation")
    tokens, targets = map(torch.tensor, tasks.windows(text, 64, length, seed=1))
    logits = torch.cat([model(part) for part in tokens.split(8)])
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten()
    )
    return loss.item()


def main() -> None:
    """Train, round, save, and measure what was saved."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    text = tasks.python_source()
    model = nn.LanguageModel(**SIZES)
    start, work = time.perf_counter(), time.process_time()
    losses = nn.fit_language_model(
        model,
        batches(text, SEED),
        steps=TRAINING["steps"],
        lr=TRAINING["lr"],
        warmup=50,
    )
    wall, cpu = time.perf_counter() - start, time.process_time() - work
    folder = Path(__file__).with_suffix("")
    nn.save_checkpoint(model.half(), folder)
    saved = nn.load_checkpoint(folder)
    timing.save_results(
        Path(__file__).with_suffix(".json"),
        {
            "sizes": SIZES,
            "training": TRAINING,
            "seed": SEED,
            "parameters": sum(p.numel() for p in saved.parameters()),
            "bytes": sum(p.stat().st_size for p in folder.iterdir()),
            "text": f"the standard library of Python {platform.python_version()}",
            "text_bytes": len(text),
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "loss": np.mean(np.reshape(losses, (-1, 10)), axis=1).round(4),
            "validation_loss": validation_loss(saved),
        },
    )


if __name__ == "__main__":
    main()
