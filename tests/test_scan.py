"""Associative scans against the plain loop, with operators that tell when the order is wrong."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmlab import scan
from ssmlab.scan import METHODS, affine

LENGTHS = [1, 2, 3, 7, 8, 9, 64, 100]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("method", METHODS)
def test_prefixes_of_strings(method, length):
    """Concatenation is associative and keeps every element and their order."""
    letters = [f"{i}," for i in range(length)]
    result = METHODS[method](str.__add__, letters)
    assert result.values == list(itertools.accumulate(letters))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(1, 50))
def test_chunks_of_any_size(numbers, chunk):
    result = scan.chunked(int.__add__, numbers, chunk)
    assert result.values == list(itertools.accumulate(numbers))


@pytest.mark.parametrize("method", METHODS)
def test_affine_steps_give_the_states(method):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, (50, 3)), rng.normal(size=(50, 3))
    h, states = np.zeros(3), []
    for t in range(50):
        h = a[t] * h + b[t]
        states.append(h)
    result = METHODS[method](affine, list(zip(a, b, strict=True)))
    np.testing.assert_allclose([v[1] for v in result.values], states, rtol=1e-13)


def test_affine_is_associative_and_not_commutative():
    p, q, r = (2, 3), (5, 7), (11, 13)
    assert affine(affine(p, q), r) == affine(p, affine(q, r))
    assert affine(p, q) != affine(q, p)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", LENGTHS)
def test_work_is_what_was_called_and_levels_are_independent(method, length):
    calls = []

    def add(a, b):
        calls.append((a, b))
        return a + b

    result = METHODS[method](add, list(range(length)))
    assert result.work == len(calls)
    assert result.depth == len(result.levels)
    for level in result.levels:
        written = [j for _, j in level]
        assert len(set(written)) == len(written)


@pytest.mark.parametrize("n", [2, 4, 16, 256])
def test_counts_for_powers_of_two(n):
    log = int(math.log2(n))
    elements = [1] * n
    counts = {name: (s.work, s.depth) for name, s in _all(elements).items()}
    assert counts["sequential"] == (n - 1, n - 1)
    assert counts["hillis_steele"] == (n * log - n + 1, log)
    assert counts["blelloch"] == (2 * n - 2 - log, 2 * log - 1)


def test_counts_of_chunks():
    result = scan.chunked(int.__add__, [1] * 256, 16)
    assert result.work == 16 * 15 + 15 + 15 * 15
    assert result.depth == 15 + 15 + 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("lanes", [1, 2, 3, 1000])
def test_steps_are_those_of_a_machine_with_lanes(method, length, lanes):
    """A machine takes up to ``lanes`` pairs of a level at a time."""
    result = METHODS[method](int.__add__, [1] * length)
    steps = 0
    for level in result.levels:
        waiting = list(level)
        while waiting:
            del waiting[:lanes]
            steps += 1
    assert result.steps(lanes) == steps
    assert result.depth <= steps <= result.work


def test_lanes_must_be_positive():
    with pytest.raises(ValueError, match="lanes must be at least 1"):
        scan.sequential(int.__add__, [1]).steps(0)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_scan(method):
    with pytest.raises(ValueError, match="at least one element"):
        METHODS[method](int.__add__, [])


def test_chunk_must_be_positive():
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        scan.chunked(int.__add__, [1], 0)


def _all(elements):
    return {name: method(int.__add__, elements) for name, method in METHODS.items()}


def test_a_chunk_longer_than_the_elements_costs_nothing():
    assert scan.chunked(str.__add__, "abc", chunk=10**12) == scan.chunked(
        str.__add__, "abc", chunk=3
    )
