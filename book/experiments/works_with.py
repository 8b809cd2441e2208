"""What works with what in torch: the rows, the columns, and a check for each pair of them.

A check gets a case and a device, and returns its error, against float64 on
the CPU where there is one. It raises what torch or the library says, or
`Absent` where the pair means nothing. `tools/works_with.py` makes the page of
the library reference from the checks on a CPU and from the record of
`gpu_checks.py`, which runs them on GPUs.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from ssmlab import nn, ops
from torch import Tensor

CHANNELS, LENGTH = 8, 12
WIDTH = 16  # of a model: keys of 4 numbers, as those of 2 can be nearly 0
LIMITS = {  # of the error, the norm of the difference over the norm
    torch.float64: 1e-9,
    torch.float32: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
NOT_TRIED = "not tried"
Check = Callable[["Case", str], float | None]


class Absent(Exception):
    """The pair means nothing: an operator has no state, a token no gradient."""


class Untried(Exception):
    """The pair takes another machine than this one."""


class Op(torch.nn.Module):
    """An operator of `ssmlab.ops` with learned arguments."""

    def __init__(
        self, run: Callable[..., Any], **arguments: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.run = run
        for name, shape in arguments.items():
            value = torch.rand(shape) + 0.1
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, x: Tensor) -> Any:
        """Call the operator."""
        return self.run(x, **dict(self.named_parameters()))


@dataclass(frozen=True)
class Case:
    """A row of the table: what to build, and whether it takes tokens."""

    name: str
    build: Callable[[], torch.nn.Module]
    tokens: bool = False

    def make(self, device: str, dtype: torch.dtype) -> torch.nn.Module:
        """Build it with the same weights every time."""
        torch.manual_seed(0)
        return self.build().to(device, dtype).eval()

    def draw(self, device: str, dtype: torch.dtype, batch: int = 4) -> Tensor:
        """Draw an input."""
        generator = torch.Generator().manual_seed(1)
        if self.tokens:
            x = torch.randint(16, (batch, LENGTH), generator=generator)
            return x.to(device)
        x = torch.randn(batch, LENGTH, CHANNELS, generator=generator)
        return x.to(device, dtype)


def scan_real(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Any:
    """The selective scan, with a real A."""
    B_t = x[..., :4] * B
    return ops.selective_scan(x, x * dt, -A, B_t, B_t, softplus=True)


def scan_complex(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Any:
    """The selective scan, with a complex A."""
    A = A.to(torch.promote_types(A.dtype, torch.float32))
    B_t, rates = x[..., :4] * B, torch.complex(-A, A)
    return ops.selective_scan(x, x * dt, rates, B_t, B_t, softplus=True)


def of_kernel(x: Tensor, a: Tensor, w: Tensor) -> Any:
    """The Vandermonde kernel of a diagonal system, and its convolution."""
    A_bar, weights = torch.polar(a.sigmoid(), a), torch.complex(w, w)
    return ops.fft_convolution(x, ops.vandermonde(weights, A_bar, LENGTH))


SCAN = {"dt": (CHANNELS,), "A": (CHANNELS, 4), "B": (4,)}
LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "S4": partial(nn.S4, CHANNELS, 8),
    "S4D": partial(nn.S4D, CHANNELS, 8),
    "S6": partial(nn.S6, CHANNELS, 4),
    "Mamba": partial(nn.Mamba, CHANNELS),
    "LRU": partial(nn.LRU, CHANNELS, 4),
    "RetNet": partial(nn.RetNet, CHANNELS, 2),
    "RWKV": partial(nn.RWKV, CHANNELS),
    "Attention": partial(nn.Attention, CHANNELS, 2),
    "LinearAttention": partial(nn.LinearAttention, CHANNELS, 2),
    "LinearAttention, gated, delta": partial(
        nn.LinearAttention, CHANNELS, 2, decay="gated", delta=True
    ),
    "SequenceClassifier": partial(
        nn.SequenceClassifier, CHANNELS, 2, channels=4, depth=1, dropout=0.0
    ),
}
OPS: dict[str, Callable[[], torch.nn.Module]] = {
    "ops.selective_scan": partial(Op, scan_real, **SCAN),
    "ops.selective_scan, complex A": partial(Op, scan_complex, **SCAN),
    "ops.fft_convolution": partial(
        Op, lambda x, K_bar: ops.fft_convolution(x, K_bar), K_bar=(5, CHANNELS)
    ),
    "ops.vandermonde": partial(Op, of_kernel, a=(CHANNELS, 4), w=(CHANNELS, 4)),
}
CASES = [Case(name, build) for name, build in LAYERS.items()]
CASES += [
    Case(
        f"LanguageModel, {name}",
        partial(nn.LanguageModel, 16, WIDTH, 1, name),
        tokens=True,
    )
    for name in ("mamba", *(name for name in nn.MIXERS if name != "mamba"))
]
CASES += [Case(name, build) for name, build in OPS.items()]
#: The rows of the page: one language model stands for all.
SHOWN = [c for c in CASES if not c.tokens or c.name.endswith(" mamba")]


# --- what is compared ----------------------------------------------------------------------------


def gradients(y: Tensor, model: torch.nn.Module) -> list[Tensor]:
    """The gradient of the sum of squares, for every parameter.

    A mean would make it so small that float16 has no digits left for it.
    """
    return list(
        torch.autograd.grad(
            y.to(torch.promote_types(y.dtype, torch.float32)).square().sum(),
            list(model.parameters()),
        )
    )


def distance(got: list[Tensor], expected: list[Tensor]) -> float:
    """The norm of the difference over the norm, of all tensors together."""
    flat = [
        torch.cat([v.detach().cpu().double().flatten() for v in part])
        for part in (got, expected)
    ]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def within(error: float, dtype: torch.dtype) -> float:
    """Give the error back, unless it is too large."""
    if not error <= LIMITS[dtype]:
        raise AssertionError(f"the error is {error:.1e}")
    return error


def compare(
    run: Callable[[Tensor], Any],
    model: torch.nn.Module,
    x: Tensor,
    dtype: torch.dtype,
) -> float:
    """The larger error of outputs and gradients against float64 on the CPU."""
    exact = deepcopy(model).to("cpu", torch.float64)
    exact_x = x.cpu() if not x.is_floating_point() else x.cpu().double()
    y, expected = run(x), exact(exact_x)
    error = distance([y], [expected])
    of_gradients = distance(gradients(y, model), gradients(expected, exact))
    return within(max(error, of_gradients), dtype)


# --- the columns ---------------------------------------------------------------------------------


def plain(case: Case, device: str, dtype: torch.dtype) -> float:
    """Forward and backward."""
    model = case.make(device, dtype)
    return compare(model, model, case.draw(device, dtype), dtype)


def autocast(case: Case, device: str, dtype: torch.dtype) -> float:
    """Forward and backward, with the forward pass under autocast."""
    model = case.make(device, torch.float32)

    def run(x: Tensor) -> Any:
        with torch.autocast(torch.device(device).type, dtype):
            return model(x)

    return compare(run, model, case.draw(device, torch.float32), dtype)


def compiled(case: Case, device: str, backend: str = "aot_eager") -> float:
    """Forward and backward through torch.compile."""
    model = case.make(device, torch.float32)
    torch.compiler.reset()
    run = torch.compile(model, backend=backend)
    return compare(run, model, case.draw(device, torch.float32), torch.float32)


def exported(case: Case, device: str) -> float:
    """The program that torch.export makes gives the same outputs."""
    model = case.make(device, torch.float32)
    x = case.draw(device, torch.float32)
    with torch.no_grad():
        program = torch.export.export(model, (x,)).module()
        return within(distance([program(x)], [model(x)]), torch.float32)


def func_grad(case: Case, device: str) -> float:
    """The gradient by torch.func.grad."""
    model = case.make(device, torch.float64)
    x = case.draw(device, torch.float64)

    def loss(parameters: dict[str, Tensor]) -> Any:
        y = torch.func.functional_call(model, parameters, (x,))
        return y.square().sum()

    found = torch.func.grad(loss)(dict(model.named_parameters()))
    expected = gradients(model(x), model)
    return within(distance(list(found.values()), expected), torch.float64)


def func_vmap(case: Case, device: str) -> float:
    """The outputs, one sequence at a time, by torch.func.vmap."""
    model = case.make(device, torch.float64)
    x = case.draw(device, torch.float64)
    with torch.no_grad():
        found = torch.func.vmap(lambda x: model(x[None])[0])(x)
        return within(distance([found], [model(x)]), torch.float64)


def second_derivative(case: Case, device: str) -> float:
    """A product of the Hessian and a vector, against a difference."""
    model = case.make(device, torch.float64)
    x, parameters = case.draw(device, torch.float64), list(model.parameters())
    generator = torch.Generator().manual_seed(2)
    along = [
        torch.randn(p.shape, generator=generator, dtype=p.dtype).to(device)
        for p in parameters
    ]
    y = model(x).square().sum()
    first = torch.autograd.grad(y, parameters, create_graph=True)
    slope = torch.stack(
        [(g * v).sum() for g, v in zip(first, along, strict=True)]
    ).sum()
    found = torch.autograd.grad(slope, parameters, materialize_grads=True)

    def shifted(by: float) -> list[Tensor]:
        with torch.no_grad():
            for p, v in zip(parameters, along, strict=True):
                p.add_(v, alpha=by)
        return gradients(model(x), model)

    h = 1e-6
    ahead, behind = shifted(h), shifted(-2 * h)
    numeric = [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
    error = distance(list(found), numeric)
    if not error < 1e-5:
        raise AssertionError(f"the error is {error:.1e}")
    return error


def copies(case: Case, device: str) -> float:
    """A deep copy, and one through a file, give the same outputs."""
    if case.name in OPS:
        raise Absent
    model, file = case.make(device, torch.float32), io.BytesIO()
    x = case.draw(device, torch.float32)
    torch.save(model, file)
    file.seek(0)
    with torch.no_grad():
        for other in (deepcopy(model), torch.load(file, weights_only=False)):
            within(distance([other(x)], [model(x)]), torch.float64)
    return 0.0


def from_meta(case: Case, device: str) -> float:
    """Built without memory, then filled by reset_parameters."""
    if case.name in OPS:
        raise Absent
    with torch.device("meta"):
        model = case.build()
    model = model.to_empty(device=device)
    for p in model.parameters():
        torch.nn.init.constant_(p, math.nan)
    cast("Any", model).reset_parameters()
    x = case.draw(device, torch.float32)
    return compare(model.eval(), model, x, torch.float32)


def built_there(case: Case, device: str) -> float:
    """Built on the device itself."""
    if case.name in OPS:
        raise Absent
    with torch.device(device):
        model = case.build()
    x = case.draw(device, torch.float32)
    return compare(model.eval(), model, x, torch.float32)


def strides(case: Case, device: str) -> float:
    """An input that is turned, one with gaps, and one that is expanded."""
    model = case.make(device, torch.float64)
    x = case.draw(device, torch.float64)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    gaps = torch.stack([x, x], -1)[..., 0]
    rows = x[:1].expand(len(x), *x.shape[1:])
    with torch.no_grad():
        views = (turned, gaps, rows)
        return max(
            within(distance([model(v)], [model(v.clone())]), torch.float64)
            for v in (views if case.tokens else (*views, x.mT.contiguous().mT))
        )


def hooks(case: Case, device: str) -> None:
    """The hooks of every Linear and Conv1d are called, so adapters work."""
    model = case.make(device, torch.float32)
    parts = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear | torch.nn.Conv1d)
    }
    if not parts:
        raise Absent
    called: set[str] = set()
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: called.add(name))
    model(case.draw(device, torch.float32))
    if silent := sorted(parts.keys() - called):
        names = ", ".join(name.rpartition(".")[2] for name in silent)
        raise AssertionError(f"the hooks of {names} are not called")


#: What a CPU shows in seconds, by name.
COLUMNS: dict[str, Check] = {
    "float64": partial(plain, dtype=torch.float64),
    "bfloat16": partial(plain, dtype=torch.bfloat16),
    "float16": partial(plain, dtype=torch.float16),
    "autocast": partial(autocast, dtype=torch.bfloat16),
    "export": exported,
    "func.grad": func_grad,
    "func.vmap": func_vmap,
    "second derivative": second_derivative,
    "copy, file": copies,
    "from meta": from_meta,
    "strides": strides,
    "hooks": hooks,
}


def outcome(check: Check, case: Case, device: str) -> tuple[str, float | None]:
    """Say "yes", the error's first line, "-" where the pair means nothing, or "not tried"."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "yes", check(case, device)
    except Absent:
        return "-", None
    except Untried:
        return NOT_TRIED, None
    except Exception as error:
        lines = f"{type(error).__name__}: {error}".strip().splitlines()
        return " ".join(lines[0].split()), None
