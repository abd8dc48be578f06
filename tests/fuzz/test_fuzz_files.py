"""The readers of files against damaged and hostile ones: a few in every run, many with ``-m slow``."""

import importlib.util
import os
import sys

import pytest

pytestmark = [pytest.mark.peer, pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")]


def load():
    """The module beside this one: the folder is no package."""
    spec = importlib.util.spec_from_file_location("fuzz_files", os.path.join(os.path.dirname(__file__), "files.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


files = load()


def expect_none(failures):
    assert not failures, "\n".join(map(str, failures[:20]))


def test_files():
    failures, taken = files.run(300, seed=0)
    expect_none(failures)
    assert 20 < taken < 200  # some files are good


@pytest.mark.slow
def test_many_files():
    failures, _ = files.run(100_000, seed=1)
    expect_none(failures)


@pytest.mark.parametrize(
    ("plant", "problem"),
    [
        ("exception", "KeyError"),
        ("no name", "does not name the file"),
        ("memory", "MB for a file of"),
        ("address space", "MemoryError"),
        ("hang", "SIGPROF"),
        ("crash", "SIGSEGV"),
    ],
)
def test_wrong_readers_are_found(plant, problem):
    failures, _ = files.run(2, seed=0, kinds=["npz"], plant=plant, seconds=0.5)
    assert len(failures) == 2
    assert all(problem in failure["problem"] for failure in failures)
