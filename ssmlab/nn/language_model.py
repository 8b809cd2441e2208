r"""A language model: tokens in, logits of the next token out, any mixer between.

.. math:: x \leftarrow x + \text{mixer}(\operatorname{RMSNorm}(x)) \text{ in each block}, \qquad
          \text{logits} = E \operatorname{RMSNorm}(x)

with E the embedding, used twice. Chapter 16.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ssmlab import _check
from ssmlab._typing import Float, Int
from ssmlab.nn import _check as nn_check
from ssmlab.nn.layer import Layer, redraw
from ssmlab.nn.mixers import MIXERS, Mixer
from ssmlab.ops import _check as ops_check
from ssmlab.ops.packed import packing

Tokens = Int[Tensor, "batch length"]
State = tuple[Any, ...]  # one for each block
Hidden = Float[Tensor, "... channels"]


class MixerBlock(nn.Module):
    """A residual block with the norm first; the residual is at least float32."""

    mixer: Layer[Any]

    def __init__(self, channels: int, mixer: Layer[Any]) -> None:
        super().__init__()
        self.norm, self.mixer = nn.RMSNorm(channels, eps=1e-5), mixer

    def forward(self, x: Hidden, state: Any, return_state: bool) -> tuple[Hidden, Any]:
        """Run over (batch, length, channels); the state is as asked for."""
        x_normed = self._normed(x)
        if not return_state:
            return x + self.mixer(x_normed, state), None
        y, state = self.mixer(x_normed, state, return_state=True)
        return x + y, state

    def step(self, x_t: Hidden, state: Any) -> tuple[Hidden, Any]:
        """Run for one sample, (batch, channels)."""
        y_t, state = self.mixer.step(self._normed(x_t), state)
        return x_t + y_t, state

    def _normed(self, x: Hidden) -> Hidden:
        return self.norm(x.to(self.norm.weight.dtype))


class LanguageModel(nn.Module):
    r"""Embedding, blocks, norm and the embedding once more.

    Parameters
    ----------
    vocabulary : int
        Number of different tokens.
    channels, layers : int
        Width of the model, number of its blocks.
    mixer : str or callable
        A name in ``MIXERS``, or from the number of channels to a :class:`Layer`.
    **options
        Go to every mixer, such as ``state=16``.

    Notes
    -----
    As published, the embedding starts with a standard deviation of 0.02 and each ``out_proj`` is
    divided by the square root of the number of layers. Weights are drawn from torch's generator:
    call ``torch.manual_seed`` first. Source: Gu and Dao, arXiv:2312.00752;
    github.com/state-spaces/mamba. Chapter 16.

    Examples
    --------
    >>> model = LanguageModel(vocabulary=256, channels=16, layers=2)
    >>> tokens = torch.tensor([list(b"state")])
    >>> model(tokens).shape
    torch.Size([1, 5, 256])
    """

    layers: Any  # a ModuleList, of MixerBlocks

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        layers: int,
        mixer: str | Mixer = "mamba",
        **options: Any,
    ) -> None:
        super().__init__()
        make = mixer if callable(mixer) else MIXERS[_check.choice("mixer", mixer, MIXERS)]
        channels, layers = _check.count("channels", channels), _check.count("layers", layers)
        self.embedding = nn.Embedding(_check.count("vocabulary", vocabulary), channels)
        self.layers = nn.ModuleList(
            MixerBlock(channels, nn_check.makes_layers("mixer", make, channels, **options))
            for _ in range(layers)
        )
        self.norm_f = nn.RMSNorm(channels, eps=1e-5)
        self._start()
        self.initial_state(1)  # refused by a mixer that reads the future

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as the constructor did; see ``Layer.reset_parameters``."""
        redraw(*self.children())
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith("mixer.out_proj.weight"):
                weight.div_(math.sqrt(len(self.layers)))

    def forward(
        self,
        tokens: Tokens,
        state: State | None = None,
        *,
        return_state: bool = False,
        seq_idx: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> (
        Float[Tensor, "batch length vocabulary"] | tuple[Float[Tensor, "..."], State | list[State]]
    ):
        """Return the logits after each token, for a whole sequence at once.

        Parameters
        ----------
        tokens : Tensor, (batch, length)
            Whole numbers below ``vocabulary``, int64.
        state : tuple, optional
            The state before the first token, from ``initial_state`` or an earlier call.
        return_state : bool
            Whether to return the state after the last token too.
        seq_idx, cu_seqlens : Tensor, optional
            Where texts begin that are packed behind each other, as for every :class:`Layer`.

        Returns
        -------
        logits : Tensor, (batch, length, vocabulary)
            ``logits[:, t]`` is about token t + 1.
        state : tuple
            With ``return_state``; of packed texts a list of tuples, each of a batch of one.

        Raises
        ------
        TypeError, ValueError
            If the tokens have the wrong type or shape, or are not in the vocabulary; or if the
            state has another form. The vocabulary is not looked up on the meta device, nor while a
            graph is traced or captured, where no number is known.
        """
        self.check_tokens("tokens", tokens, 2)
        packed = packing(tokens, seq_idx, cu_seqlens, state=state)
        x, last = (
            self._blocks(tokens, return_state, state)
            if packed is None
            else packed.run(self._blocks, tokens, return_state)
        )
        return (self._head(x), last) if return_state else self._head(x)

    def prefill(
        self, tokens: Tokens, state: State | None = None
    ) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """Read tokens in parallel, and return the logits after the last of them, and the state."""
        self.check_tokens("tokens", tokens, 2)
        x, state = self._blocks(tokens, True, state)
        return self._head(x[:, -1]), state

    def step(
        self, token: Int[Tensor, "batch"], state: State
    ) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """Read one token, and return the logits after it, and the new state."""
        self.check_tokens("token", token, 1)
        return self._step(token, state)

    def _step(self, token: Int[Tensor, "batch"], state: State) -> tuple[Any, State]:
        """Step without a look at the token, which on a GPU would wait for it."""
        self._check_state(state)
        x, after = self._embed(token), []
        for block, before in zip(self.layers, state, strict=True):
            x, new = block.step(x, before)
            after.append(new)
        return self._head(x), tuple(after)

    def initial_state(self, batch: int) -> State:
        """Return the state before the first token, a tuple of one for each block."""
        return tuple(block.mixer.initial_state(batch) for block in self.layers)

    def _blocks(
        self, tokens: Tokens, return_state: bool, state: State | None = None
    ) -> tuple[Hidden, State]:
        x, after = self._embed(tokens), []
        if state is not None:
            self._check_state(state)
        before = [None] * len(self.layers) if state is None else state
        for block, old in zip(self.layers, before, strict=True):
            x, new = block(x, old, return_state)
            after.append(new)
        return x, tuple(after)

    def _check_state(self, state: Any) -> None:
        known = isinstance(state, (tuple, list))
        if not known or len(state) != len(self.layers):
            raise ValueError(
                f"state must be a tuple of {len(self.layers)} states, one for each block; got "
                f"{f'{len(state)} of them' if known else f'a {type(state).__name__}'}: start with "
                "initial_state(batch)"
            )

    def _embed(self, tokens: Int[Tensor, "..."]) -> Hidden:
        x = self.embedding(tokens)
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def _head(self, x: Hidden) -> Float[Tensor, "... vocabulary"]:
        return self.norm_f(x.to(self.norm_f.weight.dtype)) @ self.embedding.weight.mT

    def check_tokens(self, name: str, tokens: Tensor, axes: int) -> None:
        """Ask for tokens of the vocabulary, with one axis (batch) or two (batch, length)."""
        shape = ("(batch,)", "(batch, length)")[axes - 1]
        ops_check.tensor(name, tokens)
        if tokens.dtype != torch.int64:
            raise TypeError(
                f"{name} must be int64; got {tokens.dtype}: convert them with {name}.long()"
            )
        if tokens.ndim != axes or not tokens.numel():
            raise ValueError(
                f"{name} must have shape {shape} and not be empty; got {tuple(tokens.shape)}: "
                "add an axis for the batch if it is missing"
            )
        device = self.embedding.weight.device
        ops_check.same_device(name, tokens, "the parameters are", device)
        if not ops_check.readable(tokens):
            return
        least, largest = int(tokens.min()), int(tokens.max())
        vocabulary = self.embedding.num_embeddings
        if least < 0 or largest >= vocabulary:
            raise ValueError(
                f"{name} must be whole numbers from 0 to {vocabulary - 1}; got "
                f"{least if least < 0 else largest}: make the model with a larger vocabulary"
            )
