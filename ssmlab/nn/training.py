"""Train classifiers and language models, repeatably; count a classifier's right answers."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from ssmlab import _check
from ssmlab.nn import _check as nn_check
from ssmlab.nn.layer import Layer
from ssmlab.ops import _check as ops_check

SLOWEST = 1e-3  # the largest learning rate of what sets a layer's time scales
LARGEST = 1e6  # learning rate that an optimiser in float32 can take


def fit(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch: int = 64,
    lr: float = 4e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    test: tuple[Tensor, Tensor] | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    r"""Train a classifier by AdamW with a one-cycle learning rate.

    Parameters
    ----------
    model : Module
        From x to logits, (batch, classes). It is changed in place.
    x, labels : Tensor, (examples, length, inputs) and (examples,)
        On the device of the model.
    epochs, batch : int
        Passes over the examples; examples in a step.
    lr, weight_decay : float
        Largest learning rate, and decay; see ``parameter_groups``.
    seed : int
        Of the order of the examples and of the dropout. torch's own generator stays as it was.
    test : (x, labels), optional
        Examples on which the accuracy is counted after each epoch.
    progress : bool
        Show a bar (it needs tqdm).

    Returns
    -------
    list of dict
        For each epoch: "loss", the mean over its steps, and "accuracy" on ``test`` if given.

    Raises
    ------
    TypeError, ValueError
        If a size is no positive whole number, ``lr`` is not positive or ``weight_decay`` negative;
        if x and labels are no tensors, or differ in length.

    Notes
    -----
    The same seeds, machine and number of threads give the same weights to the last bit on a CPU.
    The model is left in evaluation mode, also after an error. Chapter 10.

    Examples
    --------
    Tell which of two sequences has the larger mean.

    >>> from ssmlab import nn
    >>> _ = torch.manual_seed(0)
    >>> labels = torch.tensor([0, 1] * 16)
    >>> x = torch.randn(32, 10, 1) + labels[:, None, None]
    >>> model = nn.SequenceClassifier(1, 2, channels=4, depth=1)
    >>> history = fit(model, x, labels, epochs=20, batch=8, progress=False)
    >>> accuracy(model, x, labels) > 0.8
    True
    """
    epochs, batch = _check.count("epochs", epochs), _check.count("batch", batch)
    seed = nn_check.seed(seed)
    _check_model(model)
    for examples in ((x, labels), test or (x, labels)):
        _check_examples(model, *examples)
    if labels.dtype != torch.int64:
        raise TypeError(
            f"labels must be int64; got {labels.dtype}: convert them with labels.long()"
        )
    steps = -(-len(x) // batch)
    optimiser = torch.optim.AdamW(parameter_groups(model, lr, weight_decay))
    rates = [group["lr"] for group in optimiser.param_groups]
    schedule = OneCycleLR(optimiser, rates, total_steps=epochs * steps)
    history: list[dict[str, float]] = []
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for _ in (bar := _bar(range(epochs), progress, "epoch")):
            order = torch.randperm(len(x)).to(x.device).split(batch)
            batches = ((x[chosen], labels[chosen]) for chosen in order)
            losses = list(_descend(model, _label_loss, batches, schedule))
            record = {"loss": torch.stack(losses).mean().item()}
            if test is not None:
                record["accuracy"] = accuracy(model, *test)
            history.append(record)
            if progress:
                bar.set_postfix(record)
    return history


@torch.no_grad()
def accuracy(
    model: nn.Module, x: Tensor, labels: Tensor, *, batch: int = 256, **options: Any
) -> float:
    """Return the share of right answers, from 0 to 1, without dropout.

    Options, such as ``rate=2``, go to the model. It is left in evaluation mode.
    """
    batch = _check.count("batch", batch)
    _check_model(model)
    _check_examples(model, x, labels)
    model.eval()
    parts = zip(x.split(batch), labels.split(batch), strict=True)
    right = sum(int((model(x, **options).argmax(-1) == y).sum()) for x, y in parts)
    return right / len(x)


def fit_language_model(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    steps: int,
    lr: float = 3e-3,
    weight_decay: float = 0.01,
    warmup: int = 20,
    constant: bool = False,
    groups: list[dict[str, Any]] | None = None,
    progress: bool = True,
) -> list[float]:
    r"""Train a language model by AdamW on the cross-entropy of its next tokens.

    Parameters
    ----------
    model : Module
        From tokens to logits, (batch, length, vocabulary). It is changed in place.
    batches : iterable
        Gives (tokens, targets), arrays or tensors of shapes (batch, length) and (batch, answers):
        the loss is that of the last ``answers`` steps. An iterator, such as those of
        :mod:`ssmlab.tasks` in a loop, or what one can be made of: a list, a ``DataLoader``.
    steps : int
        Batches to take.
    lr, weight_decay : float
        Learning rate after the warm-up, and decay; see ``parameter_groups``.
    warmup : int
        Steps in which the rate rises from zero.
    constant : bool
        Keep the rate, instead of lowering it to zero along a cosine.
    groups : list of dict, optional
        Of the optimiser; ``parameter_groups(model, lr, weight_decay)`` by default.
    progress : bool
        Show a bar (it needs tqdm).

    Returns
    -------
    list of float
        The loss of each step, in nats a token.

    Warns
    -----
    UserWarning
        If the batches run dry: training ends there, and the losses so far are returned.

    Raises
    ------
    TypeError, ValueError
        If ``steps`` or ``warmup`` is no positive whole number, ``lr`` is not positive or
        ``weight_decay`` negative; if there is no batch, or one is no pair, or known to be too few.

    Notes
    -----
    Gradients longer than 1 are shortened to 1. The model is left in evaluation mode, also after an
    error. The same weights, batches, machine and number of
    threads give the same result to the last bit on a CPU. Chapter 16.

    Examples
    --------
    Predict the next of two letters that take turns.

    >>> from itertools import repeat
    >>> from ssmlab import nn
    >>> _ = torch.manual_seed(0)
    >>> model = nn.LanguageModel(2, 4, layers=1)
    >>> text = torch.tensor([[0, 1] * 5])
    >>> batches = repeat((text[:, :-1], text[:, 1:]))
    >>> losses = fit_language_model(model, batches, steps=60, lr=0.05, progress=False)
    >>> losses[0] > 0.6, losses[-1] < 0.2
    (True, True)
    """
    steps, warmup = _check.count("steps", steps), _check.count("warmup", warmup)

    def factor(step: int) -> float:
        rise = min(1, (step + 1) / warmup)
        return rise if constant else rise * (1 + math.cos(math.pi * step / steps)) / 2

    optimiser = torch.optim.AdamW(
        groups or parameter_groups(model, lr, weight_decay), betas=(0.9, 0.98)
    )
    schedule = LambdaLR(optimiser, factor)
    losses: list[float] = []
    bar = _bar(_pairs(_enough(batches, steps), steps), progress, "step", steps)
    for loss in _descend(model, _next_token_loss, bar, schedule, longest=1.0):
        losses.append(loss.item())
        if progress and len(losses) % 10 == 1:
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Set apart the parameters that set the time scales: at most 0.001 and no decay.

    Each layer names its own, in ``time_scales``.

    Parameters
    ----------
    model : Module
    lr, weight_decay : float
        Of the other parameters.

    Returns
    -------
    list of dict
        For an optimiser of torch.

    Raises
    ------
    TypeError, ValueError
        If ``lr`` is not positive, ``weight_decay`` is negative, or the model has no parameters.

    Examples
    --------
    >>> from ssmlab import nn
    >>> fast, slow = parameter_groups(nn.Mamba(4), lr=0.01, weight_decay=0.1)
    >>> len(slow["params"]), slow["lr"], slow["weight_decay"]
    (4, 0.001, 0.0)
    """
    _check_model(model)
    lr = _check.positive("lr", lr, "pass the size of a step, such as 0.003")
    if lr > LARGEST:
        raise ValueError(f"lr must be at most {LARGEST:g}; got {lr:g}: pass a step such as 0.003")
    weight_decay = _check.number("weight_decay", weight_decay)
    if weight_decay < 0:
        raise ValueError(
            f"weight_decay must not be negative; got {weight_decay}: pass 0 for no decay"
        )
    named = (m.time_scales() for m in model.modules() if isinstance(m, Layer))
    slow = {p for parameters in named for p in parameters}
    fast = [p for p in model.parameters() if p not in slow]
    if not fast and not slow:
        raise ValueError(
            f"model must have parameters; got a {type(model).__name__} without any: there is "
            "nothing to train"
        )
    groups: list[dict[str, Any]] = [{"params": fast, "lr": lr, "weight_decay": weight_decay}]
    if slow:
        ordered = [p for p in model.parameters() if p in slow]
        groups.append({"params": ordered, "lr": min(lr, SLOWEST), "weight_decay": 0.0})
    return groups


def _descend(
    model: nn.Module,
    loss: Callable[..., Tensor],
    batches: Iterable[Any],
    schedule: LRScheduler,
    longest: float | None = None,
) -> Iterator[Tensor]:
    """Take a step for each batch, and give its loss. A gradient is cut to the longest length.

    The model is in training mode in between, and in evaluation mode at the end, however it comes.
    """
    optimiser = schedule.optimizer
    model.train()
    try:
        for batch in batches:
            value = loss(model, *batch)
            optimiser.zero_grad()
            value.backward()
            if longest is not None:
                nn.utils.clip_grad_norm_(model.parameters(), longest)
            optimiser.step()
            schedule.step()
            yield value.detach()
    finally:
        model.eval()


def _enough(batches: Any, steps: int) -> Iterator[Any]:
    """Ask for an iterable that is not known to be too short."""
    try:
        iterator = iter(batches)
    except TypeError:
        raise TypeError(
            "batches must be an iterable of (tokens, targets), such as a DataLoader; got a "
            f"{type(batches).__name__}: pass for example itertools.repeat(batch)"
        ) from None
    known = operator.length_hint(batches, steps)
    if known < steps:
        raise ValueError(
            f"batches must give a batch for each of the {steps} steps; got {known}: pass more, or "
            "ask for fewer steps"
        )
    return iterator


def _pairs(batches: Iterable[Any], steps: int) -> Iterator[tuple[Any, Any]]:
    """Give as many batches as there are steps, each a pair; warn if they run dry."""
    taken = 0
    for taken, batch in enumerate(islice(batches, steps), start=1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(
                f"batches must give pairs of tokens and targets; batch {taken} is a "
                f"{type(batch).__name__}: see ssmlab.tasks for batches of the right form"
            )
        yield batch[0], batch[1]
    if taken == 0:
        raise ValueError("batches must give a batch for each step; got none: make them anew")
    if taken < steps:
        warnings.warn(
            f"batches ran dry: {steps} steps were asked for, and there is no batch for step "
            f"{taken + 1}; the losses so far are returned",
            stacklevel=4,
        )


def _label_loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(model(x), labels)


def _next_token_loss(model: nn.Module, tokens: Any, targets: Any) -> Tensor:
    device = next((p.device for p in model.parameters()), None)
    tokens, targets = (torch.as_tensor(part, device=device) for part in (tokens, targets))
    _check_targets(tokens, targets)
    logits = model(tokens)[:, -targets.shape[1] :]
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


def _check_targets(tokens: Tensor, targets: Tensor) -> None:
    answers = targets.shape[1] if targets.ndim == 2 and tokens.ndim == 2 else 0
    if targets.dtype != torch.int64 or len(targets) != len(tokens) or not answers:
        raise ValueError(
            f"targets must be int64 of shape (batch, answers), for tokens {tuple(tokens.shape)}; "
            f"got {targets.dtype} of shape {tuple(targets.shape)}: pass one row for each sequence"
        )
    if answers > tokens.shape[1]:
        raise ValueError(
            f"targets must not be longer than tokens, {tokens.shape[1]}; got {answers}: the last "
            "steps answer"
        )
    if not targets.is_cuda and (least := int(targets.min())) < 0:  # on a GPU, it would wait
        raise ValueError(
            f"targets must be tokens, at least 0; got {least}: leave out steps without an answer "
            "at the start"
        )


def _bar(items: Iterable[Any], progress: bool, unit: str, total: int | None = None) -> Any:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, unit=unit, total=total)


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module; got a {type(model).__name__}: pass for example a "
            "SequenceClassifier"
        )


def _check_examples(model: nn.Module, x: Tensor, labels: Tensor) -> None:
    weight = next(model.parameters(), x)
    for name, value in {"x": x, "labels": labels}.items():
        ops_check.tensor(name, value)
        ops_check.same_device(name, value, "the parameters are", weight.device)
    if labels.ndim != 1 or x.ndim == 0 or len(x) != len(labels) or not len(x):
        raise ValueError(
            "x and labels must hold the same number of examples, at least one; got shapes "
            f"{tuple(x.shape)} and {tuple(labels.shape)}: pass one label for each sequence"
        )
