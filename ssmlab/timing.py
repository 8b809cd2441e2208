"""How to time code: warm up, repeat, take turns, and say what the machine was.

The first call is not like the others (caches fill, compilers run), so it is made but not counted.
One number is chance, so a call is timed several times, and the median and the quartiles are given:
an interruption moves the mean and leaves the median alone. Two programs timed one after the other
meet two different machines (it warms up, somebody else comes), so they are timed in turns. And a
GPU returns before it has finished, so we wait for it.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ssmlab._typing import ArrayLike

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
HERE = Path(__file__).resolve()


@dataclass(frozen=True)
class Timing:
    """The seconds that one call took, once for each repeat; each repeat made `calls` calls.

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
    """What `compare` measured: one Timing for each name; it prints as a table.

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

    >>> in_units(0.00123456), in_units(45e-9), in_units(0.9999)
    ('1.23 ms', '45 ns', '1 s')
    """
    rounded = float(f"{seconds:.3g}")
    scale, unit = next((pair for pair in UNITS if rounded >= pair[0]), UNITS[-1])
    number = rounded / scale
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def measure(
    func: Callable[[], object],
    *,
    warmup: int = 1,
    repeat: int = 7,
    seconds: float = 0.2,
    device: str = "cpu",
) -> Timing:
    """Time a function of no arguments.

    Parameters
    ----------
    func
        What is timed; write ``lambda: f(x)`` to time f at x.
    warmup
        Calls before the first that counts.
    repeat
        How often it is timed.
    seconds
        About how long all repeats together should take: a fast function is called several times
        in each repeat, so that the clock has something to read.
    device
        "cpu" reads the clock of this machine, and waits for a GPU that torch is using; "cuda" takes
        the time between two events in torch's current CUDA stream, without the cost of a launch.

    Raises
    ------
    ValueError
        A number is out of range, or `device` is unknown or not there.

    >>> timing = measure(lambda: sum(range(1000)), repeat=5, seconds=0.01)
    >>> timing.repeats, timing.median < 1
    (5, True)
    """
    turns = compare({"": func}, warmup=warmup, repeat=repeat, seconds=seconds, device=device)
    return turns.timings[""]


def compare(
    functions: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 1,
    repeat: int = 7,
    seconds: float = 0.2,
    device: str = "cpu",
) -> Comparison:
    """Time several functions in turns, so that a machine that slows down slows all of them alike.

    Every second round runs backwards: a steady drift within a round cancels too. `functions` maps a
    name to a function of no arguments; the other arguments, and the errors, are those of `measure`
    for each function.

    >>> result = compare({"sum": lambda: sum([1, 2]), "max": lambda: max([1, 2])}, seconds=0.01)
    >>> list(result.medians), result.ratios["sum"]
    (['sum', 'max'], 1.0)
    """
    if not functions:
        raise ValueError("functions must hold at least one function, got none")
    for name, value, least in (("warmup", warmup, 0), ("repeat", repeat, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if not 0 < seconds < np.inf:
        raise ValueError(f"seconds must be positive and finite, got {seconds}")
    clock = _clock(device)
    calls = {}
    for name, func in functions.items():
        for _ in range(warmup):
            func()
        calls[name] = 1
        while clock(func, calls[name]) < seconds / repeat:
            calls[name] *= 2
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeat):
        for name in list(functions)[:: -1 if turn % 2 else 1]:
            samples[name].append(clock(functions[name], calls[name]) / calls[name])
    return Comparison({name: Timing(tuple(samples[name]), calls[name]) for name in functions})


def _clock(device: str) -> Callable[[Callable[[], object], int], float]:
    """Choose the clock: (func, calls) -> seconds for all the calls, collecting no garbage."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not _cuda_is_there():
        raise ValueError("device 'cuda' needs torch and a GPU that it can use; take device='cpu'")
    seconds = _cuda_seconds if device == "cuda" else _wall_seconds

    def run(func: Callable[[], object], calls: int) -> float:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return seconds(func, calls)
        finally:
            if collecting:
                gc.enable()

    return run


def _wall_seconds(func: Callable[[], object], calls: int) -> float:
    _wait_for_gpu()
    start = perf_counter()
    for _ in range(calls):
        func()
    _wait_for_gpu()
    return perf_counter() - start


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

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        func()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def slope(sizes: ArrayLike, seconds: ArrayLike) -> float:
    """Fit the exponent p of seconds = constant * sizes**p, by least squares of the logarithms.

    On log-log paper p is the slope of the straight line: 1 for a cost that grows with the size, 2
    for one that grows with its square.

    Raises
    ------
    ValueError
        The two differ in length, fewer than two sizes differ, or a number is not positive.

    >>> slope([100, 200, 400], [0.01, 0.04, 0.16])
    2.0
    """
    x, y = np.asarray(sizes, dtype=float), np.asarray(seconds, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"sizes and seconds must be two lists of one length, got shapes {x.shape} and {y.shape}"
        )
    if not (np.all((x > 0) & (y > 0)) and np.all(np.isfinite([x, y]))):
        raise ValueError(f"sizes and seconds must be positive and finite, got {x} and {y}")
    if len(np.unique(x)) < 2:
        raise ValueError(f"sizes must hold at least two different sizes, got {x}")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def provenance() -> dict[str, Any]:
    """Say where and with what a number was measured, to be kept beside it.

    `commit` is that of the checkout that ssmlab runs from, and `dirty` tells whether ssmlab differs
    from it; both are None outside a checkout.

    >>> sorted(provenance())
    ['commit', 'cores', 'cpu', 'date', 'device', 'dirty', 'packages', 'python', 'system']
    """
    packages = ["numpy", "scipy", *(name for name in ("torch", "numba") if name in sys.modules)]
    cpu = _cpu()
    commit, dirty = _commit()
    return {
        "device": _gpu() or cpu,
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "commit": commit,
        "dirty": dirty,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _ask(*command: str | Path) -> str | None:
    """Return what a program answers; None if it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    """Name the processor, as Linux or macOS does, or else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf8") if cpuinfo.exists() else ""
    names = re.findall(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    apple = ("sysctl", "-n", "machdep.cpu.brand_string")
    return names[0] if names else _ask(*apple) or platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Name the GPU that torch is using, if it is."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else None


def _commit() -> tuple[str | None, bool | None]:
    """Find the commit, and whether ssmlab differs; a checkout of something else does not count."""
    git = ("git", "-C", HERE.parent)
    if _ask(*git, "ls-files", "--error-unmatch", HERE) is None:
        return None, None
    return _ask(*git, "rev-parse", "HEAD"), bool(_ask(*git, "status", "--porcelain", "--", "."))


def save_results(path: str | Path, data: Any) -> None:
    """Write measured numbers with their provenance, as JSON, whole or not at all.

    `data` is made of numbers, strings, lists, dicts, arrays and Timings.

    Raises
    ------
    ValueError
        A number is not finite.
    TypeError
        Something else is in `data`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_results(Path(folder, "cost.json"), {"length": np.arange(3)})
    ...     load_results(Path(folder, "cost.json"))["results"]
    {'length': [0, 1, 2]}
    """
    path = Path(path)
    record = {"provenance": provenance(), "results": data}
    try:
        text = json.dumps(record, indent=1, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"data must hold finite numbers only: {error}") from None
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        unfinished.write_text(text + "\n", "utf8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _plain(value: object) -> Any:
    """Turn an array or a Timing into lists and dicts, for JSON."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Timing):
        return asdict(value) | {"median": value.median, "quartiles": value.quartiles}
    raise TypeError(
        "data must be made of numbers, strings, lists, dicts, arrays and Timings, "
        f"got {type(value).__name__}"
    )


def load_results(path: str | Path) -> dict[str, Any]:
    """Read what `save_results` wrote: a dict of "provenance" and "results".

    Raises
    ------
    ValueError
        The file holds something else.
    """
    try:
        record = json.loads(Path(path).read_text("utf8"))
        return {key: record[key] for key in ("provenance", "results")}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} must be a file that save_results wrote; measure again") from None
