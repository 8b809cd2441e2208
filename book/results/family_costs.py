"""Measure what the members of the family cost; family_costs.json holds what chapter 10 prints.

One layer of 64 channels, batch 1, float32, one thread. Training form: a forward and a backward pass
over a sequence, its time, and the bytes that the forward pass keeps for the backward one. Generation
form: one step after a context, its time, and the bytes of the state. Times are CPU seconds of the
process, which other work on the machine disturbs less than seconds on the wall. The file is written
after each member; name members to measure only these:

    python book/results/family_costs.py
    python book/results/family_costs.py attention s4d
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
from ssmlab import timing
from ssmlab.nn import MIXERS
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

CHANNELS = 64
LENGTHS = tuple(2**k for k in range(7, 13))
LONGER = (
    *LENGTHS,
    2**13,
    2**14,
)  # attention without its table: where the square shows
CONTEXTS = tuple(2**k for k in range(7, 15))
FILE = Path(__file__).with_suffix(".json")

MEMBERS: dict[str, Callable[[], torch.nn.Module]] = {
    "attention": partial(MIXERS["attention"], CHANNELS),
    "attention, table kept": partial(MIXERS["attention"], CHANNELS),
    "s4d": partial(MIXERS["s4d"], CHANNELS, state=16),
    "lru": partial(MIXERS["lru"], CHANNELS, state=64),
    "linear attention": partial(MIXERS["linear_attention"], CHANNELS),
    "retnet": partial(MIXERS["retnet"], CHANNELS),
    "rwkv": partial(MIXERS["rwkv"], CHANNELS),
    "gated memory": partial(MIXERS["simple_gla"], CHANNELS),
    "mamba": partial(MIXERS["mamba"], CHANNELS, state=16),
    "gated deltanet": partial(MIXERS["gated_deltanet"], CHANNELS),
}


def train(layer: torch.nn.Module, x: torch.Tensor) -> None:
    """Run forward and backward."""
    layer.zero_grad()
    layer(x).square().sum().backward()


def measure(func: Callable[[], object], repeat: int = 7) -> timing.Timing:
    """Time a function in CPU seconds, at least 20 ms in each repeat."""

    def clock(calls: int) -> float:
        start = process_time()
        for _ in range(calls):
            func()
        return process_time() - start

    func()
    calls = 1
    while clock(calls) < 0.02:
        calls *= 2
    return timing.Timing(
        tuple(clock(calls) / calls for _ in range(repeat)), calls
    )


def kept_bytes(layer: torch.nn.Module, x: torch.Tensor) -> int:
    """Count the bytes, parameters apart, that the forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    total = sum(kept.values())
    del y
    return total


def tensors(state: Any) -> Iterator[torch.Tensor]:
    """Walk through a state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, tuple):
        for part in state:
            yield from tensors(part)


def row(**fields: Any) -> dict[str, Any]:
    """Make one row of the file, with the median and quartiles of a Timing."""
    measured = fields.pop("timing")
    return {
        **fields,
        "seconds": measured.median,
        "quartiles": measured.quartiles,
    }


def rows(name: str) -> Iterator[dict[str, Any]]:
    """Measure one member in both forms."""
    torch.manual_seed(0)
    layer = MEMBERS[name]()
    backends = [
        SDPBackend.MATH if "table" in name else SDPBackend.FLASH_ATTENTION
    ]
    with sdpa_kernel(backends):
        for length in LONGER if name == "attention" else LENGTHS:
            x = torch.randn(1, length, CHANNELS)
            yield row(
                form="training",
                length=length,
                timing=measure(partial(train, layer, x), repeat=5),
                bytes=kept_bytes(layer, x),
            )
    if "table" in name:
        return
    with torch.no_grad():
        for context in CONTEXTS:
            _, state = layer(
                torch.randn(1, context, CHANNELS), return_state=True
            )
            x_t = torch.randn(1, CHANNELS)
            yield row(
                form="generation",
                length=context,
                timing=measure(partial(layer.step, x_t, state)),
                bytes=sum(
                    part.numel() * part.element_size()
                    for part in tensors(state)
                ),
            )


def main(names: list[str]) -> None:
    """Measure the members that were named, or all, and put them into the result file."""
    results = timing.load_results(FILE)["results"] if FILE.exists() else {}
    for name in (bar := tqdm(names or list(MEMBERS), unit="member")):
        bar.set_postfix_str(name)
        results[name] = list(rows(name))
        timing.save_results(
            FILE,
            {known: results[known] for known in MEMBERS if known in results},
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
