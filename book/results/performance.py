"""Measure the rungs of the ladder on this CPU; performance.json holds what chapter 13 prints.

One thread, float32, batch 1, 256 channels, state 16, except where it says otherwise. The rates are
state updates a second, so that the slowest rungs may run a shorter sequence. Run it anew, with
mambapy and transformers installed if they are to be among the peers, with

    python book/results/performance.py
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numba import njit
from ssmlab import bench, timing
from ssmlab.ops import ceilings
from threadpoolctl import threadpool_limits

CHANNELS, LENGTH, STATE = 256, 4096, 16
SIZES = tuple(2**k for k in range(14, 28))  # bytes of a copy
LENGTHS = (128, 256, 512, 1024)


def problem(length: int) -> tuple[np.ndarray, ...]:
    """x, dt, A, B and C of one sequence."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(length, CHANNELS))
    dt = rng.uniform(0.001, 0.1, size=(length, CHANNELS))
    A = -np.tile(np.arange(1.0, STATE + 1), (CHANNELS, 1))
    B, C = rng.normal(size=(2, length, STATE))
    return tuple(v.astype(np.float32) for v in (x, dt, A, B, C))


def python(x: list, dt: list, A: list, B: list, C: list) -> list:
    """One number at a time."""
    h = [[0.0] * len(A[0]) for _ in A]
    y = []
    for x_t, dt_t, B_t, C_t in zip(x, dt, B, C, strict=True):
        row = []
        for d, (u, step) in enumerate(zip(x_t, dt_t, strict=True)):
            total = 0.0
            for n, a in enumerate(A[d]):
                h[d][n] = math.exp(step * a) * h[d][n] + step * B_t[n] * u
                total += C_t[n] * h[d][n]
            row.append(total)
        y.append(row)
    return y


def store(x: np.ndarray, dt: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Every a_t, b_t and h_t in memory."""
    A, B, C = others
    a = np.exp(dt[:, :, None] * A)
    h = (dt * x)[:, :, None] * B[:, None]
    for t in range(1, len(x)):
        h[t] += a[t] * h[t - 1]
    return (C[:, None] * h).sum(-1)


def keep(x: np.ndarray, dt: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Only the last state in memory."""
    A, B, C = others
    h, y = np.zeros_like(A), np.empty_like(x)
    for t in range(len(x)):
        h = np.exp(dt[t, :, None] * A) * h + (dt[t] * x[t])[:, None] * B[t]
        y[t] = (C[t] * h).sum(-1)
    return y


@njit(cache=False)
def compiled(x, dt, A, B, C):  # noqa: D103 - as the rungs above
    h, y = np.zeros_like(A), np.empty_like(x)
    for t in range(x.shape[0]):
        for d in range(x.shape[1]):
            total = np.float32(0)
            for n in range(A.shape[1]):
                decay = math.exp(dt[t, d] * A[d, n])
                h[d, n] = decay * h[d, n] + dt[t, d] * x[t, d] * B[t, n]
                total += C[t, n] * h[d, n]
            y[t, d] = total
    return y


def rungs() -> dict[str, Any]:
    """Forward passes that only this script has, in turns."""
    few, many = problem(16), problem(LENGTH)
    lists = [v.tolist() for v in few]
    timings = timing.compare(
        {
            "Python": lambda: python(*lists),
            "NumPy, store all": lambda: store(*many),
            "NumPy, keep h": lambda: keep(*many),
            "compiled loop": lambda: compiled(*many),
        },
        seconds=0.7,
        repeat=7,
    ).timings
    length = dict.fromkeys(timings, LENGTH) | {"Python": 16}
    return {
        name: {
            "timing": of,
            "updates_per_second": length[name] * CHANNELS * STATE / of.median,
        }
        for name, of in timings.items()
    }


def benchmark(*arguments: str) -> dict[str, Any]:
    """What ``python -m ssmlab.bench`` writes."""
    with TemporaryDirectory() as folder:
        file = str(Path(folder, "bench.json"))
        bench.main([*arguments, "--file", file])
        return timing.load_results(file)["results"]


def slices(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    """Forward and backward of a loop over x[:, t], and over unbind; 64 channels, state 16."""

    def run(v: torch.Tensor, parts: Any) -> None:
        a = v.requires_grad_()
        h = torch.zeros(1, 64, 16)
        for a_t in parts(a):
            h = a_t * h + 1
        torch.autograd.grad(h.sum(), a)

    ways = {
        "a[:, t]": lambda a: (a[:, t] for t in range(a.shape[1])),
        "unbind": lambda a: a.unbind(1),
    }
    rows = []
    for length in lengths:
        v = torch.rand(1, length, 64, 16)
        rows.append(
            timing.compare(
                {
                    name: lambda v=v, parts=parts: run(v, parts)
                    for name, parts in ways.items()
                },
                seconds=0.1,
                repeat=5,
            )
        )
    return {
        "lengths": lengths,
        "seconds": {k: [row.medians[k] for row in rows] for k in ways},
        "ratios": [1 / row.ratios["unbind"] for row in rows],
    }


def exponential() -> dict[str, Any]:
    """NumPy's exponential against its multiplication, both in the cache."""
    v, out = -(problem(16)[0].ravel() ** 2), np.empty(16 * CHANNELS, np.float32)
    turns = timing.compare(
        {
            "multiply": lambda: np.multiply(v, v, out=out),
            "exp": lambda: np.exp(v, out=out),
        },
        seconds=0.1,
    )
    return {
        "timings": turns.timings,
        "multiplications": turns.ratios["exp"],
    }


@njit(fastmath=True)
def _multiply_adds(v, a, b, rounds):
    for _ in range(rounds):
        for i in range(128):
            v[i] = a * v[i] + b


def machine() -> dict[str, float]:
    """The three ceilings of one thread."""
    v, rounds = np.ones(128, np.float32), 2000
    a, b = np.float32(0.5), np.float32(0.5)
    seconds = min(
        timing.measure(lambda: _multiply_adds(v, a, b, rounds)).samples
    )
    return {
        "bytes": ceilings.bytes_per_second(),
        "exponentials": ceilings.exponentials_per_second(),
        "multiply_adds": len(v) * rounds / seconds,
    }


MEMORY = {
    "compiled": "cpu",
    "torch loop": "torch",
    "associative_scan": "associative_scan",
    "mambapy": "mambapy",
}


def extra_bytes(name: str) -> int | None:
    """Peak memory that one forward and backward pass adds, in its own process.

    Linux tells the peak since it was last reset; elsewhere there is no number.
    """
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else None


def _extra_bytes(name: str) -> int:
    options = bench._parser().parse_args(["--only", name])
    scan = bench._scans(options)[name]
    bench._both(scan, bench._problem(options, 16))
    long = bench._problem(options, options.length)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    bench._both(scan, long)
    return 1024 * (_kilobytes("VmHWM") - before)


def threads() -> dict[str, Any]:
    """The kernel on one thread and on two, in turns, in its own process.

    After each of its own loops torch keeps its second thread awake for a while, on a core that the
    kernel could use. OpenMP is told not to, which works only before torch is imported.
    """
    done = subprocess.run(
        [sys.executable, __file__, "threads"],
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def _threads() -> dict[str, Any]:
    options = bench._parser().parse_args(["--only", "cpu"])
    scan = bench._scans(options)["cpu"]
    arguments = bench._problem(options, options.length)

    def on(threads: int, run: Callable[..., None]) -> Callable[[], None]:
        def call() -> None:
            torch.set_num_threads(threads)
            run(scan, arguments)

        return call

    results = {}
    for name, run in {
        "forward": bench._forward,
        "forward and backward": bench._both,
    }.items():
        turns = timing.compare(
            {"one": on(1, run), "two": on(2, run)}, repeat=15, seconds=1.5
        )
        results[name] = {
            "seconds": turns.medians,
            "times as fast": 1 / turns.ratios["two"],
        }
    return results


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1])


def main() -> None:
    """Measure and write the result file."""
    fast = ("--only", "cpu", "torch", "associative_scan")
    try:
        import mambapy  # noqa: F401

        fast += ("mambapy",)
    except ModuleNotFoundError:
        pass
    quick = ("--seconds", "2.5", "--repeat", "5")
    results = {
        "size": {"channels": CHANNELS, "length": LENGTH, "state": STATE},
        "ceilings": machine(),
        "exponential": exponential(),
        "rungs": rungs(),
        "bench": benchmark(*fast, *quick),
        "short": benchmark("--length", "1024", "--patience", "2", *quick),
        "threads": threads(),
        "slices": slices(),
        "copies": {
            "sizes": SIZES,
            "bytes_per_second": [
                ceilings.bytes_per_second(size=n) for n in SIZES
            ],
        },
        "extra_bytes": {k: extra_bytes(v) for k, v in MEMORY.items()},
    }
    timing.save_results(Path(__file__).with_suffix(".json"), results)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with threadpool_limits(1):
        if sys.argv[1:] == ["threads"]:
            print(json.dumps(_threads()))
        elif len(sys.argv) > 1:
            print(_extra_bytes(sys.argv[1]))
        else:
            main()
