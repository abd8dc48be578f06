"""Arrays in .npz files, read without pickle: nothing is allocated that the file does not hold."""

from __future__ import annotations

import errno
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pyrnn._types import Shape

# The members of a file may unpack to so many bytes together, or to so many times its size, whichever is more.
SMALL, EXPANSION = 2**22, 100
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000  # bytes, as in NumPy
# The header that NumPy writes for arrays without fields. Possessive: no text takes more than one pass.
_HEADER = re.compile(
    r"\{\s*+'descr'\s*+:\s*+'([<>=|]?)([A-Za-z])([0-9]{0,9})'\s*+,\s*+'fortran_order'\s*+:\s*+(True|False)\s*+,"
    r"\s*+'shape'\s*+:\s*+\(([0-9, ]*+)\)\s*+,?\s*+\}\s*+",
    re.ASCII,
)
_REAL = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}  # bytes of a number by kind
_MAX_DIMENSIONS = 32
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OverflowError)


def read(path: str, text: Collection[str] = ()) -> dict[str, Any]:
    """Return the arrays of a file by name, read-only views of its contents; those named in `text` are str instead.

    Raises ValueError, with the path, for everything that the file may have wrong.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(_MAGIC)) == _MAGIC:
            raise ValueError(f"{path} must be an .npz file, got one array, an .npy file")
        try:
            with zipfile.ZipFile(file) as archive:
                contents = _members(archive, size)
                return {name: (_text if name in text else _array)(name, content) for name, content in contents}
        except _DAMAGE as error:
            raise ValueError(f"{path} must be a whole .npz file: {error or type(error).__name__}") from error
        except ValueError as error:
            raise ValueError(f"{path} must be a whole .npz file of numbers: {error}") from error
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):  # which are those of a place before the file's begin
                raise
            raise ValueError(f"{path} must be a whole .npz file: {error}") from error


def _members(archive: zipfile.ZipFile, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of each member; size: of the file. What the directory says is checked before."""
    members = archive.infolist()
    names = [info.filename for info in members]
    if len(set(names)) < len(names):
        raise ValueError("two arrays have one name")
    for info in members:
        if not info.filename.endswith(".npy"):
            raise ValueError(f"{info.filename!r:.80} is no array")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename!r:.80} is compressed by method {info.compress_type}, which NumPy has not")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise ValueError(f"{info.filename!r:.80} has two sizes, {info.file_size} and {info.compress_size} bytes")
    if sum(info.compress_size for info in members) > size:
        raise ValueError(f"its directory lists more than the {size} bytes of the file")
    unpacked = sum(info.file_size for info in members)
    if unpacked > max(SMALL, EXPANSION * size):
        raise ValueError(f"its {size} bytes would unpack to {unpacked}: write the arrays again without compression")
    for info in members:
        with archive.open(info) as member:
            content = member.read(info.file_size + 1)  # beyond the end, for the check of the sum
        if len(content) != info.file_size:
            raise ValueError(f"{info.filename!r:.80} has {len(content)} bytes, not {info.file_size}")
        yield info.filename.removesuffix(".npy"), content


def _header(name: str, content: bytes) -> tuple[str, str, int, bool, Shape, int]:
    """Return byte order, kind, bytes of an item, whether Fortran order, the shape, and where the items begin."""
    major = content[6] if content[:6] == _MAGIC and len(content) >= 12 else None
    if major not in (1, 2):
        raise ValueError(f"{name!r:.80} is no array of .npy version 1 or 2")
    length, begin = struct.unpack_from("<H" if major == 1 else "<I", content, 8)[0], 10 if major == 1 else 12
    if length > min(_LONGEST_HEADER, len(content) - begin):
        raise ValueError(f"{name!r:.80} declares a header of {length} bytes")
    header = content[begin : begin + length].decode("latin1")
    found = _HEADER.fullmatch(header)
    if found is None:
        raise ValueError(f"{name!r:.80} has a header that is not of an array of numbers: {header.strip()!r:.120}")
    order, kind, itemsize, fortran, shape = found.groups()
    if kind == "O":
        raise ValueError(f"{name!r:.80} holds Python objects, a pickle, which may run any code")
    shape = tuple(int(n) for n in re.findall("[0-9]+", shape))
    if len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{name!r:.80} has {len(shape)} dimensions")
    return order, kind, int(itemsize or 0), fortran == "True", shape, begin + length


def _array(name: str, content: bytes) -> np.ndarray:
    order, kind, itemsize, fortran, shape, begin = _header(name, content)
    if itemsize not in _REAL.get(kind, ()):
        raise ValueError(f"{name!r:.80} must be real numbers of at most 8 bytes, got dtype {kind}{itemsize}")
    _check_extent(name, math.prod(shape) * itemsize, shape, len(content) - begin)
    items = np.frombuffer(content, np.dtype(f"{order}{kind}{itemsize}"), offset=begin)
    return items.reshape(shape, order="F" if fortran else "C")


def _text(name: str, content: bytes) -> str:
    order, kind, characters, _, shape, begin = _header(name, content)
    if kind != "U" or math.prod(shape) != 1:
        raise ValueError(f"{name!r:.80} must be one text, got dtype {kind}{characters} and shape {shape}")
    _check_extent(name, 4 * characters, shape, len(content) - begin)
    return content[begin:].decode("utf-32-be" if order == ">" else "utf-32-le").rstrip("\0")


def _check_extent(name: str, declared: int, shape: Shape, held: int) -> None:
    if declared != held:
        raise ValueError(f"{name!r:.80} declares {declared} bytes, of shape {shape!s:.80}, but holds {held}")
