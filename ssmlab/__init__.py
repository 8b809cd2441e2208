"""State space models, from the two equations to Mamba: the library of the book.

Submodules load when they are first used, so that ``import ssmlab`` costs almost nothing and needs
NumPy and SciPy only.

>>> import ssmlab
>>> spring = ssmlab.StateSpace(A=[[0, 1], [-4, -0.4]], B=[0, 1], C=[1, 0])
>>> spring.discretize(dt=0.1)
DiscreteStateSpace(state=2, inputs=1, outputs=1, dt=0.1)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmlab import (
        compat,
        diagonal,
        discretize,
        explore,
        family,
        hippo,
        lti,
        mamba,
        nn,
        ops,
        results,
        s4,
        scan,
        selective,
        statespace,
        tasks,
        timing,
        viz,
    )
    from ssmlab.lti import DiscreteStateSpace
    from ssmlab.selective import selective_scan
    from ssmlab.statespace import StateSpace

__version__ = "0.1.0"

__all__ = [
    "DiscreteStateSpace",
    "StateSpace",
    "compat",
    "diagonal",
    "discretize",
    "explore",
    "family",
    "hippo",
    "lti",
    "mamba",
    "nn",
    "ops",
    "results",
    "s4",
    "scan",
    "selective",
    "selective_scan",
    "statespace",
    "tasks",
    "timing",
    "viz",
]

_HOME = {
    "DiscreteStateSpace": "lti",
    "StateSpace": "statespace",
    "selective_scan": "selective",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(
            f"module 'ssmlab' has no attribute {name!r}; its public names are {', '.join(__all__)}"
        )
    module = importlib.import_module(f"ssmlab.{_HOME.get(name, name)}")
    return getattr(module, name) if name in _HOME else module


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
