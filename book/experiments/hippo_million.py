"""Measure a million samples in 256 numbers; hippo_million.json holds the table.

One BLAS thread, double precision. Every way to keep the LegS coefficients is
timed in the same run; the slow ones on fewer samples, from sample 1000 on, so
compare samples a second. Then the memory that a long signal takes, the
disagreement with a projection that was computed apart, and what 256 numbers
can hold. Run it anew on another machine with

    python book/experiments/hippo_million.py
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import common
import numpy as np
from numpy.polynomial import legendre
from scipy.linalg import solve_triangular
from scipy.special import spherical_jn
from ssmlab import results, timing
from ssmlab.hippo import LegSMemory, legs, legs_discrete, legs_step

N = 256
LENGTH = 1_000_000
FIRST = 1000  # where the slow ways begin
BLOCK = 10_000
CYCLES = (60, 65, 70, 72, 74, 76, 78, 80, 82, 85, 90, 100)


def fed(x: np.ndarray, block: int) -> np.ndarray:
    """Feed a memory block by block and ask it once."""
    memory = LegSMemory(N)
    for start in range(0, len(x), block):
        memory.feed(x[start : start + block])
    return memory.coefficients()


def one_by_one(x: np.ndarray) -> np.ndarray:
    """Feed a memory sample by sample and ask it once."""
    memory = LegSMemory(N)
    for x_k in x:
        memory.feed(x_k)
    return memory.coefficients()


def stepped(x: np.ndarray, method: str) -> np.ndarray:
    """Make one step of the library for each sample."""
    c = np.zeros(N)
    for k, x_k in enumerate(x, start=FIRST):
        c = legs_step(c, x_k, k, method)
    return c


def solved(x: np.ndarray) -> np.ndarray:
    """Make the bilinear step with one triangular system for each sample."""
    (A, B), I, c = legs(N), np.eye(N), np.zeros(N)
    for k, x_k in enumerate(x, start=FIRST + 1):
        right = c + A @ c / (2 * k) + B * (x_k / k)
        c = solve_triangular(I - A / (2 * k), right, lower=True)
    return c


def naive(x: np.ndarray, method: str) -> np.ndarray:
    """Form the matrices of every step, then multiply."""
    c = np.zeros(N)
    for k, x_k in enumerate(x, start=FIRST):
        A_bar, B_bar = legs_discrete(N, k, method)
        c = A_bar @ c + B_bar * x_k
    return c


WAYS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "exact, one block": (LENGTH, lambda x: fed(x, len(x))),
    "exact, blocks of 1000": (LENGTH, lambda x: fed(x, 1000)),
    "exact, one sample at a time": (20_000, one_by_one),
    "exact, one step of O(N^2)": (100, lambda x: stepped(x, "exact")),
    "bilinear, one step of O(N)": (2000, lambda x: stepped(x, "bilinear")),
    "bilinear, one triangular solve": (200, solved),
    "bilinear, matrices of every step": (20, lambda x: naive(x, "bilinear")),
    "exact, matrices of every step": (5, lambda x: naive(x, "exact")),
}


def speed(x: np.ndarray, quick: bool) -> list[dict[str, Any]]:
    """Time all ways in turns; a shorter signal is shorter for all of them."""
    fed_to = {
        way: max(2, samples * len(x) // LENGTH)
        for way, (samples, _) in WAYS.items()
    }
    calls = {
        way: partial(run, x[: fed_to[way]]) for way, (_, run) in WAYS.items()
    }
    table = timing.compare(
        calls, **common.pace(quick, warmup=1, repeat=9, seconds=0.01)
    )
    rows = []
    for way, samples in fed_to.items():
        measured = table.timings[way]
        slow, fast = (samples / s for s in reversed(measured.quartiles))
        rows.append(
            {
                "way": way,
                "samples": samples,
                "samples_per_second": samples / measured.median,
                "quartiles": [slow, fast],
                "timing": measured,
            }
        )
    return rows


def memory_taken(length: int) -> dict[str, int]:
    """Count the bytes at the peak, and those kept, while a signal streams by."""
    t = np.arange(BLOCK)
    LegSMemory(N).feed(np.zeros(BLOCK))  # the tables, made once for each N
    tracemalloc.start()
    memory = LegSMemory(N)
    for start in range(0, length, BLOCK):
        memory.feed(np.sin((start + t) / 1000))
    memory.coefficients()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = sum(array.nbytes for array in memory.save().values())
    return {"length": length, "peak_bytes": peak, "kept_bytes": kept}


def projected_in_extended_precision(x: np.ndarray) -> np.ndarray:
    """Project a staircase by one sum over all its steps, apart from ssmlab."""
    c = np.zeros(N, np.longdouble)
    n = np.arange(1, N).astype(np.longdouble)
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        edge = np.arange(start, start + len(part) + 1).astype(np.longdouble)
        z = 2 * edge / len(x) - 1
        P = legendre.legvander(z, N)
        areas = (P[:, 2:] - P[:, :-2]) / (2 * np.sqrt(2 * n + 1))
        c[0] += part.astype(np.longdouble).sum() / len(x)
        c[1:] += part @ np.diff(areas, axis=0)
    return c


def disagreement(x: np.ndarray) -> float:
    """Compare the memory's coefficients with the projection: the largest gap, by the rms of x."""
    gap = np.abs(fed(x, len(x)) - projected_in_extended_precision(x)).max()
    return float(gap / np.sqrt(np.mean(x**2)))


def error_of_a_sine(cycles: int, length: int) -> dict[str, float]:
    """Redraw cos and sin of so many cycles; beside it, what degrees from N on should hold."""
    t = np.arange(length) + 0.5
    angle = 2 * np.pi * cycles * t / length
    wave = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    memory = LegSMemory(N, channels=2)
    memory.feed(wave)
    redrawn = memory.reconstruct(t[::7])
    error = np.sqrt(np.mean(np.square(redrawn - wave[::7]).sum(axis=-1)))
    n = np.arange(N, N + 1000)
    tail = np.sum((2 * n + 1) * spherical_jn(n, np.pi * cycles) ** 2)
    return {
        "cycles": cycles,
        "error": float(error),
        "theory": float(np.sqrt(tail)),
    }


def main(quick: bool = False) -> None:
    """Measure everything and write the record."""
    length = BLOCK if quick else LENGTH
    rng = np.random.default_rng(0)
    r = (np.arange(length) + 0.5) / length
    noise = rng.normal(size=length)
    waves = np.zeros(length)
    for f in range(1, 76):
        waves += rng.normal() * np.sin(2 * np.pi * (f * r + rng.uniform()))
    measured = {
        "N": N,
        "speed": speed(noise, quick),
        "memory": [memory_taken(length * n // 10) for n in (1, 10, 100)],
        "disagreement": {
            "white noise": disagreement(noise),
            "sines of 1 to 75 cycles": disagreement(waves),
            "the constant 1": disagreement(np.ones(length)),
        },
        "resolution": [
            error_of_a_sine(cycles, length)
            for cycles in common.few(CYCLES, quick)
        ],
    }
    with common.record(__file__, quick) as path:
        results.save_results(path, measured)


if __name__ == "__main__":
    common.command(main)
