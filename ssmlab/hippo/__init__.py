r"""HiPPO: the past of a signal, projected on a few functions and kept up to date.

- ``measures``: :math:`(A, B)` of each measure in closed form, :math:`h' = A h + B x`;
- ``projection``: a function, samples or pieces to Legendre coefficients, and back;
- ``online``: one sample at a time, LegS over :math:`[0, t]` and LegT over a window;
- ``streaming``: N coefficients of the whole past, exactly, at millions of samples a second.

All of their names can be had from ``ssmlab.hippo``. Derived in chapters 6 to 8.

Examples
--------
>>> from ssmlab import hippo
>>> A, B = hippo.legs(64)
>>> memory = hippo.LegSMemory(64)
"""

from __future__ import annotations

from ssmlab.hippo.measures import MEASURES, Measure, fourier, lagt, legs, legt, lmu
from ssmlab.hippo.online import legs_discrete, legs_online, legs_step, legt_online, legt_step
from ssmlab.hippo.projection import (
    basis,
    basis_integral,
    gauss,
    merge,
    project,
    project_function,
    reconstruct,
)
from ssmlab.hippo.streaming import LegSMemory

__all__ = [
    "MEASURES",
    "LegSMemory",
    "Measure",
    "basis",
    "basis_integral",
    "fourier",
    "gauss",
    "lagt",
    "legs",
    "legs_discrete",
    "legs_online",
    "legs_step",
    "legt",
    "legt_online",
    "legt_step",
    "lmu",
    "merge",
    "project",
    "project_function",
    "reconstruct",
]
