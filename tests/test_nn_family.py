"""LRU, RetNet, RWKV and attention as layers, against the family in NumPy and transformers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers.models.rwkv import modeling_rwkv

from ssmlab import family, nn
from ssmlab.nn import rwkv, sequence

torch.set_num_threads(1)

LAYERS = {
    "LRU": lambda: nn.LRU(8, 6),
    "RetNet": lambda: nn.RetNet(8, heads=2, chunk=5),
    "RWKV": lambda: nn.RWKV(8),
    "Attention": lambda: nn.Attention(8, heads=2),
}
each_layer = pytest.mark.parametrize("name", LAYERS)
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def make(name, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return LAYERS[name]().to(dtype)


def noise(*shape, dtype=torch.float64, seed=1):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def run_by_steps(layer, x, state):
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1), state


def tensors(state):
    """List the tensors of a state."""
    return [state] if isinstance(state, torch.Tensor) else [t for s in state for t in tensors(s)]


# --- one map -------------------------------------------------------------------------------------


@each_layer
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", [1, 2, 9, 37])
@pytest.mark.parametrize("device", DEVICES)
def test_step_is_forward(name, dtype, length, device):
    layer = make(name, dtype).to(device)
    x = noise(2, length, 8, dtype=dtype).to(device)
    _, warm = layer(noise(2, 6, 8, dtype=dtype, seed=2).to(device), return_state=True)
    for start in (layer.initial_state(2), warm):
        y, end = run_by_steps(layer, x, start)
        other, other_end = layer(x, start, return_state=True)
        assert other.dtype == dtype
        assert_close(other, y, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        for a, b in zip(tensors(other_end), tensors(end), strict=True):
            assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert_close(layer(x), layer(x, layer.initial_state(2)), rtol=0, atol=0)


@each_layer
@settings(max_examples=10)
@given(cut=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_a_sequence_can_be_cut_anywhere(name, cut, seed):
    """So the first part does not read the second."""
    layer, x = make(name), noise(1, 13, 8, seed=seed)
    first, state = layer(x[:, :cut], return_state=True)
    second = layer(x[:, cut:], state)
    assert_close(torch.cat([first, second], 1), layer(x), rtol=1e-10, atol=1e-12)


@each_layer
def test_gradients_of_every_parameter_and_of_the_state(name):
    layer, x = make(name), noise(1, 7, 8)
    _, warm = layer(noise(1, 3, 8, seed=3), return_state=True)
    state = [t.detach().requires_grad_() for t in tensors(warm)]
    rebuilt = {
        "LRU": lambda s: s[0],
        "RetNet": lambda s: s[0],
        "RWKV": lambda s: rwkv.State(s[0], rwkv.Mean(s[1], s[2], warm.mean.maximum)),
        "Attention": lambda s: type(warm)(*s),
    }[name]
    parameters = [p for p in layer.parameters()]

    def loss(*inputs):
        values = dict(zip((n for n, _ in layer.named_parameters()), inputs[1:], strict=False))
        start = rebuilt(inputs[1 + len(parameters) :])
        return torch.func.functional_call(layer, values, (inputs[0], start))

    x = x.requires_grad_()
    states = state if name != "RWKV" else state[:3]
    torch.autograd.gradcheck(loss, (x, *parameters, *states), atol=1e-6, fast_mode=True)


@each_layer
def test_gradient_of_forward_is_that_of_the_steps(name):
    layer, x = make(name), noise(2, 11, 8)
    layer(x).square().sum().backward()
    ours = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    outputs, state = [], layer.initial_state(2)
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        outputs.append(y_t)
    torch.stack(outputs, 1).square().sum().backward()
    for a, p in zip(ours, layer.parameters(), strict=True):
        assert_close(a, p.grad, rtol=1e-9, atol=1e-11)


@each_layer
def test_parameters_survive_a_file(name):
    layer, x, file = make(name), noise(1, 5, 8), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = make(name, seed=9)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), layer(x))


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


@pytest.mark.parametrize("name", ["LRU", "RetNet", "RWKV"])
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


@pytest.mark.parametrize("mixer", ["lru", "retnet", "rwkv", "attention"])
def test_a_language_model_swaps_its_mixer_by_name(mixer):
    torch.manual_seed(0)
    model = nn.LanguageModel(vocabulary=7, channels=16, layers=2, mixer=mixer).double()
    tokens = torch.arange(9)[None] % 7
    logits, state = model(tokens, return_state=True)
    assert logits.shape == (1, 9, 7)
    more = torch.tensor([[3, 1]])
    longer = model(torch.cat([tokens, more], 1))[:, 9:]
    assert_close(model(more, state), longer, rtol=1e-9, atol=1e-11)


X = torch.ones(1, 5, 8)
BAD = {
    "heads must be at least 1": lambda: nn.RetNet(8, heads=0),
    "even multiple of heads; got 8 channels and 3 heads": lambda: nn.RetNet(8, heads=3),
    "even multiple of heads; got 6 channels and 2 heads": lambda: nn.Attention(6, heads=2),
    "channels must be a whole number": lambda: nn.RWKV(8.0),
    "chunk must be at least 1": lambda: nn.RetNet(8, chunk=0),
    "r_min and r_max must satisfy": lambda: nn.LRU(8, r_min=1.0),
    "x must have shape": lambda: nn.RWKV(8)(X[0]),
    "x must be torch.float32": lambda: nn.LRU(8)(X.double()),
    "x_t must have shape": lambda: nn.LRU(8).step(X, None),
    r"state must be complex128 of shape \(1, 64\); got a str": lambda: nn.LRU(8)(X, "state"),
    r"state must be float32 of shape \(1, 4, 2, 2\)": lambda: nn.RetNet(8)(X, X),
    r"state must be State\(float32": lambda: nn.RWKV(8)(X, (X, X)),
    "state must be a Cache": lambda: nn.Attention(8)(X, (X, X)),
    r"tensors of shape \(1, 4, past, 2\)": lambda: nn.Attention(8)(
        X, nn.Attention(8, heads=2).initial_state(1)
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
    assert sequence.describe(X) == "float32 of shape (1, 5, 8)"
