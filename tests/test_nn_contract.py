"""What every layer promises: one map in two forms, cut anywhere, from the past only, learnable."""

from __future__ import annotations

import io

import pytest
import torch
from layer_cases import CHANNELS, DEVICES, LAYERS, TOLERANCE, by_steps, leaves, make, noise, rebuilt
from torch.nn.modules.module import register_module_forward_hook
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from ssmlab import nn
from ssmlab.nn import rwkv
from ssmlab.nn.attention import Cache
from ssmlab.nn.layer import describe

every_layer = pytest.mark.parametrize("name", LAYERS)


# --- one map -------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("length", [1, 2, 13])
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_step_is_forward(name, dtype, length, device):
    """From the start and from a state in the middle, outputs and last states."""
    layer = make(name, dtype).to(device)
    x = noise(2, length, CHANNELS, dtype=dtype).to(device)
    _, warm = layer(noise(2, 6, CHANNELS, dtype=dtype, seed=2).to(device), return_state=True)
    for start in (layer.initial_state(2), warm):
        y, end = layer(x, start, return_state=True)
        steps, end_of_steps = by_steps(layer, x, start)
        assert y.dtype == dtype
        assert describe(end) == describe(end_of_steps)
        for a, b in zip([y, *leaves(end)], [steps, *leaves(end_of_steps)], strict=True):
            assert_close(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@every_layer
@torch.no_grad()
def test_a_sequence_can_be_cut_anywhere(name):
    layer, x = make(name), noise(2, 9, CHANNELS)
    y = layer(x)
    for cut in range(1, 9):
        first, state = layer(x[:, :cut], return_state=True)
        assert_close(torch.cat([first, layer(x[:, cut:], state)], 1), y, rtol=1e-10, atol=1e-12)


@every_layer
def test_no_output_depends_on_the_future(name):
    layer, x = make(name), noise(1, 12, CHANNELS).requires_grad_()
    layer(x)[0, 7].sum().backward()
    assert x.grad[0, :8].abs().amax(-1).min() > 0
    assert x.grad[0, 8:].abs().max() < 1e-12


@every_layer
@torch.no_grad()
def test_a_state_that_nobody_asked_for_changes_nothing_and_costs_nothing(name):
    layer, x = make(name), noise(1, 9, CHANNELS)
    with FlopCounterMode(display=False) as without:
        y = layer(x)
    with FlopCounterMode(display=False) as with_state:
        same, state = layer(x, return_state=True)
    assert torch.equal(y, same)
    assert_close(layer(x, layer.initial_state(1)), y, rtol=1e-12, atol=1e-14)
    more = with_state.get_total_flops() - without.get_total_flops()
    matrices = name.startswith(("S4", "RetNet", "LinearAttention"))
    assert more > 0 if matrices else more >= 0
    if not isinstance(layer, nn.Attention):
        assert describe(state) == describe(layer.initial_state(1))


# --- gradients -----------------------------------------------------------------------------------


@every_layer
def test_gradients_of_the_input_every_parameter_and_the_state(name):
    layer, x = make(name), noise(1, 7, CHANNELS).requires_grad_()
    _, warm = layer(noise(1, 3, CHANNELS, seed=3), return_state=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    state = [v.detach().requires_grad_() for v in leaves(warm)]
    scaled = isinstance(warm, rwkv.State)  # by a maximum that gets no gradient: the mean needs none
    free = state[:3] if scaled else state

    def run(x, *values):
        given = dict(zip(names, values, strict=False))
        start = rebuilt(warm, iter([*values[len(names) :], *state[len(free) :]]))
        y, end = torch.func.functional_call(layer, given, (x, start), {"return_state": True})
        ends = [] if scaled else leaves(end)
        return y, *(torch.view_as_real(v) if v.is_complex() else v for v in ends)

    assert torch.autograd.gradcheck(run, (x, *parameters, *free), atol=1e-6, fast_mode=True)


@every_layer
def test_gradients_of_forward_are_those_of_the_steps(name):
    layer, x = make(name), noise(2, 7, CHANNELS)
    found = []
    for y in (layer(x), by_steps(layer, x, layer.initial_state(2))[0]):
        found.append(torch.autograd.grad(y.square().sum(), tuple(layer.parameters())))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-11)


@every_layer
def test_every_parameter_learns_in_single_precision(name):
    layer = make(name, torch.float32)
    layer(noise(2, 9, CHANNELS, dtype=torch.float32)).square().sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0, parameter_name


@every_layer
def test_time_scales_are_parameters_that_the_optimiser_sets_apart(name):
    layer = make(name)
    layers = [module for module in layer.modules() if isinstance(module, nn.Layer)]
    slow = {id(p) for module in layers for p in module.time_scales()}
    assert slow <= {id(p) for p in layer.parameters()}
    groups = nn.parameter_groups(layer, lr=0.01, weight_decay=0.1)
    apart = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert apart == slow
    assert all(group["lr"] == (0.01 if group["weight_decay"] else 0.001) for group in groups)


@every_layer
@torch.no_grad()
def test_parameters_survive_a_file(name):
    layer, x, file = make(name), noise(1, 5, CHANNELS), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = make(name, seed=9)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), layer(x))


@every_layer
def test_parameters_start_as_they_were_made(name):
    """In any order of events: made at once, or without memory and started later."""
    layer, expected = make(name, torch.float32), make(name, torch.float32).state_dict()
    with torch.device("meta"):
        empty = LAYERS[name]()
    with torch.no_grad():
        for value in [*layer.parameters(), *layer.buffers()]:
            value.fill_(torch.nan)
    for other in (layer, empty.to_empty(device="cpu")):
        torch.manual_seed(0)
        other.reset_parameters()
        for key, value in other.state_dict().items():
            assert torch.equal(value, expected[key]), key


# --- wrong arguments -----------------------------------------------------------------------------


@every_layer
@pytest.mark.usefixtures("unchecked")
def test_wrong_input_says_what_to_do(name):
    layer, x = make(name), noise(2, 5, CHANNELS)
    _, state = layer(x, return_state=True)
    one = rebuilt(state, iter([v[:1] for v in leaves(state)]))
    single = {torch.float64: torch.float32, torch.complex128: torch.complex64}
    narrow = rebuilt(state, iter([v.to(single[v.dtype]) for v in leaves(state)]))
    calls = {
        r"x must have shape \(batch, length, 8\)": lambda: layer(x[0]),
        r"got \(2, 5, 7\): put the 8 channels last": lambda: layer(x[..., :7]),
        r"not be empty; got \(2, 0, 8\)": lambda: layer(x[:, :0]),
        "x must be torch.float64.*got torch.float32: convert": lambda: layer(x.float()),
        r"x_t must have shape \(batch, 8\)": lambda: layer.step(x, state),
        "x_t must be torch.float64": lambda: layer.step(x[:, 0].float(), state),
        r"state must be .*: start with initial_state\(2\)": lambda: layer(x, one),
        r"state must be .*got.*str.*: start with": lambda: layer(x, "state"),
        r"state must be .*got.*(float32|complex64)": lambda: layer(x, narrow),
        r"state must be .*NoneType": lambda: layer.step(x[:, 0], None),
        r"x must be a torch tensor; got a NumPy array: pass torch.from_": lambda: layer(x.numpy()),
        r"x must be a torch tensor; got a list: pass torch.tensor\(x\)": lambda: layer([[1.0]]),
        r"x_t must be a torch tensor; got a NoneType": lambda: layer.step(None, state),
        r"x must be on cpu, as the parameters are; got meta": lambda: layer(x.to("meta")),
        "batch must be at least 1; got 0": lambda: layer.initial_state(0),
        "unexpected keyword argument 'speed'": lambda: layer(x, speed=2),
    }
    for message, call in calls.items():
        with pytest.raises((TypeError, ValueError), match=message):
            call()


# --- a layer of one's own ------------------------------------------------------------------------


class Sum(nn.Layer):
    """Without parameters: any type will do."""

    def initial_state(self, batch):
        return torch.zeros(batch, self.channels)

    def _sequence(self, x, state, need_state):
        y = x.cumsum(1) if state is None else state[:, None] + x.cumsum(1)
        return y, y[:, -1]


class Scale(Sum):
    """With a parameter that is not set anew."""

    def __init__(self, channels):
        super().__init__(channels)
        self.factor = torch.nn.Parameter(torch.ones(channels))


def test_a_layer_without_parameters():
    layer, x = Sum(3), torch.ones(2, 4, 3)
    layer.reset_parameters()
    assert torch.equal(layer(x)[0, :, 0], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert layer(x.double()).dtype == torch.float64


def test_what_cannot_be_reset_says_so():
    with pytest.raises(NotImplementedError, match="Scale must say how its own parameters start"):
        Scale(3).reset_parameters()
    foreign = torch.nn.Module()
    foreign.weight = torch.nn.Parameter(torch.ones(3))
    model = nn.SequenceClassifier(1, 2, channels=4, depth=1, layer=lambda channels: foreign)
    with pytest.raises(NotImplementedError, match="Module must have reset_parameters, as it has"):
        model.reset_parameters()


@pytest.mark.usefixtures("unchecked")
def test_a_cache_with_a_part_missing():
    layer = nn.Attention(4, 2)
    k, _ = layer.initial_state(1)
    for state in (Cache(None, None), Cache(k, None), (k, k)):
        with pytest.raises(
            ValueError, match=r"state must be Cache\(.*of any length; got .*: start"
        ):
            layer.step(torch.zeros(1, 4), state)


@pytest.mark.parametrize("name", LAYERS)
def test_autocast(name):
    """In half precision where torch allows it, also behind what made its output so."""
    layer, x = make(name, torch.float32), noise(2, 9, CHANNELS, dtype=torch.float32)
    state, expected = layer.initial_state(2), layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
        y_t, _ = layer.step(x[:, 0].bfloat16(), state)
    for found, right in ((y, expected), (y_t, expected[:, 0])):
        assert (found - right).norm() < 0.05 * right.norm()
    gradients, right = (
        torch.autograd.grad(out.float().square().sum(), list(layer.parameters()))
        for out in (y, expected)
    )
    largest = max(g.norm() for g in right)
    for found, g in zip(gradients, right, strict=True):
        assert (found - g).norm() < 0.1 * max(g.norm(), 0.01 * largest)


@pytest.mark.parametrize("name", LAYERS)
def test_adapters(name):
    """What is hooked to a projection acts, over a sequence and in a step."""
    layer, x = make(name), noise(2, 5, CHANNELS)
    state = layer.initial_state(2)
    y, (y_t, _) = layer(x), layer.step(x[:, 0], state)
    kinds = torch.nn.Linear, torch.nn.Conv1d
    for module in (m for m in layer.modules() if isinstance(m, kinds)):
        seen = []
        handle = module.register_forward_hook(lambda m, inputs, y: seen.append(1))  # noqa: B023
        assert_close(layer(x), y)
        assert_close(layer.step(x[:, 0], state)[0], y_t)
        handle.remove()
        assert len(seen) >= 2


@pytest.mark.parametrize("name", LAYERS)
def test_adapters_that_replace_forward_or_watch_all_modules(name):
    layer, x = make(name), noise(2, 5, CHANNELS)
    state, y = layer.initial_state(2), layer(x)
    kinds = torch.nn.Linear, torch.nn.Conv1d
    modules = {m for m in layer.modules() if isinstance(m, kinds)}
    seen = []
    handle = register_module_forward_hook(lambda m, inputs, y: seen.append(m))
    assert_close(layer(x), y)
    layer.step(x[:, 0], state)
    handle.remove()
    assert all(seen.count(m) >= 2 for m in modules)
    for module in modules:
        module.forward = lambda x, old=module.forward: 0 * old(x)
        assert not torch.allclose(layer(x), y)
        del module.forward


@pytest.mark.parametrize("name", LAYERS)
def test_one_sequence_of_a_returned_state_can_be_reset(name):
    """In place, with gradients on: the sequences of a batch end at different times."""
    layer, x = make(name), noise(2, 5, CHANNELS)
    if isinstance(layer, nn.Attention):
        pytest.skip("a cache has one length for all its sequences")
    _, state = layer(x, return_state=True)
    going_on = layer(x[1:], rebuilt(state, iter([leaf[1:].clone() for leaf in leaves(state)])))
    for leaf, fresh in zip(leaves(state), leaves(layer.initial_state(2)), strict=True):
        leaf[0] = fresh[0]
    y = layer(x, state)
    assert_close(y[:1], layer(x[:1]))
    assert_close(y[1:], going_on)
