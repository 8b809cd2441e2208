r"""What this machine can do at most: bytes moved and exponentials taken a second.

A scan must read its inputs and write its outputs, and take one exponential for each state and step.
A program that does nothing else gives the ceiling of each; no scan can be faster than the slower of
the two allows. Chapter 14 draws them as a roofline (Williams, Waterman and Patterson, "Roofline: an
insightful visual performance model for multicore architectures", 2009).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import no_type_check

import numpy as np
import torch

from ssmlab import timing

CHANNELS, STATE = 1024, 2**13  # a sum over the state for each channel: some milliseconds


def bytes_per_second(device: str = "cpu", size: int = 2**27) -> float:
    """Copy a large array, and count what is read and what is written.

    Parameters
    ----------
    device : {"cpu", "cuda"}
    size : int
        Bytes of the array; it must not fit into a cache.

    Notes
    -----
    The array is filled with ones. Fresh zeros need not be there: the system may map all pages of
    them to one page of zeros, and what is read comes from the cache.

    Examples
    --------
    >>> bytes_per_second(size=2**16) > 0
    True
    """
    source = torch.ones(size // 4, device=device)
    target = torch.ones_like(source)
    seconds = _shortest(lambda: target.copy_(source), device)
    return 2 * source.numel() * source.element_size() / seconds


def exponentials_per_second(device: str = "cpu") -> float:
    """Take e^z in float32, sum it and do nothing else, with all threads that torch uses.

    On a CPU it is the exponential of the compiled kernel, on a GPU that of Triton: a faster one
    would be a higher ceiling.

    Parameters
    ----------
    device : {"cpu", "cuda"}

    Raises
    ------
    ModuleNotFoundError
        On a CPU without numba, on a GPU without triton.

    Examples
    --------
    >>> exponentials_per_second() > 1e6
    True
    """
    if device == "cuda":
        from ssmlab.ops.scan.first_kernels import exponentials

        out, rounds = torch.empty(2**23, device=device), 2048
        return out.numel() * rounds / _shortest(lambda: exponentials(out, rounds), device)
    kernel, threads = _cpu_kernel(), torch.get_num_threads()
    rates = -np.linspace(0.1, 1, STATE, dtype=np.float32)
    work = [np.linspace(0, 1, CHANNELS, dtype=np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _shortest(lambda: list(pool.map(lambda v: kernel(v, rates, v.copy()), work)))
    return threads * CHANNELS * STATE / seconds


def _shortest(func: Callable[[], object], device: str = "cpu") -> float:
    """Time a call: a ceiling is the best that the machine can do, so the median is no use."""
    clock = "cuda" if device == "cuda" else "wall"
    return min(timing.measure(func, repeat=15, clock=clock).samples)


@cache
@no_type_check
def _cpu_kernel() -> Callable[..., None]:
    """Compile y_d = sum of 2^(step_d rate_n) over n: a step of the scan without its state."""
    from numba import njit

    from ssmlab.ops.scan.numba_kernel import OPTIONS, SUMS, exp2

    def sums(steps, rates, y):  # pragma: no cover - compiled
        y[:] = 0
        for n in range(len(rates)):
            for d in range(len(steps)):
                y[d] += exp2(steps[d] * rates[n])

    arguments = "void(float32[::1], float32[::1], float32[::1])"
    return njit(arguments, fastmath=SUMS, **OPTIONS)(sums)
