"""A differential fuzzer of the functions: random calls, compared with the reference and with each other.

    python -P tests/fuzz/functions.py --cases 100000 --seed 0 [--function NAME] [--jobs 1]
    python -P tests/fuzz/functions.py --function NAME --choices 3,0,2

The first line runs cases and prints, for each kind of failure, the shortest list of choices that still fails; the
second line runs one case again. The exit status is 1 if a case failed.

A case is a list of choices, each the index of one of a few options, the simplest first. Random cases take them from a
NumPy generator, hypothesis draws them itself (test_fuzz_functions.py), and `shrunk` makes a failing list simpler.
Numbers come from a generator whose seed is one of the choices.

How much a result may differ
----------------------------
Nothing here is compared "to 1e-5". Each comparison has an error bound for each element, which holds for every order of
summation and every rounding (Higham, "Accuracy and Stability of Numerical Algorithms", SIAM 2002, section 3.1):
a computed sum of n products differs from the exact one by at most (n + 1) eps Σ|a_i b_i| to first order. So each check
computes that sum of absolute values beside the value, in float64, and no bound grows where a result cancels. For
float64 results the reference has such an error too: the bounds are doubled for both types.

Errors that a recurrence amplifies would make bounds useless after a few steps. Therefore a recurrence whose states are
returned (forward, jvp, state_gradients, RNN) is checked step by step: the state that the package returned for the step
before is what the reference starts from. By induction all steps are then right, and each bound is that of one step.
`backward` does not return what it carries; its bound is carried along with the gradient (`Through`).

Numbers below the smallest normal one may become 0 anywhere, in inputs, products and results: FLOOR, the smallest
normal number over eps, is added to each absolute value, so that eps times it covers a lost number, also after it is
multiplied with a large one. Where a sum of absolute values exceeds an eighth of the largest number, a partial sum may
overflow in one order and not in another: such elements are not compared. Where NaN is among the terms, NaN must come.
"""

import argparse
import contextlib
import dataclasses
import math
import mmap
import os
import random
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import helpers
from helpers import AUTO, BLAS, FUSED

import pyrnn
from pyrnn import reference
from pyrnn._core import call as calls
from pyrnn._core import table

SETS = table.available()
KINKED = ("relu", "retanh", "leaky_relu")  # whose slope jumps at 0
FIELDS = ("x", "U", "W", "b", "h0", "drive", "alpha")


class Wrong(AssertionError):
    """A result that is not what it must be."""


# ---- Choices --------------------------------------------------------------------------------------------------------
class Choices:
    """Choices by a source of uniform numbers, or a given list; each is the index of an option, the simplest first."""

    def __init__(self, source, given=None):
        self.uniform, self.given, self.made = source, given, []

    def __call__(self, *options):
        return options[self.index(len(options))]

    def index(self, n):
        """A number below n."""
        if self.given is None:
            i = int(self.uniform() * n)
        else:  # a shorter list stands for the simplest options
            at = len(self.made)
            i = min(self.given[at], n - 1) if at < len(self.given) else 0
        self.made.append(i)
        return i

    def rarely(self, n):
        """True in one of n cases."""
        return self.index(n) == n - 1


# ---- Arrays ---------------------------------------------------------------------------------------------------------
MAGNITUDES = ("ordinary",) * 12 + ("scales", "scales", "large", "tiny", "nan", "inf")


class Arrays:
    """The arrays of a case: drawn, converted, laid out; each as it is passed, and watched for changes."""

    def __init__(self, choose, magnitudes=MAGNITUDES, dtypes=None):
        self.choose = choose
        self.numbers = np.random.default_rng(choose.index(1 << 16))
        self.magnitude = choose(*magnitudes)
        kinds = dtypes or (np.float64, np.float32, np.float32, np.float64, "mixed")
        self.dtype = choose(*kinds)
        self.plain = choose(True, True, False, False, False)  # no odd layouts
        self.watched = []
        self.types = []

    def __call__(self, name, *shape, scale=1.0, within=False, odd=True):
        """An array; within: of numbers that stand for states, in (-1, 1)."""
        a = self.numbers.standard_normal(shape) * scale
        if within:
            a = np.tanh(a)
        if self.magnitude != "ordinary":
            a = self._of_magnitude(a, within)
        return self.pass_on(name, a, odd)

    def _of_magnitude(self, a, within):
        numbers, narrow = self.numbers, self.dtype is not np.float64
        kind = self.magnitude
        if kind == "scales" and numbers.random() < 0.5:
            a = a * 10.0 ** numbers.integers(-6, 1 if within else 4)
        elif kind == "large" and not within and numbers.random() < 0.3:
            a = a * 10.0 ** numbers.integers(5, 36 if narrow else 300)
        elif kind == "tiny" and numbers.random() < 0.5:
            a = a * 10.0 ** -float(numbers.integers(20, 46 if narrow else 324))
        elif kind in ("nan", "inf") and a.size and numbers.random() < 0.3:
            a = a.copy()
            a.reshape(-1)[numbers.integers(a.size)] = np.nan if kind == "nan" else numbers.choice([np.inf, -np.inf])
        return a

    def pass_on(self, name, a, odd=True):
        """The array in some dtype and layout, as an argument; its values may change with that."""
        dtype = self.dtype
        if dtype == "mixed":
            dtype = self.choose(np.float64, np.float32, np.float16, np.int8, np.int64, np.bool_, np.uint16)
            if dtype is np.float16:
                a = np.clip(a, -6e4, 6e4)
            elif dtype is not np.float32 and dtype is not np.float64:
                a = np.clip(np.nan_to_num(np.round(a)), 0 if dtype is np.uint16 else -100, 100)
        with np.errstate(all="ignore"):
            a = np.asarray(a, dtype)
        if self.plain or not odd or a.ndim == 0:
            self.watched.append((name, a, a.tobytes()))
        else:
            a = self.laid_out(name, a)
        self.types.append(a.dtype)
        return a

    def laid_out(self, name, a):
        a = LAYOUTS[self.choose(*LAYOUT_NAMES)](a)
        memory = helpers.memory(a)
        self.watched.append((name, memory, memory.tobytes()))
        return a

    def result_dtype(self):
        return np.result_type(np.float32, *self.types)

    def check_unchanged(self):
        for name, a, before in self.watched:
            if a.tobytes() != before:
                raise Wrong(f"{name} was written to")


def broadcast(axis):
    """The first values along an axis for all of it, with a stride of 0."""

    def lay_out(a):
        at = min(axis, a.ndim - 1)
        if a.ndim == 0 or a.shape[at] == 0:
            return a
        return np.broadcast_to(np.ascontiguousarray(np.take(a, [0], at)), a.shape)

    return lay_out


WRITEABLE = helpers.WRITEABLE_LAYOUTS | {
    "batch last": lambda a: helpers.lay_out(a, [*range(a.ndim)[:1], *range(a.ndim)[:0:-1]]),
}
LAYOUTS = (
    WRITEABLE
    | helpers.LAYOUTS
    | {
        "broadcast over time": broadcast(0),
        "broadcast over the batch": broadcast(1),
        "broadcast over units": broadcast(9),
    }
)
LAYOUT_NAMES, WRITEABLE_NAMES = tuple(LAYOUTS), tuple(WRITEABLE)


def exact(a):
    return None if a is None else np.asarray(a).astype(np.float64)


def absolute(a, floor=0.0):
    return np.abs(a) + floor


# ---- Comparison -----------------------------------------------------------------------------------------------------
class Bounds:
    """What rounding and lost small numbers may do to results of one dtype."""

    def __init__(self, dtype, nan=False, rounded_to=None):
        """rounded_to: the dtype of rates that are given, if that is narrower."""
        info = np.finfo(dtype if rounded_to is None else rounded_to)
        self.dtype, self.eps = dtype, 2 * float(info.eps)
        self.tiny = float(info.tiny)
        self.floor = self.tiny / float(info.eps)
        self.most = float(info.max) / 8
        self.nan = nan  # among the inputs, and nothing that overflows

    def check(self, name, actual, expected, error, magnitude=None):
        """Raise Wrong unless each element is within its error, and the array is new, of the dtype and shape."""
        if not isinstance(actual, np.ndarray | np.generic):
            raise Wrong(f"{name} is {actual!r}, not an array")
        if actual.dtype != self.dtype or not actual.dtype.isnative:
            raise Wrong(f"{name} has dtype {actual.dtype}, not {self.dtype}")
        if actual.shape != expected.shape:
            raise Wrong(f"{name} has shape {actual.shape}, not {expected.shape}")
        if actual.size == 0:
            return
        difference = np.abs(actual - expected)
        if (difference <= error).all():
            return
        error, difference = np.broadcast_to(error, actual.shape), np.asarray(difference)
        limit = np.broadcast_to(np.abs(expected) if magnitude is None else magnitude, actual.shape)
        wrong = ~(difference <= error) & (limit <= self.most) & ~np.isnan(error)
        if self.nan:
            wrong |= np.isnan(expected)
        else:  # of inf times 0, or of two that differ, which another order may not meet
            wrong &= ~np.isnan(expected)
        wrong &= (actual != expected) & ~(np.isnan(actual) & np.isnan(expected))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Wrong(
                f"{name}{list(at)} of shape {actual.shape} is {actual[at]!r}, not {expected[at]!r}: off by "
                f"{difference[at]:.3g} where {error[at]:.3g} is allowed; {wrong.sum()} of {wrong.size} are wrong"
            )


def check_zero(name, a):
    if np.count_nonzero(a):
        raise Wrong(f"{name} is not 0 everywhere, but {a[np.nonzero(a)][0]!r}")


def same_bits(name, a, b):
    """Raise Wrong unless two results are the same to the last bit; NaN of every kind counts as one."""
    if a is None and b is None:
        return
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        raise Wrong(f"{name}: {a.shape} {a.dtype} is not {b.shape} {b.dtype}")
    if a.tobytes() == b.tobytes():
        return
    kind = a.dtype.str.replace("f", "u")
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    differ = a.reshape(-1).view(kind) != b.reshape(-1).view(kind)
    differ &= ~(np.isnan(a) & np.isnan(b)).reshape(-1)
    if differ.any():
        at = np.unravel_index(differ.argmax(), a.shape)
        raise Wrong(f"{name}{[int(i) for i in at]} of shape {a.shape}: {a[at]!r} is not {b[at]!r} to the last bit")


def check_own_memory(results, arrays):
    """Raise Wrong if a result shares memory with an argument or another result."""
    results = [(n, a) for n, a in results if isinstance(a, np.ndarray) and a.size]
    for i, (name, a) in enumerate(results):
        for other, b in (*results[:i], *((n, m) for n, m, _ in arrays.watched)):
            if np.may_share_memory(a, b):
                raise Wrong(f"{name} shares memory with {other}")
        if not a.flags.writeable:
            raise Wrong(f"{name} is read-only")


# ---- Networks and calls ---------------------------------------------------------------------------------------------
TIMES, BATCHES = (2, 1, 3, 0, 2, 3, 4, 5, 6), (2, None, 1, 3, 0, 2, 3, 4, 5, 7)
INPUTS, UNITS = (2, 1, 3, 0, 5, 2, 3, 4, 9), (2, 1, 3, 0, 5, 8, 4, 7, 9, 16, 17)
# Both sides of where the code takes another route: blocks of rows, widths of registers, threads.
LARGE = ((20, 33, 8, 31), (9, 13, 5, 64), (30, 12, 3, 33), (3, 65, 17, 48), (12, 5, 40, 100), (60, 6, 2, 24))


def sizes(choose):
    """T, B, I, H."""
    if choose.rarely(64):
        return choose(*LARGE)
    return choose(*TIMES), choose(*BATCHES), choose(*INPUTS), choose(*UNITS)


def random_phi(choose):
    """Arguments of a Cell."""
    name = choose("tanh", "tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu")
    slope = choose(0.01, 0.2, 0.0, 1.0) if name == "leaky_relu" else 0.01
    return {"nonlinearity": name, "negative_slope": slope}


def random_cell(choose, arrays, H, with_alpha=True):
    """A random cell. Its alpha may have any dtype and layout; the cell copies it."""
    phi = random_phi(choose)
    form = choose("rate", "rate", "current") if with_alpha else "rate"
    if not with_alpha or (form == "rate" and choose(True, False)):
        return pyrnn.Cell(**phi)
    if choose("number", "vector") == "number":
        return pyrnn.Cell(alpha=choose(0.5, 0.2, 1.0, 1, 1.5, -0.25, 0.03), form=form, **phi)
    alpha = arrays.numbers.uniform(0.1, 1.0, H).astype(choose(np.float64, np.float32, ">f8"))
    alpha = alpha if arrays.plain else arrays.laid_out("alpha", alpha)
    cell = pyrnn.Cell(alpha=alpha, form=form, **phi)
    if H and np.may_share_memory(cell.alpha, alpha):
        raise Wrong("a cell keeps the array of alpha, not a copy")
    return cell


def rounded(cell, dtype):
    """The cell with alpha and its slope as results of this dtype are made with them."""
    alpha = None if cell.alpha is None else np.asarray(cell.alpha, dtype)
    slope = float(dtype.type(cell.negative_slope)) if cell.nonlinearity == "leaky_relu" else cell.negative_slope
    return dataclasses.replace(cell, alpha=alpha, negative_slope=slope)


class Steps:
    """lengths, mask and reverse of a case, and which steps exist, [T, B]."""

    def __init__(self, choose, arrays, T, B, which=("none", "none", "lengths", "mask")):
        rows, numbers = 1 if B is None else B, arrays.numbers
        self.reverse, kind = choose(False, False, True), choose(*which)
        self.lengths = self.mask = None
        self.exists = np.ones((T, rows), bool)
        if kind == "lengths":
            order = choose("any", "sorted", "same", "whole")
            n = numbers.integers(0, T + 1, rows)
            n = np.sort(n)[::-1] if order == "sorted" else np.full(rows, n.max(initial=0)) if order == "same" else n
            n = np.full(rows, T) if order == "whole" else n
            self.exists = np.arange(T)[:, np.newaxis] < n
            n = n.astype(choose(np.intp, np.int32, np.uint8, ">i8"))
            self.lengths = n if B is not None else choose(n[0], int(n[0]), n.reshape(()))
            if B is not None and not arrays.plain:
                self.lengths = choose(n, n.tolist(), np.repeat(n, 2)[::2], n[::-1].copy()[::-1])
                if isinstance(self.lengths, list) and not self.lengths:
                    self.lengths = n
        elif kind == "mask":
            self.exists = numbers.random((T, rows)) < choose(0.7, 0.3, 1.0, 0.0)
            mask = self.exists if B is not None else self.exists[:, 0]
            self.mask = mask.copy() if arrays.plain else arrays.laid_out("mask", mask)
            if self.mask.strides and 0 in self.mask.strides:
                self.exists = np.asarray(self.mask).reshape(T, rows).copy()
        self.watched = (self.lengths, None if self.lengths is None else np.array(self.lengths).copy())

    def options(self):
        return {"lengths": self.lengths, "mask": self.mask, "reverse": self.reverse}

    def poison(self, a):
        """NaN where steps do not exist, of an array [T, B, .] or [T, .] that is not read there."""
        if a.dtype.kind == "f" and not self.exists.all():
            a = a.copy()
            a.reshape(*self.exists.shape, a.shape[-1])[~self.exists] = np.nan
        return a

    def previous(self, h, h0):
        """The state before each step, in the order in which steps are made."""
        if not self.reverse:
            return np.concatenate([h0[np.newaxis], h])[: len(h)]
        before = np.concatenate([h[1:], h0[np.newaxis]])[: len(h)]
        if self.lengths is not None and len(h):  # the step behind an end is none
            last = self.exists & ~np.concatenate([self.exists[1:], np.zeros_like(self.exists[:1])])
            before = np.where(last[..., np.newaxis], h0, before)
        return before

    def order(self):
        T = len(self.exists)
        return range(T)[::-1] if self.reverse else range(T)


class Network:
    """One call of forward: arguments, and the exact ones with a batch axis."""

    def __init__(
        self,
        choose,
        *,
        which=("none", "none", "lengths", "mask"),
        forms=True,
        drives=True,
        biases=True,
        dtypes=None,
        magnitudes=MAGNITUDES,
        shape=None,
    ):
        self.choose = choose
        T, B, I, H = self.shape = sizes(choose) if shape is None else shape
        rows = () if B is None else (B,)
        self.arrays = arrays = Arrays(choose, magnitudes, dtypes)
        self.cell = random_cell(choose, arrays, H, forms)
        self.steps = steps = Steps(choose, arrays, T, B, which)
        gain = choose(0.5, 1.0, 0.1, 3.0)
        x = arrays.numbers.standard_normal((T, *rows, I))
        x = steps.poison(arrays._of_magnitude(x, False) if arrays.magnitude != "ordinary" else x)
        self.x = arrays.pass_on("x", x)
        self.U = arrays("U", H, I, scale=1 / max(I, 1))
        self.W = arrays("W", H, H, scale=gain / max(H, 1))
        self.b = arrays("b", H) if biases and choose(False, True) else None
        self.h0 = arrays("h0", *rows, H, within=True) if choose(False, True) else None
        self.drive = arrays("drive", T, *rows, H) if drives and choose(False, False, True) else None
        self.rows = 1 if B is None else B

    def finish(self):
        """After all arrays are drawn: the dtype of results, and the exact arrays."""
        _T, _B, _I, H = self.shape
        arrays = self.arrays
        self.dtype = arrays.result_dtype()
        # The reference multiplies 0 by NaN where the package takes 0: the slope of relu, and what is passed back from
        # steps that do not exist.
        multiplies_zero = self.cell.nonlinearity in ("relu", "retanh") or not self.steps.exists.all()
        self.bounds = Bounds(self.dtype, arrays.magnitude == "nan" and not multiplies_zero)
        self.eX = self.batched(self.x)
        self.eU, self.eW, self.eb = exact(self.U), exact(self.W), exact(self.b)
        self.eh0 = np.zeros((self.rows, H)) if self.h0 is None else exact(self.h0).reshape(self.rows, H)
        self.edrive = None if self.drive is None else self.batched(self.drive)
        self.ecell = rounded(self.cell, self.dtype)
        return self

    def batched(self, a):
        return exact(a).reshape(self.shape[0], self.rows, np.shape(a)[-1])

    def forward(self, **options):
        """h and the rates, [T, (B,) H] of the package, without checks."""
        rates = None
        if self.cell.alpha is not None:
            rates = np.empty((*self.x.shape[:-1], self.shape[3]), self.dtype)
        given = {"cell": self.cell} | self.steps.options() | options
        h = pyrnn.forward(self.x, self.U, self.W, self.b, self.h0, drive=self.drive, rates=rates, **given)
        return h, rates

    def forward_exact(self):
        """h and the rates as the package computes them, and exact, with a batch axis."""
        h, rates = self.forward()
        return h, rates, self.batched(h), None if rates is None else self.batched(rates)

    def network(self, V=None, c=None):
        return pyrnn.Network(self.U, self.W, self.b, V, c, cell=self.cell)

    def trajectory(self, h, rates):
        """A trajectory as an argument: simulated once more, or of h and the rates in some layout."""
        choose, given = self.choose, self.steps.options() | {"drive": self.drive}
        if choose(False, True):
            return pyrnn.simulate(self.network(), self.x, self.h0, **given)
        h, rates = passed_on(self, h, "h", choose), passed_on(self, rates, "rates", choose)
        rates = with_rates(self, rates, choose)
        return pyrnn.Trajectory.of(self.network(), h, self.x, self.h0, rates=rates, **given)

    def exact_trajectory(self, h, rates):
        """The same with a batch axis and of exact arrays, for the reference."""
        steps = self.steps
        lengths = None if steps.lengths is None else np.asarray(steps.lengths).astype(np.intp).reshape(-1)
        mask = None if steps.mask is None else steps.exists
        network = pyrnn.Network(self.eU, self.eW, self.eb, cell=self.ecell)
        rates = h if self.cell.alpha is None else reference.phi_of(self.cell)(h) if self.cell.current else rates
        return pyrnn.Trajectory(network, self.eX, self.eh0, h, rates, self.edrive, lengths, mask, steps.reverse)


def check_forward(net, h, rates, name="h"):
    """h and rates against one step of the reference from each state."""
    T, _B, I, H = net.shape
    bounds, cell, exists = net.bounds, net.ecell, net.steps.exists
    f, eps = bounds.floor, bounds.eps
    actual = h.reshape(T, net.rows, H)
    eh = actual.astype(np.float64)
    prev = net.steps.previous(eh, net.eh0)
    x = np.where(exists[..., np.newaxis], net.eX, 0)
    N, phi = T * net.rows, reference.phi_of(net.cell)
    flat = lambda a, n: None if a is None else a.reshape(1, N, n)
    r1 = np.empty((1, N, H))
    expected = reference.forward(
        flat(x, I), net.eU, net.eW, net.eb, prev.reshape(N, H), drive=flat(net.edrive, H), mask=exists.reshape(1, N),
        rates=r1, cell=cell,
    ).reshape(T, net.rows, H)  # fmt: skip
    er = r1.reshape(T, net.rows, H)
    fed = phi(prev) if net.cell.current else prev
    S = absolute(fed, f) @ absolute(net.eW, f).T + absolute(x, f) @ absolute(net.eU, f).T + f
    for term in (net.eb, net.edrive):
        if term is not None:
            S += np.abs(term)
    n = H + I + 8
    error = n * eps * S
    r_error = None
    if net.cell.alpha is None:
        error = error + 2 * eps * np.abs(expected)
        if net.cell.nonlinearity == "tanh":
            error = np.minimum(error, 2)
    else:
        alpha = np.abs(cell.alpha)
        old, new = np.abs(1 - cell.alpha) * np.abs(prev), er
        if net.cell.current:
            new = np.abs(expected) + old  # alpha a
            error = alpha * error + 4 * eps * (old + new + f)
            r_error = error + 2 * eps * np.abs(er) + bounds.tiny
            S = S * np.maximum(alpha, 1) + old
        else:
            r_error = error + 2 * eps * np.abs(er)
            error = alpha * r_error + 4 * eps * (old + alpha * np.abs(new) + f)
            S = S * np.maximum(alpha, 1) + old
    some = np.broadcast_to(exists[..., np.newaxis], expected.shape)
    if net.steps.lengths is not None:
        expected = np.where(some, expected, 0)
    error = np.where(some, error, 0)
    bounds.check(name, actual, expected, error, np.where(some, S, 0))
    if rates is not None:
        r_error, er = np.where(some, r_error, 0), np.where(some, er, 0)
        bounds.check(f"rates of {name}", rates.reshape(T, net.rows, H), er, r_error, np.where(some, S, 0))


def lost_slopes(nonlinearity, r, bounds):
    """1 where the slope may be that below or above 0, since r is so small that it may count as 0."""
    return (np.abs(r) <= bounds.tiny) & (r != 0) if nonlinearity in KINKED else 0.0


def moved_slopes(nonlinearity, r, slopes):
    """By how much the rounding of r may move phi', in parts of it: 2 r² of 1 - r²."""
    if nonlinearity == "softplus":
        return slopes
    return r * r if nonlinearity in ("tanh", "retanh", "sigmoid") else 0.0


class Through:
    """Gradients by the reference, each with the bound of its error, which is carried back through time beside it."""

    def __init__(self, bounds, dh, h, x, U, W, h0, cell, steps, rates=None, dh_error=0.0, drates=None):
        """All arrays exact, with a batch axis; rates as `backward` reads them; drates: of a cell with a leak."""
        T, B, H = h.shape
        I, f, eps, exists = x.shape[2], bounds.floor, bounds.eps, steps.exists[..., np.newaxis]
        phi, slope = reference.phi_of(cell), reference.slope_of(cell)
        alpha, current = cell.alpha, cell.current
        lengths, reverse = steps.lengths, steps.reverse
        lengths = None if lengths is None else np.asarray(lengths).astype(np.intp).reshape(-1)
        mask = None if steps.mask is None else steps.exists
        network = pyrnn.Network(U, W, cell=cell)
        run = pyrnn.Trajectory(network, x, h0, h, rates, x, lengths, mask, reverse)  # with the gradient of a drive
        self.gradients = reference.backward_of(run, dh, 0 if drates is None else drates)
        scale, keep = (1.0, 0.0) if alpha is None else (np.abs(alpha), np.abs(1 - alpha))
        prev = steps.previous(h, h0)
        fed = np.abs(phi(prev)) if current else np.abs(prev)
        r = phi(prev) if current else h if alpha is None else rates
        slopes = np.abs(slope(r))
        d_slopes = (8 * eps * moved_slopes(cell.nonlinearity, r, slopes) if current else 0.0) + 2 * eps * slopes
        d_slopes += lost_slopes(cell.nonlinearity, r, bounds)
        aW, aU = absolute(W, f), absolute(U, f)
        large = lambda a: np.where(a > bounds.most, np.inf, a)
        G, E, D, ED = (np.empty((T, B, H)) for _ in range(4))
        later, e_later = np.zeros((B, H)), np.zeros((B, H))
        direct = np.abs(np.where(exists, dh, 0) if steps.lengths is not None else dh) + f
        # What arrives at the rates, as it arrives at the states of currents, or else at a_t.
        sent, e_sent = np.zeros(h.shape), np.zeros(h.shape)
        if drates is not None:
            r = phi(h) if current else rates
            s = np.abs(slope(r))
            sent = np.where(exists, s * np.abs(drates) + f, 0)
            e_sent = 8 * eps * moved_slopes(cell.nonlinearity, r, s) if current else 0.0
            e_sent = e_sent + 8 * eps * s + bounds.tiny
            e_sent = (e_sent + lost_slopes(cell.nonlinearity, r, bounds)) * np.abs(drates)
            e_sent = np.where(exists, e_sent + 2 * eps * direct, 0)
            if current:
                direct, dh_error, sent, e_sent = direct + sent, dh_error + e_sent, 0 * sent, 0 * e_sent
        direct, sent = large(direct), large(sent)
        dh_error = np.broadcast_to(dh_error, h.shape)
        for t in range(T) if reverse else range(T - 1, -1, -1):
            g = G[t] = large(direct[t] + later)
            e = E[t] = dh_error[t] + e_later + 2 * eps * g
            if current:
                d, e_d = scale * g, scale * e + 2 * eps * scale * g
                W_d = large(d @ aW)
                past = slopes[t] * (W_d + f)
                e_past = slopes[t] * (e_d @ aW + (H + 4) * eps * W_d) + d_slopes[t] * W_d
            else:
                d = large(scale * slopes[t] * g + sent[t] + f)
                e_d = scale * (slopes[t] * e + d_slopes[t] * g) + e_sent[t] + 3 * eps * d
                past = (d + f) @ aW
                e_past = e_d @ aW + (H + 6) * eps * past
            # Each of the two products and their sum may be lost among the smallest numbers: f stands for these.
            past, e_past = past + keep * g, e_past + keep * e + 4 * eps * (past + keep * g + f)
            D[t], ED[t] = np.where(exists[t], d, 0), np.where(exists[t], e_d, 0)
            later, e_later = large(np.where(exists[t], past, g)), np.where(exists[t], e_past, e)
        N = T * B + 8
        self.limits, self.errors, self.floor = {}, {}, f
        # 0 also where U has NaN.
        self.gradients = self.gradients._replace(x=np.where(exists, self.gradients.x, 0))
        self.put("x", (D + f) @ aU, ED @ aU, (H + 6) * eps)
        ax = np.where(exists, np.abs(x), 0) + f
        D2, E2, ax2 = D.reshape(T * B, H), ED.reshape(T * B, H), ax.reshape(T * B, I)
        self.put("U", D2.T @ ax2, E2.T @ ax2, N * eps)
        feds = (fed + f).reshape(T * B, H)
        self.put("W", D2.T @ feds, E2.T @ feds, (N + 4) * eps)
        self.put("b", D2.sum(axis=0) + f, E2.sum(axis=0), N * eps)
        self.put("h0", later, e_later, eps)
        self.put("drive", D, ED, eps)
        self.put("h", G, E, eps)
        if alpha is not None:
            moved = np.abs(prev) + (np.abs(rates) if not current else np.abs(h)) + f
            moved = np.where(exists, moved / scale if current else moved, 0)
            each, error = (G * moved).sum(axis=(0, 1)), (E * moved).sum(axis=(0, 1))
            if np.ndim(alpha) == 0:
                each, error = each.sum(), error.sum()
            self.put("alpha", each, error, (N + H + 8) * eps)
        self.D, self.ED, self.ax, self.feds, self.N = D, ED, ax, feds, N

    def put(self, name, limit, error, relative):
        limit = limit + self.floor
        self.limits[name], self.errors[name] = limit, error + relative * limit

    def check(self, bounds, name, actual, before=None):
        """Check one gradient; before: what it was added to, exact."""
        expected, limit, error = getattr(self.gradients, name), self.limits[name], self.errors[name]
        if name == "alpha":
            expected = np.asarray(expected)
        if before is not None:
            before = np.reshape(before, expected.shape)
            expected, limit = expected + before, limit + np.abs(before)
            error = error + 2 * bounds.eps * limit
        if isinstance(actual, np.ndarray) and actual.size == expected.size:
            actual = actual.reshape(expected.shape)
        bounds.check(f"gradient of {name}", actual, expected, error, limit)


# ---- The checks, one for each function ------------------------------------------------------------------------------
def with_engine(choose):
    """Which engine, how many threads, which instruction set, and chunks of how many bytes."""
    if choose(False, False, False, True):
        table.select(choose(*SETS))
    if choose(False, True):
        calls.set_chunk_bytes(choose(1, 64, 256, 1024, 8192))
    return choose(FUSED, BLAS, AUTO), choose(1, None, 2, 3)


def refused(call, arrays, error, out):
    """Check that a call raises this error and writes nothing."""
    before = [a.tobytes() for a in out]
    try:
        call()
    except error:
        pass
    else:
        raise Wrong("out overlaps an input and is accepted")
    if before != [a.tobytes() for a in out]:
        raise Wrong("a call that was refused has written to out")
    arrays.check_unchanged()


def new_out(choose, arrays, shape, dtype):
    """An array to write to: of NaN, in some layout."""
    a = WRITEABLE[choose(*WRITEABLE_NAMES)](np.full(shape, np.nan, dtype))
    return a


def forward(choose):
    net = Network(choose).finish()
    arrays, steps = net.arrays, net.steps
    _T, B, I, H = net.shape
    shape = (*net.x.shape[:-1], H)
    inside, n_threads = with_engine(choose)
    options = {"cell": net.cell, "n_threads": n_threads} | steps.options()
    rates = out = None
    if net.cell.alpha is not None and choose(True, True, False):
        rates = new_out(choose, arrays, shape, net.dtype)
    if choose(False, True):
        out = new_out(choose, arrays, shape, net.dtype)
    call = lambda **more: inside.forward(
        net.x, net.U, net.W, net.b, net.h0, drive=net.drive, **options | {"rates": rates, "out": out} | more
    )
    h = call()
    if out is not None and h is not out:
        raise Wrong("forward returns something else than out")
    arrays.check_unchanged()
    if out is None:
        check_own_memory([("h", h)], arrays)
    if not isinstance(h, np.ndarray) or h.shape != shape or h.dtype != net.dtype:
        raise Wrong(f"h is {h.shape} {h.dtype}, not {shape} {net.dtype}")
    check_forward(net, h, rates)
    if choose(False, False, False, True) and h.size and I and net.x.dtype == net.dtype:
        overlapping = choose("x", "rates", "h0")
        if overlapping == "x" and net.x.flags.writeable and net.x.shape[-1] == H:
            refused(lambda: call(out=net.x), arrays, ValueError, [net.x])
        elif overlapping == "rates" and rates is not None:
            refused(lambda: call(out=rates), arrays, ValueError, [rates])
        elif overlapping == "h0" and net.x.flags.writeable and B is not None and I >= H:
            part = net.x[..., :H]
            refused(lambda: call(out=part), arrays, ValueError, [part])
    return net, h, rates, options


def with_rates(net, rates, choose):
    """The rates as an argument; not always in the current form, where they are phi(h), and only if exactly that."""
    if rates is None or (net.cell.current and (rates.dtype != net.dtype or choose(False, True))):
        return None
    return rates


def passed_on(net, a, name, choose):
    """A result as an argument of another function, in some layout."""
    if net.arrays.plain or a is None:
        return a
    if choose(False, True):
        name_of = choose(*LAYOUT_NAMES)
        if name_of.startswith("broadcast"):
            return a
        a = LAYOUTS[name_of](a)
        memory = helpers.memory(a)
    else:
        memory = a
    net.arrays.watched.append((name, memory, memory.tobytes()))
    return a


def states_for(net, choose):
    """h and the rates of a forward pass, as arguments in some layout, and exact; with a dh."""
    h, rates = net.forward()
    eh, erates = net.batched(h), None if rates is None else net.batched(rates)
    dh = net.arrays.numbers.standard_normal(h.shape)
    if net.arrays.magnitude != "ordinary":
        dh = net.arrays._of_magnitude(dh, False)
    if net.steps.lengths is not None:
        dh = net.steps.poison(dh)
    dh = net.arrays.pass_on("dh", dh)
    h, rates = passed_on(net, h, "h", choose), passed_on(net, rates, "rates", choose)
    net.finish()
    return dh, h, rates, eh, erates


def through(net, dh, eh, erates, **more):
    edh = net.batched(dh)
    return Through(net.bounds, edh, eh, net.eX, net.eU, net.eW, net.eh0, net.ecell, net.steps, erates, **more)


def simulate(choose):
    """simulate, and gradients of what arrives at its states, at its rates, or at both."""
    net = Network(choose).finish()
    arrays, cell, steps = net.arrays, net.cell, net.steps
    inside, n_threads = with_engine(choose)
    options = {"n_threads": n_threads}
    run = inside.simulate(net.network(), net.x, net.h0, drive=net.drive, **steps.options(), **options)
    arrays.check_unchanged()
    leaky = cell.alpha is not None
    if not leaky and run.rates is not run.h:
        raise Wrong("without a leak the rates are not the states")
    check_own_memory([("h", run.h), ("rates", run.rates)][: 1 + leaky], arrays)
    h, rates = run.h, run.rates if leaky else None
    check_forward(net, h, rates)
    eh, erates = net.batched(h), None if rates is None else net.batched(rates)
    given = {}
    for name in choose(("dh",), ("drates",), ("dh", "drates")):
        a = arrays.numbers.standard_normal(h.shape)
        if arrays.magnitude != "ordinary":
            a = arrays._of_magnitude(a, False)
        if steps.lengths is not None or (leaky and name == "drates"):
            a = steps.poison(a)
        given[name] = arrays.pass_on(name, a)
    net.finish()
    if net.dtype != h.dtype:  # of what arrives, and rates as they were rounded
        net.bounds = Bounds(net.dtype, net.bounds.nan, h.dtype)
    wanted = choose(True, True, False)
    g = inside(run.backward)(given.get("dh"), given.get("drates"), x_gradient=wanted, **options)
    arrays.check_unchanged()
    if (g.x is None) == wanted or (g.drive is None) != (net.drive is None) or (g.alpha is None) == leaky:
        raise Wrong("a gradient is missing, or there is one too many")
    named = [(name, getattr(g, name)) for name in FIELDS if getattr(g, name) is not None]
    check_own_memory(named, arrays)
    edh, edrates = (net.batched(given[name]) if name in given else np.zeros(eh.shape) for name in ("dh", "drates"))
    more = {"drates": edrates} if leaky and "drates" in given else {}
    error = 0.0
    if not leaky:
        error = 2 * net.bounds.eps * (np.abs(edh) + np.abs(edrates))
        edh = edh + edrates
    t = through(net, edh, eh, erates, dh_error=error, **more)
    for name, a in named:
        t.check(net.bounds, name, np.asarray(a))
        if name in ("x", "drive") and not steps.exists.all():
            check_zero(name, a.reshape(*steps.exists.shape, a.shape[-1])[~steps.exists])
    if not more and inside is FUSED and net.dtype == h.dtype:
        conformed = [None if a is None else np.array(a, h.dtype) for a in (net.x, net.U, net.W, net.h0, net.drive)]
        x, U, W, h0, drive = conformed
        options |= {"cell": cell, "drive": drive, "rates": rates, "x_gradient": wanted} | steps.options()
        sent = [np.asarray(a, h.dtype) for a in given.values()]
        expected = FUSED.backward(sum(sent[1:], start=sent[0]), h, x, U, W, h0, **options)
        for name in FIELDS:
            same_bits(f"gradient of {name}", getattr(g, name), getattr(expected, name))


def backward(choose):
    net = Network(choose).finish()
    dh, h, rates, eh, erates = states_for(net, choose)
    arrays, cell = net.arrays, net.cell
    inside, n_threads = with_engine(choose)
    options = {"cell": cell, "n_threads": n_threads} | net.steps.options()
    options |= {"rates": with_rates(net, rates, choose), "drive": net.drive}
    wanted = choose(True, True, False)
    call = lambda **more: inside.backward(dh, h, net.x, net.U, net.W, net.h0, **options, x_gradient=wanted, **more)
    out = None
    if choose(False, False, True):
        _T, _B, I, H = net.shape
        shapes = {"x": net.x.shape, "U": (H, I), "W": (H, H), "b": (H,), "h0": np.shape(h)[1:], "drive": np.shape(h)}
        of = {name: arrays.numbers.standard_normal(shape).astype(net.dtype) for name, shape in shapes.items()}
        if not arrays.plain:
            of = {name: WRITEABLE[choose(*WRITEABLE_NAMES)](a) for name, a in of.items()}
        of["alpha"] = net.dtype.type(0.5) if np.ndim(cell.alpha) == 0 else np.full(H, 0.5, net.dtype)
        absent = {"x": not wanted, "drive": net.drive is None, "alpha": cell.alpha is None}
        out = pyrnn.Gradients(**{name: None if absent.get(name) else a for name, a in of.items()})
        if choose(False, False, False, True) and h.size:
            name = choose("W", "U", "h0", "dh", "h")
            given = {"W": net.W, "U": net.U, "h0": net.h0, "dh": dh, "h": h}[name]
            field = {"dh": "drive", "h": "drive"}.get(name, name)
            fits = isinstance(given, np.ndarray) and given.size and given.dtype == net.dtype
            if fits and given.flags.writeable and getattr(out, field) is not None:
                bad = out._replace(**{field: given})
                written = [a for a in bad if isinstance(a, np.ndarray)]
                refused(lambda: call(out=bad), arrays, ValueError, written)
    g = call() if out is None else call(out=out)
    arrays.check_unchanged()
    if out is not None and any(getattr(g, n) is not getattr(out, n) for n in FIELDS[:6]):
        raise Wrong("backward does not return the arrays of out")
    if (g.x is None) == wanted or (g.drive is None) != (net.drive is None) or (g.alpha is None) != (cell.alpha is None):
        raise Wrong("a gradient is missing, or there is one too many")
    named = [(name, getattr(g, name)) for name in FIELDS if getattr(g, name) is not None]
    if out is None:
        check_own_memory(named, arrays)
    t = through(net, dh, eh, erates)
    for name, a in named:
        a = np.asarray(a)
        if name in ("x", "drive", "h0"):
            a = a.reshape(*(net.shape[:1] if name != "h0" else ()), net.rows, a.shape[-1])
        t.check(net.bounds, name, a)
        if name in ("x", "drive") and not net.steps.exists.all():
            check_zero(name, a[~net.steps.exists])
    if net.dtype != np.asarray(g.U).dtype:
        raise Wrong("wrong dtype")
    return net, dh, h, rates, options, g


def state_gradients(choose):
    net = Network(choose).finish()
    dh, h, rates, eh, erates = states_for(net, choose)
    types = [a.dtype for a in (dh, h, net.W)]
    with_engine(choose)
    options = {"cell": net.cell, "rates": with_rates(net, rates, choose)} | net.steps.options()
    g = pyrnn.state_gradients(dh, h, net.W, **options)
    net.arrays.check_unchanged()
    check_own_memory([("grad_h", g)], net.arrays)
    bounds = Bounds(np.result_type(np.float32, *types), net.bounds.nan)
    t = through(net, dh, eh, erates)
    lengths = net.steps.lengths
    expected = reference.state_gradients(
        net.batched(dh), eh, net.eW, cell=net.ecell, rates=erates, reverse=net.steps.reverse,
        lengths=None if lengths is None else np.asarray(lengths).astype(np.intp).reshape(-1),
        mask=None if net.steps.mask is None else net.steps.exists,
    )  # fmt: skip
    limit, error = t.limits["h"], t.errors["h"]
    bounds.check("grad_h", g.reshape(expected.shape), expected, error, limit)


def direction_for(net, choose, h):
    """Some of the fields of a direction, by name, as arguments."""
    T, _B, I, H = net.shape
    rows = np.shape(h)[1:-1]
    shapes = ((T, *rows, I), (H, I), (H, H), (H,), (*rows, H), (T, *rows, H), (H,))
    dots = {}
    for name, shape in zip(FIELDS, shapes, strict=True):
        if name == "alpha":
            if net.cell.alpha is None or not choose(False, True):
                continue
            if np.ndim(net.cell.alpha) == 0:
                dots[name] = choose(1.0, -0.5)
                continue
        elif not choose(False, True):
            continue
        dots[name] = net.arrays(name, *shape)
        if name == "alpha":  # whose dtype does not count
            net.arrays.types.pop()
    net.finish()
    return dots


def exact_dots(net, dots):
    """The same exact, with a batch axis and zeros for what is not there."""
    T, _B, I, H = net.shape
    shapes = ((T, net.rows, I), (H, I), (H, H), (H,), (net.rows, H), (T, net.rows, H), ())
    result = {}
    for name, shape in zip(FIELDS, shapes, strict=True):
        a = dots.get(name)
        result[name] = np.zeros(shape) if a is None else exact(a)
        if name != "alpha":
            result[name] = result[name].reshape(shape)
    return result


def bounds_of(net, run):
    """The bounds of a call with this trajectory, whose rates may have been rounded to less."""
    narrower = run.h.dtype != net.dtype
    return Bounds(net.dtype, net.bounds.nan, run.h.dtype) if narrower else net.bounds


def jvp(choose):
    net = Network(choose).finish()
    h, rates, eh, erates = net.forward_exact()
    run = net.trajectory(h, rates)
    dots = direction_for(net, choose, h)
    with_engine(choose)
    h_dot = pyrnn.jvp(run, pyrnn.Direction(**dots))
    net.arrays.check_unchanged()
    check_own_memory([("h_dot", h_dot)], net.arrays)
    if h_dot.shape != h.shape:
        raise Wrong(f"h_dot has shape {h_dot.shape}, not {h.shape}")
    net.bounds = bounds_of(net, run)
    T, _B, I, H = net.shape
    bounds, cell, steps, N = net.bounds, net.ecell, net.steps, T * net.rows
    d = exact_dots(net, dots)
    bounds.nan = False  # the reference multiplies NaN by the zeros that stand for directions that are not there
    f, eps, exists = bounds.floor, bounds.eps, steps.exists[..., np.newaxis]
    phi, slope = reference.phi_of(cell), reference.slope_of(cell)
    actual = h_dot.reshape(T, net.rows, H)
    state, prev = steps.previous(exact(actual), d["h0"]), steps.previous(eh, net.eh0)
    x, x_dot = np.where(exists, net.eX, 0), np.where(exists, d["x"], 0)
    flat = lambda a, n: a.reshape(1, N, n)
    network = pyrnn.Network(net.eU, net.eW, net.eb, cell=cell)
    each = pyrnn.Trajectory(
        network, flat(x, I), prev.reshape(N, H), flat(eh, H), flat(eh if erates is None else erates, H),
        mask=exists.reshape(1, N),
    )  # fmt: skip
    moved = d | {"x": flat(x_dot, I), "h0": state.reshape(N, H), "drive": flat(d["drive"], H)}
    expected = reference.jvp(each, pyrnn.Direction(**moved)).reshape(actual.shape)
    if steps.lengths is not None:
        expected = np.where(exists, expected, 0)
    # The same with absolute values.
    alpha, current = cell.alpha, net.cell.current
    fed = np.abs(phi(prev) if current else prev) + f
    sent = np.abs(state) + f
    aW = absolute(net.eW, f)
    direct = absolute(x_dot, f) @ absolute(net.eU, f).T + absolute(x, f) @ absolute(d["U"], f).T
    direct += fed @ absolute(d["W"], f).T + np.abs(d["b"]) + np.abs(d["drive"]) + f
    n = 2 * H + 2 * I + 10
    if current:
        r = phi(prev)
        slopes = np.abs(slope(r))
        d_slopes = 8 * eps * moved_slopes(cell.nonlinearity, r, slopes) + 2 * eps * slopes
        d_slopes += lost_slopes(cell.nonlinearity, r, bounds)
        limit = direct + (slopes * sent) @ aW.T
        error = n * eps * limit + (d_slopes * sent) @ aW.T
    else:
        r = eh if alpha is None else erates
        slopes = np.abs(slope(r))
        limit = direct + sent @ aW.T
        error = slopes * n * eps * limit + 3 * eps * slopes * limit + bounds.tiny
        error = error + lost_slopes(cell.nonlinearity, r, bounds) * limit
        limit = np.maximum(limit, slopes * limit)
    if alpha is not None:
        scale, keep, turned = np.abs(alpha), np.abs(1 - alpha), np.abs(d["alpha"])
        moved = np.abs(prev) + (np.abs(eh) / scale if current else np.abs(erates)) + f
        moved = moved + np.abs(prev) / scale if current else moved
        error = scale * error + 6 * eps * (keep * sent + scale * limit + turned * moved)
        limit = np.maximum(limit, keep * sent + scale * limit + turned * moved)
    error, limit = np.where(exists, error, 0), np.where(exists, limit, 0)
    bounds.check("h_dot", actual, expected, error, limit)


def backward_jvp(choose):
    which = ("none",)
    kinds = ("ordinary", "ordinary", "ordinary", "scales", "nan")
    net = Network(choose, which=which, magnitudes=kinds).finish()
    dh, h, rates, eh, erates = states_for(net, choose)
    run = net.trajectory(h, rates)
    dots = direction_for(net, choose, h)
    dh_dot = net.arrays("dh_dot", *np.shape(h)) if choose(False, True) else None
    net.finish()
    with_engine(choose)
    wanted = choose(True, False)
    g = pyrnn.backward_jvp(run, dh, pyrnn.Direction(**dots), dh_dot=dh_dot, x_gradient=wanted)
    net.arrays.check_unchanged()
    named = [(name, getattr(g, name)) for name in FIELDS if getattr(g, name) is not None]
    check_own_memory(named, net.arrays)
    if (g.x is None) == wanted or (g.drive is None) != (net.drive is None and "drive" not in dots):
        raise Wrong("a gradient is missing, or there is one too many")
    net.bounds = bounds = bounds_of(net, run)
    T, _B, I, H = net.shape
    d = exact_dots(net, dots)
    d["dh"] = np.zeros(eh.shape) if dh_dot is None else net.batched(dh_dot)
    given = {name: a for name, a in d.items() if name != "dh" and (name != "alpha" or name in dots)}
    exact_run = net.exact_trajectory(eh, erates)
    expected = reference.backward_jvp(exact_run, net.batched(dh), pyrnn.Direction(**given), dh_dot=d["dh"])
    # The same with absolute values; what is carried forward and back multiplies errors, so the longest chain counts.
    # The complex step of the reference, 1e-30, has an error of its square, and its slope (1 - r) (1 + r) one of r_dot.
    bounds.nan = False
    limits = second_order_limits(net, net.batched(dh), eh, erates, d)
    count = (2 * T + 4) * (2 * H + 2 * I + 12) + T * net.rows + H
    for name, a in named:
        e = np.asarray(getattr(expected, name))
        if isinstance(a, np.ndarray) and a.size == e.size:
            a = a.reshape(e.shape)
        bounds.check(f"tangent of {name}", a, e, count * bounds.eps * limits[name] + 1e-40, limits[name])


def second_order_limits(net, dh, h, rates, d):
    """Sums of absolute values for the tangent of each gradient."""
    T, _B, _I, _H = net.shape
    f, cell, steps = net.bounds.floor, net.ecell, net.steps
    a = {name: np.abs(v) + f for name, v in d.items()}
    alpha, current = cell.alpha, cell.current
    scale, keep = (1.0, 0.0) if alpha is None else (np.abs(alpha), np.abs(1 - alpha))
    turned = 0.0 if alpha is None else np.abs(d["alpha"])
    phi, slope = reference.phi_of(cell), reference.slope_of(cell)
    prev = steps.previous(h, net.eh0)
    fed, r_prev = (np.abs(phi(prev)) if current else np.abs(prev)) + f, phi(prev)
    # Rounding of r moves 1 - r² by up to 2 r²: it counts as part of the slope.
    if cell.nonlinearity == "tanh":
        slope_at = lambda r: 1 + r * r
    else:
        slope_at = lambda r: (s := np.abs(slope(r))) + moved_slopes(cell.nonlinearity, r, s)
    bent = cell.nonlinearity in ("tanh", "retanh", "sigmoid", "softplus")  # |phi''/phi'| <= 2 |r| + 1
    r = phi(h) if current else h if alpha is None else rates
    slopes, bend = slope_at(r), (2 * np.abs(r) + 1 if bent else 0 * r)
    slopes_prev, bend_prev = slope_at(r_prev), (2 * np.abs(r_prev) + 1 if bent else 0 * r_prev)
    aU, aW, ax, adh = np.abs(net.eU) + f, np.abs(net.eW) + f, np.abs(net.eX) + f, np.abs(dh) + f
    order = list(range(T))[::-1] if steps.reverse else list(range(T))
    S = np.empty(h.shape)  # of h_dot before each step
    R = np.empty(h.shape)  # of the tangent of what W multiplies in a step
    Rr = np.empty(h.shape)  # of r_dot
    state = a["h0"]
    moved = np.abs(prev) + (np.abs(h) if current else np.abs(r)) + f
    moved = moved / scale if current else moved
    for t in order:
        S[t] = state
        R[t] = slopes_prev[t] * state if current else state
        A = a["b"] + a["drive"][t] + a["x"][t] @ aU.T + ax[t] @ a["U"].T
        A = A + fed[t] @ a["W"].T + R[t] @ aW.T
        Rr[t] = A if current else slopes[t] * A
        state = (Rr[t] if alpha is None else scale * Rr[t] + turned * moved[t]) + keep * state
    G, Gd, D, Dd = (np.empty(h.shape) for _ in range(4))
    later, later_d = np.zeros(h.shape[1:]), np.zeros(h.shape[1:])
    for t in order[::-1]:
        G[t], Gd[t] = adh[t] + later, a["dh"][t] + later_d
        if current:
            D[t], Dd[t] = scale * G[t], scale * Gd[t] + turned * G[t]
            through, through_d = D[t] @ aW, Dd[t] @ aW + D[t] @ a["W"]
            bent = bend_prev[t] * slopes_prev[t] * S[t] * through
            through, through_d = slopes_prev[t] * through, slopes_prev[t] * through_d + bent
        else:
            D[t] = scale * slopes[t] * G[t]
            Dd[t] = scale * (slopes[t] * Gd[t] + bend[t] * Rr[t] * G[t]) + turned * slopes[t] * G[t]
            through, through_d = D[t] @ aW, Dd[t] @ aW + D[t] @ a["W"]
        later, later_d = through + keep * G[t], through_d + keep * Gd[t] + turned * G[t]
    rows = lambda v: v.reshape(T * net.rows, v.shape[-1])
    limits = {
        "x": Dd @ aU + D @ a["U"],
        "U": rows(Dd).T @ rows(ax) + rows(D).T @ rows(a["x"]),
        "W": rows(Dd).T @ rows(fed) + rows(D).T @ rows(R),
        "b": rows(Dd).sum(axis=0),
        "h0": later_d,
        "drive": Dd,
    }
    if alpha is not None:
        change = (Rr + S * 2 + turned * moved) if not current else (2 * Rr + 2 * S + 2 * moved * (1 + turned)) / scale
        each = (Gd * moved + G * change).sum(axis=(0, 1)) + 0 * turned
        if current:
            each = each + (G * moved * turned / scale).sum(axis=(0, 1))
        limits["alpha"] = each if np.ndim(alpha) else each.sum()
    return {name: v + f for name, v in limits.items()}


def per_sample_gradients(choose):
    net = Network(choose).finish()
    dh, h, rates, eh, erates = states_for(net, choose)
    run = net.trajectory(h, rates)  # may simulate once more, with the instruction set that made h: else its bits differ
    with_engine(choose)
    norms = choose(False, True)
    g = pyrnn.training.per_sample_gradients(run, dh, norms_only=norms)
    net.arrays.check_unchanged()
    check_own_memory(list(zip(g._fields, g, strict=True)), net.arrays)
    T, _B, I, H = net.shape
    net.bounds = bounds = bounds_of(net, run)
    t = through(net, dh, eh, erates)
    delta = t.gradients.drive
    prev = net.steps.previous(eh, net.eh0)
    fed = reference.phi_of(net.cell)(prev) if net.cell.current else prev
    of_rows = lambda a, b: np.einsum("tbh,tbi->bhi", a, b)
    feds = t.feds.reshape(eh.shape)
    parts = {
        "U": (
            of_rows(delta, np.where(net.steps.exists[..., np.newaxis], net.eX, 0)),
            of_rows(t.D, t.ax) + bounds.floor,
            of_rows(t.ED, t.ax),
        ),
        "W": (of_rows(delta, fed), of_rows(t.D, feds) + bounds.floor, of_rows(t.ED, feds)),
        "b": (delta.sum(axis=0), t.D.sum(axis=0) + bounds.floor, t.ED.sum(axis=0)),
    }
    for name, (expected, limit, error) in parts.items():
        actual = getattr(g, name)
        error = error + (T + 12) * bounds.eps * limit
        if not norms:
            bounds.check(f"gradients of {name}", actual.reshape(expected.shape), expected, error, limit)
            continue
        flat = lambda a: a.reshape(net.rows, math.prod(a.shape[1:]))
        square, most = (flat(expected) ** 2).sum(axis=1), (flat(limit) ** 2).sum(axis=1)
        # They may be products of squares, of which one overflows where the other is 0.
        squares_of = (np.square(a).sum(axis=(0, 2)) for a in (t.D, t.ax if name == "U" else feds))
        most = np.where(np.maximum(*squares_of) <= bounds.most, most, np.inf)
        # Products of steps with steps: the error of a square is that of a sum of T² products of H + I products each.
        actual = np.asarray(actual).reshape(square.shape)
        error = (flat(error) * flat(limit)).sum(axis=1) * 2 + (T * T + 4 * H * (H + I) + 8) * bounds.eps * most
        bounds_of_squares = Bounds(np.float64, bounds.nan)
        bounds_of_squares.most = bounds.most
        if actual.dtype != bounds.dtype:
            raise Wrong(f"norms have dtype {actual.dtype}, not {bounds.dtype}")
        small = np.sqrt(bounds.tiny) * 64  # a square below the smallest normal number is lost
        squares = actual.astype(np.float64) ** 2
        bounds_of_squares.check(f"squared norms of {name}", squares, square, error + small**2 * (T + 1) ** 2, most)


def jacobian(choose):
    net = Network(choose).finish()
    h, rates = net.forward()
    eh, erates = net.batched(h), None if rates is None else net.batched(rates)
    h, rates = passed_on(net, h, "h", choose), passed_on(net, rates, "rates", choose)
    with_engine(choose)
    cell = net.cell
    options = {"cell": cell, "rates": with_rates(net, rates, choose)} | net.steps.options()
    J = pyrnn.jacobian(h, net.W, net.h0, **options)
    net.arrays.check_unchanged()
    check_own_memory([("J", J)], net.arrays)
    _T, _B, _I, _H = net.shape
    bounds, steps = net.bounds, net.steps
    lengths = None if steps.lengths is None else np.asarray(steps.lengths).astype(np.intp).reshape(-1)
    mask = None if steps.mask is None else steps.exists
    more = {"lengths": lengths, "mask": mask, "reverse": steps.reverse, "rates": erates}
    expected = reference.jacobian(eh, net.eW, net.eh0, cell=net.ecell, **more)
    limit = jacobian_limits(net, eh, erates)
    error = 8 * bounds.eps * limit
    if cell.nonlinearity in KINKED:
        r = steps.previous(eh, net.eh0) if cell.current else eh if erates is None else erates
        lost = lost_slopes(cell.nonlinearity, r, bounds)
        lost = lost[..., np.newaxis, :] if cell.current else lost[..., np.newaxis]
        scale = 1.0 if cell.alpha is None else np.abs(np.broadcast_to(net.ecell.alpha, net.shape[3:]))[:, np.newaxis]
        error = error + lost * scale * np.abs(net.eW)
    bounds.check("J", J.reshape(expected.shape), expected, error, limit)


def jacobian_limits(net, eh, erates, slopes=None):
    """Sums of absolute values in each Jacobian; what rounding does to the slopes is a part of them."""
    H, cell = net.shape[3], net.ecell
    alpha, slope = cell.alpha, reference.slope_of(cell)
    f, one = net.bounds.floor, np.eye(H)
    scale = np.broadcast_to(1.0 if alpha is None else np.abs(alpha), (H,))[:, np.newaxis]
    keep = np.broadcast_to(0.0 if alpha is None else np.abs(1 - alpha), (H,))[:, np.newaxis]
    if net.cell.current:
        r = reference.phi_of(cell)(net.steps.previous(eh, net.eh0))
        s = np.abs(slope(r))
        s = s + moved_slopes(cell.nonlinearity, r, s)
        return keep * one + scale * ((np.abs(net.eW) + f) * (s + f)[..., np.newaxis, :]) + f
    if slopes is None:
        slopes = np.abs(slope(eh if alpha is None else erates))
    return keep * one + scale * ((slopes + f)[..., np.newaxis] * (np.abs(net.eW) + f)) + f


def products(choose):
    """The product of Jacobians, and its products with vectors."""
    kinds = ("ordinary", "ordinary", "ordinary", "scales", "nan")
    net = Network(choose, which=("none",), magnitudes=kinds).finish()
    h, rates, eh, erates = net.forward_exact()
    run = net.trajectory(h, rates)
    T, B, _I, H = net.shape
    of_sums = choose(False, False, True)
    what = choose("jacobian_product", "push", "pull")
    vectors = ()
    if what != "jacobian_product":
        k = choose(2, 1, 3, 0)
        shape = (k, H) if B is None or choose(False, True) else (B, k, H)
        vectors = (net.arrays("v", *shape),)
    net.finish()
    net.bounds, net.ecell = bounds_of(net, run), rounded(net.cell, h.dtype)  # alpha as the steps were made with it
    bounds, dtype = net.bounds, net.dtype
    with_engine(choose)
    start = choose(0, 0, *range(T + 1))
    stop = choose(None, *range(start, T + 1))
    actual = getattr(pyrnn.dynamics, what)(run, *vectors, start, stop, preactivations=of_sums)
    net.arrays.check_unchanged()
    check_own_memory([("mantissa", actual.mantissa), ("log_scale", actual.log_scale)], net.arrays)
    vector = [exact(v) for v in vectors]
    if vector and vector[0].ndim == 2:
        vector = [np.broadcast_to(vector[0], (net.rows, *vector[0].shape))]
    exact_run = net.exact_trajectory(eh, erates)
    expected = getattr(reference, what)(exact_run, *vector, start, stop, preactivations=of_sums).mantissa
    slopes = slopes_of_sums(net, exact_run) if of_sums and not net.cell.current else None
    limit = np.broadcast_to(np.eye(H), (net.rows, H, H))
    limits = jacobian_limits(net, eh, erates, slopes)
    for each in (limits[::-1] if net.steps.reverse else limits)[start:stop]:
        limit = each @ limit
    if what == "push":
        limit = (np.abs(vector[0]) + bounds.floor) @ limit.swapaxes(1, 2)
    elif vector:
        limit = (np.abs(vector[0]) + bounds.floor) @ limit
    mantissa, log_scale = np.asarray(actual.mantissa), np.asarray(actual.log_scale)
    if mantissa.dtype != dtype or log_scale.dtype != np.float64:
        raise Wrong(f"mantissa has dtype {mantissa.dtype}, not {dtype}")
    axes = (-2, -1) if what == "jacobian_product" else (-1,)
    largest = np.abs(mantissa).max(axis=axes, initial=0)
    if not (((largest >= 1) & (largest < 2)) | (largest == 0) | ~np.isfinite(largest)).all():
        raise Wrong(f"the largest of a mantissa is {largest}")
    if largest.shape != log_scale.shape:
        raise Wrong(f"log_scale has shape {log_scale.shape}, not {largest.shape}")
    # A scale is a power of two: taken as one, so that exp does not add an error of its own.
    with np.errstate(all="ignore"):
        powers = np.clip(np.nan_to_num(np.rint(log_scale / np.log(2))), -5000, 5000).astype(int)
    value = np.ldexp(mantissa.astype(np.float64), powers[(..., *[np.newaxis] * len(axes))])
    wide = Bounds(np.float64)
    wide.most = 1e290
    error = (T * (H + 12) + 12) * bounds.eps * limit
    # Numbers more than the range of the type below the largest one of their vector are lost.
    scale_of = np.nan_to_num(np.abs(value)).max(axis=axes, initial=0, keepdims=True)
    error = error + bounds.tiny * scale_of.reshape(expected.shape[0], *scale_of.shape[-2:])
    wide.check(what, value.reshape(expected.shape), expected, error, limit)


def sums_of(net, eh):
    """Return the sums of absolute values behind each pre-activation, and the bound of its error."""
    bounds, prev = net.bounds, net.steps.previous(eh, net.eh0)
    f, fed = bounds.floor, reference.phi_of(net.cell)(prev) if net.cell.current else prev
    limit = absolute(fed, f) @ absolute(net.eW, f).T + absolute(net.eX, f) @ absolute(net.eU, f).T + f
    for term in (net.eb, net.edrive):
        if term is not None:
            limit += np.abs(term)
    return limit, (net.shape[2] + net.shape[3] + 8) * bounds.eps * limit


def slopes_of_sums(net, exact_run):
    """phi' of the pre-activations, with 1/eps of what the rounding of those may add to it.

    The product of (A_t + eps E_t) is at most eps times that of (A_t + E_t) above the product of A_t.
    """
    a, cell = reference.preactivations(exact_run), net.cell
    _, error = sums_of(net, exact_run.h)
    slopes = np.abs(reference.SLOPES_AT.get(cell.nonlinearity, reference.slope_of(cell))(a))
    more = (np.abs(a) <= error) & (cell.nonlinearity in KINKED)
    if cell.nonlinearity in reference.SLOPES_AT:  # |d log sech²(a)| <= 2, of the others 1
        more = more + np.minimum(1, slopes * np.expm1(2 * error))
    return slopes + more / net.bounds.eps


def preactivations(choose):
    net = Network(choose, which=("none",)).finish()
    h, rates, eh, erates = net.forward_exact()
    a = pyrnn.dynamics.preactivations(net.trajectory(h, rates))
    net.arrays.check_unchanged()
    check_own_memory([("a", a)], net.arrays)
    expected = reference.preactivations(net.exact_trajectory(eh, erates))
    limit, error = sums_of(net, eh)
    net.bounds.check("a", a.reshape(expected.shape), expected, error, limit)


def output(choose):
    arrays = Arrays(choose)
    T, B, _, H = sizes(choose)
    O, rows = choose(*INPUTS), () if B is None else (B,)
    h, V = arrays("h", T, *rows, H), arrays("V", O, H)
    with_engine(choose)
    if choose(False, True):
        c = arrays("c", O) if choose(False, True) else None
        dtype = arrays.result_dtype()
        bounds = Bounds(dtype, arrays.magnitude == "nan")
        out = new_out(choose, arrays, (T, *rows, O), dtype) if choose(False, True) else None
        o = pyrnn.output(h, V, c, out=out)
        if out is not None and o is not out:
            raise Wrong("output returns something else than out")
        arrays.check_unchanged()
        if out is None:
            check_own_memory([("o", o)], arrays)
        f = bounds.floor
        limit = absolute(exact(h), f) @ absolute(exact(V), f).T + (0 if c is None else np.abs(exact(c))) + f
        expected = reference.output(exact(h), exact(V), exact(c))
        bounds.check("o", o, expected, (H + 4) * bounds.eps * limit, limit)
        return
    do = arrays("do", T, *rows, O)
    dtype = arrays.result_dtype()
    bounds = Bounds(dtype, arrays.magnitude == "nan")
    out = None
    if choose(False, True):
        shapes = (h.shape, V.shape, (O,))
        out = pyrnn.OutputGradients(*(new_out(choose, arrays, shape, dtype) for shape in shapes))
    g = pyrnn.output_gradients(do, h, V, out=out)
    arrays.check_unchanged()
    if out is None:
        check_own_memory(list(zip(g._fields, g, strict=True)), arrays)
    elif g is not out and any(a is not b for a, b in zip(g, out, strict=True)):
        raise Wrong("output_gradients returns something else than out")
    expected, f = reference.output_gradients(exact(do), exact(h), exact(V)), bounds.floor
    n = T * (1 if B is None else B)
    rows_of = lambda a: (np.abs(exact(a)) + f).reshape(n, np.shape(a)[-1])
    limit = absolute(exact(do), f) @ absolute(exact(V), f) + f
    bounds.check("gradient of h", g.h, expected.h, (O + 4) * bounds.eps * limit, limit)
    limit = rows_of(do).T @ rows_of(h) + f
    bounds.check("gradient of V", g.V, expected.V, (n + 8) * bounds.eps * limit, limit)
    limit = rows_of(do).sum(axis=0)
    bounds.check("gradient of c", g.c, expected.c, (n + 8) * bounds.eps * limit, limit)


def elementwise(choose):
    arrays = Arrays(choose)
    shape = tuple(choose(2, 1, 3, 0, 5, 17) for _ in range(choose(1, 2, 0, 3)))
    a = arrays("a", *shape, scale=choose(1.0, 5.0, 0.01))
    with_engine(choose)
    name = choose("tanh", "sech2")
    result = getattr(pyrnn.elementwise, name)(a)
    arrays.check_unchanged()
    dtype = np.result_type(np.float32, a.dtype)
    ea = exact(a)
    expected = getattr(reference, name)(ea)
    # The documented errors, 0.94 and 1.23 ulp of tanh, 4.2 of sech², and those of NumPy in float64.
    error = (3 if name == "tanh" else 8) * np.finfo(dtype).eps * np.abs(expected) + np.finfo(dtype).tiny
    bounds = Bounds(dtype, True)
    bounds.most = np.inf
    bounds.check(name, np.asarray(result), np.asarray(expected), np.asarray(error))


def losses(choose):
    kinds = ("ordinary",) * 6 + ("scales", "scales", "nan")
    arrays = Arrays(choose, kinds)
    T, B, _, _ = sizes(choose)
    O, rows = choose(2, 1, 3, 5, 0, 9), () if B is None else (B,)
    name = choose("softmax_cross_entropy", "squared_error")
    count = T * (1 if B is None else B)
    if name == "softmax_cross_entropy" and O == 0 and count:
        O = 1
    steps = (T, *rows)
    o = arrays("o", *steps, O, scale=choose(1.0, 30.0))
    weights = None
    if choose(False, True):
        values = arrays.numbers.uniform(-0.5, 2, steps) * (arrays.numbers.random(steps) < 0.7)
        weights = arrays.pass_on("weights", values)
    zero = np.zeros(steps, bool) if weights is None else exact(weights) == 0
    if zero.any() and o.dtype.kind == "f" and o.flags.writeable and 0 not in o.strides and choose(False, True):
        o[zero] = np.nan
        arrays.watched[0] = ("o", o, o.tobytes())
    dtype, eo = arrays.result_dtype(), exact(o)
    eo[zero] = 0
    ew = np.ones(steps) if weights is None else exact(weights)
    if name == "softmax_cross_entropy":
        kind = choose(np.intp, np.int32, np.uint8, ">i8")
        y = arrays.numbers.integers(0, max(O, 1), steps)
        targets = y.astype(kind)
        if zero.any() and choose(False, True):
            targets[zero] = choose(99, 0) if kind is np.uint8 else choose(99, -1)
            y = np.where(zero, 0, y)
        if not arrays.plain:
            targets = arrays.laid_out("targets", targets)
            y = np.where(zero, 0, np.asarray(targets).astype(int))
            if not ((y >= 0) & (y < max(O, 1))).all():
                return  # a broadcast target that is none
        ey = y
    else:
        targets = arrays("targets", *steps, O)
        ey = exact(targets)
        dtype = arrays.result_dtype()
        ey = np.where(zero[..., np.newaxis], 0, ey)
    bounds = Bounds(dtype, arrays.magnitude == "nan")
    value, do = getattr(pyrnn, name)(o, targets, weights)
    arrays.check_unchanged()
    check_own_memory([("do", do)], arrays)
    if type(value) is not np.float64:
        raise Wrong(f"the loss is a {type(value)}")
    eps, f, wide = bounds.eps, bounds.floor, Bounds(np.float64, bounds.nan)
    wide.most = bounds.most
    if o.size == 0:
        bounds.check("do", do, np.zeros(o.shape), 0.0)
        wide.check("loss", value, np.zeros(()), 0.0)
        return
    expected, edo = getattr(reference, name)(eo, ey, ew)
    aw = np.abs(ew)[..., np.newaxis]
    if name == "squared_error":
        error, size = np.abs(eo - ey), np.abs(eo) + np.abs(ey) + f
        bounds.check("do", do, edo, 8 * eps * aw * size + 4 * bounds.tiny, 2 * aw * size)
        limit = (np.abs(ew) * (size * size).sum(axis=-1)).sum()
        del error
        slack = 8 * eps + (O + count) * 4 * np.finfo(np.float64).eps
    else:
        # The distances from the largest o are what is rounded: at most as large as both o.
        size = np.abs(eo) + np.abs(eo).max(axis=-1, keepdims=True) + 1
        distance = eo.max(axis=-1, keepdims=True) - eo
        p = np.exp(-np.minimum(distance, 700))
        p = p / p.sum(axis=-1, keepdims=True)
        off = eps * (distance + O + 12) * p + (p * eps * (distance + 4)).sum(axis=-1, keepdims=True) * p
        bounds.check("do", do, edo, aw * (2 * off + 4 * eps) + 4 * bounds.tiny, aw * 2)
        limit = (np.abs(ew) * size.max(axis=-1)).sum() * (O + 8)
        slack = 4 * eps + count * 4 * np.finfo(np.float64).eps
    wide.check("loss", np.float64(value), np.asarray(expected), np.asarray(slack * limit + bounds.tiny), limit)


def loss_and_gradients(choose):
    """One call against the calls that it stands for, bit by bit."""
    net = Network(choose, which=("none",), drives=False).finish()
    net.steps.reverse, arrays = False, net.arrays
    T, B, _I, H = net.shape
    rows = () if B is None else (B,)
    loss = choose("squared_error", "softmax_cross_entropy")
    O = choose(2, 1, 3, 5)
    V = arrays("V", O, H, scale=1 / max(H, 1)) if choose(True, True, False) else None
    c = arrays("c", O) if V is not None and choose(False, True) else None
    if V is None and H == 0 and loss == "softmax_cross_entropy":
        return
    types = [np.asarray(a).dtype for a in (net.x, net.U, net.W, net.b, net.h0, V, c) if a is not None]
    dtype = np.result_type(np.float32, *types)
    columns = H if V is None else O
    if loss == "squared_error":
        targets = arrays("targets", T, *rows, columns)
    else:
        targets = arrays.numbers.integers(0, max(columns, 1), (T, *rows))
    weights = arrays("weights", T, *rows) if choose(False, True) else None
    with_engine(choose)
    if table.selected() == "base":
        table.select(None)  # the engine blas, whose bits depend on how arrays lie
    wanted = choose(True, False)
    call = lambda **more: pyrnn.loss_and_gradients(
        net.network(V, c), net.x, targets, loss=loss, h0=net.h0, weights=weights, x_gradient=wanted, **more
    )
    value, g = call()
    arrays.check_unchanged()
    named = [(name, a) for name, a in zip(g._fields, g, strict=True) if a is not None]
    check_own_memory(named, arrays)
    conformed = lambda a: None if a is None else np.array(a, dtype)
    x, U, W, b, h0, eV, ec = map(conformed, (net.x, net.U, net.W, net.b, net.h0, V, c))
    run = pyrnn.simulate(pyrnn.Network(U, W, b, eV, ec, cell=net.cell), x, h0)
    expected, do = getattr(pyrnn, loss)(run.output(), targets, weights)
    do, top = do.astype(dtype, copy=False), None
    if V is not None:
        top = pyrnn.output_gradients(do, run.read, eV)
    arrives = do if top is None else top.h
    below = run.backward(*((None, arrives) if net.cell.current else (arrives,)))
    pairs = {"U": below.U, "W": below.W, "b": None if b is None else below.b, "V": None if top is None else top.V,
             "c": None if c is None else top.c, "x": below.x if wanted else None, "h0": below.h0,
             "alpha": below.alpha}  # fmt: skip

    def compare(value, g, parts=False):
        same_bits("loss", value, expected)
        for name, a in pairs.items():
            if parts and name == "alpha" and a is not None:  # added up by parts of time
                of_alpha(net, run, arrives).check(net.bounds, name, np.asarray(g.alpha))
                continue
            same_bits(f"gradient of {name}", getattr(g, name), a)

    compare(value, g)
    if choose(False, True) and min(T, net.rows, H) > 0 and table.selected() != "base":
        limit = choose(1, 2000, 100_000)
        try:
            value, g = call(memory_limit=limit)
        except ValueError as error:
            if "memory_limit must be at least" not in str(error):
                raise
            value, g = call(memory_limit=int(str(error).split("at least ")[1].split()[0]))
        arrays.check_unchanged()
        compare(value, g, parts=True)


def of_alpha(net, run, arrives):
    """The gradients of what arrives from the output layer, with their bounds."""
    net.bounds, net.ecell = Bounds(run.h.dtype, net.bounds.nan), rounded(net.cell, run.h.dtype)
    h, rates, arrives = net.batched(run.h), net.batched(run.rates), net.batched(arrives)
    if net.cell.current:
        return through(net, np.zeros(run.h.shape), h, rates, drates=arrives)
    return through(net, arrives, h, rates)


def rtrl(choose):
    """The gradient at the last step, against backward of a loss at that step alone."""
    kinds = ("ordinary", "ordinary", "ordinary", "scales")
    net = Network(choose, which=("none",), drives=False, magnitudes=kinds, dtypes=(np.float64, np.float32),
                  shape=(choose(2, 1, 3, 4, 5, 9), choose(2, None, 1, 3, 0), choose(2, 1, 0, 3), choose(2, 1, 3, 0, 5))
                  ).finish()  # fmt: skip
    net.steps.reverse = False
    T, B, I, H = net.shape
    arrays, bounds = net.arrays, net.bounds
    with_engine(choose)
    kind = choose("RTRL", "BlockedRTRL")
    more = {"every_step": True, "block": choose(2, 1, 3, None)} if kind == "BlockedRTRL" else {}
    learner = getattr(pyrnn.online, kind)(net.network(), net.h0, batch=B, **more)
    at = {t for t in range(T) if choose(False, True)} | {T - 1}
    h, rates = FUSED(net.forward)()
    eh, erates = net.batched(h), None if rates is None else net.batched(rates)
    for t in range(T):
        if t not in at:
            learner.forward(net.x[t])
            continue
        dh = arrays("dh", *h.shape[1:], odd=False).astype(net.dtype)
        g = learner.step(net.x[t], dh)
        edh = np.zeros(eh.shape)
        edh[t] = exact(dh).reshape(net.rows, H)
        cut = lambda a, n=t + 1: None if a is None else a[:n]
        steps = Steps(Choices(None, []), arrays, t + 1, B, ("none",))
        through = Through(
            bounds, cut(edh), cut(eh), cut(net.eX), net.eU, net.eW, net.eh0, net.ecell, steps, cut(erates)
        )
        count = (2 * T + 6) * (H + I + 12) * bounds.eps
        for name in ("U", "W", "b", "h0", "alpha"):
            a = getattr(g, name)
            if name == "alpha" and net.cell.alpha is None:
                continue
            through.errors[name] = 4 * through.errors[name] + count * through.limits[name]
            through.check(bounds, name, np.asarray(a))
        same_bits("state", learner.h, h[t])
    arrays.check_unchanged()


def stepper(choose):
    """Steps one at a time against forward, bit by bit."""
    net = Network(choose, which=("none",), drives=False).finish()
    net.steps.reverse = False
    T, B, _I, H = net.shape
    arrays = net.arrays
    O = choose(2, 1, 3, 0, 9)
    V = arrays("V", O, H) if choose(False, True) else None
    c = arrays("c", O) if V is not None and choose(False, True) else None
    with_engine(choose)
    cell = net.cell
    stepper = pyrnn.Stepper(net.network(V, c), net.h0, batch=B)
    dtype = stepper.dtype
    x = np.array(net.x).astype(dtype) if np.asarray(net.x).dtype.itemsize > dtype.itemsize else net.x
    if np.result_type(np.asarray(net.x).dtype, np.float32).itemsize > dtype.itemsize:
        with np.errstate(all="ignore"):
            x = np.array(net.x, dtype)
    conformed = lambda a: None if a is None else np.array(a, dtype)
    with np.errstate(all="ignore"):
        given = [conformed(a) for a in (x, net.U, net.W, net.b, net.h0)]
    rates = None if cell.alpha is None else np.empty((*np.shape(x)[:-1], H), dtype)
    h = FUSED.forward(*given, rates=rates, cell=cell)
    sent = rates if cell.current else h
    result = h if V is None else pyrnn.output(sent, conformed(V), conformed(c))
    exactly = V is None or table.selected() != "base"
    if choose(False, True):
        o = stepper.run(x)
        check_own_memory([("result", o)], arrays)
        steps = [o]
        pairs = [("run", o, result)]
    else:
        out = np.empty(result.shape[1:], dtype) if choose(False, True) else None
        steps = [np.array(stepper.step(x[t], out=out)) for t in range(T)]
        pairs = [(f"step {t}", a, result[t]) for t, a in enumerate(steps)]
    for name, a, b in pairs:
        if exactly:
            same_bits(name, a, b)
    if T:
        same_bits("state", stepper.state, h[-1])
    arrays.check_unchanged()


def rnn(choose):
    """Layers and directions against the reference of each."""
    kinds = ("ordinary",) * 5 + ("scales",)
    dtype = choose(np.float64, np.float32)
    arrays = Arrays(choose, kinds, (dtype,))
    T, B, I, H = choose(*TIMES), choose(*BATCHES), choose(2, 1, 3, 5, 9), choose(2, 1, 3, 5, 8, 9)
    L, D, O = choose(1, 2, 3), choose(1, 2), choose(None, 1, 3)
    rows, first = 1 if B is None else B, B is not None and choose(False, True)
    form = choose("rate", "rate", "current")
    alpha = choose(1.0, 0.5, "vector", 1.5)
    if alpha == "vector":
        alpha = arrays.numbers.uniform(0.1, 1, H).astype(dtype).astype(np.float64)
    function, bias = random_phi(choose), choose(True, False)
    rnn = pyrnn.RNN(I, H, L, **function, bias=bias, batch_first=first, bidirectional=D == 2,
                    alpha=alpha, form=form, output_size=O, dtype=dtype, rng=0)  # fmt: skip
    rnn.parameters = (arrays.numbers.standard_normal(rnn.parameters.shape) * 0.7 / H).astype(dtype)
    steps = Steps(choose, arrays, T, B, ("none", "lengths"))
    steps.reverse = False
    x = steps.poison(arrays.numbers.standard_normal((T, *(() if B is None else (B,)), I)))
    x = x.swapaxes(0, 1) if first else x
    x = arrays.pass_on("x", x)
    states = (L * D, *(() if B is None else (B,)), H)
    h0 = arrays("h0", *states) if choose(False, True) else None
    with_engine(choose)
    time_first = lambda a: exact(a).swapaxes(0, 1) if first else exact(a).reshape(T, rows, np.shape(a)[-1])
    out, h_n = rnn(x, h0, steps.lengths)
    arrays.check_unchanged()
    check_own_memory([("out", out), ("h_n", h_n), ("parameters", rnn.parameters)], arrays)
    bounds, exists = Bounds(dtype), steps.exists[..., np.newaxis]
    leaky = form == "current" or np.ndim(alpha) or alpha != 1
    cell_alpha = exact(np.broadcast_to(np.asarray(alpha, dtype), (H,))) if leaky else None
    cell = pyrnn.Cell(alpha=cell_alpha, form=form, **function)
    eh0 = np.zeros((L * D, rows, H)) if h0 is None else exact(h0).reshape(L * D, rows, H)
    layers, below = [], np.where(exists, time_first(x), 0)
    of = {name: exact(a) for name, a in rnn.named_parameters()}
    states, rates = (tuple(time_first(a) for a in many) for many in (rnn.layer_states, rnn.layer_rates))
    for layer in range(L):
        sent = []
        for direction in range(D):
            i = layer * D + direction
            name = f"l{layer}" + "_reverse" * direction
            one = Layer(bounds, steps, direction, below, of, name, bias, eh0[i], states[i], rates[i], cell, leaky)
            check_forward(one, states[i].astype(dtype), rates[i].astype(dtype) if leaky else None, f"states of {name}")
            layers.append(one)
            sent.append(rates[i] if form == "current" else states[i])
            last = np.zeros((rows, H))
            for r in range(rows):
                n = int(steps.exists[:, r].sum())
                last[r] = eh0[i, r] if n == 0 else states[i][0 if direction else n - 1, r]
            if not np.array_equal(h_n[i].reshape(rows, H), last, equal_nan=True):
                raise Wrong(f"h_n of {name} is not the last state")
        below = np.where(exists, np.concatenate(sent, axis=2), 0)
    f, eps = bounds.floor, bounds.eps
    expected = below
    if O is not None:
        V, c = of["weight_out"], of.get("bias_out")
        expected = np.where(exists, reference.output(below, V, c), 0)
        limit = np.where(exists, absolute(below, f) @ absolute(V, f).T + (0 if c is None else np.abs(c)), 0)
        n = D * H + 6
        bounds.check("out", time_first(out).astype(dtype), expected, n * eps * limit, limit)
    elif not np.array_equal(time_first(out), expected, equal_nan=True):
        raise Wrong("out is not what the top layer sends")
    # Backward, from the top layer down; errors of a layer's input gradient are those of dh below.
    dout = arrays.pass_on("dout", arrays.numbers.standard_normal(out.shape)) if choose(True, True, False) else None
    dh_n = arrays("dh_n", *np.shape(h_n)) if dout is None or choose(False, True) else None
    accumulate = choose(False, True)
    rnn.gradients = arrays.numbers.standard_normal(rnn.gradients.shape)
    before = {name: exact(a) if accumulate else None for name, a in rnn.named_gradients()}
    g = rnn.backward(dout, dh_n, accumulate=accumulate)
    arrays.check_unchanged()
    found = dict(rnn.named_gradients())
    G = np.zeros((T, rows, D * H if O is None else O)) if dout is None else np.where(exists, time_first(dout), 0)
    E = np.zeros(G.shape)
    if O is not None:
        top = reference.output_gradients(G, below, V)
        n, absG, absb = (T * rows + 8) * eps, np.abs(G) + f, np.abs(below) + f
        limits = {"weight_out": np.tensordot(absG, absb, ((0, 1), (0, 1))) + f, "bias_out": absG.sum(axis=(0, 1)) + f}
        for name, e in (("weight_out", top.V), ("bias_out", top.c))[: 1 + bias]:
            limit, more = limits[name], before[name]
            if more is not None:
                e, limit = e + more, limit + np.abs(more)
            bounds.check(f"gradient of {name}", found[name], e, n * limit, limit)
        E = (O + 4) * eps * (absG @ (np.abs(V) + f))
        G = top.h
    alpha_sums = [np.zeros(H), np.zeros(H), np.zeros(H)]
    for layer in reversed(range(L)):
        total, error, d_limit = 0.0, 0.0, 0.0
        for direction in range(D):
            i = layer * D + direction
            one, units = layers[i], slice(direction * H, (direction + 1) * H)
            dh, e = G[..., units], E[..., units]
            if form == "current":
                slope = reference.slope_of(rnn.cell)(one.rates)
                moved = moved_slopes(rnn.nonlinearity, one.rates, np.abs(slope))
                more = 8 * eps * moved + 2 * eps * np.abs(slope)
                dh, e = slope * dh, np.abs(slope) * e + more * np.abs(dh)
            if dh_n is not None:
                dh, e = dh.copy(), e.copy()
                initial = np.zeros((rows, H))
                d_last = exact(dh_n[i]).reshape(rows, H)
                for r in range(rows):
                    n = int(steps.exists[:, r].sum())
                    if n == 0:
                        initial[r] = d_last[r]
                    else:
                        dh[0 if direction else n - 1, r] += d_last[r]
                        e[0 if direction else n - 1, r] += 2 * eps * np.abs(dh[0 if direction else n - 1, r])
            t = Through(bounds, dh, one.eh, one.eX, one.eU, one.eW, one.eh0, cell, one.steps,
                        one.rates if leaky else None, e + 2 * eps * np.abs(dh))  # fmt: skip
            if dh_n is not None:
                t.gradients = t.gradients._replace(h0=t.gradients.h0 + initial)
                t.limits["h0"] = t.limits["h0"] + np.abs(initial)
                t.errors["h0"] = t.errors["h0"] + 2 * eps * np.abs(initial)
            for of_it, names in {"U": ("weight_ih_",), "W": ("weight_hh_",), "b": ("bias_ih_", "bias_hh_")}.items():
                for kind in names if bias or of_it != "b" else ():
                    t.check(bounds, of_it, found[kind + one.name], before[kind + one.name])
            t.check(bounds, "h0", g.h0[i].reshape(rows, H))
            total, error = total + t.gradients.x, error + t.errors["x"] + 2 * eps * t.limits["x"]
            d_limit = d_limit + t.limits["x"]
            if leaky:
                sums = (t.gradients.alpha, t.limits["alpha"], t.errors["alpha"])
                alpha_sums = [a + b for a, b in zip(alpha_sums, sums, strict=True)]
        G, E = total, error
    bounds.check("gradient of x", time_first(g.x).astype(dtype), G, E, d_limit)
    if leaky:
        expected, limit, error = alpha_sums
        if np.ndim(alpha) == 0:
            expected, limit, error = (np.asarray(a.sum()) for a in alpha_sums)
        error = error + (L * D + H + 4) * eps * limit
        bounds.check("gradient of alpha", np.asarray(g.alpha), expected, error, limit)
    elif g.alpha is not None:
        raise Wrong("a gradient of alpha without leak")
    check_own_memory([("dx", g.x), ("dh0", g.h0), ("gradients", rnn.gradients)], arrays)


class Layer:
    """One direction of a layer, as `check_forward` takes it."""

    def __init__(self, bounds, steps, direction, below, of, name, bias, h0, states, rates, cell, leaky):
        self.bounds, self.name, self.ecell, self.eX, self.eh0 = bounds, name, cell, below, h0
        self.eU, self.eW = of["weight_ih_" + name], of["weight_hh_" + name]
        self.eb = of["bias_ih_" + name] + of["bias_hh_" + name] if bias else None
        self.edrive, self.eh, self.rates, self.rows = None, states, rates, below.shape[1]
        self.shape = (*below.shape, len(self.eW))
        self.steps = steps_of(steps, bool(direction))
        self.cell = cell


def steps_of(steps, reverse):
    other = object.__new__(Steps)
    other.__dict__ = steps.__dict__ | {"reverse": reverse}
    return other


def identity(choose):
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩ of jvp and backward, for all arguments."""
    net = Network(choose, magnitudes=("ordinary",), dtypes=(np.float64,)).finish()
    h, rates = net.forward()
    u = net.arrays("u", *h.shape)
    if net.drive is None:  # whose gradient is taken too
        net.drive = np.zeros(h.shape)
    run = net.trajectory(h, rates)
    dots = direction_for(net, choose, h)
    exists = net.steps.exists.reshape(h.shape[:-1])[..., np.newaxis]
    if net.steps.lengths is not None:
        u = np.where(exists, u, 0)
    h_dot, g = pyrnn.jvp(run, pyrnn.Direction(**dots)), run.backward(u)
    t = through(net, u, net.batched(h), None if rates is None else net.batched(rates))
    T, _B, I, H = net.shape
    one, two = (u * h_dot).sum(), 0.0
    size, error = np.abs(u * h_dot).sum(), 0.0
    for name in FIELDS:
        if name not in dots:
            continue
        a, d = np.asarray(getattr(g, name)), np.asarray(dots[name])
        d = np.where(exists, d, 0) if name in ("x", "drive") else d
        two, size = two + (d * a).sum(), size + np.abs(d * a).sum()
        # jvp sums the same products in another order: its error is bounded by the same sums of absolute values.
        e = t.errors[name] + (2 * T + 4) * (H + I + 8) * net.bounds.eps * t.limits[name]
        error += (np.abs(d) * np.reshape(e, a.shape)).sum()
    error += (h.size + 64) * net.bounds.eps * size
    if np.isfinite(error) and not abs(one - two) <= error:
        raise Wrong(f"⟨u, J v⟩ is {one!r}, ⟨Jᵀ u, v⟩ {two!r}: apart by {abs(one - two):.3g}, {error:.3g} is allowed")


def bits(choose):
    """In the fused engine bits depend on no other row, length, thread, layout, instruction set or size of a block."""
    net = Network(choose, which=("none", "lengths", "mask")).finish()
    arrays, cell, steps = net.arrays, net.cell, net.steps
    T, B, _I, H = net.shape
    h, rates = FUSED(net.forward)(n_threads=1)
    dh = arrays.numbers.standard_normal(h.shape).astype(h.dtype)
    options = {"cell": cell}
    conformed = lambda a: None if a is None else np.array(a, h.dtype)
    with np.errstate(all="ignore"):
        x, U, W, b, h0, drive = map(conformed, (net.x, net.U, net.W, net.b, net.h0, net.drive))
    given = steps.options()
    names = (*FIELDS, "h", "rates")

    def run(x, h0, drive, dh, **more):
        r = None if rates is None else np.empty((*x.shape[:-1], H), h.dtype)
        out = FUSED.forward(x, U, W, b, h0, drive=drive, rates=r, **options | more)
        g = FUSED.backward(dh, out, x, U, W, h0, drive=drive, rates=r, **options | more)
        return dict(zip(names, (*(getattr(g, n) for n in FIELDS), out, r), strict=True))

    if net.shape[2] == 0 and arrays.magnitude == "tiny":
        return  # a state that underflows may be 0.0 or -0.0 where nothing but W h is added up
    all_rows = run(x, h0, drive, dh, n_threads=1, **given)
    same_bits("h", all_rows["h"], h)
    what = choose("row", "threads", "set", "layout", "length")
    if what == "threads":
        other = run(x, h0, drive, dh, n_threads=choose(2, 3, 7), **given)
    elif what == "set":
        table.select(choose(*SETS[::-1]))
        other = run(x, h0, drive, dh, n_threads=1, **given)
    elif what == "layout":
        moved = [None if a is None else WRITEABLE[choose(*WRITEABLE_NAMES)](a) for a in (x, h0, drive, dh)]
        other = run(*moved, n_threads=1, **given)
    else:
        if B is None or B == 0:
            return
        r = choose(*range(B))
        n = T
        mine = {"reverse": steps.reverse}
        if what == "length" and steps.lengths is not None:
            n = int(np.asarray(steps.lengths)[r])
        elif steps.lengths is not None:
            mine["lengths"] = np.asarray(steps.lengths)[r]
        if steps.mask is not None:
            mine["mask"] = np.asarray(steps.mask)[:, r]
        part = lambda a: None if a is None else a[:n, r]
        one = run(part(x), None if h0 is None else h0[r], part(drive), part(dh), **mine)
        for name in ("h", "rates", "x", "drive", "h0"):
            a = all_rows[name]
            if a is not None:
                same_bits(f"{name} of row {r} alone", one[name], a[r] if name == "h0" else a[:n, r])
        return
    for name in names:
        same_bits(f"{name} with other {what}", other[name], all_rows[name])


FUNCTIONS = {
    "forward": forward, "backward": backward, "simulate": simulate, "state_gradients": state_gradients,
    "jacobian": jacobian, "jvp": jvp, "backward_jvp": backward_jvp, "per_sample_gradients": per_sample_gradients,
    "products": products, "preactivations": preactivations, "output": output, "elementwise": elementwise,
    "losses": losses, "loss_and_gradients": loss_and_gradients, "rtrl": rtrl, "stepper": stepper, "rnn": rnn,
    "identity": identity, "bits": bits,
}  # fmt: skip


# ---- Cases ----------------------------------------------------------------------------------------------------------
def run(name, choose):
    """Run one case; raises whatever is wrong."""
    chunk, selected = calls.set_chunk_bytes(0), table.selected()
    calls.set_chunk_bytes(chunk)
    try:
        with np.errstate(all="ignore"):
            FUNCTIONS[name](choose)
    finally:
        calls.set_chunk_bytes(chunk)
        table.select(selected)


def of_seed(seed, number, only=None):
    """The function of a case, and its choices."""
    source = random.Random(f"{seed} {number}")
    name = only or list(FUNCTIONS)[int(source.random() * len(FUNCTIONS))]
    return name, Choices(source.random)


def failure(name, choose):
    """What is wrong with a case, or None."""
    try:
        run(name, choose)
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, Wrong) else f" ({os.path.basename(at.filename)}:{at.lineno})"
        return f"{type(error).__name__}: {error}{where}"
    return None


def apart(function, *arguments):
    """A function's result, a string or None, from a process of its own, which may crash."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.write(writer, (function(*arguments) or "")[:4000].encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read().decode()
    status = os.waitpid(child, 0)[1]
    return f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else text or None


def kind_of(name, text):
    """What tells failures apart: the function, and the words before the numbers."""
    words = "".join("#" if c.isdigit() else c for c in text.split(" is ")[0].split("[")[0])
    return name, words[:80]


def shrunk(name, made, text, tries=400):
    """A simpler list of choices that fails in the same way, and how."""
    wanted = kind_of(name, text)
    fails = lambda given: apart(failure, name, Choices(None, given))
    seen = {tuple(made)}

    def try_one(given):
        nonlocal made, text, tries
        while given and given[-1] == 0:
            given = given[:-1]
        if tuple(given) in seen or tries <= 0:
            return False
        seen.add(tuple(given))
        tries -= 1
        found = fails(given)
        if found is None or kind_of(name, found) != wanted:
            return False
        made, text = given, found
        return True

    improved = True
    while improved and tries > 0:
        improved = False
        for width in (8, 4, 2, 1):
            for at in range(0, len(made), width):
                if any(made[at : at + width]):
                    improved |= try_one([*made[:at], *[0] * len(made[at : at + width]), *made[at + width :]])
        for at in range(len(made)):
            for smaller in (1, 2, 3, 4):
                if at < len(made) and smaller < made[at] and try_one([*made[:at], smaller, *made[at + 1 :]]):
                    improved = True
                    break
    return made, text


def report(name, made, text):
    made, text = shrunk(name, made, text)
    command = f"python -P tests/fuzz/functions.py --function {name} --choices {','.join(map(str, made)) or 0}"
    return f"{name}: {text}\n    {command}"


# ---- Long runs ------------------------------------------------------------------------------------------------------
def run_block(seed, first, stop, only, progress, limit):
    """Run some cases in a process of its own; yields the number, name and choices of those that fail, and how."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with os.fdopen(writer, "w") as stream:
            for number in range(first, stop):
                progress[:8] = number.to_bytes(8, "little")
                name, choose = of_seed(seed, number, only)
                signal.alarm(limit)
                text = failure(name, choose)
                signal.alarm(0)
                if text is not None:
                    print(number, name, ",".join(map(str, choose.made)), text.replace("\n", " "), file=stream)
                    stream.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        for line in stream:
            number, name, made, text = line.rstrip("\n").split(" ", 3)
            yield int(number), name, [int(i) for i in made.split(",") if i], text
    status = os.waitpid(child, 0)[1]
    if status:
        number = int.from_bytes(progress[:8], "little")
        how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else str(status)
        name, _ = of_seed(seed, number, only)
        yield number, name, None, f"killed by {how}"
        yield from run_block(seed, number + 1, stop, only, progress, limit)


def choices_of_crash(seed, number, only):
    """The choices of a case that ends the process."""
    shared = mmap.mmap(-1, 1 << 14)

    def record():
        name, choose = of_seed(seed, number, only)

        class Recorded(list):
            def append(self, i):
                list.append(self, i)
                text = ",".join(map(str, self)).encode()
                shared[: len(text) + 1] = text + b";"

        choose.made = Recorded()
        return failure(name, choose)

    apart(record)
    text = shared[:].split(b";")[0].decode()
    return [int(i) for i in text.split(",") if i]


def fuzz(cases, seed, only=None, jobs=1, block=2000, limit=1800, seconds=math.inf, say=print):
    """Run cases from a seed; returns one report for each kind of failure.

    limit: the seconds after which one case counts as hanging.
    """
    found, counts, start, done = {}, {}, time.monotonic(), 0
    if jobs > 1:
        say(f"seed {seed}: {jobs} processes, with the seeds {seed} to {seed + jobs - 1}")
        children = []
        for job in range(1, jobs):
            child = os.fork()
            if not child:
                quiet = lambda *_: None
                reports = fuzz(cases // jobs, seed + job, only, 1, block, limit, seconds, quiet)
                for text in reports:
                    print(text, flush=True)
                os._exit(1 if reports else 0)
            children.append(child)
        reports = fuzz(cases - cases // jobs * (jobs - 1), seed, only, 1, block, limit, seconds, say)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
        return reports + [f"failures in another process, {child}: see above" for child in failed]
    progress = mmap.mmap(-1, 8)
    for first in range(0, cases, block):
        stop = min(first + block, cases)
        for number, name, made, text in run_block(seed, first, stop, only, progress, limit):
            kind = kind_of(name, text)
            counts[kind] = counts.get(kind, 0) + 1
            if kind not in found:
                if made is None:
                    made = choices_of_crash(seed, number, only)
                found[kind] = f"seed {seed}, case {number}: " + report(name, made, text)
                say(found[kind], flush=True)
        done, elapsed = stop, time.monotonic() - start
        say(f"{stop} of {cases} cases, {elapsed:.0f} s, {len(found)} kinds of failure", flush=True)
        if elapsed > seconds:
            break
    say(f"{done} cases of seed {seed}, {sum(counts.values())} failed")
    return [f"{text}\n    {counts[kind]} times" for kind, text in found.items()]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--function", choices=FUNCTIONS, help="only cases of this one")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with a seed of its own")
    parser.add_argument("--choices", help="run the one case of these choices")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many")
    options = parser.parse_args(arguments)
    warnings.simplefilter("error")
    if options.choices is not None:
        if not options.function:
            parser.error("--choices needs --function")
        run(options.function, Choices(None, [int(i) for i in options.choices.split(",")]))
        print("nothing is wrong")
        return 0
    found = fuzz(options.cases, options.seed, options.function, options.jobs, seconds=options.seconds)
    return 1 if found else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
