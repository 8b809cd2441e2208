"""Layers and models in torch; a signal is (batch, length, channels).

- ``S4``, ``S4D``: state space layers, run as a convolution (``forward``) or by samples (``step``);
- ``Mamba``: the block of Mamba; ``Gated``: the same block around another layer;
- ``LRU``, ``RetNet``, ``RWKV``: other members of the family, and ``Attention``, their foil;
- ``Memory``: linear attention, gated or not, with the delta rule or without, in one layer;
- ``SequenceClassifier``: a few such layers, each in a residual block, and a mean over time;
- ``fit``, ``accuracy``: train it, and count its right answers;
- ``LanguageModel``, ``MIXERS``: logits of the next token, from any of the mixers;
- ``fit_language_model``, ``parameter_groups``: train it;
- ``load_checkpoint``, ``save_checkpoint``: in the format of the official Mamba models;
- ``generate``: continue a prompt, token by token.

>>> import torch
>>> from ssmlab import nn
>>> layer = nn.S4D(channels=4, state=16)
>>> layer(torch.zeros(2, 100, 4)).shape
torch.Size([2, 100, 4])
"""

from ssmlab.nn.attention import Attention
from ssmlab.nn.checkpoints import load_checkpoint, save_checkpoint
from ssmlab.nn.classifier import SequenceClassifier
from ssmlab.nn.generation import generate
from ssmlab.nn.language_model import LanguageModel
from ssmlab.nn.layers import S4, S4D
from ssmlab.nn.lru import LRU
from ssmlab.nn.mamba import Gated, Mamba
from ssmlab.nn.memory import Memory
from ssmlab.nn.mixers import MIXERS
from ssmlab.nn.retnet import RetNet
from ssmlab.nn.rwkv import RWKV
from ssmlab.nn.training import accuracy, fit, fit_language_model, parameter_groups

__all__ = [
    "LRU",
    "MIXERS",
    "RWKV",
    "S4",
    "S4D",
    "Attention",
    "Gated",
    "LanguageModel",
    "Mamba",
    "Memory",
    "RetNet",
    "SequenceClassifier",
    "accuracy",
    "fit",
    "fit_language_model",
    "generate",
    "load_checkpoint",
    "parameter_groups",
    "save_checkpoint",
]
