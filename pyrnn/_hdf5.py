"""HDF5 files from anybody: groups, texts and arrays, in memory that the size of the file bounds."""

import math
import zlib

import numpy as np

# The path of a group: longer or deeper than any that Keras writes, and short enough to be built for every group.
_LONGEST, _DEEPEST = 4000, 100


class Limit:
    """The bytes that may still be unpacked from one file, of all that is read from it together."""

    def __init__(self, size, smallest, expansion):
        self.size = size  # of the file
        self.left = max(smallest, expansion * size)

    def take(self, count, what):
        """Count these bytes; raise ValueError before they are allocated if the file is too small for them."""
        if count > self.left:
            raise ValueError(f"{what} must not unpack to {count} bytes, from a file of {self.size}")
        self.left -= count


class Group:
    """A group, and those that Keras on Windows has put into it: there ``a\\b`` is the name of one group in the root.

    Links are refused: they may lead to other files.
    """

    def __init__(self, h5py, group, limit, place="", below=None):
        self.h5py, self.group, self.limit, self.place = h5py, group, limit, place
        self.below = {} if below is None else below  # names of what is behind a backslash: (group or None, below)

    @classmethod
    def root(cls, h5py, file, limit):
        """Return the root of a file."""
        below = {}
        for name in _names(file):
            if "\\" not in name:
                continue
            parts, at = _parts(name.replace("\\", "/")), below
            for part in parts[:-1]:
                at = at.setdefault(part, [None, {}])[1]
            at.setdefault(parts[-1], [None, {}])[0] = name
        root = cls(h5py, file, limit)
        root.below = {name: root._resolved(*entry) for name, entry in below.items()}
        return root

    def _resolved(self, name, below):
        """Return a group of the root by its whole name, and the same for those below it."""
        group = None if name is None else self._real(name)
        return group, {part: self._resolved(*entry) for part, entry in below.items()}

    def _real(self, name):
        """Return what the HDF5 group has under a name, or None."""
        if self.group is None or name not in self.group:
            return None
        if not isinstance(self.group.get(name, getlink=True), self.h5py.HardLink):
            raise ValueError(f"{self._at(name)} must not be a link")
        return self.group[name]

    def _at(self, name):
        return f"{self.place}/{name}".lstrip("/")

    def names(self):
        """Return the names in this group."""
        names = [] if self.group is None else _names(self.group)
        return sorted({name for name in names if "\\" not in name} | set(self.below))

    def get(self, place):
        """Return the group or the dataset at a place below this group, or None."""
        at = self
        for name in _parts(place):
            if not isinstance(at, Group):
                return None
            virtual, below = at.below.get(name, (None, {}))
            found = virtual if virtual is not None else at._real(name)
            if isinstance(found, self.h5py.Group) or (found is None and below):
                at = Group(self.h5py, found, self.limit, at._at(name), below)
            elif found is None:
                return None
            else:
                at = found
        if isinstance(at, Group):
            _parts(at.place)
        return at

    def group_at(self, place):
        """Return the group at a place, or None if there is none or something else."""
        at = self.get(place)
        return at if isinstance(at, Group) else None

    def address(self):
        """Return what is the same for two groups that are one, None for a group by name alone."""
        return None if self.group is None else self.h5py.h5o.get_info(self.group.id).addr

    def texts(self, name, most):
        """Return the strings of an attribute, () if it is absent; ValueError if they are more than `most`."""
        if self.group is None or name not in self.group.attrs:
            return ()
        attribute = self.group.attrs.get_id(name)
        count = math.prod(attribute.shape)
        # All may point to one long text in the file: their number alone bounds what they unpack to.
        if count > most or attribute.get_storage_size() > self.limit.size:
            raise ValueError(f"{self.place or '/'} must have at most {most} {name}, got {count}")
        value = self.group.attrs[name]
        if isinstance(value, self.h5py.Empty):
            return ()
        values = [value] if isinstance(value, str | bytes) else np.asarray(value).ravel().tolist()
        values = tuple(text.decode() if isinstance(text, bytes) else str(text) for text in values)
        self.limit.take(sum(map(len, values)), f"{name} of {self.place or '/'}")
        return values

    def text(self, name):
        """Return an attribute of one string, None if it is absent."""
        values = self.texts(name, 1)
        return values[0] if values else None

    def array(self, key):
        """Return the array of a dataset that is in the file itself."""
        data, place = self.get(key), self._at(key)
        if not isinstance(data, self.h5py.Dataset):
            raise ValueError(f"{place} must be an array, got {type(data).__name__}")
        if data.external or data.is_virtual:
            raise ValueError(f"{place} must lie in the file itself, got another file's data")
        dtype, shape = data.dtype, data.shape
        if shape is None or dtype.hasobject or dtype.fields or dtype.subdtype:
            raise ValueError(f"{place} must be an array of numbers, got shape {shape}, dtype {dtype!s:.60}")
        size = math.prod(shape) * dtype.itemsize  # not data.nbytes, which overflows
        self.limit.take(size, f"{place}, of shape {shape},")
        if data.chunks is not None:
            self._check_chunks(data, place)
        a = data[()]
        if dtype.itemsize == 2 and dtype.kind == "V" and Group(self.h5py, data, self.limit).text("dtype") == "bfloat16":
            return (a.view("<u2").astype(np.uint32) << 16).view(np.float32)
        return a

    def _check_chunks(self, data, place):
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
    def _chunks(data, number, place):
        """Return where the stored chunks are, at most `number` of them."""
        if not hasattr(data.id, "chunk_iter"):  # HDF5 before 1.12.3, where each look-up begins at the first chunk
            return [data.id.get_chunk_info(i) for i in range(min(number, data.id.get_num_chunks()))]
        chunks = []

        def keep(chunk):
            chunks.append(chunk)
            return len(chunks) > number or None

        data.id.chunk_iter(keep)
        if len(chunks) > number:
            raise ValueError(f"{place} must have {number} chunks at most")
        return chunks


def _check_stream(packed, filters, h5z, unpacked, place):
    """Raise ValueError if a chunk unpacks to more than its size: HDF5 itself unpacks whatever a stream holds."""
    for kind in reversed(filters):
        if kind == h5z.FILTER_FLETCHER32:
            packed = packed[:-4]
        elif kind == h5z.FILTER_DEFLATE:
            stream = zlib.decompressobj()
            packed = stream.decompress(packed, unpacked + 5)  # 4 bytes may be a checksum below
            if len(packed) > unpacked + 4 or not stream.eof:
                raise ValueError(f"{place} must have chunks that unpack to {unpacked} bytes")


def _names(group):
    """Return the names in an HDF5 group."""
    names = list(group)
    for name in names:
        if not isinstance(name, str):  # h5py returns those as bytes
            raise ValueError(f"{group.name} must have names in UTF-8, got {name!r:.60}")
    return names


def _parts(place):
    """Return the names in a path, and refuse paths that would cost more to build than the file holds."""
    parts = [part for part in place.split("/") if part not in ("", ".")]
    if len(place) > _LONGEST or len(parts) > _DEEPEST:
        raise ValueError(f"{place:.60}... must have at most {_LONGEST} characters and {_DEEPEST} groups")
    return parts
