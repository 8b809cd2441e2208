"""What a continuous and a discrete system share: read-only matrices, and their sizes."""

from __future__ import annotations

from typing import Any

from ssmlab import _matrix
from ssmlab._typing import Feedthrough, OutputMatrix, ndarray


class System:
    """What both systems share: read-only arrays and their sizes."""

    C: OutputMatrix
    D: Feedthrough

    def _set(self, **arrays: ndarray) -> None:
        """Store read-only copies, once: the dataclass is frozen."""
        for name, value in arrays.items():
            copy = value.copy()
            copy.flags.writeable = False
            object.__setattr__(self, name, copy)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be read-only in a copy too, deep or pickled."""
        self.__dict__.update(state)
        for value in state.values():
            if isinstance(value, ndarray):
                value.flags.writeable = False

    @property
    def state(self) -> int:
        """How many numbers the state h has."""
        return self.C.shape[-1]

    @property
    def outputs(self) -> int:
        """How many outputs y has at one time."""
        return len(self.C) if self.C.ndim == 2 else 1

    @property
    def inputs(self) -> int:
        """How many inputs x has at one time."""
        return self.D.size // self.outputs

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}"
            f"(state={self.state}, inputs={self.inputs}, outputs={self.outputs})"
        )


def with_all_axes(A: ndarray, B: ndarray, C: ndarray, D: ndarray) -> tuple[ndarray, ...]:
    """Return the four matrices in scipy's shapes: two axes each."""
    B, C = B.reshape(len(A), -1), C.reshape(-1, len(A))
    return _matrix.dense(A), B, C, D.reshape(len(C), B.shape[1])
