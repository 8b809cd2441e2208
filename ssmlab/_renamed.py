"""Names that were changed: the old one still works, and says the new one."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def old_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module, from its old names to the new ones.

    Examples
    --------
    >>> import math, pytest
    >>> math_getattr = old_names("math", {"squareroot": "sqrt"})
    >>> with pytest.warns(DeprecationWarning, match="math.squareroot is now math.sqrt"):
    ...     math_getattr("squareroot")(9)
    3.0
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        warnings.warn(f"{module}.{name} is now {module}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), new)

    return __getattr__
