"""Check and time the Triton selective scan on a GPU, beside its peers; write what was measured.

    python book/experiments/selective_scan_gpu.py [--commit HASH] [--mamba FOLDER]

``--commit`` names the commit where there is no git; ``--mamba`` is the unpacked source distribution
of mamba_ssm, whose selective scan is built for this GPU. Peers that are not installed are left out.

The "results" of the file:

- "ceilings": "bytes_per_second" of a copy, "exponentials_per_second" of a kernel of nothing else.
- "errors": the largest error against float64, relative to the largest number, by type and by
  "y" or "gradients", over "cases" problems; and the errors of softplus ("softplus", by the interval
  of its argument: with a polynomial as we have it, with the GPU's logarithm, by torch).
- "sanitizer": what compute-sanitizer says, by tool.
- "rows": a dict for each size and type: "batch", "channels", "length", "dtype", and for "forward",
  "forward_and_keep" (with the states kept for backward) and "backward": "milliseconds" (median),
  "quartiles", "floor" (milliseconds; the larger of the times for the bytes and the exponentials)
  and "per_cent_of_floor"; "extra_bytes" that forward and backward take besides what they return.
- "peers": a dict for each peer and size: "name", "batch", "channels", "length", "dtype", and
  "forward" and "backward" with "milliseconds" and "quartiles"; or "failed" and why. mamba_ssm has
  rows at every size. It and we do the softplus, the bias and the direct path as well; the others
  only the recurrence. fla's is another recurrence: its decay is the same for all channels.
- "profile": for each kernel of ours what ncu counted at (8, 2048, 2048) in bfloat16.
- "log": versions on the way here, each with what was predicted and what came out.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, no_type_check

import common
import numpy as np
import torch
import triton
import triton.language as tl
from ssmlab import results, selective, timing
from ssmlab.bench import peers, roofline
from ssmlab.ops import selective_scan
from ssmlab.ops.scan import triton_kernels

Case = tuple[torch.dtype, dict[str, str], str]  # type, forms, what is left out
STATE = 16
USUAL = (8, 2048, 2048)  # batch, channels, length
SIZES = [(8, 2048, length) for length in (512, 2048, 8192, 65536)]
SIZES += [(8, channels, 2048) for channels in (1024, 4096)]
TOLERANCES = {  # of y and of the gradients, relative to the largest
    torch.float64: (1e-12, 1e-11),
    # A GPU's exp2 is right to 1.4e-7; the last state is a product of 133 of them. With this exp2
    # and all else in float64 its error is 3.5e-6; with its softplus and all else exact, 1e-7.
    torch.float32: (5e-6, 1e-5),
    torch.bfloat16: (8e-3, 1.6e-2),
    torch.float16: (1e-3, 2e-3),
}
METRICS = ["gpu__time_duration.sum", "launch__registers_per_thread"]
METRICS += ["smsp__issue_active.avg.pct_of_peak_sustained_active"]
METRICS += ["smsp__inst_executed.sum", "dram__bytes.sum"]
METRICS += ["smsp__warps_active.avg.per_cycle_active"]
METRICS += ["group:smsp__pcsamp_warp_stall_reasons"]
FLAGS = ["-O3", "-std=c++17", "--use_fast_math", "--expt-relaxed-constexpr"]
FLAGS += ["--expt-extended-lambda"]
FLAGS += [
    f"-U__CUDA_NO_{kind}_{what}__"
    for kind in ("HALF", "BFLOAT16", "BFLOAT162")
    for what in ("OPERATORS", "CONVERSIONS")
]
LOG = [
    {"version": v, "predicted": p, "measured": m}
    for v, p, m in (
        (
            "start: 16 channels a warp, steps in a tuple, softplus by every thread; forward and "
            "backward of 27 and 58 instructions an element",
            "-",
            "0.84 and 3.28 ms",
        ),
        (
            "32 channels a warp: softplus once a channel; 9.5 and 25 instructions",
            "0.25 and 0.6 ms if two thirds of the cycles issue",
            "0.67 and 2.37 ms: one warp a scheduler issues in 20 % of the cycles only",
        ),
        (
            "blocks (step, own, channel, share) for a chunk of 8 steps, 4 warps, next chunk loaded "
            "ahead; forward of 10.5 instructions",
            "0.22 ms with 4 warps a scheduler",
            "0.37 ms: barriers between the warps of a program",
        ),
        (
            "one warp a program, 16 channels, 16 steps; forward of 8.4 instructions",
            "faster, as no barriers are left",
            "0.28 ms, 0.27 with 2 threads a channel in place of 4: half of the cycles issue",
        ),
        (
            "the exponentials of a step just before the step, not all first",
            "the unit of the exponentials and the rest overlap, up to a factor of 2",
            "0.30 ms: the compiler orders them anyway",
        ),
        (
            "backward in such blocks, scan by Triton's reversed associative_scan",
            "30 instructions",
            "63 instructions when compiled: it reverses through shuffles; not run",
        ),
        (
            "backward with at and put in place of the scan, 4 steps; 27 instructions",
            "0.43 ms if every cycle issues, 0.66 if two thirds do",
            "1.05 ms: waits for the kept state",
        ),
        (
            "the kept state loaded a chunk ahead too",
            "0.68 ms",
            "0.93 ms: it went through shared memory at once and was waited for; 0.84 when not",
        ),
        (
            "sums over channels by tl.dot in float32",
            "33 instructions in place of 36",
            "3.6 ms against 1.8: the operands go through shared memory with barriers",
        ),
        (
            "two backward kernels, 8 steps, one for the sums over the state and one for those over "
            "channels; 17 and 13 instructions",
            "0.87 ms together, half the kept states",
            "0.46 and 0.49 ms; forward that keeps states 0.32 ms in place of 0.57",
        ),
        (
            "the same in the library, with masks, options and strides for every signal",
            "as the prototypes: 0.30 and, with the sums of the parts, 1.0 ms",
            "0.44 and 1.12 ms: 244 registers, many for addresses; and it kept states under no_grad",
        ),
        (
            "one set of strides for all signals (others are copied), no states kept under no_grad",
            "as the prototypes",
            "0.36 and 1.18 ms; 0.33 with 2 threads a channel, 1.04 with 2 and 8 in the backward two",
        ),
        (
            "not kept: chunks of 16 steps, 4 threads a channel, where no state is kept",
            "0.28 ms",
            "0.31 ms; in float32 0.33 in place of 0.31, and 0.44 in place of 0.37 with states kept",
        ),
    )
]


# --- what the GPU can do -------------------------------------------------------------------------


@no_type_check
@triton.jit
def softplus_kernel(v, polynomial, logarithm, BLOCK: tl.constexpr):
    """Softplus as the scan has it, and with the GPU's own logarithm."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(v + i)
    tl.store(polynomial + i, triton_kernels.softplus_of(x, tl.float32))
    e = tl.exp(x)
    w = 1.0 + e
    tl.store(logarithm + i, tl.log(w) * (e / tl.where(w == 1.0, e, w - 1.0)))


def ceilings(size: int = 2**32) -> dict[str, float]:
    """Bytes and exponentials a second, each by the kernel that does nothing else."""
    return {
        "bytes_per_second": roofline.bytes_per_second("cuda", size),
        "exponentials_per_second": roofline.exponentials_per_second("cuda"),
    }


# --- correctness ---------------------------------------------------------------------------------


def problem(
    batch: int,
    channels: int,
    length: int,
    dtype: torch.dtype,
    device: str = "cuda",
    **forms: str,
) -> dict[str, Any]:
    """Random arguments, as a Mamba layer would give them."""
    kept = torch.promote_types(dtype, torch.float32)
    shape = {
        "step": (batch, length, STATE),
        "group": (batch, length, 2, STATE),
        "constant": (channels, STATE),
    }

    def normal(*sizes: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*sizes, device=device, dtype=kept).to(kind)

    return {
        "x": normal(batch, length, channels),
        "dt": normal(batch, length, channels) * 0.5,
        "A": -torch.arange(1, STATE + 1, device=device, dtype=kept).repeat(
            channels, 1
        ),
        "B": normal(*shape[forms.get("B", "step")]),
        "C": normal(*shape[forms.get("C", "step")]),
        "D": normal(channels, kind=kept),
        "z": normal(batch, length, channels),
        "dt_bias": normal(channels, kind=kept) - 4,
        "h0": normal(batch, channels, STATE, kind=kept),
    }


def results_of(
    p: dict[str, torch.Tensor], backend: str, wide: bool
) -> dict[str, Any]:
    """The outputs and the gradients of their sum against fixed random weights."""
    leaves: dict[str, Any] = {
        k: (v.double() if wide else v).detach().clone().requires_grad_()
        for k, v in p.items()
    }
    y, h = selective_scan(
        **leaves, softplus=True, return_last_state=True, backend=backend
    )
    device = y.device
    generator = torch.Generator(device).manual_seed(7)
    weights = torch.randn(
        y.shape, generator=generator, device=device
    ).bfloat16()
    state_weights = torch.randn(h.shape, generator=generator, device=device)
    (
        (y * weights.to(y.dtype)).sum().double() + (h * state_weights).sum()
    ).backward()
    return {"y": y.detach(), "h": h.detach()} | {
        k: v.grad for k, v in leaves.items()
    }


def check(case: Case) -> dict[str, float]:
    """The errors of y and of the gradients in one case; the same bits twice."""
    torch.use_deterministic_algorithms(True)  # fills fresh memory with NaN
    dtype, form, left_out = case
    p = problem(2, 70, 133, dtype, **form)
    p.pop(left_out, None)
    got, again = (results_of(p, "triton", False) for _ in range(2))
    expected = results_of(p, "torch", True)
    errors = {"y": 0.0, "gradients": 0.0}
    for name, value in expected.items():
        error = (got[name].double() - value).abs().max() / value.abs().max()
        key = "y" if name in ("y", "h") else "gradients"
        limit = TOLERANCES[dtype][key == "gradients"]
        assert error <= limit, (case, name, float(error))
        assert torch.equal(got[name], again[name]), (case, name)
        errors[key] = max(errors[key], float(error))
    return errors


def correctness(quick: bool) -> dict[str, Any]:
    """Every option and type against float64; the largest error of each."""
    forms: list[tuple[dict[str, str], str]] = [
        ({"B": "group", "C": "group"}, "")
    ]
    forms += [({"B": "constant"}, ""), ({"C": "constant"}, "")]
    forms += [({"B": "constant", "C": "constant"}, "z")]
    forms += [({}, left_out) for left_out in ("", "z", "D", "dt_bias", "h0")]
    cases = [(dtype, *form) for dtype in TOLERANCES for form in forms]
    cases = cases[:1] if quick else cases
    largest: dict[str, Any] = {"cases": len(cases)}
    with ProcessPoolExecutor(12, multiprocessing.get_context("spawn")) as pool:
        for case, errors in zip(cases, pool.map(check, cases), strict=True):
            kind = largest.setdefault(str(case[0])[6:], errors)
            kind |= {name: max(kind[name], errors[name]) for name in errors}
    return largest


def softplus_errors() -> dict[str, dict[str, float]]:
    """The largest relative error of softplus in float32, by interval."""
    v = torch.empty(2**22, device="cuda").uniform_(-14, 4)
    polynomial, logarithm = torch.empty_like(v), torch.empty_like(v)
    softplus_kernel[(len(v) // 1024,)](v, polynomial, logarithm, 1024)
    softplus = torch.nn.functional.softplus
    exact = softplus(v.double())
    ways = {
        "polynomial": polynomial,
        "logarithm": logarithm,
        "torch": softplus(v),
    }
    errors = {
        name: (value.double() - exact).abs() / exact
        for name, value in ways.items()
    }
    edges = (-14, -8, -4, -1, 4)
    return {
        f"{low} to {high}": {
            k: float(e[(v >= low) & (v < high)].max())
            for k, e in errors.items()
        }
        for low, high in itertools.pairwise(edges)
    }


def small() -> None:
    """One forward and backward of a problem that fits nothing, for the sanitizer."""
    results_of(problem(2, 21, 19, torch.bfloat16), "triton", False)


def sanitizer() -> dict[str, str]:
    """Run `small` under compute-sanitizer; keep the summary of each tool."""
    if shutil.which("compute-sanitizer") is None:
        return {}
    said = {}
    for tool in ("memcheck", "racecheck"):
        command = [
            "compute-sanitizer",
            "--tool",
            tool,
            sys.executable,
            __file__,
            "--small",
        ]
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment
        )
        said[tool] = (
            re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", done.stdout)
            or ["?"]
        )[-1]
    return said


# --- time ----------------------------------------------------------------------------------------


PACE: dict[str, Any] = {"repeat": 25, "seconds": 0.1, "clock": "cuda"}
SLOW: dict[str, Any] = {"repeat": 3, "seconds": 0.2, "clock": "cuda"}


def milliseconds(measured: timing.Timing) -> dict[str, Any]:
    """Median and quartiles of a call."""
    return {
        "milliseconds": 1e3 * measured.median,
        "quartiles": [1e3 * quartile for quartile in measured.quartiles],
    }


def named(
    batch: int, channels: int, length: int, dtype: torch.dtype
) -> dict[str, Any]:
    """The first entries of a row."""
    return {
        "batch": batch,
        "channels": channels,
        "length": length,
        "dtype": str(dtype)[6:],
    }


def time_one(
    batch: int,
    channels: int,
    length: int,
    dtype: torch.dtype,
    ceiling: dict[str, float],
) -> dict[str, Any]:
    """Time both passes, and the floor of each; softplus on, no gate."""
    p = problem(batch, channels, length, dtype)
    p = {
        k: p[k].requires_grad_()
        for k in ("x", "dt", "A", "B", "C", "D", "dt_bias")
    }
    dy = torch.randn_like(p["x"])
    leaves = list(p.values())

    def forward() -> Any:
        return selective_scan(**p, softplus=True, backend="triton")

    def without_gradient() -> None:
        with torch.no_grad():
            forward()

    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    y = forward()
    gradients = torch.autograd.grad(y, leaves, dy, retain_graph=True)
    returned = sum(v.nbytes for v in (y, *gradients))
    extra = torch.cuda.max_memory_allocated() - before - returned
    del gradients
    elements, itemsize = batch * channels * length, p["x"].element_size()
    row: dict[str, Any] = named(batch, channels, length, dtype) | {
        "extra_bytes": extra
    }
    work = {  # signals that are moved, exponentials
        "forward": (3, 1),
        "forward_and_keep": (3, 1),
        "backward": (5, 2),
    }
    turns = timing.compare(
        {
            "forward": without_gradient,
            "forward_and_keep": forward,
            "backward": lambda: torch.autograd.grad(
                y, leaves, dy, retain_graph=True
            ),
        },
        **PACE,
    )
    for name, (signals, exponentials) in work.items():
        floor = 1e3 * max(
            signals * itemsize * elements / ceiling["bytes_per_second"],
            exponentials
            * STATE
            * elements
            / ceiling["exponentials_per_second"],
        )
        times = milliseconds(turns.timings[name])
        percent = 100 * floor / times["milliseconds"]
        row[name] = times | {"floor": floor, "per_cent_of_floor": percent}
    return row


def profile() -> dict[str, dict[str, float]]:
    """Count with ncu what each kernel does at the usual size."""
    if shutil.which("ncu") is None:
        return {}
    command = [
        "ncu",
        "--clock-control",
        "none",
        "--csv",
        "--page",
        "raw",
        "--print-units",
        "base",
    ]
    command += [
        "--metrics",
        ",".join(METRICS),
        "-k",
        "regex:(forward|channels|states)_kernel",
    ]
    done = subprocess.run(
        [*command, sys.executable, __file__, "--once"],
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    counted = {}
    for row in csv.DictReader(lines):
        if not row["ID"].isdigit():
            continue  # the line of the units
        values = {
            k: v.replace(",", "")
            for k, v in row.items()
            if k in METRICS or "pcsamp_warps_issue" in k
        }
        name = row["Kernel Name"]
        keep = "forward_and_keep" if name in counted else name
        counted[keep] = {
            k: float(v) for k, v in values.items() if re.fullmatch(r"[\d.]+", v)
        }
    return counted


def once() -> None:
    """The three kernels once each (and forward twice), for the profiler."""
    p = problem(*USUAL, torch.bfloat16)
    p = {
        k: p[k].requires_grad_()
        for k in ("x", "dt", "A", "B", "C", "D", "dt_bias")
    }
    with torch.no_grad():
        selective_scan(**p, softplus=True, backend="triton")
    y: Any = selective_scan(**p, softplus=True, backend="triton")
    y.sum().backward()


# --- peers ---------------------------------------------------------------------------------------


def build_mamba(folder: str) -> Any:
    """Build mamba_ssm's scan for this GPU: real A, B and C per step, softplus, no gate."""
    from torch.utils import cpp_extension

    target = Path(tempfile.mkdtemp())
    for path in Path(folder, "csrc/selective_scan").glob("*"):
        if path.suffix in (".h", ".cuh", ".cpp"):
            shutil.copy(path, target)
    switch = (
        target / "static_switch.h"
    )  # compile the branches that are timed, not all 32
    text = switch.read_text().partition("#define BOOL_SWITCH")[0]
    switch.write_text(
        text + "#define BOOL_SWITCH(COND, NAME, ...) [&] { "
        "constexpr bool NAME = (#NAME)[1] != 'H'; return __VA_ARGS__(); }()\n"  # all but kHasZ
    )
    front = target / "selective_scan.cpp"
    text = re.sub(r"if \(ITYPE == at::ScalarType::Half\) \{.*?\} else (?=if)", "",
                  front.read_text(), count=1, flags=re.DOTALL)  # fmt: skip
    text = re.sub(r"\} else if \(WTYPE == at::ScalarType::ComplexFloat\) \{.*?(?=\} else)", "",
                  text, flags=re.DOTALL)  # fmt: skip
    front.write_text(text)
    sources = [str(front)]
    for way, params in (("fwd", "SSMParamsBase"), ("bwd", "SSMParamsBwd")):
        for name, kind in (("bf16", "at::BFloat16"), ("fp32", "float")):
            unit = target / f"{way}_{name}.cu"
            unit.write_text(
                f'#include "selective_scan_{way}_kernel.cuh"\n'
                f"template void selective_scan_{way}_cuda<{kind}, float>"
                f"({params} &params, cudaStream_t stream);\n"
            )
            sources.append(str(unit))
    os.environ["TORCH_CUDA_ARCH_LIST"] = ".".join(
        map(str, torch.cuda.get_device_capability())
    )
    return cpp_extension.load(
        "selective_scan_cuda",
        sources,
        extra_cuda_cflags=FLAGS,
        build_directory=str(target),
    )


def time_mamba(module: Any, *size: Any) -> dict[str, Any]:
    """mamba_ssm's two kernels, in its layout (batch, channels, length); checked against ours."""
    p = problem(*size)
    turned = [p[k].mT.contiguous() for k in ("x", "dt", "B", "C")]
    x, dt, B, C = turned[0], turned[1], turned[2][:, None], turned[3][:, None]
    fixed = (x, dt, p["A"], B, C, p["D"], None, p["dt_bias"])
    out, states, *_ = module.fwd(*fixed, True)
    p = {k: p[k] for k in ("x", "dt", "A", "B", "C", "D", "dt_bias")}
    ours: Any = selective_scan(**p, softplus=True, backend="triton")
    assert torch.allclose(out.mT.float(), ours.float(), rtol=3e-2, atol=5e-2)
    dy = torch.randn_like(x)
    del p, ours
    turns = timing.compare(
        {
            "forward": lambda: module.fwd(*fixed, True),
            "backward": lambda: module.bwd(
                *fixed, dy, states, out, None, True, False
            ),
        },
        **PACE,
    )
    return {name: milliseconds(of) for name, of in turns.timings.items()}


def accelerated(x: Any, dt: Any, A: Any, B: Any, C: Any) -> Any:
    """accelerated-scan's Triton kernel: one recurrence for each channel and state."""
    from accelerated_scan.scalar import scan

    a, u = (v.flatten(2).mT.contiguous() for v in peers.terms(x, dt, A, B))
    return (scan(a, u).mT.unflatten(2, (-1, STATE)) * C[:, :, None]).sum(-1)


def gla(x: Any, dt: Any, A: Any, B: Any, C: Any) -> Any:
    """Flash-linear-attention's gated linear attention, the nearest: one decay for all channels."""
    from fla.ops.gla import fused_recurrent_gla

    decay = (dt[:, :, :1] * A[0])[:, :, None]
    out = fused_recurrent_gla(
        C[:, :, None], B[:, :, None], (dt * x)[:, :, None], decay, scale=1.0
    )
    return out[0][:, :, 0]


#: What is recorded of the peers: the name of a package -> that of its module.
PACKAGES = {
    "mambapy": "mambapy",
    "accelerated-scan": "accelerated_scan",
    "flash-linear-attention": "fla",
}
PEERS: dict[str, Callable[..., Any]] = {
    "mambapy pscan": peers.of_mambapy,
    "torch associative_scan": peers.of_torch,
    "accelerated-scan": accelerated,
    "fla fused_recurrent_gla": gla,
    "torch loop": lambda *v: selective_scan(*v, backend="torch"),
}


def time_peer(run: Callable[..., Any]) -> dict[str, Any]:
    """Both passes of a peer at the usual size, in float32."""
    p = problem(*USUAL, torch.float32)
    p["dt"] = torch.nn.functional.softplus(p["dt"] - 4)
    leaves = [p[k].requires_grad_() for k in ("x", "dt", "A", "B", "C")]

    def forward() -> None:
        with torch.no_grad():
            run(*leaves)

    times = {"forward": milliseconds(timing.measure(forward, **SLOW))}
    y = run(*leaves)
    dy = torch.randn_like(y)
    backward = timing.measure(
        lambda: torch.autograd.grad(
            y, leaves, dy, retain_graph=True, allow_unused=True
        ),
        **SLOW,
    )
    return times | {"backward": milliseconds(backward)}


def numpy_row() -> dict[str, Any]:
    """The NumPy reference in float64, once, on the CPU of this machine."""
    p = problem(*USUAL, torch.float32)
    p["dt"] = torch.nn.functional.softplus(p["dt"] - 4)
    arrays = [p[k].double().cpu().numpy() for k in ("x", "dt", "A", "B", "C")]
    with timing.stopwatch() as took:
        y, _ = selective.selective_scan(*arrays)
    assert np.isfinite(y).all()
    row = named(*USUAL, torch.float64) | {"name": "NumPy reference (CPU)"}
    return row | {"forward": {"milliseconds": 1e3 * took.wall}}


def peer_rows(mamba: str | None) -> list[dict[str, Any]]:
    """Time every peer that is there; say of the others why not."""
    rows: list[dict[str, Any]] = []

    def add(
        name: str, size: tuple[Any, ...], run: Callable[[], dict[str, Any]]
    ) -> None:
        row = {"name": name} | named(*size)
        try:
            row |= run()
        except (Exception, SystemExit) as error:
            row["failed"] = f"{type(error).__name__}: {error}"[:300]
        rows.append(row)
        times = [
            f"{row[k]['milliseconds']:.3f}"
            for k in ("forward", "backward")
            if k in row
        ]
        print(name, *size, *times, row.get("failed", ""), flush=True)
        torch.cuda.empty_cache()

    if mamba:
        module = build_mamba(mamba)
        for dtype, size in itertools.product(
            (torch.bfloat16, torch.float32), SIZES
        ):
            sizes = (*size, dtype)
            add(
                "mamba_ssm",
                sizes,
                partial(time_mamba, module, *sizes),
            )
    for name, run in PEERS.items():
        add(name, (*USUAL, torch.float32), partial(time_peer, run))
    rows.append(numpy_row())
    return rows


def versions(mamba: str | None) -> dict[str, str]:
    """The packages that are timed."""
    found = {
        name: version(name)
        for name, module in PACKAGES.items()
        if find_spec(module)
    }
    if mamba:
        text = Path(mamba, "PKG-INFO").read_text("utf8")
        found["mamba_ssm"] = re.findall(r"^Version: (.+)$", text, re.M)[0]
    return found


def driver() -> dict[str, Any]:
    """The driver and the compilers."""
    query = ["nvidia-smi", "--query-gpu=driver_version"]
    query += ["--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True).stdout
    return {
        "driver": said.strip(),
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
    }


def table_row(row: dict[str, Any]) -> str:
    """A row, to be looked at while the rest is measured."""
    passes = "  ".join(
        f"{k} {row[k]['milliseconds']:8.3f} ms ({row[k]['per_cent_of_floor']:.0f} % of floor)"
        for k in ("forward", "forward_and_keep", "backward")
    )
    size = row["batch"], row["channels"], row["length"]
    return (
        f"{row['dtype']:9} {size}  {passes}  {row['extra_bytes'] / 1e6:.0f} MB"
    )


def main(
    quick: bool = False, commit: str | None = None, mamba: str | None = None
) -> None:
    """Measure and write the record; in quick mode without peers and profiler."""
    if not torch.cuda.is_available():
        raise SystemExit(
            "selective_scan_gpu.py measures a GPU, and torch finds none here"
        )
    torch.manual_seed(0)
    sizes = [(1, 64, 64)] if quick else SIZES
    top = ceilings(2**24 if quick else 2**32)
    print(top)
    measured: dict[str, Any] = {"state": STATE} | driver() | {"ceilings": top}
    measured["softplus"] = softplus_errors()
    measured["errors"] = correctness(quick)
    print(measured["softplus"], measured["errors"], flush=True)
    measured["rows"] = []
    for dtype, size in itertools.product(
        (torch.bfloat16, torch.float32), sizes
    ):
        measured["rows"].append(time_one(*size, dtype, top))
        print(table_row(measured["rows"][-1]), flush=True)
        torch.cuda.empty_cache()
    measured["peers"] = [] if quick else peer_rows(mamba)
    measured["sanitizer"] = {} if quick else sanitizer()
    measured["profile"] = {} if quick else profile()
    print(measured["sanitizer"], measured["profile"], flush=True)
    measured["log"] = LOG
    with common.record(__file__, quick) as path:
        results.save_results(
            path, measured, packages=versions(mamba), commit=commit
        )


def command() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help=common.HELP["quick"]
    )
    parser.add_argument("--commit", help="the commit, where there is no git")
    parser.add_argument(
        "--mamba", help="the unpacked source distribution of mamba_ssm"
    )
    parser.add_argument(
        "--small", action="store_true", help="for the sanitizer"
    )
    parser.add_argument("--once", action="store_true", help="for the profiler")
    options = parser.parse_args()
    if options.small:
        small()
    elif options.once:
        once()
    else:
        main(options.quick, options.commit, options.mamba)


if __name__ == "__main__":
    command()
