"""HDF5 files from anybody: groups, texts and arrays, in memory that the size of the file bounds."""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import os
import types
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

    _Bytes: TypeAlias = bytes | mmap.mmap
    _Resolved: TypeAlias = tuple[Any, dict[str, Any]]  # a group of h5py or None, and what is below it

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# The path of a group: longer or deeper than any that Keras writes, and short enough to be built for every group.
_LONGEST, _DEEPEST = 4000, 100


class Limit:
    """The bytes that may still be unpacked from one file, of all that is read from it together."""

    def __init__(self, size: int, smallest: int, expansion: int) -> None:
        self.size = size  # of the file
        self.left = max(smallest, expansion * size)

    def take(self, count: int, what: str) -> None:
        """Count these bytes; raise ValueError before they are allocated if the file is too small for them."""
        if count > self.left:
            raise ValueError(f"{what} must not unpack to {count} bytes, from a file of {self.size}")
        self.left -= count


class Source(NamedTuple):
    """An open file: the package, its bytes, and the limit of what may be unpacked from it."""

    h5py: types.ModuleType
    content: bytes | mmap.mmap
    limit: Limit


@contextlib.contextmanager
def opened(h5py: types.ModuleType, file: Any, limit: Limit) -> Iterator[Group]:
    """Return the root of the HDF5 file in a binary file or in bytes."""
    with contextlib.ExitStack() as stack:
        content: _Bytes
        if isinstance(file, bytes):
            content, file = file, io.BytesIO(file)
        elif os.fstat(file.fileno()).st_size:
            content, file = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), file.name
        else:
            content = b""
        sizes = content[13:15] if content[8:9] < b"\x02" else content[9:11]
        if content[:8] != SIGNATURE or sizes != b"\x08\x08":
            raise ValueError(f"it must be a whole HDF5 file with numbers of 8 bytes, it begins {content[:16]!r}")
        yield Group.root(Source(h5py, content, limit), stack.enter_context(h5py.File(file, "r")))


class Group:
    """A group, and those that Keras on Windows has put into it: there ``a\\b`` is the name of one group in the root.

    Links are refused: they may lead to other files.
    """

    def __init__(self, source: Source, group: Any, place: str = "", below: dict[str, _Resolved] | None = None) -> None:
        self.source, self.group, self.place = source, group, place
        self.h5py, self.limit = source.h5py, source.limit
        self.below = {} if below is None else below  # names of what is behind a backslash: (group or None, below)

    @classmethod
    def root(cls, source: Source, file: Any) -> Group:
        """Return the root of a file."""
        below: dict[str, Any] = {}
        for name in _names(file):
            if "\\" not in name:
                continue
            parts, at = _parts(name.replace("\\", "/")), below
            for part in parts[:-1]:
                at = at.setdefault(part, [None, {}])[1]
            at.setdefault(parts[-1], [None, {}])[0] = name
        root = cls(source, file)
        root.below = {name: root._resolved(*entry) for name, entry in below.items()}
        return root

    def _resolved(self, name: str | None, below: dict[str, Any]) -> _Resolved:
        """Return a group of the root by its whole name, and the same for those below it."""
        group = None if name is None else self._real(name)
        return group, {part: self._resolved(*entry) for part, entry in below.items()}

    def _real(self, name: str) -> Any:
        """Return what the HDF5 group has under a name, or None."""
        if self.group is None or name not in self.group:
            return None
        if not isinstance(self.group.get(name, getlink=True), self.h5py.HardLink):
            raise ValueError(f"{self._at(name)} must not be a link")
        return self.group[name]

    def _at(self, name: str) -> str:
        return f"{self.place}/{name}".lstrip("/")

    def names(self) -> list[str]:
        """Return the names in this group."""
        names = [] if self.group is None else _names(self.group)
        return sorted({name for name in names if "\\" not in name} | set(self.below))

    def get(self, place: str) -> Any:
        """Return the group or the dataset at a place below this group, or None."""
        at = self
        for name in _parts(place):
            if not isinstance(at, Group):
                return None
            virtual, below = at.below.get(name, (None, {}))
            found = virtual if virtual is not None else at._real(name)
            if isinstance(found, self.h5py.Group) or (found is None and below):
                at = Group(self.source, found, at._at(name), below)
            elif found is None:
                return None
            else:
                at = found
        if isinstance(at, Group):
            _parts(at.place)
        return at

    def group_at(self, place: str) -> Group | None:
        """Return the group at a place, or None if there is none or something else."""
        at = self.get(place)
        return at if isinstance(at, Group) else None

    def address(self) -> int | None:
        """Return what is the same for two groups that are one, None for a group by name alone."""
        return None if self.group is None else self.h5py.h5o.get_info(self.group.id).addr

    def texts(self, name: str, most: int) -> tuple[str, ...] | None:
        """Return the strings of an attribute, None if it is absent; ValueError if they are more than `most`."""
        if (address := self.address()) is None:
            return None
        values = _strings(self.source.content, address, name, most)
        if values is not None:
            self.limit.take(sum(map(len, values)), f"{name} of {self.place or '/'}")
        return values

    def has(self, name: str) -> bool:
        """Return whether there is an attribute of this name."""
        address = self.address()
        return address is not None and _attribute(self.source.content, address, name) is not None

    def text(self, name: str) -> str | None:
        """Return the string of an attribute, None if it is absent."""
        values = self.texts(name, 1)
        return values[0] if values else None

    def array(self, key: str) -> np.ndarray:
        """Return the array of a dataset that is in the file itself."""
        data, place = self.get(key), self._at(key)
        if not isinstance(data, self.h5py.Dataset):
            raise ValueError(f"{place} must be an array, got {type(data).__name__}")
        if data.external or data.is_virtual:
            raise ValueError(f"{place} must lie in the file itself, got another file's data")
        dtype, shape = data.dtype, data.shape
        if shape is None or dtype.hasobject or dtype.fields or dtype.subdtype:
            raise ValueError(f"{place} must be an array of numbers, got shape {shape}, dtype {dtype!s:.60}")
        size = math.prod(shape) * dtype.itemsize  # data.nbytes may overflow
        self.limit.take(size, f"{place}, of shape {shape},")
        if data.chunks is not None:
            self._check_chunks(data, place)
        a: np.ndarray = data[()]
        if dtype.itemsize == 2 and dtype.kind == "V" and Group(self.source, data).text("dtype") == "bfloat16":
            a = (a.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return a

    def _check_chunks(self, data: Any, place: str) -> None:
        """Raise ValueError if HDF5 would allocate more for the chunks than the file accounts for."""
        unpacked = math.prod(data.chunks) * data.dtype.itemsize
        number = math.prod(-(-n // max(chunk, 1)) for n, chunk in zip(data.shape, data.chunks, strict=True))
        # HDF5 keeps some 250 bytes for each chunk, stored or not, and the largest chunk as a whole.
        self.limit.take(unpacked + 256 * number, f"{place}, in chunks of shape {data.chunks},")
        h5z = self.h5py.h5z
        properties = data.id.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        if not set(filters) <= {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}:
            raise ValueError(f"{place} must be compressed by gzip or not at all, got HDF5 filters {filters}")
        for chunk in self._chunks(data, number, place):
            if chunk.size > self.limit.size:
                raise ValueError(f"{place} must have chunks of the file's size at most, got {chunk.size} bytes")
            if h5z.FILTER_DEFLATE in filters:
                skipped, packed = data.id.read_direct_chunk(chunk.chunk_offset)
                used = [kind for i, kind in enumerate(filters) if not skipped >> i & 1]
                _check_stream(packed, used, h5z, unpacked, place)

    @staticmethod
    def _chunks(data: Any, number: int, place: str) -> list[Any]:
        """Return where the stored chunks are, at most `number` of them."""
        if not hasattr(data.id, "chunk_iter"):  # HDF5 before 1.12.3, where each look-up begins at the first chunk
            return [data.id.get_chunk_info(i) for i in range(min(number, data.id.get_num_chunks()))]
        chunks = []

        def keep(chunk: Any) -> bool | None:
            chunks.append(chunk)
            return len(chunks) > number or None

        data.id.chunk_iter(keep)
        if len(chunks) > number:
            raise ValueError(f"{place} must have {number} chunks at most")
        return chunks


def _check_stream(packed: bytes, filters: list[int], h5z: types.ModuleType, unpacked: int, place: str) -> None:
    """Raise ValueError if a chunk unpacks to more than its size: HDF5 itself unpacks whatever a stream holds."""
    for kind in reversed(filters):
        if kind == h5z.FILTER_FLETCHER32:
            packed = packed[:-4]
        elif kind == h5z.FILTER_DEFLATE:
            stream = zlib.decompressobj()
            packed = stream.decompress(packed, unpacked + 5)  # 4 bytes may be a checksum below
            if len(packed) > unpacked + 4 or not stream.eof:
                raise ValueError(f"{place} must have chunks that unpack to {unpacked} bytes")


def _names(group: Any) -> list[str]:
    """Return the names in an HDF5 group."""
    names = list(group)
    for name in names:
        if not isinstance(name, str):  # h5py returns those as bytes
            raise ValueError(f"{group.name} must have names in UTF-8, got {name!r:.60}")
    return names


def _parts(place: str) -> list[str]:
    """Return the names in a path, and refuse paths that would cost more to build than the file holds."""
    parts = [part for part in place.split("/") if part not in ("", ".")]
    if len(place) > _LONGEST or len(parts) > _DEEPEST:
        raise ValueError(f"{place:.60}... must have at most {_LONGEST} characters and {_DEEPEST} groups")
    return parts


# ---- Attributes -----------------------------------------------------------------------------------------------------
# HDF5 itself believes what a damaged attribute says of the length of a text, up to 4 GB, and reads some heaps for ever.
# So these bytes are read here, as "HDF5 File Format Specification Version 3.0" has them; names are its own.
_CONTINUATION, _ATTRIBUTE, _ATTRIBUTES = 16, 12, 21  # messages in the header of an object
_MESSAGES = 4096  # in one header: more than any that Keras writes
_STRING, _VARIABLE = 3, 9  # classes of a datatype


def _number(content: _Bytes, at: int, size: int) -> int:
    """Return an unsigned number, little-endian; ValueError behind the end of the file."""
    if not 0 <= at <= len(content) - size:
        raise ValueError(f"it must be a whole HDF5 file, got {len(content)} bytes where byte {at} is read")
    return int.from_bytes(content[at : at + size], "little")


def _messages(content: _Bytes, address: int) -> Iterator[tuple[int, int, int]]:
    """Kind, place and size of each message in an object's header, IV.A.1 and IV.A.2."""
    second = content[address : address + 4] == b"OHDR"
    if second:
        flags = _number(content, address + 5, 1)
        at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        blocks = [(at + (1 << (flags & 3)), _number(content, at, 1 << (flags & 3)))]
        before = 6 if flags & 4 else 4
    else:
        blocks, before = [(address + 16, _number(content, address + 8, 4))], 8
    count = 0
    while blocks:  # a circle of them ends by its number of messages
        at, size = blocks.pop()
        end = min(at + size, len(content))
        while at + before <= end:
            kind, length = _number(content, at, 1 if second else 2), _number(content, at + (1 if second else 2), 2)
            at, count = at + before, count + 1
            if count > _MESSAGES:
                raise ValueError(f"the object at byte {address} must have {_MESSAGES} messages at most in its header")
            if at + length > end:
                break
            if kind == _CONTINUATION:
                skipped = 4 if second else 0  # its signature, and a checksum behind it
                where, size = _number(content, at, 8), _number(content, at + 8, 8)
                blocks.append((where + skipped, size - 2 * skipped))
            else:
                yield kind, at, length
            at += length


def _attribute(content: _Bytes, address: int, name: str) -> tuple[int, int, int, int] | None:
    """Where the datatype, the dataspace and the values of an attribute are, and the end, IV.A.2.m; None without it."""
    for kind, at, length in _messages(content, address):
        if kind == _ATTRIBUTES and length >= 10:  # how many there are, if they are not in the header
            heap = at + (4 if _number(content, at + 1, 1) & 1 else 2)
            if _number(content, heap, 8) != 2**64 - 1:
                raise ValueError(f"the object at byte {address} must have few attributes, got a heap of them")
        if kind != _ATTRIBUTE or length < 9:
            continue
        end, version = at + length, _number(content, at, 1)
        sizes = [_number(content, at + 2 * i, 2) for i in (1, 2, 3)]
        at += 9 if version == 3 else 8
        padded = [-(-size // 8) * 8 if version == 1 else size for size in sizes]
        if content[at : at + sizes[0]].partition(b"\0")[0] == name.encode() and sum(padded) <= end - at:
            return at + padded[0], at + padded[0] + padded[1], at + sum(padded), end
    return None


def _strings(content: _Bytes, address: int, name: str, most: int) -> tuple[str, ...] | None:
    """The strings of an attribute; None if it is absent or of numbers."""
    found = _attribute(content, address, name)
    if found is None:
        return None
    datatype, dataspace, values, end = found
    count = _elements(content, dataspace)
    what, width = _number(content, datatype, 1) & 15, _number(content, datatype + 4, 4)
    if count == 0:
        return ()
    if what not in (_STRING, _VARIABLE):
        return None
    if count > most or count * width > end - values or (what == _VARIABLE and width != 16):
        raise ValueError(f"the attribute {name} must be of {most} strings at most, got {count} of {width} bytes")
    places = range(values, values + count * width, width)
    if what == _STRING:
        return tuple(content[i : i + width].rstrip(b"\0").decode() for i in places)
    return tuple(_in_heap(content, i).decode() for i in places)


def _elements(content: _Bytes, at: int) -> int:
    """The number of elements of a dataspace, IV.A.2.b."""
    version, rank = _number(content, at, 1), _number(content, at + 1, 1)
    if version == 2 and _number(content, at + 3, 1) == 2:
        return 0
    first = at + (8 if version == 1 else 4)
    return math.prod(_number(content, first + 8 * i, 8) for i in range(rank))


def _in_heap(content: _Bytes, at: int) -> bytes:
    """The bytes of one string in a global heap, III.E; at: where its length and its place are."""
    length, heap, index = _number(content, at, 4), _number(content, at + 4, 8), _number(content, at + 12, 4)
    if length == 0:
        return b""
    end = heap + _number(content, heap + 8, 8)
    if content[heap : heap + 4] != b"GCOL" or end > len(content):
        raise ValueError(f"it must be a whole HDF5 file, got none of its heaps at byte {heap}")
    here = heap + 16
    while here + 16 <= end:
        number, size = _number(content, here, 2), _number(content, here + 8, 8)
        if number == 0:
            break  # free space, the last of all
        if number == index and length <= size <= end - here - 16:
            return content[here + 16 : here + 16 + length]
        here += 16 + -(-size // 8) * 8
    raise ValueError(f"the heap at byte {heap} must have a string {index} of {length} bytes")
