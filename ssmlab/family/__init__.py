r"""The family: models that are one recurrence with different coefficients, and their foil.

.. math:: h_t = A_t h_{t-1} + B_t x_t, \qquad y_t = C_t h_t

====================  =============================================  ===================
member                matrix :math:`A_t`                             state of a head
====================  =============================================  ===================
``LRU``               constant, diagonal, complex                    N, of all channels
``linear_attention``  :math:`I`                                      keys x values
``retention``         :math:`\gamma I`, constant (RetNet)            keys x values
``gla``               :math:`\operatorname{diag}(a_t)`               keys x values
``RWKV4``             :math:`e^{-w}`, constant, per channel          3 x channels
``rwkv6``             :math:`\operatorname{diag}(a_t)`, bonus        keys x values
``deltanet``          :math:`I - \beta_t k_t k_t^\top`               keys x values
``gated_deltanet``    :math:`a_t (I - \beta_t k_t k_t^\top)`         keys x values
``Attention``         none: softmax is no recurrence                 grows
====================  =============================================  ===================

A member is made from what the tokens say about remembering: queries and keys ``q`` and ``k``,
(..., length, keys), where leading axes are batch and heads; ``decay``, of the same shape or with
one number for all keys, (..., length, 1), between 0 and 1; and, for the delta rule, ``beta``,
(..., length), between 0 and 2, with keys of length 1. All of them are real. It runs on their
values v, its input x, (..., length, values):

- ``member.recurrence(v, state)``, ``.parallel(v, state)`` and ``.chunked(v, state, chunk=16)``
  each return ``(y, state)``, the same to rounding;
- ``member.step(v_t, state, t)`` returns ``(y_t, state)`` for one token;
- ``member.initial_state(values)`` is the state before the first token;
- ``member.mixing_matrix()`` is M, with y = M v;
- ``member[start:stop]`` is the member of some tokens, to go on from a state.

The state is that after the last token. ``LRU`` has no tokens: it takes a signal x (length,
inputs), and its ``mixing_matrix(length)`` a length. ``MatrixState`` is the one recurrence behind
all members with keys x values numbers a head; its ``transition(t)`` is the matrix :math:`A_t`.
Everything here is float64, written as the equations read. Derived in chapter 11; the layers are in
:mod:`ssmlab.nn`.

Examples
--------
>>> import numpy as np
>>> from ssmlab import family
>>> rng = np.random.default_rng(0)
>>> q, k, v = rng.normal(size=(3, 7, 4))
>>> model = family.retention(q, k, gamma=0.9)
>>> y, state = model.recurrence(v)
>>> np.allclose(y, model.parallel(v)[0]), np.allclose(y, model.mixing_matrix() @ v)
(True, True)
>>> _, middle = model[:3].chunked(v[:3], chunk=2)
>>> np.allclose(model[3:].parallel(v[3:], middle)[1], state)
True
"""

from ssmlab._renamed import old_names
from ssmlab.family.attention import Attention, Cache
from ssmlab.family.deltanet import deltanet, gated_deltanet
from ssmlab.family.gla import gla
from ssmlab.family.linear_attention import elu_plus_one, linear_attention
from ssmlab.family.lru import LRU, ring
from ssmlab.family.matrix_state import MatrixState
from ssmlab.family.member import Member
from ssmlab.family.retnet import head_norm, retention, retention_decays, rotate, swish
from ssmlab.family.rwkv import RWKV4, rwkv6

__all__ = [
    "LRU",
    "RWKV4",
    "Attention",
    "Cache",
    "MatrixState",
    "Member",
    "deltanet",
    "elu_plus_one",
    "gated_deltanet",
    "gla",
    "head_norm",
    "linear_attention",
    "retention",
    "retention_decays",
    "ring",
    "rotate",
    "rwkv6",
    "swish",
]

__getattr__ = old_names(__name__, {"Memory": "MatrixState"})
