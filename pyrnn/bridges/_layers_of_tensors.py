"""One layer of a network of tensors, in one or two directions: what `pyrnn.bridges.torch` repeats for each layer.

Shapes: x [T, B, I], h [T, B, D H] for D directions, h0 and h_n [K, B, H] of all layers, of which this one has the rows
from `first` on. directions: for each the list of its tensors U, W and the two halves of b if there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import Cell, backward, forward
from pyrnn._core import memory
from pyrnn._core.tensors import array

if TYPE_CHECKING:
    from torch import Tensor as _Tensor

    from pyrnn._types import Nonlinearity

CELLS: dict[str, Cell] = {name: Cell(name) for name in ("tanh", "relu")}


def forward_layer(
    x: np.ndarray,
    directions: Sequence[list[_Tensor]],
    h0: np.ndarray | None,
    h_n: np.ndarray,
    first: int,
    nonlinearity: Nonlinearity,
    lengths: np.ndarray | None,
    n_threads: int | None,
) -> np.ndarray:
    """The states, and to h_n those in which sequences end."""
    (T, B, _), H = x.shape, h_n.shape[2]
    h, cell = memory.empty((T, B, len(directions) * H), x.dtype), CELLS[nonlinearity]
    for d, parameters in enumerate(directions):
        k, states = first + d, h if len(directions) == 1 else h[:, :, d * H : (d + 1) * H]
        U, W, *b = map(array, parameters)
        bias, initial = b[0] + b[1] if b else None, None if h0 is None else h0[k]
        forward(x, U, W, bias, initial, cell=cell, lengths=lengths, reverse=d == 1, out=states, n_threads=n_threads)
        if d == 1:
            h_n[k] = states[0]
        else:
            h_n[k] = states[-1] if lengths is None else states[lengths - 1, np.arange(B)]
    return h


def backward_layer(
    dh: np.ndarray,
    h: np.ndarray,
    x: np.ndarray,
    directions: Sequence[list[_Tensor]],
    h0: np.ndarray | None,
    d_h0: np.ndarray | None,
    first: int,
    x_gradient: bool,
    nonlinearity: Nonlinearity,
    lengths: np.ndarray | None,
    n_threads: int | None,
) -> tuple[np.ndarray | None, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """The gradient of x, or None, and for each direction those of its U, W and b, as new arrays; that of h0 to d_h0.

    dh: [T, B, D H], what the loss and the layer above send into each state; d_h0: as h0, or None.
    """
    H, cell = h.shape[2] // len(directions), CELLS[nonlinearity]
    dx: np.ndarray | None = None
    weights: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for d, parameters in enumerate(directions):
        k, units = first + d, slice(d * H, (d + 1) * H)
        U, W = map(array, parameters[:2])
        options: dict[str, Any] = {"cell": cell, "lengths": lengths, "n_threads": n_threads}
        arrays = (dh[:, :, units], h[:, :, units], x, U, W, None if h0 is None else h0[k])
        gradients = backward(*arrays, reverse=d == 1, x_gradient=x_gradient, **options)
        if d_h0 is not None:
            d_h0[k] = gradients.h0
        weights.append((gradients.U, gradients.W, gradients.b))
        if dx is None:
            dx = gradients.x
        else:
            dx += gradients.x
    return dx, weights
