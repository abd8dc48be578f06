"""A bounded number of random calls of the functions, each against the reference: functions.py says how."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.compiled

SCRIPT = Path(__file__).with_name("functions.py")
spec = importlib.util.spec_from_file_location("fuzz_functions", SCRIPT)
functions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(functions)


class Drawn(functions.Choices):
    """Choices from bytes, which hypothesis draws, and makes simpler."""

    def index(self, n):
        at = len(self.made)
        self.made.append(self.given[at] % n if at < len(self.given) else 0)
        return self.made[-1]


@pytest.mark.parametrize("name", functions.FUNCTIONS)
@settings(max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(drawn=st.binary(min_size=64, max_size=64))
def test_choices_of_hypothesis(name, drawn):
    choose = Drawn(None, drawn)
    try:
        functions.run(name, choose)
    except Exception as error:
        raise with_command(error, name, choose) from None


def with_command(error, name, choose):
    choices = ",".join(map(str, choose.made))
    error.add_note(f"again: python -P tests/fuzz/functions.py --function {name} --choices {choices}")
    return error


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_random_cases(name):
    for number in range(120):
        _, choose = functions.of_seed(0, number, name)
        try:
            functions.run(name, choose)
        except Exception as error:
            raise with_command(error, name, choose) from None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_million_cases():
    found = functions.fuzz(1_000_000, seed=1)
    assert not found, "\n".join(found)


BROKEN = """
import runpy, sys
import numpy as np
import pyrnn

right = pyrnn.backward

def wrong(*arguments, **options):
    g = right(*arguments, **options)
    if options.get("reverse") and options.get("lengths") is not None and np.size(g.W):
        g.W[-1, -1] *= 1 + 1e-4
    return g

pyrnn.backward = wrong
script, sys.argv = sys.argv[1], ["functions.py", "--function", "backward", "--cases", "1500"]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_wrong_element_is_found_and_made_small():
    """One element of dW that is wrong by 1e-4, with lengths and reverse alone."""
    process = subprocess.run([sys.executable, "-P", "-c", BROKEN, SCRIPT], capture_output=True, text=True)
    assert process.returncode == 1, process.stderr
    assert "backward: Wrong: gradient of W" in process.stdout
    assert "--function backward --choices " in process.stdout
