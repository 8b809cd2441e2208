"""Layers and models in torch; a signal is (batch, length, channels).

- ``S4``, ``S4D``: state space layers, run as a convolution (``forward``) or by samples (``step``);
- ``SequenceClassifier``: a few such layers, each in a residual block, and a mean over time;
- ``fit``, ``accuracy``: train it, and count its right answers.

>>> import torch
>>> from ssmlab import nn
>>> layer = nn.S4D(channels=4, state=16)
>>> layer(torch.zeros(2, 100, 4)).shape
torch.Size([2, 100, 4])
"""

from ssmlab.nn.classifier import SequenceClassifier
from ssmlab.nn.layers import S4, S4D
from ssmlab.nn.training import accuracy, fit

__all__ = ["S4", "S4D", "SequenceClassifier", "accuracy", "fit"]
