"""The SimpleRNN layers in files of Keras: their configuration and arrays, read without running anything."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

from pyrnn.bridges.keras.hdf5 import SIGNATURE, Group, Limit, opened

if TYPE_CHECKING:
    from typing import TypeAlias, TypeVar

    import numpy as np

    from pyrnn._types import Shape

    _T = TypeVar("_T")
    _Fields: TypeAlias = dict[str, Any]  # of a KerasRNN
    _Reader: TypeAlias = Callable[
        [str, bool], dict[str, np.ndarray]
    ]  # of the arrays of a direction, with a bias or without

# Fields of a KerasRNN by Keras's names of activations; the slope is that of Keras's function.
ACTIVATIONS: dict[str | None, _Fields] = {
    "tanh": {"nonlinearity": "tanh"},
    "relu": {"nonlinearity": "relu"},
    "linear": {"nonlinearity": "identity"},
    "softplus": {"nonlinearity": "softplus"},
    "sigmoid": {"nonlinearity": "sigmoid"},
    "leaky_relu": {"nonlinearity": "leaky_relu", "negative_slope": 0.2},
    None: {"nonlinearity": "identity"},
}
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"  # the members of a .keras archive
_FLAGS = ("go_backwards", "zero_output_for_mask", "return_sequences", "stateful", "unroll")
_ARRAYS = ("kernel", "recurrent_kernel", "bias")
_LAYERS = ("SimpleRNN", "RNN", "Bidirectional")
_MODELS = ("Sequential", "Functional")
_CHECKPOINT = "_layer_checkpoint_dependencies"  # where Keras 2.12 to 2.14 put the groups of layers, later "layers"
_PACKAGES = ("keras", "tf_keras", "keras_core")
# All that is unpacked from a file may be so many times its size, and at least this much.
_LARGE, _EXPANSION = 2**20, 100


def layers_in(h5py: ModuleType, path: str, activation: str | None) -> Iterator[tuple[str, _Fields]]:
    """Name and fields of each layer in turn; `backward` among them has those of the second direction."""
    with open_file(path) as source, _errors(path):
        limit = Limit(os.fstat(source.fileno()).st_size, _LARGE, _EXPANSION)
        if source.read(8) != SIGNATURE and zipfile.is_zipfile(source):
            yield from _of_archive(h5py, source, limit, activation)
        else:
            with opened(h5py, source, limit) as root:
                yield from _of_hdf5(root, activation)


def open_file(path: str) -> BinaryIO:
    """Open a file to read its bytes; OSError if the system refuses, ValueError if it is a folder or a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} must be a whole .keras or .h5 file, got a folder or a device")
    return open(path, "rb")


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    """Turn what goes wrong with a damaged file into a ValueError that names it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error!s:.1000}") from None  # what it quotes of the file may be long
    except Exception as error:  # h5py and zipfile have many kinds for bytes that make no sense
        raise ValueError(f"{path} must be a whole .keras or .h5 file: {error!s:.1000}") from error


def _of_archive(
    h5py: ModuleType, source: BinaryIO, limit: Limit, activation: str | None
) -> Iterator[tuple[str, _Fields]]:
    """The layers of a .keras file."""
    if activation is not None:
        raise ValueError(f"activation must be None for a .keras file, which says it itself, got {activation!r}")
    with zipfile.ZipFile(source) as archive:
        config, weights = (_member(archive, name, limit) for name in (_CONFIG, _WEIGHTS))
    config = _parsed(config, _CONFIG, limit)
    if _kind(config) not in _MODELS:
        got = {key: config[key] for key in ("module", "class_name") if key in config} if isinstance(config, dict) else 0
        raise ValueError(
            f"{_CONFIG} must be of a Sequential or functional model, got {got or type(config).__name__!r:.200}: "
            "save the weights of others as .weights.h5"
        )
    with opened(h5py, weights, limit) as root:
        yield from _of_model(root, config, "")


def _of_hdf5(root: Group, activation: str | None) -> Iterator[tuple[str, _Fields]]:
    """The layers of a whole model in HDF5, or of weights alone."""
    config = root.text("model_config")
    if config is None and root.has("layer_names"):
        raise ValueError("weights of the older HDF5 layout must come with their model, of model.save")
    if config is None:
        yield from _without_config(root, activation or "tanh")
    elif activation is None:
        yield from _of_older_model(root, config)
    else:
        raise ValueError(f"activation must be None for a whole model, which says it itself, got {activation!r}")


def _member(archive: zipfile.ZipFile, name: str, limit: Limit) -> bytes:
    """Return the bytes of a member, read in pieces: what the archive says of their number may be false."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        names = archive.namelist()[:6]
        raise ValueError(f"it must have {_CONFIG} and {_WEIGHTS}, got {names!r:.200}") from None
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} must be stored or deflated, got method {info.compress_type} of zip")
    limit.take(info.file_size, name)
    content = bytearray()
    with archive.open(info) as stream:
        while piece := stream.read(2**16):
            content += piece
    if len(content) != info.file_size:
        raise ValueError(f"{name} must have {info.file_size} bytes, got {len(content)}")
    return bytes(content)


def _parsed(text: str | bytes, what: str, limit: Limit) -> Any:
    """Return the value of JSON text; its objects are counted before they are made."""
    if isinstance(text, bytes):
        marks = sum(map(text.count, [b"[", b"{", b",", b":"]))
    else:
        marks = sum(map(text.count, "[{,:"))
    limit.take(64 * marks, f"the objects in {what}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be JSON: {error}") from None


# ---- With a configuration -------------------------------------------------------------------------------------------
def _of_model(weights: Group, config: object, prefix: str) -> Iterator[tuple[str, _Fields]]:
    """The layers of a Sequential or functional model; weights: its group; prefix: of names."""
    counts: dict[str, int] = {}
    groups = _numbered(weights)
    for layer in _get(_get(config, "config", dict), "layers", list):
        if not isinstance(layer, dict):
            raise ValueError(f"its configuration must have layers with a class_name, got {layer!r:.60}")
        named = layer.get("class_name")
        if not isinstance(named, str):
            continue
        base = _group_name(named)
        count = counts.get(base, 0)
        counts[base] = count + 1  # of every class of this name
        kind = _kind(layer)
        if kind not in (*_LAYERS, *_MODELS):
            continue
        name = prefix + _get(_get(layer, "config", dict), "name", str)
        place = groups(base, count)
        at = weights.group_at(place)
        if kind in _MODELS:
            yield from _of_model(at or Group(weights.source, None, place), layer, name + "/")
        elif (fields := _of_layer(layer, name, _reader(weights, place))) is not None:
            if at is not None:
                _check_name(at, name.removeprefix(prefix))
            yield name, fields


def _group_name(class_name: str) -> str:
    """Return what Keras calls the group of the first layer of a class: simple_rnn, for SimpleRNN."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _numbered(weights: Group) -> Callable[[str, int], str]:
    """Return the function that gives the place of a class's layer in a model, of layers counted from 0."""
    checkpoint = weights.group_at(_CHECKPOINT)
    if weights.group_at("layers") is not None or checkpoint is None:
        return lambda base, count: f"layers/{base}" + (f"_{count}" if count else "")
    # Keras 2.12 and 2.13 count each layer with arrays twice, so that simple_rnn_2 comes after simple_rnn: in order.
    found: dict[str, list[str]] = {}
    for name in sorted(checkpoint.names(), key=_natural):
        found.setdefault(re.sub(r"_[0-9]{1,9}$", "", name), []).append(name)

    def place(base: str, count: int) -> str:
        names = found.get(base, [])
        return f"{_CHECKPOINT}/" + (names[count] if count < len(names) else f"{base}_{count}")

    return place


def _kind(layer: object) -> str | None:
    """The class of a layer of Keras's own, else None: users may have classes of the same names."""
    if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
        return None
    module, registered = layer.get("module"), layer.get("registered_name")
    if module is None:  # of older files, where users' classes have other names, package>Name
        return layer["class_name"] if registered in (None, layer["class_name"]) else None
    return layer["class_name"] if str(module).partition(".")[0] in _PACKAGES else None


def _reader(weights: Group, place: str) -> _Reader:
    """A function that reads the arrays of a layer at this place, or of one of its directions."""
    return lambda way, use_bias: _arrays(weights, f"{place}/{way}cell/vars", use_bias)


def _of_layer(layer: object, name: str, read: _Reader, way: str = "", zeros: bool = True) -> _Fields | None:
    """The fields of one layer, or None if its cell is another one.

    read: gives its arrays; zeros: whether Bidirectional, where it returns sequences, has outputs of 0 at masked steps.
    """
    kind, config = _kind(layer), _get(layer, "config", dict)
    if kind == "Bidirectional":
        pair = [config.get("layer"), config.get("backward_layer")]
        if pair[1] is None and isinstance(pair[0], dict):  # the same layer the other way round
            turned = _get(pair[0], "config", dict)
            pair[1] = pair[0] | {"config": turned | {"go_backwards": not turned.get("go_backwards", False)}}
        both: list[Any] = []
        for one, where in zip(pair, ("forward_layer", "backward_layer"), strict=True):
            if _kind(one) not in ("SimpleRNN", "RNN"):
                return None
            both.append(_of_layer(one, name, read, f"{where}/"))
        if None in both:
            return None
        first, second = (each | {"zero_output_for_mask": zeros} for each in both)
        return {**first, "backward": second, "merge_mode": config.get("merge_mode", "concat")}
    cell = config
    if kind == "RNN":
        inner = config.get("cell")
        if _kind(inner) != "SimpleRNNCell":
            return None
        cell = _get(inner, "config", dict)
    if config.get("time_major", False) is not False:
        raise ValueError(f"{name}: time_major must be False, got {config['time_major']!r:.60}: pyrnn has (B, T, I)")
    activation = cell.get("activation", "tanh")
    if not (activation is None or isinstance(activation, str)) or activation not in ACTIVATIONS:
        raise ValueError(
            f"{name}: activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r:.200}"
        )
    use_bias = cell.get("use_bias", True)
    if not isinstance(use_bias, bool):
        raise ValueError(f"{name}: use_bias must be true or false, got {use_bias!r:.60}")
    fields = {flag: config.get(flag, False) for flag in _FLAGS} | read(way, use_bias)
    units = cell.get("units", cell.get("output_dim"))  # the second in Keras 1
    if fields["kernel"].shape[1:] != (units,):
        raise ValueError(f"{name}: kernel must have {units!r:.60} columns, got shape {fields['kernel'].shape}")
    return fields | ACTIVATIONS[activation]


def _of_older_model(root: Group, config: str) -> Iterator[tuple[str, _Fields]]:
    """The layers of a whole model in HDF5, as Keras 1 and 2 save it: the configuration is text beside the weights."""
    config = _parsed(config, "model_config", root.limit)
    inner = config.get("config") if isinstance(config, dict) else None
    # A Sequential model before Keras 2.2.3 is a list of its layers.
    layers = inner if isinstance(inner, list) else _get(_get(config, "config", dict), "layers", list)
    version = re.match(r"([0-9]{1,9})\.([0-9]{1,9})[^-]*$", root.text("keras_version") or "")
    zeros = version is None or (int(version[1]), int(version[2])) >= (2, 4)  # tf.keras has versions such as 2.2.4-tf
    for layer in layers:
        kind = _kind(layer)
        if kind in (*_MODELS, "Model", "Merge") and isinstance(layer.get("config"), dict | list):
            if kind == "Merge" and "layers" not in layer["config"]:
                continue
            raise ValueError("a model within a model must come as .keras, got the older HDF5 layout")
        if kind in _LAYERS:
            name = _get(_get(layer, "config", dict), "name", str)
            fields = _of_layer(layer, name, _older_reader(root, name), zeros=zeros)
            if fields is not None:
                yield name, fields


def _older_reader(root: Group, name: str) -> _Reader:
    """As `_reader`: the arrays of a layer are listed in Keras's order, both directions in one list."""

    def read(way: str, use_bias: bool) -> dict[str, np.ndarray]:
        group = root.group_at(f"model_weights/{name}")
        names = () if group is None else group.texts("weight_names", 6) or ()
        count = 2 + use_bias
        if group is None or len(names) != count * (2 if way else 1):
            raise ValueError(f"{name} must have {count} arrays for each direction, got {', '.join(names) or 'none'}")
        halves = [names[:count], names[count:]]
        # Arrays that are trained come before others: with the forward layer frozen, those of the backward layer.
        if way and (_direction(halves[0]) == "backward" or _direction(halves[1]) == "forward"):
            halves.reverse()
        names = halves[way == "backward_layer/"]
        return {field: group.array(at) for field, at in zip(_ARRAYS, names, strict=False)}

    return read


def _direction(names: Sequence[str]) -> str | None:
    """Return which direction's arrays these are by their names, None if they do not say it."""
    found = re.findall(r"(?:^|/)(forward|backward)_", names[0])
    return found[-1] if found else None


def _get(config: object, key: str, kind: type[_T]) -> _T:
    value = config.get(key) if isinstance(config, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"its configuration must have {key} of type {kind.__name__}, got {value!r:.60}")
    return value


def _check_name(group: Group, name: str) -> None:
    """Weights carry their layer's name, so that a wrong guess of their place cannot go unseen."""
    at = group.group_at("vars")
    stored = None if at is None else at.text("name")
    if stored is not None and stored != name:
        raise ValueError(f"{group.place} must have the weights of {name!r}, got those of {stored!r}")


# ---- Without one ----------------------------------------------------------------------------------------------------
def _without_config(root: Group, activation: str) -> Iterator[tuple[str, _Fields]]:
    """All groups that look like one of ours, in their natural order."""
    function = ACTIVATIONS[activation]
    used, seen = set[str](), set[int | None]()
    waiting: list[Iterator[Group]] = [iter([root])]
    while waiting:
        group = next(waiting[-1], None)
        if group is None:
            waiting.pop()
            continue
        address = group.address()
        if address is not None and address in seen:
            continue  # a link back: hard links can make circles
        seen.add(address)
        fields = _looks_like_ours(group, function)
        if fields is not None:
            at = group.group_at("vars")
            name = None if at is None else at.text("name")
            name = name if name and name not in used else group.place
            used.add(name)
            yield name, fields
            continue
        children = map(group.group_at, sorted(group.names(), key=_natural))
        waiting.append(child for child in children if child is not None)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts layer_2 before layer_10."""
    parts = re.split(r"([0-9]{1,9})", name)
    return [(i % 2, int(part) if i % 2 else 0, part) for i, part in enumerate(parts)]


def _looks_like_ours(group: Group, function: _Fields) -> _Fields | None:
    """Return the fields of a layer, None if the group is of something else."""
    forwards, backwards = (group.group_at(way) for way in ("forward_layer", "backward_layer"))
    if forwards is None or backwards is None:
        return _of_cell(group, function)
    first, second = _of_cell(forwards, function), _of_cell(backwards, function)
    if first is None or second is None:
        return None
    # As Keras makes them where sequences are returned; a file of weights does not say it.
    zeros = {"zero_output_for_mask": True}
    return first | zeros | {"backward": second | zeros | {"go_backwards": True}}


def _of_cell(group: Group, function: _Fields) -> _Fields | None:
    """As `_looks_like_ours`, of a layer of one direction."""
    at = group.group_at("cell/vars")
    if at is None or len(at.names()) not in (2, 3):
        return None
    shapes: list[Shape] = [getattr(at.get(key), "shape", None) or () for key in ("0", "1")]
    if not group.place.rpartition("/")[2].startswith("simple_rnn") and not (
        len(shapes[0]) == 2 and shapes[1] == (shapes[0][1],) * 2
    ):
        return None  # another cell, such as a GRU with its stacked gates
    return _arrays(group, "cell/vars", len(at.names()) == 3) | function


def _arrays(group: Group, place: str, use_bias: bool) -> dict[str, np.ndarray]:
    """kernel, recurrent_kernel and bias from a group of variables."""
    names = _ARRAYS[: 2 + use_bias]
    at = group.group_at(place)
    if at is None or len(at.names()) != len(names):
        got = "nothing" if at is None else f"{len(at.names())} of them"
        place = f"{group.place}/{place}".lstrip("/")
        raise ValueError(f"{place} must have {len(names)} arrays, got {got}")
    return {name: at.array(str(i)) for i, name in enumerate(names)}
