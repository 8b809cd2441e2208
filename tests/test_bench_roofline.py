"""The ceilings: what the timed kernels compute is right, so they do the work that is counted."""

from __future__ import annotations

import numpy as np
import torch

from ssmlab.bench import roofline


def test_the_timed_sum_is_the_sum_of_exponentials():
    rng = np.random.default_rng(0)
    steps, rates = rng.random(50, np.float32), -rng.random(16, np.float32)
    y = np.empty_like(steps)
    roofline._cpu_kernel()(steps, rates, y)
    np.testing.assert_allclose(y, np.exp2(np.outer(steps.astype(float), rates)).sum(1), rtol=1e-6)


def test_a_copy_is_counted_twice_at_its_fastest(monkeypatch):
    def measure(func, **settings):
        func()
        return roofline.timing.Timing((3.0, 1.0, 2.0))

    monkeypatch.setattr(roofline.timing, "measure", measure)
    assert roofline.bytes_per_second(size=4000) == 8000
    assert roofline.exponentials_per_second() == torch.get_num_threads() * 2**23
