"""The language model: every mixer, in parallel, step by step and split anywhere; its start."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from ssmlab import nn

torch.set_num_threads(1)

every_mixer = pytest.mark.parametrize("mixer", sorted(nn.MIXERS))


def make(mixer: str = "mamba", dtype: torch.dtype = torch.float64, **options) -> nn.LanguageModel:
    torch.manual_seed(0)
    return nn.LanguageModel(11, 8, 2, mixer, **options).to(dtype)


def some_tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(1))


@every_mixer
@torch.no_grad()
def test_in_parallel_step_by_step_and_cut_anywhere(mixer):
    model, tokens = make(mixer), some_tokens(2, 7)
    logits, state = model(tokens), model.initial_state(2)
    for k in range(7):
        one, state = model.step(tokens[:, k], state)
        assert_close(one, logits[:, k], rtol=0, atol=1e-12)
        last, cut = model.prefill(tokens[:, : k + 1])
        assert_close(last, logits[:, k], rtol=0, atol=1e-12)
        if k < 6:
            rest, end = model(tokens[:, k + 1 :], cut, return_state=True)
            assert_close(rest, logits[:, k + 1 :], rtol=0, atol=1e-12)
            assert len(end) == 2


@torch.no_grad()
def test_steps_in_single_precision():
    model, tokens = make(dtype=torch.float32), some_tokens(2, 7)
    state = model.initial_state(2)
    for k in range(7):
        logits, state = model.step(tokens[:, k], state)
    assert_close(logits, model(tokens)[:, -1], rtol=0, atol=1e-5)


@every_mixer
@pytest.mark.usefixtures("unchecked")  # for speed
def test_it_learns_to_repeat(mixer):
    model = make(mixer)
    tokens = torch.tensor([[1, 2, 3, 4] * 3])
    batches = itertools.repeat((tokens[:, :-1], tokens[:, 1:]))
    losses = nn.fit_language_model(model, batches, steps=60, lr=0.05, warmup=5, progress=False)
    assert losses[-1] < 0.3  # ln 4 = 1.39 without reading the token


def test_a_mixer_may_be_a_function_and_the_registry_cannot_be_written():
    torch.manual_seed(0)
    model = nn.LanguageModel(
        11, 8, 2, lambda channels, **options: nn.LRU(channels, **options), state=6
    )
    assert [block.mixer.state for block in model.layers] == [6, 6]
    assert model(some_tokens(1, 5)).shape == (1, 5, 11)
    with pytest.raises(TypeError, match="does not support item assignment"):
        nn.MIXERS["scan"] = nn.S6


def test_the_head_is_the_embedding():
    model = make()
    names = dict(model.named_parameters())
    assert "embedding.weight" in names
    assert not any("head" in name for name in names)
    loss = model(some_tokens(1, 4)).sum()
    loss.backward()
    assert model.embedding.weight.grad.abs().min() > 0  # also of tokens that were not read


@every_mixer
def test_started_after_it_was_built_without_memory(mixer):
    with torch.device("meta"):
        model = nn.LanguageModel(11, 8, 2, mixer)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.reset_parameters()
    expected = make(mixer, torch.float32).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_initialisation_as_published():
    torch.manual_seed(0)
    model = nn.LanguageModel(500, 64, 4)
    assert abs(model.embedding.weight.std().item() - 0.02) < 0.001
    bound = 1 / math.sqrt(128) / math.sqrt(4)
    for block in model.layers:
        assert 0.99 * bound < block.mixer.out_proj.weight.abs().max() <= bound
        assert block.norm.eps == 1e-5


def test_the_residual_is_float32_in_a_bfloat16_model():
    model, seen = make(dtype=torch.bfloat16), []
    for block in model.layers:
        block.register_forward_hook(lambda _, inputs, output: seen.append(output[0].dtype))
    assert model(some_tokens(1, 5)).dtype == torch.bfloat16
    assert seen == [torch.float32] * 2


def test_options_go_to_the_mixer():
    assert make(state=6).layers[1].mixer.state == 6
    assert make("s4d", state=6, init="inv").layers[0].mixer.layer.init == "inv"


# --- training ------------------------------------------------------------------------------------

PAIR = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])


@pytest.mark.usefixtures("unchecked")
def test_gradients_of_each_sequence_alone():
    """By torch.func, where no token can be looked at."""
    model, tokens = make("retnet"), some_tokens(3, 5)
    weights = dict(model.named_parameters())

    def loss(weights, row):
        return torch.func.functional_call(model, weights, (row[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, tokens)
    for k in range(3):
        expected = torch.autograd.grad(model(tokens[k : k + 1]).square().sum(), [*weights.values()])
        for name, grad in zip(weights, expected, strict=True):
            assert_close(found[name][k], grad)


@pytest.mark.usefixtures("unchecked")
def test_shapes_alone_are_computed_from_fake_tensors():
    with FakeTensorMode():
        model = nn.LanguageModel(11, 8, 1, "retnet")
        assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 11)


def test_a_list_and_a_dataloader_are_batches_too():
    loader = torch.utils.data.DataLoader([PAIR] * 3, batch_size=None)
    found = [
        nn.fit_language_model(make(), batches, steps=3, progress=False)
        for batches in (itertools.repeat(PAIR), [PAIR] * 3, loader)
    ]
    assert found[0] == found[1] == found[2]


def test_batches_that_run_dry_keep_their_losses():
    model = make()
    with pytest.warns(UserWarning, match="batches ran dry: 5 steps were asked .* for step 3; the"):
        losses = nn.fit_language_model(model, (PAIR for _ in range(2)), steps=5, progress=False)
    assert len(losses) == 2
    assert not model.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batches": iter([])}, "batches must give a batch for each of the 3 steps; got 0: pass"),
        ({"batches": [PAIR] * 2}, "batches must give a batch for each of the 3 steps; got 2"),
        ({"batches": (PAIR for _ in [])}, "batches must give a batch for each step; got none"),
        ({"batches": [PAIR[0]] * 3}, "batches must give pairs .*; batch 1 is a Tensor: see"),
        ({"batches": 3}, "batches must be an iterable .*; got a int: pass"),
        (
            {"batches": [(PAIR[0], PAIR[1][0])] * 3},
            r"targets must be int64 of shape .* \(3,\): pass",
        ),
        (
            {"batches": [(PAIR[0], PAIR[1] / 2)] * 3},
            "targets must be int64 .* got torch.float32 of",
        ),
        ({"batches": [(PAIR[0][:, :2], PAIR[1])] * 3}, "targets must not be longer .*, 2; got 3"),
        (
            {"batches": [(PAIR[0], PAIR[1] - 102)] * 3},
            "targets must be tokens, at least 0; got -10",
        ),
        ({"lr": -0.1}, "lr must be positive; got -0.1: pass the size"),
        ({"lr": math.nan}, "lr must be finite; got nan"),
        ({"weight_decay": -1}, "weight_decay must not be negative; got -1.0: pass 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_training(changes, message):
    model = make()
    before = [p.clone() for p in model.parameters()]
    arguments = {"batches": itertools.repeat(PAIR), "steps": 3, "progress": False} | changes
    with pytest.raises((TypeError, ValueError), match=message):
        nn.fit_language_model(model, **arguments)
    assert all(map(torch.equal, model.parameters(), before))


def test_a_model_that_fails_in_training_is_left_in_evaluation_mode():
    model = make()
    wrong = itertools.repeat((PAIR[0], PAIR[1] + 90))
    with pytest.raises(IndexError):
        nn.fit_language_model(model, wrong, steps=2, progress=False)
    assert not model.training


# --- wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", ["s4", "s4d"])
def test_a_mixer_that_reads_the_future_is_refused(mixer):
    with pytest.raises(ValueError, match="bidirectional layers read the future, so they"):
        make(mixer, state=4, bidirectional=True)


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_layer_is_refused():
    message = "must be a function from the number of channels to a Layer; got"
    with pytest.raises(TypeError, match=f"mixer {message} one that makes a Linear: pass"):
        nn.LanguageModel(5, 4, 1, lambda channels: torch.nn.Linear(channels, channels))
    with pytest.raises(TypeError, match=f"make {message} 3: pass"):
        nn.Gated(4, 3)


@pytest.mark.parametrize("state", [None, (), "one", 3])
@pytest.mark.usefixtures("unchecked")
def test_a_state_of_another_form(state):
    model = make()
    state = nn.LanguageModel(11, 8, 1).initial_state(1) if state == "one" else state
    with pytest.raises(ValueError, match=r"state must be a tuple of 2 states.* got (0|1|a (N|i))"):
        model.step(torch.tensor([1]), state)
    if state is not None:
        with pytest.raises(ValueError, match="state must be a tuple of 2 states"):
            model(torch.tensor([[1]]), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": 0}, "vocabulary must be at least 1; got 0"),
        ({"channels": 0}, "channels must be at least 1; got 0"),
        ({"layers": 0}, "layers must be at least 1; got 0"),
        ({"mixer": "mambo"}, "mixer must be one of .*; got 'mambo': did you mean 'mamba'"),
    ],
)
def test_wrong_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        nn.LanguageModel(**{"vocabulary": 5, "channels": 4, "layers": 1} | options)


@pytest.mark.usefixtures("unchecked")
def test_wrong_tokens():
    model = make()
    with pytest.raises(TypeError, match=r"got a NumPy array: pass torch.from_numpy\(tokens\)"):
        model(some_tokens(1, 3).numpy())
    with pytest.raises(TypeError, match=r"tensor; got a list: pass torch.tensor\(tokens\)"):
        model([[1, 2]])
    with pytest.raises(TypeError, match="token must be a torch tensor; got a NoneType: pass a"):
        model.step(None, model.initial_state(1))
    with pytest.raises(ValueError, match=r"tokens must be on cpu, as the .*; got meta: move it"):
        model(some_tokens(1, 3).to("meta"))
    with pytest.raises(TypeError, match=r"tokens must be int64; got torch.float32: convert"):
        model(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"tokens must have shape \(batch, length\).*got \(4,\)"):
        model(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"not be empty; got \(1, 0\)"):
        model.prefill(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="tokens must be whole numbers from 0 to 10; got 11"):
        model(torch.tensor([[3, 11]]))
    with pytest.raises(ValueError, match="got -1: make the model"):
        model(torch.tensor([[3, -1]]))
    with pytest.raises(ValueError, match=r"token must have shape \(batch,\)"):
        model.step(torch.tensor([[3]]), model.initial_state(1))
