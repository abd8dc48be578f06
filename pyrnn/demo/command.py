"""``python -m pyrnn``: forecast the yearly sunspot numbers with a tanh RNN, beside a linear autoregression."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from types import ModuleType

DESCRIPTION = """\
Fit the yearly sunspot numbers with a tanh RNN by exact gradients (backpropagation through time and L-BFGS), and
forecast each year from all the years before it, beside a linear autoregression, AR(12). Both are trained on
1700-1920 and tested on 1921-1955 and 1956-1979. A few seconds; with matplotlib installed it also draws a picture."""

DATA_HELP = """CSV file of your own in place of the sunspots: UTF-8, a header, then two columns, time and value, equally
spaced and in order of time (rows are taken as they stand); at least 60 rows. The first 79 %% is for training."""


def main(argv: list[str] | None = None) -> int:
    """Run the main job; the exit status is 0, 2 for a bad argument or file, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # the name of a file need not fit the terminal's encoding
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has gone (`| head`): nothing more can be said, nor flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(options: argparse.Namespace) -> int:
    """Read, check the picture's destination, then do the long work."""
    # Here, so that --help need not wait for SciPy, nor Ctrl-C show a traceback.
    from pyrnn.demo import picture, sunspots
    from pyrnn.plots import drawing

    try:
        series = sunspots.load_sunspots() if options.data is None else sunspots.read_series(options.data)
        plot, no_plot_reason = _destination(options, drawing)
    except (sunspots.DataError, drawing.PlotError) as error:
        print(error, file=sys.stderr)
        return 2
    result = sunspots.run(series, hidden=options.hidden, seed=options.seed)
    if plot is None:
        print(no_plot_reason)
        return 0
    try:
        picture.draw(result, plot)
    except (drawing.PlotError, OSError) as error:
        print(f"{plot}: {error}", file=sys.stderr)
        return 2
    print(f"Picture: {plot}")
    return 0


def _destination(options: argparse.Namespace, drawing: ModuleType) -> tuple[str, None] | tuple[None, str]:
    """Where the picture goes, checked; or None and the reason. Only a picture that was asked for can be an error."""
    if options.no_plot:
        return None, "Picture: none (--no-plot)"
    try:
        drawing.require_matplotlib()
    except drawing.PlotError as error:
        if options.plot is not None:
            raise
        return None, f"Picture: none; {error}"
    plot = "sunspots.png" if options.plot is None else options.plot
    drawing.check_destination(plot)
    return plot, None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pyrnn", description=DESCRIPTION)
    parser.add_argument("--seed", type=_integer(0), default=0, help="seed of the random starts (default: 0)")
    parser.add_argument("--hidden", type=_integer(1, 1000), default=8, help="hidden units, 1 to 1000 (default: 8)")
    picture = parser.add_mutually_exclusive_group()
    picture.add_argument("--plot", metavar="FILE", help="picture to write (default: sunspots.png, overwritten)")
    picture.add_argument("--no-plot", action="store_true", help="write no picture")
    parser.add_argument("--data", metavar="FILE", help=DATA_HELP)
    return parser


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: an integer of at least `low` and at most `high`."""
    wanted = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return value

    return parse
