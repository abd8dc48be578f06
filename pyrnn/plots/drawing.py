"""What pictures need: colours, and whether they can be drawn and written. Matplotlib is imported when it is used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

ORANGE, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"  # of Okabe and Ito, safe for colour-blind readers
COLORS = (BLUE, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#E69F00")  # for lines side by side
GREY = "0.25"


class PlotError(Exception):
    """A picture that cannot be made; the message is one line."""


def require_matplotlib() -> None:
    """Import matplotlib.

    Raises
    ------
    PlotError
        If that fails; the message says what to install.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotError(f"it needs matplotlib: python -m pip install 'pyrnn-bptt[plot]' ({error})") from error


def axes_or_new(ax: Any, size: tuple[float, float] = (6.0, 5.0)) -> Any:
    """Return the axes that were given, or those of a new figure, which pyplot does not know.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
    size : tuple of two float
        Of a new figure, in inches.

    Returns
    -------
    matplotlib.axes.Axes
        New ones have no lines at the top and at the right.

    Raises
    ------
    PlotError
        Without matplotlib.
    """
    require_matplotlib()
    if ax is None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def check_destination(path: str | os.PathLike[str]) -> None:
    """Find out, before the long work, whether a picture can be written to `path`.

    Parameters
    ----------
    path : path-like
        The picture; its suffix names the format (png without one).

    Raises
    ------
    PlotError
        For a suffix that matplotlib does not know, or a place that cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if format_of(path) not in known:
        raise PlotError(f"{path}: expected a suffix of {', '.join(known)}, got {Path(path).suffix!r}")
    existed = os.path.lexists(path)
    try:
        open(path, "ab").close()  # asking is the only way to know; permission bits do not tell all
        if not existed:
            os.unlink(path)
    except OSError as error:
        raise PlotError(f"{path}: cannot write the picture: {error.strerror or error}") from error


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a suffix names."""
    return Path(path).suffix[1:].lower() or "png"
