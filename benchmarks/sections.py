"""What is measured: for each section its cells, and what is written down about one of them.

A cell is a dict of sizes; a record is its cell with "work" (what was timed), "seconds" (by contender, a call) and what
follows from them. Units are seconds, bytes and operations, ratios are "how many times as long as pyrnn".
"""

import functools
import itertools
import statistics
from typing import NamedTuple

import contenders
import limits
import numpy as np
import steppers
import timing

import pyrnn
from pyrnn._core import table

DTYPES = ("float32", "float64")


class Plan(NamedTuple):
    """How much is measured."""

    H: tuple = (32, 64, 128, 256, 512)
    B: tuple = (1, 8, 32, 128)
    T: int = 100
    odd: tuple = ((17, 50, 100, 200, 300, 1000), (1, 3, 5, 20, 50), (1, 3, 10))  # H, B, I
    base: tuple = (128, 8, 100, 64)  # H, B, T, I that growth starts from
    growth: tuple = (  # of H, B, T and I
        (16, 32, 64, 128, 256, 512, 1024),
        (1, 2, 4, 8, 16, 32, 64, 128, 256),
        (10, 30, 100, 300, 1000),
        (1, 4, 16, 64, 256, 1024),
    )
    nbytes: tuple = tuple(1 << power for power in (12, 14, 16, 18, 20, 22, 24, 26, 28))
    tanh: tuple = (100, 1000, 10_000, 100_000, 1_000_000)
    seconds: float = 0.08  # of each contender in each cell, about
    rounds: int = 7


PLANS = {
    "full": Plan(),
    "quick": Plan(
        H=(32, 128, 512),
        B=(1, 8, 32),
        odd=((17, 100, 300), (1, 5, 20), (3,)),
        growth=((16, 64, 256), (1, 4, 16, 64), (10, 100, 300), (1, 16, 256)),
        nbytes=(1 << 14, 1 << 18, 1 << 22, 1 << 26),
        tanh=(1000, 100_000),
        seconds=0.05,
        rounds=5,
    ),
    "tiny": Plan(
        H=(8, 16),
        B=(1, 2),
        T=3,
        odd=((5,), (3,), (1,)),
        base=(8, 2, 3, 4),
        growth=((4, 8), (1, 2), (2, 4), (1, 2)),
        nbytes=(1 << 12, 1 << 14),
        tanh=(10,),
        seconds=0,
    ),
}


def sizes(H, B, T, I, dtype):
    return {"H": H, "B": B, "T": T, "I": I, "dtype": dtype}


def grid_cells(plan, threads):
    """H x B with I = min(H, 64); on several threads in float32 alone."""
    dtypes = DTYPES if threads == 1 else DTYPES[:1]
    return [sizes(H, B, plan.T, min(H, 64), d) for d, H, B in itertools.product(dtypes, plan.H, plan.B)]


def both_types(plan, threads):
    return grid_cells(plan, 1)


def odd_cells(plan, threads):
    """Sizes that fill neither a register nor a tile; in float64 with the middle one of the I."""
    H, B, I = plan.odd
    inputs = {"float32": I, "float64": I[len(I) // 2 :][:1]}
    return [sizes(h, b, plan.T, i, d) for d in DTYPES for h, b, i in itertools.product(H, B, inputs[d])]


def growth_cells(plan, threads):
    """One of H, B, T and I grows while the others stay."""
    cells = []
    for position, axis in enumerate("HBTI"):
        for value in plan.growth[position]:
            base = [*plan.base]
            base[position] = value
            cells.append({"axis": axis, **sizes(*base, "float32")})
    return cells


def single_sequences(plan, threads):
    return [cell for cell in grid_cells(plan, 1) if cell["B"] == 1]


def step_cells(plan, threads):
    return single_sequences(plan, threads) if hasattr(pyrnn, "Stepper") else []


def bandwidth_cells(plan, threads):
    return [{"nbytes": nbytes, "dtype": d} for d, nbytes in itertools.product(DTYPES, plan.nbytes)]


def tanh_cells(plan, threads):
    return [{"n": n, "dtype": d} for d, n in itertools.product(DTYPES, plan.tanh)]


def engine_cells(plan, threads):
    """In plain C every multiply-add of the fused engine is a library call: few steps there, and no large networks."""
    cells = both_types(plan, threads)
    if table.selected() == "base":
        cells = [cell | {"T": min(plan.T, 20)} for cell in cells]
        operations = lambda H, B, T, I, dtype: limits.operations("both", H, B, T, I)
        cells = [cell for cell in cells if operations(**cell) < 2e8]
    return cells


def make_network(cell):
    return contenders.network(*(cell[name] for name in ("H", "B", "T", "I", "dtype")))


def against_peers(cell, plan, threads, only):
    """Every contender that is there, checked, in turn."""
    found = contenders.ready(make_network(cell), threads, only)
    for work in ("forward", "both"):
        functions = {name: getattr(c, work) for name, c in found.items() if getattr(c, work)}
        times = timing.in_turn(functions, seconds=plan.seconds, rounds=plan.rounds)
        yield {"work": work, "seconds": timing.medians(times), "ratio": timing.ratios(times)}


def against_peak(cell, plan, threads, only):
    """Operations a second as a part of the multiply-add peak, which is measured in turn with them."""
    mine, peaks = contenders.ours(make_network(cell), threads), []
    functions = mine._asdict() | {"peak": lambda: peaks.append(limits.multiply_add_peak(cell["dtype"]))}
    times = timing.medians(timing.in_turn(functions, seconds=plan.seconds, rounds=plan.rounds))
    for work in ("forward", "both"):
        operations = limits.operations(work, *(cell[name] for name in "HBTI")) / times[work]
        record = {"work": work, "seconds": {"pyrnn": times[work]}, "operations": operations}
        if None not in peaks:
            record |= {"peak": statistics.median(peaks), "fraction": operations / statistics.median(peaks)}
        yield record


def bandwidth(cell, plan, threads, only):
    yield {"bandwidth": limits.read_bandwidth(**cell)}


def against_bandwidth(cell, plan, threads, only):
    """One sequence reads W in every step: how fast, as a part of what reading so many bytes again and again reaches."""
    net, reads = make_network(cell), []
    h = pyrnn.forward(*net[:5])
    functions = {
        "forward": contenders.ours(net, threads).forward,
        "state_gradients": lambda: pyrnn.state_gradients(net.dh, h, net.W),
        "read": lambda: reads.append(limits.read_bandwidth(net.W.nbytes, cell["dtype"])),
    }
    times = timing.medians(timing.in_turn(functions, seconds=plan.seconds, rounds=plan.rounds))
    for work in ("forward", "state_gradients"):
        rate, limit = cell["T"] * net.W.nbytes / times[work], statistics.median(reads)
        yield {"work": work, "seconds": {"pyrnn": times[work]}, "rate": rate, "limit": limit, "fraction": rate / limit}


def against_one_thread(cell, plan, threads, only):
    """The same call on 1, 2, 4, ... threads in turn; "speedup" is over one thread."""
    counts = sorted({threads, *(1 << k for k in range(threads.bit_length()))})
    net = make_network(cell)
    found = {str(n): contenders.ours(net, n) for n in counts}
    for work in ("forward", "both"):
        functions = {n: getattr(c, work) for n, c in found.items()}
        times = timing.in_turn(functions, seconds=2 * plan.seconds, rounds=2 * plan.rounds + 1)
        speedup = {n: 1 / ratio for n, ratio in timing.ratios(times, to="1").items()}
        yield {"work": work, "seconds": timing.medians(times), "speedup": speedup}


def against_cells(cell, plan, threads, only):
    """One step of one sequence, the state kept by each contender: what a control loop or a decoder calls."""
    found = steppers.ready(make_network(cell | {"T": 1}), only)
    times = timing.in_turn(found, seconds=plan.seconds, rounds=plan.rounds)
    yield {"work": "step", "seconds": timing.medians(times), "ratio": timing.ratios(times)}


def against_numpy_tanh(cell, plan, threads, only):
    x = 2 * np.random.default_rng(0).standard_normal(cell["n"]).astype(cell["dtype"])
    functions = {"pyrnn": functools.partial(table.tanh, x), "NumPy": functools.partial(np.tanh, x)}
    times = timing.in_turn(functions, seconds=plan.seconds, rounds=plan.rounds)
    yield {"work": "tanh", "seconds": timing.medians(times), "ratio": timing.ratios(times)}


def between_engines(cell, plan, threads, only):
    """The figures behind the rule in pyrnn/_engines.py: how many times as long `blas` takes as `fused`."""
    found = {engine: contenders.ours(make_network(cell), threads, engine) for engine in ("fused", "blas")}
    for work in ("forward", "both"):
        functions = {engine: getattr(c, work) for engine, c in found.items()}
        times = timing.in_turn(functions, seconds=plan.seconds, rounds=plan.rounds)
        ratio = timing.ratios(times, to="fused")
        yield {"instructions": table.selected(), "work": work, "seconds": timing.medians(times), "ratio": ratio}


class Section(NamedTuple):
    cells: object  # (plan, threads) -> list of cells
    measure: object  # (cell, plan, threads, only) -> records to be merged with the cell


SECTIONS = {
    "grid": Section(grid_cells, against_peers),
    "odd": Section(odd_cells, against_peers),
    "growth": Section(growth_cells, against_peers),
    "peak": Section(both_types, against_peak),
    "bandwidth": Section(bandwidth_cells, bandwidth),
    "weights": Section(single_sequences, against_bandwidth),
    "step": Section(step_cells, against_cells),
    "tanh": Section(tanh_cells, against_numpy_tanh),
    "threads": Section(both_types, against_one_thread),
    "engines": Section(engine_cells, between_engines),
}
