"""Prints what Cython has to know of the kernels, read from their contracts in kernels.h.

    python csrc/kernels_for_cython.py

Two files, which setup.py writes to build/generated before anything is translated, so that they cannot differ from
kernels.h:

    kernel_table.pxi    the table of functions, included by pyrnn/_core/table.pxd
    typed_kernels.pxi   an inline function for each kernel over the fused type `real`, included by pyrnn/_core/typed.pxd
"""

import re
from pathlib import Path

HEADER = Path(__file__).with_name("kernels.h")
# The types that kernels use beside REAL. pyrnn_phi is declared in pyrnn/_core/table.pxd.
CYTHON = {name: name for name in ("void", "int", "double", "uint64_t", "pyrnn_phi")} | {"ptrdiff_t": "Py_ssize_t"}


def declared(text):
    """The kernels that a header declares: (result, name, [(const, type, star, name) of each parameter]) of each.

    Raises ValueError for a declaration that it does not understand.
    """
    listed = text.partition("#ifdef PYRNN_KERNEL\n")[2].partition("\n#elif")[0]
    listed = re.sub(r"/\*.*?\*/", "", listed, flags=re.DOTALL)
    kernels = []
    for declaration in re.split(r"\s+(?=PYRNN_KERNEL)", listed.strip()):
        declaration = " ".join(declaration.split())
        kernel = re.fullmatch(r"PYRNN_KERNEL\((\w+), (\w+), \((.+)\)\)", declaration)
        parameters = kernel and [
            re.fullmatch(r"(const )?(\w+) (\*?)(\w+)", parameter) for parameter in kernel[3].split(", ")
        ]
        if not kernel or not all(parameters) or not {kernel[1], *(p[2] for p in parameters)} <= {*CYTHON, "REAL"}:
            raise ValueError(
                f"{HEADER.name} must declare kernels as PYRNN_KERNEL(type, name, (type name, const type *name, ...)) "
                f"with the types REAL, {', '.join(CYTHON)}, got {declaration!r}"
            )
        kernels.append((kernel[1], kernel[2], [p.groups("") for p in parameters]))
    return kernels


def written(real, const, type_, star="", name=""):
    """A type in Cython, or a parameter of that type, where REAL is `real`."""
    return f"{const}{(CYTHON | {'REAL': real})[type_]} {star}{name}"


def table(kernels):
    """The struct of kernels.h."""
    lines = ["from libc.stdint cimport uint64_t", "", 'cdef extern from "kernels.h":']
    lines += ["    ctypedef struct pyrnn_kernel_table:", "        const char *name"]
    for real, tag in (("float", "f32"), ("double", "f64")):
        for result, kernel, parameters in kernels:
            given = ", ".join(written(real, *parameter) for parameter in parameters)
            lines.append(f"        {written(real, '', result)}(*{kernel}_{tag})({given}) noexcept nogil")
    return lines


def typed(kernels):
    """One name for both types. The type is that of the arrays; a kernel of none is told the size of a number, last."""
    lines = ["from libc.stdint cimport uint64_t", "", "from pyrnn._core.table cimport kernels, pyrnn_phi"]
    for result, kernel, parameters in kernels:
        of_arrays = any(type_ == "REAL" for _, type_, _, _ in parameters)
        given = ", ".join(written("real", *parameter) for parameter in parameters)
        given += "" if of_arrays else ", Py_ssize_t itemsize"
        passed = ", ".join(name for *_, name in parameters)
        does = "" if result == "void" else "return "
        lines += [
            "",
            "",
            f"cdef inline {written('real', '', result)}{kernel}({given}) noexcept nogil:",
            f"    if {'real is float' if of_arrays else 'itemsize == sizeof(float)'}:",
            f"        {does}kernels().{kernel}_f32({passed})",
            "    else:",
            f"        {does}kernels().{kernel}_f64({passed})",
        ]
    return lines


def files():
    """What the two files say, by their names."""
    kernels = declared(HEADER.read_text(encoding="utf-8"))
    first = f"# From csrc/{HEADER.name}, by csrc/{Path(__file__).name} for each build: change that, not this."
    both = {"kernel_table.pxi": table(kernels), "typed_kernels.pxi": typed(kernels)}
    return {name: "\n".join([first, *lines, ""]) for name, lines in both.items()}


if __name__ == "__main__":
    for name, source in files().items():
        print(f"# ---- {name}\n{source}")
