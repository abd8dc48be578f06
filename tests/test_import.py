"""What `import pyrnn` loads, and what a first call does."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pyrnn

pytestmark = [pytest.mark.peer, pytest.mark.python]

OPTIONAL = ["torch", "matplotlib", "sklearn", "onnx", "onnxruntime", "jax", "mpmath", "hypothesis", "threadpoolctl"]
OPTIONAL += ["h5py", "keras", "safetensors", "tqdm"]
ROOMS = ["config", "dynamics", "layers", "online", "plots", "tasks", "training"]
BRIDGES = ["bridges.onnx", "bridges.keras", "bridges.safetensors"]


def modules_of(script):
    """The names of the modules that a new process has loaded after these lines."""
    script += "; import sys, json; print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=3600)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def loaded():
    return modules_of("import pyrnn; pyrnn.forward")


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_packages_are_not_loaded(loaded, name):
    assert not [module for module in loaded if module.split(".")[0] == name]


@pytest.mark.parametrize("name", ["demo", "__main__", "reference", "bridges", *ROOMS, *BRIDGES])
def test_own_modules_that_nobody_asked_for_are_not_loaded(loaded, name):
    assert f"pyrnn.{name}" not in loaded


def test_what_is_needed_is_loaded(loaded):
    assert {"pyrnn", "pyrnn._core.engine_blas", "numpy", "scipy.linalg.cython_blas"} <= set(loaded)


def test_the_package_itself_loads_nothing_but_the_folder_of_compiled_modules():
    assert [name for name in modules_of("import pyrnn") if name.startswith("pyrnn")] == ["pyrnn", "pyrnn._core"]


def test_every_name_is_found():
    """At the top and in the rooms; and `dir` knows them before they are used."""
    assert set(pyrnn.__all__) == {*pyrnn._HOMES, *pyrnn._ROOMS} <= set(dir(pyrnn))
    assert len([name for name in pyrnn.__all__ if name not in ROOMS]) <= 30
    for module in (pyrnn, *(getattr(pyrnn, room) for room in ROOMS)):
        for name in module.__all__:
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="module 'pyrnn' has no attribute 'vjp'"):
        pyrnn.vjp  # noqa: B018


def test_no_module_bears_the_name_of_a_function():
    """A function that is exported over a module would hide it."""
    folder = Path(pyrnn.__file__).parent
    for place, names in ((folder, pyrnn.__all__), *((folder / room, getattr(pyrnn, room).__all__) for room in ROOMS)):
        files = place.iterdir() if place.is_dir() else ()  # a room may be one module
        modules = {path.name.split(".")[0] for path in files if path.suffix in (".py", ".so")}
        assert not modules & set(names) - set(ROOMS)


def private_imports(source):
    """The private names of this package that a module imports at run time."""
    tree = ast.parse(source)
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(inner) for node in typed for child in node.body for inner in ast.walk(child)}
    names = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            names += [f"{'pyrnn.' * (node.level > 0)}{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    ours = [name for name in names if name.split(".")[0] == "pyrnn"]
    return [name for name in ours if any(part.startswith("_") for part in name.split("."))]


def test_bridges_import_public_names_only():
    assert private_imports("from pyrnn import _checks") == ["pyrnn._checks"]
    assert private_imports("def f():\n    import pyrnn._core.call") == ["pyrnn._core.call"]
    assert private_imports("from pyrnn.layers.stack import _units") == ["pyrnn.layers.stack._units"]
    assert private_imports("from torch._C import x\nif TYPE_CHECKING:\n    from pyrnn._types import Shape") == []
    files = list((Path(pyrnn.__file__).parent / "bridges").rglob("*.py"))
    assert len(files) >= 10
    for file in files:
        assert private_imports(file.read_text(encoding="utf-8")) == [], file
