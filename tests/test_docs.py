"""Every example in the documentation and in the docstrings runs and prints what it says."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import pyrnn
from pyrnn import reference

ROOT = Path(__file__).parent.parent
MODULES = [m.name for m in pkgutil.iter_modules(pyrnn.__path__) if m.name != "__main__"]


@pytest.mark.parametrize("page", ["README.md", "docs/bptt.md", "docs/profiling.md", "docs/rnn.md"])
def test_page(page):
    results = doctest.testfile(str(ROOT / page), module_relative=False, encoding="utf-8")
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
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
