"""Draws unrolled.png, the picture of bptt.md: python docs/unrolled.py"""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Circle

GREY, LOSS, LATER = "0.6", "#0072B2", "#D55E00"  # the forward pass, and the two ways back
RADIUS, BESIDE = 0.38, 0.13  # of a node; of a way back from the grey arrow that it follows
COLUMNS = {"t-1": 0.0, "t": 4.2, "t+1": 8.4}
ROWS = {"x": 0.0, "a": 1.7, "h": 3.4, "o": 5.1, "L": 6.8}

figure = Figure(figsize=(8.2, 5.375))
axes = figure.add_axes((0, 0, 1, 1))
axes.set(aspect="equal", xlim=(-1.3, 10.6), ylim=(-0.5, 7.3))
axes.axis("off")


def arrow(start, end, color=GREY, width=1.2, beside=(0, 0)):
    """Draw an arrow between two nodes, from edge to edge."""
    (x0, y0), (x1, y1) = ((x + beside[0], y + beside[1]) for x, y in (start, end))
    style = {
        "arrowstyle": "-|>",
        "color": color,
        "linewidth": width,
        "shrinkA": 20,
        "shrinkB": 20,
        "mutation_scale": 14,
    }
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)


def write(x, y, text, color=GREY, **options):
    axes.text(x, y, text, color=color, va="center", **{"fontsize": 11, "ha": "center"} | options)


def place(row, column):
    return COLUMNS[column], ROWS[row]


for column, x in COLUMNS.items():
    for below, above, label in (("x", "a", "$U$"), ("a", "h", "tanh"), ("h", "o", "$V$"), ("o", "L", "loss")):
        arrow(place(below, column), place(above, column))
        write(x - 0.18, (ROWS[below] + ROWS[above]) / 2, label, ha="right")
    for row, y in ROWS.items():
        of_interest = (row, column) == ("h", "t")
        axes.add_patch(Circle((x, y), RADIUS, facecolor="#FFF2B3" if of_interest else "white", edgecolor="0.25"))
        write(x, y, f"${row}_{{{column}}}$", "black", fontsize=12)
for before, after in (("t-1", "t"), ("t", "t+1")):
    arrow(place("h", before), place("a", after))
    write((COLUMNS[before] + COLUMNS[after]) / 2 - 0.1, 2.3, "$W$")

# From the loss at t, through o_t.
for above, below in (("L", "o"), ("o", "h")):
    arrow(place(above, "t"), place(below, "t"), LOSS, 2.4, (BESIDE, 0))
write(4.5, 5.95, r"$\nabla_{o_t} L$", LOSS, ha="left")
write(4.5, 4.25, r"$\times\, V^\top$", LOSS, ha="left")

# From h_{t+1}, through a_{t+1}.
arrow(place("h", "t+1"), place("a", "t+1"), LATER, 2.4, (BESIDE, 0))
arrow(place("a", "t+1"), place("h", "t"), LATER, 2.4, (0.05, BESIDE))
write(8.7, 3.98, r"$\nabla_{h_{t+1}} L$", LATER, ha="left")
write(8.7, 2.55, r"$\circ\,(1 - h_{t+1}^2)$", LATER, ha="left")
write(8.9, 1.7, r"$= \delta_{t+1}$", LATER, ha="left")
write(6.55, 2.95, r"$\times\, W^\top$", LATER)

write(5.55, 6.6, r"$\nabla_{h_t} L\;=\;$", "black", fontsize=13, ha="left")
write(6.0, 5.95, r"$V^\top\, \nabla_{o_t} L$", LOSS, fontsize=13, ha="left")
write(5.72, 5.3, r"$+\; W^\top \delta_{t+1}$", LATER, fontsize=13, ha="left")
figure.savefig(Path(__file__).with_name("unrolled.png"), dpi=110, metadata={"Software": None})
