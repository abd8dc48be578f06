"""The SimpleRNN layers in files of Keras 3: their configuration and arrays, read without running anything."""

import contextlib
import io
import json
import os
import re
import zipfile
import zlib

import numpy as np

ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "linear": "identity", None: "identity"}
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"  # the members of a .keras archive
_FLAGS = ("go_backwards", "zero_output_for_mask", "return_sequences")
# Keras names the groups of a container's layers after their classes, and counts: simple_rnn, simple_rnn_1.
_GROUPS = {
    "SimpleRNN": "simple_rnn",
    "RNN": "rnn",
    "Bidirectional": "bidirectional",
    "Sequential": "sequential",
    "Functional": "functional",
}
# What unpacks to more than this, and to so many times what lies in the file, is taken for an attack.
_LARGE, _EXPANSION = 2**28, 100


def layers_in(h5py, path, activation):
    """Name and fields of each layer in turn; `backward` among them has those of the second direction."""
    os.stat(path)  # zipfile and h5py have errors of their own for missing files
    if not zipfile.is_zipfile(path):
        with _opened(h5py, path, path) as file:
            if "layer_names" in file.attrs:
                raise ValueError("weights of the older HDF5 layout must come with their model, of model.save")
            if "model_config" not in file.attrs:
                yield from _without_config(h5py, file, activation or "tanh")
            elif activation is None:
                yield from _of_older_model(h5py, file)
            else:
                raise ValueError(f"activation must be None for a whole model, which says it itself, got {activation!r}")
        return
    if activation is not None:
        raise ValueError(f"activation must be None for a .keras file, which says it itself, got {activation!r}")
    config, weights = _members(path)
    with _opened(h5py, io.BytesIO(weights), path) as file:
        if _kind(config) not in ("Sequential", "Functional"):
            raise ValueError(
                "config.json must be of a Sequential or functional model: save the weights of others as .weights.h5"
            )
        yield from _of_model(h5py, file, config, "", "")


@contextlib.contextmanager
def _opened(h5py, source, path):
    """An HDF5 file, with errors that say which one is damaged."""
    try:
        with h5py.File(source, "r") as file:
            yield file
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise ValueError(f"{path} must be a whole .keras or .weights.h5 file: {error}") from error


def _members(path):
    """The configuration and the bytes of the weights in a .keras archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            contents = []
            for name in (_CONFIG, _WEIGHTS):
                info = archive.getinfo(name)
                if info.file_size > max(_LARGE, _EXPANSION * info.compress_size):
                    raise ValueError(f"{path}: {name} must not unpack to {info.file_size} bytes")
                contents.append(archive.read(info))
        return json.loads(contents[0]), contents[1]
    except KeyError:
        raise ValueError(f"{path} must have {_CONFIG} and {_WEIGHTS}, got {archive.namelist()[:6]}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: {_CONFIG} must be JSON: {error}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, zlib.error) as error:
        raise ValueError(f"{path} must be a whole .keras file: {error}") from None


# ---- With a configuration -------------------------------------------------------------------------------------------
def _of_model(h5py, file, config, group, prefix):
    """The layers of a Sequential or functional model; group: where its weights lie; prefix: of names."""
    counts = {}
    for layer in _get(_get(config, "config", dict), "layers", list):
        if not isinstance(layer, dict):
            raise ValueError(f"its configuration must have layers with a class_name, got {layer!r:.60}")
        named = layer.get("class_name")
        if not isinstance(named, str) or named not in _GROUPS:
            continue
        count = counts.get(named, 0)
        counts[named] = count + 1  # of every class of this name
        kind = _kind(layer)
        place = f"{group}layers/{_GROUPS[named]}" + (f"_{count}" if count else "")
        name = prefix + _get(_get(layer, "config", dict), "name", str)
        if kind in ("Sequential", "Functional"):
            yield from _of_model(h5py, file, layer, place + "/", name + "/")
        elif kind and (fields := _of_layer(layer, name, _reader(h5py, file, place))) is not None:
            _check_name(h5py, file, place, name.removeprefix(prefix))
            yield name, fields


def _kind(layer):
    """The class of a layer of Keras's own, else None: users may have classes of the same names."""
    if not isinstance(layer, dict) or str(layer.get("module")).partition(".")[0] != "keras":
        return None
    return layer["class_name"] if isinstance(layer.get("class_name"), str) else None


def _reader(h5py, file, place):
    """A function that reads the arrays of a layer at this place, or of one of its directions."""
    return lambda way, use_bias: _arrays(h5py, file, f"{place}/{way}cell/vars", use_bias)


def _of_layer(layer, name, read, way=""):
    """The fields of one layer, or None if its cell is another one; read: gives its arrays."""
    kind, config = _kind(layer), _get(layer, "config", dict)
    if kind == "Bidirectional":
        pair = [config.get("layer"), config.get("backward_layer")]
        if pair[1] is None and isinstance(pair[0], dict):  # the same layer the other way round
            turned = _get(pair[0], "config", dict)
            pair[1] = pair[0] | {"config": turned | {"go_backwards": not turned.get("go_backwards", False)}}
        fields = []
        for one, where in zip(pair, ("forward_layer", "backward_layer"), strict=True):
            if _kind(one) not in ("SimpleRNN", "RNN"):
                return None
            fields.append(_of_layer(one, name, read, f"{where}/"))
        if None in fields:
            return None
        return fields[0] | {"backward": fields[1], "merge_mode": config.get("merge_mode", "concat")}
    cell = config
    if kind == "RNN":
        inner = config.get("cell")
        if _kind(inner) != "SimpleRNNCell":
            return None
        cell = _get(inner, "config", dict)
    activation = cell.get("activation", "tanh")
    if not (activation is None or isinstance(activation, str)) or activation not in ACTIVATIONS:
        raise ValueError(f"{name}: activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {activation!r}")
    fields = {flag: config.get(flag, False) for flag in _FLAGS}
    fields |= read(way, bool(cell.get("use_bias", True)))
    if fields["kernel"].shape[1:] != (cell.get("units"),):
        raise ValueError(f"{name}: kernel must have {cell.get('units')} columns, got shape {fields['kernel'].shape}")
    return fields | {"nonlinearity": ACTIVATIONS[activation]}


def _of_older_model(h5py, file):
    """The layers of a whole model in HDF5, as Keras 2 saves it: the configuration is text beside the weights."""
    try:
        config = json.loads(file.attrs["model_config"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model_config must be JSON: {error}") from None
    for layer in _get(_get(config, "config", dict), "layers", list):
        layer = _of_keras(layer)
        kind = _kind(layer)
        if kind in ("Sequential", "Functional", "Model"):
            raise ValueError("a model within a model must come as .keras, got the older HDF5 layout")
        if kind in _GROUPS:
            name = _get(_get(layer, "config", dict), "name", str)
            fields = _of_layer(layer, name, _older_reader(h5py, file, name))
            if fields is not None:
                yield name, fields


def _of_keras(layer):
    """Say that a layer and those in it are Keras's own: here users' classes have other names, ``package>Name``."""
    if not isinstance(layer, dict):
        return layer
    config = layer.get("config")
    if isinstance(config, dict):
        inner = {key: _of_keras(config[key]) for key in ("layer", "backward_layer", "cell") if key in config}
        config = config | inner
    return layer | {"module": "keras", "config": config}


def _older_reader(h5py, file, name):
    """As `_reader`: the arrays of a layer are listed in Keras's order, both directions in one list."""

    def read(way, use_bias):
        group = _child(h5py, file, f"model_weights/{name}")
        names = [] if group is None else group.attrs.get("weight_names", [])
        names = [text.decode() if isinstance(text, bytes) else str(text) for text in names]
        count = 2 + use_bias
        if len(names) != count * (2 if way else 1):
            raise ValueError(f"{name} must have {count} arrays for each direction, got {', '.join(names) or 'none'}")
        names = names[count:] if way == "backward_layer/" else names[:count]
        fields = ("kernel", "recurrent_kernel", "bias")
        return {field: _array(h5py, group, at) for field, at in zip(fields, names, strict=False)}

    return read


def _get(config, key, kind):
    value = config.get(key) if isinstance(config, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"its configuration must have {key} of type {kind.__name__}, got {value!r:.60}")
    return value


def _check_name(h5py, file, place, name):
    """Weights carry their layer's name, so that a wrong guess of their place cannot go unseen."""
    at = _child(h5py, file, place + "/vars")
    stored = None if at is None else at.attrs.get("name")
    if stored is not None and stored != name:
        raise ValueError(f"{place} must have the weights of {name!r}, got those of {stored!r}")


# ---- Without one ----------------------------------------------------------------------------------------------------
def _without_config(h5py, file, activation):
    """All groups that look like one of ours, in their natural order."""
    nonlinearity = ACTIVATIONS[activation]
    used, seen, groups = set(), set(), [("", file)]
    while groups:
        place, group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue  # a link back: hard links can make circles
        seen.add(address)
        fields = _looks_like_ours(h5py, group, place, nonlinearity)
        if fields is not None:
            at = _child(h5py, group, "vars")
            name = None if at is None else at.attrs.get("name")
            name = name if isinstance(name, str) and name not in used else place
            used.add(name)
            yield name, fields
            continue
        children = ((f"{place}/{key}".lstrip("/"), _child(h5py, group, key)) for key in sorted(group, key=_natural))
        groups += reversed([(at, child) for at, child in children if isinstance(child, h5py.Group)])


def _natural(name):
    """Sorts layer_2 before layer_10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d{1,9})", name)]


def _looks_like_ours(h5py, group, place, nonlinearity):
    pair = [_child(h5py, group, way) for way in ("forward_layer", "backward_layer")]
    if all(isinstance(way, h5py.Group) for way in pair):
        fields = [_looks_like_ours(h5py, way, "", nonlinearity) for way in pair]
        if None in fields:
            return None
        # As Keras makes them where sequences are returned; a file of weights does not say it.
        first, second = (each | {"zero_output_for_mask": True} for each in fields)
        return first | {"backward": second | {"go_backwards": True}}
    at = _child(h5py, group, "cell/vars")
    if not isinstance(at, h5py.Group) or len(at) not in (2, 3):
        return None
    shapes = [getattr(_child(h5py, at, key), "shape", ()) for key in ("0", "1")]
    if not place.rpartition("/")[2].startswith("simple_rnn") and not (
        len(shapes[0]) == 2 and shapes[1] == (shapes[0][1],) * 2
    ):
        return None  # another cell, such as a GRU with its stacked gates
    return _arrays(h5py, group, "cell/vars", len(at) == 3) | {"nonlinearity": nonlinearity}


# ---- HDF5 -----------------------------------------------------------------------------------------------------------
def _child(h5py, group, place):
    """What lies at a place, or None. Soft and external links are refused: they may lead to other files."""
    for key in place.split("/"):
        if not isinstance(group, h5py.Group) or key not in group:
            return None
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{place} must not be a link")
        group = group[key]
    return group


def _arrays(h5py, file, place, use_bias):
    """kernel, recurrent_kernel and bias from a group of variables."""
    names = ("kernel", "recurrent_kernel", "bias")[: 2 + use_bias]
    at = _child(h5py, file, place)
    if not isinstance(at, h5py.Group) or len(at) != len(names):
        got = f"{len(at)} of them" if isinstance(at, h5py.Group) else "nothing"
        raise ValueError(f"{place} must have {len(names)} arrays, got {got}")
    return {name: _array(h5py, at, str(i)) for i, name in enumerate(names)}


def _array(h5py, group, key):
    """The array of a dataset that lies in the file itself."""
    data = _child(h5py, group, key)
    place = f"{group.name}/{key}"
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"{place} must be an array, got {type(data).__name__}")
    if data.external or data.is_virtual:
        raise ValueError(f"{place} must lie in the file itself, got another file's data")
    if data.nbytes > max(_LARGE, _EXPANSION * data.id.get_storage_size()):
        raise ValueError(f"{place} must not unpack to {data.nbytes} bytes, of shape {data.shape}")
    a = data[()]
    if data.attrs.get("dtype") == "bfloat16" and a.dtype.itemsize == 2 and a.dtype.kind == "V":
        return (a.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return a
