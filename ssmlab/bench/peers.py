"""Every way to the same selective scan, ours and others', and the problem that all of them get.

A scan here is a function of x, dt, A, B and C, tensors of the shapes of ``ops.selective_scan``,
that returns y.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from ssmlab.ops import selective_scan
from ssmlab.ops.scan import PACKAGES

Scan = Callable[..., Any]
Problem = tuple[Tensor, ...]


def problem(
    *,
    batch: int = 1,
    channels: int = 256,
    length: int = 4096,
    state: int = 16,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Draw x, dt, A, B and C, as a Mamba layer would give them.

    Examples
    --------
    >>> [tuple(v.shape) for v in problem(channels=2, length=8, state=3)]
    [(1, 8, 2), (1, 8, 2), (2, 3), (1, 8, 3), (1, 8, 3)]
    """
    generator = torch.Generator().manual_seed(0)
    signal = (batch, length, channels)
    x, dt = torch.randn(2, *signal, generator=generator)
    B, C = torch.randn(2, *signal[:2], state, generator=generator)
    A = -torch.arange(1.0, state + 1).repeat(channels, 1)
    tensors = [v.to(device, dtype) for v in (x, 0.1 * dt.sigmoid(), B, C)]
    x, dt, B, C = (v.requires_grad_() for v in tensors)
    return x, dt, A.to(device).requires_grad_(), B, C


def forward(scan: Scan, arguments: Problem) -> None:
    """Run a scan without its gradients."""
    with torch.no_grad():
        scan(*arguments)


def both(scan: Scan, arguments: Problem) -> None:
    """Run a scan and the gradients of the sum of its outputs."""
    torch.autograd.grad(scan(*arguments).sum(), arguments)


def scans(device: str = "cpu") -> dict[str, Scan]:
    """Name every way that is installed and takes this device.

    Examples
    --------
    >>> list(scans())[:3]
    ['cpu', 'torch', 'associative_scan']
    """
    fast = "triton" if device == "cuda" else "cpu"
    found: dict[str, Scan] = {}
    if importlib.util.find_spec(PACKAGES[fast]):
        found[fast] = lambda *v: selective_scan(*v, backend=fast)
    found["torch"] = lambda *v: selective_scan(*v, backend="torch")
    found["associative_scan"] = of_torch
    return found | {name: peer for name, peer in PEERS.items() if importlib.util.find_spec(name)}


def versions(names: list[str]) -> dict[str, str]:
    """Say the version of those that are packages of their own, for ``results.provenance``.

    Examples
    --------
    >>> versions(["cpu", "torch"])
    {}
    """
    return {name: version(name) for name in names if name in PEERS}


def terms(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return a_t and b_t of h_t = a_t h_{t-1} + b_t, each (batch, length, channels, state)."""
    return torch.exp(dt[..., None] * A), (dt * x)[..., None] * B[:, :, None]


def of_torch(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Take the associative scan that torch has, eager, over affine maps."""
    from torch._higher_order_ops.associative_scan import associative_scan

    from ssmlab.scan import affine

    _, h = associative_scan(affine, terms(x, dt, A, B), dim=1, combine_mode="generic")
    return (h * C[:, :, None]).sum(-1)


def of_mambapy(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Take the parallel scan of mambapy."""
    pscan = importlib.import_module("mambapy.pscan").pscan
    return (pscan(*terms(x, dt, A, B)) * C[:, :, None]).sum(-1)


def of_mamba_ssm(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Take the CUDA kernel of mamba_ssm, which first copies x, dt, B and C: it wants time last."""
    interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    return interface.selective_scan_fn(x.mT, dt.mT, A, B.mT, C.mT).mT


def of_transformers(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Take the path of Mamba in transformers without a CUDA kernel: a loop over slices."""
    module = importlib.import_module("transformers.models.mamba.modeling_mamba")
    scan = module.mamba_selective_scan.__wrapped__  # what the CUDA kernel stands in for
    return scan(x.mT, dt.mT, A, B.mT, C.mT).mT


#: The name of a package -> its scan.
PEERS: dict[str, Scan] = {
    "mambapy": of_mambapy,
    "mamba_ssm": of_mamba_ssm,
    "transformers": of_transformers,
}
