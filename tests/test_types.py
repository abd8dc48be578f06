"""The types that the package tells, in the eyes of mypy."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

import pyrnn

pytestmark = pytest.mark.once
ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy reads it, of the extra lint")
def test_calls_have_the_types_that_they_are_said_to_have(tmp_path):
    place = pathlib.Path(pyrnn.__file__).parents[1]
    environment = dict(os.environ)
    if place.name != "site-packages":  # where mypy looks itself
        environment["MYPYPATH"] = str(place)
    command = [sys.executable, "-P", "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(tmp_path), str(ROOT / "tests" / "typed_calls.py")]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600)
    assert process.returncode == 0, process.stdout + process.stderr
