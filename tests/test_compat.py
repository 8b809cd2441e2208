"""mamba_ssm's signature: against a scan written here in its layout, and against its own order."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from transformers import MambaConfig, MambaModel

from ssmlab import compat, nn
from ssmlab.compat import selective_scan_fn


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


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
    parameters = inspect.signature(selective_scan_fn).parameters
    assert list(parameters) == [*names, "initial_state", "backend"]
    assert all(
        parameters[name].kind == inspect.Parameter.KEYWORD_ONLY for name in [*parameters][10:]
    )


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


def test_an_initial_state_goes_on():
    u, delta = torch.randn(2, 1, 3, 8, dtype=torch.float64).abs()
    A, B, C = -torch.rand(3, 2).double(), *torch.randn(2, 1, 2, 8, dtype=torch.float64)
    whole, last = compat.selective_scan_fn(u, delta, A, B, C, return_last_state=True)
    first, state = compat.selective_scan_fn(
        u[..., :5], delta[..., :5], A, B[..., :5], C[..., :5], return_last_state=True
    )
    rest, end = compat.selective_scan_ref(
        u[..., 5:],
        delta[..., 5:],
        A,
        B[..., 5:],
        C[..., 5:],
        return_last_state=True,
        initial_state=state,
    )
    torch.testing.assert_close(torch.cat([first, rest], -1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end, last, rtol=1e-12, atol=1e-12)


# --- the convolution -----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution_is_that_of_torch(activation, bias):
    x, weight = torch.randn(2, 3, 7), torch.randn(3, 4)
    b = torch.randn(3) if bias else None
    right = F.conv1d(F.pad(x, (3, 0)), weight[:, None], b, groups=3)
    right = F.silu(right) if activation else right
    out = compat.causal_conv1d_fn(x, weight, b, activation=activation)
    torch.testing.assert_close(out, right, rtol=1e-5, atol=1e-6)
    head, state = compat.causal_conv1d_fn(
        x[..., :2], weight, b, return_final_states=True, activation=activation
    )
    tail = compat.causal_conv1d_fn(
        x[..., 2:], weight, b, initial_states=state, activation=activation
    )
    torch.testing.assert_close(torch.cat([head, tail], -1), right, rtol=1e-5, atol=1e-6)


def test_convolution_of_packed_sequences():
    x, weight, b = torch.randn(1, 3, 9), torch.randn(3, 4), torch.randn(3)
    idx = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 2, 2]])
    alone = [compat.causal_conv1d_fn(one, weight, b) for one in x.split([2, 5, 2], -1)]
    torch.testing.assert_close(
        compat.causal_conv1d_fn(x, weight, b, seq_idx=idx), torch.cat(alone, -1)
    )
    for states in ({"return_final_states": True}, {"initial_states": torch.zeros(1, 3, 3)}):
        (name,) = states
        with pytest.raises(ValueError, match=f"{name} must be left out with seq_idx"):
            compat.causal_conv1d_fn(x, weight, b, seq_idx=idx, **states)


@pytest.mark.parametrize("kept", [3, 4, 6])
def test_update_is_the_convolution(kept):
    x, weight, b = torch.randn(2, 3, 9), torch.randn(3, 4), torch.randn(3)
    right = compat.causal_conv1d_fn(x, weight, b, activation="silu")
    state = torch.zeros(2, 3, kept)
    outs = [compat.causal_conv1d_update(x[..., t], state, weight, b, "silu") for t in range(6)]
    outs = [*torch.stack(outs, -1).split(6, -1)]
    outs += [compat.causal_conv1d_update(x[..., 6:], state, weight, b, "silu")]
    torch.testing.assert_close(torch.cat(outs, -1), right, rtol=1e-5, atol=1e-6)
    assert torch.equal(state, x[..., -kept:])


def test_update_in_a_ring_is_the_convolution():
    """Sequences that are at different places, in rows of a larger cache."""
    x, weight, b = torch.randn(2, 3, 12), torch.randn(3, 4), torch.randn(3)
    right = compat.causal_conv1d_fn(x, weight, b)
    ring, rows = torch.zeros(4, 3, 5), torch.tensor([3, 1])
    had = torch.tensor([0, 0])
    for step in (1, 3, 1, 2, 5):
        new = x[..., had[0] : had[0] + step]
        out = compat.causal_conv1d_update(
            new, ring, weight, b, cache_seqlens=had, conv_state_indices=rows
        )
        torch.testing.assert_close(out, right[..., had[0] : had[0] + step], rtol=1e-5, atol=1e-6)
        had += step
    assert torch.equal(ring[rows], x[..., [10, 11, 7, 8, 9]])
    assert not ring[[0, 2]].any()


@pytest.mark.usefixtures("unchecked")
def test_bad_convolutions_are_refused_in_a_sentence():
    x, weight = torch.ones(1, 3, 5), torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"activation must be one of .*silu.*; got 'relu'"):
        compat.causal_conv1d_fn(x, weight, activation="relu")
    with pytest.raises(ValueError, match="conv_state must keep at least the 3 samples before x"):
        compat.causal_conv1d_update(x[..., 0], torch.zeros(1, 3, 2), weight)


# --- the block -----------------------------------------------------------------------------------


def test_block_is_that_of_transformers():
    config = MambaConfig(hidden_size=8, state_size=5, num_hidden_layers=1, vocab_size=4)
    torch.manual_seed(0)
    mixer = MambaModel(config).layers[0].mixer.double()
    ours = compat.Mamba(d_model=8, d_state=5).double()
    ours.load_state_dict(mixer.state_dict())
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(ours(x), mixer(x), rtol=1e-6, atol=1e-8)  # A is float32 there too


def test_block_with_a_cache_is_the_block_without():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 8)
    block = compat.Mamba(8, d_conv=3, dt_init="constant", conv_bias=False, bias=True, layer_idx=1)
    right = block(x)
    for prompt in (1, 2, 6):
        cache = compat.InferenceParams(max_seqlen=9, max_batch_size=2)
        outs = [block(x[:, :prompt], cache)]
        for t in range(prompt, 9):
            cache.seqlen_offset = t
            outs.append(block(x[:, t : t + 1], cache))
        torch.testing.assert_close(torch.cat(outs, 1), right, rtol=1e-5, atol=1e-6)
    conv, ssm = block.allocate_inference_cache(2, 9)
    assert [v.shape for v in (conv, ssm)] == [(2, 16, 3), (2, 16, 16)]
    cache.reset(9, 2)
    assert cache.seqlen_offset == 0


def test_start_is_that_of_the_library():
    torch.manual_seed(0)
    block = compat.Mamba(64)
    dt = F.softplus(block.dt_proj.bias)
    assert 0.001 <= dt.min() < 0.002 < 0.05 < dt.max() <= 0.1 + 1e-6
    assert torch.equal(block.A_log[3], torch.arange(1.0, 17).log())
    assert 0.45 < block.dt_proj.weight.abs().max() <= 0.5  # one through the root of dt_rank = 4
    assert {*block.state_dict()} == {*nn.Mamba(64).state_dict()}


@pytest.mark.usefixtures("unchecked")
def test_bad_calls_of_a_block_are_refused_in_a_sentence():
    block, cache = compat.Mamba(4), compat.InferenceParams(3, 1)
    with pytest.raises(ValueError, match="layer_idx must say where in the cache"):
        block(torch.ones(1, 1, 4), cache)
    with pytest.raises(ValueError, match="hidden_states must hold one token of each text; got le"):
        block.step(torch.ones(1, 2, 4), *block.allocate_inference_cache(1, 3))
    with pytest.raises(ValueError, match="dt_init must be one of"):
        compat.Mamba(4, dt_init="ones")


# --- standing in ---------------------------------------------------------------------------------

IMPORTS = """
import warnings
warnings.simplefilter("always")
import ssmlab.compat
print(ssmlab.compat.install(), ssmlab.compat.install())
import mamba_ssm
from mamba_ssm import Mamba
from mamba_ssm.modules.mamba_simple import Mamba
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn, mamba_inner_fn
from mamba_ssm.utils.generation import InferenceParams
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
print(Mamba.__module__)
"""


def imports(folder) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", IMPORTS], cwd=folder, capture_output=True, text=True, check=False
    )


def test_imports_find_it_where_the_real_one_is_missing(tmp_path):
    done = imports(tmp_path)
    assert done.stdout.splitlines() == ["['mamba_ssm', 'causal_conv1d'] []", "ssmlab.compat.mamba"]
    assert done.stderr.count("mamba_ssm is not installed: ssmlab.compat stands in for it") == 1


def test_the_real_one_is_never_shadowed(tmp_path):
    (tmp_path / "mamba_ssm.py").write_text("Mamba = 'real'\n")
    done = imports(tmp_path)
    assert done.stdout.splitlines() == ["['causal_conv1d'] []"]
    assert "'mamba_ssm' is not a package" in done.stderr
