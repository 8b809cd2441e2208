"""Set up before any test: shapes checked at run time, figures off screen, examples repeatable."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ["MPLBACKEND"] = "Agg"
os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported: its kernels run on the CPU
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads only slow small matrices

import hypothesis
import jaxtyping
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import ssm_classroom  # noqa: F401  # before nbformat, whose schemas else take seconds to load

threadpool_limits(1, user_api="blas")  # for a NumPy that a plugin (nbval) has imported before us

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=60
)
hypothesis.settings.load_profile("repeatable")

# From here on, importing these wraps each function so that its annotations are checked. The
# numeric tower lets an int stand where a float is asked for, as type checkers do.
jaxtyping.install_import_hook(
    ["ssmlab", "ssm_classroom"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch the type checks off, to meet a wrong argument as a user does."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def random_system() -> Callable:
    """Return a function that makes a stable StateSpace; a port of None has no axis."""
    from ssmlab import StateSpace

    def make(
        seed: int,
        *,
        state: int = 3,
        inputs: int | None = None,
        outputs: int | None = None,
        diagonal: bool = False,
        dtype: str = "float64",
    ) -> StateSpace:
        rng = np.random.default_rng(seed)

        def normal(*shape: int | None) -> np.ndarray:
            shape = tuple(n for n in shape if n is not None)
            value = rng.normal(size=shape)
            if np.dtype(dtype).kind == "c":
                value = value + 1j * rng.normal(size=shape)
            return np.asarray(value, dtype)

        if diagonal:
            A = normal(state)
            A = A - (np.abs(A.real) + A.real + 0.1)
        else:
            A = normal(state, state)
            A = A - (np.linalg.norm(A, 2) + 0.1) * np.eye(state, dtype=dtype)
        A = A.astype(dtype)
        return StateSpace(A, normal(state, inputs), normal(outputs, state), normal(outputs, inputs))

    return make
