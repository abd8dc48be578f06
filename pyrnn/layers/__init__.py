"""Layers of recurrent units, one over the other, in one or two directions: `RNN`, and its files."""

from pyrnn.layers.parameters import StateDict
from pyrnn.layers.rnn import RNN, RNNGradients

__all__ = [
    "RNN",
    "RNNGradients",
    "StateDict",
]
