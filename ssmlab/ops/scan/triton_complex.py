r"""The selective scan with a complex A as Triton kernels, in pairs of real numbers.

Triton has no complex numbers. Each is loaded, multiplied and stored as its real and its imaginary
part, and :math:`e^{\Delta a} = e^{\Delta \Re a} (\cos \Delta \Im a + i \sin \Delta \Im a)`. One
program takes a tile of channels through time, step by step. The forward kernel keeps the state
before every chunk of steps; the backward kernel recomputes the states of one chunk, lays them down
in a small part of memory that is its own, and goes back through them. Gradients are those of
``numba_kernel``; as there, each program writes its own part of those of B and C: the same bits in
every run. Simpler than ``triton_kernels``, and not tuned. Derived, for a real A, in chapter 15.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmlab._typing import Complex, Float
from ssmlab.ops.scan.backend import Problem, check_gradients
from ssmlab.ops.scan.launch import Call, strides


def scan(
    x: Float[Tensor, "batch length channels"],
    dt: Float[Tensor, "batch length channels"],
    A: Complex[Tensor, "channels state"],
    B: Complex[Tensor, "..."],
    C: Complex[Tensor, "..."],
    h0: Complex[Tensor, "batch channels state"],
) -> tuple[Float[Tensor, "batch length channels"], Complex[Tensor, "batch channels state"]]:
    """Run the scan; arguments and results are those of the loop in ``torch_loop``.

    Any strides; a second derivative is refused.
    """
    return _Scan.apply(*(v.resolve_conj().resolve_neg() for v in (x, dt, A, B, C, h0)))


class _Scan(torch.autograd.Function):
    """The two kernels as one node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor
    ) -> tuple[Tensor, Tensor]:
        x, dt, A = x.contiguous(), dt.contiguous(), A.contiguous()
        call = Call(Problem(x, dt, A, B, C, h0, None, None, None, softplus=False))
        keep = any(ctx.needs_input_grad)
        y, h = torch.empty_like(x), h0.clone(memory_format=torch.contiguous_format)
        saved = A.new_empty(len(x), call.chunks if keep else 0, *A.shape)
        _run(call, forward_kernel, [x, dt, y], [A, B, C, h, saved], KEEP=keep)
        ctx.save_for_backward(x, dt, A, B, C, saved)
        ctx.call = call
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        check_gradients("triton", dy, dh)
        x, dt, A, B, C, saved = ctx.saved_tensors
        call = ctx.call
        dx, ddt, dB, dC = torch.empty_like(x), torch.empty_like(x), call.parts(B), call.parts(C)
        g = dh.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        dA = torch.empty_like(g)
        chunk = (call.options[k] for k in ("STEPS", "TILE", "LANES"))
        states = A.new_empty(len(x), call.programs, *chunk)
        signals = [x, dt, dy.resolve_neg().contiguous(), dx, ddt]
        _run(call, backward_kernel, signals, [A, B, C, saved, states, g, dA, dB, dC])
        return dx, ddt, dA.sum(0), call.total(dB, B), call.total(dC, C), g


def _run(
    call: Call, kernel: Any, signals: list[Tensor], numbers: list[Tensor], **options: bool
) -> None:
    """Launch a kernel; the second and third of the numbers are B and C."""
    numbers = [torch.view_as_real(v) for v in numbers]
    spans = [s for M in numbers[1:3] for s in strides(M[..., 0])]
    call.launch(kernel, [*signals, *numbers], spans, call.constants(kernel, **options))


# --- pairs ---------------------------------------------------------------------------------------


@no_type_check
@triton.jit
def load(p, offsets, ok):
    """The real and the imaginary parts of complex numbers; 0 where they are not ok."""
    return tl.load(p + offsets, mask=ok, other=0.0), tl.load(p + offsets + 1, mask=ok, other=0.0)


@no_type_check
@triton.jit
def store(p, offsets, real, imag, ok):
    """Store both parts."""
    tl.store(p + offsets, real, mask=ok)
    tl.store(p + offsets + 1, imag, mask=ok)


@no_type_check
@triton.jit
def times(a_r, a_i, b_r, b_i):
    """The product a b."""
    return a_r * b_r - a_i * b_i, a_r * b_i + a_i * b_r


@no_type_check
@triton.jit
def exp(z_r, z_i):
    """e^z."""
    size = tl.exp(z_r)
    return size * tl.cos(z_i), size * tl.sin(z_i)


# --- the kernels ---------------------------------------------------------------------------------


@no_type_check
@triton.jit
def forward_kernel(
    x, dt, y, A, B, C, h, saved,
    length, channels, width, tiles, programs,
    Bb, Bt, Bg, Bn, Cb, Ct, Cg, Cn,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    STEP_B: tl.constexpr, STEP_C: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Run one tile of channels through all of time; h goes from the first state to the last."""
    b, program = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    group, tile = (program // tiles).to(tl.int64), program % tiles
    j, n = tile * TILE + tl.arange(0, TILE), tl.arange(0, LANES).to(tl.int64)
    length = tl.cast(length, tl.int64)
    d, ok_d = group * width + j, j < width
    ok = ok_d[:, None] & (n < STATE)[None, :]
    dn = 2 * (d[:, None] * STATE + n[None, :])
    rows = group + 0 * d if STEP_B else d
    at_B = b * Bb + rows[:, None] * Bg + n[None, :] * Bn
    rows = group + 0 * d if STEP_C else d
    at_C = b * Cb + rows[:, None] * Cg + n[None, :] * Cn
    at_h, now = 2 * b * channels * STATE + dn, b * length * channels + d
    A_r, A_i = load(A, dn, ok)
    h_r, h_i = load(h, at_h, ok)
    chunks = tl.cdiv(length, STEPS)
    for t in range(length):
        if KEEP and t % STEPS == 0:
            here = 2 * (b * chunks + t // STEPS) * channels * STATE
            store(saved, here + dn, h_r, h_i, ok)
        x_t = tl.load(x + now, mask=ok_d, other=0.0)[:, None]
        dt_t = tl.load(dt + now, mask=ok_d, other=0.0)[:, None]
        B_r, B_i = load(B, at_B, ok)
        C_r, C_i = load(C, at_C, ok)
        a_r, a_i = exp(dt_t * A_r, dt_t * A_i)
        h_r, h_i = times(a_r, a_i, h_r, h_i)
        h_r += dt_t * x_t * B_r
        h_i += dt_t * x_t * B_i
        tl.store(y + now, 2.0 * tl.sum(C_r * h_r - C_i * h_i, 1), mask=ok_d)
        now, at_B, at_C = now + channels, at_B + Bt, at_C + Ct
    store(h, at_h, h_r, h_i, ok)


@no_type_check
@triton.jit
def backward_kernel(
    x, dt, dy, dx, ddt, A, B, C, saved, states, g, dA, dB, dC,
    length, channels, width, tiles, programs,
    Bb, Bt, Bg, Bn, Cb, Ct, Cg, Cn,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    STEP_B: tl.constexpr, STEP_C: tl.constexpr,
):  # fmt: skip
    """Run one tile of channels back; g goes from the gradient of the last state to the first's."""
    b, program = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    group, tile = (program // tiles).to(tl.int64), program % tiles
    j, n = tile * TILE + tl.arange(0, TILE), tl.arange(0, LANES).to(tl.int64)
    program, length = tl.program_id(0).to(tl.int64), tl.cast(length, tl.int64)
    d, ok_d, ok_n = group * width + j, j < width, n < STATE
    ok = ok_d[:, None] & ok_n[None, :]
    dn = 2 * (d[:, None] * STATE + n[None, :])
    rows = group + 0 * d if STEP_B else d
    at_B = b * Bb + rows[:, None] * Bg + n[None, :] * Bn
    rows = group + 0 * d if STEP_C else d
    at_C = b * Cb + rows[:, None] * Cg + n[None, :] * Cn
    at_h = 2 * b * channels * STATE + dn
    at_state = 2 * ((program * STEPS * TILE + tl.arange(0, TILE)[:, None]) * LANES + n[None, :])
    A_r, A_i = load(A, dn, ok)
    g_r, g_i = load(g, at_h, ok)
    dA_r, dA_i = tl.zeros_like(g_r), tl.zeros_like(g_r)
    dB_r, dB_i = tl.zeros_like(g_r), tl.zeros_like(g_r)
    dC_r, dC_i = tl.zeros_like(g_r), tl.zeros_like(g_r)
    chunks = tl.cdiv(length, STEPS)
    for k in range(chunks):
        c = chunks - 1 - k
        h_r, h_i = load(saved, 2 * (b * chunks + c) * channels * STATE + dn, ok)
        for i in range(STEPS):  # the states again, each before its step
            store(states, at_state + 2 * i * TILE * LANES, h_r, h_i, ok)
            t = c * STEPS + i
            now, inside = (b * length + t) * channels + d, t < length
            x_t = tl.load(x + now, mask=ok_d & inside, other=0.0)[:, None]
            dt_t = tl.load(dt + now, mask=ok_d & inside, other=0.0)[:, None]
            B_r, B_i = load(B, at_B + t * Bt, ok & inside)
            a_r, a_i = exp(dt_t * A_r, dt_t * A_i)
            h_r, h_i = times(a_r, a_i, h_r, h_i)
            h_r += dt_t * x_t * B_r
            h_i += dt_t * x_t * B_i
        tl.debug_barrier()
        for k_i in range(STEPS):  # and back
            i = STEPS - 1 - k_i
            before_r, before_i = load(states, at_state + 2 * i * TILE * LANES, ok)
            t = c * STEPS + i
            now, inside = (b * length + t) * channels + d, t < length
            x_t = tl.load(x + now, mask=ok_d & inside, other=0.0)[:, None]
            dt_t = tl.load(dt + now, mask=ok_d & inside, other=0.0)[:, None]
            dy_t = 2.0 * tl.load(dy + now, mask=ok_d & inside, other=0.0)[:, None]
            B_r, B_i = load(B, at_B + t * Bt, ok & inside)
            C_r, C_i = load(C, at_C + t * Ct, ok & inside)
            force = dt_t * x_t
            a_r, a_i = exp(dt_t * A_r, dt_t * A_i)
            bar_r, bar_i = times(a_r, a_i, before_r, before_i)
            g_r += dy_t * C_r
            g_i -= dy_t * C_i
            dC_r += dy_t * (bar_r + force * B_r)
            dC_i -= dy_t * (bar_i + force * B_i)
            dB_r += force * g_r
            dB_i += force * g_i
            place = 2 * ((program * length + t) * STATE + n)
            if STEP_B:
                store(dB, place, tl.sum(dB_r, 0), tl.sum(dB_i, 0), ok_n & inside)
                dB_r, dB_i = tl.zeros_like(dB_r), tl.zeros_like(dB_i)
            if STEP_C:
                store(dC, place, tl.sum(dC_r, 0), tl.sum(dC_i, 0), ok_n & inside)
                dC_r, dC_i = tl.zeros_like(dC_r), tl.zeros_like(dC_i)
            drate_r, drate_i = times(g_r, g_i, bar_r, -bar_i)  # g times the conjugate of a h
            dA_r += dt_t * drate_r
            dA_i += dt_t * drate_i
            dforce = tl.sum(g_r * B_r + g_i * B_i, 1)
            drate = tl.sum(drate_r * A_r + drate_i * A_i, 1)
            tl.store(dx + now, tl.sum(dt_t, 1) * dforce, mask=ok_d & inside)
            tl.store(ddt + now, drate + tl.sum(x_t, 1) * dforce, mask=ok_d & inside)
            g_r, g_i = times(g_r, g_i, a_r, -a_i)
        tl.debug_barrier()
    store(g, at_h, g_r, g_i, ok)
    store(dA, at_h, dA_r, dA_i, ok)
    if not STEP_B:
        store(dB, at_h, dB_r, dB_i, ok)
    if not STEP_C:
        store(dC, at_h, dC_r, dC_i, ok)
