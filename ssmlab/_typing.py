"""The shapes of the book's arrays, under one name each.

Sizes: ``state`` numbers in h, ``inputs`` in x and ``outputs`` in y at each of ``length`` samples.
An input axis exists exactly if B has one, an output axis exactly if C has one.

jaxtyping gives the names their run-time meaning (the tests check every call against them); without
it they are plain NumPy arrays, so the library itself needs NumPy and SciPy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Complex, Float, Inexact, Int, Integer
    from numpy.typing import ArrayLike
else:
    ArrayLike = Any  # checked by ssmlab._check, whose sentences say more than a type checker's
    try:
        from jaxtyping import Complex, Float, Inexact, Int, Integer
    except ImportError:

        class Inexact:
            """Stands in for jaxtyping: ``Inexact[ndarray, "length state"]`` is ``ndarray``."""

            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Complex = Float = Int = Integer = Inexact

ndarray = np.ndarray

StateMatrix = Inexact[ndarray, "state state"] | Inexact[ndarray, "state"]  # A: dense or diagonal
InputMatrix = Inexact[ndarray, "state"] | Inexact[ndarray, "state inputs"]  # B
OutputMatrix = Inexact[ndarray, "state"] | Inexact[ndarray, "outputs state"]  # C
Feedthrough = (  # D
    Inexact[ndarray, ""]
    | Inexact[ndarray, "inputs"]
    | Inexact[ndarray, "outputs"]
    | Inexact[ndarray, "outputs inputs"]
)
State = Inexact[ndarray, "state"]  # one h
States = Inexact[ndarray, "length state"]  # every h
Outputs = Inexact[ndarray, "length"] | Inexact[ndarray, "length outputs"]  # y
Kernel = (  # K_bar
    Inexact[ndarray, "taps"]
    | Inexact[ndarray, "taps inputs"]
    | Inexact[ndarray, "taps outputs"]
    | Inexact[ndarray, "taps outputs inputs"]
)

__all__ = [
    "ArrayLike",
    "Complex",
    "Feedthrough",
    "Float",
    "Inexact",
    "InputMatrix",
    "Int",
    "Integer",
    "Kernel",
    "OutputMatrix",
    "Outputs",
    "State",
    "StateMatrix",
    "States",
    "ndarray",
]
