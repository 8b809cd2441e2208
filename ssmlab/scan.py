r"""Associative scans: all prefixes :math:`v_0 \circ v_1 \circ \dots \circ v_t`, in four orders.

A scan of an associative operator may be bracketed in any way, so that it need not run in sequence.
Each function here takes the operator, ``operator(operator(a, b), c)`` being ``operator(a,
operator(b, c))``, and at least one element of any kind. It keeps which pairs it combined, level by
level: pairs of one level are independent of each other, so a machine with enough processors takes
one unit of time for a level. ``work`` counts the combinations, ``depth`` the levels.

============== ======================================= =======================
order          work                                    depth
============== ======================================= =======================
sequential     n - 1                                   n - 1
Hillis-Steele  n log2 n - n + 1                        log2 n
Blelloch       2 n - 2 - log2 n                        2 log2 n - 1
chunked        about 2 n                               about T + n/T
============== ======================================= =======================

for n a power of two (any n will do) and chunks of T elements. ``affine`` is the operator of every
recurrence of the book, and ``METHODS`` maps each order to its function. Derived in chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ssmlab import _check

V = TypeVar("V")
Operator = Callable[[V, V], V]
Level = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Scan(Generic[V]):
    """The prefixes, and how they were made.

    ``levels`` holds the pairs (i, j) of each level: the values at i and j were combined, i first,
    and put at j.
    """

    values: list[V]
    levels: tuple[Level, ...]

    @property
    def work(self) -> int:
        """How many times the operator was used."""
        return sum(map(len, self.levels))

    @property
    def depth(self) -> int:
        """How many times in a row."""
        return len(self.levels)

    def steps(self, lanes: int) -> int:
        """Count the steps of a machine that uses the operator ``lanes`` times in one step.

        A level of m pairs takes m / lanes steps, rounded up: one lane takes ``work`` steps, very
        many take ``depth``.

        Examples
        --------
        >>> scan = hillis_steele(str.__add__, "abcd")
        >>> scan.steps(1), scan.steps(2), scan.steps(100)
        (5, 3, 2)
        """
        lanes = _check.count("lanes", lanes)
        return sum(-(-len(level) // lanes) for level in self.levels)


def affine(earlier: tuple[Any, Any], later: tuple[Any, Any]) -> tuple[Any, Any]:
    r"""Compose two steps :math:`h \mapsto a h + b`: first ``earlier``, then ``later``.

    .. math:: (a_1, b_1) \circ (a_2, b_2) = (a_2 a_1, \; a_2 b_1 + b_2)

    Associative, not commutative. The scan of the steps gives every state: it is the second entry of
    each prefix, where the first step starts from 0.

    Examples
    --------
    >>> steps = [(0.5, 1.0), (0.5, 1.0), (0.5, 1.0)]
    >>> [h for _, h in sequential(affine, steps).values]
    [1.0, 1.5, 1.75]
    """
    (a1, b1), (a2, b2) = earlier, later
    return a2 * a1, a2 * b1 + b2


def sequential(operator: Operator[V], elements: Sequence[V]) -> Scan[V]:
    """Combine from left to right: least work, greatest depth.

    Examples
    --------
    >>> scan = sequential(str.__add__, "abcd")
    >>> scan.values, scan.work, scan.depth
    (['a', 'ab', 'abc', 'abcd'], 3, 3)
    """
    values = _values(operator, elements)
    return _run(operator, values, ([(i - 1, i)] for i in range(1, len(values))))


def hillis_steele(operator: Operator[V], elements: Sequence[V]) -> Scan[V]:
    """Double the reach of every element in each level: least depth, most work.

    Source: Hillis and Steele, "Data parallel algorithms", Communications of the ACM 29 (1986). For
    linear recurrences: Kogge and Stone, IEEE Transactions on Computers C-22 (1973).

    Examples
    --------
    >>> scan = hillis_steele(str.__add__, "abcd")
    >>> scan.levels
    (((0, 1), (1, 2), (2, 3)), ((0, 2), (1, 3)))
    """
    values = _values(operator, elements)
    n = len(values)
    return _run(operator, values, ([(i, i + r) for i in range(n - r)] for r in _powers(n)))


def blelloch(operator: Operator[V], elements: Sequence[V]) -> Scan[V]:
    """Sweep up a binary tree to sums of blocks, and down again: little work and depth.

    The two sweeps of Blelloch, "Prefix sums and their applications" (1990), in Brent and Kung's
    form (1982), which includes each element in its own prefix and so needs no neutral element.

    Examples
    --------
    >>> scan = blelloch(str.__add__, "abcd")
    >>> scan.levels
    (((0, 1), (2, 3)), ((1, 3),), ((1, 2),))
    """
    values = _values(operator, elements)
    n = len(values)
    up = [[(j - r, j) for j in range(2 * r - 1, n, 2 * r)] for r in _powers(n)]
    down = [[(j, j + r) for j in range(2 * r - 1, n - r, 2 * r)] for r in reversed(_powers(n))]
    return _run(operator, values, up + down)


def chunked(operator: Operator[V], elements: Sequence[V], chunk: int = 8) -> Scan[V]:
    """Scan chunks side by side, then their ends in sequence, then carry each end into the next.

    ``chunk`` is how many elements a chunk holds. A scan for machines with more lanes than
    recurrences.

    Examples
    --------
    >>> scan = chunked(str.__add__, "abcdef", chunk=2)
    >>> scan.levels
    (((0, 1), (2, 3), (4, 5)), ((1, 3),), ((3, 5),), ((1, 2), (3, 4)))
    """
    values = _values(operator, elements)
    n = len(values)
    chunk = min(_check.count("chunk", chunk), n)
    starts = range(0, n, chunk)
    inside = [[(s + i - 1, s + i) for s in starts if s + i < n] for i in range(1, chunk)]
    ends = [s - 1 for s in starts[1:]]
    last = [min(end + chunk, n - 1) for end in ends]
    across = [[pair] for pair in zip(ends, last, strict=True)]
    carry = [(end, j) for end, stop in zip(ends, last, strict=True) for j in range(end + 1, stop)]
    return _run(operator, values, [*inside, *across, carry])


#: Each order by its name.
#:
#: :meta hide-value:
METHODS: dict[str, Callable[..., Scan[Any]]] = {
    "sequential": sequential,
    "hillis_steele": hillis_steele,
    "blelloch": blelloch,
    "chunked": chunked,
}


def _powers(n: int) -> list[int]:
    """1, 2, 4, ... below n."""
    return [1 << k for k in range((n - 1).bit_length())]


def _values(operator: Operator[V], elements: Sequence[V]) -> list[V]:
    """Return the elements as a list of at least one."""
    _check.function("operator", operator, "pass one of two elements, such as affine")
    values = _check.entries("elements", elements)
    if not values:
        raise ValueError("elements must hold at least one element; got none: pass what to scan")
    return values


def _run(
    operator: Operator[V], values: list[V], levels: Iterable[list[tuple[int, int]]]
) -> Scan[V]:
    """Combine the pairs of each level, reading all values before any is written."""
    done = []
    for level in filter(None, levels):
        for (_, j), value in [(p, operator(values[p[0]], values[p[1]])) for p in level]:
            values[j] = value
        done.append(tuple(level))
    return Scan(values, tuple(done))
