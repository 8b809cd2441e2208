"""The matrix memory as a layer: against the NumPy family, its own forms, and plain autograd."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from ssmlab import family
from ssmlab.nn import MIXERS, LanguageModel, LinearAttention
from ssmlab.nn.linear_attention import DECAYS

torch.set_num_threads(1)
KINDS = list(itertools.product(DECAYS, (False, True)))
each_kind = pytest.mark.parametrize(("decay", "delta"), KINDS)


def make(decay, delta, **options):
    torch.manual_seed(0)
    return LinearAttention(6, heads=3, decay=decay, delta=delta, **options).double()


def signal(length, batch=2, channels=6):
    return torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(1)).double()


def in_numpy(layer, x, state):
    """Write the layer out: projections, the family's recurrence, norm and gate."""
    weights = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    x = x.numpy()
    heads, size = layer.heads, layer.size

    def split(part):
        return part.reshape(*part.shape[:2], heads, size).transpose(0, 2, 1, 3)

    *qkv, g = np.split(x @ weights["in_proj.weight"].T, 4, axis=-1)
    q, k, v = map(split, qkv)
    q, k = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (q, k))

    def gate(name):
        z = x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
        return (1 / (1 + np.exp(-z))).transpose(0, 2, 1)

    decay = {
        "none": lambda: 1.0,
        "fixed": lambda: (1 - 2.0 ** (-5 - np.arange(heads)))[:, None, None],
        "gated": lambda: gate("gate")[..., None],
    }[layer.decay]()
    beta = gate("beta")
    if layer.delta:
        memory = family.MatrixState(q, k, decay, beta=beta)
    else:
        memory = family.MatrixState(q, beta[..., None] * k, decay)
    y, state = memory.recurrence(v, state)
    y = y / np.sqrt(np.mean(y**2, -1, keepdims=True) + 1e-5)
    y = y.transpose(0, 2, 1, 3).reshape(x.shape)
    return (family.swish(g) * y) @ weights["out_proj.weight"].T, state


@each_kind
@pytest.mark.parametrize("length", [1, 2, 7, 65])
def test_against_the_family(decay, delta, length):
    layer, x = make(decay, delta, chunk=16), signal(length)
    start = 0.3 * np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    y, state = layer(x, torch.tensor(start), return_state=True)
    expected, after = in_numpy(layer, x, start)
    assert_allclose(y.detach(), expected, rtol=1e-10, atol=1e-12)
    assert_allclose(state.detach(), after, rtol=1e-10, atol=1e-12)


@each_kind
def test_gradients_do_not_depend_on_the_chunk(decay, delta):
    """With chunks of 1 autograd goes through the plain recurrence."""
    found = []
    for chunk in (1, 8):
        layer, x = make(decay, delta, chunk=chunk), signal(20).requires_grad_()
        (layer(x) ** 2).sum().backward()
        found.append([x.grad, *(p.grad for p in layer.parameters())])
    for one, other in zip(*found, strict=True):
        assert_allclose(one, other, rtol=1e-8, atol=1e-10)


@each_kind
def test_float32_stays_close_over_a_long_sequence(decay, delta):
    x = signal(1000)
    single = make(decay, delta).float()(x.float())
    assert_allclose(single.detach(), make(decay, delta)(x).detach(), atol=2e-4)


def test_the_gate_starts_at_the_decays_of_retnet():
    layer = make("gated", delta=False)
    with torch.no_grad():
        layer.gate.weight.zero_()
        start = torch.exp(layer._log_decay(signal(1)))[0, :, 0]
    n = 2.0 ** (5 + np.arange(3))
    assert_allclose(start, n / (n + 1), rtol=1e-7)  # the bias was set in float32
    assert_allclose(start, family.retention_decays(3), atol=1e-3)


def test_a_language_model_by_name():
    torch.manual_seed(0)
    model = LanguageModel(5, 8, 2, mixer="linear_attention", heads=2, decay="gated", delta=True)
    assert isinstance(model.layers[0].mixer, LinearAttention)
    assert MIXERS["linear_attention"] is LinearAttention
    assert "decay='gated', delta=True" in repr(model)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="decay must be one of 'none', 'fixed', 'gated'"):
        LinearAttention(8, decay="exponential")
    with pytest.raises(ValueError, match="channels must be an even multiple of heads"):
        LinearAttention(8, heads=3)
    with pytest.raises(ValueError, match="state must be float32 of shape"):
        LinearAttention(8)(torch.zeros(1, 2, 8), torch.zeros(1, 4, 2, 3))
