"""Mamba's block: the equations written out, step = forward, initialisation, other layers inside."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch.testing import assert_close

from ssmlab import nn, selective
from ssmlab.nn.mamba import BlockState, causal_convolution

torch.set_num_threads(1)

LAYERS = {
    "Mamba": lambda: nn.Mamba(4, 5, conv=3, dt_rank=2),
    "Mamba, one tap": lambda: nn.Mamba(4, 5, conv=1, expand=1),
    "S4D inside": lambda: nn.Gated(4, lambda inner: nn.S4D(inner, 8)),
    "S4 inside": lambda: nn.Gated(4, lambda inner: nn.S4(inner, 8)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def make(name: str, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    return LAYERS[name]().to(dtype)


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def leaves(state) -> list[torch.Tensor]:
    return [state] if isinstance(state, torch.Tensor) else [v for s in state for v in leaves(s)]


@torch.no_grad()
def run_by_steps(layer, x, state):
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1), state


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


@pytest.mark.parametrize("name", ["Mamba", "Mamba, one tap"])
@pytest.mark.parametrize("length", [1, 2, 33])
def test_the_block_is_the_equations(name, length):
    layer, x = make(name), noise(1, length, 4)
    expected = torch.tensor(written_out(layer, x[0].numpy()))
    assert_close(layer(x)[0].detach(), expected, rtol=1e-12, atol=1e-13)


def test_the_convolution_is_torchs():
    x, w, b = noise(2, 9, 3), noise(3, 4, seed=2), noise(3, seed=3)
    y, past = causal_convolution(x, w, b, torch.zeros(2, 3, 3, dtype=x.dtype))
    theirs = torch.conv1d(x.mT, w[:, None], b, padding=3, groups=3)[..., :9].mT
    assert_close(y, theirs, rtol=1e-14, atol=1e-14)
    assert_close(past, x[:, -3:])
    assert past._base is None  # no view of the sequence: it would stay in memory


# --- one map -------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", [1, 2, 37])
def test_step_is_forward(name, dtype, length):
    layer, x = make(name, dtype), noise(3, length, 4, dtype=dtype)
    with torch.no_grad():
        y, state = layer(x, return_state=True)
        assert_close(layer(x), y)
    y_steps, state_steps = run_by_steps(layer, x, layer.initial_state(3))
    scale = TOLERANCE[dtype]
    assert_close(y_steps, y, rtol=scale, atol=scale)
    for mine, other in zip(leaves(state_steps), leaves(state), strict=True):
        assert_close(mine, other, rtol=scale, atol=scale)


@every_layer
@torch.no_grad()
def test_split_anywhere(name):
    layer, x = make(name), noise(2, 13, 4)
    y = layer(x)
    for cut in range(1, 13):
        first, state = layer(x[:, :cut], return_state=True)
        second, _ = layer(x[:, cut:], state, return_state=True)
        assert_close(torch.cat([first, second], 1), y, rtol=1e-12, atol=1e-12)
        rest, _ = run_by_steps(layer, x[:, cut:], state)
        assert_close(rest, y[:, cut:], rtol=1e-12, atol=1e-12)


@every_layer
@torch.no_grad()
def test_the_future_is_not_read(name):
    layer, x = make(name), noise(1, 20, 4)
    changed = x.clone()
    changed[:, 12:] += 1
    before, after = layer(x), layer(changed)
    assert_close(after[:, :12], before[:, :12], rtol=1e-12, atol=1e-14)
    assert (after[:, 12:] - before[:, 12:]).abs().min() > 0


@every_layer
def test_gradients(name):
    layer, x = make(name), noise(1, 6, 4).requires_grad_()
    state = layer.initial_state(1)

    def run(x, *parameters):
        y, last = torch.func.functional_call(
            layer, dict(zip(names, parameters, strict=True)), (x, state), {"return_state": True}
        )
        return y, *(torch.view_as_real(v) if v.is_complex() else v for v in leaves(last))

    names = [n for n, _ in layer.named_parameters()]
    assert torch.autograd.gradcheck(run, (x, *layer.parameters()), fast_mode=True)


def test_a_bfloat16_block_keeps_its_state_in_float32():
    layer, x = make("Mamba", torch.bfloat16), noise(2, 9, 4, dtype=torch.bfloat16)
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


@pytest.mark.usefixtures("unchecked")
@every_layer
def test_wrong_input(name):
    layer = make(name)
    state, x = layer.initial_state(2), noise(2, 5, 4)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, length, 4\)"):
        layer(x[0])
    with pytest.raises(ValueError, match=r"x_t must have shape \(batch, 4\)"):
        layer.step(x, state)
    with pytest.raises(TypeError, match=r"x must be torch.float64.*got torch.float32"):
        layer(x.float())
    with pytest.raises(ValueError, match=r"state must be a BlockState.*got a tuple: start with"):
        layer(x, tuple(state))
    with pytest.raises(ValueError, match=r"whose conv has shape \(3, .*initial_state\(3\)"):
        layer(noise(3, 5, 4), state)
    with pytest.raises(ValueError, match=r"h0 must have shape|state must be complex, of shape"):
        layer(x, BlockState(state.conv, state.layer[:1]))


def test_it_says_what_it_is():
    assert repr(nn.Mamba(4, 5)).startswith("Mamba(\n  channels=4, state=5, dt_rank=1")
