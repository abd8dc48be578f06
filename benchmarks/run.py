"""Measures pyrnn beside its peers and beside the limits of the machine, and draws what came out.

    python -P benchmarks/run.py [--quick] [--onednn LIBRARY] [--out FOLDER] [SECTION ...]

Writes results.json, tables.md and, with matplotlib, pictures. Ctrl-C keeps what has been measured until then.
README.md beside this file says what the sections are and how to read the tables.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import tables
import timing

ONE_THREAD = ("grid", "odd", "growth", "peak", "bandwidth", "weights", "step", "tanh")
THREADS = ("threads", "grid")
SECTIONS = (*ONE_THREAD, "threads", "engines")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; all but the last")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="plan", action="store_const", const="quick", help="a few minutes")
    size.add_argument("--tiny", dest="plan", action="store_const", const="tiny", help="a second, to try the script")
    parser.add_argument("--threads", type=int, help="the most; by default the processors there are, at most 8")
    parser.add_argument("--only", metavar="PEER,PEER", help="NumPy,PyTorch,JAX,ONNX Runtime,oneDNN; pyrnn always runs")
    parser.add_argument("--onednn", metavar="LIBRARY", type=Path, help="what build_onednn.sh has built")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("benchmark-results"))
    parser.add_argument(
        "--draw", action="store_true", help="do not measure: tables and pictures of FOLDER/results.json"
    )
    parser.set_defaults(plan="full")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"sections are {', '.join(SECTIONS)}, got {', '.join(unknown)}")
    if options.onednn and not options.onednn.is_file():
        parser.error(f"--onednn: there is no file {options.onednn}")
    if options.onednn and b"rnn_new" not in options.onednn.read_bytes():
        parser.error(f"--onednn: {options.onednn} is not the library that build_onednn.sh builds")
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if options.draw and not (options.out / "results.json").is_file():
        parser.error(f"--draw: there is no {options.out / 'results.json'}")
    return options


def available_processors():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def parts(options):
    """Sections, threads and further variables of each process to be started, in order."""
    wanted = options.sections or SECTIONS[:-1]
    threads = options.threads or min(8, available_processors())
    chosen = lambda sections: [name for name in sections if name in wanted]
    if sections := chosen(ONE_THREAD):
        yield sections, 1, {}
    if "threads" in wanted and threads > 1:
        yield chosen(THREADS), threads, {}
    if "engines" in wanted:
        for name in instruction_sets():
            yield ["engines"], 1, {"PYRNN_CPU": name}


def instruction_sets():
    """Those of this machine, best first."""
    ask = "from pyrnn._core import table; print(*table.available())"
    return subprocess.run([sys.executable, "-P", "-c", ask], check=True, capture_output=True, text=True).stdout.split()


def measure(options, path):
    """Start one process after the other; the exit status of the first that fails, or 0."""
    results = {"about": {"date": f"{datetime.date.today()}", "plan": options.plan}, "cells": []}
    path.write_text(json.dumps(results))
    for sections, threads, variables in parts(options):
        command = [sys.executable, "-P", Path(__file__).with_name("measure.py"), path, *sections]
        command += ["--plan", options.plan, "--threads", str(threads)]
        command += ["--only", options.only] if options.only else []
        library = {"ONEDNN_LIBRARY": str(options.onednn.resolve())} if options.onednn else {}
        variables = os.environ | timing.environment(threads) | library | variables
        status = subprocess.run(command, env=variables).returncode
        if status:
            return status
    return 0


def draw(path, folder):
    """Tables, and pictures where there is matplotlib."""
    results = json.loads(path.read_text())
    (folder / "tables.md").write_text(tables.make(results), encoding="utf-8")
    try:
        import plots
    except ImportError as error:
        print(f"no pictures: they need matplotlib ({error})", file=sys.stderr)
        return
    plots.make(results, folder)


def main():
    options = parse()
    path = options.out / "results.json"
    options.out.mkdir(parents=True, exist_ok=True)
    status = 0
    if not options.draw:
        try:
            status = measure(options, path)
        except KeyboardInterrupt:
            status = 130
    draw(path, options.out)
    print((options.out / "tables.md").read_text(encoding="utf-8").split("\n\n## Each network")[0])
    print(f"\nAll of it: {options.out}")
    return status


if __name__ == "__main__":
    sys.exit(main())
