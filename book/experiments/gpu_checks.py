"""Check what works with what on one or two GPUs; write what came out.

    python book/experiments/gpu_checks.py [--commit HASH]

``--commit`` names the commit where there is no git. What `works_with.py`
checks, and what needs a GPU: wrappers, another device, graphs, sizes. A fault
of a kernel ends the process that made it, so checks run in processes of their
own, each from the first check that is left; the record is written whatever
comes. The page "what works with what" reads it.

The "results" of the file: "gpus", how many; "checks", a dict for each pair of a
"feature" and a "case", with the "outcome" ("yes", "-" where the pair means
nothing, "not tried" for want of a second GPU or of time, or the first line of
what went wrong), its "error" against float64 on
the CPU (None where none is taken), and "seconds".
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import common
import torch
import works_with
from ssmlab import ops, results
from ssmlab.compat import selective_scan_fn
from torch import Tensor
from works_with import (
    CASES,
    COLUMNS,
    NOT_TRIED,
    SHOWN,
    Absent,
    Case,
    Check,
    Untried,
)

GPU = "cuda:0"
PATIENCE = 75  # seconds for one check
BUDGET = 480  # seconds for all of them
BROKEN = 3  # how a process ends whose GPU fails
GRAPH = "graph of step"  # one that fails leaves the process in a capture
Row = dict[str, Any]
Pair = tuple[str, str]


# --- what every case is tried with ---------------------------------------------------------------


def large_batch(case: Case, device: str, batch: int) -> float:
    """Many sequences: the last three, and the gradients that they give."""
    model = case.make(device, torch.float32)
    x = case.draw(device, torch.float32, batch)
    return works_with.compare(
        lambda _: model(x)[-3:], model, x[-3:], torch.float32
    )


def graph_of_step(case: Case, device: str) -> float:
    """One step, captured in a CUDA graph and replayed with another input."""
    model: Any = case.make(device, torch.float32)
    if not (hasattr(model, "step") and hasattr(model, "initial_state")):
        raise Absent
    x, state = case.draw(device, torch.float32), model.initial_state(4)
    held, stream = x[:, 0].clone(), torch.cuda.Stream()
    with torch.no_grad():
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model.step(held, state)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, _ = model.step(held, state)
        held.copy_(x[:, 1])
        graph.replay()
        expected, _ = model.step(x[:, 1], state)
        error = works_with.distance([y], [expected])
        return works_with.within(error, torch.float32)


def second_gpu(case: Case, device: str) -> float:
    """On the second GPU, while the first is the current one."""
    need_two()
    assert torch.cuda.current_device() == 0
    return works_with.plain(case, "cuda:1", torch.float32)


def data_parallel(case: Case, device: str) -> float:
    """Replicas on two GPUs."""
    need_two()
    if case.name in works_with.OPS:
        raise Absent
    model = case.make(device, torch.float32)
    run = torch.nn.DataParallel(model, [0, 1])
    x = case.draw(device, torch.float32)
    return works_with.compare(run, model, x, torch.float32)


def need_two() -> None:
    """Leave it where there is no second GPU."""
    if torch.cuda.device_count() < 2:
        raise Untried


def sharded(case: Case, device: str, way: str) -> float:
    """Outputs after a step of training, in shards over all processes."""
    from torch.distributed import fsdp

    if case.name in works_with.OPS:
        raise Absent
    device = f"cuda:{torch.cuda.current_device()}"
    model = case.make(device, torch.float32)
    exact = deepcopy(model).to("cpu", torch.float64)
    x = case.draw(device, torch.float32)
    if way == "FSDP2":
        for part in getattr(model, "layers", ()):
            fsdp.fully_shard(part)
        fsdp.fully_shard(model)
    else:
        model = fsdp.FullyShardedDataParallel(
            model,
            device_id=torch.cuda.current_device(),
            use_orig_params=way != "FSDP",
        )
    exact_x = x.cpu() if case.tokens else x.cpu().double()
    found, expected = trained(model, x), trained(exact, exact_x)
    error = works_with.distance([found], [expected])
    return works_with.within(error, torch.float32)


def trained(model: torch.nn.Module, x: Tensor) -> Tensor:
    """The outputs after a step of gradient descent."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimiser.step()
    with torch.no_grad():
        y: Tensor = model(x)
    return y


# --- the scan at sizes that 16 and 32 bits do not count ------------------------------------------


def scan_batch(batch: int, complex_A: bool) -> float:
    """Many sequences, forward and backward, against the loop in torch."""
    generator = torch.Generator(GPU).manual_seed(0)
    x = torch.randn(batch, 2, 4, device=GPU, generator=generator)
    A = -torch.ones(4, 2, device=GPU)
    A = torch.complex(A, -A) if complex_A else A
    found = []
    for part, backend in ((x, "triton"), (x[-9:], "torch")):
        leaves = [v.clone().requires_grad_() for v in (part, A)]
        B = torch.ones_like(leaves[1])
        y: Any = ops.selective_scan(
            leaves[0], part.abs(), leaves[1], B, B, backend=backend
        )
        dx, dA = torch.autograd.grad(y[-9:].square().sum(), leaves)
        found.append([y[-9:], dx[-9:], torch.view_as_real(dA.to(torch.cfloat))])
    return works_with.within(works_with.distance(*found), torch.float32)


def scan_elements(
    first: bool,
    channels: int,
    length: int,
    *,
    state: int = 2,
    groups: int = 1,
    complex_A: bool = False,
    backward: bool = False,
) -> float:
    """The last 16 channels of a scan against a scan of these alone.

    x lies channel-first or channel-last in memory; B and C as it does.
    """
    number = torch.float32 if complex_A else torch.bfloat16

    def random(last: int, kind: torch.dtype) -> Tensor:
        shape = (1, last, length) if first else (1, length, last)
        v = torch.empty(shape, device=GPU, dtype=kind).normal_()
        return v.mT if first else v

    x, dt = random(channels, number), random(channels, number).abs_().mul_(0.1)
    kind = torch.cfloat if complex_A else number
    B = random(groups * state, kind).unflatten(2, (groups, state))
    A = -torch.rand(channels, state, device=GPU) - 0.1
    A = torch.complex(A, A) if complex_A else A
    kept = max(1, groups * 16 // channels)
    few = x[..., -16:], dt[..., -16:], A[-16:], B[:, :, -kept:]
    found: list[list[Tensor]] = []
    for parts in ((x, dt, A, B), few):
        leaves = [v.detach() for v in parts]
        if len(found) == 1:
            leaves = [v.contiguous() for v in leaves]
        leaves = [v.requires_grad_(backward) for v in leaves]
        of_x, of_dt, of_A, of_B = leaves
        y: Any = ops.selective_scan(
            of_x, of_dt, of_A, of_B, of_B, backend="triton"
        )
        part = [y[..., -16:].detach().contiguous()]
        if backward:
            dy = torch.zeros_like(y)
            dy[..., -16:] = 1.0
            of = torch.autograd.grad(y, leaves, dy)
            part += [of[0][..., -16:], of[1][..., -16:], of[2][-16:], of[3]]
        found.append([v.cpu() for v in part])
        del y, leaves, of_x, of_dt, of_A, of_B
    return works_with.within(works_with.distance(*found), torch.float32)


def compat_complex() -> float:
    """mamba_ssm's function with a complex A and signals in bfloat16."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16()

    u, delta, B = random(2, 4, 12), random(2, 4, 12), random(2, 3, 24)
    A = torch.complex(-torch.rand(4, 3), torch.rand(4, 3))
    found = []
    for device, wide in ((GPU, False), ("cpu", True)):
        leaves = [
            (v.double() if wide else v).to(device).requires_grad_()
            for v in (u, delta, B)
        ]
        rates = A.to(device, torch.cdouble if wide else torch.cfloat)
        signal, step, varying = leaves
        y: Any = selective_scan_fn(
            signal, step, rates, varying, varying, delta_softplus=True
        )
        found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    return works_with.within(works_with.distance(*found), torch.bfloat16)


LONG = 2**20 + 64
SCANS: dict[str, Callable[[], float]] = {
    **{
        f"batch {batch:,}{', complex A' * is_complex}": partial(
            scan_batch, batch, is_complex
        )
        for batch in (65_535, 65_536, 70_000)
        for is_complex in (False, True)
    },
    "2^31 numbers in x, channel-first": partial(
        scan_elements, True, 2064, LONG, backward=True
    ),
    "2^31 numbers in x, channel-last": partial(
        scan_elements, False, 2064, LONG, backward=True
    ),
    "2^31 numbers in x, channel-first, complex A": partial(
        scan_elements, True, 2064, LONG, complex_A=True
    ),
    "2^31 numbers in B and C, channel-first": partial(
        scan_elements, True, 2064, LONG, groups=1032
    ),
    "2^31 numbers in B and C, channel-last": partial(
        scan_elements, False, 2064, LONG, groups=1032
    ),
    "2^31 numbers in B and C, complex A": partial(
        scan_elements,
        False,
        1024,
        2**16 + 64,
        state=16,
        groups=1024,
        complex_A=True,
    ),
    "2^31 numbers in A": partial(scan_elements, False, 2**27 + 64, 1, state=16),
    "compat, complex A in bfloat16": compat_complex,
}

# --- the list ------------------------------------------------------------------------------------

#: What only GPUs show; the first part for every case, the rest for those of the page.
EVERYWHERE: dict[str, Check] = {
    "float32": partial(works_with.plain, dtype=torch.float32),
    "cuda:1": second_gpu,
    "DataParallel": data_parallel,
    "autocast": COLUMNS["autocast"],
    "autocast float16": partial(works_with.autocast, dtype=torch.float16),
    "from meta": COLUMNS["from meta"],
    "built on cuda": works_with.built_there,
    "batch 70,000": partial(large_batch, batch=70_000),
    "hooks": COLUMNS["hooks"],
    GRAPH: graph_of_step,
}
ON_THE_PAGE = {k: v for k, v in COLUMNS.items() if k not in EVERYWHERE}
ON_THE_PAGE["batch 65,536"] = partial(large_batch, batch=65_536)
ON_THE_PAGE["compile"] = works_with.compiled
ON_THE_PAGE["compile, inductor"] = partial(
    works_with.compiled, backend="inductor"
)
TOGETHER: dict[str, Check] = {
    "FSDP": partial(sharded, way="FSDP"),
    "FSDP, use_orig_params": partial(sharded, way="FSDP, use_orig_params"),
    "FSDP2": partial(sharded, way="FSDP2"),
}
CHECKS = EVERYWHERE | ON_THE_PAGE | TOGETHER


def listed(quick: bool) -> tuple[list[Pair], list[Pair]]:
    """All pairs of a feature and a case: those for one process, those for one on each GPU."""
    cases = [case.name for case in CASES]
    shown = [case.name for case in SHOWN]
    if quick:
        cases = shown = ["S4D", "Mamba"]
    alone = [(f, case) for f in EVERYWHERE for case in cases]
    alone += [("scan", name) for name in list(SCANS)[: 2 if quick else None]]
    alone += [(f, case) for f in ON_THE_PAGE for case in shown]
    return alone, [(f, case) for f in TOGETHER for case in cases]


def one(pair: Pair) -> Row:
    """Run one check, and wait for the GPU."""
    feature, name = pair
    start, broken = time.perf_counter(), None
    if feature == "scan":
        check: Check = lambda *_: SCANS[name]()  # noqa: E731
        outcome, error = works_with.outcome(check, CASES[0], GPU)
    else:
        case = next(case for case in CASES if case.name == name)
        outcome, error = works_with.outcome(CHECKS[feature], case, GPU)
    try:
        torch.cuda.synchronize()
        if feature == "scan":
            torch.cuda.empty_cache()
    except RuntimeError as fault:
        broken = str(fault).splitlines()[0]
    if feature == GRAPH and outcome not in ("yes", "-"):
        broken = outcome
    return row(pair, broken or outcome, error, time.perf_counter() - start) | (
        {"broken": True} if broken else {}
    )


def row(
    pair: Pair, outcome: str, error: float | None = None, seconds: float = 0.0
) -> Row:
    """A row of the record."""
    named = {"feature": pair[0], "case": pair[1], "outcome": outcome}
    return named | {"error": error, "seconds": round(seconds, 2)}


# --- processes -----------------------------------------------------------------------------------


def work(rank: int, world: int, meeting: str, pairs: list[Pair]) -> None:
    """Run checks in this process, and print a row for each; end where the GPU fails."""
    torch.cuda.set_device(rank)
    if meeting:
        torch.distributed.init_process_group(
            "nccl", f"file://{meeting}", rank=rank, world_size=world
        )
    for pair in pairs:
        done = one(pair)
        print("ROW" + json.dumps(done), flush=True)
        if "broken" in done:
            os._exit(BROKEN)
    os._exit(0)  # without waiting for the other processes


def started(pairs: list[Pair], world: int) -> Iterator[Row]:
    """Run checks in new processes; give the rows that they make, and one for what ended them."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder, "meeting")) if world else ""
        log = Path(folder, "log")
        command = [sys.executable, __file__, "--world", str(world)]
        command += ["--meeting", meeting, "--pairs", json.dumps(pairs)]
        with log.open("w") as errors:
            others: list[subprocess.Popen[Any]] = [
                subprocess.Popen(
                    [*command, "--rank", str(rank)],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for rank in range(1, world)
            ]
            process = subprocess.Popen(
                [*command, "--rank", "0"],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        made, timer = 0, Timer(PATIENCE, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith("ROW"):
                    timer.cancel()
                    timer = Timer(PATIENCE, process.kill)
                    timer.start()
                    made += 1
                    yield json.loads(line[3:])
        finally:
            timer.cancel()
            for each in [process, *others]:
                each.kill()
                each.wait()
        if made < len(pairs) and process.returncode != BROKEN:
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            reason = f"the process ended with {process.returncode}"
            yield row(pairs[made], ": ".join([reason, *said])[:300])


def run_all(
    pairs: list[Pair],
    start: Callable[[list[Pair]], Iterator[Row]],
    deadline: float,
) -> list[Row]:
    """Run all checks, from the next one again where processes end; stop in time."""
    rows: list[Row] = []
    while len(rows) < len(pairs):
        before = len(rows)
        for done in start(pairs[before:]):
            done.pop("broken", None)
            rows.append(done)
            show(done)
            if time.monotonic() > deadline:
                break
        if len(rows) == before:
            rows.append(row(pairs[before], "the process ended at once"))
        if time.monotonic() > deadline:
            left = pairs[len(rows) :]
            return rows + [row(pair, NOT_TRIED) for pair in left]
    return rows


def show(done: Row) -> None:
    """Print a row, to be looked at while the rest runs."""
    error = "" if done["error"] is None else f"{done['error']:.0e}"
    print(
        f"{done['feature']:22} {done['case']:44} {error:6} "
        f"{done['seconds']:6.1f} s  {done['outcome'][:150]}",
        flush=True,
    )


def main(quick: bool = False, commit: str | None = None) -> None:
    """Run every check and write the record; in quick mode, a few checks."""
    if not torch.cuda.is_available():
        raise SystemExit(
            "gpu_checks.py checks a GPU, and torch finds none here"
        )
    deadline = time.monotonic() + BUDGET
    alone, together = listed(quick)
    gpus = torch.cuda.device_count()
    rows = run_all(
        together, partial(started, world=min(2, gpus)), time.monotonic() + 150
    )
    rows += run_all(alone, partial(started, world=0), deadline)
    fine = ("yes", "-", NOT_TRIED)
    failed = [r for r in rows if r["outcome"] not in fine]
    print(f"\n{len(rows)} checks, {len(failed)} that fail:")
    for done in failed:
        show(done)
    torch.cuda.init()  # so that the record names the GPU
    with common.record(__file__, quick) as path:
        results.save_results(
            path, {"gpus": gpus, "checks": rows}, commit=commit
        )


def command() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help=common.HELP["quick"]
    )
    parser.add_argument("--commit", help="the commit, where there is no git")
    parser.add_argument("--pairs", help="for the processes that it starts")
    parser.add_argument("--rank", type=int, default=0, help="likewise")
    parser.add_argument("--world", type=int, default=0, help="likewise")
    parser.add_argument("--meeting", default="", help="likewise")
    options = parser.parse_args()
    if options.pairs:
        pairs = [(feature, case) for feature, case in json.loads(options.pairs)]
        work(options.rank, options.world, options.meeting, pairs)
    else:
        main(options.quick, options.commit)


if __name__ == "__main__":
    command()
