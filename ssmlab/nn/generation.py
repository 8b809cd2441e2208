r"""Generate text, one token at a time: between two of them only the model's state is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ssmlab import _check
from ssmlab._typing import Float, Int
from ssmlab.nn import _check as nn_check
from ssmlab.nn.language_model import LanguageModel
from ssmlab.ops import _check as ops_check


def generate(
    model: LanguageModel,
    prompt: Int[Tensor, "batch length"] | Sequence[Int[Tensor, "_"]],
    *,
    tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[Int[Tensor, "batch"]]:
    r"""Continue a prompt, token by token, each drawn from :math:`\operatorname{softmax}(l / T)`.

    Parameters
    ----------
    model : LanguageModel
    prompt : Tensor, (batch, length); or a list of tensors, (length,), of different lengths
        At least one token each, read in parallel. The texts of a list are read one after the
        other, without padding, and each is continued as if it were alone.
    tokens : int
        How many to generate.
    temperature : float
        T, at least 0; 0 takes the most likely token always.
    top_p : float
        Draw only from the most likely tokens that together have this probability, in (0, 1].
    seed : int
        Of the draws. torch's own generator stays as it was.

    Returns
    -------
    iterator of Tensor, (batch,)
        One item for each token, as soon as it is known.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range: at the call, not at the first token;
        but there, if prompts have different lengths and the model a state that grows (attention).

    Notes
    -----
    What is kept between two tokens is the model's state and nothing else. Same seed, machine and
    number of threads: same text. Top-p: Holtzman et al., arXiv:1904.09751. Chapter 16.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = LanguageModel(vocabulary=8, channels=4, layers=1)
    >>> prompt = torch.tensor([[1, 2, 3]])
    >>> a, b = (list(generate(model, prompt, tokens=5, seed=7)) for _ in range(2))
    >>> torch.equal(torch.stack(a), torch.stack(b))
    True
    """
    temperature, top_p = _check.number("temperature", temperature), _check.number("top_p", top_p)
    if temperature < 0:
        raise ValueError(
            f"temperature must not be negative; got {temperature}: pass 0 for the most likely "
            "token, 1 for the model's own probabilities"
        )
    if not 0 < top_p <= 1:
        raise ValueError(
            f"top_p must be above 0 and at most 1; got {top_p}: pass 1 to draw from all tokens"
        )
    if not hasattr(model, "check_tokens"):
        raise TypeError(
            f"model must be a LanguageModel; got a {type(model).__name__}: pass the one that is in "
            "it"
        )
    prompts = _prompts(model, prompt)
    generator = torch.Generator(prompts[0].device).manual_seed(nn_check.seed(seed))
    return _tokens(model, prompts, _check.count("tokens", tokens), temperature, top_p, generator)


def _prompts(model: LanguageModel, prompt: Any) -> list[Tensor]:
    """Check a batch of prompts, or a list of single ones, and return batches to read in turn."""
    texts: list[Any] = list(prompt) if isinstance(prompt, (list, tuple)) else []
    if not texts:
        model.check_tokens("prompt", prompt, 2)
        return [prompt]
    for name, one in ((f"prompt[{k}]", one) for k, one in enumerate(texts)):
        ops_check.tensor(name, one)
        if one.ndim != 1:
            raise ValueError(
                f"{name} must have shape (length,), one text of the list; got {tuple(one.shape)}: "
                "pass the list's texts one by one, or one tensor instead of a list"
            )
        model.check_tokens(name, one[None], 2)
    return [one[None] for one in texts]


@torch.no_grad()
def _tokens(
    model: LanguageModel,
    prompts: list[Tensor],
    count: int,
    temperature: float,
    top_p: float,
    generator: torch.Generator,
) -> Iterator[Any]:
    read = [model.prefill(prompt) for prompt in prompts]
    logits = torch.cat([last for last, _ in read])
    state = tree_map(_one_batch, *(after for _, after in read))
    for k in range(count):
        token = sample(logits, temperature, top_p, generator)
        yield token
        if k + 1 < count:
            logits, state = model._step(token, state)  # it is of the vocabulary


def _one_batch(*states: Tensor) -> Tensor:
    """Put the states of several batches into one."""
    if len({state.shape[1:] for state in states}) > 1:
        raise ValueError(
            "prompt must have one length for a model whose state grows with it, as attention's "
            "does; got several: continue them one by one"
        )
    return torch.cat(states)


def sample(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: float,
    top_p: float,
    generator: torch.Generator,
) -> Int[Tensor, "batch"]:
    """Draw one token for each row; the arguments are those of ``generate``.

    Examples
    --------
    >>> logits = torch.tensor([[0.0, 2.0, 1.0]])
    >>> sample(logits, temperature=1.0, top_p=0.5, generator=torch.Generator())
    tensor([1])
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    least = torch.finfo(logits.dtype).tiny  # what is smaller may be taken as 0
    logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, least)
    p, order = torch.softmax(logits, -1).sort(-1, descending=True)
    p = p.where(p.cumsum(-1) - p < max(top_p, least), 0)  # the first token stays always
    chosen = torch.multinomial(p, 1, generator=generator)
    return order.gather(-1, chosen)[:, 0]
