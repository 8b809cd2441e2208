r"""The selective scan as a compiled CPU kernel (numba), with its gradient written by hand.

Time runs in chunks of T steps, channels in blocks; the state of one channel stays in cache over a
chunk, and (batch, length, channels, state) is never stored. The forward pass keeps the state at the
start of each chunk; the backward pass recomputes the states inside a chunk and runs through them in
reverse, with g the gradient of the state:

.. math:: g_t = \bar a_{t+1}^* g_{t+1} + C_t^* \dot y_t, \qquad
          \dot B_t = g_t \Delta_t x_t, \qquad \dot C_t = h_t^* \dot y_t, \qquad
          \dot{\bar a}_t = g_t h_{t-1}^*

where a dot marks a gradient and a star the conjugate, as torch has it. Blocks are shared out among
threads, and each writes its own part of the gradients, so that the result is the same bits for any
number of threads. Derived in chapter 13.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, no_type_check

import numpy as np
import torch
from numba import from_dtype, njit, types
from numba.core.compiler import Compiler
from numba.extending import overload
from torch import Tensor

from ssmlab._typing import Float, Inexact, ndarray
from ssmlab.ops.scan_torch import refuse_second_derivative

T = 32  # steps a chunk
BLOCK = 32  # channels a block
LANES = 16  # states that the innermost loop takes at once
OPTIONS = {"nogil": True, "error_model": "numpy"}
SUMS = {"contract", "reassoc", "nsz"}  # sums in any order; nan and inf keep their meaning


def scan(
    x: Float[Tensor, "batch length channels"],
    dt: Float[Tensor, "batch length channels"],
    A: Inexact[Tensor, "channels state"],
    B: Inexact[Tensor, "..."],
    C: Inexact[Tensor, "..."],
    h0: Inexact[Tensor, "batch channels state"],
) -> tuple[Float[Tensor, "batch length channels"], Inexact[Tensor, "batch channels state"]]:
    """Run the scan; arguments and results are those of :func:`ssmlab.ops.scan_torch.scan`.

    Any strides; a second derivative is refused.

    Examples
    --------
    >>> x = torch.ones(1, 3, 1)
    >>> y, h = scan(x, x, A=torch.zeros(1, 1), B=x, C=x, h0=torch.zeros(1, 1, 1))
    >>> y.flatten()
    tensor([1., 2., 3.])
    """
    # The innermost loop runs over a fixed number of states: fill up with zeros.
    state = A.shape[1]
    A, B, C, h0 = (torch.nn.functional.pad(v, (0, -state % LANES)) for v in (A, B, C, h0))
    y, h = _Scan.apply(x, dt, A, B, C, h0)
    return y, h[..., :state]


class _Scan(torch.autograd.Function):
    """The kernels as one node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor
    ) -> tuple[Tensor, Tensor]:
        plan = _Plan(x, A, B, C)
        chunks = -(-x.shape[1] // T) if any(ctx.needs_input_grad) else 0
        saved = A.new_empty(x.shape[0], chunks, *A.shape)
        y, h = torch.empty_like(x), h0.clone(memory_format=torch.contiguous_format)
        plan.run("forward", [x, dt, y], [A, _rows(B), _rows(C), h, saved])
        ctx.save_for_backward(x, dt, A, B, C, saved)
        ctx.plan = plan
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("cpu")
        x, dt, A, B, C, saved = ctx.saved_tensors
        plan = ctx.plan
        dx, ddt, g = torch.empty_like(x), torch.empty_like(dt), dh.clone().contiguous()
        dA, dB, dC = A.new_zeros(x.shape[0], *A.shape), plan.parts(B), plan.parts(C)
        states = [A, _rows(B), _rows(C), saved, g, dA, dB, dC]
        plan.run("backward", [x, dt, dy, dx, ddt], states)
        return dx, ddt, dA.sum(0), plan.total(dB, B), plan.total(dC, C), g


class _Plan:
    """How the work is shared out: blocks of channels, each inside one group."""

    def __init__(self, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.batch, self.length, channels = x.shape
        self.dtype = A.dtype
        self.groups = next((M.shape[2] for M in (B, C) if M.ndim == 4), 1)
        width = channels // self.groups
        starts = [d + i for d in range(0, channels, width) for i in range(0, width, BLOCK)]
        self.starts = np.array([*starts, channels])
        self.blocks = len(starts)
        # For each channel: its row in B, in C, in the gradient of B and in that of C.
        d = np.arange(channels)
        block = np.searchsorted(self.starts, d, side="right") - 1
        rows = [d if M.ndim == 2 else d // width for M in (B, C)]
        self.at = np.stack([*rows, *(d if M.ndim == 2 else block for M in (B, C))])

    def parts(self, M: Tensor) -> Tensor:
        """Make room for the gradient of B or C: a part for each block, or channel if constant."""
        if M.ndim == 2:
            return M.new_zeros(self.batch, len(M), 1, M.shape[1])
        return M.new_zeros(self.batch, self.blocks, self.length, M.shape[-1])

    def total(self, parts: Tensor, M: Tensor) -> Tensor:
        """Sum the parts, in the shape of B or C."""
        if M.ndim == 2:
            return parts.sum(0)[:, 0]
        return parts.unflatten(1, (self.groups, -1)).sum(2).transpose(1, 2).reshape(M.shape)

    def run(self, name: str, signals: list[Tensor], states: list[Tensor]) -> None:
        """Run a kernel over all blocks of all sequences, on as many threads as torch uses."""
        kernel = _kernel(name, self.dtype)
        rate = math.log2(math.e) if self.dtype == torch.float32 else 1.0  # e^z = base^(rate z)
        scale = 2.0 if self.dtype.is_complex else 1.0
        arrays = [_array(v) for v in signals]
        for v in states:
            shape = (*v.shape[:-1], v.shape[-1] // LANES, LANES)
            arrays.append(np.ascontiguousarray(_array(v)).reshape(shape))
        tasks = self.batch * self.blocks
        threads = min(torch.get_num_threads(), tasks)
        bounds = [tasks * i // threads for i in range(threads + 1)]

        def part(i: int) -> None:
            kernel(bounds[i], bounds[i + 1], self.starts, self.at, rate, scale, *arrays)

        if threads == 1:
            part(0)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(part, range(threads)))


def _rows(M: Tensor) -> Tensor:
    """Give B or C the axes (batch, groups, length, state), or (1, channels, 1, state)."""
    if M.ndim == 2:
        return M[None, :, None].contiguous()
    return (M[:, None] if M.ndim == 3 else M.transpose(1, 2)).contiguous()


def _array(v: Tensor) -> ndarray:
    """Look at a tensor as an array, without a copy."""
    return v.detach().resolve_conj().resolve_neg().numpy()


# --- the kernels ---------------------------------------------------------------------------------


class _Disjoint(Compiler):
    """Compile a function whose arrays do not overlap, so that it may keep numbers in registers."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.state.flags.noalias = True


@no_type_check
@njit(types.float32(types.float32), fastmath={"contract"}, **OPTIONS)
def _exp2(z):  # pragma: no cover - compiled, so the coverage tool does not see it
    """2^z to 1e-7: a polynomial on [-1/2, 1/2], its exponent raised by the nearest whole number.

    Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits, from where it is
    shifted to the exponent's. From -127 down the result is 0, from 128 up it is infinity.
    """
    z = min(max(z, np.float32(-127)), np.float32(128))
    rounded = z + np.float32(12582912.0)
    f = z - (rounded - np.float32(12582912.0))
    g = f * f
    p = np.float32(1.3398874e-3) * f + np.float32(9.6184373e-3) + np.float32(1.5353362e-4) * g
    q = np.float32(5.5503324e-2) * f + np.float32(2.4022648e-1)
    p = (p * g + q) * g + (np.float32(6.9314720e-1) * f + np.float32(1.0))
    exponent = np.float32(rounded).view(np.int32) << np.int32(23)
    return np.int32(np.float32(p).view(np.int32) + exponent).view(np.float32)


@no_type_check
def _power(z):
    """base^z: 2^z in float32, e^z in the other types."""


@no_type_check
@overload(_power)
def _power_of(z):
    if z == types.float32:
        return lambda z: _exp2(z)
    if isinstance(z, types.Float):
        return lambda z: math.exp(z)
    return lambda z: cmath.exp(z)


@no_type_check
def _conj(z):
    """The conjugate; a real number is its own."""


@no_type_check
@overload(_conj)
def _conj_of(z):
    if isinstance(z, types.Float):
        return lambda z: z
    return lambda z: z.conjugate()


@no_type_check
@njit(pipeline_class=_Disjoint, fastmath=SUMS, **OPTIONS)
def _forward_steps(step, x, y, rates, B, C, t_B, t_C, k, h):  # pragma: no cover - compiled
    """Take LANES states of one channel through one chunk; add C h to y."""
    for i in range(len(step)):
        force, total = step[i] * x[i], y[i]
        B_t, C_t = B[i * t_B, k], C[i * t_C, k]
        for n in range(LANES):
            h_n = _power(step[i] * rates[n]) * h[n] + force * B_t[n]
            h[n] = h_n
            total += (C_t[n] * h_n).real
        y[i] = total


@no_type_check
@njit(pipeline_class=_Disjoint, fastmath=SUMS, **OPTIONS)
def _states(step, x, rates, B, t_B, k, h, decay):  # pragma: no cover - compiled
    """Keep the decays and the states of one chunk; h[0] is the state before it."""
    for i in range(len(step)):
        force, B_t = step[i] * x[i], B[i * t_B, k]
        for n in range(LANES):
            decay[i, n] = _power(step[i] * rates[n])
            h[i + 1, n] = decay[i, n] * h[i, n] + force * B_t[n]


@no_type_check
@njit(pipeline_class=_Disjoint, fastmath=SUMS, **OPTIONS)
def _backward_steps(  # pragma: no cover - compiled
    step, x, dy, A, B, C, t_B, t_C, k, h, decay, g, dx, dstep, dA, dB, dC
):
    """Take the gradient g of LANES states of one channel back through one chunk."""
    for i in range(len(step) - 1, -1, -1):
        force, dforce, drate = step[i] * x[i], x.dtype.type(0), x.dtype.type(0)
        B_t, C_t, dB_t, dC_t = B[i * t_B, k], C[i * t_C, k], dB[i * t_B, k], dC[i * t_C, k]
        for n in range(LANES):
            g_n = g[n] + dy[i] * _conj(C_t[n])
            dB_t[n] += force * g_n
            dC_t[n] += dy[i] * _conj(h[i + 1, n])
            dforce += (g_n * _conj(B_t[n])).real
            g_n = g_n * _conj(decay[i, n])
            grown = g_n * _conj(h[i, n])
            dA[n] += step[i] * grown
            drate += (grown * _conj(A[n])).real
            g[n] = g_n
        dx[i] += step[i] * dforce
        dstep[i] += drate + x[i] * dforce


@no_type_check
def forward(  # pragma: no cover - compiled
    first, last, starts, at, rate, scale, x, dt, y, A, B, C, h, saved
):
    """Run blocks ``first`` to ``last``: chunk by chunk, in each chunk channel by channel."""
    t_B, t_C = int(B.shape[2] == x.shape[1]), int(C.shape[2] == x.shape[1])
    step, u = np.empty((BLOCK, T), x.dtype), np.empty((BLOCK, T), x.dtype)
    out, rates = np.empty((BLOCK, T), x.dtype), rate * A
    for task in range(first, last):
        b, block = task // (len(starts) - 1), task % (len(starts) - 1)
        start, channels = starts[block], starts[block + 1] - starts[block]
        for t0 in range(0, x.shape[1], T):
            steps = min(T, x.shape[1] - t0)
            for i in range(steps):
                for j in range(channels):
                    step[j, i], u[j, i] = dt[b, t0 + i, start + j], x[b, t0 + i, start + j]
                    out[j, i] = 0
            for j in range(channels):
                d = start + j
                B_d = B[b % B.shape[0], at[0, d], t0 * t_B :]
                C_d = C[b % C.shape[0], at[1, d], t0 * t_C :]
                for k in range(A.shape[1]):
                    if saved.shape[1] > 0:
                        saved[b, t0 // T, d, k] = h[b, d, k]
                    _forward_steps(
                        step[j, :steps],
                        u[j],
                        out[j],
                        rates[d, k],
                        B_d,
                        C_d,
                        t_B,
                        t_C,
                        k,
                        h[b, d, k],
                    )
            for i in range(steps):
                for j in range(channels):
                    y[b, t0 + i, start + j] = scale * out[j, i]


@no_type_check
def backward(  # pragma: no cover - compiled
    first, last, starts, at, rate, scale, x, dt, dy, dx, ddt, A, B, C, saved, g, dA, dB, dC
):
    """Run the same blocks back, from the last chunk to the first."""
    t_B, t_C = int(B.shape[2] == x.shape[1]), int(C.shape[2] == x.shape[1])
    step, u, v = (
        np.empty((BLOCK, T), x.dtype),
        np.empty((BLOCK, T), x.dtype),
        np.empty((BLOCK, T), x.dtype),
    )
    du, dstep = np.empty((BLOCK, T), x.dtype), np.empty((BLOCK, T), x.dtype)
    h, decay, rates = np.empty((T + 1, LANES), A.dtype), np.empty((T, LANES), A.dtype), rate * A
    for task in range(first, last):
        b, block = task // (len(starts) - 1), task % (len(starts) - 1)
        start, channels = starts[block], starts[block + 1] - starts[block]
        for c in range(saved.shape[1] - 1, -1, -1):
            t0 = c * T
            steps = min(T, x.shape[1] - t0)
            for i in range(steps):
                for j in range(channels):
                    step[j, i], u[j, i] = dt[b, t0 + i, start + j], x[b, t0 + i, start + j]
                    v[j, i] = scale * dy[b, t0 + i, start + j]
                    du[j, i], dstep[j, i] = 0, 0
            for j in range(channels):
                d = start + j
                B_d = B[b % B.shape[0], at[0, d], t0 * t_B :]
                C_d = C[b % C.shape[0], at[1, d], t0 * t_C :]
                dB_d, dC_d = dB[b, at[2, d], t0 * t_B :], dC[b, at[3, d], t0 * t_C :]
                for k in range(A.shape[1]):
                    h[0] = saved[b, c, d, k]
                    _states(step[j, :steps], u[j], rates[d, k], B_d, t_B, k, h, decay)
                    _backward_steps(
                        step[j, :steps], u[j], v[j], A[d, k], B_d, C_d, t_B, t_C, k, h, decay,
                        g[b, d, k], du[j], dstep[j], dA[b, d, k], dB_d, dC_d,
                    )  # fmt: skip
            for i in range(steps):
                for j in range(channels):
                    dx[b, t0 + i, start + j], ddt[b, t0 + i, start + j] = du[j, i], dstep[j, i]


@cache
@no_type_check
def _kernel(name: str, dtype: torch.dtype) -> Callable[..., None]:
    """Compile a kernel for one type, or load it from numba's cache."""
    function, signals, states = {
        "forward": (forward, 3, [3, 5, 5, 4, 5]),
        "backward": (backward, 5, [3, 5, 5, 5, 4, 4, 5, 5]),
    }[name]
    number = from_dtype(np.dtype(str(dtype).removeprefix("torch.")))
    real = getattr(number, "underlying_float", number)
    signature = types.void(
        *[types.int64, types.int64, types.int64[::1], types.int64[:, ::1], real, real],
        *[types.Array(real, 3, "A")] * signals,
        *[types.Array(number, axes, "C") for axes in states],
    )
    return njit(signature, cache=True, fastmath=SUMS, **OPTIONS)(function)
