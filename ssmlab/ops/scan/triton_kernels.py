r"""The selective scan as Triton kernels: one warp for a tile of channels, time a loop over chunks.

Every kernel works on blocks with four axes: ``(step, own, channel, share)``. Thirty-two threads lie
along ``channel`` and ``share``: a few neighbouring threads *share* a channel, and each *owns* the
rest of its states. So the steps of a chunk and a part of the state lie in registers of one thread.
There a sum, a scan or the choice of one step costs no traffic, and a sum over the threads that
share is a shuffle or two. What belongs to a channel only (x, dt, y, softplus) is computed once, in
blocks ``(step, channel)``, and then spread. The next chunk is loaded while this one is computed.

The forward kernel keeps the state before every chunk; the backward kernels start from it and
recompute the rest. One of them has the gradients that belong to a channel; the other, with more
threads along the state and fewer along the channels, those of B and C, which are sums over
channels. Each program writes its own part of these, and torch adds the parts: no atomic additions,
so the same bits in every run. Derived in chapter 15.

With ``TRITON_INTERPRET=1`` in the environment before triton is imported, the kernels run on a CPU,
slowly: a way to test and to step through them.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmlab.ops.scan.backend import Problem, check_gradients
from ssmlab.ops.scan.launch import Call, strides

SHARE = {"forward": 2, "channels": 2, "states": 8}  # threads that share a channel, by kernel
LOG2E = tl.constexpr(1.4426950408889634)


def scan(problem: Problem) -> tuple[Tensor, Tensor]:
    """Run the whole scan."""
    keep = torch.is_grad_enabled() and any(
        isinstance(v, Tensor) and v.requires_grad for v in problem
    )
    resolved = [v.resolve_neg() if isinstance(v, Tensor) else v for v in problem]
    return _Scan.apply(*resolved, keep)


class _Scan(torch.autograd.Function):
    """The kernels as one node of torch's graph."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *fields, keep = arguments
        problem = Problem(*fields)
        x, dt, A, B, C, h0, D, z, bias, _ = problem
        y, h = torch.empty_like(x), torch.empty_like(h0, memory_format=torch.contiguous_format)
        call = Call(problem._replace(x=y))
        x, dt, z = (_laid_out_as(y, v) for v in (x, dt, z))
        saved = h.new_empty(len(x), call.chunks if keep else 0, *A.shape)
        _run(call, "forward", [x, dt, z, y], [B, C], [A, D, bias, h0, h, saved], KEEP=keep)
        ctx.save_for_backward(x, dt, A, B, C, D, z, bias, saved)
        ctx.call = call
        return y, h

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        check_gradients("triton", dy, dh)
        x, dt, A, B, C, D, z, bias, saved = ctx.saved_tensors
        call = ctx.call
        dy, dh = _laid_out_as(x, dy.resolve_neg()), dh.resolve_neg()
        dx, ddt = torch.empty_like(x), torch.empty_like(dt)
        dz = None if z is None else torch.empty_like(z)
        dB, dC = call.parts(B), call.parts(C)
        dA, dh0 = saved.new_empty(len(x), *A.shape), saved.new_empty(len(x), *A.shape)
        dD, dbias = saved.new_empty(2, *dA.shape[:2])
        signals, fixed = [x, dt, z, dy], [A, D, bias, saved, dh]
        of_channels = [*fixed, dA, dB, dC, dD, dbias, dh0]
        _run(call, "channels", [*signals, dx, ddt, dz], [B, C], of_channels)
        if B.ndim > 2 or C.ndim > 2:
            _run(call, "states", signals, [B, C], [A, bias, saved, dh, dB, dC])
        return (
            dx,
            ddt,
            dA.sum(0).to(A.dtype),
            call.total(dB, B),
            call.total(dC, C),
            dh0,
            None if D is None else dD.sum(0).to(D.dtype),
            dz,
            None if bias is None else dbias.sum(0).to(bias.dtype),
            None,
            None,
        )


def _run(
    call: Call,
    name: str,
    signals: list[Any],
    per_step: list[Tensor],
    others: list[Tensor | None],
    **options: bool,
) -> None:
    """Launch a kernel by its name."""
    others = [None if v is None else v.contiguous() for v in others]
    spans = [*signals[0].stride(), *(s for M in per_step for s in strides(M))]
    kernel, constants = specialised(call, name, **options)
    call.launch(kernel, [*signals, *per_step, *others], spans, constants)


def specialised(call: Call, name: str, **options: bool) -> tuple[Any, dict[str, Any]]:
    """Look up a kernel and what it is compiled for."""
    kernel = {"forward": forward_kernel, "channels": channels_kernel, "states": states_kernel}[name]
    share = min(SHARE[name], call.options["LANES"])
    return kernel, call.constants(kernel, SHARE=share, **options)


def _laid_out_as(model: Tensor, v: Any) -> Any:
    """Copy a signal if its strides are not those of the model."""
    if v is None or v.stride() == model.stride():
        return v
    return torch.empty_like(model, dtype=v.dtype).copy_(v)


# --- blocks --------------------------------------------------------------------------------------


@no_type_check
@triton.jit
def load(p, offsets, ok, TYPE: tl.constexpr):
    """A block of memory, in the type to compute in; 0 where it is not ok."""
    return tl.load(p + offsets, mask=ok, other=0.0).to(TYPE)


@no_type_check
@triton.jit
def spread(block, STEPS: tl.constexpr):
    """The same (own, channel, share) in every step."""
    return tl.broadcast_to(block[None], (STEPS, block.shape[0], block.shape[1], block.shape[2]))


@no_type_check
@triton.jit
def spread_steps(block, OWN: tl.constexpr, SHARE: tl.constexpr):
    """The same (step, channel) in every state."""
    return tl.broadcast_to(block[:, None, :, None], (block.shape[0], OWN, block.shape[1], SHARE))


@no_type_check
@triton.jit
def at(block, t, i):
    """Choose step i of a block. The steps lie in registers, and adding -0 is no work."""
    nothing = tl.zeros([1, 1, 1, 1], block.dtype) * -1.0
    return tl.sum(tl.where(t == i, block, nothing), 0)


@no_type_check
@triton.jit
def put(block, t, i, value):
    """Replace step i of a block: no work either."""
    return tl.where(t == i, value[None], block)


@no_type_check
@triton.jit
def over_state(block):
    """Sum over what a thread owns, then over the threads that share: (step, channel) is left."""
    return tl.sum(tl.sum(block, 1), 2)


@no_type_check
@triton.jit
def softplus_of(v, TYPE: tl.constexpr):
    """ln(1 + e^v) = max(v, 0) + ln(1 + w) with w = e^-|v|.

    The fast logarithm of a GPU has few right digits near ln 1 = 0. So, in float32, ln(1 + w) is w
    times a polynomial, right to 3e-8 on [0, 1], which also leaves the unit that takes exponentials
    alone.
    """
    w = tl.exp2(-tl.abs(v) * LOG2E)
    if TYPE == tl.float64:  # noqa: SIM300 - a constant of the compilation
        u = 1.0 + w
        near = tl.where(u == 1.0, w, tl.log(u) * (w / tl.where(u == 1.0, 1.0, u - 1.0)))
    else:
        p = tl.fma(w, 0.005232676398009062, -0.029505165293812752)
        p = tl.fma(w, p, 0.07822582870721817)
        p = tl.fma(w, p, -0.13663235306739807)
        p = tl.fma(w, p, 0.19106002151966095)
        p = tl.fma(w, p, -0.2484298050403595)
        p = tl.fma(w, p, 0.3331909775733948)
        p = tl.fma(w, p, -0.4999949336051941)
        near = tl.fma(w, p, 0.9999999403953552) * w
    return tl.maximum(v, 0.0) + near


@no_type_check
@triton.jit
def sigmoid_of(v):
    """1 / (1 + e^-v)."""
    return 1.0 / (1.0 + tl.exp(-v))


@no_type_check
@triton.jit
def as_index(length, channels, xt, Bt, Ct, INDEX: tl.constexpr):
    """The sizes and strides that are multiplied by numbers of 32 bits, in the type of offsets."""
    length, channels = tl.cast(length, INDEX), tl.cast(channels, INDEX)
    return length, channels, tl.cast(xt, INDEX), tl.cast(Bt, INDEX), tl.cast(Ct, INDEX)


@no_type_check
@triton.jit
def places(
    program, width, tiles,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    SHARE: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Where this program works: group, channels, states and steps, masks, and places in A."""
    group, tile = (program // tiles).to(INDEX), (program % tiles).to(INDEX)
    j, t = tile * TILE + tl.arange(0, TILE), tl.arange(0, STEPS)
    n = tl.arange(0, LANES // SHARE)[:, None] * SHARE + tl.arange(0, SHARE)[None, :]
    n = n.to(INDEX)
    d, step = group * width + j, t[:, None, None, None]
    ok_d, ok_n = (j < width)[None, :], (n < STATE)[None]
    ok_dn = (j < width)[None, :, None] & (n < STATE)[:, None, :]
    dn = d[None, :, None] * STATE + n[:, None, :]
    return group, d, n, t, step, ok_d, ok_n, ok_dn, dn


@no_type_check
@triton.jit
def states_of_chunk(dt_4, rates, u, h, step, STEPS: tl.constexpr):
    """The decays of a chunk, the state before each step, and the state after it."""
    a, before, hs = dt_4, u, u
    for i in tl.static_range(STEPS):
        a_i = tl.exp2(at(dt_4, step, i) * rates)
        a, before = put(a, step, i, a_i), put(before, step, i, h)
        h = a_i * h + at(u, step, i)
        hs = put(hs, step, i, h)
    return a, before, hs


@no_type_check
@triton.jit
def gradients_of_chunk(gs, ws, a, step, STEPS: tl.constexpr):
    """G of each step, the gradient of its state, and w = a g, that of the state before."""
    g = at(ws, step, 0)
    for i in tl.static_range(STEPS - 1, -1, -1):
        g += at(gs, step, i)
        gs = put(gs, step, i, g)
        g *= at(a, step, i)
        ws = put(ws, step, i, g)
    return gs, ws


# --- the kernels ---------------------------------------------------------------------------------


@no_type_check
@triton.jit
def forward_kernel(
    x, dt, z, y, B, C, A, D, bias, h0, last, saved,
    length, channels, width, tiles, programs,
    xb, xt, xd, Bb, Bt, Bg, Bn, Cb, Ct, Cg, Cn,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    SHARE: tl.constexpr, STEP_B: tl.constexpr, STEP_C: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, TYPE: tl.constexpr,
    INDEX: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Run one tile of channels through all of time."""
    b, program = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    length, channels, xt, Bt, Ct = as_index(length, channels, xt, Bt, Ct, INDEX)
    group, d, n, t, step, ok_d, ok_n, ok_dn, dn = places(
        program, width, tiles, STATE, LANES, TILE, STEPS, SHARE, INDEX
    )
    bdn = b * channels * STATE + dn
    # What stays the same in every step.
    rates = load(A, dn, ok_dn, TYPE) * LOG2E
    if HAS_D:
        D_d = load(D, d[None, :], ok_d, TYPE)
    if HAS_BIAS:
        bias_d = load(bias, d[None, :], ok_d, TYPE)
    if not STEP_B:
        B_4 = load(B, d[None, :, None] * Bg + n[:, None, :] * Bn, ok_dn, TYPE)[None]
    if not STEP_C:
        C_4 = load(C, d[None, :, None] * Cg + n[:, None, :] * Cn, ok_dn, TYPE)[None]
    # Load the first chunk.
    at_x = t[:, None] * xt + d[None, :] * xd
    at_B, at_C = t[:, None, None] * Bt + n[None] * Bn, t[:, None, None] * Ct + n[None] * Cn
    x, dt, y = x + b * xb, dt + b * xb, y + b * xb
    next_x = load(x, at_x, (t < length)[:, None] & ok_d, TYPE)
    next_dt = load(dt, at_x, (t < length)[:, None] & ok_d, TYPE)
    if HAS_Z:
        z += b * xb
        next_z = load(z, at_x, (t < length)[:, None] & ok_d, TYPE)
    if STEP_B:
        B += b * Bb + group * Bg
        next_B = load(B, at_B, (t < length)[:, None, None] & ok_n, TYPE)
    if STEP_C:
        C += b * Cb + group * Cg
        next_C = load(C, at_C, (t < length)[:, None, None] & ok_n, TYPE)
    hs = spread(load(h0, bdn, ok_dn, TYPE), STEPS)
    chunks = tl.cdiv(length, STEPS)
    for c in range(chunks):
        if KEEP:
            here = saved + (b * chunks + c) * channels * STATE
            tl.store(here + dn, at(hs, step, STEPS - 1), mask=ok_dn)
        ok = (c * STEPS + t < length)[:, None] & ok_d
        x_c = next_x
        raw = next_dt + bias_d if HAS_BIAS else next_dt
        dt_c = softplus_of(raw, TYPE) if SOFTPLUS else raw
        dt_c = tl.where(ok, dt_c, 0.0)  # past the end the state stays
        a = tl.exp2(dt_c[:, None, :, None] * rates[None])
        if STEP_B:
            B_4 = next_B[:, :, None, :]
        if STEP_C:
            C_4 = next_C[:, :, None, :]
        u = (dt_c * x_c)[:, None, :, None] * B_4
        if HAS_Z:
            z_c = next_z
        # Load the next chunk while this one is computed.
        x, dt, y_c, y = x + STEPS * xt, dt + STEPS * xt, y, y + STEPS * xt
        more = c * STEPS + STEPS + t < length
        next_x = load(x, at_x, more[:, None] & ok_d, TYPE)
        next_dt = load(dt, at_x, more[:, None] & ok_d, TYPE)
        if HAS_Z:
            z += STEPS * xt
            next_z = load(z, at_x, more[:, None] & ok_d, TYPE)
        if STEP_B:
            B += STEPS * Bt
            next_B = load(B, at_B, more[:, None, None] & ok_n, TYPE)
        if STEP_C:
            C += STEPS * Ct
            next_C = load(C, at_C, more[:, None, None] & ok_n, TYPE)
        # The recurrence, one step after the other, in registers.
        h = at(hs, step, STEPS - 1)
        for i in tl.static_range(STEPS):
            h = at(a, step, i) * h + at(u, step, i)
            hs = put(hs, step, i, h)
        out = over_state(hs * C_4)
        if HAS_D:
            out += D_d * x_c
        if HAS_Z:
            out *= z_c * sigmoid_of(z_c)
        tl.store(y_c + at_x, out, mask=ok)
    tl.store(last + bdn, at(hs, step, STEPS - 1), mask=ok_dn)


@no_type_check
@triton.jit
def channels_kernel(
    x, dt, z, dy, dx, ddt, dz, B, C, A, D, bias, saved, dlast, dA, dB, dC, dD, dbias, dh0,
    length, channels, width, tiles, programs,
    xb, xt, xd, Bb, Bt, Bg, Bn, Cb, Ct, Cg, Cn,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    SHARE: tl.constexpr, STEP_B: tl.constexpr, STEP_C: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Run one tile of channels back through time: the gradients that belong to a channel.

    g is the gradient of the state h_t, and w = a_t g that of h_{t-1}.
    """
    b, program = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    length, channels, xt, Bt, Ct = as_index(length, channels, xt, Bt, Ct, INDEX)
    group, d, n, t, step, ok_d, ok_n, ok_dn, dn = places(
        program, width, tiles, STATE, LANES, TILE, STEPS, SHARE, INDEX
    )
    bdn = b * channels * STATE + dn
    # What stays the same in every step, and the sums over time.
    A_d = at(spread(load(A, dn, ok_dn, TYPE), STEPS), step, 0)
    rates = A_d * LOG2E
    dA_d = tl.zeros([LANES // SHARE, TILE, SHARE], TYPE)
    if HAS_D:
        D_d = load(D, d[None, :], ok_d, TYPE)
        dD_d = tl.zeros([STEPS, TILE], TYPE)
    if HAS_BIAS:
        bias_d = load(bias, d[None, :], ok_d, TYPE)
        dbias_d = tl.zeros([STEPS, TILE], TYPE)
    if not STEP_B:
        B_4 = load(B, d[None, :, None] * Bg + n[:, None, :] * Bn, ok_dn, TYPE)[None]
        dB_d = tl.zeros([LANES // SHARE, TILE, SHARE], TYPE)
    if not STEP_C:
        C_4 = load(C, d[None, :, None] * Cg + n[:, None, :] * Cn, ok_dn, TYPE)[None]
        dC_d = tl.zeros([LANES // SHARE, TILE, SHARE], TYPE)
    # Load the last chunk.
    chunks = tl.cdiv(length, STEPS)
    start = b * 0 + (chunks - 1) * STEPS
    at_x = t[:, None] * xt + d[None, :] * xd
    at_B, at_C = t[:, None, None] * Bt + n[None] * Bn, t[:, None, None] * Ct + n[None] * Cn
    x, dt, dy = x + b * xb + start * xt, dt + b * xb + start * xt, dy + b * xb + start * xt
    dx, ddt = dx + b * xb + start * xt, ddt + b * xb + start * xt
    saved += (b * chunks + chunks - 1) * channels * STATE
    more = start + t < length
    next_x = load(x, at_x, more[:, None] & ok_d, TYPE)
    next_dt = load(dt, at_x, more[:, None] & ok_d, TYPE)
    next_dy = load(dy, at_x, more[:, None] & ok_d, TYPE)
    next_h = load(saved, dn, ok_dn, TYPE)
    if HAS_Z:
        z, dz = z + b * xb + start * xt, dz + b * xb + start * xt
        next_z = load(z, at_x, more[:, None] & ok_d, TYPE)
    if STEP_B:
        B += b * Bb + group * Bg + start * Bt
        next_B = load(B, at_B, more[:, None, None] & ok_n, TYPE)
    if STEP_C:
        C += b * Cb + group * Cg + start * Ct
        next_C = load(C, at_C, more[:, None, None] & ok_n, TYPE)
    ws = spread(load(dlast, bdn, ok_dn, TYPE), STEPS)
    for k in range(chunks):
        c = chunks - 1 - k
        ok = (c * STEPS + t < length)[:, None] & ok_d
        x_c, dy_c, h_c = next_x, next_dy, next_h
        raw = next_dt + bias_d if HAS_BIAS else next_dt
        if HAS_Z:
            z_c = next_z
        if STEP_B:
            B_4 = next_B[:, :, None, :]
        if STEP_C:
            C_4 = next_C[:, :, None, :]
        # Load the chunk before this one.
        more = t < c * STEPS
        x, dt, dy = x - STEPS * xt, dt - STEPS * xt, dy - STEPS * xt
        saved -= channels * STATE
        next_x = load(x, at_x, more[:, None] & ok_d, TYPE)
        next_dt = load(dt, at_x, more[:, None] & ok_d, TYPE)
        next_dy = load(dy, at_x, more[:, None] & ok_d, TYPE)
        next_h = load(saved, dn, ok_dn & (c > 0), TYPE)
        if HAS_Z:
            z -= STEPS * xt
            next_z = load(z, at_x, more[:, None] & ok_d, TYPE)
        if STEP_B:
            B -= STEPS * Bt
            next_B = load(B, at_B, more[:, None, None] & ok_n, TYPE)
        if STEP_C:
            C -= STEPS * Ct
            next_C = load(C, at_C, more[:, None, None] & ok_n, TYPE)
        # The states again, from the one that was kept.
        dt_c = softplus_of(raw, TYPE) if SOFTPLUS else raw
        dt_c = tl.where(ok, dt_c, 0.0)
        force = dt_c * x_c
        dt_4 = spread_steps(dt_c, LANES // SHARE, SHARE)
        u = force[:, None, :, None] * B_4
        h = at(spread(h_c, STEPS), step, 0)
        a, before, hs = states_of_chunk(dt_4, rates, u, h, step, STEPS)
        gated = dy_c
        if HAS_Z:
            s = sigmoid_of(z_c)
            out = over_state(hs * C_4)
            if HAS_D:
                out += D_d * x_c
            tl.store(dz + at_x, dy_c * out * s * (1.0 + z_c * (1.0 - s)), mask=ok)
            dz -= STEPS * xt
            gated = dy_c * z_c * s
        # Back through the chunk.
        gs = gated[:, None, :, None] * C_4
        gs, ws = gradients_of_chunk(gs, ws, a, step, STEPS)
        if not STEP_B:
            dB_d += tl.sum(gs * force[:, None, :, None], 0)
        if not STEP_C:
            dC_d += tl.sum(hs * gated[:, None, :, None], 0)
        dforce = over_state(gs * B_4)
        drate = ws * before
        dA_d += tl.sum(drate * dt_4, 0)
        dstep = over_state(drate * A_d[None]) + dforce * x_c
        if SOFTPLUS:
            dstep *= tl.exp2((raw - dt_c) * LOG2E)  # the sigmoid of raw
        dx_c = dforce * dt_c
        if HAS_D:
            dx_c += D_d * gated
            dD_d += gated * x_c
        if HAS_BIAS:
            dbias_d += tl.where(ok, dstep, 0.0)
        tl.store(dx + at_x, dx_c, mask=ok)
        tl.store(ddt + at_x, dstep, mask=ok)
        dx, ddt = dx - STEPS * xt, ddt - STEPS * xt
    tl.store(dA + bdn, dA_d, mask=ok_dn)
    tl.store(dh0 + bdn, at(ws, step, 0), mask=ok_dn)
    if HAS_D:
        tl.store(dD + b * channels + d, tl.sum(dD_d, 0), mask=tl.reshape(ok_d, (TILE,)))
    if HAS_BIAS:
        tl.store(dbias + b * channels + d, tl.sum(dbias_d, 0), mask=tl.reshape(ok_d, (TILE,)))
    if not STEP_B:
        tl.store(dB + bdn, dB_d, mask=ok_dn)
    if not STEP_C:
        tl.store(dC + bdn, dC_d, mask=ok_dn)


@no_type_check
@triton.jit
def states_kernel(
    x, dt, z, dy, B, C, A, bias, saved, dlast, dB, dC,
    length, channels, width, tiles, programs,
    xb, xt, xd, Bb, Bt, Bg, Bn, Cb, Ct, Cg, Cn,
    STATE: tl.constexpr, LANES: tl.constexpr, TILE: tl.constexpr, STEPS: tl.constexpr,
    SHARE: tl.constexpr, STEP_B: tl.constexpr, STEP_C: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, TYPE: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Run one tile of channels back through time: its part of the gradients of B_t and C_t."""
    b, program = (tl.program_id(0) // programs).to(tl.int64), tl.program_id(0) % programs
    length, channels, xt, Bt, Ct = as_index(length, channels, xt, Bt, Ct, INDEX)
    group, d, n, t, step, ok_d, ok_n, ok_dn, dn = places(
        program, width, tiles, STATE, LANES, TILE, STEPS, SHARE, INDEX
    )
    rates = at(spread(load(A, dn, ok_dn, TYPE), STEPS), step, 0) * LOG2E
    if HAS_BIAS:
        bias_d = load(bias, d[None, :], ok_d, TYPE)
    if not STEP_B:
        B_4 = load(B, d[None, :, None] * Bg + n[:, None, :] * Bn, ok_dn, TYPE)[None]
    if not STEP_C:
        C_4 = load(C, d[None, :, None] * Cg + n[:, None, :] * Cn, ok_dn, TYPE)[None]
    # Load the last chunk.
    chunks = tl.cdiv(length, STEPS)
    start = b * 0 + (chunks - 1) * STEPS
    at_x = t[:, None] * xt + d[None, :] * xd
    at_B, at_C = t[:, None, None] * Bt + n[None] * Bn, t[:, None, None] * Ct + n[None] * Cn
    part = (b * programs + program) * length * STATE + start * STATE
    at_part = t[:, None, None] * STATE + n[None]
    x, dt, dy = x + b * xb + start * xt, dt + b * xb + start * xt, dy + b * xb + start * xt
    saved += (b * chunks + chunks - 1) * channels * STATE
    more = start + t < length
    next_x = load(x, at_x, more[:, None] & ok_d, TYPE)
    next_dt = load(dt, at_x, more[:, None] & ok_d, TYPE)
    next_dy = load(dy, at_x, more[:, None] & ok_d, TYPE)
    next_h = load(saved, dn, ok_dn, TYPE)
    if HAS_Z:
        z += b * xb + start * xt
        next_z = load(z, at_x, more[:, None] & ok_d, TYPE)
    if STEP_B:
        B += b * Bb + group * Bg + start * Bt
        next_B = load(B, at_B, more[:, None, None] & ok_n, TYPE)
    if STEP_C:
        C += b * Cb + group * Cg + start * Ct
        next_C = load(C, at_C, more[:, None, None] & ok_n, TYPE)
    ws = spread(load(dlast, b * channels * STATE + dn, ok_dn, TYPE), STEPS)
    for k in range(chunks):
        c = chunks - 1 - k
        left = c * STEPS + t < length
        ok = left[:, None] & ok_d
        x_c, h_c = next_x, next_h
        raw = next_dt + bias_d if HAS_BIAS else next_dt
        gated = next_dy * next_z * sigmoid_of(next_z) if HAS_Z else next_dy
        if STEP_B:
            B_4 = next_B[:, :, None, :]
        if STEP_C:
            C_4 = next_C[:, :, None, :]
        # Load the chunk before this one.
        more = t < c * STEPS
        x, dt, dy = x - STEPS * xt, dt - STEPS * xt, dy - STEPS * xt
        saved -= channels * STATE
        next_x = load(x, at_x, more[:, None] & ok_d, TYPE)
        next_dt = load(dt, at_x, more[:, None] & ok_d, TYPE)
        next_dy = load(dy, at_x, more[:, None] & ok_d, TYPE)
        next_h = load(saved, dn, ok_dn & (c > 0), TYPE)
        if HAS_Z:
            z -= STEPS * xt
            next_z = load(z, at_x, more[:, None] & ok_d, TYPE)
        if STEP_B:
            B -= STEPS * Bt
            next_B = load(B, at_B, more[:, None, None] & ok_n, TYPE)
        if STEP_C:
            C -= STEPS * Ct
            next_C = load(C, at_C, more[:, None, None] & ok_n, TYPE)
        # Forward, then back, through the chunk.
        dt_c = softplus_of(raw, TYPE) if SOFTPLUS else raw
        dt_c = tl.where(ok, dt_c, 0.0)
        force = (dt_c * x_c)[:, None, :, None]
        dt_4 = spread_steps(dt_c, LANES // SHARE, SHARE)
        u = force * B_4
        h = at(spread(h_c, STEPS), step, 0)
        a, _, hs = states_of_chunk(dt_4, rates, u, h, step, STEPS)
        if STEP_C:
            dC_c = tl.sum(hs * gated[:, None, :, None], 2)
            tl.store(dC + part + at_part, dC_c, mask=left[:, None, None] & ok_n)
        gs = gated[:, None, :, None] * C_4
        gs, ws = gradients_of_chunk(gs, ws, a, step, STEPS)
        if STEP_B:
            dB_c = tl.sum(gs * force, 2)
            tl.store(dB + part + at_part, dB_c, mask=left[:, None, None] & ok_n)
        part -= STEPS * STATE
