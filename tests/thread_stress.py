"""Every threaded form, called from several Python threads at once with teams of several sizes: for ThreadSanitizer.

    PYRNN_SANITIZE=thread python -m pip install .
    LD_PRELOAD=$(gcc -print-file-name=libtsan.so) OPENBLAS_NUM_THREADS=1 python -P tests/thread_stress.py

ThreadSanitizer does not see loads and stores under a mask: on AVX-512 and AVX2 it misses what it finds in plain C. The
schedules are forced ones first, from one caller, where two tasks of a round are ordered by nothing that the team does;
then those that come about when three callers share the team, each now and then under a profile. PyTorch's module is
among the forms where PyTorch is installed.

Exits with 1 if a result differs from that of one thread; ThreadSanitizer makes its own findings known.
"""

import argparse
import contextlib
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import threaded_forms

import pyrnn
from pyrnn._core import call, team


def forced(forms, expected, seeds):
    """Each form under forced schedules of 2, 3 and 7 threads; returns the names of those whose bits differ."""
    wrong = []
    for seed in seeds:
        threaded_forms.threads((2, 3, 7)[seed % 3])
        for name, form in forms.items():
            team.set_schedule(seed)
            if form() != expected[name]:
                wrong.append(f"{name}, seed {seed}")
    team.set_schedule(0)
    return wrong


def together(forms, expected, rounds):
    """Three callers at once, each with all forms in an order of its own, while a profile begins and ends."""
    wrong, shared = [], stepper()
    threaded_forms.threads(3)

    def work(seed):
        names = list(forms)
        rng = np.random.default_rng(seed)
        for _ in range(rounds):
            for i in rng.permutation(len(names)):
                if forms[names[i]]() != expected[names[i]]:
                    wrong.append(f"{names[i]}, caller {seed}")
                with contextlib.suppress(RuntimeError):  # another thread is in it
                    shared.step(np.ones((64, 8)))
                if i % 16 == 0:
                    time.sleep(0.001)  # long enough for the team to go to sleep

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for caller in callers:
        caller.start()
    while any(caller.is_alive() for caller in callers):
        with pyrnn.profile():
            time.sleep(0.01)
    return wrong


def stepper():
    rng = np.random.default_rng(0)
    network = pyrnn.Network(rng.standard_normal((128, 8)), rng.standard_normal((128, 128)) / 12)
    return pyrnn.Stepper(network, batch=64)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2, help="forced schedules of each form")
    parser.add_argument("--rounds", type=int, default=1, help="of three callers through all forms")
    parser.add_argument("--only", default="", help="forms whose names have this in them")
    options = parser.parse_args()
    forms = threaded_forms.loops("small") | threaded_forms.loops("narrow") | threaded_forms.callers()
    forms |= threaded_forms.tensors()
    forms = {name: form for name, form in forms.items() if options.only in name}
    wrong = []
    for chunk in threaded_forms.CHUNKS:
        call.set_chunk_bytes(chunk)
        threaded_forms.threads(1)
        expected = {name: form() for name, form in forms.items()}
        wrong += forced(forms, expected, range(1, 1 + options.seeds))
        wrong += together(forms, expected, options.rounds)
    print(f"{len(forms)} forms, {options.seeds} seeds, {options.rounds} rounds of three callers: {len(wrong)} wrong")
    print(*wrong[:20], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
