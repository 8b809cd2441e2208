"""The selective scan: one front door, and a backend for each kind of machine.

- ``front_door``: the function that a user calls; it checks, and chooses the backend;
- ``backend``: what a backend gets, and what two of them share;
- ``torch_loop``: a plain loop, for any device and any order of derivatives;
- ``numba_kernel``: a compiled kernel for the CPU;
- ``triton_kernels``, ``triton_complex``, launched by ``launch``: kernels for the GPU;
- ``first_kernels``: the small Triton kernels that chapter 15 starts from.

numba and triton are loaded by the first scan that needs them.
"""

from ssmlab.ops.scan.front_door import PACKAGES, selective_scan, selective_scan_step

__all__ = ["PACKAGES", "selective_scan", "selective_scan_step"]
