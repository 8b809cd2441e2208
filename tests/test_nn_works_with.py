"""What every layer and model works with, beside what the reference's page holds: replicas, shards.

One test for each feature, over the same cases. What does not work yet stands in ``NOT_YET``, with
the reason; a test there that passes fails, so that the list stays true.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from layer_cases import CHANNELS, LAYERS, noise
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.experimental import implicit_replication
from torch.testing import assert_close

from ssmlab import nn

CASES: dict[str, Callable[[], torch.nn.Module]] = {
    "Attention": LAYERS["Attention"],
    "LinearAttention": LAYERS["LinearAttention gated delta"],
    "RetNet": LAYERS["RetNet"],
    "RWKV": LAYERS["mixer rwkv"],
    "LRU": LAYERS["LRU"],
    "S4": LAYERS["S4"],
    "S4D": LAYERS["S4D legs zoh"],
    "S6": LAYERS["S6 of dt and B"],
    "Mamba": LAYERS["mixer mamba"],
    "Gated": LAYERS["mixer s4d"],
    "LanguageModel": partial(nn.LanguageModel, 11, CHANNELS, 1),
    "SequenceClassifier": partial(nn.SequenceClassifier, CHANNELS, 3, channels=4, depth=1),
}

SCAN = "the compiled scan is not traced"
NOT_YET = {"compile": dict.fromkeys(("S6", "Mamba", "LanguageModel"), SCAN)}


def works_with(feature: str) -> pytest.MarkDecorator:
    """Run a test over all cases; those in NOT_YET must fail."""
    reasons = NOT_YET.get(feature, {})
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[pytest.mark.xfail(strict=True, reason=reasons[name])])
            if name in reasons
            else name
            for name in CASES
        ],
    )


def make(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return CASES[name]().eval()


def data(name: str) -> torch.Tensor:
    if name == "LanguageModel":
        return torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    return noise(2, 5, CHANNELS, dtype=torch.float32)


def gradients(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model(x).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


# --- less memory ---------------------------------------------------------------------------------


@works_with("activation checkpointing")
def test_works_with_activation_checkpointing(name):
    x, expected = data(name), gradients(make(name), data(name))
    model = make(name)
    found = gradients(checkpoint_wrapper(model), x)
    for key, grad in found.items():
        assert torch.equal(grad, expected[key])


# --- copies and files ----------------------------------------------------------------------------


@works_with("torch.save of a state")
def test_works_with_torch_save_of_a_state(name):
    state, file = make(name).initial_state(2), io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    again = torch.load(file, weights_only=True)
    assert type(again) is type(state)
    assert repr(again) == repr(state)


# --- without memory ------------------------------------------------------------------------------


@works_with("meta device")
def test_works_with_meta_device(name):
    """Built, run and stepped without memory; then started: the same values as built directly."""
    with torch.device("meta"):
        model = make(name)
    y = model(data(name).to("meta"))
    assert y.is_meta
    assert y.shape == make(name)(data(name)).shape
    state = model.initial_state(2)
    model.step(data(name)[:, 0].to("meta"), state)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            value.fill_(torch.nan)
    torch.manual_seed(0)
    model.reset_parameters()
    expected = make(name).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


# --- replicas and shards -------------------------------------------------------------------------


def replica(module: torch.nn.Module) -> Any:
    """Copy a module as DataParallel does: parameters become attributes that nobody lists."""
    copied = module._replicate_for_data_parallel()
    for name, p in module._parameters.items():
        if p is None:
            copied._parameters[name] = None
        else:
            setattr(copied, name, p * 1)
    for name, b in module._buffers.items():
        copied._buffers[name] = b.clone()
    for name, child in module._modules.items():
        copied._modules[name] = replica(child)
    return copied


@works_with("DataParallel")
def test_works_with_data_parallel(name):
    model, x = make(name), data(name)
    copied = replica(model)
    assert not list(copied.parameters())
    assert torch.equal(copied(x), model(x))
    y_t, _ = copied.step(x[:, 0], copied.initial_state(2))
    assert_close(y_t, model.step(x[:, 0], model.initial_state(2))[0])
    expected = gradients(make(name), x)
    copied(x).square().sum().backward()
    for key, p in model.named_parameters():
        assert_close(p.grad, expected[key])


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """Be the only process of a group."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@works_with("DistributedDataParallel")
@pytest.mark.usefixtures("group")
def test_works_with_distributed_data_parallel(name):
    x, expected = data(name), gradients(make(name), data(name))
    model = torch.nn.parallel.DistributedDataParallel(make(name))
    for key, grad in gradients(model, x).items():
        assert_close(grad, expected[key.removeprefix("module.")])


@works_with("FSDP")
@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
def test_works_with_fsdp(name):
    x, expected = data(name), gradients(make(name), data(name))
    flat = FullyShardedDataParallel(make(name), device_id=torch.device("cpu"))
    assert_close(flat(x), make(name)(x))
    (grad,) = gradients(flat, x).values()
    assert_close(grad.norm() ** 2, sum(g.norm() ** 2 for g in expected.values()))


@works_with("FSDP2")
@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
def test_works_with_fsdp2(name):
    x, expected = data(name), gradients(make(name), data(name))
    model = make(name)
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
    assert_close(model(x), make(name)(x))
    for key, grad in gradients(model, x).items():
        assert_close(grad.full_tensor(), expected[key])


@works_with("FSDP2 on the meta device")
@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
def test_works_with_fsdp2_on_the_meta_device(name):
    with torch.device("meta"):
        model = make(name)
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    with implicit_replication():
        model.reset_parameters()
    assert_close(model(data(name)), make(name)(data(name)))


# --- graphs --------------------------------------------------------------------------------------


def compiled(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    torch._dynamo.reset()
    return torch.compile(model, backend="eager", fullgraph=True)(x)


def trace_all() -> None:
    """Print what goes wrong for each case: nothing, if all is well."""
    wrong: dict[str, str] = {}
    for name in CASES:
        model, x = make(name), data(name)
        try:
            assert_close(compiled(model, x), model(x))
            wrong[name] = ""
        except Exception as error:
            wrong[name] = repr(error)
    print(json.dumps(wrong))


@pytest.fixture(scope="module")
def wrong() -> dict[str, str]:
    """Trace everything in a process of its own, without the run-time checks of the tests."""
    code = "import test_nn_works_with as here; here.trace_all()"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@works_with("compile")
def test_works_with_compile(name, wrong):
    assert not wrong[name]
