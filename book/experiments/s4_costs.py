"""Measure what S4's kernel and step cost; s4_costs.json holds what chapter 9 prints.

One BLAS thread, double precision, one channel of LegS, bilinear. The kernels are timed against the
length L at 64 states and against the number of states N at L = 4096, one step against N. Run it
anew on another machine with

    python book/experiments/s4_costs.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import common
import numpy as np
from ssmlab import lti, results, s4, timing

LENGTHS = tuple(2**k for k in range(10, 16))
STATES = (16, 32, 64, 128, 256, 512)
DT = 0.01
STEPS = 256
LENGTH = 4096  # where the number of states changes


class Case:
    """One channel: its modes, the same system dense, and C tilde."""

    def __init__(self, length: int, state: int) -> None:
        Lambda, P, B, V = s4.dplr(state)
        C = np.random.default_rng(0).normal(size=state) @ V
        self.length, self.modes = length, (Lambda, P, B, C)
        self.dense = s4.system(*self.modes).discretize(DT, "bilinear")
        self.C_tilde = s4.truncate(Lambda, P, C, DT, length)
        self.x = np.random.default_rng(1).normal(size=STEPS)


KERNELS: dict[str, Callable[[Case], object]] = {
    "tap by tap": lambda case: lti.kernel(case.dense, case.length),
    "in blocks": lambda case: s4.kernel_in_blocks(case.dense, case.length),
    "S4, C given": lambda case: s4.kernel(*case.modes, DT, case.length),
    "S4, C tilde given": lambda case: np.fft.irfft(
        s4.generating_function(*case.modes[:3], case.C_tilde, DT, case.length),
        case.length,
    ),
}
STEP: dict[str, Callable[[Case], object]] = {
    "dense A_bar": lambda case: lti.recurrence(case.dense, case.x),
    "diagonal plus rank one": lambda case: s4.recurrence(
        *case.modes, DT, case.x
    ),
}


def sweep(
    ways: dict[str, Callable[[Case], object]],
    sizes: tuple[int, ...],
    cases: list[Case],
    quick: bool,
    calls: int = 1,
) -> dict[str, Any]:
    """Time all ways in turns, size by size."""
    measured = [
        timing.compare(
            {name: partial(run, case) for name, run in ways.items()},
            **common.pace(quick, repeat=15, seconds=0.05),
        ).timings
        for case in cases
    ]
    return {
        name: {
            "sizes": sizes,
            "seconds": [t[name].median / calls for t in measured],
            "quartiles": [
                [q / calls for q in t[name].quartiles] for t in measured
            ],
        }
        for name in ways
    }


def main(quick: bool = False) -> None:
    """Measure and write the record."""
    lengths, states = (common.few(sizes, quick) for sizes in (LENGTHS, STATES))
    by_length = [Case(L, 64) for L in lengths]
    length = lengths[0] if quick else LENGTH
    by_state = [Case(length, N) for N in states]
    measured = {
        "length": sweep(KERNELS, lengths, by_length, quick),
        "state": sweep(KERNELS, states, by_state, quick),
        "step": sweep(STEP, states, by_state, quick, calls=STEPS),
    }
    with common.record(__file__, quick) as path:
        results.save_results(path, measured)


if __name__ == "__main__":
    common.command(main)
