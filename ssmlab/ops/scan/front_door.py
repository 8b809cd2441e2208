r"""The front door of the selective scan: one function, three backends, gradients."""

from __future__ import annotations

import importlib.util
import math
from functools import partial

import torch
from torch import Tensor

from ssmlab import _check
from ssmlab._typing import Float, Inexact
from ssmlab.ops._check import same_device, tensor, transformed
from ssmlab.ops.packed import Packing, packing
from ssmlab.ops.scan.backend import Problem, Whole, surround
from ssmlab.selective import check_kinds, check_shapes

Signal = Float[Tensor, "batch length channels"]
State = Inexact[Tensor, "batch channels state"]

BACKENDS = ("auto", "torch", "cpu", "triton")
#: What each compiled backend needs.
PACKAGES = {"cpu": "numba", "triton": "triton"}


def selective_scan(
    x: Signal,
    dt: Signal,
    A: Inexact[Tensor, "channels state"],
    B: Inexact[Tensor, "..."],
    C: Inexact[Tensor, "..."],
    D: Float[Tensor, "channels"] | None = None,
    z: Signal | None = None,
    *,
    dt_bias: Float[Tensor, "channels"] | None = None,
    softplus: bool = False,
    h0: State | None = None,
    return_last_state: bool = False,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> Signal | tuple[Signal, Inexact[Tensor, "sequences channels state"]]:
    r"""Run :math:`h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t x_t`, :math:`y_t = C_t h_t + D x_t`.

    Parameters
    ----------
    x : Tensor, (batch, length, channels)
    dt : Tensor, (batch, length, channels)
        Step sizes (a negative one is taken as it is: decays grow); with ``softplus``, what they are
        made from.
    A : Tensor, (channels, state)
        The diagonal of each channel's A; real, or complex with half of each conjugate pair, and
        then :math:`y = 2 \operatorname{Re}(C h) + D x`.
    B, C : Tensor
        (batch, length, state) for each step; (batch, length, groups, state) for each step and group
        of neighbouring channels; (channels, state) if constant. Complex only if A is.
    D : Tensor, (channels,), optional
        The direct path.
    z : Tensor, (batch, length, channels), optional
        The gate: y is multiplied by :math:`\operatorname{silu}(z) = z / (1 + e^{-z})`.
    dt_bias : Tensor, (channels,), optional
        Added to ``dt`` first.
    softplus : bool
        Whether the step sizes are :math:`\ln(1 + e^{\Delta})` of what is given.
    h0 : Tensor, (batch, channels, state), optional
        The state before the first step; 0 by default.
    return_last_state : bool
        Whether to return the state after the last step too.
    seq_idx, cu_seqlens : Tensor, optional
        Where the sequences begin that are packed behind each other, in the spelling of
        :class:`ssmlab.ops.Packing`: the state starts from 0 in each. There is no ``h0`` then.
    backend : {"auto", "torch", "cpu", "triton"}
        "triton" is a GPU kernel, "cpu" a compiled one, "torch" a plain loop for any device. "auto"
        takes the first on a GPU and the second on a CPU if it is installed and takes these tensors,
        else the loop: so inside ``torch.func``, forward mode and ``torch.export``.

    Returns
    -------
    y : Tensor, (batch, length, channels)
        Of the type of x.
    h : Tensor, (batch, channels, state)
        With ``return_last_state``; of packed sequences one for each. It is float32 or, if any
        argument is double, float64, or the complex type of this precision. Give it as ``h0`` to go
        on.

    Raises
    ------
    ImportError
        If the backend that was asked for is not installed.

    Notes
    -----
    Differentiable in every tensor, the last state too; the compiled backends refuse a second
    derivative and ``is_grads_batched``. Arithmetic is in float32, or float64 if any argument is;
    float16 and bfloat16 are read and written as such. Any strides are taken. The compiled
    backends give the same bits in every run, and never store (batch, length, channels, state); for
    the backward pass "triton" keeps an eighth of it.
    Source: Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
    arXiv:2312.00752; chapters 12, 14 and 15. The slow twin is
    :func:`ssmlab.selective.selective_scan`.

    Examples
    --------
    >>> x = torch.tensor([[[1.0], [5.0], [1.0]]])
    >>> dt, A, B = torch.tensor([[[1.0], [0.0], [1.0]]]), -torch.ones(1, 1), torch.ones(1, 3, 1)
    >>> selective_scan(x, dt, A, B, C=B).flatten()
    tensor([1.0000, 1.0000, 1.3679])
    """
    optional = {"D": D, "z": z, "dt_bias": dt_bias, "h0": h0}
    tensors = {"x": x, "dt": dt, "A": A, "B": B, "C": C}
    tensors |= {name: value for name, value in optional.items() if value is not None}
    dtype = _check_tensors(tensors)
    if transformed(*tensors.values()) or torch.compiler.is_exporting():
        backend = _for_functions(backend)
    scan = _backend(backend, x.device, A.is_complex())
    packed = packing(x, seq_idx, cu_seqlens, h0=h0)
    sequences = len(x) if packed is None else len(packed.lengths)
    h0 = A.new_zeros(sequences, *A.shape, dtype=dtype) if h0 is None else h0.to(dtype)
    problem = Problem(x, dt, A, B, C, h0, D, z, dt_bias, softplus)
    if packed is None:
        y, h = scan(problem)
    else:
        y, h = scan(_side_by_side(packed, problem))
        y = packed.behind_each_other(y)
    return (y, h) if return_last_state else y


def selective_scan_step(
    x: Float[Tensor, "batch channels"],
    dt: Float[Tensor, "batch channels"],
    A: Inexact[Tensor, "channels state"],
    B: Inexact[Tensor, "..."],
    C: Inexact[Tensor, "..."],
    D: Float[Tensor, "channels"] | None = None,
    z: Float[Tensor, "batch channels"] | None = None,
    *,
    h0: State,
    dt_bias: Float[Tensor, "channels"] | None = None,
    softplus: bool = False,
    backend: str = "auto",
) -> tuple[Float[Tensor, "batch channels"], State]:
    r"""Take in one sample: a scan of length 1, by the same code.

    Parameters
    ----------
    x, dt, z : Tensor, (batch, channels)
    B, C : Tensor
        (batch, 1, state), (batch, 1, groups, state) or, if constant, (channels, state).
    h0 : Tensor, (batch, channels, state)
        The state before this step.
    A, D, dt_bias, softplus, backend
        As for ``selective_scan``, whose errors these are too.

    Returns
    -------
    y : Tensor, (batch, channels)
    h : Tensor, (batch, channels, state)
        The state after this step, the ``h0`` of the next.

    Examples
    --------
    >>> one, h = torch.ones(1, 1), torch.zeros(1, 1, 1)
    >>> for sample in (1.0, 0.0):
    ...     y, h = selective_scan_step(sample * one, one, -one, one[None], one[None], h0=h)
    >>> y
    tensor([[0.3679]])
    """
    for name, value in ({"x": x, "dt": dt} | ({} if z is None else {"z": z})).items():
        tensor(name, value)
        if value.ndim != 2:
            raise ValueError(
                f"{name} must have shape (batch, channels); got {tuple(value.shape)}: pass one "
                "sample of each sequence"
            )
    y, h = selective_scan(
        x[:, None],
        dt[:, None],
        A,
        B,
        C,
        D,
        z if z is None else z[:, None],
        dt_bias=dt_bias,
        softplus=softplus,
        h0=h0,
        return_last_state=True,
        backend=backend,
    )
    return y[:, 0], h


def _check_tensors(tensors: dict[str, Tensor]) -> torch.dtype:
    """Check types, devices and shapes; return the type of the state."""
    for name, value in tensors.items():
        tensor(name, value)
        if not (value.is_floating_point() or value.is_complex()) or value.dtype.itemsize == 1:
            raise TypeError(
                f"{name} must be of type float16, bfloat16, float32, float64 or complex; got "
                f"{value.dtype}: convert it, for example with {name}.float()"
            )
        same_device(name, value, "x is", tensors["x"].device)
    check_shapes(**tensors)
    check_kinds({name: value.is_complex() for name, value in tensors.items()})
    double = any(v.dtype in (torch.float64, torch.complex128) for v in tensors.values())
    dtype = torch.float64 if double else torch.float32
    return dtype.to_complex() if tensors["A"].is_complex() else dtype


def _side_by_side(packed: Packing, problem: Problem) -> Problem:
    """Lay packed sequences side by side; behind the end of each, the step size is zero."""
    x, dt, _, B, C, h0, _, z, dt_bias, softplus = problem
    if dt_bias is not None and not softplus:
        dt, dt_bias = dt.to(h0.dtype.to_real()) + dt_bias, None
    return problem._replace(
        x=packed.side_by_side(x),
        dt=packed.side_by_side(dt, -math.inf if softplus else 0),
        B=B if B.ndim == 2 else packed.side_by_side(B),
        C=C if C.ndim == 2 else packed.side_by_side(C),
        z=z if z is None else packed.side_by_side(z),
        dt_bias=dt_bias,
    )


def _for_functions(name: str) -> str:
    """Choose for tensors that are in the hands of ``torch.func`` or ``torch.export``."""
    if name not in ("auto", "torch"):
        raise ValueError(
            "backend must be 'auto' or 'torch' inside torch.func, forward mode and torch.export, "
            f"which know torch's own operations only; got {name!r}: leave it out"
        )
    return "torch"


def _backend(name: str, device: torch.device, is_complex: bool) -> Whole:
    """Return the backend that is asked for, as a function of the whole problem."""
    name = _available(name, device)
    if name == "torch":
        from ssmlab.ops.scan.torch_loop import scan
    elif name == "cpu":
        from ssmlab.ops.scan.numba_kernel import scan
    elif is_complex:
        from ssmlab.ops.scan.triton_complex import scan
    else:
        from ssmlab.ops.scan import triton_kernels

        return triton_kernels.scan
    return partial(surround, scan)


def _available(name: str, device: torch.device) -> str:
    """Turn "auto" into a name; ask for what this backend needs."""
    _check.choice("backend", name, BACKENDS)
    if name == "auto":
        name = {"cpu": "cpu", "cuda": "triton"}.get(device.type, "torch")
        name = name if _is_installed(name) else "torch"
    if not _is_installed(name):
        raise ImportError(
            f"backend {name!r} needs {PACKAGES[name]}, which is not installed: install it with "
            f"pip install {PACKAGES[name]}, or use backend='torch'"
        )
    if name == "cpu" and device.type != "cpu":
        raise ValueError(
            f"backend 'cpu' needs tensors on the CPU; got {device}: use backend='auto'"
        )
    if name == "triton":
        from ssmlab.ops.scan import launch

        launch.check(device)
    return name


def _is_installed(backend: str) -> bool:
    return backend == "torch" or importlib.util.find_spec(PACKAGES[backend]) is not None
