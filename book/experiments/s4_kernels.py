"""Measure the kernels of chapters 9 and 10; s4_kernels.json holds the numbers.

One thread. Ours beside the published algorithms, written out here: for S4D the
table of all powers, for S4 the Cauchy product with roots of unity taken as
powers of one complex64 number. Run it anew on another machine (Linux) with

    python book/experiments/s4_kernels.py
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import torch
from ssmlab import diagonal, lti, nn, ops, results, s4, timing
from torch import Tensor

STATE = 64
MODES = STATE // 2
LENGTHS = tuple(2**k for k in range(6, 15))
STATES = (16, 32, 64, 128, 256)


class Sizes(NamedTuple):
    """What is measured: the two kernels, and the steps of the recurrence."""

    channels: int = 256
    s4d_length: int = 16384
    s4_length: int = 4096
    steps: int = 4096


SMALL = Sizes(channels=3, s4d_length=64, s4_length=64, steps=8)


def draw_output(channels: int) -> np.ndarray:
    """Draw a C for each channel, in the modes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(channels, MODES, 2)) @ [1, 1j]


# --- S4D ---------------------------------------------------------------------


def step_sizes(channels: int) -> np.ndarray:
    """Spread the step sizes over two decades."""
    return np.geomspace(0.001, 0.1, channels)


def materialised(C: Tensor, A: Tensor, dt: Tensor, length: int) -> Tensor:
    """Sum over the table of all powers, (channels, modes, length)."""
    z = dt[:, None] * A
    weights = 2 * C * (torch.exp(z) - 1) / A
    table = torch.exp(z[..., None] * torch.arange(length))
    return torch.einsum("cn,cnl->lc", weights, table).real


def blocked(C: Tensor, A: Tensor, dt: Tensor, length: int) -> Tensor:
    """Call ssmlab.ops.vandermonde."""
    z = dt.double()[:, None] * A
    weights = 2 * C * (torch.exp(z) - 1) / A
    return ops.vandermonde(weights.to(C.dtype), torch.exp(z), length)


def in_numpy(C: Tensor, A: Tensor, dt: Tensor, length: int) -> np.ndarray:
    """Call ssmlab.diagonal.kernel."""
    A_, B = A.numpy(), np.ones(MODES)
    return diagonal.kernel(A_, B, C.numpy(), dt.numpy(), length)


def s4d_ways(sizes: Sizes) -> dict[str, Callable[[], Any]]:
    """Give each way its arguments: single precision, A in double for ours."""
    C = torch.tensor(draw_output(sizes.channels), dtype=torch.complex64)
    A = torch.tensor(diagonal.lin(STATE)[0])
    dt, length = torch.tensor(step_sizes(sizes.channels)), sizes.s4d_length
    single = A.to(torch.complex64), dt.float()
    return {
        "table of all powers": partial(materialised, C, *single, length),
        "blocks, torch": partial(blocked, C, A, dt, length),
        "blocks, NumPy": partial(in_numpy, C, A, dt, length),
    }


def s4d_in_long_double(channel: int, sizes: Sizes) -> np.ndarray:
    """Sum one power after the other, in long double."""
    dt = step_sizes(sizes.channels)[channel]
    z = (dt * diagonal.lin(STATE)[0]).astype(np.clongdouble)
    C = draw_output(sizes.channels).astype(np.complex64)[channel]
    term = 2 * C * (np.exp(z) - 1) / diagonal.lin(STATE)[0]
    A_bar, taps = np.exp(z), []
    for _ in range(sizes.s4d_length):
        taps.append(term.sum().real)
        term = term * A_bar
    return np.array(taps)


# --- S4 ----------------------------------------------------------------------

S4_DT = 0.1


def s4_parameters(channels: int) -> tuple[np.ndarray, ...]:
    """Return LegS and a C for each channel."""
    Lambda, P, B, _ = s4.dplr(STATE)
    return Lambda, P, B, draw_output(channels)


def cauchy(
    Lambda: Tensor, P: Tensor, B: Tensor, C_tilde: Tensor, w: Tensor
) -> Tensor:
    """Take the Cauchy product as published, with a dt for each channel."""
    channels, z = len(C_tilde), 2 * (1 - w) / (1 + w)
    dt = torch.full((channels, 1), S4_DT)
    poles = dt * torch.cat([Lambda, Lambda.conj()])
    table = dt[..., None] / (z - poles[..., None])

    def product(a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat([a * b, (a * b).conj()], -1)
        return torch.einsum("cn,cnk->ck", both.expand(channels, -1), table)

    low_rank = product(C_tilde, P) * product(P.conj(), B)
    K_hat = product(C_tilde, B) - low_rank / (1 + product(P.conj(), P))
    return torch.fft.irfft(2 / (1 + w) * K_hat).T


def s4_ways(sizes: Sizes) -> dict[str, Callable[[], Any]]:
    """Give each way its arguments."""
    channels, length = sizes.channels, sizes.s4_length
    Lambda, P, B, C = s4_parameters(channels)
    C_tilde = np.stack([s4.truncate(Lambda, P, c, S4_DT, length) for c in C])
    k = torch.arange(length // 2 + 1)
    exact = torch.exp(-2j * np.pi * k.double() / length)
    powers = exact.to(torch.complex64)[1] ** k
    single = [
        torch.tensor(M, dtype=torch.complex64) for M in (Lambda, P, B, C_tilde)
    ] + [powers]
    Lambda_, P_, B_ = (
        torch.tensor(M).expand(channels, -1) for M in (Lambda, P, B)
    )
    dt = torch.full((channels,), S4_DT, dtype=torch.float64)
    B_bar = ops.dplr_step(
        Lambda_, P_, B_, dt, torch.zeros_like(B_), torch.ones_like(dt)
    )
    ours = partial(ops.dplr_kernel, Lambda_, P_, B_bar)
    return {
        "Cauchy, powers of a complex64 root": partial(cauchy, *single),
        "powers in blocks, float32": partial(
            ours, torch.tensor(C, dtype=torch.complex64), dt, length
        ),
        "powers in blocks, float64": partial(ours, torch.tensor(C), dt, length),
    }


def s4_in_long_double(channel: int, sizes: Sizes) -> np.ndarray:
    """Multiply by A_bar in long double, one tap after the other."""
    Lambda, P, B, C = s4_parameters(sizes.channels)
    system = s4.system(Lambda, P, B, C[channel])
    I, M = np.eye(STATE, dtype=np.longdouble), system.A * np.longdouble(S4_DT)
    inverse = np.linalg.inv((I - M / 2).astype(float)).astype(np.longdouble)
    for _ in range(2):  # Newton
        inverse = inverse @ (2 * I - (I - M / 2) @ inverse)
    h, taps = S4_DT * inverse @ system.B, []
    for _ in range(sizes.s4_length):
        taps.append(system.C @ h)
        h = 2 * (inverse @ h) - h
    return np.array(taps)


# --- what is measured --------------------------------------------------------

WAYS = {"S4D": s4d_ways, "S4": s4_ways}
TRUTHS = {"S4D": s4d_in_long_double, "S4": s4_in_long_double}


def extra_memory(model: str, name: str, sizes: Sizes) -> int:
    """Give the most bytes above the start that one call holds (Linux)."""
    torch.set_num_threads(1)
    way = WAYS[model](sizes)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    way()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text("utf8")
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", text)[0])


def in_a_process(*arguments: Any) -> int:
    """Ask for the memory in a process of its own, whose peak is that of the call."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(extra_memory, arguments)


def compare(model: str, sizes: Sizes, quick: bool) -> list[dict[str, Any]]:
    """Measure time, memory and error of every way."""
    ways = WAYS[model](sizes)
    measured = timing.compare(ways, **common.pace(quick, repeat=5))
    channels = (0, sizes.channels // 2, sizes.channels - 1)
    truths = {c: TRUTHS[model](c, sizes) for c in channels}
    memory_of = extra_memory if quick else in_a_process
    rows = []
    for name, way in ways.items():
        K_bar = np.asarray(way())
        error = max(
            np.abs(K_bar[:, c] - truth).max() / np.abs(truth).max()
            for c, truth in truths.items()
        )
        memory = memory_of(model, name, sizes)
        rows.append(
            {
                "way": name,
                "seconds": measured.timings[name],
                "times_faster": 1 / measured.ratios[name],
                "bytes": memory,
                "error": float(error),
            }
        )
        print(
            f"{model}, {name}: {measured.timings[name]}; "
            f"{1 / measured.ratios[name]:.3g} times faster; "
            f"{memory / 1e6:.0f} MB; error {error:.1e}"
        )
    return rows


@torch.no_grad()
def two_modes(layer: nn.S4 | nn.S4D, steps: int) -> float:
    """Compare step by step with forward, from a state that is not zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, steps, 16, generator=generator).to(layer.D.dtype)
    state = torch.randn(
        1, 16, MODES, dtype=torch.complex128, generator=generator
    )
    y, by_steps = layer(x, state), []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        by_steps.append(y_t)
    difference = (torch.stack(by_steps, 1) - y).abs().max() / y.abs().max()
    return difference.item()


def agreement(steps: int) -> dict[str, dict[str, float]]:
    """Run every layer in both modes, in both precisions."""
    torch.manual_seed(0)
    layers = {"S4": nn.S4(16, STATE)} | {
        f"S4D-{init}": nn.S4D(16, STATE, init=init)
        for init in diagonal.INITIALISATIONS
    }
    return {
        name: {
            "float32": two_modes(layer.float(), steps),
            "float64": two_modes(layer.double(), steps),
        }
        for name, layer in layers.items()
    }


def three_ways(N: int, L: int) -> dict[str, Callable[[], np.ndarray]]:
    """One channel of S4 in NumPy: the ways that the chapter compares."""
    Lambda, P, B, V = s4.dplr(N)
    system = s4.system(Lambda, P, B, V[0]).discretize(0.01, "bilinear")
    return {
        "tap by tap": partial(lti.kernel, system, L),
        "generating function": partial(s4.kernel, Lambda, P, B, V[0], 0.01, L),
        "powers in blocks": partial(s4.kernel_in_blocks, system, L),
    }


def sweep(sizes: list[tuple[int, int]], quick: bool) -> list[dict[str, Any]]:
    """Time the three ways at each (state, length)."""
    rows = []
    for N, L in sizes:
        timings = timing.compare(
            three_ways(N, L), **common.pace(quick, repeat=9, seconds=0.1)
        ).timings
        rows.append(
            {
                "state": N,
                "length": L,
                "seconds": {name: t.median for name, t in timings.items()},
                "quartiles": {name: t.quartiles for name, t in timings.items()},
            }
        )
    return rows


def main(quick: bool = False) -> None:
    """Measure everything and write the record."""
    sizes = SMALL if quick else Sizes()
    by_length = [(STATE, L) for L in common.few(LENGTHS, quick)]
    by_state = [(N, 1024) for N in common.few(STATES, quick)]
    measured = {
        "channels": sizes.channels,
        "state": STATE,
        "S4D": {
            "length": sizes.s4d_length,
            "rows": compare("S4D", sizes, quick),
        },
        "S4": {
            "length": sizes.s4_length,
            "dt": S4_DT,
            "rows": compare("S4", sizes, quick),
        },
        "two_modes": {
            "steps": sizes.steps,
            "difference": agreement(sizes.steps),
        },
        "by_length": sweep(by_length, quick),
        "by_state": sweep(by_state, quick),
    }
    with common.record(__file__, quick) as path:
        results.save_results(path, measured)


if __name__ == "__main__":
    common.command(main)
