"""Training of a network as one call: `fit`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyrnn import _checks, _engines, config, losses
from pyrnn._interrupts import CtrlC
from pyrnn._progress import Progress
from pyrnn.layers.files import digest
from pyrnn.layers.rnn import RNN, gradients_of, outputs_of
from pyrnn.training import batches, run_files
from pyrnn.training import penalties as penalties_
from pyrnn.training.batches import Batch, Kind
from pyrnn.training.history import History
from pyrnn.training.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop

if TYPE_CHECKING:
    from pyrnn._types import Loss, OwnLoss, Path
    from pyrnn.layers.stack import Tape
    from pyrnn.training.batches import Source
    from pyrnn.training.penalties import Penalty, PenaltyOfRates

OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}
EVERY = 100  # steps between evaluations of data without epochs, and between checkpoints
EVENTS = ("on_train_begin", "on_step_end", "on_epoch_end", "on_train_end")


@dataclass(frozen=True)
class EarlyStopping:
    """When `fit` stops because the loss on the validation data no longer falls.

    Parameters
    ----------
    patience : int
        How many evaluations in a row may fail to be better than the best one.
    min_delta : float
        How much lower than the best loss an evaluation must be to count as better.

    Raises
    ------
    ValueError, TypeError
        If patience is not a positive integer, or min_delta not a finite number from 0 on.

    See Also
    --------
    pyrnn.fit

    Examples
    --------
    >>> import pyrnn
    >>> pyrnn.training.EarlyStopping(5, min_delta=1e-3)
    EarlyStopping(patience=5, min_delta=0.001)
    """

    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        _checks.positive_integer("patience", self.patience)
        if isinstance(self.min_delta, bool) or not _checks.is_finite_number(self.min_delta) or self.min_delta < 0:
            raise ValueError(f"min_delta must be a finite number from 0 on, got {self.min_delta!r}")


class FitState:
    """Where a run of `fit` is: what its callbacks get.

    Attributes
    ----------
    rnn : RNN
    optimizer : Optimizer
    history : History
    step : int
        How many updates have been made.
    epoch : int
        Of the last update, from 0.
    stopping : bool
        Whether `stop` was called.

    See Also
    --------
    pyrnn.fit

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> class UntilGood:
    ...     def on_step_end(self, state):
    ...         if state.history[-1]["loss"] < 0.1:
    ...             state.stop()
    >>> rnn, x = pyrnn.RNN(1, 8, output_size=1, rng=0), np.sin(np.arange(30.0))[:, None]
    >>> options = {"loss": "squared_error", "optimizer": pyrnn.training.Adam(lr=0.02), "steps": 1000}
    >>> pyrnn.fit(rnn, (x[:-1], x[1:]), callbacks=[UntilGood()], **options).stopped
    'callback'
    """

    def __init__(self, rnn: RNN, optimizer: Optimizer, history: History) -> None:
        self.rnn, self.optimizer, self.history = rnn, optimizer, history
        self.step = self.epoch = 0
        self.stopping = False

    def stop(self) -> None:
        """End the run after this step."""
        self.stopping = True


def fit(
    rnn: RNN,
    data: Any,
    *,
    loss: Loss | OwnLoss | None = None,
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] | Optimizer = "adam",
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    validation: Any = None,
    evaluate_every: int | None = None,
    early_stopping: int | EarlyStopping | None = None,
    penalties: Mapping[str, float] | Sequence[Penalty | PenaltyOfRates] | None = None,
    clip_norm: float | None = None,
    schedule: Callable[[int], float] | None = None,
    callbacks: Sequence[object] = (),
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    n_threads: int | None = None,
    rng: int | None = 0,
) -> History:
    """Train an RNN: update its parameters in place, step by step, and return the history.

    Parameters
    ----------
    rnn : RNN
        Dropout and noise act during the steps, and not in evaluations; mode and ``rnn.rng`` are put back at the end.
    data
        One of:

        - ``(x, y)`` or ``(x, y, weights)``, arrays: x (T, B, I), or (B, T, I) with batch_first, or (T, I), which is one
          sequence; y as the loss expects it for each step, or one for each sequence, classes (B,) or numbers (B, O),
          which counts at its last step; weights of each step or sequence, or of the shape of y.
        - a list of sequences of any lengths, ``(x_i, y_i)`` or ``(x_i, y_i, weights_i)`` with x_i (T_i, I).
        - an object with a method ``batch(step)``, such as the tasks of `pyrnn.tasks`, which returns a batch: arrays as
          above.
        - a function that returns a batch at each call, such as a ``Dataset`` of NeuroGym.
        - an iterable of batches, which is begun anew when it ends.
    loss : str or callable, optional
        "softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber", or a function of outputs,
        targets and weights (or None) that returns its value and its gradient with respect to the outputs. Outputs are
        (T, B, O), or (B, T, O) with batch_first, or (B, O) where targets are of whole sequences; weights are 0 behind
        the ends of sequences. None for ``data.loss``, which tasks have.
    optimizer : str or Optimizer
        One of `pyrnn.training` or its name in small letters, with its defaults. Its state is updated too.
    steps, epochs : int
        How long to train; one of them. An epoch shows each sequence once, or is a pass through an iterable; functions
        and tasks have no epochs.
    batch_size : int, optional
        How many sequences a step takes of arrays or of a list. They are shuffled for each epoch, and its last batch may
        be smaller. None for all of them.
    reduction : {"mean", "sum"}
        What a loss chosen by name is over steps, sequences and outputs: a mean over all that has a target, weighted by
        the weights, as in PyTorch; or the sum. Each batch is divided by its own weights. If all of them are 0 the loss
        is 0.
    validation : optional
        Data as of the first two kinds, on which the loss is evaluated; or a fraction of `data` to hold back for it.
    evaluate_every : int, optional
        After how many steps. None for the end of each epoch, or every 100 steps if there are no epochs.
    early_stopping : int or EarlyStopping, optional
        The patience. At the end the parameters of the best evaluation are put back, unless the run was interrupted.
    penalties : dict or sequence, optional
        A dict of strengths: "l2" and "l1" of all weights, "rates_l2", "rates_l1" and "rate_change" of what all layers
        send up, "vanishing"; or a sequence of objects, `L2`, `L1`, `RatesL2`, `RatesL1`, `RateChange` and `Vanishing`
        of `pyrnn.training`. Their sum has its own place in the records, beside the loss. Evaluations are without them.
    clip_norm : float, optional
        Clips the norm of the gradient, penalties included.
    schedule : callable, optional
        The learning rate of each step from 0 on, as of `pyrnn.training.schedules`; None for ``optimizer.lr``.
    callbacks : sequence of objects
        Called with a `FitState`: their methods ``on_train_begin``, ``on_step_end``, ``on_epoch_end`` and
        ``on_train_end``, where they have them. ``state.stop()`` ends the run.
    checkpoint : path, optional
        An .npz file that holds the state of the run, replaced as a whole every `checkpoint_every` steps (None for 100)
        and at the end.
    resume : bool
        Whether to go on from `checkpoint` if that file is there; else the run begins, and overwrites it.
    progress : bool
        Whether to show the progress if standard error is a terminal: by tqdm if it is installed.
    n_threads : int, optional
        The most threads that a call of the network uses; None for that of `pyrnn.config.using`, or the usual one.
    rng : int, optional
        The seed of all random numbers; None to draw one.

    Returns
    -------
    History
        Records of steps: ``step``, the number of updates before it; ``epoch``; ``loss``; ``lr``; ``norm``, of the
        gradient before clipping, with `clip_norm`; ``penalty``, with `penalties`. Records of evaluations: ``step``,
        ``epoch`` and ``validation_loss``.

    Raises
    ------
    ValueError, TypeError
        If an argument has no such value, data does not fit the network or the loss, or is NaN or infinite. Nothing is
        computed then, but for batches that are made during the run.
    ValueError
        With `resume`, if the file is damaged, or was written with another network, other data or other arguments.
    CheckpointError
        If the checkpoint cannot be written, say on a full disk. The old file is unchanged, network and optimizer are
        in the state after the last step, and the error has the `history`.

    Warns
    -----
    RuntimeWarning
        If the loss or the gradient becomes NaN or infinite. The run ends, with the parameters of the last step whose
        loss was finite; `History.stopped` tells the step. If data ends before the run does.

    See Also
    --------
    pyrnn.fit_population : many networks at once.
    pyrnn.tasks : tasks to train on.
    pyrnn.training.lbfgs : for small networks and losses without noise.

    Notes
    -----
    Parameters and records are a function of the network at the beginning, the data and the arguments, to the bit. The
    order of epoch k is drawn from its own place (rng, k) of Philox, a generator without a state that could be lost, and
    so are the dropout and the noise of each step. So a run that ends in any way and is resumed has the bits of one that
    was never interrupted, on any number of threads too; docs/training.md says what holds on another processor. Of
    functions and iterables, which cannot be asked for a step, the batches that were used are drawn once more and
    dropped: they must be the same ones again.

    Ctrl-C ends the run after the last whole step: the history says ``stopped='interrupted'``, and the checkpoint is
    written. Ctrl-C while that is written raises KeyboardInterrupt, and leaves the old file.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=2, batch_size=16)
    >>> rnn = pyrnn.RNN(task.input_size, 16, output_size=task.output_size, rng=0)
    >>> history = pyrnn.fit(rnn, task, steps=20, optimizer=pyrnn.training.Adam(lr=1e-2), clip_norm=1.0)
    >>> history.stopped, history[-1]["loss"] < history[0]["loss"]
    ('steps', True)
    """
    arguments = dict(locals())
    run = Run(**arguments)
    history = run.train()
    if run.warning:
        warnings.warn(run.warning, RuntimeWarning, stacklevel=2)
    return history


# ---- Arguments ------------------------------------------------------------------------------------------------------
def _checked_loss(loss: Any, data: Any) -> str | OwnLoss:
    if loss is None:
        loss = getattr(data, "loss", None)
        if loss is None:
            raise TypeError("loss must be given for data without an attribute loss, got None")
    if isinstance(loss, str) or not callable(loss):
        losses.check_loss(loss)
    return loss  # type: ignore[no-any-return]


def _checked_optimizer(optimizer: Any) -> Optimizer:
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))}, got {optimizer!r}")
        return OPTIMIZERS[optimizer]()
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a name or an optimizer of pyrnn.training, got {type(optimizer).__name__}")
    return optimizer


def _checked_stopping(early_stopping: Any, validation: Any) -> EarlyStopping | None:
    if early_stopping is None:
        return None
    if validation is None:
        raise ValueError(f"early_stopping must come with validation, got {early_stopping!r} without it")
    if isinstance(early_stopping, EarlyStopping):
        return early_stopping
    return EarlyStopping(_checks.positive_integer("early_stopping", early_stopping))


def _checked_callbacks(callbacks: Any) -> tuple[object, ...]:
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise TypeError(f"callbacks must be a sequence of objects, got {callbacks!r}")
    for callback in callbacks:
        if not any(callable(getattr(callback, event, None)) for event in EVENTS):
            raise TypeError(f"callbacks must have one of the methods {', '.join(EVENTS)}, got {callback!r}")
    return tuple(callbacks)


def _optional_integer(name: str, value: Any) -> int | None:
    return None if value is None else _checks.positive_integer(name, value)


def _fraction(validation: Any) -> float | None:
    """The fraction that is held back; None where validation is data or None."""
    if isinstance(validation, bool) or not isinstance(validation, int | float | np.integer | np.floating):
        return None
    if not 0 < validation < 1:
        raise ValueError(f"validation must be data, or a fraction above 0 and below 1, got {validation!r}")
    return float(validation)


# ---- The run --------------------------------------------------------------------------------------------------------
class Run:
    """One call of `fit`."""

    def __init__(self, rnn: Any, data: Any, **given: Any) -> None:
        self.began = time.monotonic()
        if not isinstance(rnn, RNN):
            raise TypeError(f"rnn must be a pyrnn.RNN, got {type(rnn).__name__}")
        if (given["steps"] is None) == (given["epochs"] is None):
            raise ValueError(
                f"one of steps and epochs must be given, got steps={given['steps']!r} and epochs={given['epochs']!r}"
            )
        self.rnn, self.given = rnn, given
        self.steps = _optional_integer("steps", given["steps"])
        self.epochs = _optional_integer("epochs", given["epochs"])
        reduction = given["reduction"]
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.kind = Kind(rnn, _checked_loss(given["loss"], data), reduction == "mean")
        self.optimizer = _checked_optimizer(given["optimizer"])
        batch_size = _optional_integer("batch_size", given["batch_size"])
        self.every = _optional_integer("evaluate_every", given["evaluate_every"])
        self.early = _checked_stopping(given["early_stopping"], given["validation"])
        self.penalties, self.of_parameters, self.of_rates = penalties_.checked(given["penalties"], rnn)
        self.penalty = 0.0  # of the step at hand
        self.clip_norm = given["clip_norm"]
        if self.clip_norm is not None and (
            isinstance(self.clip_norm, bool) or not _checks.is_finite_number(self.clip_norm) or self.clip_norm <= 0
        ):
            raise ValueError(f"clip_norm must be a positive number, got {self.clip_norm!r}")
        self.schedule = given["schedule"]
        if self.schedule is not None and not callable(self.schedule):
            raise TypeError(f"schedule must be a function of the number of a step, got {self.schedule!r}")
        self.callbacks = _checked_callbacks(given["callbacks"])
        _engines.check_threads(given["n_threads"])
        for name in ("resume", "progress"):
            _checks.check_flag(name, given[name])
        self.checkpoint_every = _optional_integer("checkpoint_every", given["checkpoint_every"]) or EVERY
        path = None if given["checkpoint"] is None else run_files.checked_path(given["checkpoint"])
        if path is None and (given["resume"] or given["checkpoint_every"] is not None):
            raise ValueError("checkpoint must be given with resume or checkpoint_every, got None")
        saved = run_files.read(path) if path is not None and given["resume"] and os.path.exists(path) else None
        self.seed = self._seed(given["rng"], saved)
        self._make_sources(data, batch_size, given["validation"])
        self.writer = None
        if path is not None:
            description = self._describe(batch_size)
            self.writer = run_files.Writer(path, description)
            if saved is not None:
                _compare(path, saved.description, description)
        self.history = History(() if saved is None else saved.records, self.seed)
        self.state = FitState(rnn, self.optimizer, self.history)
        self.draws = batches.Draws(self.seed)
        self.evaluated, self.best_loss, self.waited = 0, np.inf, 0
        self.best: np.ndarray | None = None
        self.written = self.called = 0  # the step of the last checkpoint, and how many ends of epochs were told
        self.previous = rnn.parameters.copy()
        self.held = self.pending = False
        self.ended = threading.Event()  # set by another thread: the run is to end as if interrupted
        self.warning: str | None = None  # what the caller is to be warned of
        if saved is not None:
            assert path is not None
            self._restore(path, saved.state)

    def _seed(self, rng: Any, saved: run_files.Saved | None) -> int:
        if rng is not None:
            return _checks.integer_within("rng", rng, 0)
        if saved is not None and isinstance(saved.description.get("rng"), int):
            return _checks.integer_within("rng of the checkpoint", saved.description["rng"], 0)
        return int(np.random.SeedSequence().generate_state(1)[0])

    def _make_sources(self, data: Any, batch_size: int | None, validation: Any) -> None:
        """Check the data, and make batches for steps and for evaluations."""
        self.source: Source = batches.source(self.kind, data, batch_size, self.seed, "data")
        if self.epochs is not None and not self.source.has_epochs:
            raise ValueError(f"epochs must be None for data without an end, got {self.epochs}: give steps")
        self.validation: batches.Known | None = None
        fraction = _fraction(validation)
        if fraction is not None:
            if not isinstance(self.source, batches.Known):
                raise ValueError(f"validation must be data, or None, for data that is no array or list, got {fraction}")
            again = lambda: batches.source(self.kind, data, batch_size, self.seed, "data")
            self.validation = batches.split(self.source, fraction, self.seed, again)  # type: ignore[arg-type]
        elif validation is not None:
            if not isinstance(validation, tuple | list):
                raise TypeError(
                    f"validation must be (x, y), (x, y, weights), a list of sequences or a fraction, got "
                    f"{type(validation).__name__}"
                )
            made = batches.source(self.kind, validation, batch_size, self.seed, "validation") if validation else None
            if not isinstance(made, batches.Known):
                raise ValueError("validation must be (x, y), (x, y, weights) or a list of sequences, got other batches")
            self.validation = made
        elif self.every is not None:
            raise ValueError(f"evaluate_every must come with validation, got {self.every} without it")

    def _describe(self, batch_size: int | None) -> dict[str, Any]:
        """What a run that is resumed must have in common with the one before."""
        given, validation = self.given, self.given["validation"]
        return {
            "rnn": digest(self.rnn.state_dict().arguments),
            "data": self.source.describe(),
            "loss": batches.described(self.kind.loss) if callable(self.kind.loss) else self.kind.loss,
            "optimizer": repr(self.optimizer),
            "batch_size": batch_size,
            "reduction": given["reduction"],
            "validation": _fraction(validation) or (self.validation.describe() if self.validation else None),
            "evaluate_every": self.every,
            "early_stopping": None if self.early is None else repr(self.early),
            "penalties": [batches.described(penalty) for penalty in self.penalties],
            "clip_norm": None if self.clip_norm is None else float(self.clip_norm),
            "schedule": None if self.schedule is None else batches.described(self.schedule),
            "rng": self.seed,
        }

    def _restore(self, path: str, state: run_files.State) -> None:
        parameters = self.rnn.parameters
        arrays = {"parameters": state.parameters, "previous": state.previous, "best": state.best}
        for name, a in arrays.items():
            if a is not None and (a.shape != parameters.shape or a.dtype != parameters.dtype):
                raise ValueError(
                    f"{path} must hold {name} of shape {parameters.shape} and dtype {parameters.dtype}, got {a.shape} "
                    f"and {a.dtype}"
                )
        try:
            self.optimizer.load_state_dict(state.optimizer)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold the state of {self.optimizer!r}: {error}") from None
        self.rnn.parameters = state.parameters
        self.previous[...] = state.previous
        self.best = None if state.best is None else state.best.copy()
        self.evaluated, self.best_loss, self.waited = state.evaluated, state.best_loss, state.waited
        self.state.step = state.step
        self.source.begin(state.step)
        self.state.epoch = self.source.epoch
        self.written, self.called = state.step, self.source.passes

    # ---- The loop ---------------------------------------------------------------------------------------------------
    def train(self) -> History:
        rnn, history = self.rnn, self.history
        mode, rng = rnn.training, rnn.rng
        try:
            rnn.train()
            threads = config.using(n_threads=self.given["n_threads"])
            with threads, CtrlC(self._interrupt), _Display(self.given["progress"], self._total()) as display:
                self._call("on_train_begin")
                history.stopped = self._loop(display)
        except KeyboardInterrupt:
            history.stopped = "interrupted"
        finally:
            rnn.train(mode)
            rnn.rng = rng
        if self.writer is not None and not history.diverged:
            self._write()
        if self.best is not None and not history.diverged and history.stopped != "interrupted":
            rnn.parameters = self.best
        self._call("on_train_end")
        history.seconds = time.monotonic() - self.began
        return history

    def _loop(self, display: _Display) -> str:
        """Make all steps; return why they ended."""
        state, source = self.state, self.source
        while True:
            if self.ended.is_set():
                return "interrupted"
            if self._is_due():
                self._evaluate()
            if state.step and source.ends and source.has_epochs and self.called < source.passes:
                self.called = source.passes
                self._call("on_epoch_end")
            if self.writer is not None and state.step % self.checkpoint_every == 0 and self.written < state.step:
                self._write()
            if self.early is not None and self.waited >= self.early.patience:
                return "early_stopping"
            if state.stopping:
                return "callback"
            if self.steps is not None and state.step >= self.steps:
                return "steps"
            if self.epochs is not None and source.passes >= self.epochs:
                return "epochs"
            batch = source.next()
            if batch is None:
                self.warning = f"data ended after {state.step} steps and cannot begin anew"
                return "data"
            problem = self._step(batch)
            if problem is not None:
                self.warning = f"{problem}: the parameters are those of the last finite loss"
                return problem
            display.show(state.step, self.history.records[-1]["loss"])
            self._call("on_step_end")

    def _total(self) -> int | None:
        if self.steps is not None:
            return self.steps
        return None if self.source.per_epoch is None or self.epochs is None else self.epochs * self.source.per_epoch

    def _step(self, batch: Batch) -> str | None:
        """Make one step; return what became NaN or infinite, if something did."""
        rnn, step = self.rnn, self.state.step
        rnn.rng = self.draws.at(batches.DROPOUT, step)
        o = outputs_of(rnn, batch.x, batch.lengths)
        value, do, total = self._loss(batch, o)
        value = value if total is None else value / total
        penalty = 0.0
        if np.isfinite(value):
            if total is not None:
                np.divide(do, total, out=do)
            self.penalty = 0.0
            gradients_of(rnn, self._at_steps(batch, do, o), self._add_to_rates if self.of_rates else None)
            penalty = self.penalty + sum(float(each.add(rnn)) for each in self.of_parameters)
        if not np.isfinite(value + penalty):
            rnn.parameters = self.previous
            return f"loss is {value + penalty} at step {step}"
        record: dict[str, Any] = {"step": step, "epoch": self.source.epoch, "loss": float(value)}
        if self.penalties:
            record["penalty"] = penalty
        record["lr"] = self.optimizer.lr if self.schedule is None else float(self.schedule(step))
        if not np.isfinite(rnn.gradients).all():
            return f"gradient is not finite at step {step}"
        self.held = True
        np.copyto(self.previous, rnn.parameters)
        norm = self.optimizer.step(rnn.parameters, rnn.gradients, lr=record["lr"], clip_norm=self.clip_norm)
        if norm is not None:
            record["norm"] = float(norm)
        self.history.records.append(record)
        self.state.step, self.state.epoch = step + 1, self.source.epoch
        self._release()
        return None

    def _add_to_rates(self, tape: Tape, layer: int, gradient: np.ndarray) -> None:
        for each in self.of_rates:
            self.penalty += float(each.add_to_rates(self.rnn, tape, layer, gradient))

    def _loss(self, batch: Batch, o: np.ndarray) -> tuple[Any, np.ndarray, float | None]:
        """The loss as it is summed, its gradient, and what a mean divides both by, None for a sum."""
        kind = self.kind
        o = o[self._ends(batch)] if batch.at_end else o
        if isinstance(kind.loss, str):
            value, do = losses.LOSSES[kind.loss](o, batch.targets, batch.weights)
            return value, do.astype(o.dtype, copy=False), (kind.divisor(batch) or 1.0) if kind.mean else None
        returned = kind.loss(o, batch.targets, batch.weights)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise TypeError(f"loss must return (value, gradient), got {type(returned).__name__}")
        (do,) = _checks.as_real_arrays(**{"the gradient of loss": returned[1]})
        _checks.check_shape("the gradient of loss", do, o.shape, "the outputs", o)
        if np.ndim(returned[0]) or not isinstance(returned[0], int | float | np.number | np.ndarray):
            raise TypeError(f"loss must return a number first, got {returned[0]!r:.80}")
        return float(returned[0]), do, None

    def _ends(self, batch: Batch) -> tuple[Any, Any]:
        """The place of the last step of each sequence."""
        B, axis = self.kind.size(batch), self.kind.batch_axis
        last = batch.x.shape[1 - axis] - 1 if batch.lengths is None else batch.lengths - 1
        return (np.arange(B), last) if axis == 0 else (last, np.arange(B))

    def _at_steps(self, batch: Batch, do: np.ndarray, o: np.ndarray) -> np.ndarray:
        """The gradient of all outputs from that of those that have targets."""
        if not batch.at_end:
            return do
        o[...] = 0  # the outputs are not read any more
        o[self._ends(batch)] = do
        return o

    # ---- Evaluations ------------------------------------------------------------------------------------------------
    def _is_due(self) -> bool:
        step = self.state.step
        if self.validation is None or step <= self.evaluated:
            return False
        if self.every is not None:
            return step % self.every == 0
        return self.source.ends if self.source.has_epochs else step % EVERY == 0

    def _evaluate(self) -> None:
        assert self.validation is not None
        kind = self.kind
        self.rnn.eval()
        try:
            total = weight = 0.0
            for batch in self.validation.in_order():
                value, _, divisor = self._loss(batch, outputs_of(self.rnn, batch.x, batch.lengths))
                if isinstance(kind.loss, str):
                    total, weight = total + float(value), weight + (0.0 if divisor is None else kind.divisor(batch))
                else:
                    total, weight = total + value * kind.size(batch), weight + kind.size(batch)
            loss = total / weight if weight else total
        finally:
            self.rnn.train()
        self.held = True
        step = self.evaluated = self.state.step
        self.history.records.append({"step": step, "epoch": self.state.epoch, "validation_loss": loss})
        if self.early is not None:
            self.waited += 1
            if loss < self.best_loss - self.early.min_delta:
                self.best_loss, self.waited = loss, 0
                self.best = self.rnn.parameters.copy() if self.best is None else self.best
                np.copyto(self.best, self.rnn.parameters)
        self._release()

    # ---- Files, callbacks, interrupts -------------------------------------------------------------------------------
    def _write(self) -> None:
        assert self.writer is not None
        state = run_files.State(
            self.state.step,
            self.evaluated,
            self.rnn.parameters,
            self.previous,
            self.optimizer.state_dict(),
            self.best,
            self.best_loss,
            self.waited,
        )
        self.writer.write(state, self.history)
        self.written = self.state.step

    def _call(self, event: str) -> None:
        for callback in self.callbacks:
            method = getattr(callback, event, None)
            if method is not None:
                method(self.state)

    def _interrupt(self) -> None:
        """Ctrl-C: it waits while the state of the run changes, which takes microseconds."""
        if self.held:
            self.pending = True
        else:
            raise KeyboardInterrupt

    def _release(self) -> None:
        """End a change of the state that an interrupt must not see half done."""
        self.held = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt


def _compare(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise unless a file is of this run."""
    for name, value in now.items():
        found, value = before.get(name), json.loads(json.dumps(value))
        if found == value:
            continue
        if isinstance(value, dict) and isinstance(found, dict):
            name, value, found = next((f"{name}, {n},", v, found.get(n)) for n, v in value.items() if found.get(n) != v)
        raise ValueError(f"{name} must be that of the run in {path}, {found!r}, got {value!r}")


class _Display:
    """A context with a line about the progress, if somebody sits there."""

    def __init__(self, wanted: bool, total: int | None) -> None:
        self.live = wanted and sys.stderr.isatty()
        self.total, self.last = total, 0.0
        self.bar: Any = None
        self.line: Progress | None = None

    def __enter__(self) -> _Display:
        if self.live:
            try:
                from tqdm import tqdm
            except ImportError:
                self.line = Progress()
            else:
                self.bar = tqdm(total=self.total, file=sys.stderr, unit="step", leave=False)
        return self

    def show(self, step: int, loss: float) -> None:
        """Say where the run is, not more often than five times a second."""
        if not self.live or time.monotonic() - self.last < 0.2:
            return
        self.last = time.monotonic()
        if self.bar is not None:
            self.bar.n = step
            self.bar.set_postfix_str(f"loss {loss:.4g}", refresh=True)
        elif self.line is not None:
            of = "" if self.total is None else f" of {self.total}"
            self.line.show(f"step {step}{of}, loss {loss:.4g}")

    def __exit__(self, *exception: object) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.line is not None:
            self.line.__exit__()
