"""How the time of derivatives and dynamics grows with H, T and k; draws docs/growth.png; float64, one thread.

    python -P benchmarks/growth.py [--seconds 0.3] [--small] [--out growth.png]

Each function has its sizes to itself, one of which grows. Printed are milliseconds, and the power of the size that the
time has grown with, between the two largest; under a minute in all. The stated orders are in the last column.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # of Okabe and Ito
I, B = 8, 4


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each size, about")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path("growth.png"), help="the picture, if there is matplotlib")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


class Case:
    """A network of H units, gain 1.3, and B sequences of T steps."""

    def __init__(self, H, T):
        import numpy as np

        import pyrnn

        self.rng = rng = np.random.default_rng(0)
        self.H, self.T = H, T
        U, W = rng.standard_normal((H, I)) / I**0.5, 1.3 * rng.standard_normal((H, H)) / H**0.5
        self.network = pyrnn.Network(U, W, np.zeros(H))
        self.x = rng.standard_normal((T, B, I))
        self.run = pyrnn.simulate(self.network, self.x)
        self.one = pyrnn.simulate(self.network, self.x[:, 0])  # the first sequence
        self.dh = rng.standard_normal(self.run.h.shape)


def jvp(c):
    import pyrnn

    return lambda: pyrnn.jvp(c.run, pyrnn.Direction(x=c.x))


def hvp(c):
    import pyrnn

    objective = pyrnn.training.Objective(c.network, c.x, c.run.h, loss="squared_error")
    p = objective.first
    v = c.rng.standard_normal(p.shape)
    return lambda: objective.hessp(p, v)


def per_sample_norms(c):
    import pyrnn

    return lambda: pyrnn.training.per_sample_gradients(c.run, c.dh, norms_only=True)


def jacobian_product(c):
    import pyrnn

    return lambda: pyrnn.dynamics.jacobian_product(c.one)


def log_singular_values(c):
    import pyrnn

    return lambda: pyrnn.dynamics.log_singular_values(c.one, 0, min(20, c.T))


def vector_product(c, k=8):
    import pyrnn

    u = c.rng.standard_normal((k, c.H))
    return lambda: pyrnn.dynamics.pull(c.one, u)


def lyapunov(c, k=None):
    import pyrnn

    return lambda: pyrnn.dynamics.lyapunov_spectrum(c.network, c.x[:, 0], k=k)


def learner(name):
    def make(c):
        import pyrnn

        made = getattr(pyrnn.online, name)(c.network)
        steps = {"BlockedRTRL": c.H, "RTRL": 4}.get(name, 1)  # until all that is carried has moved
        x, dh = c.x[0, 0], c.dh[0, 0]

        def run():
            for _ in range(steps):
                made.step(x, dh)

        run.divide = steps
        return run

    return make


def plan(small):
    """(panel, name, stated order, sizes, function from a size to a function without arguments)."""
    hidden = [4, 8] if small else [32, 64, 128, 256]
    few, many = hidden[:3], [*hidden, *([] if small else [512])]
    times = [4, 8] if small else [250, 500, 1000, 2000]
    ks = [1, 2] if small else [16, 32, 64, 128]
    H, T = (6, 8) if small else (64, 200)
    wide = 8 if small else 256
    by_H = lambda make, T=T: lambda H: make(Case(H, T))
    by_T = lambda make, H=H: lambda T: make(Case(H, T))
    return [
        ("H", "jvp", "H²", many, by_H(jvp)),
        ("H", "hessp", "H²", many, by_H(hvp)),
        ("H", "per-sample norms", "H²", many, by_H(per_sample_norms)),
        ("H", "k vectors", "H²", many, by_H(vector_product)),
        ("H", "jacobian_product", "H³", hidden, by_H(jacobian_product)),
        ("H", "log_singular_values", "H³", few, by_H(log_singular_values)),
        ("H", "Lyapunov, all", "H³", hidden, by_H(lyapunov)),
        ("H, online, a step", "RTRL", "H⁴", hidden[:4], by_H(learner("RTRL"), 2)),
        ("H, online, a step", "BlockedRTRL", "H³", hidden, by_H(learner("BlockedRTRL"), 2)),
        ("H, online, a step", "SnAp1", "H²", many, by_H(learner("SnAp1"), 2)),
        ("H, online, a step", "RFLO", "H²", many, by_H(learner("RFLO"), 2)),
        ("H, online, a step", "UORO", "H²", many, by_H(learner("UORO"), 2)),
        ("T", "jvp", "T", times, by_T(jvp)),
        ("T", "hessp", "T", times, by_T(hvp)),
        ("T", "per-sample norms", "T", times, by_T(per_sample_norms)),
        ("T", "jacobian_product", "T", times, by_T(jacobian_product)),
        ("T", "Lyapunov, all", "T", times, by_T(lyapunov)),
        ("k", "k vectors", "k", ks, lambda k: vector_product(Case(wide, T), k)),
        ("k", "Lyapunov", "k", ks, lambda k: lyapunov(Case(wide, T), k)),
    ]


def measure(options):
    """By panel: (name, order, sizes, milliseconds, power)."""
    panels = {}
    print(f"{'':20}{'':22}{'power':>7}  stated   milliseconds")
    for panel, name, order, sizes, make in plan(options.small):
        runs = {size: make(size) for size in sizes}
        medians = timing.medians(timing.in_turn(runs, seconds=options.seconds * len(sizes), rounds=5))
        ms = [1e3 * medians[size] / getattr(runs[size], "divide", 1) for size in sizes]
        power = math.log(ms[-1] / ms[-2]) / math.log(sizes[-1] / sizes[-2])
        panels.setdefault(panel, []).append((name, order, sizes, ms, power))
        figures = ", ".join(f"{size}: {m:.3g}" for size, m in zip(sizes, ms, strict=True))
        print(f"{panel:20}{name:22}{power:7.2f}  {order:7}  {figures}", flush=True)
    return panels


def draw(panels, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, (panel, lines) in zip(figure.subplots(2, 2).ravel(), panels.items(), strict=True):
        for (name, order, sizes, ms, power), color in zip(lines, COLORS, strict=False):
            axes.loglog(sizes, ms, "o-", color=color, markersize=3, label=f"{name}: {power:.1f} ({order})")
        axes.set_title(f"milliseconds over {panel}", loc="left", fontsize=9)
        measured = sorted({size for line in lines for size in line[2]})
        axes.set_xticks(measured, [str(size) for size in measured])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


def main():
    options = parse()
    if not options.here:
        return timing.again(threads=1)
    timing.pin(1)
    panels = measure(options)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no picture: it needs matplotlib, python -m pip install 'pyrnn-bptt[plot]'")
    else:
        draw(panels, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
