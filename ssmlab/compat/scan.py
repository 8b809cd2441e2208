"""The scan of ``mamba_ssm.ops.selective_scan_interface``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssmlab._typing import Float, Inexact
from ssmlab.ops import selective_scan
from ssmlab.ops._check import tensor


def selective_scan_fn(
    u: Float[Tensor, "batch channels length"],
    delta: Float[Tensor, "batch channels length"],
    A: Inexact[Tensor, "channels state"],
    B: Inexact[Tensor, "..."],
    C: Inexact[Tensor, "..."],
    D: Float[Tensor, "channels"] | None = None,
    z: Float[Tensor, "batch channels length"] | None = None,
    delta_bias: Float[Tensor, "channels"] | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Inexact[Tensor, "batch channels state"] | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Run the selective scan in mamba_ssm's layout, (batch, channels, length).

    Parameters
    ----------
    u, delta, z : Tensor, (batch, channels, length)
        x, dt and the gate.
    A : Tensor, (channels, state)
    B, C : Tensor
        (channels, state) if constant, (batch, state, length) for each step, or (batch, groups,
        state, length) for each step and group. With a complex A those that vary are real, with
        (Re, Im) of each step side by side in a last axis of 2 * length.
    D, delta_bias : Tensor, (channels,), optional
    delta_softplus : bool
    return_last_state : bool
    initial_state : Tensor, (batch, channels, state), optional
        The state before the first step, which mamba_ssm does not take.
    backend : str
        As for :func:`ssmlab.ops.selective_scan`.

    Returns
    -------
    out : Tensor, (batch, channels, length)
        Of the type of u; contiguous.
    last_state : Tensor, (batch, channels, state)
        With ``return_last_state``. Unlike mamba_ssm's, it carries a gradient.

    Notes
    -----
    An error names the argument as :func:`ssmlab.ops.selective_scan` does, in channel-last shapes.

    Examples
    --------
    >>> u = torch.tensor([[[1.0, 5.0, 1.0]]])
    >>> delta, A, B = torch.tensor([[[1.0, 0.0, 1.0]]]), -torch.ones(1, 1), torch.ones(1, 1, 3)
    >>> selective_scan_fn(u, delta, A, B, C=B)
    tensor([[[1.0000, 1.0000, 1.3679]]])
    """
    signals = {"u": u, "delta": delta} | ({} if z is None else {"z": z})
    for name, value in {**signals, "A": A, "B": B, "C": C}.items():
        tensor(name, value)
        if name in signals and (value.ndim != 3 or value.is_complex()):
            raise ValueError(
                f"{name} must be real, of shape (batch, channels, length); got {value.dtype} of "
                f"shape {tuple(value.shape)}: give it these axes, in this order"
            )
    u, delta = u.mT, delta.mT
    B, C = (_channel_last(name, M, A.is_complex()) for name, M in {"B": B, "C": C}.items())
    y, last = selective_scan(
        u,
        delta,
        A,
        B,
        C,
        D,
        z if z is None else z.mT,
        dt_bias=delta_bias,
        softplus=delta_softplus,
        h0=initial_state,
        return_last_state=True,
        backend=backend,
    )
    out = y.mT.contiguous()  # as mamba_ssm's
    return (out, last) if return_last_state else out


def selective_scan_ref(*arguments: Any, **options: Any) -> Tensor | tuple[Tensor, Tensor]:
    """Run the same by the plain loop in torch; the arguments are those of ``selective_scan_fn``.

    Examples
    --------
    >>> u = torch.ones(1, 1, 3)
    >>> selective_scan_ref(u, u, A=torch.zeros(1, 1), B=u, C=u)
    tensor([[[1., 2., 3.]]])
    """
    return selective_scan_fn(*arguments, **options, backend="torch")


def _channel_last(name: str, M: Tensor, is_complex: bool) -> Tensor:
    """Bring B or C from mamba_ssm's order of axes to ours."""
    if M.ndim not in (3, 4):
        return M
    if is_complex and not M.is_complex():
        if M.shape[-1] % 2:
            raise ValueError(
                f"{name} must have (Re, Im) of each step in its last axis, 2 * length numbers; got "
                f"shape {tuple(M.shape)}: see torch.view_as_real"
            )
        pairs = M.unflatten(-1, (-1, 2)).to(torch.promote_types(M.dtype, torch.float32))
        M = torch.view_as_complex(pairs.contiguous())
    return M.mT if M.ndim == 3 else M.permute(0, 3, 1, 2)
