"""Every example in the documentation and in the docstrings runs and prints what it says."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import pyrnn
from pyrnn import reference

pytestmark = [pytest.mark.python, pytest.mark.wheel]

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.iter_modules(pyrnn.__path__) if m.name != "__main__"]
NEEDS = {"torch": "torch", "onnx": "onnx", "keras": "h5py", "safetensors": "safetensors"}  # of modules and pages
PAGES = [
    "README.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")) if ">>>" in page.read_text("utf-8")),
]


def marked(names):
    """The names as parameters of a test; `peer` is added where the module or page needs another library."""
    return [pytest.param(name, marks=pytest.mark.peer) if Path(name).stem in NEEDS else name for name in names]


@pytest.mark.parametrize("page", marked(PAGES))
def test_page(page):
    if (name := Path(page).stem) in NEEDS:
        pytest.importorskip(NEEDS[name])
    results = doctest.testfile(str(ROOT / page), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", marked(MODULES))
def test_docstrings(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    module = importlib.import_module(f"pyrnn.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", [n for n in pyrnn.__all__ if inspect.isfunction(getattr(pyrnn, n))])
def test_public_functions_are_documented(name):
    doc = inspect.getdoc(getattr(pyrnn, name))
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n{'-' * len(section)}\n" in doc, f"{name} has no section {section}"
    for argument in inspect.signature(getattr(pyrnn, name)).parameters:
        assert argument in doc


@pytest.mark.parametrize("name", [n for n in pyrnn.__all__ if hasattr(reference, n) and n[0].islower()])
def test_reference_has_the_same_signature(name):
    assert inspect.signature(getattr(pyrnn, name)) == inspect.signature(getattr(reference, name))


def test_every_equation_is_mapped():
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    for number in range(8, 29):
        assert f"10.{number}" in page
