"""mamba_ssm's signature: against a scan written here in its layout, and against its own order."""

from __future__ import annotations

import inspect

import pytest
import torch

from ssmlab.compat import selective_scan_fn


def in_its_layout(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    """The recurrence, entry by entry, in float64; B and C of shape (batch, channels, state, L)."""
    delta = delta + delta_bias[:, None]
    delta = torch.nn.functional.softplus(delta) if delta_softplus else delta
    h, out = torch.zeros(len(u), *A.shape, dtype=A.dtype), torch.empty_like(u)
    for t in range(u.shape[-1]):
        h = torch.exp(delta[..., t, None] * A) * h
        h = h + (delta[..., t] * u[..., t])[..., None] * B[..., t]
        y = (h * C[..., t]).sum(-1)
        out[..., t] = (2 * y.real if A.is_complex() else y) + D * u[..., t]
    return out * z * torch.sigmoid(z), h


@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("form", ["constant", "step", "group"])
def test_layout(form, complex_A):
    torch.manual_seed(0)
    batch, channels, state, length, wide = 2, 4, 3, 5, 2 if complex_A else 1
    u, delta, z = torch.randn(3, batch, channels, length, dtype=torch.float64)
    D, bias = torch.randn(2, channels, dtype=torch.float64)
    A = -torch.rand(channels, state, dtype=torch.float64)
    A = torch.complex(A, torch.randn_like(A)) if complex_A else A
    if form == "constant":
        B, C = torch.randn(2, channels, state, dtype=A.dtype)
        full = [M[None, :, :, None].expand(batch, -1, -1, length) for M in (B, C)]
    else:
        groups = (2,) if form == "group" else ()
        B, C = torch.randn(2, batch, *groups, state, wide * length, dtype=torch.float64)
        full = [M.unflatten(-1, (length, 2)) for M in (B, C)] if complex_A else [B, C]
        full = [torch.view_as_complex(M) for M in full] if complex_A else full
        full = [M if groups else M[:, None] for M in full]
        full = [M.repeat_interleave(channels // M.shape[1], 1) for M in full]
    out, last = selective_scan_fn(u, delta, A, B, C, D, z, bias, True, True)
    expected_out, expected_last = in_its_layout(u, delta, A, *full, D, z, bias, True)
    torch.testing.assert_close(out, expected_out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, expected_last, rtol=1e-12, atol=1e-12)


def test_only_the_outputs_by_default():
    u = torch.ones(1, 1, 3)
    assert selective_scan_fn(u, u, -u[0, :, :1], u, u).shape == (1, 1, 3)


def test_signature_is_that_of_mamba_ssm():
    names = ["u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus"]
    names += ["return_last_state"]
    assert list(inspect.signature(selective_scan_fn).parameters) == names


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_tensor_is_named():
    u = torch.ones(1, 1, 3)
    with pytest.raises(
        TypeError, match=r"B must be a torch tensor; got a NumPy array: pass torch.f"
    ):
        selective_scan_fn(u, u, -u[0, :, :1], u.numpy(), u)


@pytest.mark.parametrize("form", ["step", "group"])
def test_half_precision_with_a_complex_A(form):
    torch.manual_seed(0)
    u, delta = torch.rand(2, 1, 4, 6, dtype=torch.bfloat16)
    A = torch.complex(-torch.rand(4, 3), torch.rand(4, 3))
    B, C = torch.randn(2, 1, *(2,) * (form == "group"), 3, 12, dtype=torch.bfloat16)
    out = selective_scan_fn(u, delta, A, B, C)
    truth = selective_scan_fn(*(v.double() for v in (u, delta)), A, B.double(), C.double())
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous()
    assert (out - truth).norm() < 5e-3 * truth.norm()
