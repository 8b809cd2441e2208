r"""Time the selective scan, all ways side by side in one run: ``python -m ssmlab.bench``.

Each backend and each peer that is installed gets the same numbers, in turns, after a warm-up; one
whose first call takes longer than ``--patience`` is not called again, and that call is its time.
For each pass the least that a scan must do is counted, bytes and exponentials. A row gives its time
and, in per cent, the shortest time that the ceilings of this machine allow: the larger of bytes /
bandwidth and exponentials / rate, both measured in the same run. Chapter 13 explains the table.

    python -m ssmlab.bench --channels 256 --length 4096 --file scan.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ssmlab import timing
from ssmlab.ops import selective_scan
from ssmlab.ops.ceilings import bytes_per_second, exponentials_per_second
from ssmlab.ops.scan import PACKAGES

Scan = Callable[..., Any]
Task = Callable[[], None]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``--help`` lists the options.

    Examples
    --------
    >>> main("--batch 1 --channels 2 --length 8 --state 2 --seconds 0.01 --only torch".split())
    ... # doctest: +ELLIPSIS
    forward: 320 bytes, 32 exponentials
    torch  ...
    forward and backward: 896 bytes, 64 exponentials
    torch  ...
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    problem, warm_up = _problem(options, options.length), _problem(options, length=16)
    scans = _scans(options)
    ceilings = {
        "bytes": bytes_per_second(options.device),
        "exponentials": exponentials_per_second(options.device),
    }
    updates = options.batch * options.channels * options.length * options.state
    results: dict[str, Any] = {"options": vars(options), "ceilings": ceilings, "passes": {}}
    for name, run in {"forward": _forward, "forward and backward": _both}.items():
        counts = _counts(options, backward=run is _both)
        floor = max(counts[k] / ceilings[k] for k in counts)
        for scan in scans.values():
            run(scan, warm_up)  # imports and compiles
        turns = _in_turns({k: _bound(run, scan, problem) for k, scan in scans.items()}, options)
        rows = {
            label: {
                "timing": timing_of,
                "ratio": turns.ratios[label],
                "updates_per_second": updates / timing_of.median,
                "per_cent_of_ceiling": 100 * floor / timing_of.median,
            }
            for label, timing_of in turns.timings.items()
        }
        print("{}: {bytes:,} bytes, {exponentials:,} exponentials".format(name, **counts))
        print(_table(rows))
        results["passes"][name] = {"counts": counts, "floor": floor, "rows": rows}
    if options.file:
        timing.save_results(options.file, results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m ssmlab.bench", description="Time selective scans.")
    for name, size in {"batch": 1, "channels": 256, "length": 4096, "state": 16}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float64"), default="float32")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--only", nargs="+", help="names of backends and peers; all by default")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long each is timed")
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        help="seconds; a slower one is called once",
    )
    parser.add_argument("--file", help="where to write the results, as JSON")
    return parser


def _problem(options: argparse.Namespace, length: int) -> tuple[Tensor, ...]:
    """x, dt, A, B and C, as a Mamba layer would give them."""
    generator = torch.Generator().manual_seed(0)
    signal = (options.batch, length, options.channels)
    x, dt = torch.randn(2, *signal, generator=generator)
    B, C = torch.randn(2, *signal[:2], options.state, generator=generator)
    A = -torch.arange(1.0, options.state + 1).repeat(options.channels, 1)
    dtype = getattr(torch, options.dtype)
    tensors = [v.to(options.device, dtype) for v in (x, 0.1 * dt.sigmoid(), B, C)]
    x, dt, B, C = (v.requires_grad_() for v in tensors)
    return x, dt, A.to(options.device).requires_grad_(), B, C


def _scans(options: argparse.Namespace) -> dict[str, Scan]:
    """Every way that is installed and takes this device, by name."""
    fast = "triton" if options.device == "cuda" else "cpu"
    scans: dict[str, Scan] = {}
    if importlib.util.find_spec(PACKAGES[fast]):
        scans[fast] = lambda *v: selective_scan(*v, backend=fast)
    scans["torch"] = lambda *v: selective_scan(*v, backend="torch")
    scans["associative_scan"] = _associative_scan
    scans |= {name: peer for name, peer in _PEERS.items() if importlib.util.find_spec(name)}
    wanted = options.only or scans
    missing = [name for name in wanted if name not in scans]
    if missing:
        raise SystemExit(f"--only takes what is installed: {', '.join(scans)}; got {missing[0]!r}")
    return {name: scans[name] for name in wanted}


def _terms(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """a_t and b_t of h_t = a_t h_{t-1} + b_t, each (batch, length, channels, state)."""
    return torch.exp(dt[..., None] * A), (dt * x)[..., None] * B[:, :, None]


def _associative_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The associative scan that torch has, eager, over affine maps."""
    from torch._higher_order_ops.associative_scan import associative_scan

    from ssmlab.scan import affine

    _, h = associative_scan(affine, _terms(x, dt, A, B), dim=1, combine_mode="generic")
    return (h * C[:, :, None]).sum(-1)


def _mambapy(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The parallel scan of mambapy."""
    pscan = importlib.import_module("mambapy.pscan").pscan
    return (pscan(*_terms(x, dt, A, B)) * C[:, :, None]).sum(-1)


def _mamba_ssm(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The CUDA kernel of mamba_ssm."""
    interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    return interface.selective_scan_fn(x.mT, dt.mT, A, B.mT, C.mT).mT


def _transformers(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The path that Mamba in transformers takes without a CUDA kernel: a loop over slices."""
    module = importlib.import_module("transformers.models.mamba.modeling_mamba")
    scan = module.mamba_selective_scan.__wrapped__  # what the CUDA kernel stands in for
    return scan(x.mT, dt.mT, A, B.mT, C.mT).mT


_PEERS: dict[str, Scan] = {
    "mambapy": _mambapy,
    "mamba_ssm": _mamba_ssm,
    "transformers": _transformers,
}


def _forward(scan: Scan, problem: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        scan(*problem)


def _both(scan: Scan, problem: tuple[Tensor, ...]) -> None:
    torch.autograd.grad(scan(*problem).sum(), problem)


def _bound(
    run: Callable[[Scan, tuple[Tensor, ...]], None], scan: Scan, problem: tuple[Tensor, ...]
) -> Task:
    return lambda: run(scan, problem)


def _in_turns(functions: Mapping[str, Task], options: argparse.Namespace) -> timing.Comparison:
    """Time in turns those whose first call is quick; of the others, keep that call."""
    first = {}
    for label, func in functions.items():
        start = perf_counter()
        func()
        if options.device == "cuda":
            torch.cuda.synchronize()
        first[label] = perf_counter() - start
    quick = {k: func for k, func in functions.items() if first[k] <= options.patience}
    settings = {"repeat": options.repeat, "seconds": options.seconds, "device": options.device}
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
    cells = [
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


if __name__ == "__main__":
    main()
