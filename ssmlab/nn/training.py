"""Train a classifier, repeatably, and count its right answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ssmlab import _check
from ssmlab.nn.layers import StateSpaceLayer

SLOWEST = 1e-3  # the largest learning rate of what sets a layer's time scales


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
        Largest learning rate, and decay. The A, P and dt of state space layers learn at most at
        0.001 and do not decay.
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
        If a size is no positive whole number, or x and labels differ in length.

    Notes
    -----
    The same seeds, machine and number of threads give the same weights to the last bit on a CPU.
    Chapter 9.

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
    _check_examples(x, labels)
    steps = -(-len(x) // batch)
    optimiser = torch.optim.AdamW(_groups(model, lr, weight_decay))
    rates = [group["lr"] for group in optimiser.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=epochs * steps)
    history: list[dict[str, float]] = []
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for _ in (bar := _bar(range(epochs), progress)):
            model.train()
            losses = []
            for chosen in torch.randperm(len(x)).to(x.device).split(batch):
                loss = cross_entropy(model(x[chosen]), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(loss.detach())
            record = {"loss": torch.stack(losses).mean().item()}
            if test is not None:
                record["accuracy"] = accuracy(model, *test)
            history.append(record)
            if progress:
                bar.set_postfix(record)
    model.eval()
    return history


@torch.no_grad()
def accuracy(
    model: nn.Module, x: Tensor, labels: Tensor, *, batch: int = 256, **options: Any
) -> float:
    """Return the share of right answers, from 0 to 1, without dropout.

    Options, such as ``rate=2``, go to the model. It is left in evaluation mode.
    """
    _check_examples(x, labels)
    model.eval()
    parts = zip(x.split(batch), labels.split(batch), strict=True)
    right = sum(int((model(x, **options).argmax(-1) == y).sum()) for x, y in parts)
    return right / len(x)


def _groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Set apart what sets the time scales: everything in a state space layer but C and D."""
    layers = [layer for layer in model.modules() if isinstance(layer, StateSpaceLayer)]
    slow = {p for layer in layers for name, p in layer.named_parameters() if name not in ("C", "D")}
    fast = [p for p in model.parameters() if p not in slow]
    groups: list[dict[str, Any]] = [{"params": fast, "lr": lr, "weight_decay": weight_decay}]
    if slow:
        ordered = [p for p in model.parameters() if p in slow]
        groups.append({"params": ordered, "lr": min(lr, SLOWEST), "weight_decay": 0.0})
    return groups


def _bar(epochs: Iterable[int], progress: bool) -> Any:
    if not progress:
        return epochs
    from tqdm import tqdm

    return tqdm(epochs, unit="epoch")


def _check_examples(x: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or x.ndim == 0 or len(x) != len(labels) or not len(x):
        raise ValueError(
            "x and labels must hold the same number of examples, at least one; got shapes "
            f"{tuple(x.shape)} and {tuple(labels.shape)}: pass one label for each sequence"
        )
