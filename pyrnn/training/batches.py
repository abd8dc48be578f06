"""Batches of `pyrnn.fit` from every kind of data, and the random numbers that choose them."""

from __future__ import annotations

import functools
import math
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np

from pyrnn import _checks, losses
from pyrnn.layers.parameters import Workspace

if TYPE_CHECKING:
    from pyrnn._types import Loss, MaybeArray, OwnLoss, Shape
    from pyrnn.layers.rnn import RNN

STREAM = zlib.crc32(b"pyrnn.fit")  # so that a network or a task with the same seed draws other numbers
SHUFFLE, SPLIT, DROPOUT = range(3)


class Draws:
    """The generators of one seed and all purposes as one object, which is moved from place to place."""

    def __init__(self, seed: int) -> None:
        self._philox = np.random.Philox(key=_key(seed))
        self._generator = np.random.Generator(self._philox)
        self._state: Any = self._philox.state  # nothing is drawn: its buffer is empty

    def at(self, purpose: int, number: int) -> np.random.Generator:
        """Return what draws the numbers of this place, until the next call."""
        self._state["state"]["counter"][:] = 0, 0, number, purpose
        self._philox.state = self._state
        return self._generator


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Return a generator that depends on its arguments alone: Philox, whose counter begins at their place."""
    return Draws(seed).at(purpose, number)


def _drawn_key(seed: int) -> np.ndarray:
    """The key of a seed, which takes as long as all else that a generator needs."""
    key: np.ndarray = np.random.SeedSequence(seed, spawn_key=(STREAM,)).generate_state(2, np.uint64)
    key.flags.writeable = False
    return key


_key = functools.lru_cache(64)(_drawn_key)


class Batch(NamedTuple):
    """Sequences as the RNN takes them, batch_first or not. at_end: whether the targets are those of the last step."""

    x: np.ndarray  # (T, B, I) or (B, T, I)
    targets: np.ndarray  # (T, B, ...), (B, T, ...), or (B, ...) at the end
    weights: np.ndarray | None
    lengths: np.ndarray | None  # (B,)
    at_end: bool


class Kind(NamedTuple):
    """What batches are for: a network and a loss, by name or of one's own."""

    rnn: RNN
    loss: str | OwnLoss
    mean: bool

    @property
    def outputs(self) -> int:
        rnn = self.rnn
        return rnn.hidden_size * (1 + rnn.bidirectional) if rnn.output_size is None else rnn.output_size

    @property
    def batch_axis(self) -> int:
        return 0 if self.rnn.batch_first else 1

    @property
    def form(self) -> tuple[object, ...]:
        """What the arrays of a batch depend on, beside the data."""
        rnn = self.rnn
        loss = self.loss if isinstance(self.loss, str) else None
        return rnn.input_size, self.outputs, rnn.batch_first, rnn.dtype, loss, self.mean

    def size(self, batch: Batch) -> int:
        """Return how many sequences there are."""
        return int(batch.x.shape[self.batch_axis])

    def divisor(self, batch: Batch) -> float:
        """Return what a mean divides by: the sum of the weights, of all outputs where each has a target."""
        of_numbers = not losses.of_classes(str(self.loss))
        if batch.weights is None:
            total = float(self.size(batch) if batch.at_end else math.prod(batch.x.shape[:2]))
        else:
            total = float(batch.weights.sum(dtype=np.float64))
            of_numbers = of_numbers and batch.weights.ndim < batch.targets.ndim
        return total * self.outputs if of_numbers else total

    def conform(self, given: Any, name: str) -> Batch:
        """Check x, y and weights, and return them as arrays; x without a batch axis gets one."""
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            what = f"{type(given).__name__}" + (f" of {len(given)}" if isinstance(given, tuple | list) else "")
            raise TypeError(f"{name} must be (x, y) or (x, y, weights), got {what}")
        rnn, dtype = self.rnn, self.rnn.dtype
        (x,) = _checks.as_real_arrays(**{f"x of {name}": given[0]})
        x = x if x.dtype == dtype else x.astype(dtype)
        I, axis = rnn.input_size, self.batch_axis
        if x.ndim not in (2, 3) or x.shape[-1] != I:
            expected = f"({'B, T' if rnn.batch_first else 'T, B'}, {I}) or (T, {I})"
            _checks.shape_error(f"x of {name}", expected, x)
        if 0 in x.shape[:-1]:
            raise ValueError(f"x of {name} must have one step and one sequence or more, got shape {x.shape}")
        _check_finite(f"x of {name}", x)
        y = _checks.as_array(f"y of {name}", given[1])
        weights = None if len(given) == 2 or given[2] is None else given[2]
        if weights is not None:
            (weights,) = _checks.as_real_arrays(**{f"weights of {name}": weights})
            weights = weights.astype(dtype, copy=False)
            _check_finite(f"weights of {name}", weights)
            if self.mean and isinstance(self.loss, str) and weights.min(initial=0) < 0:
                raise ValueError(
                    f"weights of {name} must not be negative with reduction='mean', got {weights.min()}: use 'sum'"
                )
        batched = x.ndim == 3
        at_end = self._is_at_end(y, x.shape[:-1], batched)
        if not batched:
            y = np.expand_dims(y, 0 if at_end else axis)
            weights = None if weights is None else np.expand_dims(weights, 0 if at_end else axis)
            x = np.expand_dims(x, axis)
        steps: Shape = (x.shape[axis],) if at_end else x.shape[:2]
        y = self._targets(y, weights, steps, name)
        return Batch(x, y, weights, None, at_end)

    def _is_at_end(self, y: np.ndarray, steps: Shape, batched: bool) -> bool:
        """Whether there is one target for each sequence, not for each step."""
        if isinstance(self.loss, str):
            return y.ndim == len(steps) - (1 if losses.of_classes(self.loss) else 0)
        return y.shape[: len(steps)] != steps

    def _targets(self, y: np.ndarray, weights: np.ndarray | None, steps: Shape, name: str) -> np.ndarray:
        """Return the targets of these steps, (T, B), (B, T) or (B,), in the dtype that they are used in."""
        if not isinstance(self.loss, str):
            if y.shape[: len(steps)] != steps:
                _checks.shape_error(f"y of {name}", f"{steps} and any more axes", y)
            if weights is not None and weights.shape not in (steps, y.shape):
                _checks.shape_error(f"weights of {name}", f"{steps} or {y.shape}", weights)
            return y
        shape, dtype = (*steps, self.outputs), self.rnn.dtype
        classes = losses.of_classes(self.loss)
        _checks.check_shape(f"y of {name}", y, steps if classes else shape)
        if weights is not None and weights.shape != steps and (classes or weights.shape != shape):
            _checks.shape_error(f"weights of {name}", steps if classes else f"{steps} or {shape}", weights)
        if classes:
            if y.dtype.kind not in "iu":
                raise TypeError(f"y of {name} must be integers, the classes, got dtype {y.dtype}")
        else:
            (y,) = _checks.as_real_arrays(**{f"y of {name}": y})
            y = y.astype(dtype, copy=False)
            _check_finite(f"y of {name}", y, weights)
        try:
            losses.Criterion(cast("Loss", self.loss), y, weights).checked(shape, dtype)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return y


def _check_finite(name: str, a: np.ndarray, weights: np.ndarray | None = None) -> None:
    """Raise unless all numbers are finite, where the weight is not 0."""
    finite = np.isfinite(a)
    if finite.all():
        return
    wrong = ~finite
    if weights is not None:
        wrong[weights == 0] = False
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name} must be finite numbers, got {a[where]} at {where}")


# ---- Where batches come from ----------------------------------------------------------------------------------------
class Source(Protocol):
    """Batches in their order. After `begin` and `next` the attributes tell where the run is."""

    per_epoch: int | None  # steps, where that is known
    has_epochs: bool
    epoch: int  # of the last batch
    ends: bool  # whether an epoch ends with the last batch
    passes: int  # epochs that have ended

    def begin(self, step: int) -> None:
        """Go to the place where so many batches have been used."""

    def next(self) -> Batch | None:
        """Return the next batch; None if there are no more."""

    def describe(self) -> str:
        """Return a text that is the same for the same data, as far as that can be told."""


class Known:
    """All sequences are there: each epoch visits each of them once, in an order of its own."""

    has_epochs = True
    per_epoch: int | None

    def __init__(self, kind: Kind, n: int, batch_size: int | None, seed: int) -> None:
        self.kind, self.n, self.seed = kind, n, seed
        self.batch_size = batch_size
        self.new = Workspace()
        self.choose(np.arange(n))

    def choose(self, members: np.ndarray) -> None:
        """Restrict the batches to some sequences."""
        self.members = members
        self.steps = -(-len(members) // (self.batch_size or len(members)))
        self.per_epoch = self.steps
        self.order_of, self.order = -1, members
        self.whole: Batch | None = None
        self.begin(0)

    def begin(self, step: int) -> None:
        self.step = step
        self.passes = step // self.steps
        self.ends = step > 0 and step % self.steps == 0
        self.epoch = max(0, step - 1) // self.steps

    def next(self) -> Batch | None:
        step = self.step
        self.begin(step + 1)
        if self.steps == 1:
            return self._all()
        if self.epoch != self.order_of:
            self.order_of = self.epoch
            self.order = self.members[generator(self.seed, SHUFFLE, self.epoch).permutation(len(self.members))]
        size = self.batch_size or 0
        at = step % self.steps * size
        return self.pick(self.order[at : at + size])

    def _all(self) -> Batch:
        """All sequences, in the order in which they were given."""
        if self.whole is None:
            self.whole = self.pick(self.members)
        return self.whole

    def in_order(self) -> Iterator[Batch]:
        """Yield batches of all sequences, in the order in which they were given."""
        if self.steps == 1:
            yield self._all()
            return
        size = self.batch_size or self.n
        for at in range(0, len(self.members), size):
            yield self.pick(self.members[at : at + size])

    def pick(self, chosen: np.ndarray) -> Batch:
        """Return a batch of these sequences; the next one may have its memory."""
        raise NotImplementedError

    def describe(self) -> str:
        raise NotImplementedError


class Arrays(Known):
    """Sequences of one length, as arrays."""

    def __init__(self, kind: Kind, data: Any, batch_size: int | None, seed: int, name: str) -> None:
        self.data = kind.conform(data, name)
        super().__init__(kind, kind.size(self.data), batch_size, seed)

    def pick(self, chosen: np.ndarray) -> Batch:
        x, y, weights, _, at_end = self.data
        if len(chosen) == self.n and self.steps == 1:
            return self.data
        axis = 0 if at_end else self.kind.batch_axis
        w = None if weights is None else self._take("weights", weights, chosen, axis)
        return Batch(
            self._take("x", x, chosen, self.kind.batch_axis), self._take("y", y, chosen, axis), w, None, at_end
        )

    def _take(self, name: str, a: np.ndarray, chosen: np.ndarray, axis: int) -> np.ndarray:
        shape = (*a.shape[:axis], len(chosen), *a.shape[axis + 1 :])
        into: np.ndarray = self.new(name, shape, a.dtype)
        return np.take(a, chosen, axis=axis, out=into, mode="clip")  # NumPy buffers `out` in mode "raise"

    def describe(self) -> str:
        return f"arrays, {_checksum([a for a in self.data[:3] if a is not None]):08x}"


class Sequences(Known):
    """Sequences of different lengths, padded to the longest one of each batch."""

    def __init__(self, kind: Kind, data: list[Any], batch_size: int | None, seed: int, name: str) -> None:
        self.items = [kind.conform(item, f"{name}[{i}]") for i, item in enumerate(data)]
        first = self.items[0]
        for i, item in enumerate(self.items):
            found, expected = (_form(b) for b in (item, first))
            if found != expected:
                raise ValueError(f"{name}[{i}] must be like {name}[0], {expected}, got {found}")
        super().__init__(kind, len(data), batch_size, seed)
        self.lengths = np.array([math.prod(item.x.shape[:2]) for item in self.items])  # each is one sequence

    def pick(self, chosen: np.ndarray) -> Batch:
        axis, first = self.kind.batch_axis, self.items[0]
        lengths = self.lengths[chosen]
        T, B = int(lengths.max()), len(chosen)
        steps = (B, T) if axis == 0 else (T, B)
        x = self.new("x", (*steps, first.x.shape[2]), first.x.dtype)
        items = [self.items[i] for i in chosen]
        _pad(x, [item.x for item in items], axis)
        if first.at_end:
            y = np.concatenate([item.targets for item in items])
            w = None if first.weights is None else np.concatenate([item.weights for item in items])
            return Batch(x, y, w, lengths, True)
        y = self.new("y", (*steps, *first.targets.shape[2:]), first.targets.dtype)
        _pad(y, [item.targets for item in items], axis)
        more = () if first.weights is None else first.weights.shape[2:]
        weights = self.new("weights", (*steps, *more), self.kind.rnn.dtype)
        _pad(weights, [1 if item.weights is None else item.weights for item in items], axis, lengths)
        return Batch(x, y, weights, lengths, False)

    def describe(self) -> str:
        return f"sequences, {_checksum([a for item in self.items for a in item[:3] if a is not None]):08x}"


def _form(item: Batch) -> str:
    weights = "without weights" if item.weights is None else f"with weights of {item.weights.ndim - 1} axes"
    targets = "of the sequence" if item.at_end else "of each step"
    return f"y {targets} of shape {item.targets.shape[1 if item.at_end else 2 :]}, {weights}"


def _pad(into: np.ndarray, parts: list[Any], axis: int, lengths: np.ndarray | None = None) -> None:
    """Write sequences (T_i, 1, ...) or (1, T_i, ...) beside each other, with zeros behind their ends."""
    rows = into if axis == 0 else into.swapaxes(0, 1)
    for i, (row, part) in enumerate(zip(rows, parts, strict=True)):
        n = part.shape[1 - axis] if lengths is None else lengths[i]
        row[:n] = part if np.ndim(part) == 0 else part.take(0, axis)
        row[n:] = 0


def _checksum(arrays: list[np.ndarray]) -> int:
    sum_ = 0
    for a in arrays:
        sum_ = zlib.crc32(f"{a.shape} {a.dtype.str}".encode(), sum_)
        sum_ = zlib.crc32(np.ascontiguousarray(a).data.cast("B"), sum_)
    return sum_


class Shared:
    """Batches by step for runs on several threads: those that come to a step at about the same time share its batch."""

    KEPT, BYTES = 64, 1 << 25  # the latest batches, by number and by memory

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: dict[int, _Entry] = {}

    def get(self, step: int, make: Callable[[int], Batch]) -> Batch:
        """Return what `make` returns for a step. Its arrays are read only."""
        with self.lock:
            entry = self.entries.get(step)
            mine = entry is None
            if entry is None:
                entry = self.entries[step] = _Entry()
                entry.making.acquire()
        if not mine:
            with entry.making:  # waits until it is made
                pass
            return make(step) if entry.batch is None else entry.batch
        try:
            entry.batch = _read_only(make(step))
        finally:
            entry.making.release()
            self._forget(step, entry)
        return entry.batch

    def _forget(self, step: int, entry: _Entry) -> None:
        """Drop the oldest batches; and one that could not be made, so that each run gets the error."""
        with self.lock:
            if entry.batch is None:
                del self.entries[step]
            made = [(k, e.batch) for k, e in self.entries.items() if e.batch is not None]
            size = sum(a.nbytes for _, batch in made for a in batch[:3] if a is not None)
            while made and (len(made) > self.KEPT or size > self.BYTES):
                k, batch = made.pop(0)
                size -= sum(a.nbytes for a in batch[:3] if a is not None)
                del self.entries[k]


class _Entry:
    """A batch, None until it is made, and a lock that is held until then."""

    def __init__(self) -> None:
        self.making = threading.Lock()
        self.batch: Batch | None = None


def _read_only(batch: Batch) -> Batch:
    x, y, weights, lengths = (None if a is None else a.view() for a in batch[:4])
    for a in (x, y, weights, lengths):
        if a is not None:
            a.flags.writeable = False
    return Batch(cast("np.ndarray", x), cast("np.ndarray", y), weights, lengths, batch.at_end)


class ByStep:
    """A function of the step: the method `batch` of a task."""

    per_epoch: int | None = None
    has_epochs, epoch, ends, passes = False, 0, False, 0

    def __init__(self, kind: Kind, data: Any, name: str) -> None:
        self.kind, self.data, self.name, self.step = kind, data, name, 0
        self.shared: Shared | None = None

    def begin(self, step: int) -> None:
        self.step = step

    def next(self) -> Batch | None:
        self.step += 1
        return self._make(self.step - 1) if self.shared is None else self.shared.get(self.step - 1, self._make)

    def _make(self, step: int) -> Batch:
        return self.kind.conform(self.data.batch(step), f"{self.name}.batch({step})")

    def describe(self) -> str:
        return described(self.data)


class Calls:
    """A function without arguments that returns the next batch."""

    per_epoch: int | None = None
    has_epochs, epoch, ends, passes = False, 0, False, 0

    def __init__(self, kind: Kind, data: Callable[[], Any], name: str) -> None:
        self.kind, self.data, self.name = kind, data, name

    def begin(self, step: int) -> None:
        for _ in range(step):
            self.data()

    def next(self) -> Batch | None:
        return self.kind.conform(self.data(), f"{self.name}()")

    def describe(self) -> str:
        return described(self.data)


class Iterations:
    """An iterable of batches, begun anew when it ends."""

    per_epoch: int | None = None
    has_epochs = True
    _END = object()

    def __init__(self, kind: Kind, data: Any, name: str) -> None:
        self.kind, self.data, self.name = kind, data, name
        self.iterator: Iterator[Any] | None = None
        self.ahead: Any = self._END
        self.epoch, self.ends, self.passes, self.drawn = 0, False, 0, 0

    def begin(self, step: int) -> None:
        for _ in range(step):
            if self._draw() is self._END:
                raise ValueError(f"{self.name} must yield the {step} batches that the run has used, got {self.drawn}")

    def next(self) -> Batch | None:
        drawn = self._draw()
        return None if drawn is self._END else self.kind.conform(drawn, f"batch {self.drawn - 1} of {self.name}")

    def _draw(self) -> Any:
        """Return the next batch, and look whether it is the last of its epoch."""
        if self.ahead is self._END:
            iterator = iter(self.data)
            if iterator is self.iterator:  # it cannot begin anew
                return self._END
            self.iterator = iterator
            self.ahead = next(iterator, self._END)
            if self.ahead is self._END:
                return self._END
        assert self.iterator is not None
        drawn, self.ahead = self.ahead, next(self.iterator, self._END)
        self.epoch, self.ends = self.passes, self.ahead is self._END
        self.passes += self.ends
        self.drawn += 1
        return drawn

    def describe(self) -> str:
        return described(self.data)


def described(value: object) -> str:
    """Return a text for a value that does not depend on where it lies in memory."""
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{getattr(value, '__module__', '')}.{name}"
    kind = type(value)
    if kind.__repr__ is object.__repr__ or " at 0x" in repr(value) or isinstance(value, list | dict | set):
        return f"{kind.__module__}.{kind.__qualname__}"
    return f"{value!r:.1000}"


def source(kind: Kind, data: Any, batch_size: int | None, seed: int, name: str) -> Source:
    """Return the batches of any kind of data."""
    expected = (
        "(x, y), (x, y, weights), a list of such sequences, an object with a method batch(step), or what yields "
        "batches when it is called or iterated"
    )
    if isinstance(data, list) and not data:
        raise ValueError(f"{name} must be {expected}, got an empty list")
    if isinstance(data, tuple):
        return Arrays(kind, data, batch_size, seed, name)
    if isinstance(data, list) and _is_sequence(data[0]):
        return Sequences(kind, data, batch_size, seed, name)
    if data is None or isinstance(data, np.ndarray | str | bytes | dict | int | float):
        raise TypeError(f"{name} must be {expected}, got {type(data).__name__}")
    if batch_size is not None:
        raise ValueError(f"batch_size must be None where data has batches of its own, got {batch_size}")
    if callable(getattr(data, "batch", None)):
        return ByStep(kind, data, name)
    if callable(data):
        return Calls(kind, data, name)
    if hasattr(data, "__iter__"):
        return Iterations(kind, data, name)
    raise TypeError(f"{name} must be {expected}, got {type(data).__name__}")


def _is_sequence(item: Any) -> bool:
    """Whether an item of a list is one sequence; else it is a batch."""
    x: MaybeArray = item[0] if isinstance(item, tuple | list) and len(item) in (2, 3) else None
    return x is None or np.ndim(x) != 3


def split(known: Known, fraction: float, seed: int, again: Callable[[], Known]) -> Known:
    """Take a fraction of the sequences away from a source, and return a source of them; again: makes it once more."""
    n = known.n
    held = max(1, round(fraction * n))
    if held >= n:
        raise ValueError(f"validation must leave one sequence or more to train on, got {fraction} of {n} sequences")
    order = generator(seed, SPLIT, 0).permutation(n)
    other = again()
    other.choose(np.sort(order[:held]))
    known.choose(np.sort(order[held:]))
    return other
