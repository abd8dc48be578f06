"""The picture of the main job. Matplotlib is imported when it is drawn, without pyplot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn.plots.drawing import BLUE, GREEN, GREY, ORANGE, format_of, require_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pyrnn.demo.sunspots import Result, Series

LIGHT = "0.93"
STYLES: tuple[dict[str, Any], ...] = (
    {"color": ORANGE, "linestyle": (0, (3, 1.5))},
    {"color": BLUE, "linestyle": "-"},
)  # linear, network
MAX_LAG = 60


def draw(result: Result, path: str | os.PathLike[str]) -> None:
    """Draw the series with both models' forecasts, and how the gradient of one forecast vanishes over the lag.

    Parameters
    ----------
    result : pyrnn.demo.sunspots.Result
        From `pyrnn.demo.sunspots.run`.
    path : path-like
        Where to; overwritten.

    Raises
    ------
    PlotError
        Without matplotlib.
    OSError
        If the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    whole, tests, lag = figure.subplots(3, 1, height_ratios=[1, 1.1, 0.9])
    _draw_whole(whole, result)
    _draw_tests(tests, result)
    _draw_gradient_norms(lag, result)
    for axes in (whole, tests, lag):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format=format_of(path), dpi=130)


def _draw_whole(axes: Axes, result: Result) -> None:
    """The whole record with both models' forecasts; the test spans are shaded."""
    times = result.series.times
    _draw_forecasts(axes, result, slice(None), linewidth=1.1)
    _make_room(axes, 0.22)
    for span in result.spans:
        if span is not result.spans[0]:
            axes.axvspan(times[span.start], times[span.stop - 1], color=LIGHT, zorder=0)
        axes.annotate(
            span.name,
            (times[span.stop - 1], 1),
            (-4, -4),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right",
            va="top",
            color=GREY,
        )
    axes.legend(loc="upper left", frameon=False, ncols=3)
    axes.set_title(f"{_title(result.series)}: each value forecast from all before it", loc="left")


def _draw_tests(axes: Axes, result: Result) -> None:
    """The test spans alone, with both models and their errors."""
    times, (_, first, second) = result.series.times, result.spans
    _draw_forecasts(axes, result, slice(first.start, second.stop), linewidth=1.6, marker="o", markersize=3.5)
    _make_room(axes, 0.32)
    axes.set_facecolor(LIGHT)
    axes.axvline((times[second.start] + times[second.start - 1]) / 2, color=GREY, linewidth=0.8, linestyle=":")
    for column, span in ((1, first), (2, second)):
        lines = [f"{span.name}: mean squared error over the variance"]
        lines += [f"{result.errors[name][column]:.3f}  {name}" for name in result.forecasts]
        for k, (line, color) in enumerate(zip(lines, (GREY, ORANGE, BLUE), strict=True)):
            axes.annotate(
                line,
                (times[span.start], 1),
                (2, -3 - 14 * k),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                color=color,
                fontsize=9,
            )
    axes.set_title("The two test spans", loc="left")


def _draw_forecasts(axes: Axes, result: Result, rows: slice, *, linewidth: float, **observed: Any) -> None:
    """Observed values and both models' forecasts over `rows`."""
    times = result.series.times[rows]
    axes.plot(times, result.series.values[rows], color=GREY, linewidth=1, label="observed", **observed)
    for (name, forecasts), style in zip(result.forecasts.items(), STYLES, strict=True):
        axes.plot(times, forecasts[rows], linewidth=linewidth, label=name, **style)
    axes.margins(x=0.01)
    axes.set_xlabel("year" if result.series.unit else "time")
    axes.set_ylabel(result.series.unit or "value")


def _make_room(axes: Axes, share: float) -> None:
    """Raise the upper limit by `share` of the height, for text above the curves."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + share * (high - low))


def _title(series: Series) -> str:
    """The name for a title: no folders, and no mathematics where a file is named with dollars."""
    return os.path.basename(series.name).replace("$", r"\$")


def _draw_gradient_norms(axes: Axes, result: Result) -> None:
    """|grad_h_t| against the lag on a log axis: a straight fall is what a vanishing gradient looks like."""
    for color, (name, norms) in zip((GREEN, BLUE), result.gradient_norms.items(), strict=True):
        norms = np.where(norms > 0, norms, np.nan)[:, : MAX_LAG + 1]  # an underflow to 0 has no place on the axis
        axes.semilogy(norms.T, color=color, linewidth=0.7, alpha=0.45)
        axes.semilogy(
            np.exp(np.log(norms).mean(axis=0)),
            color=color,
            linewidth=2.2,
            label=f"{name} (thick: geometric mean of {len(norms)} networks)",
        )
    axes.margins(x=0.01)
    axes.set_xlabel("lag T - t (steps back from the forecast)")
    axes.set_ylabel(r"norm of the gradient at $h_t$")
    axes.set_title(
        "The vanishing gradient: the last training forecast $o_T$, differentiated by each earlier hidden state $h_t$",
        loc="left",
    )
    axes.legend(loc="lower left", frameon=False)
