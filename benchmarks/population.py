"""How much faster two threads of `fit_population` are than one, beside what two processes gain in the same run.

    OPENBLAS_NUM_THREADS=1 python -P benchmarks/population.py

Networks of excitatory and inhibitory rectified units learn a perceptual decision: alpha 0.2, noise, Adam, clipping. In
each round the three contenders take turns: one thread, two threads, two processes with half of the networks each.
Where two processors share a core, or others use the machine, two processes gain less than a factor of 2: the last
column is what the threads reach of that.
"""

import argparse
import multiprocessing
import statistics
import time

import pyrnn

H, B, T = 100, 16, 100


def population(K, steps, n_threads, first=0):
    """Train networks; return the seconds."""
    dt = 20
    task = pyrnn.tasks.PerceptualDecision(
        fixation=10 * dt, stimulus=60 * dt, response=(T - 70) * dt, dt=dt, sigma=0.2, batch_size=B
    )
    W, signs = pyrnn.training.balanced(H, excitatory=0.8, gain=0.9, rng=1)
    constraint = pyrnn.training.Constraint(signs=signs)

    class Dale:
        def on_step_end(self, state):
            state.rnn.weight_hh_l0 = constraint.project(state.rnn.weight_hh_l0)

    def make(k):
        options = {"nonlinearity": "relu", "alpha": 0.2, "noise": 0.05, "output_size": 3}
        rnn = pyrnn.RNN(task.input_size, H, **options, rng=first + k)
        rnn.weight_hh_l0 = W
        return rnn

    optimizer = pyrnn.training.Adam(lr=1e-3)
    options = {"steps": steps, "optimizer": optimizer, "clip_norm": 1.0, "callbacks": [Dale()]}
    return pyrnn.fit_population(make, K, task, **options, n_threads=n_threads).seconds


def serve(pipe):
    """A process that trains what it is told to."""
    for arguments in iter(pipe.recv, None):
        pipe.send(population(*arguments))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    K, steps = options.networks, options.steps
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs,), daemon=True).start()
        pipes.append(ours)

    def two_processes():
        begin = time.perf_counter()
        for i, pipe in enumerate(pipes):
            pipe.send((K // 2, steps, 1, i * K // 2))
        for pipe in pipes:
            pipe.recv()
        return time.perf_counter() - begin

    contenders = {
        "one thread": lambda: population(K, steps, 1),
        "two threads": lambda: population(K, steps, 2),
        "two processes": two_processes,
    }
    for run in contenders.values():
        run()
    seconds = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, run in contenders.items():
            seconds[name].append(run())
    one, threads, processes = seconds.values()
    for name, each in seconds.items():
        median = statistics.median(each)
        print(f"{name:14} {median:6.2f} s, {1e3 * median / (K * steps):.2f} ms a step")
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(a, b, strict=True))
    print(f"gain of threads {ratio(one, threads):.2f}, of processes {ratio(one, processes):.2f}, "
          f"of threads over processes {ratio(processes, threads):.2f}")  # fmt: skip
    for pipe in pipes:
        pipe.send(None)


if __name__ == "__main__":
    main()
