"""Training of many networks at once, one on each thread: `fit_population`."""

from __future__ import annotations

import contextvars
import copy
import inspect
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from pyrnn import _checks, _engines, config
from pyrnn._core import team
from pyrnn._interrupts import CtrlC
from pyrnn._progress import Progress
from pyrnn.layers.rnn import RNN
from pyrnn.training.batches import ByStep, Shared
from pyrnn.training.fitting import Run, fit
from pyrnn.training.history import History
from pyrnn.training.optimizers import Optimizer

if TYPE_CHECKING:
    from pyrnn._types import Path

SHOWN = 8  # networks that a warning names


class Member(NamedTuple):
    """One network of a `Population`.

    Attributes
    ----------
    number : int
        What `make` was called with.
    rnn : RNN or None
        None if `make` raised an error.
    history : History or None
        None if the training could not begin.
    error : BaseException or None
        What `make`, the data, a loss or a callback raised, or `CheckpointError`.
    """

    number: int
    rnn: RNN | None
    history: History | None
    error: BaseException | None

    @property
    def failure(self) -> str | None:
        """Why the network is not trained, in words; None if nothing went wrong."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return self.history.stopped if self.history is not None and self.history.diverged else None


class Population(Sequence[Member]):
    """What `fit_population` returns: a sequence of `Member`, in the order of their numbers.

    Parameters
    ----------
    members : iterable of Member

    Attributes
    ----------
    rnns : list of RNN
        The networks that did not fail.
    histories : list of History
        Their histories.
    failed : dict of int to str
        The numbers of the others, and why: an exception, or a loss or gradient that became NaN or infinite.
    seconds : float
        How long the call took.

    See Also
    --------
    fit_population

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=2, batch_size=16)
    >>> population = pyrnn.fit_population(lambda k: pyrnn.RNN(2, 8, output_size=2, rng=k), 3, task, steps=5)
    >>> population
    Population(3 networks, stopped: 3 'steps')
    >>> population[2].history.stopped, len(population.rnns), population.failed
    ('steps', 3, {})
    """

    def __init__(self, members: Iterable[Member]) -> None:
        self._members = tuple(members)
        self.seconds = 0.0

    @property
    def rnns(self) -> list[RNN]:
        return [member.rnn for member in self._members if member.failure is None and member.rnn is not None]

    @property
    def histories(self) -> list[History]:
        return [member.history for member in self._members if member.failure is None and member.history is not None]

    @property
    def failed(self) -> dict[int, str]:
        return {member.number: member.failure for member in self._members if member.failure is not None}

    @overload
    def __getitem__(self, index: int) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Member, ...]: ...
    def __getitem__(self, index: int | slice) -> Member | tuple[Member, ...]:
        return self._members[index]

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        reasons = [history.stopped for history in self.histories]
        counts = [f"{reasons.count(reason)} {reason!r}" for reason in dict.fromkeys(reasons)]
        parts = [f"{len(self)} network{'s' * (len(self) != 1)}"]
        parts += [f"stopped: {', '.join(counts)}"] if counts else []
        parts += [f"failed: {_listed(self.failed)}"] if self.failed else []
        return f"{type(self).__name__}({', '.join(parts)})"


def fit_population(
    make: Callable[[int], RNN],
    K: int,
    data: Any = None,
    *,
    each: Callable[[int], Mapping[str, Any]] | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: bool = True,
    n_threads: int | None = None,
    rng: int | None = 0,
    **options: Any,
) -> Population:
    """Train K networks as `fit` trains one, each on one thread, several at once.

    Parameters
    ----------
    make : callable
        ``make(k)`` returns the k-th RNN, k from 0 to K - 1. It is called in this order before the training begins.
    K : int
        How many networks.
    data
        Arrays, a list or an object with a method ``batch(step)``, such as a task, as in `fit`: all networks read the
        same. Functions and iterables that return the next batch cannot be shared: give each network its own, by `each`.
    each : callable, optional
        ``each(k)`` returns a dict of arguments of `fit` for the k-th network alone, such as ``{"data": datasets[k]}``,
        which take the place of the common ones. It is called on the thread that trains the network.
    checkpoint : path, optional
        A folder with one file for each network, as `fit` writes them: ``network-0000.npz`` and so on. It is made if it
        is not there.
    resume : bool
        Whether to go on from the files that are in the folder.
    progress : bool
        Whether to show one line about all networks if standard error is a terminal.
    n_threads : int, optional
        How many networks are trained at once; None for that of `pyrnn.config.using`, PYRNN_NUM_THREADS, or the number
        of processors. Results do not depend on it.
    rng : int, optional
        The seed that those of the networks are made from; None to draw one for each network.
    options
        All other arguments of `fit`, such as ``steps``, ``loss`` and ``optimizer``.

    Returns
    -------
    Population
        The networks and their histories, in order.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value, data cannot be shared, or networks share parameters.
    Exception
        If no network can be trained at all: that of the first one. Bad arguments of `fit` are found in this way.

    Warns
    -----
    RuntimeWarning
        If networks failed: which, and why. The others are not touched by that. If data ended before runs did.

    See Also
    --------
    fit : one network.

    Notes
    -----
    Network k has the bits that it has alone, on any number of threads: those of
    ``fit(make(k), data, rng=seed, ...)`` with ``seed = SeedSequence(rng, spawn_key=(k,)).generate_state(1, uint64)[0]``
    of NumPy, which is ``history.seed`` of its history. Its calls use one thread.

    Each network gets an optimizer of its own, with the arguments of `optimizer` and no state, and copies of the
    penalties. Losses, schedules and callbacks are shared, and called on the thread that trains the network, at the same
    time as for other networks: give objects that remember something to each network, by `each`. A batch of a task is
    made once for all networks that come to its step at about the same time. Its arrays are read only.

    After Ctrl-C each network ends after its last whole step, and writes its file; the networks so far are returned,
    with ``stopped='interrupted'`` in their histories. A second Ctrl-C does not wait for them.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=2, batch_size=16)
    >>> make = lambda k: pyrnn.RNN(task.input_size, 16, output_size=task.output_size, rng=k)
    >>> options = {"steps": 20, "optimizer": pyrnn.training.Adam(lr=1e-2), "clip_norm": 1.0}
    >>> population = pyrnn.fit_population(make, 4, task, **options)
    >>> alone, seed = make(3), population[3].history.seed
    >>> history = pyrnn.fit(alone, task, rng=seed, **options)
    >>> bool((alone.parameters == population[3].rnn.parameters).all())
    True
    """
    begin = time.monotonic()
    K = _checks.positive_integer("K", K)
    if not callable(make):
        raise TypeError(f"make must be a function of the number of a network, got {make!r}")
    if each is not None and not callable(each):
        raise TypeError(f"each must be a function of the number of a network or None, got {each!r}")
    for name, value in (("resume", resume), ("progress", progress)):
        _checks.check_flag(name, value)
    _engines.check_threads(n_threads)
    rng = None if rng is None else _checks.integer_within("rng", rng, 0)
    _check_names(options, "fit_population")
    if not _can_be_shared(data):
        raise TypeError(
            "data must be arrays, a list or an object with a method batch(step), which all networks can read, got "
            f'{type(data).__name__}: give each network its own, by each=lambda k: {{"data": ...}}'
        )
    folder = None if checkpoint is None else _folder(checkpoint)
    common = {"data": data, "rng": rng, "resume": resume, "progress": False, **options}
    networks = _made(make, K)
    threads = min(K, team.default_threads() if n_threads is None else n_threads)
    _Training(networks, common, each, folder).train(threads, progress)
    population = Population(Member(n.number, n.rnn, n.history, n.error) for n in networks)
    first = networks[0].error
    if first is not None and all(network.history is None for network in networks):
        raise first
    _warn(population)
    population.seconds = time.monotonic() - begin
    return population


# ---- Arguments ------------------------------------------------------------------------------------------------------
NOT_OF_EACH = {"rnn", "checkpoint", "resume", "progress", "n_threads"}


def _check_names(given: Mapping[str, Any], where: str) -> None:
    """Raise unless these are arguments that `fit` has and a network may have of its own."""
    known = set(inspect.signature(fit).parameters) - NOT_OF_EACH
    for name in given:
        if name not in known:
            raise TypeError(f"{where} got an unexpected argument {name!r}: it is none of pyrnn.fit for one network")


def _can_be_shared(data: Any) -> bool:
    """Whether several threads may read it at once: not what has a place that moves, such as an iterator."""
    return callable(getattr(data, "batch", None)) or not (
        callable(data) or (hasattr(data, "__iter__") and not isinstance(data, tuple | list | np.ndarray | str | dict))
    )


def _folder(checkpoint: Path) -> str:
    path = os.fspath(checkpoint)
    path = path if isinstance(path, str) else os.fsdecode(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"checkpoint must be a folder, got the file {path!r}")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise ValueError(f"checkpoint must be a folder in one that is there, got {path!r}")
    os.makedirs(path, exist_ok=True)
    return path


class _Network:
    """One of the networks on its way."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.rnn: RNN | None = None
        self.history: History | None = None
        self.error: BaseException | None = None
        self.run: Run | None = None
        self.first = self.made = 0  # steps before this call and in it

    def steps(self) -> int:
        """Return how many steps were made in this call."""
        run = self.run
        return self.made if run is None else run.state.step - self.first


def _made(make: Callable[[int], RNN], K: int) -> list[_Network]:
    """Call `make` for all networks."""
    networks = [_Network(k) for k in range(K)]
    owners: dict[int, int] = {}  # by the address of the parameters
    for k, network in enumerate(networks):
        try:
            rnn = make(k)
            if not isinstance(rnn, RNN):
                raise TypeError(f"make must return a pyrnn.RNN, got {type(rnn).__name__}")
        except Exception as error:
            network.error = error
            continue
        owner = owners.setdefault(rnn.parameters.__array_interface__["data"][0], k)
        if owner != k:
            raise ValueError(f"make must return networks of their own, got the parameters of {owner} again for {k}")
        network.rnn = rnn
    return networks


# ---- The threads ----------------------------------------------------------------------------------------------------
class _Training:
    """What the threads share."""

    def __init__(
        self,
        networks: list[_Network],
        common: dict[str, Any],
        each: Callable[[int], Mapping[str, Any]] | None,
        folder: str | None,
    ) -> None:
        self.networks, self.common, self.each, self.folder = networks, common, each, folder
        self.waiting = iter([network for network in networks if network.error is None])
        self.lock = threading.Lock()
        self.ended = threading.Event()  # by Ctrl-C
        self.threads: list[tuple[threading.Thread, threading.Event]] = []  # each with what it sets when it ends
        self.shared: dict[Any, Shared] = {}  # batches of the common data, by what networks need of them
        self.owners: dict[int, tuple[Any, int]] = {}  # data that cannot be shared, and whose it is

    def train(self, n_threads: int, progress: bool) -> None:
        """Train all networks; return when all threads have ended."""
        with CtrlC(self._interrupt), Progress() as line:
            try:
                self._start(n_threads)
                self._wait(line if progress else None)
            except BaseException as error:
                second = self.ended.is_set()
                self.ended.set()
                if second or not isinstance(error, KeyboardInterrupt):
                    raise
                self._wait(None)  # the first Ctrl-C, where it is not ours to handle

    def _interrupt(self) -> None:
        """Ctrl-C: all runs end after their last whole step; a second one does not wait for them."""
        if self.ended.is_set():
            raise KeyboardInterrupt
        self.ended.set()

    def _start(self, n_threads: int) -> None:
        """Start so many threads, or as many as the system has: one will do."""
        for i in range(n_threads):
            context, idle = contextvars.copy_context(), threading.Event()  # with the caller's engine
            name = f"pyrnn.fit_population {i}"
            thread = threading.Thread(target=context.run, args=(self._work, idle), name=name)
            self.threads.append((thread, idle))
            try:
                thread.start()
            except RuntimeError:
                self.threads.pop()
                if i == 0:
                    raise
                return

    def _wait(self, line: Progress | None) -> None:
        """Return when all threads have ended."""
        begin = time.monotonic()
        # `Thread.join` does not do: in Python 3.11 it takes the thread for dead when an exception interrupts it.
        for thread, idle in self.threads:
            # Not without a limit: the system may give a signal to a thread that does not wake this one.
            while thread.ident is not None and not idle.wait(0.2):
                if line is not None:
                    line.show(self._progress(time.monotonic() - begin))

    def _progress(self, seconds: float) -> str:
        done = sum(n.run is None and (n.history is not None or n.error is not None) for n in self.networks)
        rate = sum(network.steps() for network in self.networks) / max(seconds, 1e-9)
        return f"{done} of {len(self.networks)} networks, {rate:.0f} steps/s"

    def _work(self, idle: threading.Event) -> None:
        """Train one network after the other, as long as there are some."""
        try:
            with config.using(n_threads=1):
                while True:
                    with self.lock:
                        network = next(self.waiting, None)
                    if network is None:
                        return
                    self._train(network)
        finally:
            idle.set()

    def _train(self, network: _Network) -> None:
        rnn = network.rnn
        assert rnn is not None
        try:
            given = self._given(network.number)
            if self.ended.is_set() and not (given["resume"] and os.path.exists(given["checkpoint"])):
                network.history = History((), given["rng"] or 0)
                network.history.stopped = "interrupted"
                return
            run = Run(rnn, **given)
            run.ended = self.ended
            if isinstance(run.source, ByStep) and given["data"] is self.common["data"]:
                with self.lock:
                    run.source.shared = self.shared.setdefault(run.kind.form, Shared())
            network.first, network.history, network.run = run.state.step, run.history, run
            run.train()
        except BaseException as error:
            network.error = error
            if network.history is not None:
                network.history.stopped = "error"
        finally:
            network.made, network.run = network.steps(), None
            rnn.__setstate__(rnn.__getstate__())  # without the memory of its last call

    def _given(self, k: int) -> dict[str, Any]:
        """The arguments of `fit` for one network."""
        seed, given = self.common["rng"], dict(self.common)
        given["rng"] = None if seed is None else int(_seed(seed, k))
        given["checkpoint"] = None if self.folder is None else os.path.join(self.folder, f"network-{k:04}.npz")
        if self.each is not None:
            own = self.each(k)
            if not isinstance(own, Mapping):
                raise TypeError(f"each must return a dict of arguments of pyrnn.fit, got {type(own).__name__}")
            _check_names(own, "each")
            given |= own
        self._claim(given["data"], k)
        arguments = inspect.signature(fit).parameters
        given = {name: p.default for name, p in arguments.items() if p.default is not p.empty} | given
        if isinstance(given["optimizer"], Optimizer):
            given["optimizer"] = given["optimizer"].fresh()
        given["penalties"] = copy.deepcopy(given["penalties"])
        return given

    def _claim(self, data: Any, k: int) -> None:
        """Raise an error if another network has data that cannot be shared."""
        if _can_be_shared(data):
            return
        with self.lock:
            _, owner = self.owners.setdefault(id(data), (data, k))
        if owner != k:
            raise ValueError(f"each must return data that no other network reads, got that of network {owner} for {k}")


def _seed(rng: int, k: int) -> np.uint64:
    """The seed of a network: a function of its number and the seed of all."""
    seed: np.uint64 = np.random.SeedSequence(rng, spawn_key=(k,)).generate_state(1, np.uint64)[0]
    return seed


# ---- Warnings -------------------------------------------------------------------------------------------------------
def _warn(population: Population) -> None:
    failed = population.failed
    if failed:
        warnings.warn(f"{len(failed)} of {len(population)} networks failed: {_listed(failed)}", RuntimeWarning, 3)
    short = [m.number for m in population if m.history is not None and m.history.stopped == "data"]
    if short:
        numbers = _listed(dict.fromkeys(short, ""))
        text = f"data of {len(short)} of {len(population)} networks ended before their runs did: {numbers}"
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def _listed(reasons: Mapping[int, str]) -> str:
    shown = [f"{k} ({reason:.200})" if reason else str(k) for k, reason in [*reasons.items()][:SHOWN]]
    return ", ".join(shown) + (f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else "")
