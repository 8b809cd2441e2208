"""Torch, or one sentence that says how to get it."""

try:
    import torch as torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the layers and fast operators of ssmlab need torch; install it with: pip install torch, "
        "or with numba and the rest: pip install 'ssmlab[torch]'"
    ) from error
