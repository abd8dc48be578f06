"""pyrnn.bridges.torch.RNN against torch.nn.RNN: forward and backward through autograd, float32, one thread.

    python -P benchmarks/torch_module.py [--hidden 32,64] [--batch 1,8] [--seconds 1]

T = 100 steps and I = min(H, 64) inputs, with gradients of x, h0 and all parameters, one layer and two bidirectional
ones. The two run in turn, on one processor; printed for each cell are medians in microseconds and how many times as
long PyTorch took, the median over rounds; then the geometric mean and the least of these. A cell in which the two do
not compute the same ends the run.
"""

import argparse
import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing

NETWORKS = {"one layer": {}, "two layers, bidirectional": {"num_layers": 2, "bidirectional": True}}
T = 100


def parse():
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=numbers, default=[32, 64, 128, 256, 512], metavar="H,H")
    parser.add_argument("--batch", type=numbers, default=[1, 8, 32, 128], metavar="B,B")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender in each cell, about")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def training_step(module, x, h0, d_output):
    """A function () that sets the gradients of the module's parameters, x and h0, and returns them."""
    leaves = [x.clone().requires_grad_(), h0.clone().requires_grad_(), *module.parameters()]

    def step():
        for leaf in leaves:
            leaf.grad = None
        output, _ = module(*leaves[:2])
        output.backward(d_output)
        return [leaf.grad for leaf in leaves]

    return step


def measure(H, B, options, seconds):
    """Seconds a call, by name and round."""
    import torch

    import pyrnn.bridges.torch

    torch.manual_seed(0)
    I, D = min(H, 64), 2 if options.get("bidirectional") else 1
    theirs, ours = torch.nn.RNN(I, H, **options), pyrnn.bridges.torch.RNN(I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    states = (options.get("num_layers", 1) * D, B, H)
    arrays = (torch.randn(T, B, I), torch.rand(states) - 0.5, torch.randn(T, B, D * H))
    steps = {"torch.nn.RNN": training_step(theirs, *arrays), "pyrnn": training_step(ours, *arrays)}
    for expected, actual in zip(steps["torch.nn.RNN"](), steps["pyrnn"](), strict=True):
        error = (actual - expected).abs().max() / expected.abs().max()
        if not error < 1e-3:
            sys.exit(f"H = {H}, B = {B}: gradients differ by {float(error):.1e} of the largest")
    return timing.in_turn(steps, seconds=seconds)


def main():
    options = parse()
    if not options.here:
        return timing.again(threads=1)
    timing.pin(1)
    import torch

    torch.set_num_threads(1)
    ratios = []
    print(f"{'':27}{'H':>5}{'B':>5}{'torch.nn.RNN':>14}{'pyrnn':>10}{'ratio':>8}")
    for (name, network), H, B in itertools.product(NETWORKS.items(), options.hidden, options.batch):
        times = measure(H, B, network, options.seconds)
        medians = {contender: 1e6 * seconds for contender, seconds in timing.medians(times).items()}
        ratios.append(timing.ratios(times)["torch.nn.RNN"])
        theirs, ours = medians["torch.nn.RNN"], medians["pyrnn"]
        print(f"{name:27}{H:5}{B:5}{theirs:14.0f}{ours:10.0f}{ratios[-1]:8.2f}", flush=True)
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
