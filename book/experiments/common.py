"""What the experiments share: the command line, where a record goes, batches, answers, runs.

Every script measures anew what its record, the JSON file of the same name, holds:

    make experiments/three_views
    python book/experiments/three_views.py

``--quick`` runs it on small sizes and keeps nothing; the tests do that. Where a script has
``--resume``, it writes its record after each run, and goes on from there after an interruption;
``--workers 4`` makes four runs at a time. Trainings take the GPU, if torch finds one.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from ssmlab import results
from threadpoolctl import threadpool_limits
from tqdm import tqdm

if TYPE_CHECKING:
    from ssmlab import nn, tasks

Case = dict[
    str, Any
]  # what tells one run from the others, such as model and seed

HELP = {
    "quick": "run on small sizes, and keep nothing",
    "resume": "make only the runs that the record does not hold",
    "workers": "make so many runs at a time",
    "commit": "the commit, where there is no git",
}


def command(main: Callable[..., None]) -> None:
    """Call a script's ``main`` on one thread, with its switches from the command line."""
    doc = inspect.getmodule(main).__doc__ or ""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    for name, parameter in inspect.signature(main).parameters.items():
        kind: dict[str, Any] = {"action": "store_true"}
        if parameter.default is not False:
            kind = {"type": type(parameter.default)}
            kind["default"] = parameter.default
        parser.add_argument(f"--{name}", help=HELP[name], **kind)
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


def device() -> str:
    """Take the GPU if torch finds one; the record then names it."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.init()
    return "cuda"


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
    return by_answer(model, batch, at_once).mean().item()


def by_answer(
    model: nn.LanguageModel, batch: tasks.Batch, at_once: int
) -> np.ndarray:
    """Give the share of right answers to each question of a sequence."""
    import torch

    where = model.embedding.weight.device
    tokens, targets = (torch.tensor(part, device=where) for part in batch)
    with torch.no_grad():
        answers = [
            model(part)[:, -targets.shape[1] :].argmax(-1)
            for part in tokens.split(at_once)
        ]
    right = torch.cat(answers) == targets
    return right.double().mean(0).cpu().numpy()


def grid(**choices: Iterable[Any]) -> list[Case]:
    """Combine all choices; the first varies slowest."""
    return [
        dict(zip(choices, values, strict=True))
        for values in itertools.product(*choices.values())
    ]


def make_runs(
    path: Path,
    key: str,
    setup: dict[str, Any],
    run: Callable[[Case], dict[str, Any]],
    todo: list[Case],
    *,
    resume: bool = False,
    workers: int = 1,
    commit: str = "",
) -> None:
    """Make a run for each case, and write the record after each."""

    def place(row: dict[str, Any]) -> int:
        return todo.index({name: row[name] for name in todo[0]})

    rows = results.load_results(path)["results"][key] if resume else []
    done = {place(row) for row in rows}
    left = [case for i, case in enumerate(todo) if i not in done]
    for row in tqdm(side_by_side(run, left, workers), total=len(left)):
        rows = sorted([*rows, row], key=place)
        results.save_results(path, setup | {key: rows}, commit=commit or None)


def side_by_side(
    run: Callable[[Case], dict[str, Any]], cases: list[Case], workers: int
) -> Iterator[dict[str, Any]]:
    """Make the runs, in so many processes; each comes with its case, when it is ready."""
    if workers == 1:
        yield from map(partial(alone, run), cases)
        return
    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(partial(alone, run), cases)


def alone(run: Callable[[Case], dict[str, Any]], case: Case) -> dict[str, Any]:
    """Make one run on one thread."""
    with one_thread():
        return case | run(case)
