"""The two functions of the package causal_conv1d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn.mamba import causal_convolution
from ssmlab.ops import Packing

ACTIVATIONS: dict[str, Any] = {"None": lambda v: v, "silu": F.silu, "swish": F.silu}


def causal_conv1d_fn(
    x: Float[Tensor, "batch channels length"],
    weight: Float[Tensor, "channels taps"],
    bias: Float[Tensor, "channels"] | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Float[Tensor, "batch channels before"] | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Convolve each channel with a few taps, from the past only.

    Parameters
    ----------
    x : Tensor, (batch, channels, length)
    weight : Tensor, (channels, taps)
        The last tap meets the newest sample.
    bias : Tensor, (channels,), optional
    seq_idx : Tensor of whole numbers, (batch, length), optional
        Where packed sequences begin, as for :class:`ssmlab.ops.Packing`; no states then.
    initial_states : Tensor, (batch, channels, taps - 1), optional
        The samples before x; zeros by default.
    return_final_states : bool
    final_states_out : Tensor, (batch, channels, taps - 1), optional
        Where to write the last samples.
    activation : {None, "silu", "swish"}

    Returns
    -------
    out : Tensor, (batch, channels, length)
    final_states : Tensor, (batch, channels, taps - 1)
        With ``return_final_states``.

    Examples
    --------
    >>> x, weight = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[10.0, 1.0]])
    >>> causal_conv1d_fn(x, weight)
    tensor([[[ 1., 12., 23.]]])
    """
    packing = None
    if seq_idx is not None:
        if initial_states is not None or return_final_states:
            raise ValueError(
                "seq_idx must come without states, as each sequence starts anew; got both: drop "
                "initial_states and return_final_states"
            )
        packing = Packing(x.mT, seq_idx=seq_idx)
        x = packing.side_by_side(x.mT).mT
    past = x.new_zeros(*x.shape[:2], weight.shape[1] - 1)
    past = past if initial_states is None else initial_states
    out, last = _convolve(x, weight, bias, past, activation)
    out = out if packing is None else packing.behind_each_other(out.mT).mT
    if final_states_out is not None:
        last = final_states_out.copy_(last)
    return (out, last) if return_final_states else out


def causal_conv1d_update(
    x: Float[Tensor, "batch channels"] | Float[Tensor, "batch channels length"],
    conv_state: Float[Tensor, "batch channels kept"],
    weight: Float[Tensor, "channels taps"],
    bias: Float[Tensor, "channels"] | None = None,
    activation: str | None = None,
) -> Tensor:
    r"""Take in new samples, and move ``conv_state`` on in place.

    Parameters
    ----------
    x : Tensor, (batch, channels) or (batch, channels, length)
    conv_state : Tensor, (batch, channels, kept)
        At least the taps - 1 samples before x, the newest last.
    weight, bias, activation
        As for ``causal_conv1d_fn``.

    Returns
    -------
    out : Tensor
        Of the shape of x.

    Examples
    --------
    >>> state, weight = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[10.0, 1.0]])
    >>> causal_conv1d_update(torch.tensor([[2.0]]), state, weight), state
    (tensor([[12.]]), tensor([[[1., 2.]]]))
    """
    taps, kept = weight.shape[1], conv_state.shape[-1]
    if kept < taps - 1:
        raise ValueError(
            f"conv_state must keep at least the {taps - 1} samples before x; got {kept}: make it "
            "as allocate_inference_cache does"
        )
    new = x[..., None] if x.ndim == 2 else x
    past = conv_state[..., kept - (taps - 1) :].to(x.dtype)
    out, _ = _convolve(new, weight, bias, past, activation)
    conv_state.copy_(torch.cat([conv_state, new.to(conv_state.dtype)], -1)[..., -kept:])
    return out[..., 0] if x.ndim == 2 else out


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, activation: str | None
) -> tuple[Tensor, Tensor]:
    """Run over x after its past, both (batch, channels, length); return the last samples too."""
    act = ACTIVATIONS[_check.choice("activation", str(activation), ACTIVATIONS)]
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    y, last = causal_convolution(x.mT, weight, bias, past.mT)
    return act(y).to(x.dtype).mT, last.mT
