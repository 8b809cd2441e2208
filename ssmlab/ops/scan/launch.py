r"""How a Triton kernel of the scan is launched: tiles of channels, sizes, strides, options.

One program for each sequence and tile of channels of a group, along one axis: the others of a grid
end at 65,535. A kernel's options are known when it is compiled; it is given those that it names.
INDEX is the type of its offsets: 64 bits take more registers, so 32 as long as they are enough.
"""

from __future__ import annotations

from functools import cache
from operator import mul
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssmlab.ops.scan.backend import Problem

CHANNELS = 16  # channels a program; half if there are too few programs to fill a large GPU
FULL = 1024  # programs that fill it
STEPS = 8  # steps a chunk, and between two states that are kept
LIMIT = 2**31  # of a number of 32 bits, and of the programs on an axis of a grid


def check(device: torch.device) -> None:
    """Ask for tensors on a GPU, or for the interpreter."""
    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"backend 'triton' needs tensors on a GPU; got {device}: use backend='auto', or set "
            "TRITON_INTERPRET=1 before triton is imported to run the kernel slowly on a CPU"
        )


class Call:
    """The sizes and the options of one call."""

    def __init__(self, problem: Problem) -> None:
        x, _, A, B, C, h0, D, z, dt_bias, softplus = problem
        self.batch, self.length, self.channels = x.shape
        self.groups = next((M.shape[2] for M in (B, C) if M.ndim == 4), 1)
        self.width = self.channels // self.groups  # channels a group
        full = self.batch * self.channels >= FULL * CHANNELS
        tile = min(CHANNELS if full else CHANNELS // 2, power_of_2(self.width))
        self.tiles = -(-self.width // tile)  # programs a group
        self.programs = self.groups * self.tiles  # a sequence
        if self.batch * self.programs >= LIMIT:
            raise ValueError(
                f"x must need fewer than {LIMIT} programs, {self.programs} for each sequence; got "
                f"{self.batch} sequences: split the batch"
            )
        self.chunks = -(-self.length // STEPS)
        self.options = {
            "STATE": A.shape[1],
            "LANES": power_of_2(A.shape[1]),
            "TILE": tile,
            "STEPS": STEPS,
            "STEP_B": B.ndim > 2,
            "STEP_C": C.ndim > 2,
            "HAS_D": D is not None,
            "HAS_Z": z is not None,
            "HAS_BIAS": dt_bias is not None,
            "SOFTPLUS": softplus,
            "TYPE": tl.float64 if h0.dtype == torch.float64 else tl.float32,
            "INDEX": tl.int32 if self._reach(problem) < LIMIT else tl.int64,
        }
        self.dtype = h0.dtype

    def _reach(self, problem: Problem) -> int:
        """Bound what a program adds to an address at once, and the steps that it counts to."""
        ahead = 2 * STEPS
        reach = max(problem.A.numel(), self.length + ahead)
        for M in (problem.x, problem.B, problem.C):
            sizes = M.shape if M.ndim == 2 else (0, ahead, *M.shape[2:])
            reach = max(reach, sum(map(mul, sizes, M.stride())))
        return reach

    def parts(self, M: Tensor) -> Tensor:
        """Make room for the gradient of B or C: a part for each program, or channel if constant."""
        sizes = (*M.shape,) if M.ndim == 2 else (self.programs, self.length, M.shape[-1])
        return torch.empty(self.batch, *sizes, dtype=self.dtype, device=M.device)

    def total(self, parts: Tensor, M: Tensor) -> Tensor:
        """Sum the parts, in the shape and type of B or C."""
        if M.ndim == 2:
            return parts.sum(0).to(M.dtype)
        summed = parts.unflatten(1, (self.groups, self.tiles)).sum(2).transpose(1, 2)
        return summed.reshape(M.shape).to(M.dtype)

    def constants(self, kernel: Any, **options: Any) -> dict[str, Any]:
        """Choose what a kernel is compiled for."""
        names = _names(kernel)
        return {k: v for k, v in (self.options | options).items() if k in names}

    def launch(
        self, kernel: Any, arrays: list[Any], spans: list[int], constants: dict[str, Any]
    ) -> None:
        """Run a kernel on all programs; spans are the strides of the arrays, in its order.

        Triton launches on the current device, which need not be that of the arrays; -1 is the CPU.
        """
        sizes = (self.length, self.channels, self.width, self.tiles, self.programs)
        with torch.cuda.device(arrays[0].get_device()):
            kernel[(self.programs * self.batch,)](*arrays, *sizes, *spans, **constants, num_warps=1)


def power_of_2(n: int) -> int:
    """Round up to a power of 2; as Triton's own, which takes a few microseconds of each call."""
    return 1 << (n - 1).bit_length()


@cache
def _names(kernel: Any) -> frozenset[str]:
    return frozenset(kernel.arg_names)


def strides(M: Tensor) -> tuple[int, ...]:
    """Strides of B or C along (batch, length, group or channel, state)."""
    s = M.stride()
    return {2: (0, 0, *s), 3: (s[0], s[1 % len(s)], 0, s[-1]), 4: s}[M.ndim]
