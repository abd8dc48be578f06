"""What products with derivatives cost, in multiples of forward and backward: python -P benchmarks/derivatives.py

One thread. Medians over rounds of the quotient within a round, all contenders in turn. Columns:

    jvp x       jvp in a direction of x and h0 / forward; the multiply-adds say 1
    jvp all     jvp in a direction of everything / forward; the multiply-adds say 2
    hvp         Objective.hessp at a point that is kept / (forward + backward); the multiply-adds say 2
    hvp new     Objective.hessp of a new objective / (forward + backward); the multiply-adds say 2.7
    ggn         Objective.ggnp at a point that is kept / (forward + backward); the multiply-adds say 1.3
    norms       per_sample_gradients(norms_only=True) / backward; the multiply-adds say 1 or less

--torch adds what PyTorch needs for the first and the third, in multiples of its own forward and backward.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing

import pyrnn

SIZES = [(H, B) for H in (64, 128, 256) for B in (8, 32)]
T, O = 100, 8


def problem(H, B, dtype):
    """Random arrays by name."""
    rng, I = np.random.default_rng(0), min(H, 64)
    shapes = {"x": (T, B, I), "U": (H, I), "W": (H, H), "b": (H,), "h0": (B, H)}
    n = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    n["W"] *= dtype(1 / H**0.5)
    n["U"] *= dtype(1 / I**0.5)
    v = pyrnn.Direction(**{name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()})
    network = pyrnn.Network(n["U"], n["W"], n["b"], rng.standard_normal((O, H)).astype(dtype), np.zeros(O, dtype))
    return n, v, network, rng.integers(0, O, (T, B))


def ours(H, B, dtype):
    """The contenders, by name."""
    n, v, network, targets = problem(H, B, dtype)
    x, U, W, b, h0 = n.values()
    run = pyrnn.simulate(network, x, h0)
    dh, out, kept = np.ones_like(run.h), np.empty_like(run.h), [None]
    objective, p = pyrnn.training.Objective(network, x, targets, h0=h0), network.ravel()
    direction = np.random.default_rng(1).standard_normal(p.size).astype(dtype)
    objective.hessp(p, direction)

    def backward():
        kept[0] = run.backward(dh, out=kept[0], n_threads=1)

    return {
        "forward": lambda: pyrnn.forward(x, U, W, b, h0, out=out, n_threads=1),
        "backward": backward,
        "jvp x": lambda: pyrnn.jvp(run, pyrnn.Direction(x=v.x, h0=v.h0)),
        "jvp all": lambda: pyrnn.jvp(run, v),
        "hvp": lambda: objective.hessp(p, direction),
        "hvp new": lambda: pyrnn.training.Objective(network, x, targets, h0=h0).hessp(p, direction),
        "ggn": lambda: objective.ggnp(p, direction),
        "norms": lambda: pyrnn.training.per_sample_gradients(run, dh, norms_only=True),
    }


def torchs(H, B, dtype):
    """PyTorch's jvp and Hessian product of the same network, and its own forward and backward."""
    import torch

    torch.set_num_threads(1)
    n, v, network, targets = problem(H, B, dtype)
    x, U, W, b, h0 = map(torch.from_numpy, n.values())
    V, c = map(torch.from_numpy, network[3:5])
    x_dot, h0_dot = torch.from_numpy(v.x), torch.from_numpy(v.h0)
    targets = torch.from_numpy(targets).flatten()
    all_params = [a.requires_grad_() for a in (U, W, b, V, c)]

    def states(x, h0):
        a, h, out = x @ U.T + b, h0, []
        for t in range(T):
            h = torch.tanh(a[t] + h @ W.T)
            out.append(h)
        return torch.stack(out)

    def loss():
        return torch.nn.functional.cross_entropy((states(x, h0) @ V.T + c).flatten(0, 1), targets, reduction="sum")

    def product():
        gradient = torch.autograd.grad(loss(), all_params, create_graph=True)
        return torch.autograd.grad(gradient, all_params, all_params)

    def forward():
        with torch.no_grad():
            states(x, h0)

    def jvp():
        with torch.no_grad():
            torch.func.jvp(states, (x, h0), (x_dot, h0_dot))

    return {
        "torch forward": forward,
        "torch both": lambda: torch.autograd.grad(loss(), all_params),
        "torch jvp": jvp,
        "torch hvp": product,
    }


def quotients(times):
    """What each costs, in multiples of what stands in the table above."""
    both = [f + b for f, b in zip(times["forward"], times["backward"], strict=True)]
    of = {"jvp x": times["forward"], "jvp all": times["forward"], "norms": times["backward"]}
    if "torch hvp" in times:
        of |= {"torch jvp": times["torch forward"], "torch hvp": times["torch both"]}
    found = {}
    for name in times:
        if name not in ("forward", "backward", "torch forward", "torch both"):
            found[name] = statistics.median(a / u for a, u in zip(times[name], of.get(name, both), strict=True))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="PyTorch too")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each contender of a line")
    arguments = parser.parse_args()
    timing.pin(1)
    heading = None
    for dtype in (np.float32, np.float64):
        for H, B in SIZES:
            functions = ours(H, B, dtype) | (torchs(H, B, dtype) if arguments.torch else {})
            times = timing.in_turn(functions, seconds=arguments.seconds, rounds=9)
            found = quotients(times)
            if heading is None:
                heading = f"{'dtype':8}{'H':>5}{'B':>4}  {'forward':>9}{'backward':>10}"
                print(heading + "".join(f"{name:>{max(8, len(name) + 2)}}" for name in found))
            us = [1e6 * statistics.median(times[name]) for name in ("forward", "backward")]
            print(
                f"{dtype.__name__:8}{H:5}{B:4}  {us[0]:7.0f}us{us[1]:8.0f}us"
                + "".join(f"{value:{max(8, len(name) + 2)}.2f}" for name, value in found.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
