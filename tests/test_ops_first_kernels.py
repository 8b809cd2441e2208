"""The teaching kernels of chapter 15, under the interpreter, against torch in float64."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from ssmlab.ops import selective_scan

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton runs on Linux x86-64 only", allow_module_level=True)

from ssmlab.ops.scan import first_kernels


def problem(length, channels, state):
    generator = torch.Generator().manual_seed(0)
    x, dt = torch.randn(2, length, channels, generator=generator)
    B, C = torch.randn(2, length, state, generator=generator)
    A = -torch.arange(1.0, state + 1).repeat(channels, 1)
    return x, dt.sigmoid(), A, B, C


def reference(x, dt, A, B, C):
    return selective_scan(x[None], dt[None], A, B[None], C[None], backend="torch")[0]


@pytest.mark.parametrize(("length", "channels"), [(1, 1), (5, 3), (9, 17)])
def test_cumulative_sum(length, channels):
    x = problem(length, channels, 1)[0]
    torch.testing.assert_close(first_kernels.cumulative_sum(x), x.cumsum(0))
    torch.testing.assert_close(first_kernels.cumulative_sum(x.T.contiguous().T), x.cumsum(0))


def test_a_negated_view_and_numbers_that_32_bits_cannot_count():
    x = torch.complex(torch.zeros(1, 1), torch.ones(1, 1)).conj().imag
    assert x.is_neg()
    assert first_kernels.cumulative_sum(x).item() == -1
    many, A = torch.zeros(1, 1).expand(2**20, 2**9), torch.zeros(2**9, 4)
    with pytest.raises(ValueError, match=r"x must have fewer than 2\^31 numbers.* got 2147483648"):
        first_kernels.scan(many, many, A, *many[:, :4].expand(2, -1, -1))


@pytest.mark.parametrize(("length", "channels", "state"), [(1, 1, 1), (8, 3, 2), (9, 17, 4)])
def test_scan_and_gradients(length, channels, state):
    p = [v.T.contiguous().T for v in problem(length, channels, state)]
    exact = [v.double().requires_grad_() for v in p]
    expected = reference(*exact)
    y, saved = first_kernels.scan(*p)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    gradients = first_kernels.scan_gradients(*p, saved, dy)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, exact, dy), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


def test_exponentials_settle():
    """v = 2^-v has one solution, 0.6412."""
    out = torch.empty(3)
    first_kernels.exponentials(out, rounds=60)
    torch.testing.assert_close(2**-out, out, rtol=1e-6, atol=0)


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ssmlab.ops.scan import first_kernels
for name in ("sum", "scan", "gradient", "exponential"):
    kernel = getattr(first_kernels, name + "_kernel")
    sizes = {"TILE": 16, "STATE": 16, "CHUNK": 4, "BLOCK": 1024}
    constants = {k: v for k, v in sizes.items() if k in kernel.arg_names}
    kinds = dict.fromkeys(kernel.arg_names, "*fp32")
    kinds |= {k: "i32" for k in ("length", "channels", "size", "rounds") if k in kinds}
    kinds |= dict.fromkeys(constants, "constexpr")
    done = compile(ASTSource(kernel, kinds, constants), target=GPUTarget("cuda", 90, 32))
    print(name, "ex2.approx" in done.asm["ptx"])
"""


def test_compile_without_a_gpu():
    """The interpreter takes more than the compiler does."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "sum False\nscan True\ngradient True\nexponential True\n"
