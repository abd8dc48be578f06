"""A stack of recurrent layers, forwards and backwards: which call of `forward` and `backward` reads and writes what.

Everything here is time first, with a batch axis, of one dtype, and checked. D is the number of directions; the states
of both lie beside each other in one array [T, B, D H], so that a layer's output is the next layer's input as it lies.
Arrays that outlive no call come from the workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _calls, _engines
from pyrnn._core.call import Call
from pyrnn._results import OutputGradients
from pyrnn.functional import forward
from pyrnn.losses import QUIET
from pyrnn.readout import output, output_gradients

if TYPE_CHECKING:
    from typing import TypeAlias

    from pyrnn._types import MaybeArray, Shape
    from pyrnn.cell import Cell
    from pyrnn.layers.parameters import Workspace
    from pyrnn.layers.rnn import RNN

    _New: TypeAlias = Callable[[Hashable, Shape], np.ndarray]  # an array of the workspace, by name and shape


class Tape(NamedTuple):
    """What a forward pass leaves for the backward pass, by layer where it is a list."""

    batched: bool
    lengths: np.ndarray | None  # [B]
    h0: np.ndarray  # [L D, B, H]
    inputs: list[np.ndarray]  # [T, B, I], then what the layers below send up, after dropout
    states: list[np.ndarray]  # [T, B, D H]
    rates: list[MaybeArray]  # the same, or None without leak
    dropout: list[np.ndarray | None]  # what the input of a layer was multiplied by, or None
    recurrent: list[np.ndarray | None]  # [D, B, H]: what W reads of each sequence was multiplied by, or None
    current: bool  # whether the states are currents

    def sent(self, layer: int = -1) -> np.ndarray:
        """What a layer sends up: phi of its states where those are currents, else the states."""
        values = self.rates if self.current else self.states
        return values[layer]


@QUIET
def forward_layers(
    rnn: RNN, x: np.ndarray, h0: np.ndarray | None, lengths: np.ndarray | None, batched: bool, workspace: Workspace
) -> Tape:
    """Run all layers; returns the tape."""
    (T, B, _), H, D, L = x.shape, rnn.hidden_size, 1 + rnn.bidirectional, rnn.num_layers
    new: _New = lambda name, shape: workspace(name, shape, rnn.dtype)
    if h0 is None:
        h0 = new("zeros", (L * D, B, H))
        h0[...] = 0
    tape = Tape(batched, lengths, h0, [], [], [], [], [], rnn.form == "current")
    for layer in range(L):
        dropped = None
        if layer > 0:
            x = tape.sent()
            if rnn.training and rnn.dropout > 0:
                dropped = draw_mask(new(("mask", layer), x.shape), rnn.dropout, rnn.rng, workspace)
                x = np.multiply(x, dropped, out=new(("dropped", layer), x.shape))
        recurrent = None
        if rnn.training and rnn.recurrent_dropout > 0:
            recurrent = draw_mask(new(("recurrent", layer), (D, B, H)), rnn.recurrent_dropout, rnn.rng, workspace)
        h = new(("states", layer), (T, B, D * H))
        rates = None if rnn._alpha is None else new(("rates", layer), h.shape)
        for direction in range(D):
            units = slice(direction * H, (direction + 1) * H)
            cell = _cell(rnn, rnn._views, layer, direction)
            b = None if cell.b is None else np.add(cell.b[0], cell.b[1], out=new("b", (H,)))
            first = h0[layer * D + direction]
            for some, W in _weights(cell.W, recurrent, direction, B, new):
                options: dict[str, Any] = {
                    "cell": rnn._cell,
                    "reverse": direction == 1,
                    "lengths": _part(lengths, some),
                }
                r = None if rates is None else rates[:, some, units]
                forward(x[:, some], cell.U, W, b, first[some], out=h[:, some, units], rates=r, **options)
        tape.inputs.append(x)
        tape.states.append(h)
        tape.rates.append(rates)
        tape.dropout.append(dropped)
        tape.recurrent.append(recurrent)
    return tape


@QUIET
def last_states(tape: Tape, out: np.ndarray, workspace: Workspace) -> None:
    """Write the state after the last step of each sequence, by layer and direction, to out [L D, B, H]."""
    (T, B, _), H = tape.inputs[0].shape, out.shape[2]
    D = len(out) // len(tape.states)
    out[...] = tape.h0  # where there is no step
    if T == 0:
        return
    for layer, h in enumerate(tape.states):
        forwards, backwards = h[-1, :, :H], h[0, :, H:]
        exist: np.ndarray | bool = True
        if tape.lengths is not None:
            # take wants whole rows; one that does not exist is taken from anywhere, and not copied
            rows = np.maximum(tape.lengths - 1, 0) * B + np.arange(B)
            ends = workspace("ends", (B, D * H), h.dtype)
            np.take(h.reshape(T * B, D * H), rows, axis=0, out=ends, mode="clip")
            forwards, exist = ends[:, :H], (tape.lengths > 0)[:, np.newaxis]
        for direction, values in enumerate((forwards, backwards)[:D]):
            np.copyto(out[layer * D + direction], values, where=exist)


@QUIET
def backward_layers(
    rnn: RNN,
    tape: Tape,
    dout: np.ndarray,
    dh_n: np.ndarray | None,
    dx: np.ndarray,
    dh0: np.ndarray,
    workspace: Workspace,
) -> np.ndarray | None:
    """Add the gradients of the parameters to those of the rnn; write dx and dh0; returns that of alpha, or None.

    dout: as the output, read only where there are steps; dh_n: [L D, B, H] or None. That of alpha is in the workspace.
    """
    (T, B, _), H, D, L = tape.inputs[0].shape, rnn.hidden_size, 1 + rnn.bidirectional, rnn.num_layers
    new: _New = lambda name, shape: workspace(name, shape, rnn.dtype)
    g, own = dout, False  # the gradient of what a layer sends up, and whether it may be written to
    if rnn.output_size is not None:
        g, own = _output_gradients(rnn, tape, dout, workspace), True
    alpha = None
    if rnn._alpha is not None:
        alpha = new("dalpha", (H,))
        alpha[...] = 0
    for layer in reversed(range(L)):
        x, h, rates, recurrent = tape.inputs[layer], tape.states[layer], tape.rates[layer], tape.recurrent[layer]
        if rnn.form == "current":
            g, own = through_phi(rnn._cell, g, rates, workspace), True
        if dh_n is not None and not own:
            copy = new("dh", g.shape)
            copy[...] = g
            g = copy
        below = dx if layer == 0 else new(("dx", layer % 2), x.shape)
        below[...] = 0
        for direction in range(D):
            units, i = slice(direction * H, (direction + 1) * H), layer * D + direction
            cell = _cell(rnn, rnn._views, layer, direction)
            into = _cell(rnn, rnn._gradient_views, layer, direction)
            if dh_n is not None:
                add_at_ends(g[..., units], dh_n[i], tape.lengths, direction)
            for some, W in _weights(cell.W, recurrent, direction, B, new):
                steps = (rnn._cell, _part(tape.lengths, some), direction == 1)
                r = None if rates is None else rates[:, some, units]
                arrays = (g[:, some, units], h[:, some, units], x[:, some], cell.U, W, tape.h0[i, some])
                W_factor = None if recurrent is None else recurrent[direction, some]
                _add_gradients(arrays, *steps, r, into, below[:, some], dh0[i, some], W_factor, alpha, new)
            if dh_n is not None:  # a sequence without steps ends where it began
                exist = tape.lengths > 0 if tape.lengths is not None else np.full(B, T > 0)
                np.add(dh0[i], dh_n[i], out=dh0[i], where=~exist[:, np.newaxis])
        if tape.dropout[layer] is not None:
            below *= tape.dropout[layer]
        g, own = below, True
    return alpha


def padded(lengths: np.ndarray, T: int, workspace: Workspace) -> np.ndarray:
    """[T, B]: True where there is no step."""
    steps = np.arange(T)[:, np.newaxis]
    behind = workspace("padded", (T, len(lengths)), np.bool_)
    np.greater_equal(steps, lengths, out=behind)
    return behind


def draw_mask(mask: np.ndarray, p: float, rng: np.random.Generator, workspace: Workspace) -> np.ndarray:
    """Inverted dropout: fill with 0, with probability p, and 1/(1 - p)."""
    rng.random(out=mask, dtype=mask.dtype)
    kept = np.greater_equal(mask, p, out=workspace("kept", mask.shape, np.bool_))
    np.copyto(mask, kept)
    mask *= 0 if p == 1 else 1 / (1 - p)
    return mask


def through_phi(cell: Cell, g: np.ndarray, r: np.ndarray, workspace: Workspace) -> np.ndarray:
    """phi'(h) ∘ g in a workspace, with phi' told from r = phi(h)."""
    result = workspace("dh", g.shape, r.dtype)
    if cell.nonlinearity == "tanh":
        np.subtract(1, r, out=result)
        np.multiply(result, np.add(1, r, out=workspace("1 + r", r.shape, r.dtype)), out=result)
        result *= g
        return result
    result[...] = g
    if cell.nonlinearity == "relu":
        np.copyto(result, 0, where=np.less_equal(r, 0, out=workspace("off", r.shape, np.bool_)))
    return result


def add_at_ends(g: np.ndarray, last: np.ndarray, lengths: np.ndarray | None, direction: int) -> None:
    """Add to g [T, B, H] the gradient of the state after the last step of each sequence."""
    if len(g) == 0:
        return
    if direction == 1:
        g[0] += last  # of a sequence without steps too: it is not read there
    elif lengths is None:
        g[-1] += last
    else:
        g[lengths - 1, np.arange(len(lengths))] += last


class _CellParameters(NamedTuple):
    U: np.ndarray
    W: np.ndarray
    b: tuple[np.ndarray, np.ndarray] | None  # both of them


def _cell(rnn: RNN, arrays: Mapping[str, np.ndarray], layer: int, direction: int) -> _CellParameters:
    end = f"_l{layer}" + ("_reverse" if direction else "")
    b = (arrays["bias_ih" + end], arrays["bias_hh" + end]) if rnn.bias else None
    return _CellParameters(arrays["weight_ih" + end], arrays["weight_hh" + end], b)


def _weights(
    W: np.ndarray, recurrent: np.ndarray | None, direction: int, B: int, new: _New
) -> Iterator[tuple[slice, np.ndarray]]:
    """Which sequences run with which W: all at once, or with recurrent dropout each alone, with columns scaled."""
    if recurrent is None:
        yield slice(None), W
        return
    for i in range(B):
        yield slice(i, i + 1), np.multiply(W, recurrent[direction, i], out=new("W", W.shape))


def _part(lengths: np.ndarray | None, some: slice) -> np.ndarray | None:
    return None if lengths is None else lengths[some]


def _add_gradients(
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    cell: Cell,
    lengths: np.ndarray | None,
    reverse: bool,
    rates: np.ndarray | None,
    into: _CellParameters,
    dx: np.ndarray,
    dh0: np.ndarray,
    W_factor: np.ndarray | None,
    alpha: np.ndarray | None,
    new: _New,
) -> None:
    """One call of backward: add to the gradients of the parameters, of x and of alpha; write dh0."""
    W = arrays[4]
    b = new("gradient of b", W.shape[:1])
    dW = into.W if W_factor is None else new("gradient of W", W.shape)
    d_alpha = None if alpha is None else new("gradient of alpha", alpha.shape)
    for a in (b, d_alpha, None if W_factor is None else dW):
        if a is not None:
            a.fill(0)
    results = (dx, into.U, dW, b, dh0, None, d_alpha)
    rest = (cell, None, lengths, None, reverse, rates, True)
    call = Call.backward(*arrays, *rest, results, None)
    if call is None:  # the loops cannot read or write an array of the caller's without a copy
        copies = tuple(None if a is None else a.copy() for a in results)
        dh, h, x, U, W, h0 = (a.copy() for a in arrays)
        call = Call.backward(dh, h, x, U, W, h0, *rest, copies, None)
    call = _calls.made(call)
    call.add(weights=True, x=True)
    _engines.choose().backward(call)
    for a, written in zip(results, call.results, strict=True):
        if a is not None and written is not a:
            a[...] = written
    for bias in into.b or ():
        bias += b
    if W_factor is not None:
        np.add(into.W, np.multiply(dW, W_factor, out=dW), out=into.W)
    if alpha is not None:
        alpha += d_alpha


def output_of(rnn: RNN, tape: Tape, workspace: Workspace) -> np.ndarray:
    """The output [T, B, O], or what the top layer sends up, which is the workspace's."""
    if rnn.output_size is None:
        return tape.sent()
    h = tape.sent()
    into = workspace("o", (*h.shape[:2], rnn.output_size), h.dtype)
    o = output(h, rnn._views["weight_out"], rnn._views.get("bias_out"), out=into)
    if tape.lengths is not None:
        np.copyto(o, 0, where=padded(tape.lengths, len(o), workspace)[..., np.newaxis])
    return o


def _output_gradients(rnn: RNN, tape: Tape, do: np.ndarray, workspace: Workspace) -> np.ndarray:
    """Add the gradients of the output layer; returns that of what it reads."""
    if tape.lengths is not None:
        given, do = do, workspace("do", do.shape, do.dtype)
        do[...] = given
        np.copyto(do, 0, where=padded(tape.lengths, len(do), workspace)[..., np.newaxis])
    h, V = tape.sent(), rnn._views["weight_out"]
    shapes = {"h": h.shape, "V": V.shape, "c": V.shape[:1]}
    into = OutputGradients(**{name: workspace(("output", name), s, h.dtype) for name, s in shapes.items()})
    gradients = output_gradients(do, h, V, out=into)
    rnn._gradient_views["weight_out"] += gradients.V
    if rnn.bias:
        rnn._gradient_views["bias_out"] += gradients.c
    return gradients.h
