"""The command line of ``python -m ssmlab.bench``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ssmlab import results, timing
from ssmlab.bench import peers
from ssmlab.bench.roofline import bytes_per_second, exponentials_per_second

Task = Callable[[], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``--help`` lists the options.

    Examples
    --------
    >>> main("--batch 1 --channels 2 --length 8 --state 2 --seconds 0.01 --only torch".split())
    ... # doctest: +ELLIPSIS
    1 x 8 steps of 2 channels with 2 states each, float32, 1 thread
    ...
    <BLANKLINE>
    forward: 320 bytes, 32 exponentials
    way    median   times torch  state updates  of the ceiling
    torch  ...      1 x          ...
    <BLANKLINE>
    forward and backward: 896 bytes, 64 exponentials
    way    median   times torch  state updates  of the ceiling
    torch  ...      1 x          ...
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that torch can use, and torch finds none")
    torch.set_num_threads(options.threads)
    problem, warm_up = _problem(options, options.length), _problem(options, length=16)
    scans = _wanted(options)
    ceilings = {
        "bytes": bytes_per_second(options.device),
        "exponentials": exponentials_per_second(options.device),
    }
    print(_setting(options, list(scans), ceilings))
    updates = options.batch * options.channels * options.length * options.state
    passes: dict[str, Any] = {}
    for name, run in {"forward": peers.forward, "forward and backward": peers.both}.items():
        counts = _counts(options, backward=run is peers.both)
        floor = max(counts[k] / ceilings[k] for k in counts)
        for scan in scans.values():
            run(scan, warm_up)  # imports and compiles
        turns = _in_turns({k: partial(run, scan, problem) for k, scan in scans.items()}, options)
        rows = {
            label: {
                "timing": timing_of,
                "ratio": turns.ratios[label],
                "updates_per_second": updates / timing_of.median,
                "per_cent_of_ceiling": 100 * floor / timing_of.median,
            }
            for label, timing_of in turns.timings.items()
        }
        print("\n{}: {bytes:,} bytes, {exponentials:,} exponentials".format(name, **counts))
        print(_table(rows))
        passes[name] = {"counts": counts, "floor": floor, "rows": rows}
    if options.file:
        record = {"options": vars(options), "ceilings": ceilings, "passes": passes}
        results.save_results(options.file, record, packages=peers.versions(list(scans)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m ssmlab.bench",
        description="Time selective scans, side by side. A row gives the median time, how many "
        "times the first row's that is (the median of ratios taken in turns), the state updates a "
        "second (batch x channels x length x state in that time), and in per cent the shortest "
        "time that this machine's ceilings allow: bytes that have to move over the bandwidth, or "
        "exponentials over their rate, both measured first.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for name, size in {"batch": 1, "channels": 256, "length": 4096, "state": 16}.items():
        parser.add_argument(f"--{name}", type=_positive, default=size, help="size of the problem")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    types = ("float32", "bfloat16", "float64")
    parser.add_argument("--dtype", choices=types, default="float32", help="type of all but A")
    parser.add_argument("--threads", type=_positive, default=1, help="threads on a CPU")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help=f"of cpu, triton, torch, associative_scan, {', '.join(peers.PEERS)}; None: all that "
        "are installed",
    )
    parser.add_argument("--repeat", type=_positive, default=7, help="measurements of each")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long each is timed")
    parser.add_argument("--patience", type=float, default=10.0, help="a slower one is called once")
    parser.add_argument("--file", help="where to write the results, as JSON; None: nowhere")
    return parser


def _positive(text: str) -> int:
    """Read a number of things."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on; got {text!r}")
    return int(text)


def _setting(
    options: argparse.Namespace, names: Sequence[str], ceilings: Mapping[str, float]
) -> str:
    """Say what is timed, on which machine, with which versions, and what is not there to time."""
    made = {"provenance": results.provenance(packages=peers.versions([*names]))}
    size = "{batch} x {length:,} steps of {channels} channels with {state} states each, {dtype}"
    threads = f", {options.threads} thread{'s' * (options.threads > 1)}"
    lines = [
        size.format_map(vars(options)) + threads * (options.device == "cpu"),
        results.cite(made),
        f"ceilings: {ceilings['bytes'] / 1e9:.3g} GB/s, "
        f"{ceilings['exponentials'] / 1e9:.3g} G exponentials/s",
    ]
    if absent := [name for name in peers.PEERS if name not in peers.scans(options.device)]:
        lines.append(f"not installed: {', '.join(absent)}")
    return "\n".join(lines)


def _problem(options: argparse.Namespace, length: int) -> peers.Problem:
    return peers.problem(
        batch=options.batch,
        channels=options.channels,
        length=length,
        state=options.state,
        device=options.device,
        dtype=getattr(torch, options.dtype),
    )


def _wanted(options: argparse.Namespace) -> dict[str, peers.Scan]:
    """Choose among the ways that are installed."""
    scans = peers.scans(options.device)
    wanted = options.only or scans
    missing = [name for name in wanted if name not in scans]
    if missing:
        raise SystemExit(f"--only takes what is installed: {', '.join(scans)}; got {missing[0]!r}")
    return {name: scans[name] for name in wanted}


def _in_turns(functions: Mapping[str, Task], options: argparse.Namespace) -> timing.Comparison:
    """Time in turns those whose first call is quick; of the others, keep that call."""
    first = {}
    for label, func in functions.items():
        with timing.stopwatch() as took:
            func()
        first[label] = took.wall
    quick = {k: func for k, func in functions.items() if first[k] <= options.patience}
    clock = "cuda" if options.device == "cuda" else "wall"
    settings = {"repeat": options.repeat, "seconds": options.seconds, "clock": clock}
    turns = timing.compare(quick, warmup=0, **settings).timings if quick else {}
    return timing.Comparison({k: turns.get(k, timing.Timing((first[k],))) for k in functions})


def _counts(options: argparse.Namespace, *, backward: bool) -> dict[str, int]:
    """The least that is done, in bytes and exponentials.

    Forward: x, dt and y, B and C pass through memory once, and each state and step takes one e^z.
    Backward: x, dt, dy, dx and ddt, B, C, dB and dC, and the decays are recomputed.
    """
    elements = options.batch * options.channels * options.length
    per_step = options.batch * options.length * options.state
    signals, matrices, times = (3 + 5, 2 + 4, 2) if backward else (3, 2, 1)
    size = getattr(torch, options.dtype).itemsize
    return {
        "bytes": (signals * elements + matrices * per_step) * size,
        "exponentials": times * elements * options.state,
    }


def _table(rows: dict[str, dict[str, Any]]) -> str:
    """Name, median, multiple of the first, state updates a second, per cent of the ceiling."""
    cells = [("way", "median", f"times {next(iter(rows))}", "state updates", "of the ceiling")]
    cells += [
        (
            label,
            timing.in_units(row["timing"].median),
            f"{row['ratio']:.3g} x",
            f"{row['updates_per_second'] / 1e9:.3g} G/s",
            f"{row['per_cent_of_ceiling']:.3g} %" + " (one call)" * (row["timing"].repeats == 1),
        )
        for label, row in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
