r"""The selective scan as a Triton kernel: one program for a tile of channels, time a loop.

The state ``h[channels, state]`` of a program lives in registers; bias, softplus, direct path and
gate are fused in, so that x, dt, z and y pass through memory once. The loads of ``STEPS`` steps are
issued before the first is used, because a load takes hundreds of cycles to come. The forward pass
keeps the state at every ``STEPS`` steps; the backward pass recomputes the states in between. Each
program writes its own part of the gradients of B and C, and torch sums the parts: no atomic
additions, so the same bits in every run. Derived in chapter 13.

With ``TRITON_INTERPRET=1`` in the environment before triton is imported, the kernels run on a CPU,
slowly: a way to test and to step through them.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmlab._typing import Float, Inexact
from ssmlab.ops.scan_torch import refuse_second_derivative

CHANNELS = 16  # channels a program
STEPS = 8  # steps a chunk
WARPS = 1
LOG2E = tl.constexpr(1.4426950408889634)


def scan(
    x: Float[Tensor, "batch length channels"],
    dt: Float[Tensor, "batch length channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "..."],
    C: Float[Tensor, "..."],
    D: Float[Tensor, "channels"] | None,
    z: Float[Tensor, "batch length channels"] | None,
    dt_bias: Float[Tensor, "channels"] | None,
    h0: Float[Tensor, "batch channels state"],
    softplus: bool,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch length channels"], Inexact[Tensor, "batch channels state"]]:
    """Run the whole scan, as :func:`ssmlab.ops.selective_scan` describes it.

    Parameters
    ----------
    x, dt, A, B, C, D, z, dt_bias, h0, softplus
        As there, checked.
    dtype : torch.dtype
        The type to compute in, float32 or float64.

    Returns
    -------
    y, h : Tensor
        The outputs in the type of x, the last state in ``dtype``.
    """
    return _Scan.apply(x, dt, A, B, C, D, z, dt_bias, h0.to(dtype), softplus)


def check(device: torch.device, is_complex: bool) -> None:
    """Ask for real tensors on a GPU, or for the interpreter.

    Raises
    ------
    ValueError
        Saying what to use instead.
    """
    if is_complex:
        raise ValueError("backend 'triton' takes a real A; got a complex one: use backend='torch'")
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"backend 'triton' needs tensors on a GPU; got {device}: use backend='auto', or set "
            "TRITON_INTERPRET=1 before triton is imported to run the kernel slowly on a CPU"
        )


class _Scan(torch.autograd.Function):
    """The two kernels as one node of torch's graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        x, dt, A, B, C, D, z, bias, h0, softplus = arguments
        call = _Call(x, A, B, C, D, z, bias, h0.dtype, softplus)
        keep = any(ctx.needs_input_grad)
        y, h = torch.empty_like(x), torch.empty_like(h0, memory_format=torch.contiguous_format)
        saved = h.new_empty(len(x), call.chunks if keep else 0, *A.shape)
        call.run(forward_kernel, [x, dt, z, y], [B, C], [A, D, bias, h0, h, saved], KEEP=keep)
        ctx.save_for_backward(x, dt, A, B, C, D, z, bias, saved)
        ctx.call = call
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("triton")
        x, dt, A, B, C, D, z, bias, saved = ctx.saved_tensors
        call = ctx.call
        dx, ddt = torch.empty_like(x), torch.empty_like(dt)
        dz = None if z is None else torch.empty_like(z)
        dB, dC = call.parts(B), call.parts(C)
        dA, dh0 = saved.new_empty(len(x), *A.shape), saved.new_empty(len(x), *A.shape)
        dD, dbias = saved.new_empty(2, *dA.shape[:2])
        call.run(
            backward_kernel,
            [x, dt, z, dy, dx, ddt, dz],
            [B, C],
            [A, D, bias, saved, dh, dA, dB, dC, dD, dbias, dh0],
        )
        return (
            dx,
            ddt,
            dA.sum(0).to(A.dtype),
            call.total(dB, B),
            call.total(dC, C),
            None if D is None else dD.sum(0).to(D.dtype),
            dz,
            None if bias is None else dbias.sum(0).to(bias.dtype),
            dh0,
            None,
        )


class _Call:
    """The sizes, the strides and the options of one call."""

    def __init__(
        self,
        x: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        bias: Tensor | None,
        dtype: torch.dtype,
        softplus: bool,
    ) -> None:
        self.batch, self.length, self.channels = x.shape
        self.groups = next((M.shape[2] for M in (B, C) if M.ndim == 4), 1)
        self.width = self.channels // self.groups  # channels a group
        tile = min(CHANNELS, triton.next_power_of_2(self.width))
        self.tiles = triton.cdiv(self.width, tile)  # programs a group
        self.chunks = triton.cdiv(self.length, STEPS)
        self.options = {
            "STATE": A.shape[1],
            "LANES": triton.next_power_of_2(A.shape[1]),
            "TILE": tile,
            "STEPS": STEPS,
            "STEP_B": B.ndim > 2,
            "STEP_C": C.ndim > 2,
            "HAS_D": D is not None,
            "HAS_Z": z is not None,
            "HAS_BIAS": bias is not None,
            "SOFTPLUS": softplus,
            "TYPE": tl.float64 if dtype == torch.float64 else tl.float32,
        }
        self.dtype = dtype

    def parts(self, M: Tensor) -> Tensor:
        """Make room for the gradient of B or C: a part for each program, or channel if constant."""
        sizes = (*M.shape,) if M.ndim == 2 else (self.groups * self.tiles, self.length, M.shape[-1])
        return torch.empty(self.batch, *sizes, dtype=self.dtype, device=M.device)

    def total(self, parts: Tensor, M: Tensor) -> Tensor:
        """Sum the parts, in the shape and type of B or C."""
        if M.ndim == 2:
            return parts.sum(0).to(M.dtype)
        summed = parts.unflatten(1, (self.groups, self.tiles)).sum(2).transpose(1, 2)
        return summed.reshape(M.shape).to(M.dtype)

    def run(
        self,
        kernel: Any,
        signals: list[Tensor | None],
        per_step: list[Tensor],
        others: list[Tensor | None],
        **options: Any,
    ) -> None:
        """Launch a kernel: one program for each sequence and tile of channels of a group."""
        strides = [s for v in signals for s in ((0, 0, 0) if v is None else v.stride())]
        strides += [s for M in per_step for s in _strides(M)]
        others = [None if v is None else v.contiguous() for v in others]
        sizes = (self.length, self.channels, self.width, self.tiles)
        kernel[(self.groups * self.tiles, self.batch)](
            *signals, *per_step, *others, *sizes, *strides, **self.options, **options,
            num_warps=WARPS,
        )  # fmt: skip


def _strides(M: Tensor) -> tuple[int, ...]:
    """Strides of B or C along (batch, length, group or channel, state)."""
    s = M.stride()
    return {2: (0, 0, *s), 3: (s[0], s[1 % len(s)], 0, s[-1]), 4: s}[M.ndim]


# ruff: noqa: RUF005 - Triton joins tuples by + only
# --- the kernels ---------------------------------------------------------------------------------


@no_type_check
@triton.jit
def softplus_of(v):
    """ln(1 + e^v), linear above 20 as torch has it, without loss for very negative v."""
    e = tl.exp(tl.minimum(v, 20.0))
    w = 1.0 + e
    near = tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.where(v <= 20.0, near, v)


@no_type_check
@triton.jit
def sigmoid_of(v):
    """1 / (1 + e^-v)."""
    return 1.0 / (1.0 + tl.exp(-v))


@no_type_check
@triton.jit
def forward_kernel(
    x, dt, z, y, B, C, A, D, bias, h0, last, saved,
    length, channels, width, tiles,
    xb, xt, xd, db, dt_, dd, zb, zt, zd, yb, yt, yd, Bb, Bt, Bg, Bn, Cb, Ct, Cg, Cn,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    STEP_B: tl.constexpr, STEP_C: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, TYPE: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Run one tile of channels through all of time."""
    b = tl.program_id(1).to(tl.int64)
    group, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    j, n = tile * TILE + tl.arange(0, TILE), tl.arange(0, LANES)
    d, ok_d, ok_n = group * width + j, j < width, n < STATE
    ok_dn = ok_d[:, None] & ok_n[None, :]
    dn = d[:, None] * STATE + n[None, :]
    rates = tl.load(A + dn, mask=ok_dn, other=0.0).to(TYPE) * LOG2E
    h = tl.load(h0 + b * channels * STATE + dn, mask=ok_dn, other=0.0).to(TYPE)
    if HAS_D:
        D_d = tl.load(D + d, mask=ok_d, other=0.0).to(TYPE)
    if HAS_BIAS:
        bias_d = tl.load(bias + d, mask=ok_d, other=0.0).to(TYPE)
    x += b * xb + d * xd
    dt += b * db + d * dd
    y += b * yb + d * yd
    if HAS_Z:
        z += b * zb + d * zd
    if STEP_B:
        B += b * Bb + group * Bg + n * Bn
    else:
        B_c = tl.load(B + d[:, None] * Bg + n[None, :] * Bn, mask=ok_dn, other=0.0).to(TYPE)
    if STEP_C:
        C += b * Cb + group * Cg + n * Cn
    else:
        C_c = tl.load(C + d[:, None] * Cg + n[None, :] * Cn, mask=ok_dn, other=0.0).to(TYPE)
    chunks = tl.cdiv(length, STEPS)
    for c in range(chunks):
        if KEEP:
            tl.store(saved + (b * chunks + c) * channels * STATE + dn, h, mask=ok_dn)
        xs = ()
        dts = ()
        zs = ()
        Bs = ()
        Cs = ()
        for i in tl.static_range(STEPS):
            t = c * STEPS + i
            ok = t < length
            xs = xs + (tl.load(x + t * xt, mask=ok_d & ok, other=0.0).to(TYPE),)
            dts = dts + (tl.load(dt + t * dt_, mask=ok_d & ok, other=0.0).to(TYPE),)
            if HAS_Z:
                zs = zs + (tl.load(z + t * zt, mask=ok_d & ok, other=0.0).to(TYPE),)
            if STEP_B:
                Bs = Bs + (tl.load(B + t * Bt, mask=ok_n & ok, other=0.0).to(TYPE)[None, :],)
            else:
                Bs = Bs + (B_c,)
            if STEP_C:
                Cs = Cs + (tl.load(C + t * Ct, mask=ok_n & ok, other=0.0).to(TYPE)[None, :],)
            else:
                Cs = Cs + (C_c,)
        for i in tl.static_range(STEPS):
            t = c * STEPS + i
            ok = t < length
            step = dts[i] + bias_d if HAS_BIAS else dts[i]
            step = softplus_of(step) if SOFTPLUS else step
            step = tl.where(ok, step, 0.0)  # past the end: the state stays
            h = tl.exp2(step[:, None] * rates) * h + (step * xs[i])[:, None] * Bs[i]
            out = tl.sum(h * Cs[i], axis=1)
            if HAS_D:
                out += D_d * xs[i]
            if HAS_Z:
                out *= zs[i] * sigmoid_of(zs[i])
            tl.store(y + t * yt, out, mask=ok_d & ok)
    tl.store(last + b * channels * STATE + dn, h, mask=ok_dn)


@no_type_check
@triton.jit
def backward_kernel(
    x, dt, z, dy, dx, ddt, dz, B, C, A, D, bias, saved, dlast, dA, dB, dC, dD, dbias, dh0,
    length, channels, width, tiles,
    xb, xt, xd, db, dt_, dd, zb, zt, zd, yb, yt, yd,
    dxb, dxt, dxd, ddb, ddt_, ddd, dzb, dzt, dzd, Bb, Bt, Bg, Bn, Cb, Ct, Cg, Cn,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    STEP_B: tl.constexpr, STEP_C: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Run one tile of channels back through time; g is the gradient of the state."""
    b = tl.program_id(1).to(tl.int64)
    program, programs = tl.program_id(0), tl.num_programs(0)
    group, tile = program // tiles, program % tiles
    j, n = tile * TILE + tl.arange(0, TILE), tl.arange(0, LANES)
    d, ok_d, ok_n = group * width + j, j < width, n < STATE
    ok_dn = ok_d[:, None] & ok_n[None, :]
    dn = d[:, None] * STATE + n[None, :]
    bdn = b * channels * STATE + dn
    A_d = tl.load(A + dn, mask=ok_dn, other=0.0).to(TYPE)
    rates = A_d * LOG2E
    g = tl.load(dlast + bdn, mask=ok_dn, other=0.0).to(TYPE)
    dA_d = tl.zeros([TILE, LANES], TYPE)
    dD_d = tl.zeros([TILE], TYPE)
    dbias_d = tl.zeros([TILE], TYPE)
    if HAS_D:
        D_d = tl.load(D + d, mask=ok_d, other=0.0).to(TYPE)
    if HAS_BIAS:
        bias_d = tl.load(bias + d, mask=ok_d, other=0.0).to(TYPE)
    x += b * xb + d * xd
    dt += b * db + d * dd
    dy += b * yb + d * yd
    dx += b * dxb + d * dxd
    ddt += b * ddb + d * ddd
    if HAS_Z:
        z += b * zb + d * zd
        dz += b * dzb + d * dzd
    if STEP_B:
        B += b * Bb + group * Bg + n * Bn
        dB += (b * programs + program) * length * STATE + n
    else:
        B_c = tl.load(B + d[:, None] * Bg + n[None, :] * Bn, mask=ok_dn, other=0.0).to(TYPE)
        dB_c = tl.zeros([TILE, LANES], TYPE)
    if STEP_C:
        C += b * Cb + group * Cg + n * Cn
        dC += (b * programs + program) * length * STATE + n
    else:
        C_c = tl.load(C + d[:, None] * Cg + n[None, :] * Cn, mask=ok_dn, other=0.0).to(TYPE)
        dC_c = tl.zeros([TILE, LANES], TYPE)
    chunks = tl.cdiv(length, STEPS)
    for k in range(chunks):
        c = chunks - 1 - k
        h = tl.load(saved + (b * chunks + c) * channels * STATE + dn, mask=ok_dn, other=0.0)
        xs = ()
        raws = ()
        steps = ()
        Bs = ()
        kept = ()  # a_t h_{t-1}
        for i in tl.static_range(STEPS):
            t = c * STEPS + i
            ok = t < length
            x_t = tl.load(x + t * xt, mask=ok_d & ok, other=0.0).to(TYPE)
            raw = tl.load(dt + t * dt_, mask=ok_d & ok, other=0.0).to(TYPE)
            raw = raw + bias_d if HAS_BIAS else raw
            step = softplus_of(raw) if SOFTPLUS else raw
            step = tl.where(ok, step, 0.0)
            if STEP_B:
                B_t = tl.load(B + t * Bt, mask=ok_n & ok, other=0.0).to(TYPE)[None, :]
            else:
                B_t = B_c
            ah = tl.exp2(step[:, None] * rates) * h
            h = ah + (step * x_t)[:, None] * B_t
            xs, raws, steps, Bs = xs + (x_t,), raws + (raw,), steps + (step,), Bs + (B_t,)
            kept = kept + (ah,)
        for i in tl.static_range(STEPS - 1, -1, -1):
            t = c * STEPS + i
            ok = t < length
            x_t, step, B_t = xs[i], steps[i], Bs[i]
            force = (step * x_t)[:, None]
            h = kept[i] + force * B_t
            if STEP_C:
                C_t = tl.load(C + t * Ct, mask=ok_n & ok, other=0.0).to(TYPE)[None, :]
            else:
                C_t = C_c
            dy_t = tl.load(dy + t * yt, mask=ok_d & ok, other=0.0).to(TYPE)
            if HAS_Z:
                z_t = tl.load(z + t * zt, mask=ok_d & ok, other=0.0).to(TYPE)
                s = sigmoid_of(z_t)
                out = tl.sum(h * C_t, axis=1)
                if HAS_D:
                    out += D_d * x_t
                tl.store(dz + t * dzt, dy_t * out * s * (1.0 + z_t * (1.0 - s)), mask=ok_d & ok)
                dy_t *= z_t * s
            g += dy_t[:, None] * C_t
            dforce = tl.sum(g * B_t, axis=1)
            drate = g * kept[i]
            dA_d += drate * step[:, None]
            dstep = tl.sum(drate * A_d, axis=1) + dforce * x_t
            dx_t = dforce * step
            if HAS_D:
                dx_t += D_d * dy_t
                dD_d += dy_t * x_t
            if SOFTPLUS:
                dstep = tl.where(raws[i] <= 20.0, dstep * sigmoid_of(raws[i]), dstep)
            if HAS_BIAS:
                dbias_d += tl.where(ok, dstep, 0.0)
            tl.store(dx + t * dxt, dx_t, mask=ok_d & ok)
            tl.store(ddt + t * ddt_, dstep, mask=ok_d & ok)
            if STEP_B:
                tl.store(dB + t * STATE, tl.sum(g * force, axis=0), mask=ok_n & ok)
            else:
                dB_c += g * force
            if STEP_C:
                tl.store(dC + t * STATE, tl.sum(h * dy_t[:, None], axis=0), mask=ok_n & ok)
            else:
                dC_c += h * dy_t[:, None]
            g *= tl.exp2(step[:, None] * rates)
    tl.store(dA + bdn, dA_d, mask=ok_dn)
    tl.store(dh0 + bdn, g, mask=ok_dn)
    tl.store(dD + b * channels + d, dD_d, mask=ok_d)
    tl.store(dbias + b * channels + d, dbias_d, mask=ok_d)
    if not STEP_B:
        tl.store(dB + bdn, dB_c, mask=ok_dn)
    if not STEP_C:
        tl.store(dC + bdn, dC_c, mask=ok_dn)
