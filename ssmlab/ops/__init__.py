r"""Fast kernels in torch, with gradients, on the CPU and on a GPU.

- ``fft_convolution``: many channels, each with its own kernel;
- ``vandermonde``: the kernel of a diagonal model (S4D);
- ``dplr_kernel``, ``dplr_step``: the kernel of a diagonal plus low rank model (S4), and one step;
- ``selective_scan``, ``selective_scan_step``: the scan of Mamba, on three backends;
- ``Packing``: sequences behind each other in one row, and side by side.

Time and channels are the last two axes of a signal, (..., length, channels). Tables of powers are
made in double precision, products in that of the arguments.

>>> import torch
>>> from ssmlab import ops
>>> x, K_bar = torch.ones(3, 1), torch.tensor([[1.0], [0.5]])
>>> ops.fft_convolution(x, K_bar).flatten()
tensor([1.0000, 1.5000, 1.5000])
"""

from ssmlab import _torch as _torch
from ssmlab.ops.convolution import fft_convolution
from ssmlab.ops.dplr import dplr_kernel, dplr_step
from ssmlab.ops.packed import Packing
from ssmlab.ops.scan import selective_scan, selective_scan_step
from ssmlab.ops.vandermonde import vandermonde

__all__ = [
    "Packing",
    "dplr_kernel",
    "dplr_step",
    "fft_convolution",
    "selective_scan",
    "selective_scan_step",
    "vandermonde",
]
