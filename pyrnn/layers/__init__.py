"""Layers of recurrent units, one over the other, in one or two directions: `RNN`, its files, and the loop under it."""

from pyrnn.layers.parameters import StateDict
from pyrnn.layers.rnn import RNN, RNNGradients
from pyrnn.layers.stack import LayersGradients, Sums, Tape, backward_layers, forward_layers

__all__ = [
    "RNN",
    "LayersGradients",
    "RNNGradients",
    "StateDict",
    "Sums",
    "Tape",
    "backward_layers",
    "forward_layers",
]
