r"""The selective scan as a compiled CPU kernel (numba), with its gradient written by hand.

Time runs in chunks of T steps, channels in blocks, and of the states one after the other: the
innermost loops run over the channels of a block, which need nothing from each other, so that they
fill the lanes of the vector unit. What a chunk needs stays in cache, and (batch, length, channels,
state) is never stored. The forward pass keeps the state at the start of each chunk; the backward
pass recomputes the states inside a chunk and runs through them in reverse, with g the gradient of
the state:

.. math:: g_t = \bar a_{t+1}^* g_{t+1} + C_t^* \dot y_t, \qquad
          \dot B_t = g_t \Delta_t x_t, \qquad \dot C_t = h_t^* \dot y_t, \qquad
          \dot{\bar a}_t = g_t h_{t-1}^*

where a dot marks a gradient and a star the conjugate, as torch has it. Blocks are shared out among
threads, and each writes its own part of the gradients, so that the result is the same bits for any
number of threads. Derived in chapter 14.
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
from ssmlab.ops.scan.backend import check_gradients

T = 32  # steps a chunk
BLOCK = 64  # channels a block, at most
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
    """Run the scan; arguments and results are those of the loop in ``torch_loop``.

    Any strides; a second derivative is refused.

    Examples
    --------
    >>> x = torch.ones(1, 3, 1)
    >>> y, h = scan(x, x, A=torch.zeros(1, 1), B=x, C=x, h0=torch.zeros(1, 1, 1))
    >>> y.flatten()
    tensor([1., 2., 3.])
    """
    C = 2 * C if C.is_complex() else C  # y = 2 Re(C h): of each conjugate pair only one is kept
    return _Scan.apply(x, dt, A, B, C, h0)


class _Scan(torch.autograd.Function):
    """The kernels as one node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, dt = x.contiguous(), dt.contiguous()
        plan = _Plan(x, A, B, C)
        chunks = -(-x.shape[1] // T) if any(ctx.needs_input_grad) else 0
        y, h = torch.empty_like(x), plan.pack(h0)
        saved = A.new_empty(x.shape[0], chunks, A.numel())
        rows, states = [plan.rows(B), plan.rows(C)], [plan.pack(A), h, _array(saved)]
        plan.run("forward", [_array(v) for v in (x, dt, y)], rows, states)
        ctx.save_for_backward(x, dt, A, B, C, saved)
        ctx.plan = plan
        return y, plan.unpack(h)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        check_gradients("cpu", dy, dh)
        x, dt, A, B, C, saved = ctx.saved_tensors
        plan = ctx.plan
        dx, ddt, g = torch.empty_like(x), torch.empty_like(dt), plan.pack(dh)
        dA, dB, dC = np.zeros_like(g), plan.parts(B), plan.parts(C)
        signals = [_array(v) for v in (x, dt, dy.contiguous(), dx, ddt)]
        rows = [plan.rows(B), plan.rows(C), dB, dC]
        plan.run("backward", signals, rows, [plan.pack(A), _array(saved), g, dA])
        dA = plan.unpack(dA.sum(0))
        return dx, ddt, dA, plan.total(dB, B), plan.total(dC, C), plan.unpack(g)


class _Plan:
    """How the work is shared out: blocks of channels, each inside one group.

    Small arrays are moved by NumPy: torch's own threads stay awake for a while after they have
    moved one, in the way of the threads of the kernel.
    """

    def __init__(self, x: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.batch, self.length, channels = x.shape
        self.shape, self.dtype = A.shape, A.dtype
        self.groups = next((M.shape[2] for M in (B, C) if M.ndim == 4), 1)
        width = channels // self.groups
        starts = [d + i for d in range(0, channels, width) for i in range(0, width, BLOCK)]
        self.starts = np.array([*starts, channels])
        self.blocks = len(starts)
        places = np.split(np.arange(A.numel()).reshape(A.shape), starts[1:])
        self.order = np.concatenate([block.T.ravel() for block in places])

    def pack(self, M: Tensor) -> ndarray:
        """Lay (..., channels, state) out as the kernels read it: block by block, channels last."""
        return np.take(_array(M).reshape(*M.shape[:-2], -1), self.order, axis=-1)

    def unpack(self, packed: ndarray) -> Tensor:
        """Undo :meth:`pack`."""
        M = np.empty_like(packed)
        M[..., self.order] = packed
        return torch.from_numpy(M.reshape(*M.shape[:-1], *self.shape))

    def rows(self, M: Tensor) -> ndarray:
        """Give B or C the axes (batch, groups, length, state), or pack it if it is constant."""
        if M.ndim == 2:
            return self.pack(M)[None]
        return _array(M[:, None] if M.ndim == 3 else M.transpose(1, 2))

    def parts(self, M: Tensor) -> ndarray:
        """Make room for the gradient of B or C: a part for each block, or sequence if constant."""
        if M.ndim == 2:
            return np.zeros((self.batch, M.numel()), _array(M).dtype)
        return np.zeros((self.batch, self.blocks, self.length, M.shape[-1]), _array(M).dtype)

    def total(self, parts: ndarray, M: Tensor) -> Tensor:
        """Sum the parts, in the shape of B or C."""
        if M.ndim == 2:
            return self.unpack(parts.sum(0))
        of_group = parts.reshape(self.batch, self.groups, -1, *parts.shape[2:]).sum(2)
        return torch.from_numpy(of_group).transpose(1, 2).reshape(M.shape)

    def run(
        self, name: str, signals: list[ndarray], rows: list[ndarray], states: list[ndarray]
    ) -> None:
        """Run a kernel over all blocks of all sequences, on as many threads as torch uses."""
        kernel = _kernel(name, self.dtype, *(M.ndim for M in rows[:2]))
        rate = math.log2(math.e) if self.dtype == torch.float32 else 1.0  # e^z = base^(rate z)
        tasks = self.batch * self.blocks
        threads = min(torch.get_num_threads(), tasks)
        bounds = [tasks * i // threads for i in range(threads + 1)]

        arguments = (self.starts, self.groups, rate, *signals, *rows, *states)
        with ThreadPoolExecutor(threads) as pool:  # which starts no more threads than it needs
            others = [
                pool.submit(kernel, bounds[i], bounds[i + 1], *arguments) for i in range(1, threads)
            ]
            kernel(bounds[0], bounds[1], *arguments)
        for other in others:
            other.result()


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
@njit(fastmath={"contract"}, **OPTIONS)
def exp2(z):  # pragma: no cover - compiled, so the coverage tool does not see it
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
        return lambda z: exp2(z)
    if isinstance(z, types.Float):
        return lambda z: math.exp(z)
    return lambda z: cmath.exp(z)


@no_type_check
def _chunk(M, b, row, t0, steps, starts, block):
    """Look at B, C or a gradient of theirs: (steps, state), or (1, state, channels) if constant."""


@no_type_check
@overload(_chunk, jit_options=OPTIONS)
def _chunk_of(M, b, row, t0, steps, starts, block):
    if M.ndim == 4:
        return lambda M, b, row, t0, steps, starts, block: M[b, row, t0 : t0 + steps]
    return lambda M, b, row, t0, steps, starts, block: np.expand_dims(
        _block(M[b % len(M)], starts, block), 0
    )


@no_type_check
@njit(**OPTIONS)
def _block(M, starts, block):  # pragma: no cover - compiled
    """Look at one block of what is packed, with the axes (state, channels)."""
    start, stop, channels = starts[block], starts[block + 1], starts[-1]
    state = len(M) // channels
    return M[start * state : stop * state].reshape((state, stop - start))


@no_type_check
def _at(M, i, n, j):
    """The number of such a chunk for step i, state n and channel j."""


@no_type_check
@overload(_at, inline="always")
def _at_of(M, i, n, j):
    if M.ndim == 2:
        return lambda M, i, n, j: M[i, n]
    return lambda M, i, n, j: M[0, n, j]


@no_type_check
def _add(M, i, n, j, v):
    """Add to the number of such a chunk for step i, state n and channel j."""


@no_type_check
@overload(_add, inline="always")
def _add_of(M, i, n, j, v):
    if M.ndim == 2:

        def add(M, i, n, j, v):
            M[i, n] += v

    else:

        def add(M, i, n, j, v):
            M[0, n, j] += v

    return add


@no_type_check
@njit(inline="always")
def _forward_lanes(lanes, step, force, rates, B, C, h, y):  # pragma: no cover - compiled
    """Take a block through a chunk, one state after the other, and write the sums C h."""
    y[:] = 0
    for n in range(len(h)):
        rates_n, h_n = rates[n], h[n]
        for i in range(len(step)):
            step_i, force_i, y_i = step[i], force[i], y[i]
            for j in range(lanes):
                h_j = _power(step_i[j] * rates_n[j]) * h_n[j] + force_i[j] * _at(B, i, n, j)
                h_n[j] = h_j
                y_i[j] += (_at(C, i, n, j) * h_j).real


@no_type_check
@njit(pipeline_class=_Disjoint, fastmath=SUMS, **OPTIONS)
def _forward_chunk(step, force, rates, B, C, h, y):  # pragma: no cover - compiled
    """Call the loops; the compiler unrolls them for a full block, whose width it knows."""
    if h.shape[1] == BLOCK:
        _forward_lanes(BLOCK, step, force, rates, B, C, h, y)
    else:
        _forward_lanes(h.shape[1], step, force, rates, B, C, h, y)


@no_type_check
@njit(inline="always")
def _backward_lanes(  # pragma: no cover - compiled
    lanes, step, force, dy, rates, A, B, C, h, decay, saved, g, dforce, dstep, dA, dB, dC
):
    """Take the gradient g back through a chunk, one state after the other."""
    dforce[:], dstep[:] = 0, 0
    for n in range(len(g)):
        rates_n, A_n, g_n, dA_n = rates[n], A[n], g[n], dA[n]
        h[0] = saved[n]
        for i in range(len(step)):
            step_i, force_i, decay_i, before, after = step[i], force[i], decay[i], h[i], h[i + 1]
            for j in range(lanes):
                decay_i[j] = _power(step_i[j] * rates_n[j])
                after[j] = decay_i[j] * before[j] + force_i[j] * _at(B, i, n, j)
        for i in range(len(step) - 1, -1, -1):
            step_i, force_i, dy_i, decay_i = step[i], force[i], dy[i], decay[i]
            before, after, dforce_i, dstep_i = h[i], h[i + 1], dforce[i], dstep[i]
            for j in range(lanes):
                g_j = g_n[j] + dy_i[j] * _at(C, i, n, j).conjugate()
                _add(dB, i, n, j, force_i[j] * g_j)
                _add(dC, i, n, j, dy_i[j] * after[j].conjugate())
                dforce_i[j] += (g_j * _at(B, i, n, j).conjugate()).real
                g_j = g_j * decay_i[j].conjugate()
                grown = g_j * before[j].conjugate()
                dA_n[j] += step_i[j] * grown
                dstep_i[j] += (grown * A_n[j].conjugate()).real
                g_n[j] = g_j


@no_type_check
@njit(pipeline_class=_Disjoint, fastmath=SUMS, **OPTIONS)
def _backward_chunk(  # pragma: no cover - compiled
    step, force, dy, rates, A, B, C, h, decay, saved, g, dforce, dstep, dA, dB, dC
):
    """Call the loops, as :func:`_forward_chunk` does."""
    if h.shape[1] == BLOCK:
        _backward_lanes(
            BLOCK, step, force, dy, rates, A, B, C, h, decay, saved, g, dforce, dstep, dA, dB, dC
        )
    else:
        _backward_lanes(
            h.shape[1],
            step, force, dy, rates, A, B, C, h, decay, saved, g, dforce, dstep, dA, dB, dC,
        )  # fmt: skip


@no_type_check
@njit(pipeline_class=_Disjoint, fastmath=SUMS, **OPTIONS)
def _read(dt, x, t0, start, step, force):  # pragma: no cover - compiled
    """Copy a chunk of a block: the step sizes, and the step sizes times the inputs."""
    for i in range(step.shape[0]):
        now = t0 + i, slice(start, start + step.shape[1])
        dt_i, x_i, step_i, force_i = dt[now], x[now], step[i], force[i]
        for j in range(len(step_i)):
            step_i[j] = dt_i[j]
            force_i[j] = dt_i[j] * x_i[j]


@no_type_check
@njit(pipeline_class=_Disjoint, **OPTIONS)
def _take(v, t0, start, out):  # pragma: no cover - compiled
    """Copy a chunk of a block of a signal."""
    for i in range(out.shape[0]):
        v_i, out_i = v[t0 + i, start : start + out.shape[1]], out[i]
        for j in range(len(out_i)):
            out_i[j] = v_i[j]


@no_type_check
@njit(pipeline_class=_Disjoint, **OPTIONS)
def _put(v, t0, start, out):  # pragma: no cover - compiled
    """Copy it back."""
    for i in range(v.shape[0]):
        v_i, out_i = v[i], out[t0 + i, start : start + v.shape[1]]
        for j in range(len(v_i)):
            out_i[j] = v_i[j]


@no_type_check
@njit(pipeline_class=_Disjoint, fastmath=SUMS, **OPTIONS)
def _put_gradients(x, step, dforce, dstep, t0, start, dx, ddt):  # pragma: no cover - compiled
    """Write the gradients of a chunk of a block: those of x and of the step sizes."""
    for i in range(step.shape[0]):
        now = t0 + i, slice(start, start + step.shape[1])
        x_i, dx_i, ddt_i = x[now], dx[now], ddt[now]
        step_i, dforce_i, dstep_i = step[i], dforce[i], dstep[i]
        for j in range(len(step_i)):
            dx_i[j] = step_i[j] * dforce_i[j]
            ddt_i[j] = dstep_i[j] + x_i[j] * dforce_i[j]


@no_type_check
def forward(  # pragma: no cover - compiled
    first, last, starts, groups, rate, x, dt, y, B, C, A, h, saved
):
    """Run blocks ``first`` to ``last``, chunk by chunk."""
    blocks, rates = len(starts) - 1, rate * A
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        group, start, stop = block * groups // blocks, starts[block], starts[block + 1]
        buffer = np.empty((3, T, stop - start), x.dtype)
        step, force, out = buffer[0], buffer[1], buffer[2]
        rates_b, h_b = _block(rates, starts, block), _block(h[b], starts, block)
        for t0 in range(0, x.shape[1], T):
            steps = min(T, x.shape[1] - t0)
            if saved.shape[1] > 0:
                _block(saved[b, t0 // T], starts, block)[:] = h_b
            _read(dt[b], x[b], t0, start, step[:steps], force)
            B_t = _chunk(B, b, group, t0, steps, starts, block)
            C_t = _chunk(C, b, group, t0, steps, starts, block)
            _forward_chunk(step[:steps], force, rates_b, B_t, C_t, h_b, out)
            _put(out[:steps], t0, start, y[b])


@no_type_check
def backward(  # pragma: no cover - compiled
    first, last, starts, groups, rate, x, dt, dy, dx, ddt, B, C, dB, dC, A, saved, g, dA
):
    """Run the same blocks back, from the last chunk to the first."""
    blocks, rates = len(starts) - 1, rate * A
    for task in range(first, last):
        b, block = task // blocks, task % blocks
        group, start, stop = block * groups // blocks, starts[block], starts[block + 1]
        buffer = np.empty((5, T, stop - start), x.dtype)
        step, force, v, dforce, dstep = buffer[0], buffer[1], buffer[2], buffer[3], buffer[4]
        h, decay = np.empty((T + 1, stop - start), A.dtype), np.empty((T, stop - start), A.dtype)
        rates_b, A_b = _block(rates, starts, block), _block(A, starts, block)
        g_b, dA_b = _block(g[b], starts, block), _block(dA[b], starts, block)
        for c in range(saved.shape[1] - 1, -1, -1):
            t0 = c * T
            steps = min(T, x.shape[1] - t0)
            _read(dt[b], x[b], t0, start, step[:steps], force)
            _take(dy[b], t0, start, v[:steps])
            _backward_chunk(
                step[:steps], force, v, rates_b, A_b,
                _chunk(B, b, group, t0, steps, starts, block),
                _chunk(C, b, group, t0, steps, starts, block),
                h, decay, _block(saved[b, c], starts, block), g_b, dforce, dstep, dA_b,
                _chunk(dB, b, block, t0, steps, starts, block),
                _chunk(dC, b, block, t0, steps, starts, block),
            )  # fmt: skip
            _put_gradients(x[b], step[:steps], dforce, dstep, t0, start, dx[b], ddt[b])


@cache
@no_type_check
def _kernel(name: str, dtype: torch.dtype, B_axes: int, C_axes: int) -> Callable[..., None]:
    """Compile a kernel for one type, B and C varying or constant, or load it from numba's cache."""
    function, signals, states = {
        "forward": (forward, 3, [1, 2, 3]),
        "backward": (backward, 5, [1, 3, 2, 2]),
    }[name]
    number = from_dtype(np.dtype(str(dtype).removeprefix("torch.")))
    real = getattr(number, "underlying_float", number)
    rows = [types.Array(number, axes, "A" if axes == 4 else "C") for axes in (B_axes, C_axes)]
    signature = types.void(
        *[types.int64, types.int64, types.int64[::1], types.int64, real],
        *[types.Array(real, 3, "C")] * signals,
        *(rows * 2 if name == "backward" else rows),
        *[types.Array(number, axes, "C") for axes in states],
    )
    return njit(signature, cache=True, fastmath=SUMS, **OPTIONS)(function)
