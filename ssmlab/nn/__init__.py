"""Layers and models in torch; a signal is (batch, length, channels).

- ``Layer``: what all layers keep to, and what one of your own must have;
- ``S4``, ``S4D``: state space layers, run as a convolution (``forward``) or by samples (``step``);
- ``S6``: the selective layer; ``Mamba``: the block around it; ``Gated``: that block around another;
- ``LRU``, ``RetNet``, ``RWKV``: other members of the family, and ``Attention``, their foil;
- ``LinearAttention``: gated or not, with the delta rule or without;
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

from ssmlab._renamed import old_names
from ssmlab._torch import torch
from ssmlab.nn import rwkv
from ssmlab.nn.attention import Attention, Cache
from ssmlab.nn.checkpoints import load_checkpoint, save_checkpoint
from ssmlab.nn.classifier import ClassifierState, SequenceClassifier
from ssmlab.nn.generation import generate
from ssmlab.nn.language_model import LanguageModel
from ssmlab.nn.layer import Layer
from ssmlab.nn.linear_attention import LinearAttention
from ssmlab.nn.lru import LRU
from ssmlab.nn.mamba import BlockState, Gated, Mamba
from ssmlab.nn.mixers import MIXERS
from ssmlab.nn.retnet import RetNet
from ssmlab.nn.rwkv import RWKV, Mean
from ssmlab.nn.s4 import S4
from ssmlab.nn.s4d import S4D
from ssmlab.nn.s6 import S6
from ssmlab.nn.training import accuracy, fit, fit_language_model, parameter_groups

__all__ = [
    "LRU",
    "MIXERS",
    "RWKV",
    "S4",
    "S4D",
    "S6",
    "Attention",
    "Gated",
    "LanguageModel",
    "Layer",
    "LinearAttention",
    "Mamba",
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

# torch.load reads a state, too, without running what is in the file.
torch.serialization.add_safe_globals([BlockState, Cache, ClassifierState, Mean, rwkv.State])

__getattr__ = old_names(__name__, {"Memory": "LinearAttention"})
