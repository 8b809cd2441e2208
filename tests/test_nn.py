"""S4 and S4D against their slow twins, the classifier, and a training that repeats itself."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from layer_cases import DEVICES, LAYERS, TOLERANCE, by_steps, noise
from torch.testing import assert_close

from ssmlab import diagonal, nn, s4

STATE_SPACE = [name for name in LAYERS if name.startswith("S4")]
every_layer = pytest.mark.parametrize("name", STATE_SPACE)


def make(name: str, *sizes: int, dtype: torch.dtype = torch.float64, **options) -> nn.Layer:
    torch.manual_seed(0)
    case = LAYERS[name]
    return case.func(*sizes, **case.keywords, **options).to(dtype)


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return ((a - b).abs().max() / b.abs().max()).item()


# --- two modes, one map --------------------------------------------------------------------------


@every_layer
@torch.no_grad()
def test_step_is_forward_at_twice_the_rate(name):
    layer, x = make(name, 3, 8), noise(2, 13, 3)
    state = noise(2, 3, 4, dtype=torch.complex128)
    y, _ = by_steps(layer, x, state, rate=2.0)
    assert largest_difference(layer(x, state, rate=2.0), y) < 1e-12


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["S4", "S4D legs zoh"])
@pytest.mark.usefixtures("unchecked")  # for speed
@torch.no_grad()
def test_step_is_forward_over_1024_samples(name, dtype):
    layer, x = make(name, 4, 64, dtype=dtype), noise(1, 1024, 4, dtype=dtype)
    state = noise(1, 4, 32, dtype=torch.complex128)
    y, _ = by_steps(layer, x, state)
    assert largest_difference(layer(x, state), y) < TOLERANCE[dtype] / 2


@every_layer
def test_bidirectional_adds_the_answer_to_the_reversed_sequence(name):
    layer, x = make(name, 3, 8, bidirectional=True), noise(2, 20, 3)
    K_bar, y = layer.kernel(20), torch.zeros(2, 20, 3, dtype=torch.float64)
    for k in range(20):
        for j in range(20):
            y[:, k] += K_bar[0, k - j] * x[:, j] if j <= k else 0
            y[:, k] += K_bar[1, j - k] * x[:, j] if j >= k else 0
    assert_close(layer(x), y + layer.D * x)
    for call in (
        lambda: layer.initial_state(2),
        lambda: layer.step(x[:, 0], torch.zeros(2, 3, 4, dtype=torch.complex128)),
        lambda: layer(x, torch.zeros(2, 3, 4, dtype=torch.complex128)),
    ):
        with pytest.raises(ValueError, match="bidirectional layers read the future"):
            call()


# --- the layer is the model of the chapters ------------------------------------------------------


def numbers(*parameters: torch.Tensor) -> list[np.ndarray]:
    return [p.detach().numpy() for p in parameters]


@every_layer
def test_kernel_is_that_of_the_slow_twin(name):
    layer = make(name, 3, 8)
    log_decay, frequency, log_dt, C, B = numbers(
        layer.log_decay, layer.frequency, layer.log_dt, layer.C, layer.B
    )
    A, dt, C, B = -np.exp(log_decay) + 1j * frequency, np.exp(log_dt), C @ [1, 1j], B @ [1, 1j]
    K_bar = layer.kernel(50).detach().numpy()
    if name == "S4":
        (P,) = numbers(layer.P)
        P = P @ [1, 1j]
        truth = [s4.kernel(A[c], P[c], B, C[c], float(dt[c]), 50) for c in range(3)]
        np.testing.assert_allclose(K_bar, np.stack(truth, 1), atol=1e-12 * np.abs(K_bar).max())
    else:
        truth = diagonal.kernel(A, np.stack(3 * [B]), C, dt, 50, layer.method)
        np.testing.assert_allclose(K_bar, truth, atol=1e-12 * np.abs(K_bar).max())


@every_layer
def test_the_rate_rescales_time(name):
    layer = make(name, 3, 8)
    fast = layer.kernel(20, rate=2.0)
    with torch.no_grad():
        layer.log_dt += np.log(2.0)
    assert_close(fast, layer.kernel(20))


def test_half_the_samples_at_twice_the_rate_give_the_same_answer():
    layer = make("S4D lin zoh", 1, 16, dt_min=0.01, dt_max=0.01)
    t = 0.01 * torch.arange(1000, dtype=torch.float64)
    x = torch.sin(2 * t) + torch.sin(0.7 * t**1.5)
    fine = layer(x[None, :, None])[:, 1::2]
    coarse = layer(x[1::2][None, :, None], rate=2.0)
    wrong = layer(x[1::2][None, :, None])
    assert largest_difference(coarse, fine) < 0.03 < 0.3 < largest_difference(wrong, fine)


# --- wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"state": 7}, ValueError, r"state must be even, .* got 7: pass 8"),
        ({"channels": 0}, ValueError, "channels must be at least 1; got 0"),
        ({"dt_min": 0}, ValueError, "dt_min and dt_max must be positive and in this order; got 0"),
        (
            {"dt_min": 1.0},
            ValueError,
            "dt_min and dt_max must be positive and in this order; got 1",
        ),
        ({"init": "hippo"}, ValueError, "init must be one of 'legs', 'lin', 'inv', 'real'"),
        ({"method": "foh"}, ValueError, "method must be one of 'zoh', 'bilinear'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_options(options, error, message):
    layer = nn.S4D if {"init", "method"} & options.keys() else nn.S4
    with pytest.raises(error, match=message):
        layer(**{"channels": 3, "state": 8} | options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: m(x, rate=0.0), ValueError, "rate must be positive; got 0"),
        (lambda m, x: m.kernel(0), ValueError, "length must be at least 1; got 0"),
    ],
)
@pytest.mark.parametrize("name", ["S4", "S4D legs zoh"])
@pytest.mark.usefixtures("unchecked")
def test_wrong_calls(name, call, error, message):
    layer = make(name, 3, 8, dtype=torch.float32)
    with pytest.raises(error, match=message):
        call(layer, noise(2, 5, 3, dtype=torch.float32))


# --- the classifier ------------------------------------------------------------------------------


def classifier(name: str = "S4D legs zoh", seed: int = 0) -> nn.SequenceClassifier:
    torch.manual_seed(seed)
    return nn.SequenceClassifier(
        2,
        3,
        channels=8,
        depth=2,
        layer=lambda channels: LAYERS[name].func(channels, 8, **LAYERS[name].keywords),
    )


@pytest.mark.parametrize("name", ["S4", "S4D legs zoh"])
@torch.no_grad()
def test_classifier_by_steps_is_the_classifier_of_every_prefix(name):
    model, x = classifier(name).double().eval(), noise(4, 20, 2)
    y, state = by_steps(model, x, model.initial_state(4))
    for length in (1, 7, 20):
        assert_close(y[:, length - 1], model(x[:, :length]))
    assert state.length == 20
    y, _ = by_steps(model, x, model.initial_state(4), rate=2.0)
    assert_close(y[:, -1], model(x, rate=2.0))


@pytest.mark.parametrize("name", ["S4", "S4D legs zoh"])
def test_a_saved_and_loaded_model_gives_identical_bits(name):
    model, twin, file = classifier(name), classifier(name, seed=1), io.BytesIO()
    x = noise(4, 20, 2, dtype=torch.float32)
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert not torch.equal(model.eval()(x), twin.eval()(x))
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(model(x), twin(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.ones(4, 20)), r"x must have shape \(batch, length, 2\).*got \(4, 20\)"),
        (lambda m: m(torch.ones(4, 0, 2)), r"not be empty; got \(4, 0, 2\)"),
        (lambda m: m(np.ones((4, 5, 2))), r"got a NumPy array: pass torch.from_numpy\(x\)"),
        (
            lambda m: m(torch.ones(4, 5, 2).double()),
            r"x must be torch.float32, .* got torch.float6",
        ),
        (lambda m: m(torch.ones(4, 5, 2).int()), r"convert it with x.to\(torch.float32\)"),
        (lambda m: m(torch.ones(4, 5, 2).to("meta")), r"x must be on cpu, .*; got meta: move it"),
        (
            lambda m: m.step(torch.ones(4, 2), None),
            r"state must be a ClassifierState of 2 layers; got a NoneType: start with initial_st",
        ),
        (
            lambda m: m.step(torch.ones(4, 3), m.initial_state(4)),
            r"x_t must have shape \(batch, 2\)",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_calls_of_the_classifier(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(classifier())


# --- training ------------------------------------------------------------------------------------


def rising_or_falling(examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw noisy slopes; the label says which are negative, flat, positive."""
    labels = torch.arange(examples) % 3
    t = torch.linspace(-1, 1, 30)
    x = 3 * (labels[:, None] - 1) * t + noise(examples, 30, dtype=torch.float32)
    return torch.stack([x, 0 * x], -1), labels


def train(seed: int, epochs: int = 8, **options) -> tuple[nn.Module, list[dict[str, float]]]:
    model = classifier()
    x, labels = rising_or_falling(96)
    return model, nn.fit(
        model, x, labels, epochs=epochs, batch=16, lr=0.01, seed=seed, progress=False, **options
    )


@pytest.mark.usefixtures("unchecked")  # for speed
def test_it_learns_and_the_same_seed_gives_the_same_bits():
    x, labels = rising_or_falling(60)
    before = torch.random.get_rng_state()
    model, history = train(0, test=(x, labels))
    assert len(history) == 8
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert history[-1]["accuracy"] == nn.accuracy(model, x, labels) > 0.9
    assert not model.training
    torch.random.set_rng_state(before)
    again, _ = train(0)
    other, _ = train(1)
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (model, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_leaves_the_generator_as_it_was():
    model, (x, labels) = classifier(), rising_or_falling(6)
    before = torch.random.get_rng_state()
    nn.fit(model, x, labels, epochs=1, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_time_scales_learn_slowly_and_do_not_decay(monkeypatch):
    seen = {}

    class Spy(torch.optim.AdamW):
        def __init__(self, groups, **options):
            seen.update({id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]})
            super().__init__(groups)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    model, _ = train(0, epochs=1)
    rates = {name: seen[id(p)] for name, p in model.named_parameters()}
    assert rates["blocks.0.layer.log_dt"] == rates["blocks.1.layer.frequency"] == (0.001, 0.0)
    assert rates["blocks.0.layer.C"] == rates["encoder.weight"] == (0.01, 0.01)


def test_the_bar_shows_the_loss(capsys):
    x, labels = rising_or_falling(6)
    nn.fit(classifier(), x, labels, epochs=2, test=(x, labels))
    bar = capsys.readouterr().err
    assert "2/2" in bar
    assert "loss=" in bar
    assert "accuracy=" in bar


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.usefixtures("unchecked")  # for speed
def test_it_trains_on_every_device(device):
    model, (x, labels) = classifier("S4").to(device), rising_or_falling(96)
    x, labels = x.to(device), labels.to(device)
    nn.fit(model, x, labels, epochs=8, batch=16, lr=0.01, progress=False)
    assert nn.accuracy(model, x, labels) > 0.9


def test_a_model_without_state_space_layers_trains_too():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 3))
    x, labels = rising_or_falling(60)
    nn.fit(model, x, labels, epochs=40, batch=10, progress=False)
    assert nn.accuracy(model, x, labels) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(5)}, "x and labels must hold the same number of examples"),
        ({"x": torch.zeros(0, 5, 2), "labels": torch.zeros(0)}, "at least one; got shapes"),
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"lr": -0.05}, "lr must be positive; got -0.05: pass the size of a step"),
        ({"lr": float("nan")}, "lr must be finite; got nan"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative; got -1.0"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"seed": 2**64}, r"seed must be below 2\*\*64; got 1844"),
        ({"x": np.zeros((6, 5, 2))}, r"x must be a torch tensor; got a NumPy array: pass torch.fr"),
        ({"labels": [0] * 6}, r"labels must be a torch tensor; got a list: pass torch.tensor\(l"),
        ({"labels": torch.zeros(6)}, "labels must be int64; got torch.float32: convert"),
        ({"test": (torch.zeros(2, 5, 2), torch.zeros(3))}, "x and labels must hold the same"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_of_fit(change, message):
    x, labels = rising_or_falling(6)
    with pytest.raises((TypeError, ValueError), match=message):
        nn.fit(classifier(), **{"x": x, "labels": labels, "epochs": 1, "progress": False} | change)
