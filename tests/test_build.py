"""The build: what a changed file makes anew, and what the source distribution takes along."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent

SETUP = """
import runpy, setuptools, Cython.Build
Cython.Build.cythonize = lambda extensions, **options: extensions
setuptools.setup = lambda ext_modules, **options: [print(e.name, e.sources[0], *e.depends) for e in ext_modules]
runpy.run_path("setup.py", run_name="__main__")
"""


def after_a_change_of(changed, folder, **environment):
    """The modules that are translated anew, and what each module depends on, in a folder with a complete build.

    environment: variables that the last build did not have.
    """
    folder.mkdir()
    for pattern in ("setup.py", "csrc/*", "pyrnn/*.pxd"):
        for path in ROOT.glob(pattern):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
            os.utime(copy, (1e9, 1e9))
    generated = folder / "build" / "generated" / "csrc"
    generated.mkdir(parents=True)
    run = lambda **more: subprocess.check_output(
        [sys.executable, "-P", "-c", SETUP], cwd=folder, text=True, env=os.environ | more
    )
    run()  # for the file that says with which tools
    modules = {path.stem for path in (folder / "csrc").glob("*.pyx")}
    for name in modules:
        (generated / f"{name}.c").touch()
        os.utime(generated / f"{name}.c", (2e9, 2e9))
    if changed:
        os.utime(folder / changed, (3e9, 3e9))
    depends, anew = {}, set()
    for line in run(**environment).splitlines():
        name, source, *files = line.split()
        depends[name.removeprefix("pyrnn.")] = set(files)
        if source.endswith(".pyx"):
            anew.add(name.removeprefix("pyrnn."))
    assert set(depends) == modules
    assert anew == modules - {path.stem for path in generated.glob("*.c")}  # no old C is left
    return anew, depends


def test_a_changed_pxd_makes_every_module_anew_that_reads_it(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    for i, (name, readers, others) in enumerate(
        [
            ("_team", {"_team", "_fused"}, {"_kernels", "_blas"}),  # its own module, and one that cimports it
            ("_kernels", {"_kernels", "_bptt", "_fused", "_online"}, {"_memory", "_profile"}),  # by way of _typed.pxd
        ]
    ):
        pxd = f"pyrnn/{name}.pxd"
        anew, depends = after_a_change_of(pxd, tmp_path / str(i))
        assert readers <= anew
        assert not others & anew
        assert anew == {module for module, files in depends.items() if str(Path(pxd)) in files}


def test_no_module_is_made_anew_without_a_change(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    anew, depends = after_a_change_of(None, tmp_path / "same")
    assert anew == set()
    assert all("csrc/kernels.h" in {Path(name).as_posix() for name in files} for files in depends.values())


def test_other_options_make_every_module_anew(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    anew, depends = after_a_change_of(None, tmp_path / "other", PYRNN_SANITIZE="undefined")
    assert anew == set(depends)


def test_manifest_names_folders_and_files_that_exist():
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        command, *names = line.split()
        if command in ("graft", "include"):
            for name in names:
                assert (ROOT / name).exists(), f"{line}: there is no {name}"
