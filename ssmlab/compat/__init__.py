r"""What code that was written for mamba_ssm imports, over ours: it runs on any machine.

- ``selective_scan_fn``, ``selective_scan_ref``, ``mamba_inner_fn``: the scan, and the whole of the
  block behind its first projection;
- ``causal_conv1d_fn``, ``causal_conv1d_update``: of the package causal_conv1d;
- ``Mamba``, ``InferenceParams``: the block with the official arguments, and its cache;
- ``install``: lets ``import mamba_ssm`` and ``import causal_conv1d`` find all this where they are
  missing.

Arguments, order of axes and results are those of mamba_ssm 2.3 and causal_conv1d 1.6, (batch,
channels, length). New code takes :mod:`ssmlab.ops` and :mod:`ssmlab.nn`, whose signals are
channel-last. Chapter 16.
"""

from ssmlab import _torch as _torch
from ssmlab.compat.convolution import causal_conv1d_fn, causal_conv1d_update
from ssmlab.compat.mamba import InferenceParams, Mamba, mamba_inner_fn
from ssmlab.compat.scan import selective_scan_fn, selective_scan_ref
from ssmlab.compat.stand_in import install

__all__ = [
    "InferenceParams",
    "Mamba",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "install",
    "mamba_inner_fn",
    "selective_scan_fn",
    "selective_scan_ref",
]
