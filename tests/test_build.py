"""The build: what a changed file makes anew, and what the source distribution takes along."""

import os
import runpy
import shutil
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


def after_a_change_of(changed, folder, edit=None, **environment):
    """The modules that are translated anew, and what each module depends on, in a folder with a complete build.

    edit: what makes the new text of the changed file from the old; without it the file is only younger.
    environment: variables that the last build did not have.
    """
    folder.mkdir()
    for pattern in ("setup.py", "csrc/*", "pyrnn/_core/*.pxd"):
        for path in ROOT.glob(pattern):
            copy = folder / path.relative_to(ROOT)
            copy.parent.mkdir(exist_ok=True, parents=True)
            copy.write_bytes(path.read_bytes())
            os.utime(copy, (1e9, 1e9))
    generated = folder / "build" / "generated" / "csrc"
    generated.mkdir(parents=True)
    run = lambda **more: subprocess.check_output(
        [sys.executable, "-P", "-c", SETUP], cwd=folder, text=True, env=os.environ | more
    )
    run()  # for the file that says with which tools, and those that are included
    for path in generated.parent.glob("*.pxi"):
        os.utime(path, (1e9, 1e9))
    modules = {path.stem for path in (folder / "csrc").glob("*.pyx")}
    for name in modules:
        (generated / f"{name}.c").touch()
        os.utime(generated / f"{name}.c", (1.1e9, 1.1e9))
    if changed:
        if edit:
            text = (folder / changed).read_text(encoding="utf-8")
            assert edit(text) != text
            (folder / changed).write_text(edit(text), encoding="utf-8")
        os.utime(folder / changed, (3e9, 3e9))
    depends, anew = {}, set()
    for line in run(**environment).splitlines():
        name, source, *files = line.split()
        depends[name.removeprefix("pyrnn._core.")] = set(files)
        if source.endswith(".pyx"):
            anew.add(name.removeprefix("pyrnn._core."))
    assert set(depends) == modules
    assert anew == modules - {path.stem for path in generated.glob("*.c")}  # no old C is left
    return anew, depends


def test_a_changed_pxd_makes_every_module_anew_that_reads_it(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    for i, (name, readers, others) in enumerate(
        [
            ("team", {"team", "engine_fused"}, {"table", "blas"}),  # its own module, and one that cimports it
            ("table", {"table", "engine_blas", "engine_fused", "online"}, {"memory", "profile"}),  # by way of typed.pxd
        ]
    ):
        pxd = f"pyrnn/_core/{name}.pxd"
        anew, depends = after_a_change_of(pxd, tmp_path / str(i))
        assert readers <= anew
        assert not others & anew
        assert anew == {module for module, files in depends.items() if str(Path(pxd)) in files}


def declare_one_more(header):
    last = "\n#elif !defined(PYRNN_KERNELS_H)"
    return header.replace(last, f"PYRNN_KERNEL(REAL, one_more, (ptrdiff_t n,\n    const REAL *x))\n{last}")


def test_a_new_kernel_is_declared_to_cython_by_the_next_build(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    anew, depends = after_a_change_of("csrc/kernels.h", tmp_path / "new", declare_one_more)
    table, typed = (
        (tmp_path / "new" / "build" / "generated" / name).read_text(encoding="utf-8")
        for name in ("kernel_table.pxi", "typed_kernels.pxi")
    )
    assert "        float (*one_more_f32)(Py_ssize_t n, const float *x) noexcept nogil\n" in table
    assert "        double (*one_more_f64)(Py_ssize_t n, const double *x) noexcept nogil\n" in table
    assert "cdef inline real one_more(Py_ssize_t n, const real *x) noexcept nogil:\n" in typed
    assert {"table", "engine_blas", "engine_fused", "online"} <= anew
    assert not {"memory", "profile"} & anew
    assert anew == {name for name, files in depends.items() if str(Path("build/generated/kernel_table.pxi")) in files}


def test_a_comment_on_a_kernel_makes_no_module_anew(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    comment = lambda header: header.replace("written as h", "written as h, in place")
    anew, _ = after_a_change_of("csrc/kernels.h", tmp_path / "comment", comment)
    assert anew == set()


@pytest.mark.parametrize(
    "wrong",
    [
        "PYRNN_KERNEL(void, tanh, (long n))",
        "PYRNN_KERNEL(void, tanh, (ptrdiff_t))",
        "PYRNN_KERNEL(void, tanh)",
        "void tanh(ptrdiff_t n, const REAL *x, REAL *y);",
    ],
)
def test_a_declaration_that_cython_cannot_be_told_stops_the_build(wrong):
    declared = runpy.run_path(str(ROOT / "csrc" / "kernels_for_cython.py"))["declared"]
    header = (ROOT / "csrc" / "kernels.h").read_text(encoding="utf-8")
    declaration = "PYRNN_KERNEL(void, tanh, (ptrdiff_t n, const REAL *x, REAL *y))"
    assert declaration in header
    with pytest.raises(ValueError, match=r"kernels\.h must declare kernels as PYRNN_KERNEL\(.* got ") as raised:
        declared(header.replace(declaration, wrong))
    assert wrong in str(raised.value)


def test_a_body_that_differs_from_its_contract_does_not_compile(tmp_path):
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    shutil.copytree(ROOT / "csrc", tmp_path, dirs_exist_ok=True)
    command = ["gcc", "-std=c11", "-DPYRNN_PLAIN_C", "-Werror", "-fsyntax-only", tmp_path / "kernels.c"]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""
    header = tmp_path / "kernels.h"
    text = header.read_text(encoding="utf-8")
    for wrong, says in [
        (
            text.replace("(void, tanh, (ptrdiff_t n, const REAL *x,", "(void, tanh, (ptrdiff_t n, const int *x,"),
            "conflicting",
        ),
        (declare_one_more(text), "pyrnn_one_more_f32_base"),  # there is no body at all
    ]:
        header.write_text(wrong, encoding="utf-8")
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode != 0
        assert says in result.stderr


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
