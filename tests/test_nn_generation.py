"""Generation: greedy, temperature, top-p; seeded; a stream whose memory does not grow."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from layer_cases import leaves
from torch.testing import assert_close

from ssmlab import nn
from ssmlab.nn.generation import sample

torch.set_num_threads(1)

every_mixer = pytest.mark.parametrize("mixer", sorted(nn.MIXERS))


def make(mixer: str = "mamba") -> nn.LanguageModel:
    torch.manual_seed(0)
    model = nn.LanguageModel(7, 8, 2, mixer).double()
    with torch.no_grad():
        model.embedding.weight.mul_(20)  # far from uniform
    return model


PROMPT = torch.tensor([[3, 1, 4, 1], [5, 2, 6, 5]])


def text(model: nn.LanguageModel, prompt: torch.Tensor = PROMPT, **options) -> torch.Tensor:
    return torch.stack(list(nn.generate(model, prompt, **{"tokens": 12} | options)), 1)


@every_mixer
@torch.no_grad()
def test_greedy_is_the_argmax_of_the_whole_text_so_far(mixer):
    model, tokens = make(mixer), PROMPT
    for _ in range(6):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
    assert torch.equal(text(model, tokens=6, temperature=0), tokens[:, 4:])


@pytest.mark.parametrize("mixer", sorted(set(nn.MIXERS) - {"attention"}))
def test_prompts_of_different_lengths_go_on_as_alone(mixer):
    model = make(mixer)
    prompts = [PROMPT[0], PROMPT[1, :2], PROMPT[1, 1:]]
    alone = torch.cat([text(model, one[None], temperature=0) for one in prompts])
    assert torch.equal(text(model, prompts, temperature=0), alone)


def test_prompts_of_different_lengths_are_refused_where_the_state_grows():
    model = make("attention")
    assert text(model, [*PROMPT], temperature=0).equal(text(model, temperature=0))
    with pytest.raises(ValueError, match="prompt must have one length for a model whose state"):
        text(model, [PROMPT[0], PROMPT[1, :2]])


def test_deterministic_under_a_seed():
    model = make()
    a, b, other = (text(model, seed=seed, tokens=20) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


def test_torchs_generator_and_grad_mode_stay_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for _ in nn.generate(make_without_seed(), PROMPT, tokens=3):
        assert torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)


def make_without_seed() -> nn.LanguageModel:
    state = torch.get_rng_state()
    model = make()
    torch.set_rng_state(state)
    return model


def test_a_stream_gives_each_token_when_it_is_known():
    model, read = make(), []
    model.embedding.register_forward_hook(lambda _, inputs, output: read.append(inputs[0].shape))
    stream = nn.generate(model, PROMPT, tokens=4, temperature=0)
    assert read == []
    next(stream)
    assert read == [(2, 4)]  # the prompt, in parallel, and nothing else yet
    assert len(list(stream)) == 3
    assert read == [(2, 4), (2,), (2,), (2,)]


def test_a_low_temperature_is_greedy_and_a_high_one_is_uniform():
    model = make()
    for least in (1e-6, 1e-40, 5e-324):
        assert torch.equal(text(model, temperature=least), text(model, temperature=0))
        assert torch.equal(text(model, top_p=least), text(model, temperature=0))
    logits = torch.tensor([[0.0, 2.0, 2.0]])  # in float32 these numbers are 0
    for seed in range(9):
        drawn = sample(logits, 1e-300, 1.0, torch.Generator().manual_seed(seed))
        assert drawn.item() in (1, 2)
        assert sample(logits, 1.0, 1e-300, torch.Generator().manual_seed(seed)).item() in (1, 2)
    logits = torch.tensor([[3.0, 0.0, -2.0]]).expand(30_000, -1)
    drawn = sample(logits, 1e6, 1.0, torch.Generator().manual_seed(0))
    assert_close(drawn.bincount() / 30_000, torch.full((3,), 1 / 3), rtol=0, atol=0.01)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(temperature):
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    n = 40_000
    drawn = sample(logits.expand(n, -1), temperature, 1.0, torch.Generator().manual_seed(0))
    p = np.exp(logits.numpy() / temperature)
    p /= p.sum()
    error = np.abs(drawn.bincount(minlength=4).numpy() / n - p)
    assert (error < 4 * np.sqrt(p * (1 - p) / n)).all()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.49, {0}), (0.51, {0, 1}), (0.81, {0, 1, 2}), (0.96, {0, 1, 2, 3}), (1.0, {0, 1, 2, 3})],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p, kept):
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    order = torch.tensor([2, 0, 3, 1])  # the most likely token is not the first
    logits = torch.empty(4).index_copy(0, order, p.log())
    n = 20_000
    drawn = sample(logits.expand(n, -1), 1.0, top_p, torch.Generator().manual_seed(0))
    names = torch.empty(4, dtype=torch.int64).index_copy(0, order, torch.arange(4))
    share = names[drawn].bincount(minlength=4) / n
    assert {k for k in range(4) if share[k] > 0} == kept
    expected = p * torch.tensor([k in kept for k in range(4)])
    assert_close(share, expected / expected.sum(), rtol=0, atol=0.015)


def test_top_p_bounds_hold_at_a_tie():
    logits = torch.zeros(1, 4)
    for seed in range(20):
        drawn = sample(logits, 1.0, 1e-9, torch.Generator().manual_seed(seed))
        assert drawn.item() in range(4)


@torch.no_grad()
def test_the_state_has_a_fixed_size():
    model = make()
    _, state = model.prefill(PROMPT)
    sizes = [sum(v.untyped_storage().nbytes() for v in leaves(state))]
    for _ in range(30):
        _, state = model.step(torch.tensor([1, 2]), state)
        sizes.append(sum(v.untyped_storage().nbytes() for v in leaves(state)))
    assert len(set(sizes)) == 1


MEMORY = """
import gc, json, tracemalloc
import torch
from ssmlab import nn

torch.manual_seed(0)
model, prompt = nn.LanguageModel(7, 8, 2), torch.tensor([[3, 1, 4, 1]])

def memory(tokens):
    stream = nn.generate(model, prompt, tokens=tokens)
    next(stream)
    tracemalloc.start()
    for _ in range(tokens - 1):
        next(stream)
    gc.collect()  # cycles wait for their collector
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    live = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    return held, sum(o.numel() for o in live)

memory(50)
print(json.dumps([memory(50), memory(350)]))
"""


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_language_model():
    with pytest.raises(TypeError, match="model must be a LanguageModel; got a DataParallel: pass"):
        nn.generate(torch.nn.DataParallel(make()), PROMPT, tokens=1)


def test_memory_is_flat_in_the_length():
    """What Python holds, in bytes, and the numbers in live tensors, at token 50 and at 350."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (short, few), (long, many) = json.loads(done.stdout)
    assert many == few
    assert long < short + 6_600  # 22 bytes for each of 300 more tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, "tokens must be at least 1; got 0"),
        ({"temperature": -0.1}, "temperature must not be negative; got -0.1: pass 0"),
        ({"temperature": float("nan")}, "temperature must be finite; got nan"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1; got 0.0: pass 1"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1; got 1.5"),
        ({"prompt": torch.zeros(1, 0, dtype=torch.int64)}, "prompt must have shape"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"seed": 2**64}, "seed must be below"),
        ({"prompt": torch.tensor([[-1]])}, "prompt must be whole numbers from 0 to 6; got -1"),
        ({"prompt": [PROMPT[0], PROMPT[0] + 6]}, r"prompt\[1\] must be whole numbers from 0 to 6"),
        ({"prompt": torch.tensor([[9]])}, "prompt must be whole numbers from 0 to 6; got 9"),
    ],
)
def test_wrong_arguments_at_the_call(options, message):
    with pytest.raises(ValueError, match=message):
        nn.generate(make(), **{"prompt": PROMPT, "tokens": 5} | options)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("prompt", [[], [1, 2], [[1, 2]], [PROMPT[0], None]])
def test_a_list_of_prompts_is_one_of_tensors(prompt):
    with pytest.raises(TypeError, match=r"prompt(\[\d\])? must be a torch tensor; got a"):
        nn.generate(make(), prompt, tokens=5)
