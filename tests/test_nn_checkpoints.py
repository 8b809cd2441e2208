"""Checkpoints: transformers' logits, NumPy's, both spellings, and every way to be broken."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.testing import assert_close

from ssmlab import mamba, nn
from ssmlab.results import load_results

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
torch.set_num_threads(1)

SIZES = {
    "plain": {"vocabulary": 29, "channels": 16, "layers": 3, "state": 8},
    "odd": {
        **{"vocabulary": 13, "channels": 7, "layers": 1, "state": 3},
        **{"conv": 3, "expand": 3, "dt_rank": 2},
    },
}
every_size = pytest.mark.parametrize("size", SIZES)
TOKENS = torch.randint(13, (2, 23), generator=torch.Generator().manual_seed(1))


def make(size: str = "plain", seed: int = 0) -> nn.LanguageModel:
    """Move every parameter from its start, so that one that is exchanged or forgotten shows."""
    torch.manual_seed(seed)
    model = nn.LanguageModel(**SIZES[size])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.fixture(scope="module")
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


# --- the same logits -----------------------------------------------------------------------------


@every_size
@torch.no_grad()
def test_transformers_reads_what_we_write(size, transformers, tmp_path):
    ours = make(size)
    nn.save_checkpoint(ours, tmp_path)
    theirs = transformers.MambaForCausalLM.from_pretrained(tmp_path).eval()
    expected, logits = theirs(TOKENS).logits, ours(TOKENS)
    assert (logits - expected).abs().max() < 1e-5
    assert logits.std() > 0.1
    state, cache = ours.initial_state(2), None
    for k in range(TOKENS.shape[1]):
        mine, state = ours.step(TOKENS[:, k], state)
        other = theirs(TOKENS[:, k : k + 1], cache=cache, use_cache=True)
        cache = other.cache
        assert (mine - other.logits[:, -1]).abs().max() < 1e-5


@torch.no_grad()
def test_we_read_what_transformers_writes(transformers, tmp_path):
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=31, hidden_size=24, state_size=5, num_hidden_layers=2, pad_token_id=None
    )
    theirs = transformers.MambaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = nn.load_checkpoint(tmp_path)
    assert not ours.training
    assert all(p.requires_grad for p in ours.parameters())
    assert (ours(TOKENS) - theirs(TOKENS).logits).abs().max() < 1e-5


@torch.no_grad()
def test_greedy_text_is_transformers(transformers, tmp_path):
    ours = make()
    nn.save_checkpoint(ours, tmp_path)
    theirs = transformers.MambaForCausalLM.from_pretrained(tmp_path).eval()
    everything = torch.ones_like(TOKENS)
    expected = theirs.generate(
        TOKENS, attention_mask=everything, max_new_tokens=15, do_sample=False, eos_token_id=None
    )
    text = torch.stack(list(nn.generate(ours, TOKENS, tokens=15, temperature=0)), 1)
    assert torch.equal(text, expected[:, TOKENS.shape[1] :])


@every_size
@pytest.mark.parametrize("naming", ["transformers", "state-spaces"])
@torch.no_grad()
def test_numpy_alone_gives_the_same(size, naming, tmp_path):
    ours = make(size).double()
    nn.save_checkpoint(ours, tmp_path, naming=naming)
    weights = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    logits = mamba.language_model(TOKENS.numpy(), weights)
    assert_close(torch.tensor(logits), ours(TOKENS), rtol=0, atol=1e-11)


def without(name):
    return lambda weights: {key: w for key, w in weights.items() if key != name}


NOT_WHOLE = {
    "the last layer's D": (
        without("backbone.layers.2.mixer.D"),
        r"the 32 tensors of 3 layers; got backbone.layers.2.mixer.D missing",
    ),
    "one number for all channels": (  # NumPy would repeat it
        lambda weights: weights | {"backbone.norm_f.weight": np.ones(1)},
        r"backbone.norm_f.weight of shape \(1,\), where the others ask for \(16,\): pass",
    ),
    "a row for all channels": (
        lambda weights: weights | {"backbone.layers.1.mixer.A_log": np.zeros((1, 8))},
        r"backbone.layers.1.mixer.A_log of shape \(1, 8\), where",
    ),
    "the embedding": (without("backbone.embeddings.weight"), "got neither among 31 tensors: pass"),
    "one more": (
        lambda weights: weights | {"backbone.extra": weights["backbone.norm_f.weight"]},
        "got backbone.extra unknown: pass all tensors of one checkpoint",
    ),
    "a head of its own": (
        lambda weights: weights | {"lm_head.weight": 2 * weights["backbone.embeddings.weight"]},
        "lm_head.weight equal to backbone.embeddings.weight",
    ),
}


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_numpy_says_what_a_checkpoint_lacks(case, tmp_path):
    nn.save_checkpoint(make(), tmp_path)
    change, message = NOT_WHOLE[case]
    weights = change(safetensors.numpy.load_file(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match=f"weights must .*{message}"):
        mamba.language_model(TOKENS.numpy(), weights)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[3, -1]], "tokens must be whole numbers from 0 to 28; got -1: take"),
        ([[29]], "got 29: take"),
        ([3], r"tokens must be whole numbers of shape .*; got int64 of shape \(1,\): pass"),
        ([[0.5]], "got float64 of shape"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_tokens_that_numpy_would_read_from_the_end(tokens, message, tmp_path):
    nn.save_checkpoint(make(), tmp_path)
    weights = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    with pytest.raises((TypeError, ValueError), match=message):
        mamba.language_model(np.array(tokens), weights)


# --- there and back ------------------------------------------------------------------------------


@every_size
@pytest.mark.parametrize("naming", ["transformers", "state-spaces"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@torch.no_grad()
def test_there_and_back(size, naming, dtype, tmp_path):
    model = make(size).to(dtype)
    nn.save_checkpoint(model, tmp_path, naming=naming)
    same = nn.load_checkpoint(tmp_path, dtype=dtype)
    for name, p in model.named_parameters():
        assert torch.equal(same.get_parameter(name), p)
    assert_close(same(TOKENS), model(TOKENS))
    assert nn.load_checkpoint(tmp_path).norm_f.weight.dtype == torch.float32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_official_names_and_configurations(tmp_path):
    nn.save_checkpoint(make(), tmp_path, naming="state-spaces")
    names = safetensors.numpy.load_file(tmp_path / "model.safetensors").keys()
    inner = ("A_log", "D", "conv1d.bias", "conv1d.weight", "dt_proj.bias", "dt_proj.weight")
    inner += ("in_proj.weight", "out_proj.weight", "x_proj.weight")
    expected = {f"backbone.layers.{i}.mixer.{name}" for i in range(3) for name in inner}
    expected |= {f"backbone.layers.{i}.norm.weight" for i in range(3)}
    expected |= {"backbone.embedding.weight", "backbone.norm_f.weight", "lm_head.weight"}
    assert names == expected
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["d_model"], config["n_layer"], config["vocab_size"]) == (16, 3, 29)
    assert config["ssm_cfg"] == {"d_state": 8, "d_conv": 4, "expand": 2, "dt_rank": 1}


def test_the_official_configuration_pads_the_vocabulary(tmp_path):
    torch.manual_seed(0)
    nn.save_checkpoint(nn.LanguageModel(56, 16, 1), tmp_path, naming="state-spaces")
    official = {"d_model": 16, "n_layer": 1, "vocab_size": 51, "ssm_cfg": {}, "rms_norm": True}
    official |= {"residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}
    (tmp_path / "config.json").write_text(json.dumps(official))
    assert nn.load_checkpoint(tmp_path).embedding.num_embeddings == 56


def test_a_file_of_transformers_may_say_d_model_too(tmp_path):
    nn.save_checkpoint(make(), tmp_path)
    change_config(d_model=16)(tmp_path)
    assert nn.load_checkpoint(tmp_path).embedding.embedding_dim == 16


@torch.no_grad()
def test_weights_in_several_files(tmp_path):
    model = make()
    nn.save_checkpoint(model, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    for k, part in enumerate((names[:9], names[9:]), start=1):
        path = tmp_path / f"model-0000{k}-of-00002.safetensors"
        safetensors.torch.save_file({name: tensors[name] for name in part}, path)
    assert_close(nn.load_checkpoint(tmp_path)(TOKENS), model(TOKENS))
    path.unlink()
    with pytest.raises(ValueError, match=r"tensors that its config.json implies; got backbone"):
        nn.load_checkpoint(tmp_path)


@torch.no_grad()
def test_a_whole_file_comes_before_the_parts_of_an_older_model(tmp_path):
    nn.save_checkpoint(make(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    model = make("odd")
    nn.save_checkpoint(model, tmp_path)
    assert torch.equal(nn.load_checkpoint(tmp_path)(TOKENS), model(TOKENS))


# --- every way to be broken ----------------------------------------------------------------------


def change_tensors(change):
    def apply(folder):
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, folder / "model.safetensors")

    return apply


def change_config(**changes):
    def apply(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


A = "backbone.layers.1.mixer.A_log"
BROKEN = {
    "missing": (
        change_tensors(lambda t: t.pop(A)),
        ValueError,
        rf"must hold the 32 tensors .*; got {A} missing: are config and weights of one model",
    ),
    "unknown": (
        change_tensors(lambda t: t.update({"backbone.extra": torch.ones(1), "b": torch.ones(1)})),
        ValueError,
        "got b and 1 more|got backbone.extra and 1 more unknown",
    ),
    "misshapen": (
        change_tensors(lambda t: t.update({A: torch.ones(32, 9)})),
        ValueError,
        rf"{A} must be real, of shape \(32, 8\).*got torch.float32 of shape \(32, 9\)",
    ),
    "integers": (
        change_tensors(lambda t: t.update({A: torch.ones(32, 8, dtype=torch.int64)})),
        ValueError,
        rf"{A} must be real, .*got torch.int64",
    ),
    "a head of its own": (
        change_tensors(lambda t: t.update({"lm_head.weight": torch.ones(29, 16)})),
        ValueError,
        "lm_head.weight must equal backbone.embeddings.weight; it does not",
    ),
    "more layers": (change_config(num_hidden_layers=4), ValueError, "layers.3.mixer.A_log and 9"),
    "truncated": (cut, ValueError, "must be a whole safetensors file; got: .*fetch it again"),
    "no safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"PK\x03\x04" * 50),
        ValueError,
        "must be a whole safetensors file",
    ),
    "pickled": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        FileNotFoundError,
        "must hold model.safetensors; .*pickled weights .* are not read",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        FileNotFoundError,
        "must hold config.json; found none in",
    ),
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{'a': 1}"),
        ValueError,
        "config.json must be a JSON object; got: Expecting property name",
    ),
    "config is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        ValueError,
        "must be a JSON object; got: it holds no object",
    ),
    "another architecture": (
        change_config(model_type="falcon_mamba"),
        ValueError,
        "must have model_type = 'mamba', .*; got 'falcon_mamba': load this checkpoint with",
    ),
    "biases": (change_config(use_bias=True), ValueError, "must have use_bias = False"),
    "another epsilon": (
        change_config(layer_norm_epsilon=1e-6),
        ValueError,
        "must have layer_norm_epsilon = 1e-05, .*got 1e-06",
    ),
    "a size that is text": (
        change_config(hidden_size="16"),
        ValueError,
        "must give hidden_size as a positive whole number; got '16'",
    ),
    "no size": (change_config(vocab_size=None), ValueError, "must give vocab_size .*got None"),
    "a negative rank": (
        change_config(time_step_rank=-1),
        ValueError,
        "must give time_step_rank as a positive whole number; got -1",
    ),
    "a multiple of nothing": (
        change_config(model_type=None, d_model=16, n_layer=3, pad_vocab_size_multiple=0),
        ValueError,
        "must give pad_vocab_size_multiple as a positive whole number; got 0",
    ),
    "sizes that are text": (
        change_config(model_type=None, d_model=16, n_layer=3, ssm_cfg="x"),
        ValueError,
        "must give ssm_cfg as an object; got 'x'",
    ),
    "more layers than tensors": (  # which were made before the weights were looked at
        change_config(num_hidden_layers=10**9),
        ValueError,
        "got 1000000000 layers, and the weights have at most 32: are config and",
    ),
    "a vocabulary beyond all memory": (
        change_config(vocab_size=10**30),
        ValueError,
        "must have sizes that the weights have; got 10+ vocabulary, .*at most 64",
    ),
    "Mamba-2": (
        change_config(model_type=None, d_model=16, n_layer=3, ssm_cfg={"layer": "Mamba2"}),
        ValueError,
        "must have ssm_cfg.layer = 'Mamba1', .*got 'Mamba2'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_says_what_is_wrong(case, tmp_path):
    nn.save_checkpoint(make(), tmp_path)
    damage, error, message = BROKEN[case]
    damage(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(error, match=message):
        nn.load_checkpoint(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("dtype", ["float32", torch.int32, None])
@pytest.mark.usefixtures("unchecked")
def test_a_type_that_is_none(dtype, tmp_path):
    nn.save_checkpoint(make(), tmp_path)
    with pytest.raises(TypeError, match=r"dtype must be a torch.dtype of real numbers; got"):
        nn.load_checkpoint(tmp_path, dtype=dtype)


@pytest.mark.usefixtures("unchecked")
def test_a_device_that_is_none(tmp_path):
    for device in ("gpu", None):
        with pytest.raises(ValueError, match=r"device must be one that torch knows; got ('gpu'|N)"):
            nn.load_checkpoint(tmp_path, device=device)


# --- what is saved can be loaded, or is not saved ------------------------------------------------


def wrapped_blocks(model):
    for block in model.layers:
        block.mixer = torch.compile(block.mixer, backend="eager")
    model.layers[0] = checkpoint_wrapper(model.layers[0])
    return model


WRAPPED = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "in parallel": torch.nn.DataParallel,
    "both": lambda model: torch.nn.DataParallel(torch.compile(model, backend="eager")),
    "compiled blocks": wrapped_blocks,
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@torch.no_grad()
def test_a_wrapped_model_is_saved_as_what_is_in_it(wrapper, tmp_path):
    nn.save_checkpoint(make(seed=1), tmp_path)
    expected = make()(TOKENS)
    nn.save_checkpoint(WRAPPED[wrapper](make()), tmp_path)
    assert torch.equal(nn.load_checkpoint(tmp_path)(TOKENS), expected)


@torch.no_grad()
def test_what_two_layers_share_is_written_twice(tmp_path):
    model = make()
    model.layers[1].mixer = model.layers[0].mixer
    nn.save_checkpoint(model, tmp_path)
    assert torch.equal(nn.load_checkpoint(tmp_path)(TOKENS), model(TOKENS))


def of_two_sizes(model):
    model.layers[1].mixer = nn.Mamba(16, state=4)


def with_another_epsilon(model):
    model.layers[1].norm.eps = 1e-3


def with_a_norm(model):
    torch.nn.utils.parametrizations.weight_norm(model.layers[2].mixer.in_proj)


def of_one_number(model):
    model.norm_f.weight = torch.nn.Parameter(torch.ones(1))


NOT_SAVED = {
    "two sizes": (of_two_sizes, r"layers.1.mixer.A_log must be real, of shape \(32, 8\)"),
    "another epsilon": (with_another_epsilon, "have norms .*; got 0.001 in layers.1.norm: the"),
    "other names": (with_a_norm, "in_proj.weight missing"),
    "another shape": (of_one_number, "norm_f.weight must be real, of shape"),
    "no values": (lambda model: model.to("meta"), "have values; got .* on the meta"),
}


@pytest.mark.parametrize("case", NOT_SAVED)
@pytest.mark.parametrize("naming", ["transformers", "state-spaces"])
def test_what_cannot_be_loaded_is_not_saved(case, naming, tmp_path):
    nn.save_checkpoint(make(seed=1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (change, message), model = NOT_SAVED[case], make()
    change(model)
    with pytest.raises(ValueError, match=f"model must .*{message}"):
        nn.save_checkpoint(model, tmp_path, naming=naming)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@torch.no_grad()
def test_a_save_that_is_cut_between_its_files_is_whole(tmp_path, monkeypatch):
    nn.save_checkpoint(make(), tmp_path)
    replace = Path.replace

    def stop(path, target):
        if target.name == "config.json":
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop)
    model = nn.LanguageModel(13, 8, 1)
    with pytest.raises(KeyboardInterrupt):
        nn.save_checkpoint(model, tmp_path)
    monkeypatch.undo()
    assert torch.equal(nn.load_checkpoint(tmp_path)(TOKENS), model(TOKENS))
    nn.save_checkpoint(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):  # of one that was cut before that
        (tmp_path / f"{name}.unfinished").write_bytes(b"{")
    assert torch.equal(nn.load_checkpoint(tmp_path)(TOKENS), model(TOKENS))


@pytest.mark.parametrize("failing", ["save_file", "json.dumps"])
def test_a_failing_save_changes_nothing(failing, tmp_path, monkeypatch):
    nn.save_checkpoint(make(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments, **options):
        if failing == "save_file":
            arguments[1].write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(f"ssmlab.nn.checkpoints.{failing}", fail)
    with pytest.raises(OSError, match="disk full"):
        nn.save_checkpoint(make(seed=1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("unchecked")
def test_only_a_language_model_can_be_saved(tmp_path):
    with pytest.raises(TypeError, match="model must be a LanguageModel; got a Linear"):
        nn.save_checkpoint(torch.nn.Linear(2, 2), tmp_path / "new")


def test_only_mamba_can_be_saved(tmp_path):
    with pytest.raises(ValueError, match="model must be made of Mamba blocks; got Gated: the"):
        nn.save_checkpoint(nn.LanguageModel(5, 4, 1, "s4d"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"naming must be one of .* did you mean 'transformers'"):
        nn.save_checkpoint(make(), tmp_path, naming="transformer")


def test_the_shipped_model_loads():
    folder = Path(__file__).parents[1] / "book/experiments/byte_model"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    results = load_results(folder.with_suffix(".json"))["results"]
    model = nn.load_checkpoint(folder)
    assert sum(p.numel() for p in model.parameters()) == results["parameters"]
    text = torch.tensor([list(b"import os\nimport sys\n\n\ndef main(argv=None):\n    return ")])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(text)[0, :-1], text[0, 1:])
    assert loss < 2.5  # ln 256 = 5.5
