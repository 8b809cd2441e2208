"""Mamba's block and S6: the equations written out in NumPy, initialisation, last states."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from layer_cases import make, noise
from scipy.special import expit
from torch.testing import assert_close

from ssmlab import nn, selective
from ssmlab.nn.mamba import causal_convolution
from ssmlab.nn.s6 import SELECTIVE

# --- the equations -------------------------------------------------------------------------------


def silu(v: np.ndarray) -> np.ndarray:
    return v * expit(v)


def written_out(layer: nn.Mamba, x: np.ndarray) -> np.ndarray:
    """Follow the block line by line, in NumPy, for a batch of one."""
    p = {name: v.detach().numpy() for name, v in layer.named_parameters()}
    u, z = np.split(x @ p["in_proj.weight"].T, 2, axis=1)
    taps = p["conv1d.weight"][:, 0, ::-1].T
    u = np.stack([np.convolve(a, w)[: len(x)] for a, w in zip(u.T, taps.T, strict=True)], 1)
    u = silu(u + p["conv1d.bias"])
    r, B, C = np.split(u @ p["x_proj.weight"].T, [layer.dt_rank, layer.dt_rank + layer.state], 1)
    dt = np.logaddexp(0, r @ p["dt_proj.weight"].T + p["dt_proj.bias"])
    y, _ = selective.selective_scan(
        u[None], dt[None], -np.exp(p["A_log"]), B[None], C[None], p["D"]
    )
    return (y[0] * silu(z)) @ p["out_proj.weight"].T


@pytest.mark.parametrize("name", ["mixer mamba", "Mamba, one tap"])
@pytest.mark.parametrize("length", [1, 2, 33])
def test_the_block_is_the_equations(name, length):
    layer, x = make(name), noise(1, length, 8)
    expected = torch.tensor(written_out(layer, x[0].numpy()))
    assert_close(layer(x)[0].detach(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("chosen", [c for n in range(4) for c in combinations(SELECTIVE, n)])
def test_s6_is_the_selective_scan_of_numpy(chosen):
    torch.manual_seed(0)
    layer = nn.S6(8, 5, selective=chosen, dt_rank=2).double()
    x, h0 = noise(2, 13, 8), noise(2, 8, 5, seed=2)
    y, h = layer(x, h0, return_state=True)
    x, h0 = x.numpy(), h0.numpy()
    p = {key: v.detach().numpy() for key, v in layer.named_parameters()}
    B, C = (x @ p[f"{key}.weight"].T if key in layer.selective else p[key] for key in ("B", "C"))
    W = p["dt.1.weight"] @ p["dt.0.weight"] if "dt" in layer.selective else np.zeros((8, 8))
    dt = np.logaddexp(0, x @ W.T + p["dt_bias"])
    expected = selective.selective_scan(x, dt, -np.exp(p["A_log"]), B, C, p["D"], h0=h0)
    for ours, theirs in zip((y, h), expected, strict=True):
        np.testing.assert_allclose(ours.detach(), theirs, rtol=1e-11, atol=1e-13)


def test_s6_starts_as_mamba_does():
    torch.manual_seed(0)
    layer = nn.S6(512, 8, selective=["C"])
    dt = torch.nn.functional.softplus(layer.dt_bias)
    assert 0.001 <= dt.min() < 0.0011
    assert 0.09 < dt.max() <= 0.1 + 1e-6
    assert_close(layer.A_log.exp()[3], torch.arange(1.0, 9))
    assert bool((layer.D == 1).all())
    assert bool((layer.B == 1).all())
    assert layer.C.weight.shape == (8, 512)
    assert nn.S6(512).dt[0].weight.shape == (16, 512)
    with pytest.raises(ValueError, match="selective must be one of 'dt', 'B', 'C'; got 'A'"):
        nn.S6(8, selective=("A",))


def test_the_convolution_is_torchs():
    x, w, b = noise(2, 9, 3), noise(3, 4, seed=2), noise(3, seed=3)
    y, past = causal_convolution(x, w, b, torch.zeros(2, 3, 3, dtype=x.dtype))
    theirs = torch.conv1d(x.mT, w[:, None], b, padding=3, groups=3)[..., :9].mT
    assert_close(y, theirs, rtol=1e-14, atol=1e-14)
    assert_close(past, x[:, -3:])
    assert past._base is None  # no view of the sequence: it would stay in memory


def test_a_bfloat16_block_keeps_its_state_in_float32():
    layer, x = make("mixer mamba", torch.bfloat16), noise(2, 9, 8, dtype=torch.bfloat16)
    y, state = layer(x, return_state=True)
    assert y.dtype == torch.bfloat16
    assert state.layer.dtype == torch.float32
    assert layer.initial_state(2).layer.dtype == torch.float32
    y_t, _ = layer.step(x[:, 0], layer.initial_state(2))
    assert_close(y_t, y[:, 0])


# --- initialisation ------------------------------------------------------------------------------


def test_initialisation_as_published():
    torch.manual_seed(0)
    layer = nn.Mamba(512, 16)
    dt = torch.nn.functional.softplus(layer.dt_proj.bias)
    assert 0.001 <= dt.min() < 0.0011
    assert 0.09 < dt.max() <= 0.1 + 1e-6
    share_below = (dt < 0.01).double().mean().item()
    assert abs(share_below - 0.5) < 0.05  # 0.01 is the middle in logarithms
    assert_close(layer.A_log.exp()[3], torch.arange(1.0, 17))
    assert bool((layer.D == 1).all())
    assert layer.dt_rank == 32
    bound = 32**-0.5
    assert 0.99 * bound < layer.dt_proj.weight.abs().max() <= bound
    assert nn.Mamba(768, 16).dt_rank == 48
    assert nn.Mamba(17).dt_rank == 2


def test_parameters_of_a_block():
    d, state, rank = 768, 16, 48
    inner = 2 * d
    count = sum(p.numel() for p in nn.Mamba(d, state).parameters())
    projections = d * 2 * inner + inner * d
    rest = 5 * inner + inner * (rank + 2 * state) + rank * inner + inner + inner * state + inner
    assert count == projections + rest == 3_770_880


# --- the last state of S4 and S4D ----------------------------------------------------------------


@pytest.mark.parametrize("make_layer", [nn.S4, nn.S4D])
@pytest.mark.parametrize("length", [1, 3, 4, 50])
@pytest.mark.parametrize("rate", [1.0, 2.0])
def test_last_state_of_a_convolution(make_layer, length, rate):
    torch.manual_seed(0)
    layer = make_layer(3, 8).double()
    x = noise(2, length, 3).requires_grad_()
    start = noise(2, 3, 4, 2, seed=5)
    start = torch.view_as_complex(start)
    for state in (None, start):
        y, last = layer(x, state, rate=rate, return_state=True)
        assert_close(y, layer(x, state, rate=rate))
        expected = layer.initial_state(2) if state is None else state
        for x_t in x.unbind(1):
            _, expected = layer.step(x_t, expected, rate=rate)
        assert_close(last, expected, rtol=1e-11, atol=1e-13)
        ours, theirs = (torch.autograd.grad(s.abs().sum(), x)[0] for s in (last, expected))
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_bidirectional_layer_has_no_last_state():
    layer = nn.S4D(2, 4, bidirectional=True)
    with pytest.raises(ValueError, match="bidirectional layers read the future"):
        layer(torch.zeros(1, 5, 2), return_state=True)


# --- wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be at least 1; got 0"),
        ({"state": 0}, "state must be at least 1; got 0"),
        ({"conv": 0}, "conv must be at least 1; got 0"),
        ({"expand": 0}, "expand must be at least 1; got 0"),
        ({"dt_rank": 0}, "dt_rank must be at least 1; got 0"),
        ({"dt_min": 0.0}, "dt_min and dt_max must be positive and in this order; got 0.0 and 0.1"),
        ({"dt_min": 1.0}, "got 1.0 and 0.1"),
        ({"dt_max": math.inf}, "dt_max must be finite"),
    ],
)
def test_wrong_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        nn.Mamba(**{"channels": 4} | options)


def test_it_says_what_it_is():
    assert repr(nn.Mamba(4, 5)).startswith("Mamba(\n  channels=4, state=5, dt_rank=1")
