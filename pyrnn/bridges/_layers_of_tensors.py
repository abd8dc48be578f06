"""One layer of a network of tensors, in one or two directions: what `pyrnn.bridges.torch` repeats for each layer.

Shapes: x [T, B, I], h [T, B, D H] for D directions, h0 and h_n [K, B, H] of all layers, of which this one has the rows
from `first` on. directions: for each the list of its tensors U, W and the two halves of b if there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyrnn import Gradients, _engines
from pyrnn._core import layer, memory
from pyrnn._core.layer import array
from pyrnn.cell import Cell
from pyrnn.functional import backward, forward

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
    cell = CELLS[nonlinearity]
    h = memory.empty((T, B, len(directions) * H), x.dtype)
    for d, parameters in enumerate(directions):
        k, compiled = first + d, _engines.choose("auto", n_threads)
        if lengths is None and layer.forward(compiled, x, parameters, h0, h, h_n, k, d, cell.number, n_threads):
            continue
        U, W, *b = map(array, parameters)
        states = h[:, :, d * H : (d + 1) * H]
        options: dict[str, Any] = {
            "cell": cell,
            "lengths": lengths,
            "reverse": d == 1,
            "n_threads": n_threads,
        }
        forward(x, U, W, b[0] + b[1] if b else None, None if h0 is None else h0[k], out=states, **options)
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
    H, I = h.shape[2] // len(directions), x.shape[2]
    cell = CELLS[nonlinearity]
    dx = memory.empty(x.shape, x.dtype) if x_gradient else None
    weights: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for d, parameters in enumerate(directions):
        k, compiled = first + d, _engines.choose("auto", n_threads)
        new = np.empty((H, I), x.dtype), np.empty((H, H), x.dtype), np.empty(H, x.dtype)
        results = (dx, *new, np.empty((x.shape[1], H), x.dtype) if d_h0 is None else d_h0[k])
        weights.append(new)
        plain = lengths is None and len(x) > 0
        if plain and layer.backward(compiled, dh, h, x, parameters, h0, k, d, results, cell.number, n_threads):
            continue
        U, W = map(array, parameters[:2])
        dh_d, h_d = (a[:, :, d * H : (d + 1) * H] for a in (dh, h))
        options: dict[str, Any] = {
            "cell": cell,
            "lengths": lengths,
            "reverse": d == 1,
            "n_threads": n_threads,
        }
        adding = ("x",) if d == 1 and x_gradient else ()
        initial = None if h0 is None else h0[k]
        out = Gradients(*cast("tuple[Any, ...]", results))
        backward(dh_d, h_d, x, U, W, initial, out=out, accumulate=adding, **options)
    return dx, weights
