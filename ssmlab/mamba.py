r"""Mamba's forward pass in NumPy, as its equations read: what ``ssmlab.nn`` computes fast.

Weights are a mapping from the official checkpoints' names to arrays, such as
``safetensors.numpy.load_file("model.safetensors")``. In float64. Derived in chapter 16.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, Integer, ndarray
from ssmlab.selective import selective_scan

Signal = Float[ndarray, "batch length channels"]
Weights = Mapping[str, ndarray]
EPSILON = 1e-5
HEAD = "lm_head.weight"


def silu(x: ArrayLike) -> Float[ndarray, "..."]:
    """Compute :math:`x / (1 + e^{-x})`.

    Examples
    --------
    >>> silu(np.array([-20.0, 0.0, 20.0])).round(3)
    array([-0.,  0., 20.])
    """
    x = _check.real("x", x)
    return np.asarray(x * expit(x))


def rms_norm(x: ArrayLike, weight: ArrayLike) -> Float[ndarray, "... channels"]:
    r"""Compute :math:`w x / \sqrt{\operatorname{mean}(x^2) + 10^{-5}}`, the mean over channels.

    Examples
    --------
    >>> rms_norm(np.array([[[3.0, 4.0]]]), np.ones(2)).round(3)
    array([[[0.849, 1.131]]])
    """
    weight = _shaped("weight", weight, None)
    x = _check.real("x", x)
    if x.shape[-1:] != weight.shape:
        raise ValueError(
            f"x must have the {len(weight)} channels of weight on its last axis; got shape "
            f"{x.shape}: put channels last"
        )
    return weight * x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON)


def causal_convolution(x: ArrayLike, weight: ArrayLike, bias: ArrayLike) -> Signal:
    r"""Compute :math:`y_t = b + \sum_j w_j x_{t - (n - 1) + j}` in each channel, from zeros.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> causal_convolution(x, np.array([[10.0, 1.0]]), np.zeros(1)).ravel()
    array([ 1., 12., 23.])
    """
    weight = _shaped("weight", weight, None, None)
    channels, taps = weight.shape
    x, bias = _shaped("x", x, None, None, channels), _shaped("bias", bias, channels)
    length = x.shape[1]
    padded = np.pad(x, [(0, 0), (taps - 1, 0), (0, 0)])
    return bias + sum(weight[:, j] * padded[:, j : j + length] for j in range(taps))


def block(x: ArrayLike, weights: Weights, prefix: str = "") -> Signal:
    r"""Run one Mamba block over a sequence.

    .. math:: [u, z] = W_\text{in} x, \quad u \leftarrow \operatorname{silu}(\text{conv}(u)), \quad
              [r, B, C] = W_x u, \quad \Delta = \operatorname{softplus}(W_\Delta r + b)

    .. math:: y = W_\text{out} \, ((\text{scan}(u; \Delta, A, B, C) + D u) \odot
              \operatorname{silu}(z))

    ``weights`` holds ``in_proj.weight``, ``conv1d.weight``, ``conv1d.bias``, ``x_proj.weight``,
    ``dt_proj.weight``, ``dt_proj.bias``, ``A_log``, ``D`` and ``out_proj.weight``; ``prefix`` is
    what stands before these names. Source: Gu and Dao, arXiv:2312.00752, section 3.4.

    Examples
    --------
    >>> import torch
    >>> from ssmlab import nn
    >>> layer, x = nn.Mamba(4).double(), torch.randn(1, 9, 4, dtype=torch.float64)
    >>> weights = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    >>> np.allclose(block(x.numpy(), weights), layer(x).detach())
    True
    """
    w = _mixer(weights, prefix)
    names = ("in_proj", "conv1d", "x_proj", "dt_proj", "out_proj")
    W_in, taps, W_x, W_dt, W_out = (w[f"{name}.weight"] for name in names)
    A, D = -np.exp(w["A_log"]), w["D"]
    x = _shaped("x", x, None, None, len(W_out))
    u, z = np.split(x @ W_in.T, 2, axis=-1)
    u = silu(causal_convolution(u, taps[:, 0], w["conv1d.bias"]))
    rank, state = W_dt.shape[1], A.shape[1]
    r, B, C = np.split(u @ W_x.T, [rank, rank + state], axis=-1)
    dt = np.logaddexp(0, r @ W_dt.T + w["dt_proj.bias"])
    y, _ = selective_scan(u, dt, A, B, C, D)
    return (y * silu(z)) @ W_out.T


def language_model(
    tokens: Integer[ndarray, "batch length"], weights: Weights
) -> Float[ndarray, "batch length vocabulary"]:
    """Return the logits of a whole checkpoint after each token.

    ``weights`` holds all tensors of a checkpoint, under their official names.

    Raises
    ------
    TypeError, ValueError
        If a tensor is missing, unknown or of another shape, by name, or a token is not in the
        vocabulary.

    Examples
    --------
    >>> import torch
    >>> from ssmlab import nn
    >>> model, tokens = nn.LanguageModel(8, 4, layers=2).double(), torch.tensor([[3, 1, 4]])
    >>> weights = {f"backbone.{name}": p.detach().numpy() for name, p in model.named_parameters()}
    >>> np.allclose(language_model(tokens.numpy(), weights), model(tokens).detach())
    True
    """
    _check_mapping(weights)
    weights = {name: _check.real(f"weights[{name!r}]", w) for name, w in weights.items()}
    embedding = _shaped("the embedding", weights[_embedding_in(weights)], None, None)
    x = embedding[_tokens(tokens, len(embedding))]
    for i in range(_layers_in(weights)):
        start = f"backbone.layers.{i}."
        x = x + block(rms_norm(x, weights[f"{start}norm.weight"]), weights, f"{start}mixer.")
    return rms_norm(x, weights["backbone.norm_f.weight"]) @ embedding.T


def _embedding_in(weights: Weights) -> str:
    """Name the embedding; a head must be the same."""
    names = ("backbone.embedding.weight", "backbone.embeddings.weight")
    found = [name for name in names if name in weights]
    if not found:
        raise ValueError(
            f"weights must hold {names[0]} or {names[1]}; got neither among {len(weights)} "
            "tensors: pass all tensors of a checkpoint"
        )
    if not np.array_equal(weights.get(HEAD, weights[found[0]]), weights[found[0]]):
        raise ValueError(
            f"weights must have {HEAD} equal to {found[0]}; it is not: a model with a head of its "
            "own cannot be run here"
        )
    return found[0]


def _layers_in(weights: Weights) -> int:
    """Count the layers; each must be whole."""
    start = "backbone.layers."
    layers = {name.removeprefix(start).split(".")[0] for name in weights if name.startswith(start)}
    parts = ("norm.weight", *(f"mixer.{name}" for name in _shapes()))
    expected = {f"{start}{i}.{part}" for i in range(len(layers)) for part in parts}
    expected |= {_embedding_in(weights), "backbone.norm_f.weight"}
    given = weights.keys() - {HEAD}
    for problem, names in {"missing": expected - given, "unknown": given - expected}.items():
        if names:
            raise ValueError(
                f"weights must hold the {len(expected)} tensors of {len(layers)} layers; got "
                f"{min(names)} {problem}: pass all tensors of one checkpoint"
            )
    channels = weights[_embedding_in(weights)].shape[1]
    _ask_to_fit("backbone.norm_f.weight", weights["backbone.norm_f.weight"], (channels,))
    for i in range(len(layers)):
        _ask_to_fit(f"{start}{i}.norm.weight", weights[f"{start}{i}.norm.weight"], (channels,))
        _mixer(weights, f"{start}{i}.mixer.", channels)
    return len(layers)


def _mixer(
    weights: Weights, prefix: str, channels: int | None = None
) -> dict[str, Float[ndarray, "..."]]:
    """Return the arrays of one mixer by their short names; NumPy would repeat a smaller one."""
    _check_mapping(weights)
    missing = [name for name in _shapes() if f"{prefix}{name}" not in weights]
    if missing:
        raise ValueError(
            f"weights must hold {prefix}{missing[0]}; it does not: pass all tensors of a block, "
            "and as prefix what stands before their names"
        )
    w = {name: _check.real(f"{prefix}{name}", weights[f"{prefix}{name}"]) for name in _shapes()}
    names = ("D", "A_log", "dt_proj.weight", "conv1d.weight")
    inner, state, rank, taps = ((0, *w[name].shape)[-1] for name in names)
    channels = (*w["out_proj.weight"].shape, 0)[0] if channels is None else channels
    for name, shape in _shapes(channels, inner, state, rank, taps).items():
        _ask_to_fit(f"{prefix}{name}", w[name], shape)
    return w


def _ask_to_fit(name: str, weight: ndarray, shape: tuple[int, ...]) -> None:
    if weight.shape != shape or 0 in shape:
        raise ValueError(
            f"weights must fit each other; got {name} of shape {weight.shape}, where the others "
            f"ask for {shape}: pass all tensors of one checkpoint"
        )


def _shapes(
    channels: int = 0, inner: int = 0, state: int = 0, rank: int = 0, taps: int = 0
) -> dict[str, tuple[int, ...]]:
    """Name what a mixer holds, with its shapes."""
    return {
        "A_log": (inner, state),
        "D": (inner,),
        "conv1d.bias": (inner,),
        "conv1d.weight": (inner, 1, taps),
        "dt_proj.bias": (inner,),
        "dt_proj.weight": (inner, rank),
        "in_proj.weight": (2 * inner, channels),
        "out_proj.weight": (channels, inner),
        "x_proj.weight": (rank + 2 * state, inner),
    }


def _check_mapping(weights: Weights) -> None:
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights must be a mapping from names to arrays; got a {type(weights).__name__}: pass "
            "for example what safetensors.numpy.load_file returns"
        )


def _shaped(name: str, value: ArrayLike, *shape: int | None) -> Float[ndarray, "..."]:
    """Return real numbers of a shape, in which None stands for any size but 0."""
    array = _check.real(name, value)
    fits = array.ndim == len(shape) and array.size
    if not fits or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{name} must have shape ({expected}) and not be empty; got {array.shape}: see the "
            "other arguments for the sizes"
        )
    return array


def _tokens(tokens: Integer[ndarray, "batch length"], vocabulary: int) -> ndarray:
    tokens = _check.whole("tokens", tokens, "batch", "length")
    wrong = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if wrong.size:
        raise ValueError(
            f"tokens must be whole numbers from 0 to {vocabulary - 1}; got {wrong[0]}: take the "
            "tokens of the vocabulary of these weights"
        )
    return tokens
