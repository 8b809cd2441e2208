"""The two functions of the package causal_conv1d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssmlab import _check
from ssmlab._typing import Float, Int
from ssmlab.nn.mamba import causal_convolution
from ssmlab.ops.packed import packing

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
        Where to write the last samples, if they are asked for.
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
    packed = packing(
        x.mT,
        seq_idx,
        None,
        initial_states=initial_states,
        return_final_states=return_final_states or None,
    )
    x = x if packed is None else packed.side_by_side(x.mT).mT
    past = x.new_zeros(*x.shape[:2], weight.shape[1] - 1)
    past = past if initial_states is None else initial_states
    out, last = _convolve(x, weight, bias, past, activation)
    if not return_final_states:
        return out if packed is None else packed.behind_each_other(out.mT).mT
    return out, last if final_states_out is None else final_states_out.copy_(last)


def causal_conv1d_update(
    x: Float[Tensor, "batch channels"] | Float[Tensor, "batch channels length"],
    conv_state: Float[Tensor, "rows channels kept"],
    weight: Float[Tensor, "channels taps"],
    bias: Float[Tensor, "channels"] | None = None,
    activation: str | None = None,
    cache_seqlens: Int[Tensor, "batch"] | None = None,
    conv_state_indices: Int[Tensor, "batch"] | None = None,
) -> Tensor:
    r"""Take in new samples, and move ``conv_state`` on in place.

    Parameters
    ----------
    x : Tensor, (batch, channels) or (batch, channels, length)
    conv_state : Tensor, (batch, channels, kept)
        At least the taps - 1 samples before x, the newest last.
    weight, bias, activation
        As for ``causal_conv1d_fn``.
    cache_seqlens : Tensor of whole numbers, (batch,), optional
        How many samples each sequence has had: ``conv_state`` is then a ring, where sample k is at
        k modulo ``kept``.
    conv_state_indices : Tensor of whole numbers, (batch,), optional
        Which rows of a larger ``conv_state`` are those of the sequences.

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
    state = conv_state if conv_state_indices is None else conv_state[conv_state_indices.long()]
    if cache_seqlens is None:
        past = state[..., kept - (taps - 1) :]
        state = torch.cat([state, new.to(state.dtype)], -1)[..., -kept:]
    else:
        past = state.gather(-1, _places(cache_seqlens, 1 - taps, 0, state))
        now = _places(cache_seqlens, 0, new.shape[-1], state)
        state = state.scatter(-1, now, new.to(state.dtype))
    out, _ = _convolve(new, weight, bias, past.to(x.dtype), activation)
    if conv_state_indices is None:
        conv_state.copy_(state)
    else:
        conv_state[conv_state_indices.long()] = state
    return out[..., 0] if x.ndim == 2 else out


def _places(samples: Tensor, first: int, last: int, ring: Tensor) -> Tensor:
    """Find where samples are in a ring, from ``first`` to before ``last``, counted from now."""
    steps = torch.arange(first, last, device=ring.device)
    places = (samples.long()[:, None] + steps) % ring.shape[-1]
    return places[:, None].expand(-1, ring.shape[1], -1)


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor, activation: str | None
) -> tuple[Tensor, Tensor]:
    """Run over x after its past, both (batch, channels, length); return the last samples too."""
    act = ACTIVATIONS[_check.choice("activation", str(activation), ACTIVATIONS)]
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    y, last = causal_convolution(x.mT, weight, bias, past.mT)
    return act(y).to(x.dtype).mT, last.mT
