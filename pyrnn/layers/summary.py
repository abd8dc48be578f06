"""What an RNN is, in lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyrnn.layers.rnn import RNN

HEADER = ("parameter", "shape", "numbers", "free", "masked", "frozen", "signed", "")


def summary(rnn: RNN) -> str:
    """The text that `RNN.summary` returns."""
    lines = [f"RNN of {_count(rnn.num_layers, 'layer')}, {'two directions' if rnn.bidirectional else 'one direction'}"]
    lines += [f"  {name:<12}{text}" for name, text in _facts(rnn).items()]
    rows = [HEADER, *(_row(rnn, name, a) for name, a in rnn.named_parameters())]
    rows.append(
        ("total", "", f"{rnn.parameters.size:,}", f"{sum(_free(rnn, n, a) for n, a in rnn.named_parameters()):,}")
    )
    return "\n".join(line.rstrip() for line in [*lines, *_table(rows)])


def _facts(rnn: RNN) -> dict[str, str]:
    outputs = "none" if rnn.output_size is None else str(rnn.output_size)
    if rnn.output_units is not None:
        outputs += f", of {len(rnn.output_units)} of the units"
    alpha = _number(rnn.alpha)
    if rnn.train_alpha:
        alpha += ", trained, from {} to {}".format(*rnn.alpha_bounds)
    leak = "none" if rnn.cell.alpha is None else f"alpha {alpha}, form {rnn.form}"
    slope = f" of slope {rnn.negative_slope}" if rnn.nonlinearity == "leaky_relu" else ""
    facts = {
        "inputs": str(rnn.input_size),
        "units": f"{rnn.hidden_size} in each layer{' and direction' if rnn.bidirectional else ''}",
        "outputs": outputs,
        "cell": rnn.nonlinearity + slope,
        "leak": leak,
        "noise": f"{_number(rnn.noise)}, in training" if np.any(rnn.noise) else "none",
        "start": "h0, trained" if rnn.train_h0 else "zeros",
        "dtype": rnn.dtype.name,
    }
    drops = {"between layers": rnn.dropout, "of recurrent weights": rnn.recurrent_dropout}
    if any(drops.values()):
        facts["dropout"] = ", ".join(f"{p} {where}" for where, p in drops.items() if p)
    return facts


def _row(rnn: RNN, name: str, a: np.ndarray) -> tuple[str, ...]:
    """One of the table: how many numbers are free, and why the others are not; signed ones are free."""
    row = (name, str(a.shape), f"{a.size:,}", f"{_free(rnn, name, a):,}")
    constraint = rnn.constraints.get(name)
    if constraint is None:
        return row
    masked = 0 if constraint.mask is None else int((~constraint.mask).sum())
    frozen = a.size - masked - _free(rnn, name, a)
    signed = 0 if constraint.signs is None else int(constraint.trained(a.shape)[:, constraint.signs != 0].sum())
    return (*row, f"{masked:,}", f"{frozen:,}", f"{signed:,}", constraint.dale if signed else "")


def _free(rnn: RNN, name: str, a: np.ndarray) -> int:
    constraint = rnn.constraints.get(name)
    return a.size if constraint is None else int(constraint.trained(a.shape).sum())


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: two columns of text, then numbers."""
    rows = [(*row, *[""] * (len(HEADER) - len(row))) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<<" + ">" * (len(HEADER) - 3) + "<"
    return ["  " + "  ".join(f"{t:{side}{n}}" for t, side, n in zip(row, sides, widths, strict=True)) for row in rows]


def _number(value: float | np.ndarray) -> str:
    """A number, or the least and the largest of those of the units."""
    return f"{value:.4g}" if np.ndim(value) == 0 else f"{np.min(value):.4g} to {np.max(value):.4g}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n > 1)}"
