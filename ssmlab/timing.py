"""How to time code: warm up, repeat, take turns.

The first call is not like the others (caches fill, compilers run), so it is made but not counted.
One number is chance, so a call is timed several times, and the median and the quartiles are given:
an interruption moves the mean and leaves the median alone. Two programs timed one after the other
meet two different machines (it warms up, somebody else comes), so they are timed in turns. And a
GPU returns before it has finished, so we wait for it.

Three clocks can be read. "wall" tells the seconds that pass. "cpu" tells the CPU seconds of this
process, all its threads together, which other work on the machine disturbs less. "cuda" tells the
seconds between two events in torch's current CUDA stream, one before and one after each call.
Before each call it writes a quarter of a gigabyte, so that the call finds nothing in the cache, as
in a model; meanwhile its orders arrive, so that the price of a launch is not in the time. What a
chapter says of a time, and where it was measured, is kept by ``ssmlab.results``.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter, process_time

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
CLOCKS = ("wall", "cpu", "cuda")
COLD = 2**28  # bytes: more than the second-level cache of a GPU


@dataclass(frozen=True)
class Timing:
    """The seconds that one call took, once for each repeat; each repeat made ``calls`` calls.

    Examples
    --------
    >>> timing = Timing(samples=(0.0012, 0.0010, 0.0030), calls=8)
    >>> timing.median, timing.quartiles, timing.repeats
    (0.0012, (0.0011, 0.0021), 3)
    >>> print(timing)
    1.2 ms (quartiles 1.1 ms to 2.1 ms, 3 repeats of 8 calls)
    """

    samples: tuple[float, ...]
    calls: int = 1

    @property
    def median(self) -> float:
        """The middle of the samples, in seconds a call."""
        return float(np.median(self.samples))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The middle half of the samples lies between these two, in seconds a call."""
        lower, upper = np.percentile(self.samples, [25, 75])
        return float(lower), float(upper)

    @property
    def repeats(self) -> int:
        """How often it was timed."""
        return len(self.samples)

    def __str__(self) -> str:
        lower, upper = map(in_units, self.quartiles)
        return (
            f"{in_units(self.median)} (quartiles {lower} to {upper}, "
            f"{self.repeats} repeats of {self.calls} call{'s' * (self.calls > 1)})"
        )


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` measured: one Timing for each name; it prints as a table.

    Examples
    --------
    >>> a, b = Timing((2e-3, 4e-3, 8e-3)), Timing((1e-3, 2e-3, 4e-3))
    >>> print(Comparison({"loop": a, "FFT": b}))
    loop  4 ms  1
    FFT   2 ms  0.5
    """

    timings: dict[str, Timing]

    @property
    def medians(self) -> dict[str, float]:
        """Name -> median, in seconds a call."""
        return {name: timing.median for name, timing in self.timings.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """Name -> time as a multiple of the first one's: the median over the rounds of the ratio.

        Both terms of each ratio come from the same round, so what slows a whole round cancels.
        """
        first = np.array(next(iter(self.timings.values())).samples)
        return {name: float(np.median(t.samples / first)) for name, t in self.timings.items()}

    def __str__(self) -> str:
        rows = [(n, in_units(self.medians[n]), f"{ratio:.3g}") for n, ratio in self.ratios.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)


def in_units(seconds: float) -> str:
    """Write a time with three digits, in the unit that suits it.

    Examples
    --------
    >>> in_units(0.00123456), in_units(45e-9), in_units(0.9999)
    ('1.23 ms', '45 ns', '1 s')
    """
    rounded = float(f"{_check.number('seconds', seconds):.3g}")
    scale, unit = next((pair for pair in UNITS if rounded >= pair[0]), UNITS[-1])
    number = rounded / scale
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def measure(
    func: Callable[[], object],
    *,
    warmup: int = 1,
    repeat: int = 7,
    seconds: float = 0.2,
    clock: str = "wall",
) -> Timing:
    """Time a function of no arguments.

    Parameters
    ----------
    func : Callable
        What is timed; write ``lambda: f(x)`` to time f at x.
    warmup : int
        Calls before the first that counts.
    repeat : int
        How often it is timed.
    seconds : float
        About how long all repeats together should take: a fast function is called several times
        in each repeat, so that the clock has something to read.
    clock : {"wall", "cpu", "cuda"}
        What is read; the first two wait for torch's current GPU, if it is using one: for work on
        another, enter ``torch.cuda.device`` first.

    Examples
    --------
    >>> timing = measure(lambda: sum(range(1000)), repeat=5, seconds=0.01)
    >>> timing.repeats, timing.median < 1
    (5, True)
    """
    turns = compare({"": func}, warmup=warmup, repeat=repeat, seconds=seconds, clock=clock)
    return turns.timings[""]


def compare(
    functions: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 1,
    repeat: int = 7,
    seconds: float = 0.2,
    clock: str = "wall",
) -> Comparison:
    """Time several functions in turns, so that a machine that slows down slows all of them alike.

    Every second round runs backwards: a steady drift within a round cancels too. ``functions`` maps
    a name to a function of no arguments; the other arguments are those of ``measure``, for each
    function.

    Examples
    --------
    >>> result = compare({"sum": lambda: sum([1, 2]), "max": lambda: max([1, 2])}, seconds=0.01)
    >>> list(result.medians), result.ratios["sum"]
    (['sum', 'max'], 1.0)
    """
    if not functions:
        raise ValueError("functions must hold at least one function; got none: name what to time")
    for name, func in functions.items():
        _check.function(name or "func", func, "write lambda: f(x) to time f at x")
    warmup, repeat = _check.count("warmup", warmup, least=0), _check.count("repeat", repeat)
    seconds = _check.positive("seconds", seconds, "say how long to time, such as 0.2")
    read = partial(_collecting_no_garbage, _reader(clock))
    calls = {}
    for name, func in functions.items():
        for _ in range(warmup):
            func()
        calls[name] = 1
        while read(func, calls[name]) < seconds / repeat:
            calls[name] *= 2
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeat):
        for name in list(functions)[:: -1 if turn % 2 else 1]:
            samples[name].append(read(functions[name], calls[name]) / calls[name])
    return Comparison({name: Timing(tuple(samples[name]), calls[name]) for name in functions})


@dataclass
class Elapsed:
    """The seconds of one block: on the wall, and CPU seconds of this process."""

    wall: float = np.nan
    cpu: float = np.nan


@contextmanager
def stopwatch() -> Iterator[Elapsed]:
    """Time a block once, such as a training that nobody would repeat.

    Examples
    --------
    >>> with stopwatch() as took:
    ...     total = sum(range(1000))
    >>> 0 < took.wall < 60, 0 <= took.cpu < 60
    (True, True)
    """
    took = Elapsed()
    _wait_for_gpu()
    wall, cpu = perf_counter(), process_time()
    yield took
    _wait_for_gpu()
    took.wall, took.cpu = perf_counter() - wall, process_time() - cpu


Reader = Callable[[Callable[[], object], int], float]


def _reader(clock: str) -> Reader:
    """Choose what is read: (func, calls) -> seconds for all the calls."""
    if _check.choice("clock", clock, CLOCKS) == "cuda" and not _cuda_is_there():
        raise ValueError(
            "clock must fit the machine; got 'cuda', which needs torch and a GPU that it can "
            "use: take 'wall'"
        )
    if clock == "cuda":
        return _cuda_seconds
    return partial(_elapsed, perf_counter if clock == "wall" else process_time)


def _collecting_no_garbage(read: Reader, func: Callable[[], object], calls: int) -> float:
    collecting = gc.isenabled()
    gc.disable()
    try:
        return read(func, calls)
    finally:
        if collecting:
            gc.enable()


def _elapsed(now: Callable[[], float], func: Callable[[], object], calls: int) -> float:
    _wait_for_gpu()
    start = now()
    for _ in range(calls):
        func()
    _wait_for_gpu()
    return now() - start


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _cuda_is_there() -> bool:
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


def _cuda_seconds(func: Callable[[], object], calls: int) -> float:
    import torch

    cold = torch.empty(COLD // 4, dtype=torch.int32, device="cuda")
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    torch.cuda.synchronize()
    for start, end in events:
        cold.zero_()
        start.record()
        func()
        end.record()
    torch.cuda.synchronize()
    return sum(start.elapsed_time(end) for start, end in events) / 1000


def slope(sizes: ArrayLike, seconds: ArrayLike) -> float:
    """Fit the exponent p of seconds = constant * sizes**p, by least squares of the logarithms.

    On log-log paper p is the slope of the straight line: 1 for a cost that grows with the size, 2
    for one that grows with its square.

    Examples
    --------
    >>> slope([100, 200, 400], [0.01, 0.04, 0.16])
    2.0
    """
    x, y = _check.real("sizes", sizes), _check.real("seconds", seconds)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            "sizes and seconds must be two lists of one length; got shapes "
            f"{x.shape} and {y.shape}: give one time for each size"
        )
    if not np.all((x > 0) & (y > 0)):
        raise ValueError(
            f"sizes and seconds must be positive; got {x} and {y}: leave out what failed"
        )
    if len(np.unique(x)) < 2:
        raise ValueError(
            f"sizes must hold at least two different sizes; got {x}: measure at another size"
        )
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
