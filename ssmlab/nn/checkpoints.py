r"""Read and write a Mamba language model under the names of the official checkpoints.

A checkpoint is a folder with ``config.json`` and ``model.safetensors`` (or several
``model-*.safetensors``). Two spellings of both exist, that of state-spaces/mamba and that of
transformers; both are read. Pickled weights (``.bin``, ``.pt``) are not, as unpickling can run a
program: chapter 16 turns such a file, the only kind that the authors' own loader reads, into
safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssmlab import _check
from ssmlab._files import replacing
from ssmlab.nn.language_model import LanguageModel, MixerBlock
from ssmlab.nn.mamba import Mamba

#: The embedding's name in each spelling; all other names agree.
EMBEDDING = {
    "state-spaces": "backbone.embedding.weight",
    "transformers": "backbone.embeddings.weight",
}
HEAD = "lm_head.weight"

#: What torch.compile, DataParallel and checkpoint_wrapper put into the names of parameters.
WRAPPERS = ("_orig_mod", "module", "_checkpoint_wrapped_module")

#: A new configuration waits here until the weights stand: one that still waits belongs to them.
WAITING = "config.json.unfinished"

#: What a configuration may say about things that this library has in one form only.
FIXED: dict[str, dict[str, Any]] = {
    "state-spaces": {
        "rms_norm": True,
        "tie_embeddings": True,
        "d_intermediate": 0,
        "attn_layer_idx": [],
        "ssm_cfg.layer": "Mamba1",
        "ssm_cfg.bias": False,
        "ssm_cfg.conv_bias": True,
    },
    "transformers": {
        "model_type": "mamba",
        "hidden_act": "silu",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "use_bias": False,
        "use_conv_bias": True,
    },
}


AGAIN = "fetch it again, or another checkpoint"


def load_checkpoint(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> LanguageModel:
    """Make the language model whose sizes and weights are in a folder.

    Parameters
    ----------
    folder : path
        With ``config.json`` and ``model.safetensors``, or several ``model-*.safetensors``.
    dtype : torch.dtype
        Type of the parameters, whatever that of the file.
    device : str or torch.device

    Returns
    -------
    LanguageModel
        In evaluation mode.

    Raises
    ------
    FileNotFoundError
        If one of the files is not there.
    TypeError, ValueError
        If ``dtype`` is no type of real numbers, or ``device`` none that torch knows; if a file is
        damaged; if the configuration asks for what is not here, or for more than the weights can
        fill, by name; if a tensor is unknown, missing or of another shape, by name; or if the head
        is not the embedding.

    Notes
    -----
    Logits are those of transformers' ``MambaForCausalLM``, to float32 rounding.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> model = LanguageModel(vocabulary=16, channels=8, layers=1)
    >>> with TemporaryDirectory() as folder:
    ...     save_checkpoint(model, folder)
    ...     same = load_checkpoint(folder)
    >>> tokens = torch.tensor([[3, 1, 4]])
    >>> torch.equal(model(tokens), same(tokens))
    True
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"dtype must be a torch.dtype of real numbers; got {dtype!r}: pass for example "
            "torch.float32"
        )
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(
            f"device must be one that torch knows; got {device!r}: pass for example 'cpu' or 'cuda'"
        ) from None
    folder = _check.path("folder", folder)
    config, tensors = _read_config(folder), _read_tensors(folder)
    model = _implied(config, tensors)
    weights = _in_our_names(tensors, model.state_dict())
    model.load_state_dict({name: w.to(device, dtype) for name, w in weights.items()}, assign=True)
    return model.eval()


def save_checkpoint(
    model: torch.nn.Module, folder: str | Path, *, naming: str = "transformers"
) -> None:
    """Write a model's sizes and weights, whole or not at all.

    Parameters
    ----------
    model : LanguageModel
        Made of Mamba blocks of one size. What torch.compile or DataParallel wraps is unwrapped.
    folder : path
        Made if it is not there. Its ``config.json`` and ``model.safetensors`` are replaced.
    naming : {"transformers", "state-spaces"}

    Raises
    ------
    TypeError, ValueError
        If it is another model, or has other mixers or tensors than ``load_checkpoint`` takes, or no
        values (the meta device); or the naming is unknown.

    Notes
    -----
    What would be written is first checked as ``load_checkpoint`` checks it, and everything is
    written under other names before it takes its place: a failure leaves the folder as it was. The
    type of the weights is that of the model: ``save_checkpoint(model.half(), ...)`` halves the
    file.
    """
    _check.choice("naming", naming, EMBEDDING)
    model = _unwrapped(model)
    tensors = {_official(name, naming): w for name, w in _state_of(model).items()}
    if naming == "state-spaces":  # its loader asks for the head too
        tensors[HEAD] = tensors[EMBEDDING[naming]].clone()
    config = _config(model, naming)
    try:
        _in_our_names(tensors, _implied(config, tensors).state_dict())
    except ValueError as error:
        raise ValueError(f"model must be one that load_checkpoint takes; got: {error}") from None
    folder = _check.path("folder", folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"folder must be a folder; got the file {folder}: pass another")
    folder.mkdir(parents=True, exist_ok=True)
    waiting = folder / WAITING
    try:
        with replacing(folder / "model.safetensors") as weights:
            save_file(tensors, weights, {"format": "pt"})
            waiting.write_text(json.dumps(config, indent=1) + "\n", "utf8")
    except BaseException:
        waiting.unlink(missing_ok=True)
        raise
    waiting.replace(folder / "config.json")


def _unwrapped(model: Any) -> LanguageModel:
    """Take a model of Mamba blocks out of what is wrapped around it and around them."""
    found = _inside(model, LanguageModel)
    if not isinstance(found, LanguageModel):
        raise TypeError(
            f"model must be a LanguageModel; got a {type(model).__name__}: pass the one that is in "
            "it"
        )
    for block in found.layers:
        if not isinstance(mixer := _mixer(block), Mamba):
            raise ValueError(
                f"model must be made of Mamba blocks; got {type(mixer).__name__}: the official "
                "format has no names for others; use torch.save(model.state_dict(), ...)"
            )
    for name, module in found.named_modules():
        if isinstance(module, torch.nn.RMSNorm) and module.eps != 1e-5:
            raise ValueError(
                f"model must have norms with eps = 1e-05; got {module.eps} in {name}: the model "
                "that is loaded has no other; use torch.save(model.state_dict(), ...)"
            )
    return found


def _mixer(block: Any) -> Any:
    return _inside(_inside(block, MixerBlock).mixer, Mamba)


def _inside(module: Any, kind: type) -> Any:
    """Take wrappers off until it is of this kind, or there are none."""
    while not isinstance(module, kind):
        children = dict(module.named_children()) if isinstance(module, torch.nn.Module) else {}
        inner = [children[name] for name in WRAPPERS if name in children]
        if not inner:
            break
        module = inner[0]
    return module


def _state_of(model: LanguageModel) -> dict[str, Tensor]:
    """Return the weights, each in its own memory, under the names that no wrapper has changed."""
    weights: dict[str, Tensor] = {}
    seen = set()
    for name, weight in model.state_dict().items():
        name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if weight.is_meta:
            raise ValueError(
                f"model must have values; got {name} on the meta device: give it memory with "
                "to_empty and values with reset_parameters"
            )
        shared = weight.data_ptr() in seen  # by two layers: the format knows no such thing
        weights[name] = weight.clone() if shared else weight.contiguous()
        seen.add(weight.data_ptr())
    return weights


# --- the configuration ---------------------------------------------------------------------------


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if (folder / WAITING).is_file() and not (folder / "model.safetensors.unfinished").is_file():
        path = folder / WAITING  # the program that saved was killed between two renamings
    if not path.is_file():
        raise FileNotFoundError(f"folder must hold config.json; found none in {folder}")
    try:
        config = json.loads(path.read_text("utf8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no object")
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON object; got: {error}: fetch it again") from None
    return config


def _sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of LanguageModel, from either spelling of a configuration."""
    if "d_model" in config:
        ssm = config.get("ssm_cfg") or {}
        if not isinstance(ssm, dict):
            raise ValueError(f"config.json must give ssm_cfg as an object; got {ssm!r}: {AGAIN}")
        config = config | {f"ssm_cfg.{key}": value for key, value in ssm.items()}
        _refuse_other_models(config, "state-spaces")
        names = ("d_model", "n_layer", "ssm_cfg.d_state", "ssm_cfg.d_conv", "ssm_cfg.expand")
        rank, multiple = "ssm_cfg.dt_rank", config.get("pad_vocab_size_multiple", 8)
    else:
        _refuse_other_models(config, "transformers")
        names = ("hidden_size", "num_hidden_layers", "state_size", "conv_kernel", "expand")
        rank, multiple = "time_step_rank", 1
    ours = ("channels", "layers", "state", "conv", "expand", "vocabulary", "dt_rank")
    defaults = {names[2]: 16, names[3]: 4, names[4]: 2, rank: "auto"}
    sizes = {}
    for name, official in zip(ours, (*names, "vocab_size", rank), strict=True):
        size = config.get(official, defaults.get(official))
        if size == "auto" and official == rank:
            continue
        sizes[name] = _positive(official, size)
    multiple = _positive("pad_vocab_size_multiple", multiple)
    sizes["vocabulary"] = -(-sizes["vocabulary"] // multiple) * multiple
    return sizes


def _positive(name: str, size: Any) -> int:
    if type(size) is not int or size < 1:
        raise ValueError(
            f"config.json must give {name} as a positive whole number; got {size!r}: {AGAIN}"
        )
    return size


def _implied(config: dict[str, Any], tensors: Mapping[str, Tensor]) -> LanguageModel:
    """Make the model of a configuration, without memory, if weights may have its sizes."""
    sizes = _sizes(config)
    longest = max((n for tensor in tensors.values() for n in tensor.shape), default=0)
    for name, size in sizes.items():
        if size > (most := len(tensors) if name == "layers" else longest):
            raise ValueError(
                f"config.json must have sizes that the weights have; got {size} {name}, and the "
                f"weights have at most {most}: are config and weights of one model?"
            )
    with torch.device("meta"):
        return LanguageModel(**sizes)


def _refuse_other_models(config: dict[str, Any], naming: str) -> None:
    for name, expected in FIXED[naming].items():
        value = config.get(name, expected)
        if value != expected:
            raise ValueError(
                f"config.json must have {name} = {expected!r}, the only form in this library; got "
                f"{value!r}: load this checkpoint with the program that it was made for"
            )


def _config(model: LanguageModel, naming: str) -> dict[str, Any]:
    mixer = _mixer(model.layers[0])
    conv, expand = mixer.conv1d.kernel_size[0], mixer.inner // mixer.channels
    vocabulary, channels = model.embedding.weight.shape
    if naming == "state-spaces":
        ssm = {"d_state": mixer.state, "d_conv": conv, "expand": expand, "dt_rank": mixer.dt_rank}
        return {
            "d_model": channels,
            "n_layer": len(model.layers),
            "vocab_size": vocabulary,
            "ssm_cfg": ssm,
            "rms_norm": True,
            "residual_in_fp32": True,
            "fused_add_norm": True,
            "pad_vocab_size_multiple": 1,
        }
    return {
        "architectures": ["MambaForCausalLM"],
        **FIXED[naming],
        "vocab_size": vocabulary,
        "hidden_size": channels,
        "num_hidden_layers": len(model.layers),
        "state_size": mixer.state,
        "conv_kernel": conv,
        "expand": expand,
        "intermediate_size": mixer.inner,
        "time_step_rank": mixer.dt_rank,
        "residual_in_fp32": True,
        "dtype": str(model.embedding.weight.dtype).removeprefix("torch."),
    }


# --- the weights ---------------------------------------------------------------------------------


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    whole = folder / "model.safetensors"  # beside it, parts are those of an older model
    paths = [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))
    if not paths:
        raise FileNotFoundError(
            f"folder must hold model.safetensors; found none in {folder}: pickled weights (.bin, "
            ".pt) are not read, because unpickling runs programs; convert them to safetensors"
        )
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} must be a whole safetensors file; got: {error}: fetch it again"
            ) from None
    return tensors


def _in_our_names(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Check names and shapes against a model's; return the tensors under its names."""
    naming = next((n for n, name in EMBEDDING.items() if name in tensors), "transformers")
    shapes = {_official(name, naming): w.shape for name, w in expected.items()}
    given = {name: w for name, w in tensors.items() if name != HEAD}
    for problem, names in {
        "missing": sorted(shapes.keys() - given.keys()),
        "unknown": sorted(given.keys() - shapes.keys()),
    }.items():
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"the checkpoint must hold the {len(shapes)} tensors that its config.json implies; "
                f"got {names[0]}{others} {problem}: are config and weights of one model?"
            )
    for name, tensor in given.items():
        if tensor.shape != shapes[name] or not tensor.is_floating_point():
            raise ValueError(
                f"{name} must be real, of shape {tuple(shapes[name])}, as config.json implies; got "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}: are config and weights of one "
                "model?"
            )
    if HEAD in tensors and not torch.equal(tensors[HEAD], tensors[EMBEDDING[naming]]):
        raise ValueError(
            f"{HEAD} must equal {EMBEDDING[naming]}; it does not: a model with a head of its own "
            "cannot be loaded here"
        )
    return {name: given[_official(name, naming)] for name in expected}


def _official(name: str, naming: str) -> str:
    return EMBEDDING[naming] if name == "embedding.weight" else f"backbone.{name}"
