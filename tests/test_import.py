"""What `import pyrnn` loads."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.peer, pytest.mark.python]

OPTIONAL = ["torch", "matplotlib", "sklearn", "onnx", "onnxruntime", "jax", "mpmath", "hypothesis", "threadpoolctl"]
OPTIONAL += ["h5py", "keras", "safetensors"]
BRIDGES = ["onnx", "keras", "safetensors"]


@pytest.fixture(scope="module")
def loaded():
    """The names of the modules that `import pyrnn` loads in a new process."""
    script = "import pyrnn, sys, json; print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=3600)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return json.loads(process.stdout)


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_packages_are_not_loaded(loaded, name):
    assert not [module for module in loaded if module.split(".")[0] == name]


@pytest.mark.parametrize("name", ["plotting", "sunspots", "__main__", "reference", "torch", *BRIDGES])
def test_own_modules_that_nobody_asked_for_are_not_loaded(loaded, name):
    assert f"pyrnn.{name}" not in loaded


def test_what_is_needed_is_loaded(loaded):
    assert {"pyrnn", "pyrnn._bptt", "numpy", "scipy.linalg.cython_blas"} <= set(loaded)
