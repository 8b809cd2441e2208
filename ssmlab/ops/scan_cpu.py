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
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from ssmlab._typing import Float, Inexact, ndarray
from ssmlab.ops.scan_torch import refuse_second_derivative

T = 32  # steps a chunk
BLOCK = 32  # channels a block
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
    # The innermost loop runs over lanes, a fixed number of states: fill up with zeros.
    state = A.shape[1]
    lanes = 8 if state <= 8 else 16
    A, B, C, h0 = (torch.nn.functional.pad(v, (0, -state % lanes)) for v in (A, B, C, h0))
    y, h = _Scan.apply(x, dt, A, B, C, h0, lanes)
    return y, h[..., :state]


class _Scan(torch.autograd.Function):
    """The kernels as one node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, lanes: int
    ) -> tuple[Tensor, Tensor]:
        plan = _Plan(x, A, B, C, lanes)
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
        return dx, ddt, dA.sum(0), plan.total(dB, B), plan.total(dC, C), g, None


class _Plan:
    """How the work is shared out: blocks of channels, each inside one group."""

    def __init__(self, x: Tensor, A: Tensor, B: Tensor, C: Tensor, lanes: int) -> None:
        self.batch, self.length, channels = x.shape
        self.lanes, self.dtype = lanes, A.dtype
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
        kernel = _kernel(name, self.dtype, self.lanes)
        arrays = [_array(v) for v in signals]
        for v in states:
            shape = (*v.shape[:-1], v.shape[-1] // self.lanes, self.lanes)
            arrays.append(np.ascontiguousarray(_array(v)).reshape(shape))
        tasks = self.batch * self.blocks
        threads = min(torch.get_num_threads(), tasks)
        bounds = [tasks * i // threads for i in range(threads + 1)]

        def part(i: int) -> None:
            kernel(bounds[i], bounds[i + 1], self.starts, self.at, *arrays)

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


@no_type_check
@njit(types.float32(types.float32), fastmath={"contract"}, **OPTIONS)
def _exp2(z):  # pragma: no cover - compiled, so the coverage tool does not see it
    """2^z to 1e-7: a polynomial on [-1/2, 1/2], scaled through the exponent's bits.

    Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
    """
    z = np.float32(-127) if z < np.float32(-127) else z  # 0, and not a subnormal number
    z = np.float32(128) if z > np.float32(128) else z  # infinity
    rounded = z + np.float32(12582912.0)
    f = z - (rounded - np.float32(12582912.0))
    p = np.float32(1.5353362e-4)
    p = p * f + np.float32(1.3398874e-3)
    p = p * f + np.float32(9.6184373e-3)
    p = p * f + np.float32(5.5503324e-2)
    p = p * f + np.float32(2.4022648e-1)
    p = p * f + np.float32(6.9314720e-1)
    p = p * f + np.float32(1.0)
    bits = np.int32(np.float32(rounded).view(np.int32)) << np.int32(23)
    return p * np.int32(np.int32(bits) + np.int32(127 << 23)).view(np.float32)


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


@cache
@no_type_check
def _kernel(name: str, dtype: torch.dtype, lanes: int) -> Callable[..., None]:
    """Compile a kernel for one type and number of lanes, or load it from numba's cache."""
    number = np.dtype(str(dtype).removeprefix("torch."))
    real = np.dtype("float32" if number in (np.float32, np.complex64) else "float64").type
    rate = real(math.log2(math.e) if number == np.float32 else 1)  # e^z = base^(rate z)
    scale, zero = real(2 if number.kind == "c" else 1), real(0)

    def forward(  # pragma: no cover - compiled
        first, last, starts, at, x, dt, y, A, B, C, h, saved
    ):
        batch, length = x.shape[:2]
        b_B, t_B = int(B.shape[0] == batch), int(B.shape[2] == length)
        b_C, t_C = int(C.shape[0] == batch), int(C.shape[2] == length)
        xs, dts, ys = (
            np.empty((T, BLOCK), x.dtype),
            np.empty((T, BLOCK), x.dtype),
            np.empty((T, BLOCK), x.dtype),
        )
        h_d, rates = np.empty(lanes, A.dtype), np.empty(lanes, A.dtype)
        for task in range(first, last):
            b, block = task // (len(starts) - 1), task % (len(starts) - 1)
            start, channels = starts[block], starts[block + 1] - starts[block]
            for t0 in range(0, length, T):
                steps = min(T, length - t0)
                for i in range(steps):
                    for j in range(channels):
                        xs[i, j], dts[i, j] = x[b, t0 + i, start + j], dt[b, t0 + i, start + j]
                        ys[i, j] = zero
                for j in range(channels):
                    d = start + j
                    B_d, C_d = B[b * b_B, at[0, d]], C[b * b_C, at[1, d]]
                    for k in range(A.shape[1]):
                        for n in range(lanes):
                            h_d[n], rates[n] = h[b, d, k, n], rate * A[d, k, n]
                        if saved.shape[1] > 0:
                            for n in range(lanes):
                                saved[b, t0 // T, d, k, n] = h_d[n]
                        for i in range(steps):
                            step, total = dts[i, j], zero
                            force = step * xs[i, j]
                            B_t = B_d[(t0 + i) * t_B, k]
                            C_t = C_d[(t0 + i) * t_C, k]
                            for n in range(lanes):
                                h_n = _power(step * rates[n]) * h_d[n] + force * B_t[n]
                                h_d[n] = h_n
                                total += (C_t[n] * h_n).real
                            ys[i, j] += scale * total
                        for n in range(lanes):
                            h[b, d, k, n] = h_d[n]
                for i in range(steps):
                    for j in range(channels):
                        y[b, t0 + i, start + j] = ys[i, j]

    def backward(  # pragma: no cover - compiled
        first, last, starts, at, x, dt, dy, dx, ddt, A, B, C, saved, g, dA, dB, dC
    ):
        batch, length = x.shape[:2]
        b_B, t_B = int(B.shape[0] == batch), int(B.shape[2] == length)
        b_C, t_C = int(C.shape[0] == batch), int(C.shape[2] == length)
        xs, dts, dys, dxs, ddts = (
            np.empty((T, BLOCK), x.dtype),
            np.empty((T, BLOCK), x.dtype),
            np.empty((T, BLOCK), x.dtype),
            np.empty((T, BLOCK), x.dtype),
            np.empty((T, BLOCK), x.dtype),
        )
        h, decay = np.empty((T + 1, lanes), A.dtype), np.empty((T, lanes), A.dtype)
        work = np.empty((4, lanes), A.dtype)  # one array: the compiler sees that no two overlap
        rates, A_d, g_d, dA_d = work[0], work[1], work[2], work[3]
        for task in range(first, last):
            b, block = task // (len(starts) - 1), task % (len(starts) - 1)
            start, channels = starts[block], starts[block + 1] - starts[block]
            for c in range(saved.shape[1] - 1, -1, -1):
                t0 = c * T
                steps = min(T, length - t0)
                for i in range(steps):
                    for j in range(channels):
                        xs[i, j], dts[i, j] = x[b, t0 + i, start + j], dt[b, t0 + i, start + j]
                        dys[i, j] = scale * dy[b, t0 + i, start + j]
                        dxs[i, j], ddts[i, j] = zero, zero
                for j in range(channels):
                    d = start + j
                    B_d, C_d = B[b * b_B, at[0, d]], C[b * b_C, at[1, d]]
                    dB_d, dC_d = dB[b, at[2, d]], dC[b, at[3, d]]
                    for k in range(A.shape[1]):
                        for n in range(lanes):
                            A_d[n], rates[n] = _conj(A[d, k, n]), rate * A[d, k, n]
                            g_d[n], dA_d[n] = g[b, d, k, n], dA[b, d, k, n]
                            h[0, n] = saved[b, c, d, k, n]
                        for i in range(steps):
                            step = dts[i, j]
                            force = step * xs[i, j]
                            B_t = B_d[(t0 + i) * t_B, k]
                            for n in range(lanes):
                                decay[i, n] = _power(step * rates[n])
                                h[i + 1, n] = decay[i, n] * h[i, n] + force * B_t[n]
                        for i in range(steps - 1, -1, -1):
                            step, x_t, dy_t = dts[i, j], xs[i, j], dys[i, j]
                            force, dforce, dstep = step * x_t, zero, zero
                            B_t = B_d[(t0 + i) * t_B, k]
                            C_t = C_d[(t0 + i) * t_C, k]
                            dB_t = dB_d[(t0 + i) * t_B, k]
                            dC_t = dC_d[(t0 + i) * t_C, k]
                            for n in range(lanes):
                                g_n = g_d[n] + dy_t * _conj(C_t[n])
                                dB_t[n] += force * g_n
                                dC_t[n] += dy_t * _conj(h[i + 1, n])
                                dforce += (g_n * _conj(B_t[n])).real
                                g_n = g_n * _conj(decay[i, n])
                                drate = g_n * _conj(h[i, n])
                                dA_d[n] += step * drate
                                dstep += (drate * A_d[n]).real
                                g_d[n] = g_n
                            dxs[i, j] += step * dforce
                            ddts[i, j] += dstep + x_t * dforce
                        for n in range(lanes):
                            g[b, d, k, n], dA[b, d, k, n] = g_d[n], dA_d[n]
                for i in range(steps):
                    for j in range(channels):
                        dx[b, t0 + i, start + j], ddt[b, t0 + i, start + j] = dxs[i, j], ddts[i, j]

    signal, index = (
        types.Array(getattr(types, real.__name__), 3, "A"),
        types.Array(types.int64, 2, "C"),
    )
    state = {n: types.Array(getattr(types, number.name), n, "C") for n in (3, 4, 5)}
    axes = {"forward": (3, [3, 5, 5, 4, 5]), "backward": (5, [3, 5, 5, 5, 4, 4, 5, 5])}[name]
    arguments = [signal] * axes[0] + [state[n] for n in axes[1]]
    signature = types.void(types.int64, types.int64, types.int64[::1], index, *arguments)
    function = {"forward": forward, "backward": backward}[name]
    return njit(signature, cache=True, fastmath=SUMS, **OPTIONS)(function)
