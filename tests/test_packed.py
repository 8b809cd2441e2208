"""Packed sequences are what each is alone: outputs, last states, gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import CHANNELS, LAYERS, leaves, make, noise
from scan_cases import PAIRS, problem
from torch.nn import functional as F
from torch.testing import assert_close

from ssmlab import nn, ops

LENGTHS = [4, 1, 7]
BOUNDS = F.pad(torch.tensor(LENGTHS).cumsum(0), (1, 0))
NAMES = ["x", "dt", "A", "B", "C", "D", "z", "dt_bias"]


def packed_problem(**options) -> dict[str, torch.Tensor]:
    found = problem(batch=1, length=sum(LENGTHS), **options)
    return {name: found[name].requires_grad_() for name in NAMES}


def alone(p, **options):
    """Each sequence by itself, from slices of the same leaves."""
    runs = []
    for start, length in zip(BOUNDS, LENGTHS, strict=False):
        cut = {name: v[:, start : start + length] if v.ndim > 2 else v for name, v in p.items()}
        runs.append(ops.selective_scan(**cut, return_last_state=True, **options))
    return torch.cat([y for y, _ in runs], 1), torch.cat([h for _, h in runs])


CASES = [
    *(("torch", *pair, complex_A, True) for pair in PAIRS for complex_A in (False, True)),
    ("torch", "step", "step", False, False),
    ("cpu", "step", "step", False, True),
    ("cpu", "step", "step", True, False),
    ("triton", "step", "step", False, True),
    ("triton", "group", "constant", False, False),
]


@pytest.mark.parametrize(("backend", "B", "C", "complex_A", "softplus"), CASES)
def test_packed_scan_is_each_alone(backend, B, C, complex_A, softplus):
    p = packed_problem(B=B, C=C, complex_A=complex_A)
    options = {"backend": backend, "softplus": softplus}
    y, h = ops.selective_scan(**p, cu_seqlens=BOUNDS, return_last_state=True, **options)
    right, last = alone(p, **options)
    assert_close(y, right, rtol=1e-12, atol=1e-12)
    assert_close(h, last, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(y.square().sum() + h.abs().square().sum(), [*p.values()])
    wanted = torch.autograd.grad(right.square().sum() + last.abs().square().sum(), [*p.values()])
    for name, one, other in zip(p, got, wanted, strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_packed_scan_in_other_types(dtype):
    found = problem(batch=1, length=sum(LENGTHS), dtype=dtype)
    p = {name: found[name] for name in NAMES}
    y, h = ops.selective_scan(**p, cu_seqlens=BOUNDS, return_last_state=True, softplus=True)
    right, last = alone(p, softplus=True)
    assert y.dtype == right.dtype
    assert_close(y, right)
    assert_close(h, last)


@given(st.lists(st.lists(st.integers(1, 5), min_size=1), min_size=1, max_size=3), st.data())
def test_side_by_side_and_back(rows, data):
    """Any rows of any sequences: nothing is lost, and no number is in two places."""
    length = max(map(sum, rows))
    rows = [[*row, *[1] * (length - sum(row))] for row in rows]
    numbers = [n for row in rows for n in row]
    drawn = st.lists(st.integers(-3, 3), min_size=len(numbers), max_size=len(numbers))
    names = [2 * name + k % 2 for k, name in enumerate(data.draw(drawn))]  # neighbours differ
    idx = torch.tensor(names).repeat_interleave(torch.tensor(numbers)).reshape(len(rows), length)
    x = torch.arange(idx.numel()).reshape(idx.shape) + 1
    packing = ops.Packing(x, seq_idx=idx)
    apart = packing.side_by_side(x)
    assert packing.lengths.tolist() == numbers
    assert sorted(apart[apart > 0].tolist()) == x.flatten().tolist()
    assert torch.equal(packing.behind_each_other(apart), x)
    assert [len(one[0]) for one in packing.apart(x)] == numbers


@pytest.mark.parametrize("name", LAYERS)
def test_packed_layer_is_each_alone(name):
    """Outputs, states and the gradients of all parameters; a gradient does not leak."""
    layer, x = make(name), noise(1, sum(LENGTHS), CHANNELS).requires_grad_()
    runs = [layer(one, return_state=True) for one in x.split(LENGTHS, 1)]
    right = torch.cat([y for y, _ in runs], 1)
    y = layer(x, cu_seqlens=BOUNDS)
    assert_close(y, right, rtol=1e-9, atol=1e-11)
    same, states = layer(x, cu_seqlens=BOUNDS, return_state=True)
    assert_close(same, right, rtol=1e-9, atol=1e-11)
    for got, (_, wanted) in zip(states, runs, strict=True):
        for one, other in zip(leaves(got), leaves(wanted), strict=True):
            assert_close(one, other, rtol=1e-9, atol=1e-11)
    inputs = [x, *layer.parameters()]
    got = torch.autograd.grad(y.square().sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad(right.square().sum(), inputs, allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        assert_close(one, other, rtol=1e-7, atol=1e-9)
    (leak,) = torch.autograd.grad(layer(x, cu_seqlens=BOUNDS)[:, LENGTHS[0] :].sum(), x)
    assert not leak[:, : LENGTHS[0]].any()


@pytest.mark.parametrize("kind", [nn.S4, nn.S4D])
def test_packed_layer_that_reads_the_future_is_each_alone(kind):
    torch.manual_seed(0)
    layer, x = kind(CHANNELS, 8, bidirectional=True).double(), noise(1, sum(LENGTHS), CHANNELS)
    right = torch.cat([layer(one) for one in x.split(LENGTHS, 1)], 1)
    assert_close(layer(x, cu_seqlens=BOUNDS), right, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mixer", ["mamba", "attention"])
def test_packed_text_is_each_alone(mixer):
    torch.manual_seed(0)
    model = nn.LanguageModel(9, 8, layers=2, mixer=mixer).double()
    tokens = torch.randint(9, (2, 12))
    idx = torch.tensor([[5] * 3 + [0] * 9, [7] * 10 + [2] * 2])
    right = torch.stack(
        [
            torch.cat([model(tokens[:1, :3]), model(tokens[:1, 3:])], 1)[0],
            torch.cat([model(tokens[1:, :10]), model(tokens[1:, 10:])], 1)[0],
        ]
    )
    assert_close(model(tokens, seq_idx=idx), right, rtol=1e-9, atol=1e-11)
    logits, states = model(tokens, seq_idx=idx, return_state=True)
    assert_close(logits, right, rtol=1e-9, atol=1e-11)
    _, state = model(tokens[1:, :10], return_state=True)
    for one, other in zip(leaves(states[2]), leaves(state), strict=True):
        assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"cu_seqlens": [0, 12]}, TypeError, r"cu_seqlens must be a torch tensor; got a list"),
        ({"cu_seqlens": torch.tensor([0.0, 12.0])}, TypeError, "cu_seqlens must be of whole num"),
        ({"cu_seqlens": torch.tensor([0, 4, 11])}, ValueError, r"rise from 0 to the length 12, .*"),
        ({"cu_seqlens": torch.tensor([0, 7, 4, 12])}, ValueError, r"got \[0, 7, 4, 12\]: start"),
        ({"cu_seqlens": torch.tensor([-1, 4, 12])}, ValueError, r"got \[-1, 4, 12\]"),
        ({"cu_seqlens": torch.tensor([0, 4, 4, 12])}, ValueError, r"got \[0, 4, 4, 12\]"),
        ({"seq_idx": torch.zeros(12).long()}, ValueError, r"\(1, 12\) here; got \(12,\): give"),
        ({"seq_idx": torch.zeros(1, 12)}, TypeError, "seq_idx must be of whole numbers; got"),
        ({"seq_idx": torch.zeros(1, 12).long(), "cu_seqlens": BOUNDS}, ValueError, "got both"),
        ({"cu_seqlens": BOUNDS, "state": 1}, ValueError, "(state|h0) must be left out with seq"),
    ],
)
def test_bad_packing_is_refused_in_a_sentence(options, error, sentence):
    layer, x = make("mixer mamba"), noise(1, 12, CHANNELS)
    with pytest.raises(error, match=sentence):
        layer(x, **options)
    p = {name: v.detach() for name, v in packed_problem().items()}
    if "state" in options:
        options = {"cu_seqlens": BOUNDS, "h0": torch.zeros(1, 4, 3, dtype=torch.float64)}
    with pytest.raises(error, match=sentence):
        ops.selective_scan(**p, **options)


def test_cu_seqlens_is_for_one_row():
    with pytest.raises(ValueError, match="for a batch of one row; got 2 rows"):
        ops.Packing(torch.zeros(2, 12), cu_seqlens=BOUNDS)
