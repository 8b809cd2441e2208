"""The language model: every mixer, in parallel, step by step and split anywhere; its start."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
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
