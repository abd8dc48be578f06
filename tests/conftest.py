"""Which step of CI runs a test, and the fixtures of all files of tests; plain functions are in helpers.py."""

import re
import shutil

import numpy as np
import pytest

from pyrnn._core import call

pytest.register_assert_rewrite("helpers")  # so that its assertions say what was compared

from helpers import LAYOUTS, WRITEABLE_LAYOUTS  # noqa: E402

# ---- Which step of CI runs a test -----------------------------------------------------------------------------------
STEPS = {"once", "wheel", "python", "plain_c", "peer", "neurogym", "profile", "compiled"}  # meant as in pyproject.toml
NO_PEER = re.compile(
    r"could not import '(torch|onnx|onnxruntime|keras|h5py|safetensors)\b|"
    r"\b(PyTorch|ONNX Runtime|torch|onnx|onnxruntime|keras|h5py|safetensors) is not installed"
)


def pytest_ignore_collect(collection_path, config):
    """Leave out the files without a step that -m names: to import them all takes 13 s, and minutes under sanitizers."""
    asked = STEPS & set(re.findall(r"\w+", config.option.markexpr))
    if asked and collection_path.name.startswith("test_"):
        text = collection_path.read_text("utf-8")
        if not any(f"mark.{step}" in text for step in asked):
            return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Refuse a file of tests that does not state its steps: it would be left out of them without a word."""
    report = yield
    if isinstance(collector, pytest.Module):
        if report.passed and not STEPS & {mark.name for mark in collector.own_markers}:
            steps = ", ".join(sorted(STEPS))
            fail(report, f"pytestmark must name the steps of CI that run this file, one or more of {steps}")
        if (
            report.skipped
            and NO_PEER.search(str(report.longrepr))
            and "mark.peer" not in collector.path.read_text("utf-8")
        ):
            fail(report, "pytestmark must name peer, since this file needs another library")
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Refuse a test that skips for want of a library and is not marked `peer`: the step with it would not run it."""
    report = yield
    if report.skipped and NO_PEER.search(str(report.longrepr)) and not item.get_closest_marker("peer"):
        fail(report, f"this test must be marked peer, since it needs a library: {report.longrepr[2]}")
    return report


def fail(report, reason):
    report.outcome, report.longrepr = "failed", reason


def pytest_itemcollected(item):
    """Mark the tests that compile C."""
    if "gcc" in item.fixturenames:
        item.add_marker("gcc")


# Files that take longest. They begin first: of two processes, none waits for the other at the end.
LONGEST = ("test_engines.py", "test_layouts.py", "test_torch_module.py", "test_fixed_points.py")


def pytest_collection_modifyitems(config, items):
    """Put the longest files in front; skip what is marked slow unless -m names it."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if "slow" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: chosen with -m slow"))


@pytest.fixture(scope="session")
def gcc():
    """The compiler, for the tests of C programs; they are marked `gcc`."""
    path = shutil.which("gcc")
    return path or pytest.skip("needs gcc")


# ---- Fixtures ------------------------------------------------------------------------------------------------------
@pytest.fixture(params=[np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def dtype(request):
    return request.param


@pytest.fixture
def set_chunk_bytes():
    """Sets the size of a chunk for one test."""
    old = call.set_chunk_bytes(1)
    call.set_chunk_bytes(old)
    yield call.set_chunk_bytes
    call.set_chunk_bytes(old)


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """A function that returns an array with the values of its argument, laid out in some way."""
    return LAYOUTS[request.param]


@pytest.fixture(params=WRITEABLE_LAYOUTS)
def writeable_layout(request):
    return WRITEABLE_LAYOUTS[request.param]
