"""The calls of an engine behind forward, backward and state_gradients: in the order of the steps that exist.

Arrays here are checked, of one dtype, with a batch axis. `steps` is (lengths [B], mask [T, B], reverse), the first two
may be None.
"""

import operator
from collections.abc import Collection

import numpy as np

from pyrnn import _bptt, _cell, _checks, _memory, _sequences
from pyrnn._results import Gradients


def forward(compiled, x, U, W, b, h0, h, options, drive, rates, steps):
    """Write h, and rates unless None; options: n_threads, and phi, alpha and current of the cell."""
    lengths, mask, reverse = steps
    if lengths is mask is None:
        if reverse:
            x, drive, h, rates = (in_order(a, True) for a in (x, drive, h, rates))
        compiled.forward(x, U, W, b, h0, h, *options, drive, rates)
        return
    if (n := _sequences.common(lengths)) == len(x):
        forward(compiled, x, U, W, b, h0, h, options, drive, rates, (None, None, reverse))
        return
    if n >= 0:  # one length for all
        x, drive, used_h, used_rates = (None if a is None else a[:n] for a in (x, drive, h, rates))
        forward(compiled, x, U, W, b, h0, used_h, options, drive, used_rates, (None, None, reverse))
        for a in (h, rates):
            if a is not None:
                a[n:] = 0
        return
    sequences = _sequences.Sequences(*x.shape[:2], *steps)
    if mask is None and compiled.takes_sequences(len(sequences.order)):
        first = sequences.first_rows(h0)
        compiled.forward(x, U, W, b, first, h, *options, drive, rates, sequences.offsets, sequences)
        for a in (h, rates):
            if a is not None:
                sequences.fill(a)
        return
    packed_h, packed_rates = (None if a is None else sequences.empty(x, h.shape[2]) for a in (h, rates))
    x, drive = (None if a is None else sequences.gather(a) for a in (x, drive))
    first = sequences.first_rows(h0)
    compiled.forward(x, U, W, b, first, packed_h, *options, drive, packed_rates, sequences.offsets)
    sequences.scatter(packed_h, h, None if mask is None else h0)
    if rates is not None:
        sequences.scatter(packed_rates, rates)


def backward(compiled, dh, h, x, U, W, h0, options, rates, steps, results, accumulate=False, add_x=False):
    """Write the results (dx, dU, dW, db, dh0, d_drive, d_alpha), of which some may be None; options as in forward.

    accumulate: add to dU, dW, db and d_alpha instead, and add_x to dx.
    """
    lengths, mask, reverse = steps
    dx, dU, dW, db, dh0, d_drive, d_alpha = results
    options, adds = (*options, d_drive is not None), (None, accumulate, False, add_x)
    if lengths is mask is None:
        if reverse:
            dh, h, x, rates, dx, d_drive = (in_order(a, True) for a in (dh, h, x, rates, dx, d_drive))
            results = (dx, dU, dW, db, dh0, d_drive, d_alpha)
        compiled.backward(dh, h, x, U, W, h0, *options, rates, None, results, *adds)
        return
    if (n := _sequences.common(lengths)) == len(x):
        steps = (None, None, reverse)
        backward(compiled, dh, h, x, U, W, h0, options[:-1], rates, steps, results, accumulate, add_x)
        return
    if n >= 0:
        dh, h, x, rates, used_dx, used_drive = (None if a is None else a[:n] for a in (dh, h, x, rates, dx, d_drive))
        results = (used_dx, dU, dW, db, dh0, used_drive, d_alpha)
        steps = (None, None, reverse)
        backward(compiled, dh, h, x, U, W, h0, options[:-1], rates, steps, results, accumulate, add_x)
        for a in (None if add_x else dx, d_drive):
            if a is not None:
                a[n:] = 0
        return
    sequences = _sequences.Sequences(*x.shape[:2], *steps)
    if mask is None and compiled.takes_sequences(len(sequences.order)):
        dh0[...] = 0
        first, d_first = sequences.first_rows(h0), sequences.first_rows(h0)
        results = (dx, dU, dW, db, d_first, d_drive, d_alpha)
        compiled.backward(dh, h, x, U, W, first, *options, rates, sequences.offsets, results, *adds, sequences)
        sequences.add_first_rows(d_first, dh0)
        for a in (None if add_x else dx, d_drive):
            if a is not None:
                sequences.fill(a)
        return
    packed_dh = sequences.gather_gradients(dh, dh0)
    h, x, rates = (None if a is None else sequences.gather(a) for a in (h, x, rates))
    first, d_first = sequences.first_rows(h0), sequences.first_rows(h0)
    packed_dx, packed_drive = (None if a is None else sequences.empty(x, a.shape[2]) for a in (dx, d_drive))
    packed = (packed_dx, dU, dW, db, d_first, packed_drive, d_alpha)
    compiled.backward(packed_dh, h, x, U, W, first, *options, rates, sequences.offsets, packed, *adds[:-1])
    sequences.add_first_rows(d_first, dh0)
    if dx is not None:
        to = _memory.empty(dx.shape, dx.dtype) if add_x else dx
        sequences.scatter(packed_dx, to)
        if add_x:
            dx += to
    if d_drive is not None:
        sequences.scatter(packed_drive, d_drive)


def state_gradients(compiled, dh, h, W, options, rates, steps):
    """grad_h, a new array; options: phi, alpha and current."""
    lengths, mask, reverse = steps
    if lengths is mask is None:
        dh, h, rates = (in_order(a, reverse) for a in (dh, h, rates))
        grad_h = compiled.state_gradients(dh, h, W, *options, rates)
        return np.ascontiguousarray(grad_h[::-1]) if reverse else grad_h
    sequences = _sequences.Sequences(*h.shape[:2], *steps)
    packed_dh = sequences.gather_gradients(dh, np.empty(h.shape[1:], h.dtype))
    packed_h, packed_rates = (None if a is None else sequences.gather(a) for a in (h, rates))
    packed = compiled.state_gradients(packed_dh, packed_h, W, *options, packed_rates, sequences.offsets)
    grad_h = _memory.empty(h.shape, h.dtype)
    sequences.scatter(packed, grad_h)
    if mask is not None:
        _pass_back(compiled, grad_h, h, W, options, rates, mask, reverse)
        sequences.add_along_holes(dh, grad_h)
    return grad_h


@np.errstate(all="ignore")
def _pass_back(compiled, grad_h, h, W, options, rates, mask, reverse):
    """Write what a step passes back to the place of the step before it, where `mask` leaves that one out."""
    phi, leak, current = options
    grad_h, h, rates, mask = (in_order(a, reverse) for a in (grad_h, h, rates, mask))
    holes = np.nonzero(mask[1:] & ~mask[:-1])
    if len(holes[0]) == 0:
        return
    after = (holes[0] + 1, holes[1])
    g, nonlinearity = grad_h[after], _cell.NONLINEARITIES[phi]
    delta = g if leak is None else leak * g
    if current:
        slopes = _cell.slopes_from(nonlinearity, _bptt._phi(np.ascontiguousarray(h[holes]), phi))
    else:
        slopes = 1
        delta = _cell.slopes_from(nonlinearity, (h if leak is None else rates)[after]) * delta
    # Wᵀ delta                                                                                               (10.21)
    back = slopes * compiled.output(np.ascontiguousarray(delta)[np.newaxis], np.ascontiguousarray(W.T), None)[0]
    grad_h[holes] = back if leak is None else (1 - leak) * g + back


def phi_of_previous(h, h0, phi, lengths, reverse):
    """phi(h_{t-1}) for every step; h may have no batch axis."""
    before, n = _memory.empty(h.shape, h.dtype), h.shape[-1]
    if reverse:
        before[:-1], before[-1:] = h[1:], h0
        if lengths is not None:
            np.copyto(before, h0, where=_times(h) == lengths[..., np.newaxis] - 1)
    else:
        before[1:], before[:1] = h[:-1], h0
    return _bptt._phi(before.reshape(before.size // max(n, 1), n), phi).reshape(h.shape)


def missing_steps(h, lengths, mask):
    """True where a step does not exist."""
    return ~mask if lengths is None else (_times(h) >= lengths[..., np.newaxis])[..., 0]


def _times(h):
    return np.arange(len(h)).reshape(-1, *[1] * (h.ndim - 1))


def in_order(a, reverse):
    """A sequence in the order of the steps."""
    return a[::-1] if reverse and a is not None else a


# ---- A batch of one -------------------------------------------------------------------------------------------------
def with_batch(*sequences):
    """Sequences [T, n], or None, as [T, 1, n]."""
    return (None if a is None else a[:, np.newaxis] for a in sequences)


def with_one_row(*arrays):
    """What has one entry for each sequence, or None, with an axis for them."""
    return (None if a is None else a[np.newaxis] for a in arrays)


def initial(h0, B, H, dtype):
    return np.zeros((B, H), dtype) if h0 is None else _checks.matrix(h0)


# ---- What backward writes to ----------------------------------------------------------------------------------------
def new_results(x_gradient, x, U, drive, leak):
    """Arrays for the results of backward: (dx, dU, dW, db, dh0, d_drive, d_alpha), None for what is not wanted."""
    T, B, _ = x.shape
    H = len(U)
    shapes = [x.shape if x_gradient else None, U.shape, (H, H), (H,), (B, H)]
    shapes += [(T, B, H) if drive else None, None if leak is None else (H,)]
    return tuple(None if shape is None else _memory.empty(shape, x.dtype) for shape in shapes)


def results_of(out, x, U, inputs, drive, alpha):
    """The arrays of `out`, Gradients of an earlier call, as such results; None if they do not fit as they lie."""
    if type(out) is not Gradients or (out.drive is None and drive):
        return None
    *results, d_drive, d_alpha = out
    if alpha is None:
        d_alpha = None
    elif np.ndim(alpha) == 0:  # its gradient is a sum over the units
        d_alpha = np.empty(len(U), x.dtype)
    elif d_alpha is None:
        return None
    results = (*results, d_drive if drive else None, d_alpha)
    return results if _bptt.fit_results(results, x, U, inputs) else None


def check_gradients(out, x, U, drive, alpha, given, arrays):
    """Check the Gradients that backward is to overwrite."""
    if not isinstance(out, Gradients):
        raise TypeError(f"out must be a pyrnn.Gradients, as backward returns it, got {type(out).__name__}")
    H = len(U)
    states = (*x.shape[:-1], H)
    shapes = {"x": x.shape, "U": U.shape, "W": (H, H), "b": (H,), "h0": states[1:]}
    if drive is not None:
        shapes["drive"] = states
    if alpha is not None and np.ndim(alpha):
        shapes["alpha"] = (H,)
    seen = []
    for name, shape in shapes.items():
        a = getattr(out, name)
        if a is None and name == "x":
            continue
        _checks.check_out(a, shape, x.dtype, given, arrays, name=f"out.{name}")
        for other, b in seen:
            if _checks.overlap(a, b):
                raise ValueError(f"out.{name} must not share memory with out.{other}")
        seen.append((name, a))


def names_to_add(accumulate, out):
    """Check the names of the fields of `out` that backward is to add to; returns them as a set."""
    if type(accumulate) is tuple and (not accumulate or (accumulate == ("x",) and getattr(out, "x", None) is not None)):
        return accumulate  # what most ask for, in no time
    names = Gradients._fields
    if isinstance(accumulate, str) or not isinstance(accumulate, Collection):
        raise TypeError(f"accumulate must be a collection of names, such as ('x',), got {accumulate!r}")
    for name in accumulate:
        if not isinstance(name, str) or name not in names:
            raise ValueError(f"accumulate must hold names among {', '.join(map(repr, names))}, got {name!r}")
    if accumulate and out is None:
        raise ValueError("accumulate must be empty without out, which it adds to, got " + ", ".join(accumulate))
    for name in accumulate if isinstance(out, Gradients) else ():
        if getattr(out, name) is None:
            raise ValueError(f"accumulate must hold names of gradients that out has, got {name!r}, which is None there")
    return frozenset(accumulate)


def add_gradients(compiled, arguments, results, to_add, alpha, out):
    """`backward` with these arguments, adding to those of the results, the arrays of `out`, that `to_add` names."""
    if to_add == ("x",):
        backward(compiled, *arguments, results, False, True)
        return gradients(results, alpha, out)
    dx, dU, dW, db, *others = results
    accumulate = not to_add.isdisjoint("UWb")
    if accumulate:
        for name, a in (("U", dU), ("W", dW), ("b", db)):
            if name not in to_add:
                a.fill(0)
    names = ("h0", "drive", "alpha")  # the loops only write the first two, and what the third holds they would divide
    apart = [
        np.zeros_like(a) if a is not None and (name in to_add or (accumulate and name == "alpha")) else a
        for name, a in zip(names, others, strict=True)
    ]
    backward(compiled, *arguments, (dx, dU, dW, db, *apart), accumulate, "x" in to_add)
    for name, a, a_apart in zip(names, others, apart, strict=True):
        if a_apart is not a:
            put(a_apart, a, name in to_add and not (name == "alpha" and np.ndim(alpha) == 0))
    return gradients(results, alpha, out, "alpha" in to_add)


def put(a, to, add):
    """Write a to an array, or add it."""
    if add:
        to += a
    else:
        to[...] = a


def gradients(results, alpha, out=None, add_alpha=False):
    """Results as the public tuple, `out` if they are what it holds; with a number for alpha where it is one.

    add_alpha: add the number to that of `out`.
    """
    if alpha is not None and np.ndim(alpha) == 0:
        d_alpha = results[6].sum()
        results = (*results[:6], d_alpha + out.alpha if add_alpha else d_alpha)
    if out is not None and all(map(operator.is_, results, out)):
        return out
    return Gradients(*results)
