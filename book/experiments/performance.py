"""Measure the rungs of the ladder on this CPU; performance.json holds what chapter 14 prints.

One thread, float32, batch 1, 256 channels, state 16, except where it says otherwise. The rates are
state updates a second, so that the slowest rung may run a shorter sequence. Run it anew on a quiet
machine, with mambapy and transformers installed if they are to be among the peers, with

    python book/experiments/performance.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, no_type_check

import common
import numpy as np
import torch
from numba import njit
from ssmlab import bench, results, timing
from ssmlab.bench import ladder, peers, roofline

SIZE: dict[str, Any] = {"channels": 256, "length": 4096, "state": 16}
COPIES = tuple(2**k for k in range(14, 28))  # bytes of a copy
LENGTHS = (128, 256, 512, 1024)
SMALL: dict[str, Any] = {"channels": 4, "length": 32, "state": 2}


def rungs(size: dict[str, int], quick: bool) -> dict[str, Any]:
    """Forward passes of the rungs that ``ssmlab.bench`` does not have, in turns."""
    channels, state = size["channels"], size["state"]
    few, many = (
        ladder.problem(length, channels, state)
        for length in (16, size["length"])
    )
    lists = [v.tolist() for v in few]
    timings = timing.compare(
        {
            "Python": partial(ladder.python_loop, *lists),
            "NumPy, store all": partial(ladder.store_all, *many),
            "NumPy, keep h": partial(ladder.keep_h, *many),
            "compiled loop": partial(ladder.compiled_loop, *many),
        },
        **common.pace(quick, seconds=0.7, repeat=7),
    ).timings
    length = dict.fromkeys(timings, size["length"]) | {"Python": 16}
    return {
        name: {
            "timing": of,
            "updates_per_second": length[name] * channels * state / of.median,
        }
        for name, of in timings.items()
    }


def benchmark(size: dict[str, int], *arguments: str) -> dict[str, Any]:
    """What ``python -m ssmlab.bench`` writes."""
    sizes = [str(part) for k, v in size.items() for part in (f"--{k}", v)]
    with TemporaryDirectory() as folder:
        file = str(Path(folder, "bench.json"))
        bench.main([*sizes, *arguments, "--file", file])
        return results.load_results(file)["results"]


WAYS: dict[str, Callable[[torch.Tensor], Iterable[torch.Tensor]]] = {
    "a[:, t]": lambda a: (a[:, t] for t in range(a.shape[1])),
    "unbind": lambda a: a.unbind(1),
}


def walk(way: str, a: torch.Tensor) -> None:
    """Forward and backward of a loop over slices of one kind."""
    h = torch.zeros_like(a[:, 0])
    for a_t in WAYS[way](a):
        h = a_t * h + 1
    torch.autograd.grad(h.sum(), a)


def slices(lengths: tuple[int, ...], quick: bool) -> dict[str, Any]:
    """Forward and backward of a loop over x[:, t], and over unbind; 64 channels, state 16."""
    rows = []
    for length in lengths:
        a = torch.rand(1, length, 64, 16, requires_grad=True)
        rows.append(
            timing.compare(
                {way: partial(walk, way, a) for way in WAYS},
                **common.pace(quick, seconds=0.1, repeat=5),
            )
        )
    return {
        "lengths": lengths,
        "seconds": {way: [row.medians[way] for row in rows] for way in WAYS},
        "ratios": [1 / row.ratios["unbind"] for row in rows],
    }


def exponential() -> dict[str, Any]:
    """NumPy's exponential against its multiplication, both in the cache."""
    x = ladder.problem(16)[0]
    v, out = -(x.ravel() ** 2), np.empty(x.size, np.float32)
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


@no_type_check
@njit(fastmath=True)
def multiply_adds(v, a, b, rounds):
    """Do nothing else, in registers."""
    for _ in range(rounds):
        for i in range(128):
            v[i] = a * v[i] + b


def machine() -> dict[str, float]:
    """The three ceilings of one thread."""
    v, rounds = np.ones(128, np.float32), 2000
    a, b = np.float32(0.5), np.float32(0.5)
    seconds = min(
        timing.measure(lambda: multiply_adds(v, a, b, rounds)).samples
    )
    return {
        "bytes": roofline.bytes_per_second(),
        "exponentials": roofline.exponentials_per_second(),
        "multiply_adds": len(v) * rounds / seconds,
    }


MEMORY = {
    "compiled": "cpu",
    "torch loop": "torch",
    "associative_scan": "associative_scan",
    "mambapy": "mambapy",
}


def extra_bytes(name: str, **size: Any) -> int:
    """Peak memory that one forward and backward pass adds; Linux tells it since the last reset."""
    scan = peers.scans()[name]
    peers.both(scan, peers.problem(length=16))
    long = peers.problem(**size)
    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    peers.both(scan, long)
    return 1024 * (kilobytes("VmHWM") - before)


def kilobytes(field: str) -> int:
    """Read a size from the status of this process."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{field}:\s+(\d+)", status)[0])


def on(threads: int, run: Callable[..., None], *arguments: Any) -> None:
    """Run something on so many threads."""
    torch.set_num_threads(threads)
    run(*arguments)


def threads(quick: bool = False, **size: Any) -> dict[str, Any]:
    """The kernel on one thread and on two, in turns."""
    scan, arguments = peers.scans()["cpu"], peers.problem(**size)
    measured = {}
    for name, run in {
        "forward": peers.forward,
        "forward and backward": peers.both,
    }.items():
        turns = timing.compare(
            {
                "one": partial(on, 1, run, scan, arguments),
                "two": partial(on, 2, run, scan, arguments),
            },
            **common.pace(quick, repeat=15, seconds=1.5),
        )
        measured[name] = {
            "seconds": turns.medians,
            "times as fast": 1 / turns.ratios["two"],
        }
    torch.set_num_threads(1)
    return measured


def in_a_process(call: str) -> Any:
    """Ask a fresh Python for what a call of this module returns.

    The peak of its memory is that of the call. And after each of its own loops torch keeps its second
    thread awake for a while, on a core that the kernel could use; OpenMP is told not to, which works
    only before torch is imported.
    """
    code = (
        "import json, common, performance\n"
        "with common.one_thread():\n"
        f"    print(json.dumps(performance.{call}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main(quick: bool = False) -> None:
    """Measure and write the record."""
    fast = ["cpu", "torch", "associative_scan"]
    fast += ["mambapy"] if find_spec("mambapy") else []
    size, measure = SIZE, ["--seconds", "2.5", "--repeat", "5"]
    if quick:
        size, measure = SMALL, ["--seconds", "1e-6", "--repeat", "1"]

    def memory_of(name: str) -> int:
        if quick:
            return extra_bytes(name, **size)
        return in_a_process(f"extra_bytes({name!r})")

    measured = {
        "size": size,
        "ceilings": machine(),
        "exponential": exponential(),
        "rungs": rungs(size, quick),
        "bench": benchmark(size, "--only", *fast, *measure),
        "short": benchmark(
            size | {"length": size["length"] // 4}, "--patience", "2", *measure
        ),
        "threads": threads(quick, **size)
        if quick
        else in_a_process("threads()"),
        "slices": slices(common.few(LENGTHS, quick), quick),
        "copies": {
            "sizes": common.few(COPIES, quick),
            "bytes_per_second": [
                roofline.bytes_per_second(size=n)
                for n in common.few(COPIES, quick)
            ],
        },
        "extra_bytes": {
            label: memory_of(name) if name in fast else None
            for label, name in MEMORY.items()
        },
    }
    packages = peers.versions(list(peers.scans()))
    with common.record(__file__, quick) as path:
        results.save_results(path, measured, packages=packages)


if __name__ == "__main__":
    common.command(main)
