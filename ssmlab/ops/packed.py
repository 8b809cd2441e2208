r"""Several sequences packed behind each other, and the same sequences side by side.

A row of a batch may hold several sequences. A model must not look from one into the next: where a
sequence begins, the state is zero, that is, the decay of that step is. The same is had without a
new kernel: the sequences are laid side by side, each padded to the longest with steps of length
zero, :math:`e^{0 A} = 1` and :math:`0 \cdot B x = 0`, which leave its last state as it is. Chapter
16; the reset as a decay of 0 in an exercise of chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssmlab.ops._check import same_device, tensor


class Packing:
    """Where the sequences in a batch of rows begin and end.

    Parameters
    ----------
    x : Tensor, (batch, length, ...)
        What is packed.
    seq_idx : Tensor of whole numbers, (batch, length), optional
        The number of the sequence that each step belongs to. A sequence begins where it changes,
        and in each row.
    cu_seqlens : Tensor of whole numbers, (sequences + 1,), optional
        For a batch of one row: where each sequence begins, and the length of the row.

    Raises
    ------
    TypeError, ValueError
        If both or neither are given, or they do not fit x.

    Examples
    --------
    >>> x = torch.tensor([[1, 2, 3, 4, 5]])
    >>> packing = Packing(x, cu_seqlens=torch.tensor([0, 2, 5]))
    >>> apart = packing.side_by_side(x)
    >>> apart
    tensor([[1, 2, 0],
            [3, 4, 5]])
    >>> packing.behind_each_other(apart)
    tensor([[1, 2, 3, 4, 5]])
    """

    def __init__(
        self, x: Tensor, *, seq_idx: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> None:
        if (seq_idx is None) == (cu_seqlens is None):
            raise ValueError(
                "seq_idx or cu_seqlens must say where sequences begin; got "
                f"{'none' if seq_idx is None else 'both'} of them: pass one"
            )
        self.shape = x.shape[:2]
        if seq_idx is not None:
            starts = self._changes(seq_idx, x)
        elif cu_seqlens is not None:
            starts = self._bounds(cu_seqlens, x)[:-1]
        ends = torch.cat([starts[1:], starts.new_tensor([self.shape.numel()])])
        self.starts, self.lengths = starts, ends - starts
        steps = torch.arange(int(self.lengths.max()), device=x.device)
        self.is_real = steps < self.lengths[:, None]
        self.places = (starts[:, None] + steps).clamp(max=self.shape.numel() - 1)

    def _changes(self, seq_idx: Tensor, x: Tensor) -> Tensor:
        """Find where the number changes, as places in the batch of rows."""
        _check_whole_numbers("seq_idx", seq_idx, x)
        if seq_idx.shape != self.shape:
            raise ValueError(
                f"seq_idx must have shape (batch, length), {tuple(self.shape)} here; got "
                f"{tuple(seq_idx.shape)}: give each step the number of its sequence"
            )
        begins = torch.ones_like(seq_idx, dtype=torch.bool)
        begins[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
        return begins.flatten().nonzero()[:, 0]

    def _bounds(self, cu_seqlens: Tensor, x: Tensor) -> Tensor:
        """Ask for bounds from 0 to the length of the one row."""
        _check_whole_numbers("cu_seqlens", cu_seqlens, x)
        batch, length = self.shape
        if batch != 1:
            raise ValueError(
                f"cu_seqlens is for a batch of one row; got {batch} rows: pass seq_idx, or the "
                "rows behind each other in one"
            )
        bounds = cu_seqlens.long()
        rises = bounds.ndim == 1 and len(bounds) > 1 and bool((bounds.diff() > 0).all())
        if not rises or bounds[0] != 0 or bounds[-1] != length:
            raise ValueError(
                f"cu_seqlens must rise from 0 to the length {length}, one number more than there "
                f"are sequences; got {cu_seqlens.tolist()}: start from the lengths, "
                "F.pad(lengths.cumsum(0), (1, 0))"
            )
        return bounds

    def side_by_side(self, v: Tensor, fill: float = 0) -> Tensor:
        """Lay (batch, length, ...) out as (sequences, longest, ...), filled up behind each end."""
        is_real = self.is_real.reshape(*self.is_real.shape, *[1] * (v.ndim - 2))
        return torch.where(is_real, v.flatten(0, 1)[self.places], fill)

    def behind_each_other(self, v: Tensor) -> Tensor:
        """Undo :meth:`side_by_side`."""
        return v[self.is_real].unflatten(0, self.shape)

    def apart(self, v: Tensor) -> list[Tensor]:
        """Cut (batch, length, ...) into the sequences, each (1, its length, ...)."""
        return [one[None] for one in v.flatten(0, 1).split(self.lengths.tolist())]

    def run(
        self, function: Callable[[Tensor, bool], tuple[Tensor, Any]], x: Tensor, need_states: bool
    ) -> tuple[Tensor, list[Any]]:
        """Apply a causal map, which returns outputs and a last state, to each sequence.

        All of them at once, since what is behind an end changes nothing before it; or, if the last
        states are needed, one by one.
        """
        if not need_states:
            return self.behind_each_other(function(self.side_by_side(x), False)[0]), []
        runs = [function(one, True) for one in self.apart(x)]
        y = torch.cat([y for y, _ in runs], 1)
        return y.reshape(*self.shape, *y.shape[2:]), [state for _, state in runs]


def packing(
    x: Tensor, seq_idx: Tensor | None, cu_seqlens: Tensor | None, **states: Any
) -> Packing | None:
    """Return where packed sequences begin, if x holds some; then no state may come before them.

    >>> packing(torch.zeros(1, 3), None, None, h0=torch.zeros(1)) is None
    True
    """
    if seq_idx is None and cu_seqlens is None:
        return None
    for name, state in states.items():
        if state is not None:
            raise ValueError(
                f"{name} must be left out with seq_idx or cu_seqlens, where each sequence starts "
                "anew; got both: drop one of them"
            )
    return Packing(x, seq_idx=seq_idx, cu_seqlens=cu_seqlens)


def _check_whole_numbers(name: str, value: Tensor, x: Tensor) -> None:
    tensor(name, value)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(
            f"{name} must be of whole numbers; got {value.dtype}: convert it with {name}.long()"
        )
    same_device(name, value, "x is", x.device)
