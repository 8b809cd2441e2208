r"""Time the selective scan, all ways side by side in one run: ``python -m ssmlab.bench``.

Each backend and each peer that is installed gets the same numbers, in turns, after a warm-up. A row
counts the least a scan must do, bytes and exponentials, and gives the measured time in per cent of
the time that the ceilings of this machine allow: the larger of bytes / bandwidth and exponentials /
rate, both measured in the same run. Chapter 13 reads the file.

    python -m ssmlab.bench --channels 256 --length 4096 --file scan.json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmlab import timing
from ssmlab.ops import selective_scan
from ssmlab.ops.selective_scan import PACKAGES

Scan = Callable[..., Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``--help`` lists the options.

    Examples
    --------
    >>> main("--batch 1 --channels 2 --length 8 --state 2 --seconds 0.01 --only torch".split())
    ... # doctest: +ELLIPSIS
    forward
    torch  ...
    forward and backward
    torch  ...
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    problem = _problem(options)
    scans = _scans(options)
    results: dict[str, Any] = {"options": vars(options), "ceilings": _ceilings(options.device)}
    results["counts"] = counts = _counts(options)
    floor = max(counts[k] / results["ceilings"][k] for k in ("bytes", "exponentials"))
    for name, run in {"forward": _forward, "forward and backward": _both}.items():
        turns = timing.compare(
            {label: _bound(run, scan, problem) for label, scan in scans.items()},
            repeat=options.repeat,
            seconds=options.seconds,
            device=options.device,
        )
        print(name, turns, sep="\n")
        results[name] = {
            label: {
                "timing": timing_of,
                "ratio": turns.ratios[label],
                "updates_per_second": counts["exponentials"] / timing_of.median,
                "per_cent_of_ceiling": 100 * floor / timing_of.median,
            }
            for label, timing_of in turns.timings.items()
        }
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
    parser.add_argument("--file", help="where to write the results, as JSON")
    return parser


def _problem(options: argparse.Namespace) -> tuple[Tensor, ...]:
    """x, dt, A, B and C, as a Mamba layer would give them."""
    generator = torch.Generator().manual_seed(0)
    signal = (options.batch, options.length, options.channels)
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


_PEERS: dict[str, Scan] = {"mambapy": _mambapy, "mamba_ssm": _mamba_ssm}


def _forward(scan: Scan, problem: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        scan(*problem)


def _both(scan: Scan, problem: tuple[Tensor, ...]) -> None:
    torch.autograd.grad(scan(*problem).sum(), problem)


def _bound(
    run: Callable[[Scan, tuple[Tensor, ...]], None], scan: Scan, problem: tuple[Tensor, ...]
) -> Callable[[], None]:
    return lambda: run(scan, problem)


def _counts(options: argparse.Namespace) -> dict[str, int]:
    """The least that a forward pass does: x, dt and y through memory once, one e^z an element."""
    elements = options.batch * options.channels * options.length
    size = getattr(torch, options.dtype).itemsize
    constants = 2 * options.batch * options.length * options.state
    return {
        "bytes": (3 * elements + constants) * size,
        "exponentials": elements * options.state,
    }


def _ceilings(device: str) -> dict[str, float]:
    """Bytes copied and exponentials taken a second, by torch on this machine."""
    large, small = torch.zeros(2**25, device=device), torch.zeros(2**12, device=device)
    if device == "cuda":
        small = torch.zeros(2**24, device=device)
    target = torch.empty_like(large)
    copy = timing.measure(lambda: target.copy_(large), device=device)
    out = torch.empty_like(small)
    exponential = timing.measure(lambda: torch.exp(small, out=out), device=device)
    return {
        "bytes": 2 * large.numel() * large.element_size() / copy.median,
        "exponentials": small.numel() / exponential.median,
    }


if __name__ == "__main__":
    main()
