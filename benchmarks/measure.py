"""A part of the measurements, in a process of its own: run.py starts it with the environment that the part needs.

It adds to results.json after every cell, so that whatever stops it costs one cell.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # -P keeps it out

import contenders
import timing
from sections import PLANS, SECTIONS

import pyrnn
from pyrnn._core import table


def write(results, path):
    """All or nothing: a process that is stopped here leaves the file as it was."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1))
    os.replace(beside, path)


def machine():
    """The processor, how busy it is, the instruction set in use and the versions of everybody who is installed."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    versions = {"Python": platform.python_version(), "pyrnn": pyrnn.__version__}
    for package in ("numpy", "scipy", "torch", "jax", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "instructions": table.selected(),
        "versions": versions,
    }


class Progress:
    """One line that changes on a terminal, one line a section elsewhere."""

    def __init__(self, stream):
        self.stream, self.begin, self.section = stream, time.monotonic(), None

    def show(self, section, done, of, cell):
        seconds = round(time.monotonic() - self.begin)
        if self.stream.isatty():
            sizes = " ".join(f"{name}={value}" for name, value in cell.items())
            line = f"{section} {done + 1}/{of}  {sizes}  {seconds // 60}:{seconds % 60:02}"
            print(f"\r\x1b[K{line}", end="", file=self.stream, flush=True)
        elif section != self.section:
            print(f"{section}: {of} cells, after {seconds} s", file=self.stream, flush=True)
        self.section = section

    def end(self):
        if self.stream.isatty():
            print("\r\x1b[K", end="", file=self.stream, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--plan", choices=PLANS, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--only", type=lambda text: text.split(","))
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(contenders.CONTENDERS):
        parser.error(f"--only: peers are {', '.join(contenders.CONTENDERS)}, got {', '.join(unknown)}")
    timing.pin(options.threads)
    plan, progress = PLANS[options.plan], Progress(sys.stderr)
    results = json.loads(options.results.read_text())
    results["about"] = machine() | results["about"]
    try:
        for section in options.sections:
            cells = SECTIONS[section].cells(plan, options.threads)
            for done, cell in enumerate(cells):
                progress.show(section, done, len(cells), cell)
                for record in SECTIONS[section].measure(cell, plan, options.threads, options.only):
                    results["cells"].append({"section": section, "threads": options.threads, **cell, **record})
                write(results, options.results)
    except KeyboardInterrupt:
        return 130
    except contenders.WrongAnswerError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    finally:
        progress.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
