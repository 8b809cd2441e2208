"""Data that every machine can make: three synthetic tasks, and text to read byte by byte.

- ``selective_copying``: repeat a few symbols that stand at random places among blanks;
- ``induction_heads``: recall the symbol that followed a trigger, long ago;
- ``latest_value``: recall what was last written under each key;
- ``python_source``: the source of Python's standard library, and ``windows`` of it.

A task takes ``batch``, the number of sequences, ``length``, the tokens in each, and a ``seed``, an
int or a NumPy Generator, which draws one batch after another. It returns a ``Batch``: int64
``tokens``, (batch, length), and the ``targets`` of their last steps. Chapters 11, 12 and 16.
"""

from __future__ import annotations

import sysconfig
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssmlab import _check
from ssmlab._typing import Int, Integer, ndarray

#: A seed, or a generator that goes on from where it stands.
Seed = int | np.random.Generator

#: Folders of the standard library that are no part of it, or that hold tables instead of code.
#:
#: :meta hide-value:
LEFT_OUT = frozenset(
    ("dist-packages", "encodings", "idle_test", "pydoc_data", "site-packages", "test", "tests")
)


class Batch(NamedTuple):
    """Sequences, and what a model should say at their last ``answers`` steps.

    For logits of shape (batch, length, vocabulary), compare ``logits[:, -answers:]`` with targets.
    """

    tokens: Int[ndarray, "batch length"]
    targets: Int[ndarray, "batch answers"]


def selective_copying(
    batch: int,
    length: int,
    *,
    memorise: int = 16,
    vocabulary: int = 16,
    gap: int = 0,
    seed: Seed = 0,
) -> Batch:
    """Draw sequences of blanks with a few symbols at random places, to be repeated in order.

    Token 0 is the blank, 1 to vocabulary - 2 are symbols, and vocabulary - 1 is the marker. The
    last ``memorise`` tokens are markers: at the first of them the answer is the first symbol, at
    the second the second one. Every choice of places is equally likely, and so is every symbol.

    Parameters
    ----------
    memorise : int
        Number of symbols to repeat.
    vocabulary : int
        Number of different tokens, at least 4: who guesses is right once in vocabulary - 2 times.
    gap : int
        At least so many blanks stand before the first marker.

    Notes
    -----
    With the places fixed, a time-invariant model solves it by a delay: that is the older copying
    task. Source: the generator of the S4 repository (``copying.py``, ``variable=True``), which the
    Mamba paper's task follows (arXiv:2312.00752, section 4.1.1: length 4096, 16 symbols to
    memorise, 16 tokens); chapter 12.

    Examples
    --------
    >>> tokens, targets = selective_copying(2, 12, memorise=3, vocabulary=10, seed=1)
    >>> tokens
    array([[0, 4, 0, 0, 5, 0, 7, 0, 0, 9, 9, 9],
           [0, 0, 0, 0, 8, 0, 1, 2, 0, 9, 9, 9]])
    >>> targets
    array([[4, 5, 7],
           [8, 1, 2]])
    """
    batch, length = _check.count("batch", batch), _check.count("length", length)
    memorise, gap = _check.count("memorise", memorise), _check.count("gap", gap, least=0)
    vocabulary = _check.count("vocabulary", vocabulary, least=4)
    room = length - memorise - gap
    if room < memorise:
        raise ValueError(
            f"length must be at least 2 memorise + gap = {2 * memorise + gap}; got {length}: "
            "lengthen the sequence, or memorise fewer symbols"
        )
    rng = _check.generator(seed)
    targets = rng.integers(1, vocabulary - 1, (batch, memorise))
    order = rng.random((batch, room)).argpartition(memorise - 1, axis=1)
    places = np.sort(order[:, :memorise], axis=1)
    tokens = np.zeros((batch, length), np.int64)
    np.put_along_axis(tokens, places, targets, axis=1)
    tokens[:, -memorise:] = vocabulary - 1
    return Batch(tokens, targets)


def induction_heads(
    batch: int, length: int, *, vocabulary: int = 16, gap: int = 0, seed: Seed = 0
) -> Batch:
    """Draw random symbols in which a trigger stands twice; the answer followed the first one.

    Tokens 0 to vocabulary - 2 are symbols, vocabulary - 1 is the trigger. The second trigger is the
    last token, and there the answer is due. Every place of the first one is equally likely.

    Parameters
    ----------
    vocabulary : int
        Number of different tokens, at least 3: who guesses is right once in vocabulary - 1 times.
    gap : int
        At least so many tokens stand between the answer and the second trigger.

    Notes
    -----
    Source: the generator of the Hyena and H3 authors (HazyResearch/safari, ``synthetics.py``) with
    one trigger; the Mamba paper (arXiv:2312.00752, section 4.1.2) trains at length 256 with 16
    tokens. Chapter 16.

    Examples
    --------
    >>> tokens, targets = induction_heads(2, 10, vocabulary=6, seed=4)
    >>> tokens
    array([[3, 4, 5, 2, 4, 4, 4, 0, 2, 5],
           [1, 1, 3, 4, 2, 0, 3, 5, 1, 5]])
    >>> targets
    array([[2],
           [1]])
    """
    batch, length = _check.count("batch", batch), _check.count("length", length)
    vocabulary = _check.count("vocabulary", vocabulary, least=3)
    gap = _check.count("gap", gap, least=0)
    if length < gap + 3:
        raise ValueError(
            f"length must be at least gap + 3 = {gap + 3}; got {length}: a sequence holds two "
            "triggers and the answer"
        )
    rng = _check.generator(seed)
    tokens = rng.integers(0, vocabulary - 1, (batch, length))
    first = rng.integers(0, length - 2 - gap, (batch, 1))
    np.put_along_axis(tokens, first, vocabulary - 1, axis=1)
    tokens[:, -1] = vocabulary - 1
    return Batch(tokens, np.take_along_axis(tokens, first + 1, axis=1))


def latest_value(
    batch: int, length: int, *, keys: int = 8, values: int = 8, writes: int = 24, seed: Seed = 0
) -> Batch:
    """Draw a log of key-value pairs among blanks; the answers are the values that stand at its end.

    Token 0 is a blank, 1 to keys ask for a key. Then come keys x values pairs, "value v is written
    under key k", and last the values themselves, which only answers contain. Each key is written at
    least once, and the later of two values counts. The last ``keys`` tokens ask for each key once,
    in random order. The vocabulary is 1 + keys + keys x values + values.

    Parameters
    ----------
    keys, values : int
        Number of keys; number of values: who guesses is right once in ``values`` times.
    writes : int
        Number of pairs, at least ``keys``: each key is written writes / keys times on average.

    Notes
    -----
    A pair is one token, so that no model needs to look one token back. With ``writes=keys`` nothing
    is overwritten, and the task is multi-query associative recall but for that: there a key and its
    value are two tokens. Chapter 11.

    Examples
    --------
    >>> tokens, targets = latest_value(1, 8, keys=2, values=3, writes=3, seed=6)
    >>> tokens
    array([[0, 0, 7, 0, 4, 8, 2, 1]])
    >>> targets
    array([[11, 10]])
    """
    batch, length = _check.count("batch", batch), _check.count("length", length)
    keys, values = _check.count("keys", keys), _check.count("values", values)
    writes = _check.count("writes", writes, least=keys)
    if length < writes + keys:
        raise ValueError(
            f"length must be at least writes + keys = {writes + keys}; got {length}: lengthen the "
            "sequence, or write fewer pairs"
        )
    rng = _check.generator(seed)
    asked = rng.permuted(np.tile(np.arange(keys), (batch, 1)), axis=1)
    more = rng.integers(0, keys, (batch, writes - keys))
    written = rng.permuted(np.concatenate([asked, more], axis=1), axis=1)
    value = rng.integers(0, values, (batch, writes))
    places = np.sort(rng.random((batch, length - keys)).argsort(axis=1)[:, :writes], axis=1)
    tokens = np.zeros((batch, length), np.int64)
    np.put_along_axis(tokens, places, 1 + keys + written * values + value, axis=1)
    tokens[:, -keys:] = 1 + asked
    latest = np.zeros((batch, keys), np.int64)
    for key, new in zip(written.T, value.T, strict=True):
        latest[np.arange(batch), key] = new
    answers = 1 + keys + keys * values + np.take_along_axis(latest, asked, axis=1)
    return Batch(tokens, answers)


def python_source(
    split: str = "train", *, folder: str | Path | None = None
) -> Integer[ndarray, "n"]:
    r"""Read the source of Python's standard library, as one string of bytes.

    Files come in the order of their paths, each followed by a byte 0, which no source contains:
    start from it to write a new file. One file in ten, chosen by a checksum of its path, is for
    validation, so that no file is in both splits, in any version of Python.

    Parameters
    ----------
    split : {"train", "validation"}
    folder : path, optional
        Where the ``.py`` files are; the standard library of this Python by default.

    Returns
    -------
    ndarray, (n,)
        uint8; about 9 million bytes for training and 1 million for validation.

    Raises
    ------
    FileNotFoundError
        If there is no source in the folder, as where Python comes as one packed file.

    Notes
    -----
    The bytes differ a little from one version of Python to the next: name the version beside a
    result. Tests and tables (``LEFT_OUT``) are left out, and line ends are ``\n``. Chapter 16.

    Examples
    --------
    >>> text = python_source("validation")
    >>> text.dtype, bytes(text).decode("utf8", "replace").count("def ") > 1000
    (dtype('uint8'), True)
    """
    validation = _check.choice("split", split, ("train", "validation")) == "validation"
    root = _check.path("folder", sysconfig.get_path("stdlib") if folder is None else folder)
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    names = sorted(path.as_posix() for path in paths if not LEFT_OUT & set(path.parts))
    chosen = [name for name in names if (zlib.crc32(name.encode()) % 10 == 0) == validation]
    if not chosen:
        raise FileNotFoundError(
            f"folder must hold .py files for the split {split!r}; found none in {root}: "
            "pass the folder of a Python that has its library as files"
        )
    texts = ((root / name).read_bytes().replace(b"\r\n", b"\n") + b"\0" for name in chosen)
    return np.frombuffer(b"".join(texts), np.uint8)


def windows(text: Integer[ndarray, "n"], batch: int, length: int, *, seed: Seed = 0) -> Batch:
    """Cut random windows out of a text, (n,); the target of each token is the next one.

    So ``targets`` are (batch, length) too. The text may be that of :func:`python_source`.

    Examples
    --------
    >>> tokens, targets = windows(np.arange(100), batch=2, length=4, seed=0)
    >>> tokens
    array([[81, 82, 83, 84],
           [61, 62, 63, 64]])
    >>> bool((targets == tokens + 1).all())
    True
    """
    batch, length = _check.count("batch", batch), _check.count("length", length)
    text = _check.whole("text", text, "n")
    if len(text) < length + 1:
        raise ValueError(
            f"text must have at least length + 1 = {length + 1} tokens; got {len(text)}: "
            "pass a longer text or cut shorter windows"
        )
    starts = _check.generator(seed).integers(0, len(text) - length, (batch, 1))
    both = text[starts + np.arange(length + 1)].astype(np.int64)
    return Batch(both[:, :-1], both[:, 1:])
