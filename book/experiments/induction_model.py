"""Train the small Mamba whose step sizes its chapter looks at; it lies in induction_model/.

The task and the sizes are those of Mamba in induction_heads.py, with the published start and one
learning rate. Three seeds are trained; the weights of the first, rounded to float16, are kept.
induction_model.json holds, for each seed, the loss, the accuracy on fresh sequences of several
lengths, and "right_if_shut": the accuracy at the trained length if the steps of one block are shut at
some places after the first trigger ("shut" lists these pairs). Run it anew (about six minutes on one
core, one on a GPU) with

    python book/experiments/induction_model.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import common
import numpy as np
import torch
from ssmlab import nn, results, tasks, timing

SEEDS: tuple[int, ...] = (0, 1, 2)
SIZES: dict[str, Any] = {
    "vocabulary": 16,
    "channels": 64,
    "layers": 2,
    "state": 16,
}
TRAINING: dict[str, Any] = {"batch": 64, "length": 64, "steps": 600, "lr": 3e-3}
LENGTHS: tuple[int, ...] = (64, 256, 1024)
#: A block, and the places after the first trigger at which its steps are shut.
SHUT: tuple[tuple[int, tuple[int, ...]], ...] = (
    *((2, at) for at in ((), (1,), (2,), (3,), (4,), (1, 3), (2, 4))),
    *((block, (1, 2, 3, 4)) for block in (2, 1)),
)


def train(
    training: dict[str, Any], device: str, seed: int
) -> tuple[nn.LanguageModel, list[float]]:
    """Train one model from one seed, and round its weights."""
    torch.manual_seed(seed)
    model = nn.LanguageModel(**SIZES).to(device)
    losses = nn.fit_language_model(
        model,
        common.batches(
            lambda rng: tasks.induction_heads(
                training["batch"], training["length"], seed=rng
            ),
            seed,
        ),
        steps=training["steps"],
        lr=training["lr"],
        warmup=100,
        constant=True,
    )
    return model.half().float(), losses


def right_if_shut(
    model: nn.LanguageModel,
    batch: tasks.Batch,
    block: int,
    places: Sequence[int],
) -> float:
    """Give the share right, with dt of a block near zero so far after the first trigger."""
    first = np.argmax(batch.tokens == SIZES["vocabulary"] - 1, axis=1)
    early = (
        first < batch.tokens.shape[1] - 5
    )  # the last place comes before the question
    rows, first = np.arange(early.sum()), torch.tensor(first[early])

    def shut(layer: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        for k in places:
            out[rows, first + k] = -16.0
        return out

    hook = model.layers[block - 1].mixer.dt_proj.register_forward_hook(shut)
    part = tasks.Batch(batch.tokens[early], batch.targets[early])
    share = common.answers_right(model, part, at_once=len(rows))
    hook.remove()
    return share


def main(quick: bool = False, commit: str = "") -> None:
    """Train, round, save, and measure what was saved."""
    seeds, training, lengths, sequences = SEEDS, TRAINING, LENGTHS, 512
    if quick:
        training = TRAINING | {"steps": 10, "batch": 2, "length": 8}
        seeds, lengths, sequences = SEEDS[:1], common.few(LENGTHS, quick), 8
    rows = []
    device = common.device()
    with common.record(__file__, quick) as path:
        for seed in seeds:
            with timing.stopwatch() as took:
                model, losses = train(training, device, seed)
            if seed == SEEDS[0]:
                nn.save_checkpoint(model.half(), path.with_suffix(""))
                model.float()
            tests = [
                tasks.induction_heads(sequences, length, seed=1000 + length)
                for length in lengths
            ]
            rows.append(
                {
                    "seed": seed,
                    "accuracy": [
                        common.answers_right(model, batch, at_once=32)
                        for batch in tests
                    ],
                    "right_if_shut": [
                        right_if_shut(model, tests[0], block, places)
                        for block, places in SHUT
                    ],
                    "loss": np.reshape(losses, (-1, 10)).mean(1).round(4),
                    "wall_seconds": took.wall,
                }
            )
        measured = {
            "sizes": SIZES,
            "training": training,
            "lengths": lengths,
            "shut": SHUT,
            "runs": rows,
        }
        results.save_results(path, measured, commit=commit or None)


if __name__ == "__main__":
    common.command(main)
