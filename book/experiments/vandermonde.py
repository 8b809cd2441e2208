"""Measure the kernel of chapter 10 in two ways; vandermonde.json holds what the chapter prints.

64 channels of 32 modes, double precision, one thread: the table of all powers and its sum, and the
blocked product of ssmlab.diagonal. Run it anew on another machine with

    python book/experiments/vandermonde.py
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import numpy as np
from ssmlab import diagonal, results, timing

CHANNELS, MODES = 64, 32
LENGTHS = tuple(2**k for k in range(8, 15))


def table(weights: np.ndarray, z: np.ndarray, length: int) -> np.ndarray:
    """Sum the columns of the table of all powers."""
    powers = np.exp(z[..., None] * np.arange(length))
    return np.einsum("cn,cnl->lc", weights, powers).real


def blocked(weights: np.ndarray, z: np.ndarray, length: int) -> np.ndarray:
    """Multiply two tables of about sqrt(length) columns."""
    return diagonal.vandermonde(weights, np.exp(z), length)


WAYS = {"table": table, "blocked": blocked}


def peak(run: Callable[[], object]) -> int:
    """Give the most bytes that were allocated at one time."""
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def main(quick: bool = False) -> None:
    """Measure both ways at each length and write the record."""
    rng = np.random.default_rng(0)
    steps = np.exp(rng.uniform(np.log(0.001), np.log(0.1), CHANNELS))
    z = steps[:, None] * diagonal.legs(2 * MODES)[0]
    weights = rng.normal(size=z.shape) + 1j * rng.normal(size=z.shape)
    rows: list[dict[str, Any]] = []
    for length in common.few(LENGTHS, quick):
        runs = {
            name: partial(way, weights, z, length) for name, way in WAYS.items()
        }
        one, other = (run() for run in runs.values())
        np.testing.assert_allclose(one, other, atol=1e-9)
        measured = timing.compare(runs, **common.pace(quick))
        rows += [
            {
                "way": name,
                "length": length,
                "seconds": measured.medians[name],
                "quartiles": measured.timings[name].quartiles,
                "bytes": peak(run),
            }
            for name, run in runs.items()
        ]
    with common.record(__file__, quick) as path:
        results.save_results(path, rows)


if __name__ == "__main__":
    common.command(main)
