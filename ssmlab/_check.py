"""Checks of arguments: one sentence that says what came, what was expected and what to do."""

from __future__ import annotations

import difflib
import math
import numbers
import operator
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ssmlab._typing import ArrayLike, Float, Inexact, Integer, ndarray

T = TypeVar("T")
MOST = 2**48  # of anything that is counted: no memory holds as much, and no size overflows
WIDEST = 2**20  # of a state whose A is dense: no memory holds its square
_DTYPES = tuple(map(np.dtype, ("float32", "float64", "complex64", "complex128")))


def array(name: str, value: ArrayLike) -> Inexact[ndarray, "..."]:
    """Return ``value`` as an array of finite numbers; integers become float64."""
    result = _array(name, value)
    if result.dtype.kind in "iu":
        result = result.astype(np.float64)
    if result.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must hold real or complex numbers (float32, float64, complex64, complex128 or "
            f"integers); got dtype {result.dtype}: convert it with numpy.asarray({name}, float)"
        )
    if not np.isfinite(result).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(result))[0])
        raise ValueError(
            f"{name} must be finite; got {result[index]} at index {index}: "
            "remove or replace it before the call"
        )
    return result


def real(name: str, value: ArrayLike) -> Float[ndarray, "..."]:
    """Return finite real numbers as float64."""
    result = array(name, value)
    if np.iscomplexobj(result):
        raise TypeError(f"{name} must be real; got complex numbers: pass {name}.real")
    return result.astype(np.float64)


def whole(name: str, value: ArrayLike, *axes: str) -> Integer[ndarray, "..."]:
    """Return whole numbers with these axes, at least one."""
    result = _array(name, value)
    if result.ndim != len(axes) or result.dtype.kind not in "iu" or not result.size:
        raise TypeError(
            f"{name} must be whole numbers of shape ({', '.join(axes)}), at least one; got "
            f"{result.dtype} of shape {result.shape}: pass an array of ints"
        )
    return result


def number(name: str, value: object) -> float:
    """Return a finite real number as a Python float, which promotes no float32 array."""
    if isinstance(value, (bool, np.bool)) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} must be one real number; got {_describe(value)}: pass a Python float"
        )
    result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite; got {result}: pass a finite number")
    return result


def positive(name: str, value: object, advice: str) -> float:
    """Return a positive number; ``advice`` says what to pass instead of one that is not."""
    result = number(name, value)
    if result <= 0:
        raise ValueError(f"{name} must be positive; got {result}: {advice}")
    return result


def step_size(dt: object, *matrices: ndarray) -> float:
    """Return the step size, a positive number, whose products with the matrices are finite."""
    dt = positive("dt", dt, "pass the time between two samples, such as 0.1")
    with np.errstate(over="ignore", invalid="ignore"):
        overflows = not all(np.isfinite(dt * M).all() for M in matrices)
    if overflows:
        raise ValueError(
            f"dt must be so small that dt A and dt B do not overflow; got {dt:g}: pass a smaller "
            "step"
        )
    return dt


def count(name: str, value: int, *, least: int = 1, most: int | None = MOST) -> int:
    """Return a whole number from ``least`` to ``most``; a larger size would overflow."""
    try:
        if isinstance(value, (bool, np.bool)):
            raise TypeError
        result = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number; got {_describe(value)}: pass an int"
        ) from None
    if result < least:
        raise ValueError(f"{name} must be at least {least}; got {result}: pass a larger int")
    if most is not None and result > most:
        raise ValueError(f"{name} must be at most {most}; got {result}: pass a smaller int")
    return result


def width(name: str, value: int) -> int:
    """Return the size of a state whose A is dense."""
    return count(name, value, most=WIDEST)


def function(name: str, value: object, advice: str) -> None:
    """Ask for something that can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function; got {_describe(value)}: {advice}")


def path(name: str, value: object) -> Path:
    """Return the path of a file or a folder."""
    if not isinstance(value, (str, os.PathLike)) or "\0" in os.fspath(value):
        raise TypeError(f"{name} must be a path; got {_describe(value)}: pass a str or a Path")
    return Path(value)


def entries(name: str, value: Iterable[T]) -> list[T]:
    """Return what an iterable holds."""
    try:
        return list(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a list; got {_describe(value)}: put it in brackets"
        ) from None


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """Return the generator of a seed, or the one that was given."""
    if isinstance(seed, np.random.Generator):
        return seed
    return np.random.default_rng(count("seed", seed, least=0, most=None))


def choice(name: str, value: str, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of the options, else suggest the nearest."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    nearest = difflib.get_close_matches(str(value).lower(), options, n=1, cutoff=0.4)
    advice = f"did you mean {nearest[0]!r}?" if nearest else "pick one of these"
    raise ValueError(
        f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}: {advice}"
    )


def state_matrix(name: str, value: ArrayLike) -> Inexact[ndarray, "..."]:
    """Return A: square (dense) or one-dimensional (its diagonal), with at least one state."""
    A = array(name, value)
    if A.ndim not in (1, 2) or A.size == 0 or (A.ndim == 2 and A.shape[0] != A.shape[1]):
        raise ValueError(
            f"{name} must be a square matrix (state, state) or the diagonal (state,) of one; "
            f"got shape {A.shape}: pass as many rows as columns"
        )
    return A


def input_matrix(name: str, value: ArrayLike, state: int) -> Inexact[ndarray, "..."]:
    """Return B: one row for each state."""
    B = array(name, value)
    if B.ndim not in (1, 2) or B.shape[0] != state or B.size == 0:
        raise ValueError(
            f"{name} must have shape ({state},) for one input or ({state}, inputs); "
            f"got {B.shape}: give one row for each of the {state} states"
        )
    return B


def output_matrix(name: str, value: ArrayLike, state: int) -> Inexact[ndarray, "..."]:
    """Return C: one column for each state."""
    C = array(name, value)
    if C.ndim not in (1, 2) or C.shape[-1] != state or C.size == 0:
        raise ValueError(
            f"{name} must have shape ({state},) for one output or (outputs, {state}); "
            f"got {C.shape}: give one column for each of the {state} states"
        )
    return C


def feedthrough(value: ArrayLike, B: ndarray, C: ndarray) -> Inexact[ndarray, "..."]:
    """Return D, whose shape follows from B and C; the number 0 means no feedthrough."""
    shape = C.shape[:-1] + B.shape[1:]
    D = array("D", value)
    if D.ndim == 0:
        D = D.astype(np.result_type(B, C, value if isinstance(value, (int, float)) else D))
        D = np.zeros(shape, D.dtype) if D == 0 else D
    if D.shape != shape:
        raise ValueError(
            f"D must have shape {shape}, which follows from B and C; got {D.shape}: "
            "pass D in that shape, or 0 for no feedthrough"
        )
    return D


def signal(name: str, value: ArrayLike, ports: tuple[int, ...]) -> Inexact[ndarray, "..."]:
    """Return a signal of at least one sample: (length,) or (length, channels)."""
    x = array(name, value)
    if x.ndim == 0 or x.shape[1:] != ports:
        expected = "(length,)" if not ports else f"(length, {ports[0]})"
        raise ValueError(
            f"{name} must have shape {expected} to fit this system; got {x.shape}: "
            "put time on the first axis, and have a second axis exactly if the system has one"
        )
    if len(x) == 0:
        raise ValueError(f"{name} must have at least one sample; got none: pass a longer signal")
    return x


def signal_and_kernel(x: ArrayLike, K_bar: ArrayLike) -> tuple[ndarray, ndarray]:
    """Return a signal and a convolution kernel that takes it."""
    x, K_bar = array("x", x), array("K_bar", K_bar)
    if x.ndim not in (1, 2) or x.size == 0:
        raise ValueError(
            f"x must have shape (length,) or (length, inputs) with at least one sample; "
            f"got {x.shape}: put time on the first axis"
        )
    inputs = x.shape[1:]
    last = K_bar.shape[K_bar.ndim - len(inputs) :]
    if K_bar.ndim - len(inputs) not in (1, 2) or K_bar.size == 0 or last != inputs:
        expected = "".join(f", {n}" for n in inputs)
        raise ValueError(
            f"K_bar must have shape (taps{expected or ','}) or (taps, outputs{expected}) with at "
            f"least one tap to fit x; got {K_bar.shape}: put time on the first axis"
        )
    return x, K_bar


def state_vector(name: str, value: ArrayLike, state: int) -> Inexact[ndarray, "..."]:
    """Return one state h."""
    h = array(name, value)
    if h.shape != (state,):
        raise ValueError(
            f"{name} must have shape ({state},), one number for each state; got {h.shape}: "
            "pass one state vector"
        )
    return h


def times(value: ArrayLike) -> Float[ndarray, "times"]:
    """Return a list of times, real and not negative."""
    t = array("t", value)
    if t.ndim != 1 or t.size == 0 or np.iscomplexobj(t) or (t < 0).any():
        raise ValueError(
            f"t must be a list of real times of at least 0, shape (times,); got {_describe(t)}: "
            "pass for example numpy.linspace(0, 10, 200)"
        )
    return t


def scipy_system(system: object, kind: str) -> None:
    """Ask for a continuous (lti) or discrete (dlti) system of scipy.signal."""
    import scipy.signal

    if not isinstance(system, getattr(scipy.signal, kind)):
        library = type(system).__module__.partition(".")[0]  # others have a StateSpace too
        raise TypeError(
            f"system must be a scipy.signal.{kind}; got {type(system).__name__} of {library}: "
            "StateSpace takes continuous systems, DiscreteStateSpace discrete ones"
        )


def _array(name: str, value: ArrayLike) -> ndarray:
    """Return what NumPy makes of a value that hides nothing."""
    if masked := _masked(value):
        raise TypeError(
            f"{name} must have no masked values; got {masked} of them: fill them with "
            f"{name}.filled(...), or leave them out"
        )
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{name} must be a rectangular array; got rows of different lengths: pad or cut them"
        ) from None
    except (TypeError, RuntimeError) as error:  # a tensor on another device, or with a gradient
        raise TypeError(
            f"{name} must be an array; got a {type(value).__name__}, of which NumPy makes none "
            f"({error}): convert it"
        ) from None


def _masked(value: object) -> int:
    """Count the masked values, those in lists too: NumPy would take what is behind the mask."""
    if isinstance(value, (list, tuple)):
        inside = (list, tuple, np.ma.MaskedArray)
        return sum(_masked(entry) for entry in value if isinstance(entry, inside))
    return int(np.ma.count_masked(value)) if isinstance(value, np.ma.MaskedArray) else 0


def _describe(value: object) -> str:
    """Say what came, in few words."""
    if hasattr(value, "shape") and value.shape:
        return f"an array of shape {tuple(value.shape)}"
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{text} of type {type(value).__name__}"
