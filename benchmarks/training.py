"""A whole iteration of training by `pyrnn.fit` beside PyTorch and JAX: microseconds of processor time, one thread.

    python -P benchmarks/training.py [--hidden 50,100] [--batch 16,64] [--steps 100] [--only loop,tuned] [--quick]

The network is one of neuroscience: excitatory and inhibitory units (4 to 1) by Dale's principle, without connections of
units to themselves, weights of inputs not negative, outputs read from excitatory units; relu, a leak of 0.2, noise in
the state; the masked cross entropy, a penalty of the mean of squared rates, Adam, and the norm of the gradient clipped
at 1. An iteration is all but making the batch: effective weights, noise, forward, loss, backward, clipping, the step of
the optimiser. --plain leaves out constraints and penalty.

    loop    PyTorch, a loop over time as most code of the field has it: the noise, the product of the inputs and that of
            the states in each step, and the states in a list
    tuned   PyTorch, the same loop with all noise and all products of the inputs made before it
    jax     JAX and optax, the whole iteration compiled by jit, with a scan over time

Contenders that are not installed are left out. All run in turn, on one processor. Printed for each cell are medians,
and how many times as long as pyrnn a contender takes, the median over rounds; then the geometric mean and the least of
these. Before a cell is timed, the losses and the gradients of one iteration with the same noise are compared: one that
differs by more than 1e-4 of the largest entry ends the run.
"""

import argparse
import importlib.util
import itertools
import math
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import timing

ALPHA, SIGMA, LR, CLIP, PENALTY = 0.2, 0.05, 1e-3, 1.0, 1e-2
DRIVE = math.sqrt(2 / ALPHA) * SIGMA  # of the noise that is added to the pre-activations
INPUTS, OUTPUTS = 3, 3
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_out", "bias_out")
TOLERANCE = 1e-4  # relative to the largest entry
ITERATIONS = 10  # of a call, which begins with the same parameters each time


def parse():
    numbers = lambda text: [int(n) for n in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=numbers, metavar="H,H", help="50,100,200 if not given")
    parser.add_argument("--batch", type=numbers, metavar="B,B", help="16,64,256")
    parser.add_argument("--steps", type=numbers, metavar="T,T", help="100,200")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PEERS), metavar="NAME,NAME")
    parser.add_argument("--seconds", type=float, help="of each contender in each cell, about; 3")
    parser.add_argument("--quick", action="store_true", help="H = 50, 100, B = 16, 64, T = 100, a second each")
    parser.add_argument("--plain", action="store_true", help="no constraints and no penalty")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.only) - set(PEERS):
        parser.error(f"--only: contenders are {', '.join(PEERS)}, got {', '.join(sorted(unknown))}")
    hidden, batch, steps, seconds = GRIDS["quick" if options.quick else "full"]
    options.hidden, options.batch = options.hidden or hidden, options.batch or batch
    options.steps, options.seconds = options.steps or steps, options.seconds or seconds
    return options


# ---- The problem ----------------------------------------------------------------------------------------------------
class Problem:
    """One cell: a batch, and the parameters that every contender starts with: raw weights where there are constraints.

    Column j of W has the sign ``signs[j]``. ``connected`` is 0 on the diagonal of W and 1 elsewhere, ``read`` 0 for
    inhibitory units and 1 for the others.
    """

    def __init__(self, H, B, T, plain):
        import numpy as np

        import pyrnn

        self.H, self.B, self.T, self.plain = H, B, T, plain
        task = pyrnn.tasks.PerceptualDecision(batch_size=B, fixation=2 * T, stimulus=14 * T, response=4 * T)
        self.x, self.y, self.weights = task.batch(0)
        rng = np.random.default_rng(0)
        W, signs = pyrnn.training.balanced(H, excitatory=0.8, gain=0.8, rng=rng)
        W = W if plain else np.abs(W)
        self.signs, self.connected = signs.astype(np.float32), 1 - np.eye(H, dtype=np.float32)
        self.read = (self.signs > 0).astype(np.float32)
        uniform = lambda *shape: rng.uniform(0, 1 / math.sqrt(shape[-1]), shape)
        arrays = (uniform(H, INPUTS), W, 0.1 * uniform(H), np.zeros(H), uniform(OUTPUTS, H), np.zeros(OUTPUTS))
        self.parameters = {name: a.astype(np.float32) for name, a in zip(NAMES, arrays, strict=True)}

    def batch(self, step):
        """As a task has it."""
        return self.x, self.y, self.weights


# ---- The contenders: `run` makes some iterations, `gradients` is (loss, gradients by name) with given noise ---------
class Ours:
    def __init__(self, problem):
        import numpy as np

        import pyrnn

        self.problem, self.penalties = problem, None if problem.plain else {"rates_l2": PENALTY}
        options = {"nonlinearity": "relu", "alpha": ALPHA, "noise": SIGMA, "output_size": OUTPUTS}
        if not problem.plain:
            Constraint, read = pyrnn.training.Constraint, np.tile(problem.read > 0, (OUTPUTS, 1))
            options["constraints"] = {
                "weight_ih_l0": Constraint(signs=np.ones(INPUTS)),
                "weight_hh_l0": Constraint(mask=problem.connected > 0, signs=problem.signs),
                "weight_out": Constraint(mask=read, signs=np.ones(problem.H)),
            }
        self.rnn = pyrnn.RNN(INPUTS, problem.H, **options, rng=0)
        for name, value in problem.parameters.items():
            setattr(self.rnn, name, value)
        self.start, self.optimizer = self.rnn.parameters.copy(), pyrnn.training.Adam(lr=LR)

    def run(self, iterations=ITERATIONS):
        import pyrnn

        self.rnn.parameters = self.start
        options = {"optimizer": self.optimizer, "penalties": self.penalties, "clip_norm": CLIP, "progress": False}
        return pyrnn.fit(self.rnn, self.problem, loss="softmax_cross_entropy", steps=iterations, **options)

    def gradients(self):
        """The loss and the gradients of the first iteration of a run, and the noise that it has drawn."""
        import numpy as np

        import pyrnn
        from pyrnn.training import batches

        generator = batches.generator(0, batches.DROPOUT, 0)
        seed = int(generator.integers(2**64, size=1, dtype=np.uint64)[0])
        noise = pyrnn.training.noise(seed, (self.problem.T, self.problem.B, self.problem.H), DRIVE, dtype=np.float32)
        record = self.run(1)[0]
        gradients = {name: a.copy() for name, a in self.rnn.named_gradients()}
        return record["loss"] + record.get("penalty", 0.0), gradients, noise


class Loop:
    """PyTorch: every step draws its noise and multiplies its inputs."""

    def __init__(self, problem):
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.H, self.torch = problem.H, torch
        self.x, self.y, self.weights = (torch.from_numpy(a) for a in problem.batch(0))
        self.signs, self.connected, self.read = (
            torch.from_numpy(a) for a in (problem.signs, problem.connected, problem.read)
        )
        self.plain, self.start = problem.plain, [torch.from_numpy(problem.parameters[name]) for name in NAMES]
        self.parameters = [torch.nn.Parameter(a.clone()) for a in self.start]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR)

    def states(self, U, W, b_in, b_rec, noise):
        torch, (T, B, _) = self.torch, self.x.shape
        h, states = torch.zeros(B, self.H), []
        for t in range(T):
            xi = torch.randn_like(h) * DRIVE if noise is None else noise[t]
            total = self.x[t] @ U.T + b_in + h @ W.T + b_rec + xi
            h = (1 - ALPHA) * h + ALPHA * torch.relu(total)
            states.append(h)
        return torch.stack(states)

    def loss(self, noise=None):
        torch, (U, W, b_in, b_rec, V, c) = self.torch, self.parameters
        if not self.plain:
            U, V = torch.relu(U), torch.relu(V) * self.read
            W = torch.relu(W) * self.connected @ torch.diag(self.signs)
        h = self.states(U, W, b_in, b_rec, noise)
        outputs = h @ V.T + c
        each = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), self.y.flatten(), reduction="none")
        loss = (each * self.weights.flatten()).sum() / self.weights.sum()
        return loss if self.plain else loss + PENALTY * (h**2).mean()

    def run(self, iterations=ITERATIONS):
        torch = self.torch
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.start, strict=True):
                parameter.copy_(value)
        for _ in range(iterations):
            self.optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
            loss.item()  # a record, as `fit` keeps one

    def gradients(self, noise):
        loss = self.loss(self.torch.from_numpy(noise))
        found = self.torch.autograd.grad(loss, self.parameters)
        return loss.item(), {name: a.numpy() for name, a in zip(NAMES, found, strict=True)}


class Tuned(Loop):
    """PyTorch: what does not depend on the states is made for all steps at once, and a step has few operations."""

    def states(self, U, W, b_in, b_rec, noise):
        torch, (T, B, _) = self.torch, self.x.shape
        drive = torch.addmm(b_in + b_rec, self.x.flatten(0, 1), U.T).view(T, B, self.H)
        drive = torch.randn(T, B, self.H).mul_(DRIVE) + drive if noise is None else drive + noise
        h, states, W = torch.zeros(B, self.H), [], W.T
        for a in drive.unbind():
            h = torch.lerp(h, torch.addmm(a, h, W).relu_(), ALPHA)
            states.append(h)
        return torch.stack(states)


class Scan:
    """JAX: all iterations of a run in one compiled function each."""

    def __init__(self, problem):
        import jax
        import jax.numpy as jnp
        import optax

        T, B, H = problem.T, problem.B, problem.H
        x, y, weights = (jnp.asarray(a) for a in problem.batch(0))
        self.start = {name: jnp.asarray(a) for name, a in problem.parameters.items()}
        optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(LR))
        self.state, self.key = optimizer.init(self.start), jax.random.key(0)

        def loss(parameters, noise, x, y, weights):
            U, W, b_in, b_rec, V, c = (parameters[name] for name in NAMES)
            if not problem.plain:
                U, V = jax.nn.relu(U), jax.nn.relu(V) * problem.read
                W = jax.nn.relu(W) * (problem.connected * problem.signs)
            drive = x @ U.T + (b_in + b_rec) + noise

            def step(h, a):
                h = (1 - ALPHA) * h + ALPHA * jax.nn.relu(a + h @ W.T)
                return h, h

            _, h = jax.lax.scan(step, jnp.zeros((B, H), x.dtype), drive)
            each = optax.softmax_cross_entropy_with_integer_labels(h @ V.T + c, y)
            value = (each * weights).sum() / weights.sum()
            return value if problem.plain else value + PENALTY * (h**2).mean()

        @jax.jit
        def iteration(parameters, state, key, x, y, weights):
            key, used = jax.random.split(key)
            noise = DRIVE * jax.random.normal(used, (T, B, H), x.dtype)
            value, gradients = jax.value_and_grad(loss)(parameters, noise, x, y, weights)
            updates, state = optimizer.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state, key, value

        self.iteration, self.batch = iteration, (x, y, weights)
        self.value_and_grad = jax.jit(jax.value_and_grad(loss))

    def run(self, iterations=ITERATIONS):
        parameters = self.start
        for _ in range(iterations):
            parameters, self.state, self.key, value = self.iteration(parameters, self.state, self.key, *self.batch)
            float(value)  # a record, as `fit` keeps one

    def gradients(self, noise):
        return self.value_and_grad(self.start, noise, *self.batch)


PEERS = {"loop": (Loop, ("torch",)), "tuned": (Tuned, ("torch",)), "jax": (Scan, ("jax", "optax"))}
GRIDS = {"full": ([50, 100, 200], [16, 64, 256], [100, 200], 3.0), "quick": ([50, 100], [16, 64], [100], 1.0)}


# ---- Checks, and the table ------------------------------------------------------------------------------------------
def compare(name, found, expected, where):
    """End the run if a loss or a gradient is another one."""
    import numpy as np

    (loss, gradients), (expected_loss, expected_gradients) = found, expected
    pairs = {"the loss": (loss, expected_loss)}
    pairs |= {f"the gradient of {n}": (gradients[n], expected_gradients[n]) for n in NAMES}
    for what, (a, b) in pairs.items():
        error = float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max())
        if not error < TOLERANCE:
            sys.exit(f"{where}: {what} of {name} is off by {error:.1e} of its largest entry")


def measure(H, B, T, plain, only, seconds):
    """Seconds of processor time of an iteration, by name and round."""
    problem = Problem(H, B, T, plain)
    ours = Ours(problem)
    *expected, noise = ours.gradients()
    contenders = {"pyrnn": ours.run}
    for name in only:
        peer = PEERS[name][0](problem)
        compare(name, peer.gradients(noise), expected, f"H = {H}, B = {B}, T = {T}")
        contenders[name] = peer.run
    times = timing.in_turn(contenders, seconds=seconds, clock=time.process_time)
    return {name: [t / ITERATIONS for t in values] for name, values in times.items()}


def installed(only):
    """Those of the contenders whose packages are there; says which are left out."""
    found = []
    for name in only:
        missing = [package for package in PEERS[name][1] if importlib.util.find_spec(package) is None]
        if missing:
            print(f"{name} is left out: {', '.join(missing)} not installed")
        else:
            found.append(name)
    return found


def main():
    options = parse()
    if not options.here:
        return timing.again(threads=1)
    timing.pin(1)
    only = installed(options.only)
    names, ratios = ["pyrnn", *only], {name: [] for name in only}
    print(f"{'H':>5}{'B':>5}{'T':>5}" + "".join(f"{name + ', us':>12}" for name in names), end="")
    print("".join(f"{name:>8}" for name in only))
    for T, H, B in itertools.product(options.steps, options.hidden, options.batch):
        times = measure(H, B, T, options.plain, only, options.seconds)
        taken, quotients = timing.medians(times), timing.ratios(times)
        print(f"{H:5}{B:5}{T:5}" + "".join(f"{1e6 * taken[name]:12.0f}" for name in names), end="")
        print("".join(f"{quotients[name]:8.2f}" for name in only), flush=True)
        for name in only:
            ratios[name].append(quotients[name])
    for name, values in ratios.items():
        print(f"{name}: geometric mean {statistics.geometric_mean(values):.2f}, least {min(values):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
