"""The ladder of chapter 14: every rung is the function of the reference."""

from __future__ import annotations

import numpy as np
import pytest

import ssmlab
from ssmlab.bench import ladder


@pytest.fixture(scope="module")
def judged() -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """A problem, and its answer in float64."""
    problem = ladder.problem(20, channels=5, state=3)
    x, dt, A, B, C = (v.astype(float) for v in problem)
    return problem, ssmlab.selective_scan(x[None], dt[None], A, B[None], C[None])[0][0]


@pytest.mark.parametrize("name", ladder.RUNGS)
def test_every_rung_is_the_reference(name, judged):
    problem, expected = judged
    y = ladder.RUNGS[name](*problem)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_only_python_s_rung_computes_in_float64(judged):
    kinds = {name: rung(*judged[0]).dtype for name, rung in ladder.RUNGS.items()}
    assert kinds.pop("Python") == np.float64
    assert set(kinds.values()) == {np.dtype("float32")}


def test_the_problem_is_the_same_each_time():
    for one, other in zip(ladder.problem(3), ladder.problem(3), strict=True):
        np.testing.assert_array_equal(one, other)
