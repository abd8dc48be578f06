"""The scripts in benchmarks/: a tiny run from end to end, and the refusal of contenders that compute something else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import contenders
import limits
import numpy as np
import pytest
import sections
import steppers
import tables
import timing
import training

import pyrnn
from pyrnn._core import table

pytestmark = pytest.mark.once

RUN = Path(__file__).parent.parent / "benchmarks" / "run.py"
NET = {"H": 6, "B": 3, "T": 5, "I": 2}


def run(*arguments):
    command = [sys.executable, "-P", RUN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=3600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a run of every section has written, against NumPy alone."""
    folder = tmp_path_factory.mktemp("benchmark")
    sections = ["grid", "odd", "growth", "peak", "bandwidth", "weights", "step", "tanh", "threads", "engines"]
    done = run("--tiny", "--only", "NumPy", "--threads", 2, "--out", folder, *sections)
    assert done.returncode == 0, done.stderr
    return folder


def test_results(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["about"]["plan"] == "tiny"
    assert results["about"]["versions"]["numpy"] == np.__version__
    expected = {
        "grid": {"H", "B", "T", "I", "dtype", "threads", "work", "seconds", "ratio"},
        "odd": {"H", "B", "T", "I", "dtype", "threads", "work", "seconds", "ratio"},
        "growth": {"axis", "H", "B", "T", "I", "dtype", "threads", "work", "seconds", "ratio"},
        "peak": {"H", "B", "T", "I", "dtype", "work", "seconds", "operations"},
        "bandwidth": {"nbytes", "dtype", "bandwidth"},
        "weights": {"H", "B", "dtype", "work", "seconds", "rate", "limit", "fraction"},
        "tanh": {"n", "dtype", "seconds", "ratio"},
        "threads": {"H", "B", "T", "I", "dtype", "work", "seconds", "speedup"},
        "engines": {"H", "B", "T", "I", "dtype", "instructions", "work", "seconds", "ratio"},
    }
    if hasattr(pyrnn, "Stepper"):
        expected["step"] = {"H", "I", "dtype", "seconds", "ratio"}
    cells = results["cells"]
    assert {cell["section"] for cell in cells} == set(expected)
    for cell in cells:
        assert expected[cell["section"]] <= set(cell)
        for name in ("seconds", "ratio", "speedup"):
            assert all(value > 0 for value in cell.get(name, {}).values())
        for name in ("operations", "bandwidth", "rate", "limit", "fraction"):
            assert cell.get(name, 1) > 0
        if "ratio" in cell and cell["section"] != "engines":
            assert set(cell["ratio"]) == {"NumPy"}
            assert set(cell["seconds"]) == {"pyrnn", "NumPy"}
    assert {c["instructions"] for c in cells if c["section"] == "engines"} == set(table.available())


def test_tables(folder):
    text = (folder / "tables.md").read_text(encoding="utf-8")
    for title in (
        "Against the peers",
        "Bandwidth of reading",
        "Speedup by threads",
        "The faster engine",
        "Each network",
    ):
        assert f"\n## {title}" in text
    assert "| 1 | float64 | forward and gradients | 4 |" in text  # two H by two B


def test_pictures(folder):
    matplotlib = pytest.importorskip("matplotlib")
    assert matplotlib.__version__
    for name in ("speed", "ratios", "growth", "threads", "bandwidth"):
        png = (folder / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert 5_000 < len(png) < 150_000


def test_tables_of_part_of_the_results(folder):
    results = json.loads((folder / "results.json").read_text())
    assert tables.make(results) == (folder / "tables.md").read_text(encoding="utf-8")
    for number in range(0, len(results["cells"]), 10):  # wherever Ctrl-C came
        assert tables.make(results | {"cells": results["cells"][:number]}).startswith("# Measured on ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["everything"], "sections are grid, odd"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--onednn", "nowhere.so"], "there is no file nowhere.so"),
        (["--onednn", __file__], "is not the library that build_onednn.sh builds"),
        (["--draw", "--out", "nowhere"], "there is no nowhere/results.json"),
    ],
)
def test_wrong_arguments(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_unknown_peer(tmp_path):
    done = run("tanh", "--tiny", "--only", "Theano", "--out", tmp_path)
    assert done.returncode == 2
    assert "--only: peers are pyrnn, NumPy, PyTorch, JAX, ONNX Runtime, oneDNN, got Theano" in done.stderr


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.peer) if name in ("PyTorch", "ONNX Runtime") else name
        for name in contenders.CONTENDERS
        if name != "pyrnn"
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_contenders_agree(name, dtype):
    found = contenders.ready(contenders.network(**NET, dtype=dtype), 1, only=[name])
    assert "pyrnn" in found
    if dtype == "float64" and name in ("ONNX Runtime", "oneDNN"):  # which have no such RNN
        assert name not in found
    elif name not in found:
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("wrong", range(6), ids=["h", "x", "U", "W", "b", "h0"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wrong_contender_is_refused(wrong, dtype):
    def make(net, threads):
        right = contenders.numpy_loop(net, threads)
        spoil = lambda a, number: a * (1 + 1e-2 * (number == wrong))
        return contenders.Contender(
            lambda: spoil(right.forward(), 0), lambda: [spoil(a, i) for i, a in enumerate(right.both(), 1)]
        )

    net = contenders.network(**NET, dtype=dtype)
    with pytest.raises(contenders.WrongAnswerError, match=r"^Spoilt: .* is off by 1.0e-02 .* H=6 B=3 T=5 I=2"):
        contenders.ready(net, 1, makers={"pyrnn": contenders.ours, "Spoilt": make})


def test_nan_is_refused():
    make = lambda net, threads: contenders.Contender(lambda: np.nan * net.dh)
    with pytest.raises(contenders.WrongAnswerError):
        contenders.ready(contenders.network(**NET, dtype="float64"), 1, makers={"NaN": make})


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore")
def test_steppers_agree(dtype):
    makers = {name: make for name, make in steppers.STEPPERS.items() if name != "pyrnn" or hasattr(pyrnn, "Stepper")}
    found = steppers.ready(contenders.network(**NET | {"T": 1}, dtype=dtype), makers=makers)
    assert "NumPy" in found
    ahead = lambda U, W, b, x: lambda: np.tanh(U @ x + b)
    with pytest.raises(contenders.WrongAnswerError, match=r"^Ahead: h after three steps"):
        steppers.ready(contenders.network(**NET | {"T": 1}, dtype=dtype), makers={"Ahead": ahead})


def test_rounds_in_turn():
    order = []
    functions = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.in_turn(functions, seconds=0, rounds=9)
    assert order == ["a"] * 2 + ["b"] * 2 + ["a", "b"] * 5  # no time for more than five rounds
    assert [len(values) for values in times.values()] == [5, 5]
    times = timing.in_turn(functions, seconds=0.01, rounds=9)
    assert 5 <= len(times["a"]) == len(times["b"]) <= 9
    assert order.count("a") > 20  # many calls a round, since they are short


def test_ratio_is_the_median_of_the_rounds():
    times = {"pyrnn": [1.0, 2.0, 4.0], "other": [3.0, 10.0, 8.0]}
    assert timing.ratios(times) == {"other": 3.0}
    assert timing.medians(times) == {"pyrnn": 2.0, "other": 8.0}


def test_pinned_processors():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not pin processes")
    before = timing.pin(1)
    try:
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        os.sched_setaffinity(0, before)


def test_operations():
    """Counted in the loops of the specification: a product of (n, k) and (k, m) takes 2 n k m."""
    H, B, T, I = 6, 3, 5, 2
    forward = T * (2 * B * I * H + 2 * B * H * H)
    backward = T * (2 * B * H * H + 2 * B * H * I + 2 * H * B * H + 2 * H * B * I)
    assert limits.operations("forward", H, B, T, I) == forward
    assert limits.operations("both", H, B, T, I) == forward + backward


def test_part_of_the_peak(monkeypatch):
    monkeypatch.setattr(table, "multiply_add_peak", lambda dtype: 5e11, raising=False)
    plan = sections.PLANS["tiny"]
    for cell in sections.SECTIONS["peak"].cells(plan, 1):
        for record in sections.SECTIONS["peak"].measure(cell, plan, 1, None):
            size = [cell[name] for name in "HBTI"]
            operations = limits.operations(record["work"], *size) / record["seconds"]["pyrnn"]
            assert record["operations"] == operations
            assert record["fraction"] == operations / 5e11


@pytest.mark.parametrize("dtype", [np.float32, "float64"])
@pytest.mark.parametrize("nbytes", [8, 1000, 1 << 16])
def test_read_bandwidth(dtype, nbytes):
    before = table.selected()
    try:
        for name in table.available():
            table.select(name)
            assert 1e6 < table.read_bandwidth(nbytes, dtype) < 1e13
    finally:
        table.select(before)


def test_read_bandwidth_of_wrong_arguments():
    with pytest.raises(ValueError, match="nbytes must be at least 8, the size of one float64, got 7"):
        table.read_bandwidth(7, np.float64)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got int32"):
        table.read_bandwidth(64, np.int32)


def test_forms():
    script = RUN.with_name("forms.py")
    command = [sys.executable, "-P", script, "--hidden", "4,5", "--batch", "5", "--seconds", "0", "--dtype", "float32"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=3600)
    assert done.returncode == 0, done.stderr
    _, *cells, means = [line.split() for line in done.stdout.splitlines()]
    assert [cell[:3] for cell in cells] == [["4", "5", "float32"], ["5", "5", "float32"]]
    expected = np.sqrt(np.prod([[float(figure) for figure in cell[4:]] for cell in cells], axis=0))
    np.testing.assert_allclose([float(mean) for mean in means[2:]], expected, atol=0.02)


def test_lyapunov():
    command = [sys.executable, "-P", RUN.with_name("lyapunov.py"), "--hidden", "12", "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=3600)
    assert done.returncode == 0, done.stderr
    _, *cells, means = [line for line in done.stdout.splitlines() if not line.startswith("PyTorch")]
    assert [cell.split()[:2] for cell in cells] == [["12", "10"], ["12", "12"]]
    assert means.endswith(f"least {min(float(cell.split()[3]) for cell in cells):.2f}")


def test_growth(tmp_path):
    picture = tmp_path / "growth.png"
    command = [sys.executable, "-P", RUN.with_name("growth.py"), "--small", "--seconds", "0", "--out", picture]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=3600)
    assert done.returncode == 0, done.stderr
    _, *lines = [line for line in done.stdout.splitlines() if not line.startswith("no picture")]
    assert {line.split()[0].strip(",") for line in lines} == {"H", "T", "k"}
    assert picture.exists() or "no picture" in done.stdout


@pytest.mark.peer
def test_torch_module():
    pytest.importorskip("torch")
    script = RUN.with_name("torch_module.py")
    command = [sys.executable, "-P", script, "--hidden", "4,5", "--batch", "2", "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=3600)
    assert done.returncode == 0, done.stderr
    _, *cells, last = done.stdout.splitlines()
    ratios = [float(cell.split()[-1]) for cell in cells]
    assert len(ratios) == 4
    assert last.endswith(f"least {min(ratios):.2f}")
    assert float(last.split()[2].strip(",")) == pytest.approx(np.prod(ratios) ** 0.25, abs=0.02)


@pytest.mark.peer
def test_training():
    pytest.importorskip("torch")
    script = RUN.with_name("training.py")
    options = ["--hidden", "10", "--batch", "2,3", "--steps", "20", "--seconds", "0"]
    command = [sys.executable, "-P", script, *options]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=3600)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "is left out" not in line]
    names = ["loop", "tuned"] if "is left out" in done.stdout else ["loop", "tuned", "jax"]
    cells = [line.split() for line in lines[1:3]]
    assert [cell[:3] for cell in cells] == [["10", "2", "20"], ["10", "3", "20"]]
    for column, (name, line) in enumerate(zip(names, lines[3:], strict=True), start=4 + len(names)):
        ratios = [float(cell[column]) for cell in cells]
        assert line.startswith(f"{name}: geometric mean ")
        assert line.endswith(f"least {min(ratios):.2f}")


def test_training_refuses_other_gradients():
    rng = np.random.default_rng(0)
    loss, gradients = 1.0, {name: rng.standard_normal((3, 4)) for name in training.NAMES}
    training.compare("peer", (loss, gradients), (loss, gradients), "")
    with pytest.raises(SystemExit, match=r"^H = 3: the loss of peer is off by 1\.0e-02"):
        training.compare("peer", (1.01 * loss, gradients), (loss, gradients), "H = 3")
    for name in training.NAMES:
        wrong = gradients | {name: gradients[name] * 1.001}
        with pytest.raises(SystemExit, match=rf"^H = 3: the gradient of {name} of peer is off by 1\.0e-03"):
            training.compare("peer", (loss, wrong), (loss, gradients), "H = 3")


@pytest.mark.peer
def test_fixed_points():
    pytest.importorskip("torch")
    script = RUN.with_name("fixed_points.py")
    options = ["--hidden", "4,5", "--starts", "20", "--iterations", "2", "--rounds", "1", "--training", "3"]
    done = subprocess.run(
        [sys.executable, "-P", script, *options], capture_output=True, text=True, encoding="utf-8", timeout=3600
    )
    assert done.returncode == 0, done.stderr
    _, *lines, last = done.stdout.splitlines()
    ratios = [float(line.split()[4]) for line in lines]
    assert len(ratios) == 6
    assert min(ratios) > 0
    assert last.split()[-1] == f"{min(ratios):.0f}"
    done = subprocess.run(
        [sys.executable, "-P", script, "--networks", "LSTM"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 2
    assert "--networks: there are flip-flop, Hopfield, random, got LSTM" in done.stderr
