"""Let imports of mamba_ssm and causal_conv1d find what is here, where they are missing."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ssmlab.compat import convolution, mamba, scan

SCAN: dict[str, Any] = {
    "selective_scan_fn": scan.selective_scan_fn,
    "selective_scan_ref": scan.selective_scan_ref,
    "mamba_inner_fn": mamba.mamba_inner_fn,
    "mamba_inner_ref": mamba.mamba_inner_fn,
}
CONVOLUTION: dict[str, Any] = {
    "causal_conv1d_fn": convolution.causal_conv1d_fn,
    "causal_conv1d_update": convolution.causal_conv1d_update,
}
BLOCK: dict[str, Any] = {"Mamba": mamba.Mamba}
#: The modules that public code imports -> what it takes from them.
MODULES: dict[str, dict[str, Any]] = {
    "mamba_ssm": {**BLOCK, **SCAN},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.selective_scan_interface": SCAN,
    "mamba_ssm.modules": {},
    "mamba_ssm.modules.mamba_simple": BLOCK,
    "mamba_ssm.utils": {},
    "mamba_ssm.utils.generation": {"InferenceParams": mamba.InferenceParams},
    "causal_conv1d": CONVOLUTION,
    "causal_conv1d.causal_conv1d_interface": CONVOLUTION,
}


def install() -> list[str]:
    """Stand in for mamba_ssm and causal_conv1d, each only where the real one is not installed.

    Call it before the code that imports them. What is not here is not found: Mamba2, the layer
    norm, whole language models, and ``selective_scan_cuda``, the compiled module below
    mamba_ssm.

    Returns
    -------
    list of str
        The packages that this call has stood in for.

    Warns
    -----
    UserWarning
        Once for each package.
    """
    packages = [name for name in MODULES if "." not in name]
    missing = [name for name in packages if name not in sys.modules and not _is_there(name)]
    for name, contents in MODULES.items():
        if name.partition(".")[0] in missing:
            module = ModuleType(name, f"ssmlab.compat, in place of {name}.")
            module.__spec__ = ModuleSpec(name, None, is_package=True)
            module.__path__ = []
            module.__dict__.update(contents)
            sys.modules[name] = module
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    for name in missing:
        warnings.warn(f"{name} is not installed: ssmlab.compat stands in for it", stacklevel=2)
    return missing


def _is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
