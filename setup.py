"""The compiled modules of pyrnn and how to compile them; everything else is in pyproject.toml.

PYRNN_SANITIZE=address,undefined builds with those sanitizers (GCC or Clang). PYRNN_PROFILE=1 builds for profilers of
lines: debugging information that leads to the .pyx, and Cython's line tracing (docs/profiling.md).
"""

import os
import platform
import re
import runpy
import sys
from pathlib import Path

import Cython
import numpy as np
import scipy.linalg
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Checks and conversions that no loop of ours may pay for, and the promise to run without the GIL.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    # Functions of C with a signature that inspect reads: functions of Cython are 5 % of a wheel, and no faster.
    "binding": False,
    "embedsignature": True,
    "embedsignature.format": "clinic",
    "freethreading_compatible": True,
}
MACROS = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
PROFILE = os.environ.get("PYRNN_PROFILE", "0") != "0"
BUILD = Path("build", "profile") if PROFILE else Path("build")
GENERATED = BUILD / "generated"
MODULES = ("blas", "call", "chains", "engine_blas", "engine_fused", "fixed_points", "lyapunov", "memory")
MODULES += ("losses", "noise", "online", "optimizers", "profile", "scratch", "sequences")
MODULES += ("stepper", "tangents", "team", "tensors")
# No loops over numbers in them that take time, but 5 % of a wheel to save.
SMALL = tuple(f"pyrnn._core.{name}" for name in ("blas", "memory", "optimizers", "profile", "scratch", "tensors"))
# Their loops over numbers are the kernels', in another module: 2 % more, and as fast.
CALLERS = tuple(f"pyrnn._core.{name}" for name in ("call", "engine_blas", "engine_fused", "sequences"))

if PROFILE:
    if sys.version_info[:2] == (3, 12):
        sys.exit("PYRNN_PROFILE=1: Cython's line tracing does not work on Python 3.12, take 3.11 or 3.13 and later")
    DIRECTIVES |= {"linetrace": True, "binding": True}  # line_profiler takes no functions of C
    MACROS.append(("CYTHON_TRACE_NOGIL", "1"))


def blas_int():
    """The integer type of scipy.linalg.cython_blas, for blas.pyx.

    SciPy from 1.18 on names it `blas_int` (64-bit where SciPy was built so); before, it is int.
    """
    pxd = Path(scipy.linalg.__file__).parent / "cython_blas.pxd"
    named = "blas_int" in pxd.read_text(encoding="utf-8")
    return "from scipy.linalg.cython_blas cimport blas_int\n" if named else "ctypedef int blas_int\n"


def write_included():
    """Write the files that .pyx and .pxd files include; one that says so already keeps its date."""
    GENERATED.mkdir(parents=True, exist_ok=True)
    kernels = runpy.run_path("csrc/kernels_for_cython.py")["files"]()
    for name, source in {"blas_int.pxi": blas_int(), **kernels}.items():
        target = GENERATED / name
        if not target.exists() or target.read_text(encoding="utf-8") != source:
            target.write_text(source, encoding="utf-8")


class Build(build_ext):
    """Flags by compiler, known only once the compiler is."""

    def build_extensions(self):
        for extension in self.extensions:
            if self.compiler.compiler_type == "msvc":
                extension.extra_compile_args += ["/O2", "/std:c11", "/fp:precise"]
            else:
                # No contraction of a * b + c: an fma stands where the source says so, and nowhere else.
                extension.extra_compile_args += ["-O3", "-std=c11", "-ffp-contract=off", "-fvisibility=hidden"]
                # No DWARF, which Python's own flags ask for: 2 MB of a wheel. The symbol table stays, for profilers.
                extension.extra_compile_args += ["-g" if PROFILE else "-g0"]
                # Frame pointers, so that perf can walk the stack (PEP 831).
                extension.extra_compile_args += ["-fno-omit-frame-pointer"]
                if platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64"):
                    extension.extra_compile_args += ["-mno-omit-leaf-frame-pointer"]
                if extension.name in SMALL:
                    extension.extra_compile_args += ["-Os"]
                elif extension.name in CALLERS:
                    extension.extra_compile_args += ["-O2"]
            if sanitizers := os.environ.get("PYRNN_SANITIZE"):
                # Checks in every load and store of every tile: to compile the kernels takes ten minutes and 7 GB with
                # -O3, five minutes with -O1, two with -Og.
                flags = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=undefined", "-g1"]
                flags += ["-Og" if "address" in sanitizers else "-O1"]
                if "address" in sanitizers and "undefined" in sanitizers:
                    # Both are found by AddressSanitizer as well, when memory is used, and take minutes to compile.
                    flags += ["-fno-sanitize=null,object-size"]
                if "thread" in sanitizers:
                    flags += ["-DPYRNN_PLAIN_C"]
                extension.extra_compile_args += flags
                extension.extra_link_args += flags
        super().build_extensions()


def declarations(name):
    """The files that a module reads: its own .pxd, and those that it, or one of them, cimports or includes."""
    found, pending = set(), [Path("csrc", f"{name}.pyx"), Path("pyrnn", "_core", f"{name}.pxd")]
    while pending:
        path = pending.pop()
        if path not in found and path.exists():
            found.add(path)
            text = path.read_text(encoding="utf-8")
            cimported = re.findall(r"^ *from pyrnn\._core\.(\w+) cimport", text, re.MULTILINE)
            pending += [Path("pyrnn", "_core", f"{other}.pxd") for other in cimported]
            pending += [GENERATED / other for other in re.findall(r'^ *include "(.+?)"', text, re.MULTILINE)]
    return sorted(found - {Path("csrc", f"{name}.pyx")})


def same_tools():
    """Whether the tools and options are those of the last build here; writes them down for the next one."""
    used = [sys.version, Cython.__version__, np.__version__, scipy.__version__, repr(DIRECTIVES), repr(MACROS)]
    used += [f"{name}={os.environ.get(name)}" for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "PYRNN_SANITIZE")]
    written = GENERATED / "tools.txt"
    same = written.exists() and written.read_text(encoding="utf-8") == "\n".join(used)
    written.write_text("\n".join(used), encoding="utf-8")
    return same


def extension(same, name, *sources):
    """A module, from its C where that is newer than all it is made of; same: what `same_tools` says.

    Cython would look at the dates of its own and of SciPy's files too, which pip installs anew for each build, and so
    compile everything for a second `pip install`; but not at a module's own .pxd, which lies elsewhere than its .pyx.
    """
    read, source = declarations(name), Path("csrc", f"{name}.pyx")
    generated = GENERATED / "csrc" / f"{name}.c"
    if generated.exists():
        if same and all(path.stat().st_mtime < generated.stat().st_mtime for path in (source, *read)):
            source = generated
        else:
            generated.unlink()
    return Extension(
        f"pyrnn._core.{name}",
        [str(source), *sources],
        include_dirs=["csrc", np.get_include()],
        depends=[str(p) for p in (*Path("csrc").glob("*.[hi]*"), *read)],
        define_macros=MACROS,
    )


if __name__ == "__main__":  # of the processes that Cython starts each imports this file
    write_included()
    same = same_tools()
    setup(
        ext_modules=cythonize(
            [
                extension(same, "table", "csrc/kernels.c"),  # first, for it takes longest
                *(extension(same, name) for name in MODULES),
            ],
            build_dir=str(GENERATED),
            nthreads=os.cpu_count(),
            include_path=[".", str(GENERATED)],
            compiler_directives=DIRECTIVES,
            emit_linenums=PROFILE,
        ),
        options={"build": {"build_base": str(BUILD)}, "build_ext": {"parallel": os.cpu_count()}},
        cmdclass={"build_ext": Build},
    )
