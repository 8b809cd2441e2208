"""What the experiments share: the command line, where a record goes, batches, answers, runs.

Every script measures anew what its record, the JSON file of the same name, holds:

    make experiments/three_views
    python book/experiments/three_views.py

``--quick`` runs it on small sizes and keeps nothing; the tests do that. Where a script has
``--resume``, it writes its record after each run, and goes on from there after an interruption.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from ssmlab import results
from threadpoolctl import threadpool_limits
from tqdm import tqdm

if TYPE_CHECKING:
    from ssmlab import nn, tasks

HELP = {
    "quick": "run on small sizes, and keep nothing",
    "resume": "make only the runs that the record does not hold",
}


def command(main: Callable[..., None]) -> None:
    """Call a script's ``main`` on one thread, with its switches from the command line."""
    doc = inspect.getmodule(main).__doc__ or ""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    for name in inspect.signature(main).parameters:
        parser.add_argument(f"--{name}", action="store_true", help=HELP[name])
    options = vars(parser.parse_args())
    with one_thread():
        main(**options)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep NumPy, and torch if it is there, to one thread."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    with threadpool_limits(1):
        yield


@contextmanager
def record(script: str, quick: bool) -> Iterator[Path]:
    """Give the path of a script's record; in quick mode, of one that goes away."""
    path = Path(script).with_suffix(".json")
    if not quick:
        yield path
        return
    with TemporaryDirectory() as folder:
        yield Path(folder, path.name)


def few(sizes: tuple[int, ...], quick: bool) -> tuple[int, ...]:
    """Keep all sizes; in quick mode, take two small ones instead."""
    return (8, 16) if quick else sizes


def pace(quick: bool, **settings: Any) -> dict[str, Any]:
    """Keep the settings of ``timing.compare``; in quick mode, one call is enough."""
    return {"warmup": 0, "repeat": 1, "seconds": 1e-6} if quick else settings


def batches(
    draw: Callable[[np.random.Generator], tasks.Batch], seed: int
) -> Iterator[tasks.Batch]:
    """Draw batches for ever."""
    rng = np.random.default_rng(seed)
    while True:
        yield draw(rng)


def answers_right(
    model: nn.LanguageModel, batch: tasks.Batch, at_once: int
) -> float:
    """Give the share of right answers, a few sequences at a time."""
    import torch

    tokens, targets = map(torch.tensor, batch)
    with torch.no_grad():
        answers = [
            model(part)[:, -targets.shape[1] :].argmax(-1)
            for part in tokens.split(at_once)
        ]
    return (torch.cat(answers) == targets).double().mean().item()


def make_runs(
    path: Path,
    key: str,
    setup: dict[str, Any],
    run: Callable[[str, int], dict[str, Any]],
    todo: Sequence[tuple[str, int]],
    *,
    resume: bool,
) -> None:
    """Make a run for each (model, seed), and write the record after each."""
    rows = results.load_results(path)["results"][key] if resume else []
    done = {(row["model"], row["seed"]) for row in rows}
    for model, seed in tqdm([pair for pair in todo if pair not in done]):
        rows.append(run(model, seed))
        results.save_results(path, setup | {key: rows})
