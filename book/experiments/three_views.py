"""Measure the three views of chapter 4; three_views.json holds what the chapter prints.

One BLAS thread, double precision, a dense A_bar. Each view is timed against the length L at 64
states, and against the number of states N at L = 256. Run it anew on another machine with

    python book/experiments/three_views.py
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import numpy as np
from ssmlab import DiscreteStateSpace, lti, results, timing

STATES = (128, 256, 512, 1024)
SHORT = tuple(2**k for k in range(10, 15))
LONG = tuple(2**k for k in range(14, 21))


@dataclass(frozen=True)
class Case:
    """A system, a signal, a kernel as long as the signal, and a state."""

    system: DiscreteStateSpace
    x: np.ndarray
    K_bar: np.ndarray
    h: np.ndarray


@dataclass(frozen=True)
class View:
    """One way to compute the output: what runs, the products that it should take, what it keeps.

    `kept` gives the bytes that must survive until the next token; where it is None, the memory of
    the view is the peak of what the call allocates.
    """

    form: str
    name: str
    lengths: tuple[int, ...]
    run: Callable[[Case], object]
    products: Callable[[int, int], float]
    kept: Callable[[Case], int] | None = None


def step(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """One more token by the recurrence."""
    h = case.system.A_bar @ case.h + case.system.B_bar * case.x[-1]
    return case.system.C @ h + case.system.D * case.x[-1], h


VIEWS = (
    View(
        "whole sequence",
        "recurrence",
        SHORT,
        lambda case: lti.recurrence(case.system, case.x),
        lambda L, N: L * (N**2 + 2 * N),
    ),
    View(
        "whole sequence",
        "kernel, tap by tap",
        SHORT,
        lambda case: lti.kernel(case.system, len(case.x)),
        lambda L, N: L * (N**2 + N),
    ),
    View(
        "whole sequence",
        "FFT, kernel given",
        LONG,
        lambda case: lti.convolve(case.x, case.K_bar),
        lambda L, N: 6 * L * np.log2(2 * L),
    ),
    View(
        "whole sequence",
        "direct, kernel given",
        SHORT,
        lambda case: np.convolve(case.x, case.K_bar)[: len(case.x)],
        lambda L, N: L**2,
    ),
    View(
        "one more token",
        "recurrence",
        LONG,
        step,
        lambda L, N: N**2 + 2 * N,
        lambda case: case.h.nbytes,
    ),
    View(
        "one more token",
        "sum over the history",
        LONG,
        lambda case: case.K_bar[::-1] @ case.x,
        lambda L, N: L,
        lambda case: case.x.nbytes + case.K_bar.nbytes,
    ),
)


def draw(L: int, N: int) -> Case:
    """Draw a stable system without structure. What is in the kernel does not matter for time."""
    rng = np.random.default_rng(0)
    A_bar = 0.999 * np.linalg.qr(rng.normal(size=(N, N)))[0]
    system = DiscreteStateSpace(A_bar, rng.normal(size=N), rng.normal(size=N))
    return Case(
        system, rng.normal(size=L), rng.normal(size=L), rng.normal(size=N)
    )


def peak(view: View, case: Case) -> int:
    """Give the most bytes that were allocated at one time."""
    tracemalloc.start()
    view.run(case)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def sweep(
    view: View, sizes: tuple[int, ...], cases: list[Case], quick: bool
) -> dict[str, Any]:
    """Measure one view at several sizes, in turns."""
    runs = {
        str(size): partial(view.run, case)
        for size, case in zip(sizes, cases, strict=True)
    }
    measured = timing.compare(runs, **common.pace(quick, warmup=2, repeat=25))
    memory = [
        view.kept(case) if view.kept else peak(view, case) for case in cases
    ]
    products = [
        float(view.products(len(case.x), len(case.h))) for case in cases
    ]
    return {
        "sizes": sizes,
        "seconds": [t.median for t in measured.timings.values()],
        "quartiles": [t.quartiles for t in measured.timings.values()],
        "bytes": memory,
        "slope_counted": timing.slope(sizes, products),
        "slope_measured": timing.slope(sizes, list(measured.ratios.values())),
        "slope_bytes": timing.slope(sizes, memory),
    }


def main(quick: bool = False) -> None:
    """Measure all views and write the record."""
    rows = []
    for view in VIEWS:
        lengths, states = (
            common.few(sizes, quick) for sizes in (view.lengths, STATES)
        )
        by_length = sweep(view, lengths, [draw(L, 64) for L in lengths], quick)
        by_state = sweep(view, states, [draw(256, N) for N in states], quick)
        rows.append(
            {"form": view.form, "view": view.name}
            | {"L": by_length, "N": by_state}
        )
    with common.record(__file__, quick) as path:
        results.save_results(path, rows)


if __name__ == "__main__":
    common.command(main)
