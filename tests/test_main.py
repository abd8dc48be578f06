"""``python -m pyrnn``: the job as a user runs it, its errors, and the models behind it."""

import csv
import importlib.resources
import itertools
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pyrnn.__main__ import main
from pyrnn.demo import sunspots
from pyrnn.plots import drawing

pytestmark = pytest.mark.once

ENVIRONMENT = {**os.environ, "PYTHONIOENCODING": "utf-8"}


def run_python(*arguments, **options):
    command = [sys.executable, "-P", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=ENVIRONMENT, timeout=3600, **options
    )


def run_job(*arguments, **options):
    """The installed job in a process of its own."""
    return run_python("-m", "pyrnn", *arguments, **options)


def write_series(path, values, header="time,value"):
    rows = [f"{1900 + t},{value!r}" for t, value in enumerate(np.asarray(values).tolist())]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def wave(n=70):
    """A short series that the job fits quickly."""
    return 50 + 40 * np.sin(np.arange(n) / 1.7) + np.random.default_rng(3).normal(size=n)


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """One run on the sunspots with a small network, in a folder of its own."""
    folder = tmp_path_factory.mktemp("run")
    return run_job("--hidden", 3, cwd=folder), folder


def table(output):
    """The errors by model: its name and the three numbers that end the line."""
    matches = re.findall(r"^  (.+?) +(\S+) +(\S+) +(\S+)$", output.split("average relative variance):")[1], re.M)
    return {name: [float(error) for error in errors] for name, *errors in matches[2:]}


# --------------------------------------------------------------------------------------------- the whole job
def test_job_reports_both_models(full_run):
    process, _ = full_run
    assert process.returncode == 0, process.stderr
    errors = table(process.stdout)
    network, linear = errors["tanh RNN, 3 hidden"], errors["AR(12), least squares"]
    mean = errors["mean of the training span"]
    assert np.isfinite(network + linear + mean).all()
    assert all(a < 0.5 * b for a, b in zip(network, mean, strict=True))
    assert network[0] < linear[0]
    assert process.stderr == ""


def test_job_shows_check_cost_and_spans(full_run):
    output = full_run[0].stdout
    assert "Trained on 1700-1920, tested on 1921-1955 and 1956-1979" in output
    line = re.search(r"worst relative error by parameter:\n(.*)", output)[1]
    worst = dict(zip(line.split()[::2], map(float, line.split()[1::2]), strict=True))
    assert set(worst) == {"U", "W", "b", "V", "c", "x", "h0"}
    assert max(worst.values()) < 1e-5
    assert 0 < float(re.search(r"([\d.]+) microseconds per step", output)[1]) < 1000
    assert "iteration" not in output  # not a terminal: no line that is updated in place


def test_job_writes_the_picture(full_run):
    pytest.importorskip("matplotlib")
    process, folder = full_run
    assert "Picture: sunspots.png" in process.stdout
    assert (folder / "sunspots.png").read_bytes().startswith(b"\x89PNG")


def test_own_data_by_proportion_and_plot_elsewhere(tmp_path):
    pytest.importorskip("matplotlib")
    data, plot = write_series(tmp_path / "my $x_$.csv", wave()), tmp_path / "picture.svg"
    process = run_job("--data", data, "--plot", plot, "--hidden", 2, "--seed", 5, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "Trained on 1900-1954, tested on 1955-1963 and 1964-1969" in process.stdout  # 55, 9 and 6 of 70
    assert "<svg" in plot.read_text(encoding="utf-8")
    assert not (tmp_path / "sunspots.png").exists()


def test_same_seed_same_errors_other_seed_other_start(tmp_path):
    series = sunspots.read_series(write_series(tmp_path / "wave.csv", wave()))
    first, again, other = (sunspots.run(series, hidden=2, seed=seed) for seed in (1, 1, 2))
    assert first.errors == again.errors
    for name, norms in first.gradient_norms.items():
        assert not np.array_equal(norms, other.gradient_norms[name])
        assert not np.array_equal(norms[0], norms[1])  # each network of an ensemble has its own start


def test_without_matplotlib_a_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.chdir(tmp_path)
    data = write_series(tmp_path / "wave.csv", wave())
    assert main(["--data", str(data), "--hidden", "1"]) == 0
    assert "pyrnn-bptt[plot]" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [data]
    assert main(["--data", str(data), "--plot", "wanted.png"]) == 2
    assert "pyrnn-bptt[plot]" in capsys.readouterr().err


def test_no_plot_writes_nothing_and_does_not_load_matplotlib(tmp_path):
    data = write_series(tmp_path / "wave.csv", wave())
    program = "import sys; from pyrnn.__main__ import main; main(sys.argv[1:]); print('matplotlib' in sys.modules)"
    process = run_python("-c", program, "--data", data, "--hidden", 1, "--no-plot", cwd=tmp_path)
    assert process.stdout.splitlines()[-2:] == ["Picture: none (--no-plot)", "False"], process.stderr
    assert list(tmp_path.iterdir()) == [data]


# ------------------------------------------------------------------------------------------------- bad input
GOOD = [f"{year},{year % 11}" for year in range(1900, 1970)]


def lines(*replaced, header="time,value", rows=GOOD):
    """The text of a good file with some lines replaced: (line number, text), ..."""
    text = [header, *rows]
    for number, line in replaced:
        text[number - 1] = line
    return "\n".join(text) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines((17, "1915;3")), "{}, line 17: expected two numbers, got '1915;3'"),
        (lines((17, "1915,many")), "{}, line 17: expected two numbers, got '1915,many'"),
        (lines((17, "1915,")), "{}, line 17: expected two numbers, got '1915,'"),
        (lines((17, "1915,1,2")), "{}, line 17: expected two numbers, got '1915,1,2'"),
        (lines((3, "1901,nan")), "{}, line 3: expected two finite numbers, got '1901,nan'"),
        (lines((71, "inf,1")), "{}, line 71: expected two finite numbers, got 'inf,1'"),
        (lines(header="1899,4"), "{}, line 1: expected a header with two names, got '1899,4'"),
        ("\ufeff" + lines(header="1899,4"), "{}, line 1: expected a header with two names, got '1899,4'"),
        (lines(rows=GOOD[:59]), "{}: expected at least 60 rows below the header, got 59"),
        ("time,value\n", "{}: expected at least 60 rows below the header, got 0"),
        ("", "{}: expected a header and at least 60 rows, got an empty file"),
        (lines(rows=[f"{t},7" for t in range(70)]), "{}: the first 32 values are all 7, a constant cannot be forecast"),
        (
            lines(rows=[f"{t},{(-1) ** t}e200" for t in range(70)]),
            "{}: the values are too large, their variance is not finite",
        ),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "{}: expected a CSV file in UTF-8, got byte 0x89"),
        (lines((40, "1938,3\N{DEGREE SIGN}")).encode("latin-1"), "{}: expected a CSV file in UTF-8, got byte 0xb0"),
    ],
)
def test_bad_file_is_one_line_and_status_2(tmp_path, capsys, content, message):
    path = tmp_path / "series.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["--data", str(path), "--no-plot"]) == 2
    captured = capsys.readouterr()
    assert captured.err == message.format(path) + "\n"
    assert captured.out == ""


def test_missing_file_and_directory(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path):
        process = run_job("--data", path, "--no-plot")
        assert process.returncode == 2
        assert process.stderr.startswith(f"{path}: ")
        assert process.stderr.count("\n") == 1
        assert process.stdout == ""


def test_quotes_blank_lines_and_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "series.csv"
    path.write_bytes(("\ufeff" + lines((5, '"1903","1e1"')).replace("\n", "\r\n") + "\r\n\r\n").encode())
    series = sunspots.read_series(path)
    assert len(series.times) == 70
    assert (series.times[3], series.values[3]) == (1903, 10)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hidden", "0"],
        ["--hidden", "2.5"],
        ["--hidden", "100000000"],
        ["--seed", "-1"],
        ["--seed", "x"],
        ["--plot", "a.png", "--no-plot"],
        ["--nonsense"],
    ],
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_help_names_every_option():
    process = run_job("--help")
    assert process.returncode == 0
    assert all(option in process.stdout for option in ("--seed", "--hidden", "--plot", "--no-plot", "--data"))


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        ("absent/a.png", "cannot write the picture"),
        (".", "cannot write the picture"),
        ("a.docx", "expected a suffix of"),
    ],
)
def test_unwritable_picture_is_an_error_before_the_work(tmp_path, monkeypatch, capsys, plot, message):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(["--plot", plot]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"{plot}: {message}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_checking_the_destination_leaves_no_trace(tmp_path):
    pytest.importorskip("matplotlib")
    kept = tmp_path / "kept.png"
    kept.write_bytes(b"old")
    for path in (kept, tmp_path / "new.png"):
        drawing.check_destination(path)
    assert list(tmp_path.iterdir()) == [kept]
    assert kept.read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one child process")
def test_interrupt_is_a_short_message_and_status_130(tmp_path):
    command = [sys.executable, "-u", "-P", "-m", "pyrnn", "--hidden", "200", "--no-plot"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Jobs in the background of a script ignore Ctrl-C, and so would their children.
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, **pipes) as process:
        process.stdout.readline()  # it has begun
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=3600)
    assert process.returncode == 130
    assert error == "\ninterrupted\n"


# ------------------------------------------------------------------------------------------------ the models
def test_packaged_data():
    text = (importlib.resources.files("pyrnn.demo") / "data" / "sunspots.csv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines())
    years = [int(year) for year, _ in rows]
    assert header == ["YEAR", "SUNACTIVITY"]
    assert years == list(range(1700, 2009))
    assert (rows[0], rows[-1]) == (["1700", "5"], ["2008", "2.9"])
    series = sunspots.load_sunspots()
    assert series.times.tolist() == list(range(1700, 1980))
    assert series.values.max() == 190.2


def test_autoregression_against_normal_equations():
    values, order, n_fit = sunspots.load_sunspots().values, 12, 221
    rows = np.array([[1.0, *values[t - order : t]] for t in range(order, len(values))])
    training = rows[: n_fit - order]
    coefficients = np.linalg.solve(training.T @ training, training.T @ values[order:n_fit])
    forecasts = sunspots.autoregression(values, n_fit)
    assert np.isnan(forecasts[:order]).all()
    np.testing.assert_allclose(forecasts[order:], rows @ coefficients, rtol=1e-6)


def test_autoregression_finds_a_linear_recurrence():
    values = np.cos(0.7 * np.arange(100)) + 0.3 * np.cos(1.9 * np.arange(100)) + 5
    np.testing.assert_allclose(sunspots.autoregression(values, 60)[12:], values[12:], atol=1e-6)


def test_average_relative_variance_against_plain_sums():
    forecasts, values = [9.0, 1.0, 3.0, 5.0], [0.0, 2.0, 3.0, 1.0]
    mean = sum(values) / 4
    variance = sum((value - mean) ** 2 for value in values) / 4
    span = sunspots.Span("part", 1, 4)
    expected = (1 + 0 + 16) / 3 / variance
    assert sunspots.average_relative_variance(np.array(forecasts), np.array(values), span) == pytest.approx(expected)


@pytest.mark.parametrize(
    "fit",
    [
        lambda values, n_fit: sunspots.autoregression(values, n_fit),
        lambda values, n_fit: sunspots.network_forecasts(
            sunspots.fit_network(values, n_fit, hidden=2, decay=2.0, rng=np.random.default_rng(0)), values, n_fit
        ),
    ],
    ids=["autoregression", "network"],
)
def test_forecasts_do_not_look_ahead(fit):
    """Values after the fitted rows change neither the fit nor any forecast up to the first changed value."""
    values, n_fit, changed = wave(), 50, 60
    other = values.copy()
    other[changed:] += 1000 * np.arange(1, len(values) - changed + 1)
    before, after = fit(values, n_fit), fit(other, n_fit)
    np.testing.assert_array_equal(before[: changed + 1], after[: changed + 1])
    assert not np.isclose(before[changed + 1 :], after[changed + 1 :]).any()


def test_fitted_network_is_at_a_minimum_of_the_documented_objective():
    values, n_fit, decay = wave(), 50, 2.0
    params = sunspots.fit_network(values, n_fit, hidden=2, decay=decay, rng=np.random.default_rng(0))

    def objective(vector):
        forecasts = sunspots.network_forecasts(params.unravel(vector), values, n_fit)[12:n_fit]
        return ((forecasts - values[12:n_fit]) ** 2).sum() / values[:n_fit].var() + decay * (vector**2).sum()

    best = params.ravel()
    steps = 1e-5 * np.eye(len(best))
    slopes = [(objective(best + step) - objective(best - step)) / 2e-5 for step in steps]
    assert np.abs(slopes).max() < 0.02
    assert objective(best) < 0.8 * objective(np.zeros_like(best))


def test_the_choice_of_the_decay_does_not_look_at_test_rows(capsys):
    series = sunspots.Series("wave", np.arange(70.0), wave())
    other = series._replace(values=series.values.copy())
    other.values[sunspots.split(70)[0].stop :] = 0
    first, second = (sunspots.run(s, hidden=1) for s in (series, other))
    assert first.decay == second.decay
    np.testing.assert_array_equal(first.gradient_norms["fitted"], second.gradient_norms["fitted"])
    choices = re.findall(r"weight decay .*", capsys.readouterr().out)
    assert choices[:4] == choices[4:]
    assert len(set(choices)) == 4


@pytest.mark.parametrize("n_rows", [60, 61, 100, 280, 1000])
def test_spans_tile_the_series(n_rows):
    spans, folds = sunspots.split(n_rows), sunspots.validation_folds(n_rows)
    edges = [span.stop for span in spans]
    assert [span.start for span in spans] == [12, *edges[:-1]]
    assert edges[-1] == n_rows
    assert folds[-1].stop == edges[0]
    assert all(a.stop == b.start for a, b in itertools.pairwise(folds))
    assert folds[0].start > 12 + 1
