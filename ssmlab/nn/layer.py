"""The layer: one causal map, over a sequence or for one sample, with a state between calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ssmlab import _check
from ssmlab._typing import Float
from ssmlab.nn import _check as nn_check
from ssmlab.ops.packed import packing

Signal = Float[Tensor, "batch length channels"]
Sample = Float[Tensor, "batch channels"]
S = TypeVar("S")


class Layer(torch.nn.Module, ABC, Generic[S]):
    """What every layer keeps to: (batch, length, channels) to the same shape, from the past only.

    ``forward`` runs over a whole sequence at once, ``step`` for one sample: the same map, so a
    sequence can be cut anywhere. A state that one of them returns goes into the next call of
    either. It is a tensor, or a named tuple of states; ``initial_state`` makes that before the
    first sample. A layer that reads the future has none, and says so when it is asked for one.

    A layer of your own has ``initial_state`` and ``_sequence``, and is then checked, stepped and
    trained like the others. ``_sample``, ``time_scales`` and ``_start`` may stay as they are here.

    A state is made of plain tensors: ``torch.save`` writes it, ``torch.load`` reads it.

    Parameters
    ----------
    channels : int
        Numbers at one time, in and out.

    Examples
    --------
    A leaky sum, with a learned leak for each channel. Its step is a sequence of length 1.

    >>> class Leaky(Layer):
    ...     def __init__(self, channels):
    ...         super().__init__(channels)
    ...         self.leak = torch.nn.Parameter(torch.full((channels,), 0.5))
    ...     def initial_state(self, batch):
    ...         return self.leak.new_zeros(batch, self.channels)
    ...     def _sequence(self, x, state, need_state):
    ...         h, outputs = self.initial_state(len(x)) if state is None else state, []
    ...         for x_t in x.unbind(1):
    ...             h = self.leak * h + x_t
    ...             outputs.append(h)
    ...         return torch.stack(outputs, 1), h
    >>> layer, x = Leaky(1), torch.tensor([[[1.0], [0.0], [0.0]]])
    >>> y, state = layer(x, return_state=True)
    >>> y_t, state = layer.step(x[:, 0], state)
    >>> y.detach().flatten(), y_t.item()
    (tensor([1.0000, 0.5000, 0.2500]), 1.125)
    >>> layer(torch.zeros(1, 3, 2))
    Traceback (most recent call last):
        ...
    ValueError: x must have shape (batch, length, 1) and not be empty; got (1, 3, 2): put the 1
    channels last
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = _check.count("channels", channels)

    def forward(
        self,
        x: Signal,
        state: S | None = None,
        *,
        return_state: bool = False,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        **options: Any,
    ) -> Signal | tuple[Signal, S] | tuple[Signal, list[S]]:
        """Run over the whole sequence at once.

        Parameters
        ----------
        x : Tensor, (batch, length, channels)
            Of the type of the parameters; under ``torch.autocast`` of any real type.
        state : optional
            From ``initial_state`` or an earlier call; that before the first sample by default.
        return_state : bool
            Whether to return the state after the last sample too. It is not computed otherwise.
        seq_idx, cu_seqlens : Tensor, optional
            Where sequences begin that are packed behind each other (:class:`ssmlab.ops.Packing`).
            Each is treated as if it were alone, all of them at once; with ``return_state`` one by
            one.
        **options
            The layer's own, such as ``rate`` of S4 and S4D.

        Returns
        -------
        y : Tensor, (batch, length, channels)
        state
            With ``return_state``; of packed sequences a list of states, each of a batch of one.

        Raises
        ------
        TypeError, ValueError
            If ``x`` or ``state`` has the wrong type or shape, or the layer has no state; if packed
            sequences do not fit x, or come with a state.
        """
        x = nn_check.signal("x", x, ("batch", "length"), self._like(), self.channels)
        packed = packing(x, seq_idx, cu_seqlens, state=state)
        if state is not None:
            self._check_state(state, len(x))

        y, last = (
            self._sequence(x, state, return_state, **options)
            if packed is None
            else packed.run(partial(self._afresh, **options), x, return_state)
        )
        return (y, last) if return_state else y

    def _afresh(self, x: Signal, need_state: bool, **options: Any) -> tuple[Signal, Any]:
        """Run from before the first sample."""
        return self._sequence(x, None, need_state, **options)

    def step(self, x_t: Sample, state: S, **options: Any) -> tuple[Sample, S]:
        """Run for one sample, as a recurrent network.

        Parameters
        ----------
        x_t : Tensor, (batch, channels)
        state
            From ``initial_state`` or an earlier call.
        **options
            As in ``forward``.

        Returns
        -------
        y_t : Tensor, (batch, channels)
        state

        Raises
        ------
        TypeError, ValueError
            As in ``forward``.
        """
        x_t = nn_check.signal("x_t", x_t, ("batch",), self._like(), self.channels)
        self._check_state(state, len(x_t))
        return self._sample(x_t, state, **options)

    @abstractmethod
    def initial_state(self, batch: int) -> S:
        """Return the state before the first sample."""

    def time_scales(self) -> list[torch.nn.Parameter]:
        """Return the parameters that set how fast the layer forgets; none by default.

        ``parameter_groups`` gives them a small learning rate and no decay. Layers inside this one
        name their own.
        """
        return []

    def reset_parameters(self) -> None:
        """Draw all parameters anew, those of the modules inside too, as the constructor did.

        For a layer that was built under ``torch.device("meta")`` and given memory by ``to_empty``;
        under FSDP2 inside ``torch.distributed.tensor.experimental.implicit_replication()``. The
        older FSDP would start each module inside by itself, which is another start: give it a
        ``param_init_fn`` that calls this one, or load weights.
        """
        redraw(*self.children())
        self._start()

    def _start(self) -> None:
        """Set the parameters that torch's modules do not, or set otherwise; the constructor's end.

        A layer of your own needs it only for ``reset_parameters``.
        """
        if next(self.parameters(recurse=False), None) is not None:
            raise NotImplementedError(
                f"{type(self).__name__} must say how its own parameters start, to be reset; it has "
                "no _start: write one, and call it at the end of __init__"
            )

    @abstractmethod
    def _sequence(self, x: Signal, state: S | None, need_state: bool) -> tuple[Signal, Any]:
        """Return the outputs and the last state, or anything in its place if it is not needed.

        ``state`` is None before the first sample. The layer's own options are keywords.
        """

    def _sample(self, x_t: Sample, state: S) -> tuple[Sample, S]:
        """Run for one sample: a sequence of length 1, unless a layer knows better."""
        y, state = self._sequence(x_t[:, None], state, True)
        return y[:, 0], state

    def _check_state(self, state: Any, batch: int) -> None:
        """Ask for the shapes and types of ``initial_state``."""
        expected = describe(self.initial_state(batch))
        if describe(state) != expected:
            raise ValueError(
                f"state must be {expected}; got {describe(state)}: start with "
                f"initial_state({batch})"
            )

    def _like(self) -> Tensor | None:
        """Return a parameter, whose type is that of the input; if there is none, any type will do.

        By its name, in a layer that has some: in a replica (``DataParallel``, FSDP) a parameter is
        a plain attribute, and ``parameters`` finds none.
        """
        return next(self.parameters(), None)


def redraw(*modules: torch.nn.Module) -> None:
    """Draw the parameters of modules anew: as each says itself, or else as those inside it say."""
    for module in modules:
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        elif next(module.parameters(recurse=False), None) is None:
            redraw(*module.children())
        else:
            raise NotImplementedError(
                f"{type(module).__name__} must have reset_parameters, as it has parameters of its "
                "own; it has none: write one that sets them"
            )


def describe(state: Any) -> str:
    """Write down a state's types, shapes and devices.

    >>> describe((torch.zeros(2, 3), None))
    'tuple(float32 of shape (2, 3), a NoneType)'
    """
    if isinstance(state, Tensor):
        what = f"{str(state.dtype).removeprefix('torch.')} of shape {tuple(state.shape)}"
        what = what if state.layout is torch.strided else f"sparse {what}"
        return what if state.device.type == "cpu" else f"{what} on {state.device}"
    if isinstance(state, tuple):
        return f"{type(state).__name__}({', '.join(map(describe, state))})"
    return f"a {type(state).__name__}"
