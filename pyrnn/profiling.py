"""Where the time of a block of calls goes, counted inside the compiled loops."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast, overload

from pyrnn._core import profile as counters
from pyrnn._core import table as kernels

if TYPE_CHECKING:
    from pyrnn._types import AnyFunction, Compiled

running: profile | None = None  # the profile that records, for the places that ask before every call
_lock = threading.Lock()


class PhaseRecord(NamedTuple):
    """What one thread did in one phase on arrays of one dtype."""

    phase: str
    thread: int
    member: int
    dtype: str
    calls: int
    seconds: float
    flops: float
    bytes: float


class PhaseTotals(NamedTuple):
    """A sum of records; fraction_of_peak is None where there is no flop or no peak."""

    calls: int
    seconds: float
    flops: float
    bytes: float
    fraction_of_peak: float | None


class FunctionTotals(NamedTuple):
    """Calls of a public function, their seconds, and how many of these the phases on the calling thread account for."""

    calls: int
    seconds: float
    phase_seconds: float


class profile:
    """Record what every pyrnn call in a ``with`` block does, in all threads of the process.

    Attributes
    ----------
    seconds : float
        How long the block took.
    instruction_set : str
        That of the kernels in use at the end of the block.
    peak : dict of str to float
        For each dtype that occurred, the flop/s of one thread when it does nothing but multiply-adds in registers,
        measured at the end of the block. Empty where the kernels are plain C, whose own peak says nothing about BLAS.
    records : tuple of PhaseRecord
        ``(phase, thread, member, dtype, calls, seconds, flops, bytes)``. Threads are numbered in the order in which
        they first did something; member is 0 for a thread that called pyrnn, else the thread's place in its team.
    phases : dict of str to PhaseTotals
        ``(calls, seconds, flops, bytes, fraction_of_peak)`` of each phase, over all threads.
    threads : dict of int to PhaseTotals
        The same of each thread, over all phases.
    functions : dict of str to FunctionTotals
        ``(calls, seconds, phase_seconds)`` of each public function. What a function spends beyond its phases goes to
        checks of arguments, memory and Python, or, for `loss_and_gradients` and the losses, to NumPy.

    Raises
    ------
    RuntimeError
        On entering the block while another profile records: a process has one at a time.

    Notes
    -----
    The phases are

    - pack: weights, inputs and deltas laid out for the kernels, or weights transposed for BLAS;
    - forward recurrence: b + U x_t + W h_{t-1} and tanh (10.8, 10.9);
    - input product: U x_t for all steps of a chunk of time (10.8), where that is faster than within the step: in the
      ``blas`` engine, and in the ``fused`` one with fewer than four sequences;
    - backward recurrence: Wᵀ delta_{t+1} and the slope (10.21), in `backward` and `state_gradients`;
    - weight gradients: dU, dW and db (10.28, 10.26, 10.23);
    - input gradients: dx and dh0;
    - output layer, output gradients: `output` (10.10) and `output_gradients` (10.19, 10.22, 10.24);
    - jacobian: diag(1 - h_t²) W;
    - wait: for tasks that other members of the team are still at.

    A *call* of a phase is one chunk of time on one thread. *Flops* are two for each multiply-add of a matrix product,
    one for each product of a Jacobian, and none for tanh, slopes, biases and sums of columns: 2 T B H I for the inputs.
    *Bytes* count each operand once per call of a function, as read or written, whatever passes through the caches:
    T B I + T B H + H I numbers in the input product. *Seconds* of a phase are summed over threads, so that
    rates are those of one thread. In the ``blas`` engine BLAS may use threads of its own within a phase, which are not
    seen here: there fraction_of_peak may exceed 1. A phase that began before the block does not count.

    While no profile records, a call pays for one look at a number and each chunk of time for some more.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize(8, 16, rng=0)
    >>> with pyrnn.profile() as p:
    ...     h = pyrnn.forward(np.ones((10, 4, 8)), params.U, params.W)
    >>> p.functions["forward"].calls
    1
    >>> p.phases["forward recurrence"].flops == 2 * 10 * 4 * 16 * (8 + 16)
    True
    """

    seconds: float
    instruction_set: str
    peak: dict[str, float]
    records: tuple[PhaseRecord, ...]
    functions: dict[str, FunctionTotals]

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.seconds, self.instruction_set, self.peak, self.records, self.functions = 0.0, "", {}, (), {}

    def __enter__(self) -> Self:
        global running
        with _lock:
            if running is not None:
                raise RuntimeError("a pyrnn.profile() is already recording: a process has one at a time")
            self._clear()
            running = self
            self._since = time.perf_counter()
            counters.start()
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        global running
        with _lock:
            counts = counters.stop()
            self.seconds = time.perf_counter() - self._since
            running = None
        self.instruction_set = kernels.selected()
        self.records = tuple(
            PhaseRecord(phase, thread, member, dtype, calls, seconds, flops, nbytes)
            for thread, member, phase, dtype, calls, seconds, flops, nbytes in sorted(
                counts, key=lambda count: count[0]
            )
        )
        if self.instruction_set != "base":
            self.peak = {dtype: _peak(self.instruction_set, dtype) for dtype in sorted({r.dtype for r in self.records})}

    def _count(self, name: str, seconds: float, phase_seconds: float) -> None:
        with _lock:
            if running is self:
                old = self.functions.get(name, FunctionTotals(0, 0.0, 0.0))
                self.functions[name] = FunctionTotals(
                    old.calls + 1, old.seconds + seconds, old.phase_seconds + phase_seconds
                )

    def _totals(self, records: list[PhaseRecord]) -> PhaseTotals:
        calls, seconds = sum(r.calls for r in records), sum(r.seconds for r in records)
        flops, bytes_ = sum(r.flops for r in records), sum(r.bytes for r in records)
        at_peak = sum(r.flops / self.peak[r.dtype] for r in records) if self.peak else 0.0
        return PhaseTotals(calls, seconds, flops, bytes_, at_peak / seconds if at_peak and seconds else None)

    @property
    def phases(self) -> dict[str, PhaseTotals]:
        return {
            phase: self._totals(records)
            for phase in counters.PHASES
            if (records := [r for r in self.records if r.phase == phase])
        }

    @property
    def threads(self) -> dict[int, PhaseTotals]:
        return {
            thread: self._totals([r for r in self.records if r.thread == thread])
            for thread in sorted({r.thread for r in self.records})
        }

    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...
    def to_json(self, path: str | PathLike[str] | None = None) -> str | None:
        """All that was recorded, as JSON.

        Parameters
        ----------
        path : str or path-like, optional
            Where to write it; None to get it as a string.

        Returns
        -------
        text : str, or None if it was written to a file
            An object with ``seconds``, ``instruction_set``, ``peak``, ``functions`` and ``records``: the attributes of
            this class, tuples as objects.
        """
        text = json.dumps(
            {
                "seconds": self.seconds,
                "instruction_set": self.instruction_set,
                "peak": self.peak,
                "functions": {name: totals._asdict() for name, totals in self.functions.items()},
                "records": [record._asdict() for record in self.records],
            },
            indent=1,
        )
        if path is None:
            return text
        Path(path).write_text(text + "\n", encoding="utf-8")
        return None

    def __str__(self) -> str:
        if not self.records and not self.functions:
            return "pyrnn.profile: nothing recorded"
        peaks = ", ".join(f"{peak / 1e9:.1f} GFLOP/s in {dtype}" for dtype, peak in self.peak.items())
        lines = [
            f"{self.seconds:.4f} s, kernels {self.instruction_set}" + (f", peak of a thread {peaks}" if peaks else "")
        ]
        if self.functions:
            lines += ["", f"{'function':24}{'calls':>8}{'seconds':>11}{'in phases':>11}"]
        for name, (calls, seconds, phase_seconds) in self.functions.items():
            lines.append(f"{name:24}{calls:8}{seconds:11.5f}{_percent(phase_seconds, seconds):>11}")
        names = {r.thread: f"{r.thread} ({f'member {r.member}' if r.member else 'caller'})" for r in self.records}
        whole = sum(r.seconds for r in self.records)
        for title, table in (
            ("phase", self.phases),
            ("thread", {names[thread]: totals for thread, totals in self.threads.items()}),
        ):
            lines += [
                "",
                f"{title:24}{'calls':>8}{'seconds':>11}{'share':>11}{'GFLOP/s':>11}{'of peak':>11}{'GB/s':>11}",
            ]
            for name, (calls, seconds, flops, bytes_, fraction) in table.items():
                lines.append(
                    f"{name:24}{calls:8}{seconds:11.5f}{_percent(seconds, whole):>11}{_rate(flops, seconds):>11}"
                    f"{'' if fraction is None else f'{100 * fraction:.1f} %':>11}{_rate(bytes_, seconds):>11}"
                )
        return "\n".join(line.rstrip() for line in lines)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _rate(count: float, seconds: float) -> str:
    return f"{1e-9 * count / seconds:.1f}" if count and seconds else ""


_peaks: dict[tuple[str, str], float] = {}


def _peak(instruction_set: str, dtype: str) -> float:
    """The best measurement of this process so far, since other work can only make one smaller."""
    best = max(_peaks.get((instruction_set, dtype), 0.0), kernels.multiply_add_peak(dtype))
    _peaks[instruction_set, dtype] = best
    return best


class _Watch:
    """Seconds, and among them those of phases on this thread, since it was made."""

    def __init__(self) -> None:
        self.profile, self.phases, self.since = running, counters.own_seconds(), time.perf_counter()

    def stop(self, name: str) -> None:
        if self.profile is not None:
            self.profile._count(name, time.perf_counter() - self.since, counters.own_seconds() - self.phases)


class Measured:
    """An engine for one call of a public function, which lasts from the choice of the engine to the engine's return."""

    def __init__(self, engine: Compiled) -> None:
        self._engine, self._watch = engine, _Watch()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **named: _call(self._watch, getattr(self._engine, name), arguments, named)


def timed(function: AnyFunction) -> AnyFunction:
    """A public function whose calls a profile counts. For those of NumPy; the others ask for an engine: `Measured`."""

    @functools.wraps(function)
    def counted(*arguments: Any, **named: Any) -> Any:
        if running is None:
            return function(*arguments, **named)
        return _call(_Watch(), function, arguments, named)

    return cast("AnyFunction", counted)


def _call(watch: _Watch, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return function(*arguments, **named)
    finally:
        watch.stop(function.__name__)
