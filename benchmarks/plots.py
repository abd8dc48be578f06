"""Pictures of results.json: one for each question, and speed.png with the answers that README shows."""

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter
from PIL import Image
from tables import WORKS, geometric_mean, peers, select, values

COLORS = {  # of Okabe and Ito, safe for colour-blind readers
    "pyrnn": "#0072B2",
    "NumPy": "#E69F00",
    "PyTorch": "#D55E00",
    "JAX": "#009E73",
    "ONNX Runtime": "#CC79A7",
    "oneDNN": "#56B4E9",
}
AXES = {"H": "H, hidden units", "B": "B, sequences", "T": "T, steps", "I": "I, inputs"}


def make(results, folder):
    """Draw into the folder whatever has been measured."""
    cells = results["cells"]
    of = lambda section: select(cells, section=section)
    peaks = [cell for cell in of("peak") if "fraction" in cell]
    for name, draw, chosen in (
        ("ratios", ratios, select(of("grid"), threads=1)),
        ("peak", peak, peaks),
        ("growth", growth, of("growth")),
        ("threads", threads, of("threads")),
        ("bandwidth", bandwidth, of("bandwidth") + of("weights")),
    ):
        if chosen:
            save(draw(chosen), folder / f"{name}.png")
    if single := select(of("grid"), threads=1):
        save(overview(single, peaks, of("growth")), folder / "speed.png")


def save(figure, path):
    """As PNG with a palette, a third of the size."""
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture.quantize(256, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)


def heat_map(axes, cells, value, *, span=8, digits=1):
    """value(cell) over H and B, white at 1, blue above, red below, on a logarithmic scale up to `span`."""
    H, B = values(cells, "H"), values(cells, "B")
    grid = np.full((len(H), len(B)), np.nan)
    for cell in cells:
        grid[H.index(cell["H"]), B.index(cell["B"])] = value(cell)
    axes.imshow(grid, cmap="RdBu", norm=LogNorm(1 / span, span, clip=True), aspect="auto")
    for (row, column), number in np.ndenumerate(grid):
        if np.isfinite(number):
            dark = abs(np.log(number)) > 0.6 * np.log(span)
            text = f"{number:.{digits}f}" if number < 10 else f"{number:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set_xticks(range(len(B)), B)
    axes.set_yticks(range(len(H)), H)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def ratio_maps(axes_row, cells, names):
    """One heat map a peer; the mean in the title."""
    for axes, name in zip(axes_row, names, strict=True):
        have = [cell for cell in cells if name in cell["ratio"]]
        if not have:
            axes.set_axis_off()
            continue
        heat_map(axes, have, lambda cell, name=name: cell["ratio"][name])
        mean, least, _ = geometric_mean(have, name)
        axes.set_title(f"{name}\nmean {mean:.1f}, least {least:.2f}", fontsize=9)


def ratios(cells):
    """Every type and work: a row; every peer: a column."""
    names = peers(cells)
    rows = [(d, w) for d in values(cells, "dtype") for w in values(cells, "work")]
    figure = Figure(figsize=(2.6 * len(names) + 0.6, 2.4 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(names), squeeze=False)
    for axes_row, (dtype, work) in zip(grid, rows, strict=True):
        ratio_maps(axes_row, select(cells, dtype=dtype, work=work), names)
        axes_row[0].set_ylabel(f"{WORKS[work]}, {dtype}\nH, hidden units")
    for axes in grid[-1]:
        axes.set_xlabel(AXES["B"])
    figure.suptitle(f"How many times as long as pyrnn the others take, one thread, T = {cells[0]['T']}, I = min(H, 64)")
    return figure


def peak_lines(axes, cells):
    """Part of the multiply-add peak over H, a line for each B."""
    batches = values(cells, "B")
    for B, color in zip(batches, colormaps["viridis"](np.linspace(0.85, 0, len(batches))), strict=True):
        have = select(cells, B=B)
        part = [cell["fraction"] for cell in have]
        axes.plot(values(have, "H"), part, color=color, marker="o", markersize=4, label=f"B = {B}")
    log_axis(axes, values(cells, "H"))
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", color="0.9")
    axes.set_xlabel(AXES["H"])
    axes.spines[["top", "right"]].set_visible(False)


def log_axis(axes, ticks):
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def peak(cells):
    dtypes, works = values(cells, "dtype"), values(cells, "work")
    figure = Figure(figsize=(4.5 * len(dtypes), 3.2 * len(works) + 0.4), layout="constrained")
    grid = figure.subplots(len(works), len(dtypes), squeeze=False, sharey=True)
    for axes_row, work in zip(grid, works, strict=True):
        for axes, dtype in zip(axes_row, dtypes, strict=True):
            peak_lines(axes, select(cells, dtype=dtype, work=work))
            axes.set_title(f"{WORKS[work]}, {dtype}", loc="left")
    grid[0, 0].legend(frameon=False, fontsize=9)
    figure.suptitle("Part of the multiply-add peak of one thread, measured in turn (tanh counts as no operation)")
    return figure


def growth_lines(axes, cells, axis):
    """Time of forward and gradients over one of the sizes, a line a contender."""
    have = [cell for cell in cells if cell["axis"] == axis and cell["work"] == "both"]
    ticks = values(have, axis)
    for name in dict.fromkeys(name for cell in have for name in cell["seconds"]):
        points = [(cell[axis], 1e6 * cell["seconds"][name]) for cell in have if name in cell["seconds"]]
        axes.plot(*zip(*points, strict=True), color=COLORS.get(name), marker="o", markersize=3.5, label=name)
    log_axis(axes, ticks)
    axes.set_yscale("log")
    axes.grid(color="0.92")
    others = ", ".join(f"{other} = {have[0][other]}" for other in AXES if other != axis)
    axes.set_title(others, loc="left", fontsize=10)
    axes.set_xlabel(AXES[axis])
    axes.spines[["top", "right"]].set_visible(False)


def growth(cells):
    axes_names = values(cells, "axis")
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2).flat
    for axes, axis in zip(panels, axes_names, strict=False):
        growth_lines(axes, cells, axis)
        axes.set_ylabel("microseconds")
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle("Forward and gradients, one thread, float32: time over each size")
    return figure


def threads(cells):
    """The speedup of the most threads over one."""
    most = list(cells[0]["speedup"])[-1]
    rows = [(d, w) for d in values(cells, "dtype") for w in values(cells, "work")]
    figure = Figure(figsize=(2.9 * len(rows), 3.4), layout="constrained")
    for axes, (dtype, work) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        heat_map(axes, select(cells, dtype=dtype, work=work), lambda c: c["speedup"][most], span=2, digits=2)
        axes.set_title(f"{WORKS[work]}, {dtype}", fontsize=9)
        axes.set_xlabel(AXES["B"])
    figure.axes[0].set_ylabel(AXES["H"])
    figure.suptitle(f"How many times as fast on {most} threads as on one")
    return figure


def bandwidth(cells):
    """Reading again and again, and the rate at which one sequence reads W."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    styles = {"float32": ("-", "o"), "float64": (":", "s")}
    for dtype in values(cells, "dtype"):
        line, marker = styles[dtype]
        reads = [
            (cell["nbytes"] / 1024, cell["bandwidth"] / 1e9) for cell in select(cells, dtype=dtype, section="bandwidth")
        ]
        if reads:
            axes.plot(*zip(*reads, strict=True), line, color="0.35", label=f"reading an array, {dtype}")
        for work, color in (("forward", COLORS["pyrnn"]), ("state_gradients", COLORS["PyTorch"])):
            size = 4 if dtype == "float32" else 8
            have = select(cells, dtype=dtype, section="weights", work=work)
            rates = [(cell["H"] ** 2 * size / 1024, cell["rate"] / 1e9) for cell in have]
            if rates:
                label = f"W in {WORKS[work]}, B = 1, {dtype}"
                axes.plot(*zip(*rates, strict=True), line, marker=marker, color=color, markersize=5, label=label)
    log_axis(axes, [nbytes // 1024 for nbytes in values(cells, "nbytes")])
    axes.set_ylim(0)
    axes.set_xlabel("KB read again and again")
    axes.set_ylabel("GB/s")
    axes.grid(color="0.92")
    axes.legend(frameon=False, fontsize=9)
    axes.set_title("One sequence reads W once a step: its rate, and that of reading alone", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def overview(grid_cells, peaks, growth_cells):
    """Ratios in float32, and below them the part of the peak and growth with T, where measured."""
    names = peers(grid_cells)
    lines = [(draw_peak, select(peaks, dtype=dtype, work="both")) for dtype in values(peaks, "dtype")]
    lines += [(draw_growth, growth_cells)] if growth_cells else []
    figure = Figure(figsize=(12, 6.6 if lines else 3.3), layout="constrained")
    upper, *lower = figure.subfigures(2 if lines else 1, 1, squeeze=False)[:, 0]
    float32 = select(grid_cells, dtype="float32")
    gradients = select(float32, work="both")
    panels = upper.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        has_backward = any(name in cell["ratio"] for cell in gradients)
        ratio_maps([axes], gradients if has_backward else select(float32, work="forward"), [name])
        axes.set_xlabel(AXES["B"] if has_backward else f"{AXES['B']} (forward alone)")
    panels[0].set_ylabel(AXES["H"])
    upper.suptitle("Forward and gradients: how many times as long as pyrnn the others take (one thread, float32)")
    if lines:
        for axes, (draw, cells) in zip(lower[0].subplots(1, len(lines), squeeze=False)[0], lines, strict=True):
            draw(axes, cells)
            axes.legend(frameon=False, fontsize=8)
    return figure


def draw_peak(axes, cells):
    peak_lines(axes, cells)
    axes.set_title(f"Part of the multiply-add peak, {cells[0]['dtype']}", loc="left", fontsize=10)


def draw_growth(axes, cells):
    growth_lines(axes, cells, "T")
    axes.set_title(f"Time over T, {axes.get_title('left')}", loc="left", fontsize=10)
    axes.set_ylabel("microseconds")
