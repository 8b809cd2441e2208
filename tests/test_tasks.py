"""The synthetic tasks and the text: one right answer each, uniform places, repeatable draws."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.stats import chisquare

from ssmlab import tasks


def solve_copying(tokens, vocabulary):
    """Read the prompt from left to right, as a person does."""
    symbols, answers = [], []
    for token in tokens:
        if 0 < token < vocabulary - 1:
            symbols.append(token)
        elif token == vocabulary - 1:
            answers.append(symbols[len(answers)])
    return symbols, answers


def solve_induction(tokens, vocabulary):
    """Find all that ever followed a trigger before the last token."""
    return [b for a, b in pairwise(tokens) if a == vocabulary - 1]


@given(st.data(), st.integers(1, 5), st.integers(4, 9), st.integers(0, 4), st.integers(0, 99))
def test_copying_has_one_answer(data, memorise, vocabulary, gap, seed):
    """Every sequence holds each symbol once and each marker once, in this order."""
    length = data.draw(st.integers(2 * memorise + gap, 40))
    tokens, targets = tasks.selective_copying(
        4, length, memorise=memorise, vocabulary=vocabulary, gap=gap, seed=seed
    )
    assert tokens.shape == (4, length)
    assert targets.shape == (4, memorise)
    assert (tokens[:, -memorise:] == vocabulary - 1).all()
    assert (tokens[:, length - memorise - gap : -memorise] == 0).all()
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        symbols, answers = solve_copying(row, vocabulary)
        assert len(symbols) == memorise
        assert answers == target


def solve_log(tokens, keys, values):
    """Write into a dictionary, and look up what is asked."""
    store, answers, blanks, writes = {}, [], 0, 0
    for token in tokens:
        if token == 0:
            blanks += 1
        elif token <= keys:
            answers.append(1 + keys + keys * values + store[token - 1])
        else:
            key, value = divmod(token - 1 - keys, values)
            store[key] = value
            writes += 1
    return answers, blanks, writes


@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.integers(0, 6), st.integers(0, 99))
def test_the_latest_value_is_the_answer(data, keys, values, more, seed):
    writes = keys + more
    length = data.draw(st.integers(writes + keys, 40))
    tokens, targets = tasks.latest_value(
        4, length, keys=keys, values=values, writes=writes, seed=seed
    )
    assert tokens.shape == (4, length)
    assert (np.sort(tokens[:, -keys:], axis=1) == 1 + np.arange(keys)).all()
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        answers, blanks, written = solve_log(row, keys, values)
        assert answers == target
        assert (blanks, written) == (length - writes - keys, writes)


def test_the_log_draws_every_pair_alike():
    tokens, _ = tasks.latest_value(4000, 6, keys=2, values=2, writes=4)
    pairs = tokens[:, :-2] - 3
    assert chisquare(np.bincount(pairs.ravel())).pvalue > 0.01


@pytest.mark.parametrize(
    ("length", "options", "sentence"),
    [
        (40, {"writes": 7}, "writes must be at least 8"),
        (31, {}, "length must be at least writes .* = 32; got 31"),
    ],
)
def test_a_log_that_does_not_fit(length, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tasks.latest_value(1, length, **options)


@given(st.data(), st.integers(3, 9), st.integers(0, 4), st.integers(0, 99))
def test_induction_has_one_answer(data, vocabulary, gap, seed):
    """The trigger stands before the last token exactly once, and at the end."""
    length = data.draw(st.integers(gap + 3, 40))
    tokens, targets = tasks.induction_heads(4, length, vocabulary=vocabulary, gap=gap, seed=seed)
    assert tokens.shape == (4, length)
    assert ((tokens >= 0) & (tokens < vocabulary)).all()
    assert (tokens[:, -1] == vocabulary - 1).all()
    assert (np.sum(tokens == vocabulary - 1, axis=1) == 2).all()
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert solve_induction(row, vocabulary) == target
        assert length - 2 - (row.index(vocabulary - 1) + 1) >= gap


def test_copying_every_choice_of_places_is_equally_likely():
    tokens, _ = tasks.selective_copying(30_000, 9, memorise=2, gap=1, seed=0)
    sets = list(combinations(range(6), 2))
    found = [tuple(np.flatnonzero(row)) for row in tokens[:, :-2]]
    counts = [found.count(places) for places in sets]
    assert sum(counts) == 30_000
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("task", "symbols"), [("copying", range(1, 7)), ("induction", range(7))])
def test_every_answer_is_equally_likely(task, symbols):
    make = {"copying": tasks.selective_copying, "induction": tasks.induction_heads}[task]
    targets = make(10_000, 40, vocabulary=8, seed=0).targets
    counts = [(targets == symbol).sum() for symbol in symbols]
    assert sum(counts) == targets.size
    assert chisquare(counts).pvalue > 1e-3


def test_induction_every_place_is_equally_likely():
    tokens, _ = tasks.induction_heads(10_000, 20, gap=5, seed=0)
    places = (tokens == 15).argmax(axis=1)
    assert chisquare(np.bincount(places, minlength=13)).pvalue > 1e-3
    assert places.max() == 12


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: tasks.selective_copying(8, 64, seed=seed),
        lambda seed: tasks.induction_heads(8, 64, seed=seed),
        lambda seed: tasks.windows(np.arange(10_000), 8, 64, seed=seed),
    ],
)
def test_a_seed_is_a_batch(draw):
    for first, again, other in zip(draw(3), draw(3), draw(4), strict=True):
        assert_array_equal(first, again)
        assert (first != other).any()
    rng = np.random.default_rng(3)
    assert_array_equal(draw(rng).tokens, draw(3).tokens)
    assert (draw(rng).tokens != draw(3).tokens).any()


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)


def test_source_is_in_order_of_paths_without_tests(tmp_path):
    files = {f"m{i}.py": f"print({i})\r\n".encode() for i in range(40)}
    write(tmp_path, files | {"test/x.py": b"#", "site-packages/y.py": b"#", "notes.txt": b"#"})
    splits = [bytes(tasks.python_source(s, folder=tmp_path)) for s in ("train", "validation")]
    parts = [split.split(b"\0")[:-1] for split in splits]
    expected = sorted(files, key=lambda name: name)
    unix = [files[name].replace(b"\r\n", b"\n") for name in expected]
    for part in parts:
        assert part == [text for text in unix if text in part]
    assert sorted(parts[0] + parts[1]) == sorted(unix)
    assert len(parts[0]) > len(parts[1]) > 0


def test_a_file_keeps_its_split_whatever_else_is_there(tmp_path):
    write(tmp_path / "a", {f"m{i}.py": b"%d" % i for i in range(40)})
    write(tmp_path / "b", {f"m{i}.py": b"%d" % i for i in range(0, 40, 2)})
    few, many = (
        set(bytes(tasks.python_source("validation", folder=tmp_path / f)).split(b"\0"))
        for f in ("b", "a")
    )
    assert few <= many


def test_source_of_this_python():
    text = tasks.python_source("validation")
    assert text.dtype == np.uint8
    assert len(text) > 200_000
    assert b"\r\n" not in bytes(text)
    assert text[-1] == 0


def test_windows_are_pieces_of_the_text_and_reach_both_ends():
    text = np.random.default_rng(0).permutation(50).astype(np.uint8)
    tokens, targets = tasks.windows(text, 2000, 46, seed=0)
    starts = {list(text).index(token) for token in tokens[:, 0]}
    assert starts == {0, 1, 2, 3}
    for row, target in zip(tokens[:50], targets[:50], strict=True):
        start = list(text).index(row[0])
        assert_array_equal(row, text[start : start + 46])
        assert_array_equal(target, text[start + 1 : start + 47])
    assert tokens.dtype == np.int64


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: tasks.selective_copying(1, 31), ValueError, r"length must be .* = 32; got 31"),
        (lambda: tasks.selective_copying(1, 32, gap=1), ValueError, "= 33; got 32"),
        (lambda: tasks.selective_copying(1, 64, vocabulary=3), ValueError, "at least 4; got 3"),
        (lambda: tasks.selective_copying(1, 64, gap=-1), ValueError, "gap must be at least 0"),
        (lambda: tasks.selective_copying(0, 64), ValueError, "batch must be at least 1"),
        (lambda: tasks.selective_copying(1, 64.0), TypeError, "length must be a whole number"),
        (lambda: tasks.induction_heads(1, 2), ValueError, r"gap \+ 3 = 3; got 2"),
        (lambda: tasks.induction_heads(1, 9, gap=7), ValueError, r"gap \+ 3 = 10; got 9"),
        (lambda: tasks.induction_heads(1, 9, vocabulary=2), ValueError, "at least 3; got 2"),
        (lambda: tasks.windows(np.arange(4), 1, 4), ValueError, r"length \+ 1 = 5 tokens; got 4"),
        (lambda: tasks.windows(np.ones(9), 1, 4), TypeError, "text must be whole numbers of shape"),
        (lambda: tasks.windows(np.ones((9, 2), int), 1, 4), TypeError, r"of shape \(9, 2\)"),
        (lambda: tasks.selective_copying(1, 64, seed=-1), ValueError, "seed must be at least 0"),
        (lambda: tasks.induction_heads(1, 9, seed=None), TypeError, "seed must be a whole number"),
        (lambda: tasks.latest_value(1, 64, seed="a"), TypeError, "seed must be a whole .* got 'a'"),
        (lambda: tasks.windows(np.arange(9), 1, 4, seed=1.5), TypeError, "whole number; got 1.5"),
        (lambda: tasks.python_source("test"), ValueError, "split must be one of 'train'"),
    ],
)
def test_an_impossible_argument_is_named(call, error, match, unchecked):
    with pytest.raises(error, match=match):
        call()


def test_a_folder_without_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder must hold \.py files"):
        tasks.python_source(folder=tmp_path)
