"""Scans to test: problems of every kind, the NumPy reference, gradients, and how close is right."""

from __future__ import annotations

import numpy as np
import torch

import ssmlab
from ssmlab.ops import selective_scan

FORMS = {
    "step": lambda batch, length, channels, state: (batch, length, state),
    "group": lambda batch, length, channels, state: (batch, length, 2, state),
    "constant": lambda batch, length, channels, state: (channels, state),
}

#: Each form of B and of C, and each combination of varying and constant. Kernels know B and C only
#: as varying or constant, by a flag of its own for each; one sample for each step is one group.
PAIRS = [
    ("step", "step"),
    ("group", "group"),
    ("group", "constant"),
    ("constant", "group"),
    ("constant", "constant"),
]


def problem(
    batch=2, length=7, channels=4, state=3, B="step", C="step", complex_A=False, dtype="float64"
):
    """All arguments by name, as tensors; softplus is on."""
    torch.manual_seed(0)
    sizes = (batch, length, channels, state)
    real = getattr(torch, dtype)
    state_dtype = torch.promote_types(real, torch.float32)
    state_dtype = state_dtype.to_complex() if complex_A else state_dtype

    def normal(*shape, kind=real):
        wide = torch.complex128 if kind.is_complex else torch.float64
        return torch.randn(*shape, dtype=wide).to(kind)

    A = -torch.rand(channels, state, dtype=torch.float64) * 2
    A = torch.complex(A, torch.randn_like(A)) if complex_A else A
    return {
        "x": normal(batch, length, channels),
        "dt": normal(batch, length, channels),
        "A": A.to(state_dtype),
        "B": normal(*FORMS[B](*sizes), kind=state_dtype if complex_A else real),
        "C": normal(*FORMS[C](*sizes), kind=state_dtype if complex_A else real),
        "D": normal(channels, kind=torch.promote_types(real, torch.float32)),
        "z": normal(batch, length, channels),
        "dt_bias": normal(channels, kind=torch.promote_types(real, torch.float32)),
        "h0": normal(batch, channels, state, kind=state_dtype),
    }


def reference(x, dt, A, B, C, D=None, z=None, dt_bias=None, h0=None, softplus=True):
    """The NumPy scan, in float64, of the same numbers."""
    to = {k: None if v is None else v.to(torch.complex128 if v.is_complex() else torch.float64)
          for k, v in {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z,
                       "bias": dt_bias, "h0": h0}.items()}  # fmt: skip
    steps = to["dt"] if dt_bias is None else to["dt"] + to["bias"]
    steps = np.logaddexp(0, steps.numpy()) if softplus else steps.numpy()
    arrays = [to[k].numpy() for k in "ABC"]
    D = None if D is None else to["D"].numpy()
    h0 = None if h0 is None else to["h0"].numpy()
    y, h = ssmlab.selective_scan(to["x"].numpy(), steps, *arrays, D, h0=h0)
    gate = 1 if z is None else to["z"].numpy() / (1 + np.exp(-to["z"].numpy()))
    return torch.tensor(y * gate), torch.tensor(h)


def run(p, backend, **options):
    return selective_scan(
        **p, **{"softplus": True, "return_last_state": True, "backend": backend} | options
    )


def gradients(p, backend, weights=(1.0, 1.0), **options):
    """The gradient of a random weighted sum of both results, by name of the argument."""
    leaves = {k: v.detach().clone().requires_grad_() for k, v in p.items()}
    y, h = run(leaves, backend, **options)
    g = torch.Generator().manual_seed(1)
    wy = torch.randn(y.shape, generator=g).bfloat16().double()  # exact in every type
    wh = torch.randn(h.shape, generator=g, dtype=torch.complex128)
    loss = weights[0] * (y.double() * wy).sum()
    loss = loss + weights[1] * (h * wh.to(torch.complex128)).real.sum()
    loss.backward()
    return {k: v.grad for k, v in leaves.items()}


def wide(p):
    return {k: v.to(torch.complex128 if v.is_complex() else torch.float64) for k, v in p.items()}


def assert_close(got, expected, tolerance):
    """Relative to the largest number of the expected tensor."""
    got = got.to(expected.dtype)
    assert got.shape == expected.shape
    error, size = (got - expected).abs().max(), expected.abs().max()
    assert error <= tolerance * size, f"{error / size:.1e}"
