r"""The first Triton kernels of chapter 15, from a cumulative sum to a scan with its gradient.

Each leaves out all that its section does not need: one sequence, float32, no options, offsets of 32
bits. What they add up to, with every option, is ``triton_kernels``. Triton reads a kernel's source,
from its file or from a notebook's cell. With ``TRITON_INTERPRET=1`` in the environment before
triton is imported they run on a CPU.

>>> cumulative_sum(torch.ones(4, 1)).flatten()
tensor([1., 2., 3., 4.])
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmlab._typing import Float

TILE = 16  # channels a program
CHUNK = 4  # steps from one saved state to the next


def cumulative_sum(
    x: Float[Tensor, "length channels"],
) -> Float[Tensor, "length channels"]:
    """Add up over time: y_t = y_{t-1} + x_t.

    Examples
    --------
    >>> cumulative_sum(torch.tensor([[1.0, 10.0], [2.0, 20.0]]))
    tensor([[ 1., 10.],
            [ 3., 30.]])
    """
    _check_size(x.numel())
    x = x.resolve_neg().contiguous()
    length, channels = x.shape
    y = torch.empty_like(x)
    with torch.cuda.device(x.get_device()):
        sum_kernel[(triton.cdiv(channels, TILE),)](x, y, length, channels, TILE)
    return y


def scan(
    x: Float[Tensor, "length channels"],
    dt: Float[Tensor, "length channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "length state"],
    C: Float[Tensor, "length state"],
) -> tuple[Float[Tensor, "length channels"], Float[Tensor, "chunks channels state"]]:
    """Run h_t = e^{dt_t A} h_{t-1} + dt_t B_t x_t, y_t = C_t h_t, the state a power of two.

    Returns
    -------
    y, saved : Tensor
        The outputs, and the state at the start of every chunk of ``CHUNK`` steps.

    Examples
    --------
    >>> one = torch.ones(3, 1)
    >>> scan(one, one, torch.zeros(1, 1), one, one)[0].flatten()
    tensor([1., 2., 3.])
    """
    _check_size(x.numel() * A.shape[1])
    x, dt, A, B, C = (v.resolve_neg().contiguous() for v in (x, dt, A, B, C))
    (length, channels), state = x.shape, A.shape[1]
    y, saved = torch.empty_like(x), x.new_empty(triton.cdiv(length, CHUNK), channels, state)
    with torch.cuda.device(x.get_device()):
        scan_kernel[(triton.cdiv(channels, TILE),)](
            x, dt, A, B, C, y, saved, length, channels, TILE, state, CHUNK
        )
    return y, saved


def scan_gradients(
    x: Float[Tensor, "length channels"],
    dt: Float[Tensor, "length channels"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "length state"],
    C: Float[Tensor, "length state"],
    saved: Float[Tensor, "chunks channels state"],
    dy: Float[Tensor, "length channels"],
) -> tuple[Tensor, ...]:
    """Return the gradients of (y * dy).sum() for x, dt, A, B and C.

    Examples
    --------
    >>> one, A = torch.ones(3, 1), torch.zeros(1, 1)
    >>> y, saved = scan(one, one, A, one, one)
    >>> scan_gradients(one, one, A, one, one, saved, one)[0].flatten()
    tensor([3., 2., 1.])
    """
    _check_size(x.numel() * A.shape[1])
    x, dt, A, B, C, dy = (v.resolve_neg().contiguous() for v in (x, dt, A, B, C, dy))
    (length, channels), state = x.shape, A.shape[1]
    tiles = triton.cdiv(channels, TILE)
    dx, ddt, dA = torch.empty_like(x), torch.empty_like(dt), torch.empty_like(A)
    dB, dC = x.new_empty(2, tiles, length, state)  # a part for each program
    with torch.cuda.device(x.get_device()):
        gradient_kernel[(tiles,)](
            x, dt, A, B, C, saved, dy, dx, ddt, dA, dB, dC, length, channels, TILE, state, CHUNK
        )  # fmt: skip
    return dx, ddt, dA, dB.sum(0), dC.sum(0)


def exponentials(out: Float[Tensor, "elements"], rounds: int) -> None:
    """Take 2^-v over and over, in registers: what ``ssmlab.bench.roofline`` times.

    Examples
    --------
    >>> out = torch.empty(1024)
    >>> exponentials(out, rounds=1)
    >>> bool((out - 1).abs().max() < 1e-5)
    True
    """
    with torch.cuda.device(out.get_device()):
        exponential_kernel[(triton.cdiv(len(out), 1024),)](out, len(out), rounds, 1024)


def _check_size(numbers: int) -> None:
    """Ask for fewer numbers than an offset of 32 bits can count."""
    if numbers >= 2**31:
        raise ValueError(
            f"x must have fewer than 2^31 numbers, or states if it has some; got {numbers}: use "
            "ssmlab.ops.selective_scan, or a part of x"
        )


# --- the kernels ---------------------------------------------------------------------------------


@no_type_check
@triton.jit
def sum_kernel(x, y, length, channels, TILE: tl.constexpr):
    """Walk through time with a tile of channels."""
    d = tl.program_id(0) * TILE + tl.arange(0, TILE)
    ok = d < channels
    total = tl.zeros([TILE], tl.float32)
    for t in range(length):
        total += tl.load(x + t * channels + d, mask=ok, other=0.0)
        tl.store(y + t * channels + d, total, mask=ok)


@no_type_check
@triton.jit
def scan_kernel(
    x, dt, A, B, C, y, saved, length, channels,
    TILE: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """The same walk, with a state of STATE numbers for each channel."""
    d, n = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.arange(0, STATE)
    ok = d < channels
    dn, ok_dn = d[:, None] * STATE + n[None, :], ok[:, None]
    A_d = tl.load(A + dn, mask=ok_dn, other=0.0)
    h = tl.zeros([TILE, STATE], tl.float32)
    for t in range(length):
        if t % CHUNK == 0:
            tl.store(saved + t // CHUNK * channels * STATE + dn, h, mask=ok_dn)
        x_t = tl.load(x + t * channels + d, mask=ok, other=0.0)
        dt_t = tl.load(dt + t * channels + d, mask=ok, other=0.0)
        B_t, C_t = tl.load(B + t * STATE + n), tl.load(C + t * STATE + n)
        h = tl.exp(dt_t[:, None] * A_d) * h + (dt_t * x_t)[:, None] * B_t[None, :]
        tl.store(y + t * channels + d, tl.sum(h * C_t[None, :], axis=1), mask=ok)


@no_type_check
@triton.jit
def gradient_kernel(
    x, dt, A, B, C, saved, dy, dx, ddt, dA, dB, dC, length, channels,
    TILE: tl.constexpr, STATE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Chunk by chunk from the end: forward again from the saved state, then back with g."""
    tile = tl.program_id(0)
    d, n = tile * TILE + tl.arange(0, TILE), tl.arange(0, STATE)
    ok = d < channels
    dn, ok_dn = d[:, None] * STATE + n[None, :], ok[:, None]
    A_d = tl.load(A + dn, mask=ok_dn, other=0.0)
    g = tl.zeros([TILE, STATE], tl.float32)
    dA_d = tl.zeros([TILE, STATE], tl.float32)
    chunks = tl.cdiv(length, CHUNK)
    for k in range(chunks):
        c = chunks - 1 - k
        h = tl.load(saved + c * channels * STATE + dn, mask=ok_dn, other=0.0)
        kept = ()  # e^{dt_t A} h_{t-1} of each step of the chunk
        for i in tl.static_range(CHUNK):
            t = c * CHUNK + i
            in_time = t < length
            x_t = tl.load(x + t * channels + d, mask=ok & in_time, other=0.0)
            dt_t = tl.load(dt + t * channels + d, mask=ok & in_time, other=0.0)
            B_t = tl.load(B + t * STATE + n, mask=in_time, other=0.0)
            decayed = tl.exp(dt_t[:, None] * A_d) * h
            h = decayed + (dt_t * x_t)[:, None] * B_t[None, :]
            kept = kept + (decayed,)  # noqa: RUF005 - Triton joins tuples by + only
        for i in tl.static_range(CHUNK - 1, -1, -1):
            t = c * CHUNK + i
            in_time = t < length
            here = ok & in_time
            x_t = tl.load(x + t * channels + d, mask=here, other=0.0)
            dt_t = tl.load(dt + t * channels + d, mask=here, other=0.0)
            dy_t = tl.load(dy + t * channels + d, mask=here, other=0.0)
            B_t = tl.load(B + t * STATE + n, mask=in_time, other=0.0)
            C_t = tl.load(C + t * STATE + n, mask=in_time, other=0.0)
            force = (dt_t * x_t)[:, None]
            h = kept[i] + force * B_t[None, :]
            g += dy_t[:, None] * C_t[None, :]
            dforce = tl.sum(g * B_t[None, :], axis=1)
            drate = g * kept[i]
            dA_d += drate * dt_t[:, None]
            tl.store(dx + t * channels + d, dforce * dt_t, mask=here)
            tl.store(ddt + t * channels + d, tl.sum(drate * A_d, axis=1) + dforce * x_t, mask=here)
            part = (tile * length + t) * STATE + n
            tl.store(dB + part, tl.sum(g * force, axis=0), mask=in_time)
            tl.store(dC + part, tl.sum(h * dy_t[:, None], axis=0), mask=in_time)
            g *= tl.exp(dt_t[:, None] * A_d)
    tl.store(dA + dn, dA_d, mask=ok_dn)


@no_type_check
@triton.jit
def exponential_kernel(out, size, rounds, BLOCK: tl.constexpr):
    """Nothing but exponentials; what is stored keeps the compiler from leaving them out."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = i.to(tl.float32) * 1e-9
    for _ in range(rounds):
        v = tl.exp2(-v)
    tl.store(out + i, v, mask=i < size)
