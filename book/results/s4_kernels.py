"""Measure the kernels of chapters 8 and 9; s4_kernels.json holds the numbers.

One thread. Ours beside the published algorithms, written out here: for S4D the
table of all powers, for S4 the Cauchy product with roots of unity taken as
powers of one complex64 number. Run it anew on another machine (Linux) with

    python book/results/s4_kernels.py
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ssmlab import diagonal, lti, nn, ops, s4, timing
from threadpoolctl import threadpool_limits
from torch import Tensor

CHANNELS, STATE = 256, 64
MODES = STATE // 2
STEPS = 4096  # of the recurrence beside the convolution
LENGTHS = tuple(2**k for k in range(6, 15))
STATES = (16, 32, 64, 128, 256)


def draw_output() -> np.ndarray:
    """Draw a C for each channel, in the modes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(CHANNELS, MODES, 2)) @ [1, 1j]


# --- S4D: 256 channels, state 64, length 16384 -------------------------------

S4D_LENGTH = 16384
DT = np.geomspace(0.001, 0.1, CHANNELS)


def materialised(C: Tensor, A: Tensor, dt: Tensor) -> Tensor:
    """Sum over the table of all powers, (channels, modes, length)."""
    z = dt[:, None] * A
    weights = 2 * C * (torch.exp(z) - 1) / A
    table = torch.exp(z[..., None] * torch.arange(S4D_LENGTH))
    return torch.einsum("cn,cnl->lc", weights, table).real


def blocked(C: Tensor, A: Tensor, dt: Tensor) -> Tensor:
    """Call ssmlab.ops.vandermonde."""
    z = dt.double()[:, None] * A
    weights = 2 * C * (torch.exp(z) - 1) / A
    return ops.vandermonde(weights.to(C.dtype), torch.exp(z), S4D_LENGTH)


def in_numpy(C: Tensor, A: Tensor, dt: Tensor) -> np.ndarray:
    """Call ssmlab.diagonal.kernel."""
    A_, B = A.numpy(), np.ones(MODES)
    return diagonal.kernel(A_, B, C.numpy(), dt.numpy(), S4D_LENGTH)


def s4d_ways() -> dict[str, Callable[[], Any]]:
    """Give each way its arguments: single precision, A in double for ours."""
    C = torch.tensor(draw_output(), dtype=torch.complex64)
    A, dt = torch.tensor(diagonal.lin(STATE)[0]), torch.tensor(DT)
    return {
        "table of all powers": partial(
            materialised, C, A.to(torch.complex64), dt.float()
        ),
        "blocks, torch": partial(blocked, C, A, dt),
        "blocks, NumPy": partial(in_numpy, C, A, dt),
    }


def s4d_in_long_double(channel: int) -> np.ndarray:
    """Sum one power after the other, in long double."""
    z = (DT[channel] * diagonal.lin(STATE)[0]).astype(np.clongdouble)
    C = draw_output().astype(np.complex64)[channel]
    term = 2 * C * (np.exp(z) - 1) / diagonal.lin(STATE)[0]
    A_bar, taps = np.exp(z), []
    for _ in range(S4D_LENGTH):
        taps.append(term.sum().real)
        term = term * A_bar
    return np.array(taps)


# --- S4: 256 channels, state 64, length 4096, dt 0.1 -------------------------

S4_LENGTH, S4_DT = 4096, 0.1


def s4_parameters() -> tuple[np.ndarray, ...]:
    """Return LegS and a C for each channel."""
    Lambda, P, B, _ = s4.dplr(STATE)
    return Lambda, P, B, draw_output()


def cauchy(
    Lambda: Tensor, P: Tensor, B: Tensor, C_tilde: Tensor, w: Tensor
) -> Tensor:
    """Take the Cauchy product as published, with a dt for each channel."""
    z = 2 * (1 - w) / (1 + w)
    dt = torch.full((CHANNELS, 1), S4_DT)
    poles = dt * torch.cat([Lambda, Lambda.conj()])
    table = dt[..., None] / (z - poles[..., None])

    def product(a: Tensor, b: Tensor) -> Tensor:
        both = torch.cat([a * b, (a * b).conj()], -1)
        return torch.einsum("cn,cnk->ck", both.expand(CHANNELS, -1), table)

    low_rank = product(C_tilde, P) * product(P.conj(), B)
    K_hat = product(C_tilde, B) - low_rank / (1 + product(P.conj(), P))
    return torch.fft.irfft(2 / (1 + w) * K_hat, S4_LENGTH).T


def s4_ways() -> dict[str, Callable[[], Any]]:
    """Give each way its arguments."""
    Lambda, P, B, C = s4_parameters()
    C_tilde = np.stack([s4.truncate(Lambda, P, c, S4_DT, S4_LENGTH) for c in C])
    k = torch.arange(S4_LENGTH // 2 + 1)
    exact = torch.exp(-2j * np.pi * k.double() / S4_LENGTH)
    rounded = exact.to(torch.complex64)
    single = [
        torch.tensor(M, dtype=torch.complex64) for M in (Lambda, P, B, C_tilde)
    ]
    shared = [torch.tensor(M).expand(CHANNELS, -1) for M in (Lambda, P, B)]
    dt = torch.full((CHANNELS,), S4_DT, dtype=torch.float64)
    B_bar = ops.dplr_step(
        *shared, dt, torch.zeros_like(shared[2]), torch.ones_like(dt)
    )
    ours = partial(ops.dplr_kernel, *shared[:2], B_bar)
    return {
        "Cauchy, powers of a complex64 root": partial(
            cauchy, *single, rounded[1] ** k
        ),
        "powers in blocks, float32": partial(
            ours, torch.tensor(C, dtype=torch.complex64), dt, S4_LENGTH
        ),
        "powers in blocks, float64": partial(
            ours, torch.tensor(C), dt, S4_LENGTH
        ),
    }


def s4_in_long_double(channel: int) -> np.ndarray:
    """Multiply by A_bar in long double, one tap after the other."""
    Lambda, P, B, C = s4_parameters()
    system = s4.system(Lambda, P, B, C[channel])
    I, M = np.eye(STATE, dtype=np.longdouble), system.A * np.longdouble(S4_DT)
    inverse = np.linalg.inv((I - M / 2).astype(float)).astype(np.longdouble)
    for _ in range(2):  # Newton
        inverse = inverse @ (2 * I - (I - M / 2) @ inverse)
    h, taps = S4_DT * inverse @ system.B, []
    for _ in range(S4_LENGTH):
        taps.append(system.C @ h)
        h = 2 * (inverse @ h) - h
    return np.array(taps)


# --- what is measured --------------------------------------------------------

WAYS = {"S4D": s4d_ways, "S4": s4_ways}
TRUTHS = {"S4D": s4d_in_long_double, "S4": s4_in_long_double}


def extra_memory(model: str, name: str) -> int:
    """Give the most bytes above the start that one call holds (Linux)."""
    torch.set_num_threads(1)
    way = WAYS[model]()[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    way()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text("utf8")
    return 1024 * int(re.findall(rf"{field}:\s+(\d+)", text)[0])


def compare(model: str) -> list[dict[str, Any]]:
    """Measure time, memory and error of every way."""
    ways = WAYS[model]()
    measured = timing.compare(ways, repeat=5)
    channels = (0, CHANNELS // 2, CHANNELS - 1)
    truths = {c: TRUTHS[model](c) for c in channels}
    rows = []
    for name, way in ways.items():
        K_bar = np.asarray(way())
        error = max(
            np.abs(K_bar[:, c] - truth).max() / np.abs(truth).max()
            for c, truth in truths.items()
        )
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            memory = pool.apply(extra_memory, (model, name))
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
def two_modes(layer: nn.S4 | nn.S4D) -> float:
    """Compare step by step with forward, from a state that is not zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, STEPS, 16, generator=generator).to(layer.D.dtype)
    state = torch.randn(
        1, 16, MODES, dtype=torch.complex128, generator=generator
    )
    y, steps = layer(x, state), []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        steps.append(y_t)
    difference = (torch.stack(steps, 1) - y).abs().max() / y.abs().max()
    return difference.item()


def agreement() -> dict[str, dict[str, float]]:
    """Run every layer in both modes, in both precisions."""
    torch.manual_seed(0)
    layers = {"S4": nn.S4(16, STATE)} | {
        f"S4D-{init}": nn.S4D(16, STATE, init=init)
        for init in diagonal.INITIALISATIONS
    }
    return {
        name: {
            "float32": two_modes(layer.float()),
            "float64": two_modes(layer.double()),
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


def sweep(sizes: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """Time the three ways at each (state, length)."""
    rows = []
    for N, L in sizes:
        timings = timing.compare(
            three_ways(N, L), repeat=9, seconds=0.1
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


def main() -> None:
    """Measure everything and write the result file."""
    torch.set_num_threads(1)
    results = {
        "channels": CHANNELS,
        "state": STATE,
        "S4D": {"length": S4D_LENGTH, "rows": compare("S4D")},
        "S4": {"length": S4_LENGTH, "dt": S4_DT, "rows": compare("S4")},
        "two_modes": {"steps": STEPS, "difference": agreement()},
        "by_length": sweep(tuple((STATE, L) for L in LENGTHS)),
        "by_state": sweep(tuple((N, 1024) for N in STATES)),
    }
    timing.save_results(Path(__file__).with_suffix(".json"), results)


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
