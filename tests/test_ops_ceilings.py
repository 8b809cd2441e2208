"""The ceilings: what the timed kernels compute is right, so they do the work that is counted."""

from __future__ import annotations

import numpy as np
import pytest

from ssmlab.ops import ceilings


def test_the_timed_sum_is_the_sum_of_exponentials():
    rng = np.random.default_rng(0)
    steps, rates = rng.random(50, np.float32), -rng.random(ceilings.LANES, np.float32)
    exact = np.exp2(np.outer(steps.astype(float), rates)).sum()
    assert ceilings._cpu_kernel()(steps, rates) == pytest.approx(exact, rel=1e-5)


def test_a_copy_is_counted_twice(monkeypatch):
    class Second:
        median = 1.0

    monkeypatch.setattr(ceilings.timing, "measure", lambda func, device: func() is None or Second())
    assert ceilings.bytes_per_second(size=4000) == 8000
