r"""The whole past of a channel as N coefficients, exact, however long the signal is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ssmlab import _check
from ssmlab._typing import ArrayLike, Float, ndarray
from ssmlab.hippo._common import Coefficients, Signal, Values
from ssmlab.hippo.projection import basis_integral, merge, reconstruct

CHUNK = 512  # samples that are projected together, by one product with a table of (CHUNK, N)
LONGEST = 1024 * CHUNK  # up to this length two equal pieces become one by two fixed matrices
_SAVED = ("lengths", "pieces", "pending")


class LegSMemory:
    r"""LegS over time, exact for a staircase: feed samples, ask for the past at any moment.

    .. math:: c_n = \frac1t \int_0^t \varphi_n(s/t)\,x(s)\,\mathrm{d}s, \qquad
              x(s) = x_k \text{ on } k \le s < k + 1

    Each 512 samples are projected on their own interval. Two neighbours of equal length merge into
    one, as carries do in a binary counter; from 1024 such chunks on, they merge into the piece that
    holds everything older. So a sample costs N multiplications and its share of the merges, and at
    most 11 pieces of N numbers and one chunk are kept, however long the signal is.

    Parameters
    ----------
    N : int
        How many coefficients.
    channels : int, optional
        How many numbers a sample has; if not given, a sample is a number, without an axis.

    Notes
    -----
    The state depends on the samples only, to the last bit: fed one by one or in blocks of any size,
    saved and restored in between or not (on one machine, with one number of threads). Another order
    of summation agrees to rounding. Source of the projection: HiPPO (arXiv:2008.07669); chapter 7.

    Examples
    --------
    >>> memory = LegSMemory(4)
    >>> memory.feed([1.0, 3.0])
    >>> memory.feed(5.0)
    >>> memory.coefficients().round(3)
    array([ 3.   ,  1.54 ,  0.   , -0.261])
    >>> memory.reconstruct([0.5, 1.5, 2.5]).round(3)
    array([1.043, 3.   , 4.957])
    """

    def __init__(self, N: int, channels: int | None = None) -> None:
        self.N = _check.width("N", N)
        self.channels = None if channels is None else _check.count("channels", channels)
        self._lengths: list[int] = []
        self._pieces: list[Coefficients] = []
        self._chunk = np.empty((CHUNK, *self._ports))
        self._filled = 0

    def __repr__(self) -> str:
        return f"LegSMemory(N={self.N}, channels={self.channels}, length={self.length})"

    @property
    def length(self) -> int:
        """Number of samples seen."""
        return sum(self._lengths) + self._filled

    def feed(self, x: ArrayLike) -> None:
        """Take in one sample, () or (channels,), or a block, (length,) or (length, channels).

        A block may be empty. If it holds a number that is not finite, the sentence names the
        sample, counted from the beginning of the signal, and the memory is unchanged.
        """
        x = self._block(x)
        while len(x):
            part = x[: CHUNK - self._filled]
            self._chunk[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            x = x[len(part) :]
            if self._filled == CHUNK:
                self._filled = 0
                self._carry(self._chunk.T @ _maps(self.N)[0])

    def coefficients(self) -> Coefficients:
        """Project all samples so far: (N,) or (channels, N). There must be at least one."""
        if not self.length:
            raise ValueError("the memory has seen no sample: call feed before you ask for the past")
        if not self._filled:
            return merge(self._pieces, self._lengths)
        newest = self._chunk[: self._filled].T @ _table(self.N, self._filled)
        return merge([*self._pieces, newest], [*self._lengths, self._filled])

    def reconstruct(self, times: ArrayLike) -> Values:
        """Draw the past as it is remembered, (points,) or (points, channels).

        ``times``, (points,), lie between 0 and ``length``; sample k lasts from k to k + 1, and its
        middle is k + 1/2.
        """
        times = _check.array("times", times)
        if times.ndim > 1:
            raise ValueError(
                f"times must be a number or have shape (points,); got {times.shape}: pass "
                "times.ravel()"
            )
        if np.iscomplexobj(times) or ((times < 0) | (times > self.length)).any():
            raise ValueError(
                f"times must be real, from 0 to {self.length}, the number of samples seen; got "
                f"values from {times.min():g} to {times.max():g}: sample k lasts from k to k + 1"
            )
        return reconstruct(self.coefficients(), times / self.length)

    def save(self) -> dict[str, ndarray]:
        """Return all that the memory is, as arrays: fit for ``numpy.savez(file, **memory.save())``.

        Returns
        -------
        dict
            "lengths", (pieces,): the number of samples in each piece, oldest first;
            "pieces", (pieces, N) or (pieces, channels, N): the coefficients of each;
            "pending", (samples,) or (samples, channels): the newest samples, not yet projected.
        """
        return {
            "lengths": np.array(self._lengths, dtype=np.int64),
            "pieces": np.array(self._pieces).reshape(-1, *self._ports, self.N),
            "pending": self._chunk[: self._filled].copy(),
        }

    @classmethod
    def restore(cls, saved: Mapping[str, ndarray]) -> LegSMemory:
        """Return the memory that was saved; it goes on as the other would have, to the last bit.

        ``saved`` is what ``save`` returned, or ``numpy.load`` of its file.

        Examples
        --------
        >>> memory = LegSMemory(4, channels=2)
        >>> LegSMemory.restore(memory.save())
        LegSMemory(N=4, channels=2, length=0)
        """
        known = list(saved) if isinstance(saved, Mapping) else [type(saved).__name__]
        if not set(_SAVED) <= set(known):
            raise ValueError(
                f"saved must hold {', '.join(map(repr, _SAVED))}; got "
                f"{', '.join(map(repr, known))}: restore what save() returned, unchanged"
            )
        lengths, pieces, pending = (_check.array(f"saved[{key!r}]", saved[key]) for key in _SAVED)
        if (
            any(map(np.iscomplexobj, (lengths, pieces, pending)))
            or pieces.ndim not in (2, 3)
            or lengths.shape != pieces.shape[:1]
            or pending.ndim != pieces.ndim - 1
            or pending.shape[1:] != pieces.shape[1:-1]
            or len(pending) >= CHUNK
            or not _is_counter(lengths)
        ):
            raise ValueError(
                f"saved must be what save() returned; got lengths {lengths}, pieces of shape "
                f"{pieces.shape} and pending of shape {pending.shape}: restore it unchanged"
            )
        memory = cls(pieces.shape[-1], pieces.shape[1] if pieces.ndim == 3 else None)
        memory._lengths = [int(length) for length in lengths]
        memory._pieces = list(pieces.copy())
        memory.feed(pending)
        return memory

    @property
    def _ports(self) -> tuple[int, ...]:
        return () if self.channels is None else (self.channels,)

    def _carry(self, piece: Coefficients) -> None:
        """Take in the newest piece: halves become a whole, as far as there are halves."""
        length = CHUNK
        _, from_left, from_right = _maps(self.N)
        while length < LONGEST and self._lengths and self._lengths[-1] == length:
            self._lengths.pop()
            piece = self._pieces.pop() @ from_left + piece @ from_right
            length *= 2
        self._lengths.append(length)
        self._pieces.append(piece)
        if length == LONGEST:
            self._pieces = [merge(self._pieces, self._lengths)]
            self._lengths = [sum(self._lengths)]

    def _block(self, x: ArrayLike) -> Signal:
        """Return a block of samples, or say what came instead."""
        try:
            finite = np.asarray(np.isfinite(np.ma.getdata(x)))
        except (TypeError, ValueError):  # no numbers: the next check says what they are
            finite = np.array(True)
        if not finite.all():
            where = np.argwhere(~finite)[0]
            k = self.length + (where[0] if finite.ndim > len(self._ports) else 0)
            raise ValueError(
                f"x must be finite; got {np.asarray(x)[tuple(where)]} at sample {k} of the signal: "
                f"replace it and feed the block again; the memory still holds {self.length} samples"
            )
        x = _check.array("x", x)
        if x.ndim == len(self._ports):
            x = x[None]
        if x.shape[1:] != self._ports or np.iscomplexobj(x):
            sample = f"({self.channels},)" if self.channels else "a number"
            raise ValueError(
                f"x must be real, one sample ({sample}) or a block of them, time first; got "
                f"{x.dtype} of shape {x.shape}: make the memory with channels=... to fit the signal"
            )
        return x


def _is_counter(lengths: Float[ndarray, "pieces"]) -> bool:
    """Tell whether pieces can have these lengths: as the ones of a binary number, largest first."""
    shorter = {CHUNK << k for k in range((LONGEST // CHUNK).bit_length() - 1)}
    long = lengths % LONGEST == 0
    falls = (lengths > 0).all() and (np.diff(lengths) < 0).all()
    return bool(falls and long.sum() < 2 and shorter.issuperset(lengths[~long]))


def _table(N: int, samples: int) -> Float[ndarray, "samples state"]:
    """The projection of a staircase of so many samples on its own interval."""
    return np.diff(basis_integral(N, np.arange(samples + 1) / samples), axis=0)


@lru_cache(maxsize=4)
def _maps(N: int) -> tuple[ndarray, ndarray, ndarray]:
    """The table of a full chunk, and what the two halves of an interval give to the whole."""
    I, O = np.eye(N), np.zeros((N, N))
    return _table(N, CHUNK), merge([I, O], [1, 1]), merge([O, I], [1, 1])
