"""Every public function against bad values: it answers, or says in one sentence what is wrong.

A call may return, and then nothing in the answer is NaN that was not given; or it raises one of our
sentences ("... must ...; got ...: ..."), from a ``raise`` of this library. What a bad value must
not do: reach NumPy, SciPy, torch or Python, whose traces say nothing of the argument.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import pkgutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch

import ssmlab
from ssmlab import (
    compat,
    diagonal,
    discretize,
    family,
    hippo,
    lti,
    mamba,
    nn,
    ops,
    results,
    s4,
    scan,
    selective,
    tasks,
    timing,
)
from ssmlab.nn import checkpoints, generation, training

HERE = Path(ssmlab.__file__).parent
RNG = np.random.default_rng(0)


def real(*shape: int) -> np.ndarray:
    return RNG.uniform(0.1, 0.9, shape)


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.as_tensor(real(*shape)).to(dtype)


A, B, C = -np.diag([1.0, 2.0]), np.ones(2), np.ones(2)
SYSTEM = ssmlab.StateSpace(A, B, C)
DISCRETE = SYSTEM.discretize(0.1)
RULE = {"A": A, "B": B, "dt": 0.1}
MODES = dict(zip(("Lambda", "P", "B"), s4.dplr(4)[:3], strict=True))
S4 = MODES | {"C": np.ones(2), "dt": 0.1, "length": 5}
QK = {"q": real(5, 2), "k": real(5, 2)}
MEMBER = family.deltanet(**QK, beta=real(5))
LRU = family.LRU.ring(3, 2)
RWKV4 = family.RWKV4(real(5, 2), real(2), real(2))
ATTENTION = family.Attention(**QK)
SCAN = {"x": real(1, 3, 2), "dt": real(1, 3, 2), "A": -real(2, 4), "B": real(1, 3, 4)}
SCAN |= {"C": real(1, 3, 4), "D": real(2), "h0": real(1, 2, 4)}
TENSORS = {name: torch.as_tensor(value) for name, value in SCAN.items()}
TENSORS |= {"z": tensor(1, 3, 2, dtype=torch.float64), "dt_bias": tensor(2, dtype=torch.float64)}
COMPLEX = {"dtype": torch.complex128}
CHANNELS = {name: tensor(3, 2, **COMPLEX) for name in ("Lambda", "P", "B_bar", "C")}
MIXERS = {name: mixer(8) for name, mixer in nn.MIXERS.items()}
MODEL = nn.LanguageModel(8, 4, layers=1)
WEIGHTS = {f"backbone.{name}": p.detach().numpy() for name, p in MODEL.named_parameters()}
CLASSIFIER = nn.SequenceClassifier(1, 3, channels=4, depth=1)


def memory(samples: int = 3) -> hippo.LegSMemory:
    result = hippo.LegSMemory(4)
    result.feed(np.ones(samples))
    return result


def pair(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


def step_of(layer: torch.nn.Module) -> Callable:
    return lambda x, state: layer.step(x, state)


Case = tuple[Callable[..., Any], dict[str, Any]]
CASES: dict[str, Case] = {
    "StateSpace": (ssmlab.StateSpace, {"A": A, "B": B, "C": C, "D": 0.0}),
    "StateSpace.discretize": (SYSTEM.discretize, {"dt": 0.1, "method": "zoh"}),
    "StateSpace.impulse_response": (SYSTEM.impulse_response, {"t": real(3)}),
    "StateSpace.step_response": (SYSTEM.step_response, {"t": real(3)}),
    "StateSpace.free_response": (SYSTEM.free_response, {"t": real(3), "h0": B}),
    "StateSpace.simulate": (SYSTEM.simulate, {"x": real(5), "dt": 0.1, "method": "foh", "h0": B}),
    "StateSpace.transfer_function": (SYSTEM.transfer_function, {"s": real(3)}),
    "StateSpace.transform": (SYSTEM.transform, {"T": np.eye(2)}),
    "StateSpace.from_scipy": (ssmlab.StateSpace.from_scipy, {"system": SYSTEM.to_scipy()}),
    "DiscreteStateSpace": (
        ssmlab.DiscreteStateSpace,
        {"A_bar": A, "B_bar": B, "C": C, "D": 0.0, "dt": 1.0, "B_prev": B},
    ),
    "DiscreteStateSpace.simulate": (DISCRETE.simulate, {"x": real(5), "h0": B}),
    "DiscreteStateSpace.transfer_function": (DISCRETE.transfer_function, {"z": real(3)}),
    "DiscreteStateSpace.from_scipy": (
        ssmlab.DiscreteStateSpace.from_scipy,
        {"system": DISCRETE.to_scipy()},
    ),
    "lti.recurrence": (lti.recurrence, {"system": DISCRETE, "x": real(5), "h0": B}),
    "lti.kernel": (lti.kernel, {"system": DISCRETE, "length": 5}),
    "lti.convolve": (lti.convolve, {"x": real(5), "K_bar": real(5)}),
    "lti.convolution": (lti.convolution, {"system": DISCRETE, "x": real(5), "h0": B}),
    "lti.free_response": (lti.free_response, {"system": DISCRETE, "length": 5, "h0": B}),
    "lti.transfer_function": (lti.transfer_function, {"system": DISCRETE, "z": real(3)}),
    "lti.frequency_response": (lti.frequency_response, {"system": DISCRETE, "omega": real(3)}),
    "discretize.phi1": (discretize.phi1, {"z": real(3)}),
    "discretize.phi2": (discretize.phi2, {"z": real(3)}),
    **{
        f"discretize.{name}": (function, RULE | ({"alpha": 0.5} if name == "gbt" else {}))
        for name, function in discretize.METHODS.items()
    },
    **{f"diagonal.{name}": (f, {"N": 4}) for name, f in diagonal.INITIALISATIONS.items()},
    "diagonal.kernel": (
        diagonal.kernel,
        {"A": -B, "B": B, "C": C, "dt": 0.1, "length": 5, "method": "zoh"},
    ),
    "diagonal.dss_kernel": (diagonal.dss_kernel, {"A": -B, "W": B, "dt": 0.1, "length": 5}),
    "diagonal.vandermonde": (diagonal.vandermonde, {"weights": B, "A_bar": B / 2, "length": 5}),
    "s4.dplr": (s4.dplr, {"N": 4}),
    "s4.system": (s4.system, MODES | {"C": np.ones(2)}),
    "s4.truncate": (s4.truncate, {key: S4[key] for key in ("Lambda", "P", "C", "dt", "length")}),
    "s4.untruncate": (
        lambda Lambda, P, C_tilde, dt, length: s4.untruncate(Lambda, P, C_tilde, dt, length),
        {key: S4[key] for key in ("Lambda", "P", "dt", "length")} | {"C_tilde": np.ones(2)},
    ),
    "s4.generating_function": (
        s4.generating_function,
        {key: S4[key] for key in ("Lambda", "P", "B", "dt", "length")} | {"C_tilde": np.ones(2)},
    ),
    "s4.kernel": (s4.kernel, S4),
    "s4.kernel_in_blocks": (s4.kernel_in_blocks, {"system": DISCRETE, "length": 5}),
    "s4.recurrence": (
        s4.recurrence,
        {key: S4[key] for key in ("Lambda", "P", "B", "C", "dt")} | {"x": real(5), "h0": B},
    ),
    "hippo.legs": (hippo.legs, {"N": 4}),
    "hippo.legt": (hippo.legt, {"N": 4, "theta": 1.0}),
    "hippo.lmu": (hippo.lmu, {"N": 4, "theta": 1.0}),
    "hippo.lagt": (hippo.lagt, {"N": 4}),
    "hippo.fourier": (hippo.fourier, {"N": 4, "theta": 1.0}),
    **{
        f"hippo.Measure.kernel of {name!r}": (measure.kernel, {"N": 4, "s": real(3)})
        for name, measure in hippo.MEASURES.items()
    },
    "hippo.legs_discrete": (hippo.legs_discrete, {"N": 4, "k": 3, "method": "exact"}),
    "hippo.legs_step": (hippo.legs_step, {"c": real(4), "x": 1.0, "k": 3, "method": "exact"}),
    "hippo.legt_step": (
        hippo.legt_step,
        {"c": real(4), "x": 1.0, "dt": 0.1, "theta": 1.0, "method": "bilinear"},
    ),
    "hippo.legs_online": (hippo.legs_online, {"x": real(5), "N": 4, "method": "bilinear"}),
    "hippo.legt_online": (
        hippo.legt_online,
        {"x": real(5), "N": 4, "theta": 3.0, "method": "zoh"},
    ),
    "hippo.basis": (hippo.basis, {"N": 4, "r": real(3)}),
    "hippo.basis_integral": (hippo.basis_integral, {"N": 4, "r": real(3)}),
    "hippo.gauss": (hippo.gauss, {"nodes": 4}),
    "hippo.project": (hippo.project, {"x": real(5), "N": 4}),
    "hippo.project_function": (
        hippo.project_function,
        {"f": np.square, "N": 4, "T": 1.0, "nodes": 8},
    ),
    "hippo.merge": (hippo.merge, {"pieces": [real(4), real(4)], "lengths": [1.0, 2.0]}),
    "hippo.reconstruct": (hippo.reconstruct, {"c": real(4), "r": real(3)}),
    "hippo.LegSMemory": (hippo.LegSMemory, {"N": 4, "channels": 2}),
    "hippo.LegSMemory.feed": (lambda x: memory().feed(x), {"x": real(3)}),
    "hippo.LegSMemory.reconstruct": (memory().reconstruct, {"times": real(3)}),
    "hippo.LegSMemory.restore": (hippo.LegSMemory.restore, {"saved": memory(600).save()}),
    **{
        f"hippo.LegSMemory.restore {key}": (
            lambda value, key=key: hippo.LegSMemory.restore(memory(600).save() | {key: value}),
            {"value": value},
        )
        for key, value in memory(600).save().items()
    },
    "family.LRU": (
        family.LRU,
        {"nu": real(3), "theta": real(3), "B": real(3, 2), "C": real(2, 3), "D": real(2)},
    ),
    "family.LRU.ring": (
        family.LRU.ring,
        {"state": 3, "channels": 2, "r_min": 0.5, "r_max": 0.9, "max_phase": 1.0, "seed": 0},
    ),
    "family.LRU.step": (LRU.step, {"x_t": real(2), "state": real(3)}),
    "family.LRU.recurrence": (LRU.recurrence, {"x": real(5, 2), "state": real(3)}),
    "family.LRU.parallel": (LRU.parallel, {"x": real(5, 2), "state": real(3)}),
    "family.LRU.mixing_matrix": (LRU.mixing_matrix, {"length": 3}),
    "family.ring": (
        family.ring,
        {"u": real(3), "phase": real(3), "r_min": 0.5, "r_max": 0.9, "max_phase": 1.0},
    ),
    "family.MatrixState": (
        family.MatrixState,
        QK | {"decay": real(5, 1), "beta": real(5), "bonus": real(2)},
    ),
    "family.MatrixState.step": (
        MEMBER.step,
        {"v_t": real(3), "state": MEMBER.initial_state(3), "t": 1},
    ),
    "family.MatrixState.initial_state": (MEMBER.initial_state, {"values": 3}),
    "family.MatrixState.transition": (MEMBER.transition, {"t": 1}),
    "family.Member.recurrence": (
        MEMBER.recurrence,
        {"v": real(5, 3), "state": MEMBER.initial_state(3)},
    ),
    "family.MatrixState.parallel": (
        MEMBER.parallel,
        {"v": real(5, 3), "state": MEMBER.initial_state(3)},
    ),
    "family.Member.chunked": (
        MEMBER.chunked,
        {"v": real(5, 3), "state": MEMBER.initial_state(3), "chunk": 2},
    ),
    "family.MatrixState[...]": (lambda tokens: MEMBER[tokens], {"tokens": slice(1, 3)}),
    "family.deltanet": (family.deltanet, QK | {"beta": real(5)}),
    "family.gated_deltanet": (family.gated_deltanet, QK | {"beta": real(5), "decay": real(5)}),
    "family.gla": (family.gla, QK | {"decay": real(5, 2)}),
    "family.linear_attention": (family.linear_attention, QK),
    "family.elu_plus_one": (family.elu_plus_one, {"x": real(3)}),
    "family.retention": (family.retention, QK | {"gamma": 0.5, "start": 2}),
    "family.retention_decays": (family.retention_decays, {"heads": 3}),
    "family.rotate": (family.rotate, {"x": real(5, 2), "start": 2}),
    "family.head_norm": (family.head_norm, {"y": real(5, 2), "eps": 1e-5}),
    "family.swish": (family.swish, {"x": real(3)}),
    "family.RWKV4": (family.RWKV4, {"k": real(5, 2), "w": real(2), "u": real(2)}),
    "family.RWKV4.initial_state": (RWKV4.initial_state, {"values": 2}),
    "family.RWKV4.step": (RWKV4.step, {"v_t": real(2), "state": RWKV4.initial_state(2), "t": 1}),
    "family.RWKV4.parallel": (RWKV4.parallel, {"v": real(5, 2), "state": RWKV4.initial_state(2)}),
    "family.rwkv6": (family.rwkv6, QK | {"decay": real(5, 2), "bonus": real(2)}),
    "family.Attention": (family.Attention, QK),
    "family.Attention.initial_state": (ATTENTION.initial_state, {"values": 3}),
    "family.Attention.step": (
        ATTENTION.step,
        {"v_t": real(3), "state": ATTENTION.initial_state(3), "t": 1},
    ),
    "family.Attention.parallel": (
        ATTENTION.parallel,
        {"v": real(5, 3), "state": ATTENTION.initial_state(3)},
    ),
    "selective.selective_scan": (selective.selective_scan, SCAN | {"method": "zoh"}),
    "mamba.silu": (mamba.silu, {"x": real(3)}),
    "mamba.rms_norm": (mamba.rms_norm, {"x": real(1, 3, 2), "weight": real(2)}),
    "mamba.causal_convolution": (
        mamba.causal_convolution,
        {"x": real(1, 3, 2), "weight": real(2, 4), "bias": real(2)},
    ),
    "mamba.block": (
        mamba.block,
        {"x": real(1, 3, 4), "weights": WEIGHTS, "prefix": "backbone.layers.0.mixer."},
    ),
    "mamba.language_model": (
        mamba.language_model,
        {"tokens": np.array([[1, 2, 3]]), "weights": WEIGHTS},
    ),
    **{
        f"scan.{name}": (function, {"operator": pair, "elements": [1.0, 2.0, 3.0]})
        for name, function in scan.METHODS.items()
    },
    "scan.chunked chunk": (
        lambda chunk: scan.chunked(pair, [1.0, 2.0, 3.0], chunk),
        {"chunk": 2},
    ),
    "scan.Scan.steps": (scan.sequential(pair, [1.0, 2.0]).steps, {"lanes": 2}),
    "tasks.selective_copying": (
        tasks.selective_copying,
        {"batch": 2, "length": 12, "memorise": 3, "vocabulary": 8, "gap": 1, "seed": 0},
    ),
    "tasks.induction_heads": (
        tasks.induction_heads,
        {"batch": 2, "length": 12, "vocabulary": 8, "gap": 1, "seed": 0},
    ),
    "tasks.latest_value": (
        tasks.latest_value,
        {"batch": 2, "length": 12, "keys": 2, "values": 3, "writes": 4, "seed": 0},
    ),
    "tasks.windows": (
        tasks.windows,
        {"text": np.arange(99, dtype=np.uint8), "batch": 2, "length": 5, "seed": 0},
    ),
    "tasks.python_source": (tasks.python_source, {"split": "validation", "folder": HERE}),
    "timing.slope": (timing.slope, {"sizes": real(3) + np.arange(3), "seconds": real(3)}),
    "timing.in_units": (timing.in_units, {"seconds": 0.1}),
    "timing.measure": (
        timing.measure,
        {"func": int, "clock": "cpu"},
    ),
    "ops.selective_scan": (ops.selective_scan, TENSORS | {"backend": "torch"}),
    "ops.selective_scan_step": (
        ops.selective_scan_step,
        {
            name: value[:, 0] if name in ("x", "dt", "z") else value
            for name, value in TENSORS.items()
        }
        | {"B": TENSORS["B"][:, :1], "C": TENSORS["C"][:, :1], "backend": "cpu"},
    ),
    "ops.fft_convolution": (ops.fft_convolution, {"x": tensor(1, 5, 2), "K_bar": tensor(5, 2)}),
    "ops.vandermonde": (
        ops.vandermonde,
        {"weights": tensor(3, 2, **COMPLEX), "A_bar": tensor(3, 2, **COMPLEX), "length": 5},
    ),
    "ops.dplr_kernel": (ops.dplr_kernel, CHANNELS | {"dt": tensor(3), "length": 5}),
    "ops.dplr_step": (
        ops.dplr_step,
        {name: CHANNELS[name] for name in ("Lambda", "P")}
        | {"B": CHANNELS["C"], "dt": tensor(3), "z": CHANNELS["C"], "x": tensor(3)},
    ),
    "compat.selective_scan_fn": (
        compat.selective_scan_fn,
        {
            "u": tensor(1, 2, 3),
            "delta": tensor(1, 2, 3),
            "A": tensor(2, 4),
            "B": tensor(1, 4, 3),
            "C": tensor(1, 4, 3),
            "D": tensor(2),
            "z": tensor(1, 2, 3),
            "delta_bias": tensor(2),
        },
    ),
    **{
        f"nn.{type(layer).__name__} as {name!r}": (layer, {"x": tensor(1, 3, 8)})
        for name, layer in MIXERS.items()
    },
    **{
        f"nn.{type(layer).__name__}.step as {name!r}": (
            step_of(layer),
            {"x": tensor(1, 8), "state": layer.initial_state(1)},
        )
        for name, layer in MIXERS.items()
    },
    **{
        f"nn.{type(layer).__name__}.initial_state as {name!r}": (layer.initial_state, {"batch": 2})
        for name, layer in MIXERS.items()
    },
    "nn.S4": (nn.S4, {"channels": 4, "state": 4}),
    "nn.S4D": (nn.S4D, {"channels": 4, "state": 4, "init": "legs"}),
    "nn.Mamba": (nn.Mamba, {"channels": 4, "state": 4}),
    "nn.S6": (nn.S6, {"channels": 4, "state": 4}),
    "nn.LRU": (nn.LRU, {"channels": 4, "state": 4, "r_min": 0.1, "r_max": 0.9}),
    "nn.RetNet": (nn.RetNet, {"channels": 4, "heads": 2}),
    "nn.RWKV": (nn.RWKV, {"channels": 4}),
    "nn.LinearAttention": (nn.LinearAttention, {"channels": 4, "heads": 2}),
    "nn.Attention": (nn.Attention, {"channels": 4, "heads": 2}),
    "nn.LanguageModel": (
        nn.LanguageModel,
        {"vocabulary": 8, "channels": 4, "layers": 1, "mixer": "mamba"},
    ),
    "nn.LanguageModel.forward": (MODEL, {"tokens": torch.tensor([[1, 2]])}),
    "nn.LanguageModel.step": (
        MODEL.step,
        {"token": torch.tensor([1]), "state": MODEL.initial_state(1)},
    ),
    "nn.generate": (
        nn.generate,
        {
            "model": MODEL,
            "prompt": torch.tensor([[1, 2]]),
            "tokens": 2,
            "temperature": 0.5,
            "top_p": 0.5,
            "seed": 0,
        },
    ),
    "nn.SequenceClassifier": (
        nn.SequenceClassifier,
        {"inputs": 1, "classes": 3, "channels": 4, "depth": 1},
    ),
    "nn.SequenceClassifier.forward": (CLASSIFIER, {"x": tensor(2, 5, 1)}),
    "nn.fit": (
        nn.fit,
        {
            "model": CLASSIFIER,
            "x": tensor(2, 5, 1),
            "labels": torch.tensor([0, 1]),
            "epochs": 1,
            "batch": 2,
            "lr": 1e-3,
            "weight_decay": 0.0,
            "seed": 0,
        },
    ),
    "nn.accuracy": (
        nn.accuracy,
        {"model": CLASSIFIER, "x": tensor(2, 5, 1), "labels": torch.tensor([0, 1]), "batch": 2},
    ),
    "nn.fit_language_model": (
        nn.fit_language_model,
        {
            "model": MODEL,
            "batches": [tasks.induction_heads(2, 6, vocabulary=8)] * 2,
            "steps": 1,
            "lr": 1e-3,
            "weight_decay": 0.0,
        },
    ),
    "nn.load_checkpoint": (
        nn.load_checkpoint,
        {"folder": "good", "dtype": torch.float32, "device": "cpu"},
    ),
    "nn.save_checkpoint": (
        nn.save_checkpoint,
        {"model": MODEL, "folder": "good", "naming": "transformers"},
    ),
    "results.stored": (results.stored, {"name": "good"}),
    "results.cite": (
        results.cite,
        {"record": {"provenance": results.provenance(), "results": 1}},
    ),
    "results.save_results": (results.save_results, {"path": "good.json", "data": [1.0]}),
    "results.load_results": (results.load_results, {"path": "experiments/good.json"}),
    "nn.parameter_groups": (
        training.parameter_groups,
        {"model": MODEL, "lr": 1e-3, "weight_decay": 0.0},
    ),
}


def bad_values(good: Any) -> Iterator[Any]:
    """What people pass by mistake in the place of a good value."""
    yield from (None, "text", b"bytes", object(), {}, [], [[]], [1.0, [2.0, 3.0]], [None], set())
    yield from (np.nan, np.inf, -1, 0, 2.5, True, 1j, 2**63, 10**30, -(10**30), 1e308, 1e-308)
    yield from (
        np.array("2020-01-01", "datetime64[D]"),
        np.float32(np.nan),
        np.zeros((2, 0)),
        Path("experiments/good.json"),
    )
    yield from (np.ma.masked, [np.ma.masked], np.ma.array([1.0, 2.0], mask=[0, 1]))
    if isinstance(good, (np.ndarray, torch.Tensor)):
        array = np.asarray(good)
        yield from (array[None], array[..., None], array[:0], array[..., :0], array[..., :-1])
        yield from (array.T[..., None], array.astype(str), array.astype(object), array.astype(bool))
        yield from (array + 1j, array * np.nan, array * np.inf, -array, array * 1e308, array * 0)
        yield np.concatenate([array, array])
        masked = np.ma.array(array, mask=np.ones(array.shape, bool))
        yield from (masked, list(masked), array.tolist(), array.astype(np.float16))
        yield torch.as_tensor(array)
        yield torch.as_tensor(array).to("meta")
        if isinstance(good, torch.Tensor):
            tensors = (good[None], good[..., None], good[:0], good[..., :-1], good.to(torch.int32))
            yield from (*tensors, good.to(torch.bool), good.to(torch.complex64), good.bfloat16())
            yield from (torch.cat([good, good]), good.to_sparse(), torch.ones((), dtype=good.dtype))


MODULES = (
    ssmlab.statespace,
    *(compat, diagonal, discretize, lti, mamba, results, s4, scan, selective, tasks, timing),
    *(hippo.measures, hippo.online, hippo.projection, hippo.streaming),
    *(ops.convolution, ops.dplr, ops.scan.front_door, training, checkpoints, generation),
)
#: Functions that take nothing of a user's, or only what another case gives them.
LEFT_OUT = {
    *("affine", "arrays_of", "check_kinds", "check_shapes", "compare", "decays", "fast_length"),
    *("fitted", "provenance", "queries_and_keys", "sample", "show", "state_size", "stopwatch"),
    "tokens",
}


def family_modules() -> list[Any]:
    names = (info.name for info in pkgutil.iter_modules(family.__path__))
    return [importlib.import_module(f"ssmlab.family.{name}") for name in names]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder that holds a checkpoint and a record."""
    monkeypatch.chdir(tmp_path)
    nn.save_checkpoint(MODEL, "good")
    Path("experiments").mkdir()
    results.save_results("experiments/good.json", [1.0])


@pytest.mark.usefixtures("unchecked", "files")
@pytest.mark.parametrize("name", CASES)
def test_an_answer_or_a_sentence(name: str) -> None:
    function, good = CASES[name]
    function(**good)
    wrong = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for argument in good:
            for value in bad_values(good[argument]):
                problem = trouble(function, good | {argument: value})
                if problem:
                    wrong.append(f"{name}({argument}={shown(value)}): {problem}")
    assert not wrong, "\n".join([f"{len(wrong)} calls:", *wrong])


def trouble(function: Callable[..., Any], arguments: dict[str, Any]) -> str | None:
    """Call a function; say what is wrong with how it answers."""
    try:
        answer = function(**arguments)
        if has_nan(answer) and not any(map(is_extreme, arguments.values())):
            return "answers with NaN"
        return wrong_answer(function, arguments)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if isinstance(error, (TypeError, ValueError, OSError)) and is_ours(frame):
            return None if "; got" in str(error) or "must" in str(error) else f"says {error}"
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:90]!r}"


def has_nan(value: Any) -> bool:
    """Tell whether a number in an array, a tensor or a tuple of them is none."""
    if isinstance(value, tuple):
        return any(map(has_nan, value))
    if isinstance(value, torch.Tensor):
        return not value.is_meta and bool(value.isnan().any())
    if isinstance(value, (float, np.ndarray, np.generic)):
        array = np.asarray(value)
        return array.dtype.kind in "fc" and bool(np.isnan(array).any())
    return False


def is_extreme(value: Any) -> bool:
    """Tell whether an argument holds NaN itself, or so many large numbers that a sum overflows."""
    large = isinstance(value, np.ndarray) and value.dtype.kind in "fc" and value.ndim > 0
    return has_nan(value) or (large and bool((np.abs(value) > 1e100).any()))


def wrong_answer(function: Callable[..., Any], arguments: dict[str, Any]) -> str | None:
    """Call a function that took its arguments again; its annotations say what it returns."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", False)
    try:
        function(**arguments)
    except jaxtyping.TypeCheckError as error:
        return first_line(error) if "return value" in first_line(error) else None
    except Exception:
        return None
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
    return None


def first_line(error: Exception) -> str:
    return str(error).split(chr(10))[0]


def is_ours(frame: traceback.FrameSummary) -> bool:
    """Tell whether a line is a ``raise`` of the library's own."""
    inside = HERE in Path(frame.filename).parents
    return inside and any(
        linecache.getline(frame.filename, line).lstrip().startswith("raise ")
        for line in range(max(1, frame.lineno - 1), frame.lineno + 1)
    )


def shown(value: Any) -> str:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    return repr(value)[:60]


def test_the_judge_hears_what_is_not_ours() -> None:
    """Traces from inside and wrong answers are trouble; a sentence is none."""
    assert "ValueError at" in str(trouble(lambda x: np.reshape(x, 3), {"x": [1, 2]}))
    assert "TypeError at" in str(trouble(lambda x: x + "", {"x": 1}))
    assert trouble(lambda x: np.array(np.nan), {"x": 1}) == "answers with NaN"
    assert trouble(hippo.legs, {"N": -1}) is None


def test_the_table_is_whole() -> None:
    """Each public function of these modules, and each method of their classes, is called."""
    called = {name.split(" ")[0] for name in CASES}
    missing = []
    for module in (*MODULES, *family_modules()):
        package = module.__name__.split(".")[1]
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            inside = vars(value).items() if inspect.isclass(value) else ()
            names = [f"{name}.{n}" for n, method in inside if n[0] != "_" and takes_any(method)]
            names += [name] if inspect.isfunction(value) and name not in LEFT_OUT else []
            missing += [n for n in names if not {n, f"{package}.{n}"} & called]
    assert not missing, "add to CASES or LEFT_OUT: " + ", ".join(missing)


def takes_any(method: Any) -> bool:
    """Tell whether a method of ours takes an argument, and is more than a promise."""
    function = getattr(method, "__func__", method)  # of a class method, what it wraps
    ours = inspect.isfunction(function) and function.__module__.startswith("ssmlab")
    if not ours or getattr(function, "__isabstractmethod__", False):
        return False
    return len(inspect.signature(function).parameters) > 1
