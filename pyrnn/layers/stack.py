"""The one loop over layers and directions, forwards and backwards, and what `RNN` adds to it.

Everything here is time first, with a batch axis, of one dtype. L is the number of layers and D that of directions; the
states of both lie beside each other in one array [T, B, D H], which the next layer reads as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _calls, _engines, _noise
from pyrnn._core import memory
from pyrnn._core.call import Call
from pyrnn._results import OutputGradients
from pyrnn.functional import backward, forward
from pyrnn.layers.constraints import prepared
from pyrnn.layers.parameters import DIRECTIONS
from pyrnn.losses import QUIET
from pyrnn.network import Network
from pyrnn.readout import output, output_gradients
from pyrnn.trajectory import Trajectory

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import DTypeLike

    from pyrnn._types import MaybeArray, Shape
    from pyrnn.cell import Cell
    from pyrnn.layers.constraints import Prepared
    from pyrnn.layers.parameters import Workspace
    from pyrnn.layers.rnn import RNN

    _New: TypeAlias = Callable[[Hashable, Shape, DTypeLike], np.ndarray]  # an array, by name, shape and dtype
    _Factors: TypeAlias = Sequence[MaybeArray] | None  # by layer, where there are any
    _AtRates: TypeAlias = Callable[["Tape", int, np.ndarray], object] | None

ARRAYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@QUIET
def _scaled(a: np.ndarray, factors: np.ndarray, out: np.ndarray) -> np.ndarray:
    np.multiply(a, factors, out=out)
    return out


@QUIET
def _sum(a: np.ndarray, b: np.ndarray, out: np.ndarray, where: np.ndarray | bool = True) -> np.ndarray:
    np.add(a, b, out=out, where=where)
    return out


class Noise(NamedTuple):
    """State noise of a pass: a drive that `pyrnn.training.noise` has as an array."""

    sigma: np.ndarray  # of the drive, () or [H]
    seeds: Sequence[int]  # [L D]
    alpha: np.ndarray | None = None  # [H], of a leak that is trained: sigma is a multiple of 1/sqrt(alpha)


class Tape(NamedTuple):
    """What `forward_layers` leaves for `backward_layers`, by layer where it is a list. Nothing in it is copied."""

    layers: Sequence[Sequence[Network]]  # each a list of its directions
    inputs: list[np.ndarray]  # [T, B, I], then what the layers below send up, after dropout
    states: list[np.ndarray]  # [T, B, D H]
    rates: list[MaybeArray]  # the same, or None without a leak
    h0: MaybeArray = None  # [L D, B, H], or None for zeros
    lengths: np.ndarray | None = None  # [B]
    dropout: _Factors = None  # [T, B, D H], what the input of a layer was multiplied by
    recurrent: _Factors = None  # [D, B, H], what W reads of each sequence was multiplied by
    reverse: Sequence[bool] = (False, True)  # by direction
    n_threads: int | None = None
    noise: Noise | None = None

    def sent(self, layer: int = -1) -> np.ndarray:
        """What a layer sends up, [T, B, D H]: phi of its states where those are currents, else the states."""
        return (self.rates if self.layers[0][0].cell.current else self.states)[layer]

    def run(self, layer: int, direction: int = 0) -> Trajectory:
        """One direction of a layer alone, on views; without recurrent dropout."""
        x, h, rates, networks = self.inputs[layer], self.states[layer], self.rates[layer], self.layers[layer]
        D = len(networks)
        first = None if self.h0 is None else self.h0[layer * D + direction]
        h, r = _units(h, direction, D), None if rates is None else _units(rates, direction, D)
        rest = (None, self.lengths, None, self.reverse[direction])
        return Trajectory(networks[direction], x, first, h, h if r is None else r, *rest)

    def last_states(self, out: np.ndarray | None = None) -> np.ndarray:
        """The state of each sequence after its last step, [L D, B, H]: that before the first where there is no step."""
        (T, B, n), D, lengths = self.states[0].shape, len(self.layers[0]), self.lengths
        out = np.empty((len(self.states) * D, B, n // D), self.states[0].dtype) if out is None else out
        if T == 0 or lengths is not None:
            out[...] = 0 if self.h0 is None else self.h0
        if T == 0:
            return out
        for layer, h in enumerate(self.states):
            last = h[-1] if lengths is None else h[lengths - 1, np.arange(B)]
            for d in range(D):
                values = _units(h[0] if self.reverse[d] else last, d, D)
                if lengths is None:
                    out[layer * D + d] = values
                else:
                    np.copyto(out[layer * D + d], values, where=lengths[:, np.newaxis] > 0)
        return out


class Sums(NamedTuple):
    """Arrays that `backward_layers` adds the gradients of one layer and direction to."""

    U: np.ndarray
    W: np.ndarray
    b: tuple[np.ndarray, ...]  # as many as have that gradient
    alpha: np.ndarray | None  # [H], of a cell with a leak


class LayersGradients(NamedTuple):
    """Gradients that `backward_layers` returns.

    ``x`` is None where it was not requested, ``h0`` where the pass had no h0. ``layers`` has, for each layer and
    direction, the `Sums` that were given. Without these it has `pyrnn.Gradients`: their U, W, b and alpha are those of
    the parameters.
    """

    x: MaybeArray
    h0: MaybeArray
    layers: Sequence[Sequence[Any]]


def new_array(name: Hashable, shape: Shape, dtype: DTypeLike) -> np.ndarray:
    """A new array, whatever its name: where there is no workspace."""
    return memory.empty(shape, dtype)


def forward_layers(
    x: np.ndarray,
    layers: Sequence[Sequence[Network]],
    h0: np.ndarray | None = None,
    *,
    lengths: np.ndarray | None = None,
    reverse: Sequence[bool] = (False, True),
    dropout: _Factors = None,
    recurrent: _Factors = None,
    noise: Noise | None = None,
    n_threads: int | None = None,
    workspace: _New = new_array,
) -> Tape:
    """Run layers that stand on each other, each in one direction or two.

    Parameters
    ----------
    x : ndarray, shape (T, B, I)
    layers : sequence of sequence of Network
        Each layer's networks, one for each direction: U, W, b and the cell, whose form is the same in all. Those above
        the first read D H numbers.
    h0 : ndarray, shape (L D, B, H), optional
        The states before the first step, layer by layer; None for zeros.
    lengths : ndarray of intp, shape (B,), optional
        How many steps each sequence has, 0 to T.
    reverse : sequence of bool
        Whether a direction goes backwards, in each layer.
    dropout : sequence of ndarray or None, optional
        For each layer an array of the shape of its input that this is multiplied by, or None. Not for the first one.
    recurrent : sequence of ndarray or None, optional
        For each layer (D, B, H): what the recurrent weights see of the units of each sequence is multiplied by it.
    noise : Noise, optional
        ``(sigma, seeds)``: the standard deviation of noise that is added to the drive of all units or of each, and a
        seed for each layer and direction.
    n_threads : int, optional
        As in `pyrnn.forward`.
    workspace : callable
        ``workspace(name, shape, dtype)`` returns the arrays to write to: new ones by default.

    Returns
    -------
    Tape
        ``states``, ``rates``, `sent` and `last_states` are the results.

    Raises
    ------
    ValueError, TypeError
        As in `pyrnn.forward`. Arrays must be of one dtype, float32 or float64: nothing is converted here.

    See Also
    --------
    backward_layers : the gradients.
    pyrnn.RNN : this with parameters, checks and an output layer.

    Notes
    -----
    Each layer and direction is equations 10.8 and 10.9 of Goodfellow et al., "Deep Learning", by `pyrnn.forward`.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> from pyrnn.layers import forward_layers
    >>> layers = [[pyrnn.initialize(3, 4, rng=0)], [pyrnn.initialize(4, 4, rng=1)]]
    >>> tape = forward_layers(np.ones((7, 2, 3)), layers)
    >>> tape.sent().shape, tape.last_states().shape
    ((7, 2, 4), (2, 2, 4))
    """
    if x.ndim != 3 or not layers:
        raise ValueError(f"x must have shape (T, B, I) and layers at least one layer, got {x.shape} and {len(layers)}")
    (T, B, _), dtype, D, n, i = x.shape, x.dtype, len(layers[0]), len(layers[0]) * len(layers[0][0].W), 0
    tape = Tape(layers, [], [], [], h0, lengths, dropout, recurrent, reverse, n_threads, noise)
    alone = D == 1 and recurrent is None and workspace is new_array  # what forward returns is all of h
    for layer, networks in enumerate(layers):
        if layer > 0:
            x = tape.sent()
            if dropout is not None and dropout[layer] is not None:
                x = _scaled(x, dropout[layer], out=workspace(("dropped", layer), x.shape, dtype))
        h: MaybeArray = None if alone else workspace(("states", layer), (T, B, n), dtype)
        rates: MaybeArray = None
        if networks[0].cell.alpha is not None:
            rates = workspace(("rates", layer), (T, B, n), dtype)
        tape.inputs.append(x)
        tape.states.append(h)
        tape.rates.append(rates)
        for d, (U, W, b, _, _, _, cell) in enumerate(networks):
            if recurrent is None or recurrent[layer] is None:
                first, r = None if h0 is None else h0[i + d], None if rates is None else _units(rates, d, D)
                out, way = None if alone else _units(h, d, D), reverse[d]
                if noise is None:
                    states = forward(
                        x, U, W, b, first, cell=cell, lengths=lengths, reverse=way, rates=r, out=out,
                        n_threads=n_threads,
                    )  # fmt: skip
                else:
                    steps: dict[str, Any] = {"lengths": lengths, "mask": None, "reverse": way, "n_threads": n_threads}
                    states = _noise.forward(
                        x, U, W, b, first, cell, None, r, noise.sigma, noise.seeds[i + d], **steps, out=out
                    )
                if alone:
                    tape.states[layer] = states
                continue
            for some, run in _sequences(tape.run(layer, d), recurrent[layer][d], workspace):
                options: dict[str, Any] = {"out": run.h, "n_threads": n_threads, **run.steps}
                arrays, r = (run.require_x(), U, run.network.W, b, run.h0), run.written_rates
                if noise is None:
                    forward(*arrays, cell=cell, rates=r, **options)
                else:
                    of_drive, seed = noise.sigma, noise.seeds[i + d]
                    _noise.forward(*arrays, cell, None, r, of_drive, seed, sequence=some.start, **options)
        i += D
    return tape


def backward_layers(
    tape: Tape,
    dsent: np.ndarray | None,
    dh_n: np.ndarray | None = None,
    *,
    x_gradient: bool = True,
    overwrite: bool = False,
    rates: _AtRates = None,
    out: LayersGradients | None = None,
    workspace: _New = new_array,
) -> LayersGradients:
    """Gradients of a loss through the layers that `forward_layers` ran.

    Parameters
    ----------
    tape : Tape
    dsent : ndarray, shape (T, B, D H), or None for zeros
        What the loss sends into what the top layer sends up; not read where there is no step.
    dh_n : ndarray, shape (L D, B, H), optional
        What it sends into the last states.
    x_gradient : bool
        Whether the gradient at x is wanted.
    overwrite : bool
        Whether `dsent` may be written to.
    rates : callable, optional
        ``rates(tape, layer, dr)`` is called for each layer, the top one first: dr (T, B, D H), contiguous, is the
        gradient of what the layer sends up, ``tape.sent(layer)``. What it adds to dr in place counts.
    out : LayersGradients, optional
        Arrays of the caller's: ``x`` and ``h0`` are written, and the gradients of the parameters added to the `Sums` in
        ``layers``. A pass with recurrent dropout needs it.
    workspace : callable
        As in `forward_layers`.

    Returns
    -------
    LayersGradients
        ``out`` if that was given.

    Raises
    ------
    ValueError, TypeError
        As in `pyrnn.backward`, and for recurrent dropout without `out`.

    Notes
    -----
    Equations 10.20 to 10.28 of Goodfellow et al., "Deep Learning", by `pyrnn.backward`: dx of a layer, through dropout,
    is what arrives at the layer below.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> from pyrnn.layers import backward_layers, forward_layers
    >>> tape = forward_layers(np.ones((7, 2, 3)), [[pyrnn.initialize(3, 4, rng=0)], [pyrnn.initialize(4, 4, rng=1)]])
    >>> gradients = backward_layers(tape, np.ones((7, 2, 4)))  # of the sum of all outputs
    >>> gradients.x.shape, gradients.layers[0][0].U.shape
    ((7, 2, 3), (4, 3))
    """
    if out is None and tape.recurrent is not None:
        raise ValueError("out must be given for a pass with recurrent dropout, got None")
    (T, B, _), L, D, lengths = tape.states[0].shape, len(tape.layers), len(tape.layers[0]), tape.lengths
    g, own = dsent, overwrite  # the gradient of what a layer sends up, and whether it may be written to
    if g is None:
        g, own = np.zeros_like(tape.states[-1]), True
    dx, dh0 = (None, None) if out is None else out[:2]
    if out is None and tape.h0 is not None:
        dh0 = np.empty(tape.h0.shape, tape.h0.dtype)
    layers: Sequence[Any] = [[] for _ in tape.layers] if out is None else out.layers
    options: dict[str, Any] = {"lengths": lengths, "n_threads": tape.n_threads}
    for layer in reversed(range(L)):
        x, cell = tape.inputs[layer], tape.layers[layer][0].cell
        if rates is not None:
            if not own:
                given, g, own = g, workspace("dsent", g.shape, g.dtype), True
                g[...] = given
            rates(tape, layer, g)
        if cell.current:
            g, own = _through_phi(cell, g, tape.rates[layer], workspace), True
        if dh_n is not None and not own:
            given, g = g, workspace("dh", g.shape, g.dtype)
            g[...] = given
        below: MaybeArray = (
            None if out is None else dx if layer == 0 else workspace(("dx", layer % 2), x.shape, x.dtype)
        )
        for d in range(D):
            i, dh = layer * D + d, _units(g, d, D)
            if dh_n is not None:
                _add_at_ends(dh, dh_n[i], lengths, tape.reverse[d])
            if out is None:
                (U, W, *_, cell), first = tape.layers[layer][d], None if tape.h0 is None else tape.h0[i]
                arrays, written = (dh, _units(tape.states[layer], d, D), x, U, W, first), tape.rates[layer]
                r, wanted = None if written is None else _units(written, d, D), layer > 0 or x_gradient
                gradients: Any = backward(
                    *arrays, cell=cell, rates=r, reverse=tape.reverse[d], x_gradient=wanted, **options
                )
                layers[layer].append(gradients)
                below = gradients.x if below is None else _sum(below, gradients.x, out=below)
                if dh0 is not None:
                    dh0[i] = gradients.h0
            else:
                _add_gradients(tape, layer, d, dh, below, out.h0[i], layers[layer][d], workspace)
            if dh0 is not None and dh_n is not None and (T == 0 or lengths is not None):
                exist = np.full(B, T > 0) if lengths is None else lengths > 0
                _sum(dh0[i], dh_n[i], out=dh0[i], where=~exist[:, np.newaxis])  # it ends where it began
        if layer > 0 and tape.dropout is not None and tape.dropout[layer] is not None:
            _scaled(below, tape.dropout[layer], out=below)
        g, own = below, True
    return LayersGradients(g, dh0, layers) if out is None else out


def _units(a: np.ndarray, d: int, D: int) -> np.ndarray:
    """What belongs to one of D directions, of an array [T, B, D H] or [B, D H]."""
    if D == 1:
        return a
    H = a.shape[-1] // D
    return a[..., d * H : (d + 1) * H]


def _parts(tape: Tape, layer: int, d: int, new: _New) -> Iterable[tuple[slice | None, Trajectory]]:
    """What runs at once: the whole batch, None, or with recurrent dropout each sequence alone, with W scaled."""
    run = tape.run(layer, d)
    if tape.recurrent is None or tape.recurrent[layer] is None:
        return ((None, run),)
    return _sequences(run, tape.recurrent[layer][d], new)


def _sequences(run: Trajectory, factors: np.ndarray, new: _New) -> Iterator[tuple[slice, Trajectory]]:
    """Each sequence of a batch alone, with the columns of W scaled by its factors."""
    W, x, h0, lengths = run.network.W, run.require_x(), run.h0, run.lengths
    for i, row in enumerate(factors):
        some = slice(i, i + 1)
        network = run.network._replace(W=_scaled(W, row, out=new("W", W.shape, W.dtype)))
        first, length = None if h0 is None else h0[some], None if lengths is None else lengths[some]
        h, rates = run.h[:, some], run.rates[:, some]
        yield some, Trajectory(network, x[:, some], first, h, rates, None, length, None, run.reverse)


def _add_gradients(
    tape: Tape, layer: int, d: int, dh: np.ndarray, dx: MaybeArray, dh0: np.ndarray, into: Sums, new: _New
) -> None:
    """Add the gradients of one layer and direction; write dh0, and dx if there, to which the second direction adds."""
    H, alpha, W_factors = len(into.W), into.alpha, None if tape.recurrent is None else tape.recurrent[layer]
    b = new("gradient of b", (H,), dh.dtype)
    dW = into.W if W_factors is None else new("gradient of W", (H, H), dh.dtype)
    d_alpha = None if alpha is None else new("gradient of alpha", (H,), dh.dtype)
    drive, d_drive = _noise_of(tape, layer, d, dh, new)
    for some, run in _parts(tape, layer, d, new):
        (U, W, *_, cell), r = run.network, run.written_rates
        for a in (b, d_alpha, None if W_factors is None else dW):
            if a is not None:
                a.fill(0)
        of_rows: Sequence[Any] = (dh, dx, drive, d_drive)
        if some is not None:
            of_rows = [None if a is None else a[:, some] for a in of_rows]
        of_h, of_x, driven, of_drive = of_rows
        results = (of_x, into.U, dW, b, dh0 if some is None else dh0[some], of_drive, d_alpha)
        given = [of_h, run.h, run.x, U, W, run.h0, cell, driven, run.lengths, None, run.reverse, r, of_x is not None]
        call = Call.backward(*(*given, results, tape.n_threads))
        if call is None:  # the loops cannot read or write an array of the caller's without a copy
            given = [a.copy() if isinstance(a, np.ndarray) else a for a in given]
            copies = tuple(None if a is None else a.copy() for a in results)
            call = Call.backward(*(*given, copies, tape.n_threads))
        call = _calls.made(call)
        call.add(weights=True, x=d > 0)
        _engines.choose().backward(call)
        for a, written in zip(results, call.results, strict=True):
            if a is not None and written is not a:
                a[...] = written
        for bias in into.b:
            bias += b
        if W_factors is not None:
            np.add(into.W, np.multiply(dW, W_factors[d, some], out=dW), out=into.W)
        if alpha is not None:
            alpha += d_alpha
    if drive is not None and tape.noise is not None and tape.noise.alpha is not None:
        # The drive sqrt(2 / alpha) sigma xi has the derivative -drive / (2 alpha)
        np.multiply(drive, d_drive, out=drive)
        alpha -= _sum_in_pairs(drive.reshape(-1, H)) / (2 * tape.noise.alpha)


def _sum_in_pairs(rows: np.ndarray) -> Any:
    """The sum of all rows, which are written over; without a buffer, and with a rounding error like the log of n."""
    n = len(rows)
    while n > 1:
        half = n // 2
        np.add(rows[:half], rows[n - half : n], out=rows[:half])
        n -= half
    return rows[0] if n else 0


def _noise_of(tape: Tape, layer: int, d: int, like: np.ndarray, new: _New) -> tuple[MaybeArray, MaybeArray]:
    """The noise that was added to the drive, and room for its gradient, where a leak depends on it; else None."""
    if tape.noise is None or tape.noise.alpha is None:
        return None, None
    sigma, seeds, _ = tape.noise
    drive, d_drive = (new(name, like.shape, like.dtype) for name in ("noise", "gradient of noise"))
    _noise.array(seeds[layer * len(tape.layers[0]) + d], like.shape, like.dtype, sigma, out=drive)
    return drive, d_drive


@QUIET
def _through_phi(cell: Cell, g: np.ndarray, r: np.ndarray, workspace: _New) -> np.ndarray:
    """phi'(h) ∘ g in a workspace, with phi' told from r = phi(h)."""
    result = cell.slope(r, out=workspace("dh", g.shape, r.dtype))
    result *= g
    return result


@QUIET
def _add_at_ends(g: np.ndarray, last: np.ndarray, lengths: np.ndarray | None, reverse: bool) -> None:
    """Add to g [T, B, H] the gradient of the state after the last step of each sequence."""
    if len(g) == 0:
        return
    if reverse:
        g[0] += last  # of a sequence without steps too: it is not read there
    elif lengths is None:
        g[-1] += last
    else:
        g[lengths - 1, np.arange(len(lengths))] += last


# ---- What RNN has more ----------------------------------------------------------------------------------------------
class Constrained:
    """A weight matrix whose parameters are raw weights: the arrays of both, with what the constraint does to them."""

    def __init__(self, rules: Prepared, raw: np.ndarray, gradient: np.ndarray) -> None:
        self.rules, self.raw, self.gradient = rules, raw, gradient
        self.W, self.dW = np.empty_like(raw), np.empty_like(raw)
        self._result, self._scratch = np.empty_like(raw), np.empty_like(raw)

    def apply(self) -> np.ndarray:
        """Write the effective weights to W."""
        return self.rules.apply(self.raw, self.W)

    def add_gradient(self) -> None:
        """Add to the gradient of the raw weights what that of the effective ones, dW, makes of it."""
        self.rules.gradient(self.raw, self.W, self.dW, self._result, self._scratch)
        np.add(self.gradient, self._result, out=self.gradient)


def constrained_of(rnn: RNN) -> dict[str, Constrained]:
    """The weights of an RNN that have constraints, by name."""
    made = {}
    for name, constraint in rnn._constraints.items():
        raw, gradient = rnn._views[name], rnn._gradient_views[name]
        made[name] = Constrained(prepared(constraint, raw.shape, rnn.dtype), raw, gradient)
    return made


def networks_of(rnn: RNN) -> tuple[list[list[Network]], list[list[Sums]]]:
    """The networks of an RNN by layer and direction, whose b `forward_rnn` computes, and where their gradients go."""
    layers: list[list[Network]] = []
    sums: list[list[Sums]] = []
    alpha = None if rnn._alpha is None else np.empty_like(rnn._alpha)
    effective = {name: one.W for name, one in rnn._constrained.items()}
    gradients = {name: one.dW for name, one in rnn._constrained.items()}
    for layer in range(rnn.num_layers):
        ends = [f"_l{layer}{way}" for way in DIRECTIONS[: 1 + rnn.bidirectional]]
        arrays, into = [
            [[a[n + end] for n in ARRAYS if n + end in a] for end in ends]
            for a in (rnn._views | effective, rnn._gradient_views | gradients)
        ]
        layers.append([Network(U, W, np.empty_like(b[0]) if b else None, cell=rnn._cell) for U, W, *b in arrays])
        sums.append([Sums(U, W, tuple(b), alpha) for U, W, *b in into])
    return layers, sums


def apply_constraints(rnn: RNN) -> None:
    """Write the effective weights of an RNN, and what its output layer reads them as."""
    for constrained in rnn._constrained.values():
        constrained.apply()
    if rnn.output_units is not None:
        rnn._V[:, rnn.output_units] = (
            rnn._constrained["weight_out"].W if "weight_out" in rnn._constrained else rnn._views["weight_out"]
        )


@QUIET
def forward_rnn(rnn: RNN, x: np.ndarray, h0: np.ndarray | None, lengths: np.ndarray | None) -> Tape:
    """Run all layers of an RNN, with the dropout and the noise that it draws."""
    (T, B, _), H, D, L, new = x.shape, rnn.hidden_size, 1 + rnn.bidirectional, rnn.num_layers, rnn._workspace
    if h0 is None:
        h0 = new("zeros", (L * D, B, H), rnn.dtype)
        h0[...] = rnn._views["h0"][:, np.newaxis] if rnn.train_h0 else 0
    apply_constraints(rnn)
    dropout: list[np.ndarray | None] = [None] * L
    recurrent: list[np.ndarray | None] = [None] * L
    for layer, networks in enumerate(rnn._layers):
        for way, network in zip(DIRECTIONS, networks, strict=False):
            if network.b is not None:
                end = f"_l{layer}{way}"
                np.add(rnn._views["bias_ih" + end], rnn._views["bias_hh" + end], out=network.b)
        if rnn.training and layer > 0 and rnn.dropout > 0:
            dropout[layer] = _draw_mask(new(("mask", layer), (T, B, D * H), rnn.dtype), rnn.dropout, rnn.rng, new)
        if rnn.training and rnn.recurrent_dropout > 0:
            mask = new(("recurrent", layer), (D, B, H), rnn.dtype)
            recurrent[layer] = _draw_mask(mask, rnn.recurrent_dropout, rnn.rng, new)
    noise = None
    if rnn.training and rnn._drive_sigma is not None:
        seeds = rnn.rng.integers(2**64, size=L * D, dtype=np.uint64).tolist()
        noise = Noise(rnn._drive_sigma, seeds, np.broadcast_to(rnn.alpha, (H,)) if rnn.train_alpha else None)
    options: dict[str, Any] = {"dropout": dropout, "recurrent": recurrent, "noise": noise, "workspace": new}
    return forward_layers(x, rnn._layers, h0, lengths=lengths, **options)


@QUIET
def backward_rnn(
    rnn: RNN,
    tape: Tape,
    dout: np.ndarray,
    dh_n: np.ndarray | None,
    dx: np.ndarray | None,
    dh0: np.ndarray,
    rates: _AtRates = None,
) -> np.ndarray | None:
    """Add the gradients of the parameters to those of the rnn; write dx and dh0; returns that of alpha, or None.

    dout: as the output, read only where there are steps; dh_n: [L D, B, H] or None; dx: None if it is not wanted;
    rates: as of `backward_layers`.
    """
    alpha, overwrite = rnn._sums[0][0].alpha, rnn.output_size is not None
    if alpha is not None:
        alpha[...] = 0
    for constrained in rnn._constrained.values():
        constrained.dW[...] = 0
    if overwrite:
        dout = _output_gradients(rnn, tape, dout, rnn._workspace)
    out = LayersGradients(dx, dh0, rnn._sums)
    backward_layers(tape, dout, dh_n, overwrite=overwrite, rates=rates, out=out, workspace=rnn._workspace)
    for constrained in rnn._constrained.values():
        constrained.add_gradient()
    if rnn.train_h0 and rnn._from_own_h0:
        rnn._gradient_views["h0"] += dh0.sum(axis=1)
    if rnn.train_alpha and alpha is not None:
        raw = rnn._gradient_views["raw_alpha"]
        # d alpha / d raw = (high - low) sigmoid(raw) sigmoid(-raw)
        raw += rnn._alpha_slope * (alpha if len(raw) > 1 else alpha.sum())
    return alpha


def _draw_mask(mask: np.ndarray, p: float, rng: np.random.Generator, workspace: Workspace) -> np.ndarray:
    """Inverted dropout: fill with 0, with probability p, and 1/(1 - p)."""
    rng.random(out=mask, dtype=mask.dtype)
    kept = np.greater_equal(mask, p, out=workspace("kept", mask.shape, np.bool_))
    np.copyto(mask, kept)
    mask *= 0 if p == 1 else 1 / (1 - p)
    return mask


def padded(lengths: np.ndarray, T: int, workspace: Workspace) -> np.ndarray:
    """[T, B]: True where there is no step."""
    steps = np.arange(T)[:, np.newaxis]
    behind = workspace("padded", (T, len(lengths)), np.bool_)
    np.greater_equal(steps, lengths, out=behind)
    return behind


def output_of(rnn: RNN, tape: Tape, workspace: Workspace) -> np.ndarray:
    """The output [T, B, O], or what the top layer sends up, which is the workspace's."""
    if rnn.output_size is None:
        return tape.sent()
    h = tape.sent()
    into = workspace("o", (*h.shape[:2], rnn.output_size), h.dtype)
    o = output(h, rnn._V, rnn._views.get("bias_out"), out=into)
    if tape.lengths is not None:
        np.copyto(o, 0, where=padded(tape.lengths, len(o), workspace)[..., np.newaxis])
    return o


def _output_gradients(rnn: RNN, tape: Tape, do: np.ndarray, workspace: Workspace) -> np.ndarray:
    """Add the gradients of the output layer; returns that of what it reads."""
    if tape.lengths is not None:
        given, do = do, workspace("do", do.shape, do.dtype)
        do[...] = given
        np.copyto(do, 0, where=padded(tape.lengths, len(do), workspace)[..., np.newaxis])
    h, V = tape.sent(), rnn._V
    shapes = {"h": h.shape, "V": V.shape, "c": V.shape[:1]}
    into = OutputGradients(**{name: workspace(("output", name), s, h.dtype) for name, s in shapes.items()})
    gradients = output_gradients(do, h, V, out=into)
    dV = gradients.V if rnn.output_units is None else gradients.V[:, rnn.output_units]
    into_V = (
        rnn._constrained["weight_out"].dW if "weight_out" in rnn._constrained else rnn._gradient_views["weight_out"]
    )
    into_V += dV
    if rnn.bias:
        rnn._gradient_views["bias_out"] += gradients.c
    return gradients.h
