"""Where half precision will not do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch ``torch.autocast`` off: tables of powers and spectra need the digits they are in.

    >>> with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("cpu")):
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    return torch.autocast(device.type, enabled=False) if is_autocast(device) else nullcontext()


def is_autocast(device: torch.device) -> bool:
    """Tell whether ``torch.autocast`` is on; the meta device has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
