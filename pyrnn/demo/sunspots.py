"""The main job: yearly sunspot numbers forecast by a tanh RNN, beside a linear autoregression.

``python -m pyrnn`` calls `run`. The network reads one number a year and forecasts the next year's, so whatever it
knows of the cycle of about eleven years it must carry in its hidden state. Its parameters are fitted by
`pyrnn.training.lbfgs` with the exact gradients of `pyrnn.loss_and_gradients` through the whole training record.

The comparison follows Weigend, Huberman and Rumelhart [1]_: training on 1700-1920, tests on 1921-1955 and 1956-1979,
one-step-ahead forecasts, and as the error the *average relative variance*: the mean squared error of a span over the
variance of the *whole* record 1700-1979 (of all rows, for a series of one's own). The first twelve years count
nowhere, neither in a fit nor in an error, for an AR(12) has no forecast of them. The size of the weight decay is chosen
inside the training years alone; no test year is looked at before the last table. (Papers give the variance of the
record as 1535; the numbers in this file have 1496, so the same forecasts show errors 2.6 % larger here.)

References
----------
.. [1] A. S. Weigend, B. A. Huberman and D. E. Rumelhart, "Predicting the future: a connectionist approach",
   International Journal of Neural Systems 1 (1990) 193-209.
"""

from __future__ import annotations

import csv
import importlib.resources
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np

from pyrnn import check_gradients, initialize, loss_and_gradients, simulate  # now, not under Ctrl-C later
from pyrnn.training import lbfgs

if TYPE_CHECKING:
    from pyrnn._types import Path
    from pyrnn.network import Network

LAST_YEAR = 1979  # of the standard comparison; the file goes on to 2008
AR_ORDER = 12
MIN_ROWS = 60
DECAYS = (0.5, 1.0, 2.0, 4.0)
CHOICE_RESTARTS = 4  # networks in the ensemble while the decay is chosen
FINAL_RESTARTS = 8  # and in the one that is reported
MAX_ITERATIONS = 500  # of L-BFGS; with a decay of 2 it has converged after 200 to 400


class DataError(ValueError):
    """A series that cannot be used; the message is one line that names the file."""


class Series(NamedTuple):
    """A time series: its name, times and values of the same length, and the unit of the values where known."""

    name: str
    times: np.ndarray
    values: np.ndarray
    unit: str | None = None


class Span(NamedTuple):
    """Rows ``start`` to ``stop - 1`` of a series."""

    name: str
    start: int
    stop: int


class Result(NamedTuple):
    """What `run` found, and what `pyrnn.demo.picture.draw` shows."""

    series: Series
    spans: tuple[Span, ...]
    forecasts: dict[str, np.ndarray]
    errors: dict[str, list[float]]
    decay: float
    seconds_per_step: float
    gradient_norms: dict[str, np.ndarray]


# ---------------------------------------------------------------------------------------------------- reading
def load_sunspots() -> Series:
    """Yearly sunspot numbers 1700-1979, from the file that comes with the package.

    Returns
    -------
    Series
        280 rows.

    Examples
    --------
    >>> from pyrnn.demo.sunspots import load_sunspots
    >>> series = load_sunspots()
    >>> len(series.values), round(series.values.var())
    (280, 1496)
    """
    with importlib.resources.as_file(importlib.resources.files("pyrnn.demo") / "data" / "sunspots.csv") as path:
        _, times, values, _ = read_series(path)
    standard = times <= LAST_YEAR
    return Series("Yearly sunspot numbers", times[standard], values[standard], "sunspot number")


def read_series(path: Path) -> Series:
    """Read a time series from a CSV file: UTF-8, a header, then rows of a time and a value.

    Parameters
    ----------
    path : path-like
        The file. Numbers may be quoted; empty lines are skipped; rows are taken in the order of the file.

    Returns
    -------
    Series
        float64, named like the file.

    Raises
    ------
    DataError
        For a file that cannot be read, a row that is not two finite numbers, fewer than 60 rows, or values that do
        not vary in the part that the first networks are fitted on.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = _read_rows(path, csv.reader(file))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8, got byte 0x{error.object[error.start]:02x}") from error
    _check_values(path, rows)
    return Series(str(path), *np.array(rows).T.copy())


def _read_rows(path: Path, reader: Any) -> list[tuple[float, float]]:
    """All rows below the header, as pairs of floats."""
    header, rows = None, []
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                header = _check_header(path, reader.line_num, row)
            else:
                rows.append(_numbers(path, reader.line_num, row))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if header is None:
        raise DataError(f"{path}: expected a header and at least {MIN_ROWS} rows, got an empty file")
    return rows


def _check_header(path: Path, line: int, row: list[str]) -> list[str]:
    """The header; a file without one would silently lose its first row."""
    try:
        _numbers(path, line, row)
    except DataError:
        return row
    raise DataError(f"{path}, line {line}: expected a header with two names, got {_shown(row)}")


def _numbers(path: Path, line: int, row: list[str]) -> tuple[float, float]:
    try:
        numbers = tuple(map(float, row))
    except ValueError:
        numbers = ()
    if len(numbers) != 2:
        raise DataError(f"{path}, line {line}: expected two numbers, got {_shown(row)}")
    if not np.isfinite(numbers).all():
        raise DataError(f"{path}, line {line}: expected two finite numbers, got {_shown(row)}")
    return numbers


def _shown(row: list[str]) -> str:
    text = ",".join(row)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _check_values(path: Path, rows: list[tuple[float, float]]) -> None:
    """Enough rows, and values that can be normalised in every part that a network is fitted on."""
    if len(rows) < MIN_ROWS:
        raise DataError(f"{path}: expected at least {MIN_ROWS} rows below the header, got {len(rows)}")
    values = np.array(rows)[:, 1]
    first = validation_folds(len(rows))[0].start
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if not np.isfinite(values.var() * len(values)):
            raise DataError(f"{path}: the values are too large, their variance is not finite")
        if not (values[:first].var() > 0 and np.ptp(values[:first]) > 0):
            raise DataError(f"{path}: the first {first} values are all {values[0]:g}, a constant cannot be forecast")


# ------------------------------------------------------------------------------------------------------ spans
def split(n_rows: int) -> tuple[Span, Span, Span]:
    """The training span and the two test spans, in the proportions of the sunspots' 221, 35 and 24 years.

    Parameters
    ----------
    n_rows : int
        Length of the series.

    Returns
    -------
    tuple of Span
        Training, first test and second test. Training begins after the twelve rows that AR(12) needs.

    Examples
    --------
    >>> from pyrnn.demo.sunspots import split
    >>> [(span.start, span.stop) for span in split(280)]
    [(12, 221), (221, 256), (256, 280)]
    """
    first, second = round(n_rows * 221 / 280), round(n_rows * 256 / 280)
    return (
        Span("training", AR_ORDER, first),
        Span("test 1", first, second),
        Span("test 2", second, n_rows),
    )


def validation_folds(n_rows: int) -> tuple[Span, ...]:
    """Three spans at the end of the training span; the networks judged on each are fitted on the rows before it.

    Parameters
    ----------
    n_rows : int
        Length of the series.

    Returns
    -------
    tuple of Span
        For the sunspots 1828-1858, 1859-1889 and 1890-1920, 31 years each.

    Examples
    --------
    >>> from pyrnn.demo.sunspots import validation_folds
    >>> [(span.start, span.stop) for span in validation_folds(280)]
    [(128, 159), (159, 190), (190, 221)]
    """
    stop = split(n_rows)[0].stop
    bounds = [round(stop * rows / 221) for rows in (128, 159, 190, 221)]
    return tuple(Span("validation", *pair) for pair in itertools.pairwise(bounds))


def average_relative_variance(forecasts: np.ndarray, values: np.ndarray, span: Span) -> float:
    """Mean squared error of the forecasts in `span`, over the variance of all `values`.

    Parameters
    ----------
    forecasts, values : (n,) arrays
        ``forecasts[t]`` is the forecast of ``values[t]``.
    span : Span
        The rows that count.

    Returns
    -------
    float
        0 for perfect forecasts, about 1 for the mean of the series.
    """
    rows = slice(span.start, span.stop)
    return float(np.mean((forecasts[rows] - values[rows]) ** 2) / np.var(values))


def _normalise(values: np.ndarray, n_fit: int) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The values with mean 0 and variance 1 over their first `n_fit`, and the way back for forecasts."""
    mean, deviation = values[:n_fit].mean(), values[:n_fit].std()
    return (values - mean) / deviation, lambda z: z * deviation + mean


# --------------------------------------------------------------------------------------------------- models
def autoregression(values: np.ndarray, n_fit: int, order: int = AR_ORDER) -> np.ndarray:
    """One-step forecasts of an autoregression with intercept, fitted by least squares.

    Parameters
    ----------
    values : (n,) array
        The series.
    n_fit : int
        The coefficients are fitted to ``values[:n_fit]`` alone.
    order : int
        Number of lags.

    Returns
    -------
    (n,) array
        The forecast of each value from the `order` values before it; NaN for the first `order`.
    """
    z, denormalise = _normalise(values, n_fit)
    lags = np.lib.stride_tricks.sliding_window_view(z, order)[:-1]  # row t: z[t], ..., z[t + order - 1]
    design = np.column_stack([lags, np.ones(len(lags))])
    coefficients = np.linalg.lstsq(design[: n_fit - order], z[order:n_fit], rcond=None)[0]
    return denormalise(np.concatenate([np.full(order, np.nan), design @ coefficients]))


def fit_network(
    values: np.ndarray,
    n_fit: int,
    *,
    hidden: int,
    decay: float,
    rng: np.random.Generator,
    on_iteration: Callable[[], object] | None = None,
) -> Network:
    """Fit one network to ``values[:n_fit]`` by L-BFGS, with exact gradients through the whole record.

    The objective is the sum of the squared one-step errors of the normalised values, from row 12 on, plus `decay`
    times the sum of the squares of all parameters. Sums, not means: the decay is the precision of a Gaussian prior,
    and what was chosen on a shorter record then suits a longer one.

    Parameters
    ----------
    values : (n,) array
        The series; what lies beyond ``n_fit`` is not looked at.
    n_fit : int
        Number of rows to fit.
    hidden : int
        Number of hidden units.
    decay : float
        Weight decay.
    rng : numpy.random.Generator
        Draws the start.
    on_iteration : callable, optional
        Called without arguments after each iteration.

    Returns
    -------
    pyrnn.Network
    """
    start = initialize(1, hidden, 1, rng=rng)
    x, targets, weights = _training_arrays(values, n_fit)

    def objective(vector: np.ndarray) -> tuple[np.float64, np.ndarray]:
        loss, gradients = loss_and_gradients(start.unravel(vector), x, targets, loss="squared_error", weights=weights)
        return loss + decay * (vector @ vector), gradients.parameters.ravel() + 2 * decay * vector

    # Not SciPy's L-BFGS-B: OpenBLAS wakes its threads for each of its tiny triangular systems, and waits for them
    # (scipy#22438, OpenBLAS#5383), which takes thirty times as long as all else on a busy machine.
    fitted = lbfgs(
        objective,
        start.ravel(),
        callback=None if on_iteration is None else lambda _: on_iteration(),
        maxiter=MAX_ITERATIONS,
    )
    return start.unravel(fitted.x)


def _training_arrays(values: np.ndarray, n_fit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs (T, 1), targets (T, 1) and weights (T,): this year's value, the next one's, and 1 from row 12 on."""
    z, _ = _normalise(values[:n_fit], n_fit)
    counts = np.arange(1, n_fit) >= AR_ORDER
    return z[:-1, np.newaxis], z[1:, np.newaxis], counts.astype(float)


def network_forecasts(network: Network, values: np.ndarray, n_fit: int) -> np.ndarray:
    """One-step forecasts of a fitted network, which is run through the whole series.

    Parameters
    ----------
    network : pyrnn.Network
        From `fit_network`.
    values : (n,) array
        The series.
    n_fit : int
        The number of rows that the network was fitted to, whose mean and variance normalise the input.

    Returns
    -------
    (n,) array
        The forecast of each value from all before it; NaN for the first.
    """
    z, denormalise = _normalise(values, n_fit)
    return denormalise(np.concatenate([[np.nan], simulate(network, z[:-1, np.newaxis]).output()[:, 0]]))


def _fit_ensemble(
    values: np.ndarray, n_fit: int, n_networks: int, *, hidden: int, decay: float, seed: int, progress: _Progress
) -> list[Network]:
    """Networks from several random starts; the k-th starts alike for every `decay` and `n_fit`."""
    networks = []
    for k in range(n_networks):
        rng = np.random.default_rng([seed, k])
        networks.append(
            fit_network(values, n_fit, hidden=hidden, decay=decay, rng=rng, on_iteration=progress.iteration)
        )
        progress.fit_done()
    return networks


def _ensemble_forecasts(networks: list[Network], values: np.ndarray, n_fit: int) -> np.ndarray:
    forecasts: np.ndarray = np.mean([network_forecasts(network, values, n_fit) for network in networks], axis=0)
    return forecasts


def _choose_decay(values: np.ndarray, *, hidden: int, seed: int, progress: _Progress) -> float:
    """The weight decay whose ensembles forecast the validation spans best. Test years are not looked at."""
    folds, training = validation_folds(len(values)), values[: split(len(values))[0].stop]
    options: dict[str, Any] = {"hidden": hidden, "seed": seed, "progress": progress}
    errors = {}
    for decay in DECAYS:
        fold_errors = []
        for fold in folds:
            networks = _fit_ensemble(training, fold.start, CHOICE_RESTARTS, decay=decay, **options)
            forecasts = _ensemble_forecasts(networks, training, fold.start)
            fold_errors.append(average_relative_variance(forecasts, training, fold))
        errors[decay] = float(np.mean(fold_errors))
        progress.line(f"  weight decay {decay:g}: error {errors[decay]:.3f} of the variance of the training span")
    return min(errors, key=errors.__getitem__)


# ---------------------------------------------------------------------------------------------------- the job
def run(series: Series, *, hidden: int = 8, seed: int = 0) -> Result:
    """Fit both models, printing as it goes: gradient check, choice of the decay, errors, cost of a step.

    Parameters
    ----------
    series : Series
        From `load_sunspots` or `read_series`.
    hidden : int
        Number of hidden units.
    seed : int
        Seed of the random starts.

    Returns
    -------
    Result
    """
    values, spans = series.values, split(len(series.values))
    n_fit = spans[0].stop
    _print_series(series, spans)
    _print_gradient_check(values, hidden, seed)

    n_choice = len(DECAYS) * len(validation_folds(len(values))) * CHOICE_RESTARTS
    print(f"Weight decay, chosen on {_validation_text(series)}:", flush=True)
    with _Progress(n_choice + FINAL_RESTARTS) as progress:
        decay = _choose_decay(values, hidden=hidden, seed=seed, progress=progress)
        progress.line(f"  {decay:g} it is: refitting on all of the training span from {FINAL_RESTARTS} random starts")
        networks = _fit_ensemble(
            values, n_fit, FINAL_RESTARTS, hidden=hidden, decay=decay, seed=seed, progress=progress
        )

    forecasts = {
        f"AR({AR_ORDER}), least squares": autoregression(values, n_fit),
        f"tanh RNN, {hidden} hidden": _ensemble_forecasts(networks, values, n_fit),
    }
    baseline = {"mean of the training span": np.full(len(values), values[:n_fit].mean())}
    errors = {
        name: [average_relative_variance(array, values, span) for span in spans]
        for name, array in (baseline | forecasts).items()
    }
    _print_errors(series, spans, errors)
    seconds = _seconds_per_step(networks[0], values, n_fit)
    print(
        f"\nBackpropagation through time, loss and all gradients: {seconds * 1e6:.2f} microseconds per step "
        f"(T = {n_fit - 1}, H = {hidden}, float64)",
        flush=True,
    )
    norms = {
        "at the random start": _lag_norms([_start(hidden, seed, k) for k in range(FINAL_RESTARTS)], values, n_fit),
        "fitted": _lag_norms(networks, values, n_fit),
    }
    return Result(series, spans, forecasts, errors, decay, seconds, norms)


def _start(hidden: int, seed: int, k: int) -> Network:
    """The k-th network of an ensemble before it is fitted."""
    return initialize(1, hidden, 1, rng=np.random.default_rng([seed, k]))


def _lag_norms(networks: list[Network], values: np.ndarray, n_fit: int) -> np.ndarray:
    """|grad_h_t| for t = T, T - 1, ..., when the loss is the last forecast alone: one row a network."""
    x, _, _ = _training_arrays(values, n_fit)
    norms = []
    for network in networks:
        run = simulate(network, x)
        dh, V = np.zeros_like(run.h), cast("np.ndarray", network.V)
        dh[-1] = V[0]  # o_T = V h_T + c, so its gradient at h_T is V
        norms.append(np.linalg.norm(run.state_gradients(dh), axis=-1)[::-1])
    return np.array(norms)


def _seconds_per_step(network: Network, values: np.ndarray, n_fit: int, repeats: int = 200) -> float:
    """Median time of `pyrnn.loss_and_gradients` over the training record, divided by its steps."""
    x, targets, weights = _training_arrays(values, n_fit)
    durations = []
    for _ in range(repeats):
        begin = time.perf_counter()
        loss_and_gradients(network, x, targets, loss="squared_error", weights=weights)
        durations.append(time.perf_counter() - begin)
    return statistics.median(durations) / len(x)


# --------------------------------------------------------------------------------------------------- printing
def _years(series: Series, span: Span) -> str:
    return f"{series.times[span.start]:.10g}-{series.times[span.stop - 1]:.10g}"


def _validation_text(series: Series) -> str:
    """The validation spans, in words."""
    folds = [_years(series, fold) for fold in validation_folds(len(series.values))]
    return f"{', '.join(folds[:-1])} and {folds[-1]} after fits to the rows before each"


def _print_series(series: Series, spans: tuple[Span, Span, Span]) -> None:
    n_rows = len(series.values)
    print(f"{series.name}, {_years(series, Span('all', 0, n_rows))}: {n_rows} rows")
    print(
        f"Trained on {_years(series, Span('training', 0, spans[0].stop))}, tested on "
        f"{_years(series, spans[1])} and {_years(series, spans[2])}; one-step-ahead forecasts",
        flush=True,
    )


def _print_gradient_check(values: np.ndarray, hidden: int, seed: int, steps: int = 40) -> None:
    """`pyrnn.check_gradients` at a random start: at an optimum the gradients are near 0, relative errors say little."""
    x, targets, _ = _training_arrays(values, steps + 1)
    worst = check_gradients(_start(hidden, seed, 0), x, targets, loss="squared_error")._asdict()
    print(f"\nGradient check over {steps} steps, worst relative error by parameter:")
    print(
        "  " + "  ".join(f"{name} {error:.1e}" for name, error in worst.items() if error is not None),
        end="\n\n",
        flush=True,
    )


def _print_errors(series: Series, spans: tuple[Span, Span, Span], errors: dict[str, list[float]]) -> None:
    """The table: one row a model, one column a span."""
    variance = np.var(series.values)
    rows = f"{len(series.values)} rows {_years(series, Span('all', 0, len(series.values)))}"
    print(f"\nMean squared error over the variance of all {rows}, {variance:.5g} (average relative variance):")
    width, columns = max(27, *map(len, errors)), [max(len(_years(series, span)), len(span.name)) for span in spans]
    for cells in ([span.name for span in spans], [_years(series, span) for span in spans]):
        print(f"  {'':{width}}" + "".join(f"  {cell:>{n}}" for cell, n in zip(cells, columns, strict=True)))
    for name, row in errors.items():
        print(f"  {name:{width}}" + "".join(f"  {error:{n}.3f}" for error, n in zip(row, columns, strict=True)))
    highest = [series.values[span.start : span.stop].max() for span in spans]
    maxima = "".join(f"  {value:{n}.5g}" for value, n in zip(highest, columns, strict=True))
    print(f"  {'(highest value of the span)':{width}}{maxima}")


class _Progress:
    """One line that is updated in place on a terminal; elsewhere only the lines that say something lasting."""

    def __init__(self, n_fits: int) -> None:
        self.n_fits, self.fits, self.iterations, self.last = n_fits, 0, 0, 0.0
        self.live = sys.stdout.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def iteration(self) -> None:
        self.iterations += 1
        self._show()

    def fit_done(self) -> None:
        self.fits, self.iterations = self.fits + 1, 0
        self._show()

    def line(self, text: str) -> None:
        self._clear()
        print(text, flush=True)

    def _show(self) -> None:
        if self.live and time.monotonic() - self.last > 0.1:
            self.last = time.monotonic()
            print(f"\r  fit {self.fits + 1:2} of {self.n_fits}, iteration {self.iterations:3} ", end="", flush=True)

    def _clear(self) -> None:
        if self.live:
            print("\r" + " " * 40 + "\r", end="", flush=True)
