"""LRU, RetNet, RWKV and attention as layers, against the family in NumPy and transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layer_cases import TOLERANCE, make, noise
from torch.testing import assert_close
from transformers.models.rwkv import modeling_rwkv

from ssmlab import family, nn
from ssmlab.nn import rwkv
from ssmlab.nn.layer import describe

# --- against the family in NumPy -----------------------------------------------------------------


def test_lru_is_that_of_the_family():
    layer, x = make("LRU"), noise(1, 40, 8)
    p = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    model = family.LRU(p["nu"], p["theta"], p["B"] @ [1, 1j], p["C"] @ [1, 1j], p["D"])
    np.testing.assert_allclose(np.exp(p["gamma_log"]), model.gamma, rtol=1e-6)  # drawn in float32
    layer.gamma_log.data = torch.log(torch.tensor(model.gamma))
    y, state = layer(x, return_state=True)
    expected, last = model.recurrence(x[0].numpy())
    np.testing.assert_allclose(y[0].detach(), expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(state[0].detach(), last, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1000])
def test_retnet_is_that_of_the_family(chunk):
    torch.manual_seed(0)
    layer, x = nn.RetNet(12, heads=3, chunk=chunk).double(), noise(1, 100, 12)
    projected = (layer.in_proj.weight @ x[0].mT).detach().numpy().reshape(4, 3, 4, 100)
    q, k, v, g = np.moveaxis(projected, -1, -2)
    heads, _ = family.retention(q, k, family.retention_decays(3)).recurrence(v)
    y = family.swish(g) * family.head_norm(heads)
    y = np.moveaxis(y, 0, 1).reshape(100, 12) @ layer.out_proj.weight.detach().numpy().T
    np.testing.assert_allclose(layer(x)[0].detach(), y, rtol=1e-10, atol=1e-13)


def test_attention_is_that_of_the_family():
    layer, x = make("Attention"), noise(1, 20, 8)
    projected = (layer.in_proj.weight @ x[0].mT).detach().numpy().reshape(3, 2, 2, 2, 20)
    z = projected[:, :, :, 0] + 1j * projected[:, :, :, 1]
    z[:2] *= np.exp(1j * np.outer(10000.0 ** -np.array([0, 0.5]), np.arange(20)))
    q, k, v = np.stack([z.real, z.imag], 3).reshape(3, 2, 4, 20).swapaxes(-1, -2)
    y, _ = family.Attention(q, k).recurrence(v)
    y = np.moveaxis(y, 0, 1).reshape(20, 8) @ layer.out_proj.weight.detach().numpy().T
    np.testing.assert_allclose(layer(x)[0].detach(), y, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("length", [1, 2, 16, 17, 100])
def test_weighted_mean_is_that_of_the_family(length):
    k, v = noise(2, length, 4) * 5, noise(2, length, 4, seed=2)
    w, u = noise(4, seed=3).exp(), noise(4, seed=4)
    model = family.RWKV4(k, w, u)
    for start in (model.initial_state(4), model.recurrence(v)[1]):
        state = rwkv.Mean(*map(torch.tensor, start))
        y, end = rwkv.weighted_mean(k, v, w, u, state)
        expected, last = model.recurrence(v, start)
        np.testing.assert_allclose(y, expected, rtol=1e-11, atol=1e-13)
        for ours, theirs in zip(end, last, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


def test_rwkv_is_that_of_transformers():
    torch.manual_seed(0)
    config = modeling_rwkv.RwkvConfig(hidden_size=8, num_hidden_layers=1, attention_hidden_size=8)
    theirs, ours = modeling_rwkv.RwkvSelfAttention(config).double(), nn.RWKV(8).double()
    with torch.no_grad():
        theirs.time_decay.copy_(ours.decay)
        theirs.time_first.copy_(ours.bonus)
        for mix, name in zip(ours.mix, ("key", "value", "receptance"), strict=True):
            getattr(theirs, f"time_mix_{name}").copy_(mix)
            getattr(theirs, name).weight.copy_(getattr(ours, name).weight)
        theirs.output.weight.copy_(ours.out_proj.weight)
    x = noise(2, 30, 8)
    assert_close(ours(x), theirs(x)[0], rtol=1e-5, atol=1e-6)  # it computes in float32


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rwkv_survives_keys_of_200_where_the_plain_sum_does_not(dtype):
    signs = noise(1, 50, 4).sign()
    k, v = (200 * signs).to(dtype), noise(1, 50, 4, dtype=dtype, seed=2)
    k.requires_grad_()
    w, u, zero = torch.full((4,), 0.1, dtype=dtype), torch.zeros(4, dtype=dtype), v.new_zeros(1, 4)
    y, _ = rwkv.weighted_mean(k, v, w, u, rwkv.Mean(zero, zero, zero + rwkv.LOWEST))
    expected, _ = family.RWKV4(k.detach(), w, u).parallel(v)
    tolerance = {torch.float32: 1e-3, torch.float64: 1e-11}[dtype]  # eps * 200 * 50, in an exponent
    np.testing.assert_allclose(y.detach(), expected, rtol=0, atol=tolerance)
    y.sum().backward()
    assert torch.isfinite(k.grad).all()
    plain = torch.cumsum(k.float().exp() * v, 1) / torch.cumsum(k.float().exp(), 1)
    assert not torch.isfinite(plain).all()


@pytest.mark.parametrize("name", ["LRU", "RetNet", "mixer rwkv"])
def test_training_keeps_memory_linear_in_the_length(name):
    """What autograd saves for 1024 samples is at most 4.4 times that for 256."""

    def saved(length):
        storages = {}  # held, so that none is freed and its address counted for another

        def note(tensor):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            y = make(name)(noise(1, length, 8))
        assert y.requires_grad
        return sum(storage.nbytes() for storage in storages.values())

    assert saved(1024) <= 4.4 * saved(256)


# --- initialisation, names, errors ---------------------------------------------------------------


def test_initial_values_are_the_published_ones():
    torch.manual_seed(0)
    lru = nn.LRU(4, 5000, r_min=0.6, r_max=0.8, max_phase=0.5)
    radius = torch.exp(-lru.nu.exp())
    assert radius.min() > 0.6 - 1e-6
    assert radius.max() < 0.8 + 1e-6
    assert abs((radius < 0.7071).double().mean() - 0.5) < 0.03
    assert lru.theta.exp().max() < 0.5 + 1e-6
    assert_close(lru.gamma_log.exp() ** 2, 1 - radius**2, rtol=1e-5, atol=1e-6)
    layer = nn.RWKV(9)
    assert_close(layer.decay[[0, -1]], torch.tensor([-5.0, 3.0]))
    assert_close(layer.bonus[:3] - np.log(0.3), torch.tensor([0.0, 0.5, -0.5]))
    bound = 2**-2.5 * (6 / 16) ** 0.5
    weight = nn.RetNet(8, heads=2).in_proj.weight
    assert 0.9 * bound < weight.abs().max() <= bound


def test_lru_is_linear_and_time_invariant():
    layer, x = make("LRU"), noise(1, 12, 8)
    assert_close(layer(3 * x), 3 * layer(x), rtol=1e-10, atol=1e-12)
    late = torch.nn.functional.pad(x, (0, 0, 4, 0))
    assert_close(layer(late)[:, 4:], layer(x), rtol=1e-10, atol=1e-12)


X = torch.ones(1, 5, 8)
BAD = {
    "heads must be at least 1": lambda: nn.RetNet(8, heads=0),
    "even multiple of heads; got 8 channels and 3 heads": lambda: nn.RetNet(8, heads=3),
    "even multiple of heads; got 6 channels and 2 heads": lambda: nn.Attention(6, heads=2),
    "channels must be a whole number": lambda: nn.RWKV(8.0),
    "chunk must be at least 1": lambda: nn.RetNet(8, chunk=0),
    "r_min and r_max must satisfy": lambda: nn.LRU(8, r_min=1.0),
    "max_phase must be positive; got -1": lambda: nn.LRU(8, max_phase=-1.0),
    r"state must be complex128 of shape \(1, 64\); got a str": lambda: nn.LRU(8)(X, "state"),
    r"state must be float32 of shape \(1, 4, 2, 2\)": lambda: nn.RetNet(8)(X, X),
    r"state must be State\(float32": lambda: nn.RWKV(8)(X, (X, X)),
    r"state must be Cache\(float32 of shape \(1, 4, 0, 2\).*got tuple": lambda: nn.Attention(8)(
        X, (X, X)
    ),
    r"Cache\(float32 of shape \(1, 4, 0, 2\), .*past of any length; got Cache": lambda: (
        nn.Attention(8)(X, nn.Attention(8, heads=2).initial_state(1))
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_say_what_is_wrong(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message]()


def test_layers_say_their_sizes():
    assert str(make("RetNet")).startswith("RetNet(\n  channels=8, heads=2, chunk=5")
    assert "channels=8, state=6" in str(make("LRU"))
    assert describe(X) == "float32 of shape (1, 5, 8)"
