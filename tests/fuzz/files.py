"""Damaged and hostile files for every reader of pyrnn: npz, safetensors, ONNX, HDF5 and .keras.

    python -P tests/fuzz/files.py --cases 100000 --seed 1

Each case begins with a good file and damages it: bytes, or what the format is made of (sizes, types, names, nesting,
compression, chains of operators). Then it is read by `pyrnn`. What may come is the network or a ValueError that names
the file. Another exception, a crash, seconds of processor time, or memory beyond a multiple of the file's size is a
failure, which is printed with the seed and the number of the case, and the file is kept.

The cases run in a process of their own, whose address space is limited. When it dies, the case at which it stood has
failed, and another process goes on behind that. Case n of a seed is the same whatever the other arguments are.
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
import zipfile
import zlib

import numpy as np

SMALL = 2**26  # bytes that the reading of any file may take, and so many more for each byte of the file
EXPANSION = 1_000
ADDRESS_SPACE = 2**30  # bytes beyond those of a process that has read one good file of each kind
HUGE = [
    0,
    1,
    2,
    3,
    7,
    127,
    255,
    2**15,
    2**16 - 1,
    20_000,
    10**6,
    2**31 - 1,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**64 - 1,
]


# ---- Damage to bytes and to JSON ------------------------------------------------------------------------------------
def damage_bytes(rng, content):
    """Return other bytes: cut, overwritten, turned, repeated, or with a number replaced by a large one."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not content:
            break
        at, length = int(rng.integers(len(content))), int(rng.integers(1, 17))
        match rng.integers(8):
            case 0:
                del content[at:]
            case 1:
                del content[at : at + length]
            case 2:
                content[at : at + length] = rng.bytes(length)
            case 3:
                content[at] ^= 1 << int(rng.integers(8))
            case 4:
                content[at:at] = content[max(0, at - length) : at] * int(rng.integers(1, 4))
            case 5:
                width = int(rng.choice([1, 2, 4, 8]))
                value = pick(rng, HUGE) % 2 ** (8 * width)
                content[at : at + width] = value.to_bytes(width, "little" if rng.integers(2) else "big")
            case 6:
                content[at] = int(rng.integers(256))
            case _:
                other = int(rng.integers(len(content)))
                content[at : at + length] = content[other : other + length]
    return bytes(content)


def pick(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def odd_value(rng):
    """A value of JSON that nobody expects."""
    match rng.integers(10):
        case 0:
            return pick(rng, HUGE)
        case 1:
            return -pick(rng, HUGE)
        case 2:
            return pick(rng, [None, True, False, "", [], {}, 0.5, float("nan"), float("inf"), 1e308])
        case 3:
            return pick(rng, ["²", "tanh", "\ud800", "a" * 1000, "\0", "../x", "<f4", "float64", "é" * 50, "9" * 30])
        case 4:
            return Raw("1" + "0" * int(rng.integers(20, 5000)))
        case 5:
            return [pick(rng, HUGE)] * int(rng.integers(5))
        case 6:
            return {pick(rng, ["name", "layers", "config", "class_name", ""]): pick(rng, HUGE)}
        case 7:
            depth = int(10 ** rng.uniform(1, 5))
            return Raw("[" * depth + "]" * depth)
        case _:
            return int(rng.integers(-3, 9))


class Raw:
    """Text that is put into JSON as it is."""

    def __init__(self, text):
        self.text = text


def text_of(value):
    """JSON with everything that is `Raw` in it."""
    raw = []

    def default(v):
        raw.append(v.text)
        return f"@raw{len(raw) - 1}@"

    return re.sub('"@raw([0-9]+)@"', lambda m: raw[int(m[1])], json.dumps(value, default=default))


def damage_json(rng, value):
    """Return the value with some places in it replaced, left out or doubled."""
    value = copy.deepcopy(value)
    for _ in range(rng.integers(1, 4)):
        parents, queue = [], [value]
        while queue:
            inner = queue.pop()
            if isinstance(inner, dict | list) and inner:
                parents.append(inner)
                queue += inner.values() if isinstance(inner, dict) else inner
        if not parents:
            return value
        inner = pick(rng, parents)
        key = pick(rng, list(inner)) if isinstance(inner, dict) else int(rng.integers(len(inner)))
        match rng.integers(4):
            case 0:
                del inner[key]
            case 1 if isinstance(inner, list):
                inner.append(inner[key])
            case 1:
                inner[pick(rng, ["²", "", "name", "units", "dtype", "shape", "\ud800"])] = inner[key]
            case _:
                inner[key] = odd_value(rng)
    return value


def damage_text(rng, value):
    """JSON as text with something wrong in what it says, or now and then in its characters."""
    text = text_of(damage_json(rng, value)).encode(errors="surrogatepass")
    return damage_bytes(rng, text) if rng.integers(4) == 0 else text


# ---- zip ------------------------------------------------------------------------------------------------------------
def archive(rng, members, hostile):
    """A zip file of these members; a hostile one may be compressed otherwise, or have names that do not decode."""
    method = pick(rng, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        with zipfile.ZipFile(file, "w") as writer:
            for name, content in members:
                if hostile and rng.integers(12) == 0:
                    method = pick(rng, [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
                writer.writestr(name, content, method)
                if hostile and rng.integers(12) == 0:
                    writer.writestr(name, content, method)
    content = bytearray(file.getvalue())
    if hostile and rng.integers(3) == 0:  # the directory lies
        records = [m.start() for m in re.finditer(b"PK\x01\x02", content)]
        at = pick(rng, records)
        # method, sum, sizes, lengths of names, where the member begins; flags: of encryption and of UTF-8
        field = pick(rng, [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)])
        content[at + field[0] : at + sum(field)] = (pick(rng, HUGE) % 2 ** (8 * field[1])).to_bytes(field[1], "little")
    if hostile and rng.integers(8) == 0:
        name = members[0][0].encode()
        content = bytearray(content.replace(name, b"\xff\xfe" + name[2:]))
        for at in [m.start() for m in re.finditer(b"PK\x01\x02", content)]:
            content[at + 9] |= 8  # UTF-8
    return bytes(content)


# ---- .npz -----------------------------------------------------------------------------------------------------------
def rnn_of(rng, trained=False, constrained=False):
    """The arguments of a small RNN as JSON knows them, and its arrays."""
    import pyrnn
    from pyrnn.layers.files import as_json

    H, L = int(rng.integers(1, 5)), int(rng.integers(1, 4))
    more = {}
    if trained and rng.integers(2):
        more = {"train_h0": True, "train_alpha": True, "alpha_bounds": (0.1, 1.5)}
    if constrained and rng.integers(2):
        frozen = np.where(rng.random((H, H)) < 0.3, 0.0, np.nan)
        constraint = pyrnn.training.Constraint(rng.random((H, H)) < 0.7, frozen, rng.integers(-1, 2, H))
        more |= {"constraints": {f"weight_hh_l{L - 1}": constraint}}
    rnn = pyrnn.RNN(
        int(rng.integers(1, 4)),
        H,
        L,
        nonlinearity=pick(rng, ["tanh", "relu", "identity"]),
        bias=bool(rng.integers(2)),
        bidirectional=bool(rng.integers(2)),
        alpha=pick(rng, [1.0, 0.2, np.full(H, 0.5)]),
        output_size=pick(rng, [None, 2]),
        dtype=pick(rng, [np.float32, np.float64]),
        rng=rng,
        **more,
    )
    text, arrays = as_json(rnn._arguments())
    return json.loads(text), {**rnn.state_dict(), **arrays}


def npy(rng, a, hostile):
    """An array as a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(a), version=pick(rng, [(1, 0), (2, 0)]), allow_pickle=False)
    content = file.getvalue()
    if not hostile or rng.integers(2):
        return content
    match rng.integers(6):
        case 0:
            shape = tuple(pick(rng, HUGE) for _ in range(rng.integers(0, 5)))
            content = re.sub(rb"\([^)]*\), }", f"{shape}, }}".encode(), content, count=1)
        case 1:
            descr = pick(
                rng, [b"|O", b"<U9", b"<c8", b"<f16", b"|V4", b"<M8[s]", b">f8", b"|b1", b"<f2", b"f4,f4", b"%"]
            )
            content = re.sub(rb"'descr': '[^']*'", b"'descr': '" + descr + b"'", content, count=1)
        case 2:
            header = text_of(odd_value(rng)).encode(errors="surrogatepass")
            content = content[:8] + struct.pack("<H", len(header) % 65536) + header + content[-16:]
        case 3:
            content += rng.bytes(int(rng.integers(1, 9)))
        case 4:  # a bomb, if it is compressed
            file = io.BytesIO()
            np.lib.format.write_array(file, np.zeros(int(10 ** rng.uniform(4, 7)), np.uint8))
            content = file.getvalue()
        case _:
            content = damage_bytes(rng, content)
    return content


def make_npz(rng, hostile):
    arguments, state = rnn_of(rng, True, True)
    text = json.dumps(arguments)
    if hostile and rng.integers(3) == 0:
        text = damage_text(rng, arguments).decode("utf-8", "replace")
    members = [(f"{name}.npy", npy(rng, a, hostile and rng.integers(4) == 0)) for name, a in state.items()]
    members.append(("pyrnn.RNN.npy", npy(rng, np.array(text), False)))
    return archive(rng, members, hostile)


def read_npz(path):
    import pyrnn

    rnn = pyrnn.RNN.load(path)
    with np.load(path, allow_pickle=False) as file:  # NumPy must read the same
        for name, a in rnn.named_parameters():
            np.testing.assert_array_equal(a, file[name].astype(a.dtype))


# ---- .safetensors ---------------------------------------------------------------------------------------------------
def make_safetensors(rng, hostile):
    arguments, state = rnn_of(rng, True)
    header, data = {"__metadata__": {"pyrnn.RNN": json.dumps(arguments)}}, b""
    for name, a in state.items():
        stored, dtype = a.tobytes(), {"float32": "F32", "float64": "F64"}[a.dtype.name]
        if rng.integers(8) == 0:
            stored, dtype = (a.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(), "BF16"
        header[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    if hostile:
        text = damage_text(rng, header)
        if rng.integers(4) == 0:
            header["__metadata__"]["pyrnn.RNN"] = damage_text(rng, arguments).decode("utf-8", "replace")
            text = text_of(header).encode()
        if rng.integers(8) == 0:
            key = pick(rng, [b"F32", b"F64"])
            text = text.replace(key, pick(rng, [b"F8_E4M3", b"BOOL", b"I64", b"U8", b"C64", b"F33"]))
    else:
        text = json.dumps(header).encode()
    size = pick(rng, HUGE) % 2**64 if hostile and rng.integers(10) == 0 else len(text)
    return struct.pack("<Q", size) + text + data


def read_safetensors(path):
    import pyrnn
    from pyrnn.bridges.safetensors import load_safetensors
    from pyrnn.bridges.state_dict import describe

    errors = []
    for read in (pyrnn.RNN.load, load_safetensors):
        try:
            read(path)
        except ValueError as error:
            errors.append(error)
    for error in errors:
        expect_name(error, path)
    if errors:
        raise errors[0]
    with contextlib.suppress(ValueError, TypeError):
        describe(load_safetensors(path))


# ---- ONNX -----------------------------------------------------------------------------------------------------------
def make_onnx(rng, hostile):
    import onnx

    from pyrnn.bridges.onnx import to_onnx

    _, state = rnn_of(rng)
    state = {name: a for name, a in state.items() if not name.endswith("_out")}
    options = {name: bool(rng.integers(2)) for name in ("sequence_lens", "initial_h")}
    model = to_onnx(
        dict(state), nonlinearity=pick(rng, ["tanh", "relu", "identity"]), layout=int(rng.integers(2)), **options
    )
    make = onnx.helper.make_node
    rnns = [node for node in model.graph.node if node.op_type == "RNN"]
    if rng.integers(2):  # weights that nodes compute
        node = pick(rng, rnns)
        at = int(rng.integers(1, 3))
        chain, name = [], node.input[at]
        for i in range(int(rng.integers(1, 6))):
            chain.append(step_of(rng, make, model, name, f"c{i}", hostile))
            name = chain[-1].output[0]
        node.input[at] = name
        nodes = [*chain, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    if hostile:
        for _ in range(rng.integers(3)):
            damage_onnx(rng, onnx, model)
    return model.SerializeToString()


def step_of(rng, make, model, name, out, hostile):
    """A node that leaves a 3-D array as it is; a hostile one may not."""
    import onnx

    def constant(values):
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(values, np.int64), f"{out}.{rng.integers(10**9)}")
        )
        return model.graph.initializer[-1].name

    many = int(10 ** rng.uniform(1, 4)) if hostile else 1
    match rng.integers(9 if hostile else 4):
        case 0:
            return make("Identity", [name], [out])
        case 1:
            return make("Transpose", [name], [out], perm=[0, 1, 2])
        case 2:
            return make("Cast", [name], [out], to=1)
        case 3:
            return make("Concat", [name], [out], axis=0)
        case 4:
            return make("Concat", [name] * many, [out], axis=int(rng.integers(-4, 4)))
        case 5:
            return make("Gather", [name, constant([0] * many)], [out], axis=int(rng.integers(-4, 4)))
        case 6:
            operator = pick(rng, ["Unsqueeze", "Squeeze", "Reshape", "Split", "Expand", "Tile", "ConstantOfShape"])
            return make(operator, [name, constant([pick(rng, [0, 1, 2, 10**9])] * min(many, 40))], [out])
        case 7:
            return make("Slice", [name, constant([pick(rng, [-1, 0, 1])] * min(many, 9)), constant([2**62])], [out])
        case _:
            operator = pick(rng, ["Mul", "DequantizeLinear", "RandomNormal", "Loop", "RNN", ""])
            return make(operator, [name, name][: int(rng.integers(3))], [out])


def damage_onnx(rng, onnx, model):
    """Change a field of the model that is somewhere in the tree of its messages."""
    place = model
    for _ in range(12):
        fields = [(field, value) for field, value in place.ListFields() if field.name not in ("raw_data",)]
        if not fields:
            return
        field, value = pick(rng, fields)
        many = isinstance(getattr(place, field.name), type(model.graph.node)) or hasattr(value, "append")
        if field.message_type is not None:
            if many and rng.integers(6) == 0:
                value.add().CopyFrom(pick(rng, value))
                return
            if rng.integers(8) == 0:
                place.ClearField(field.name)
                return
            place = pick(rng, value) if many else value
            continue
        with contextlib.suppress(ValueError, TypeError):
            if field.cpp_type == field.CPPTYPE_STRING:
                text = pick(rng, ["", "W", "Y", "x" * 3000, "²", "Affine", "Split", "reverse", "9" * 30])
                new = text.encode() if field.type == field.TYPE_BYTES else text
            elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
                new = pick(rng, [0.0, 1.0, float("nan"), 1e30])
            elif field.name == "type":
                new = int(rng.integers(0, 14))
            elif field.name in ("data_type", "data_location"):
                new = int(rng.integers(0, 24))
            else:
                new = pick(rng, [*HUGE[:-1], -1, -(2**31), -(2**63)])
            if many:
                value[int(rng.integers(len(value)))] = new
                if rng.integers(8) == 0:
                    value.extend([new] * int(10 ** rng.uniform(1, 4)))
            else:
                setattr(place, field.name, new)
        return


def read_onnx(path):
    from pyrnn.bridges.onnx import from_onnx, run_onnx_rnn, to_state_dict

    nodes = from_onnx(path)
    with contextlib.suppress(ValueError):  # they need not stand on each other, and may want inputs
        to_state_dict(nodes)
        run_onnx_rnn(nodes[0], np.ones((3, 2, nodes[0].input_size), np.float32))


# ---- HDF5 and .keras ------------------------------------------------------------------------------------------------
LAYERS = ["simple_rnn", "simple_rnn_1", "bidirectional"]


def layer_config(name, H):
    rnn = {
        "module": "keras.layers",
        "class_name": "SimpleRNN",
        "config": {"name": name, "units": H, "activation": "tanh", "use_bias": True, "return_sequences": True},
    }
    if not name.startswith("bidirectional"):
        return rnn
    config = {"name": name, "layer": rnn, "merge_mode": "concat"}
    return {"module": "keras.layers", "class_name": "Bidirectional", "config": config}


def keras_config(names, H):
    layers = [layer_config(name, H) for name in names]
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}


def hdf5(rng, fill, hostile):
    """A file that `fill` has filled; a hostile one has odd neighbours."""
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w", track_order=bool(rng.integers(2))) as file:
        fill(h5py, file)
        if hostile:
            groups, datasets = [file], []
            file.visititems(lambda _, item: (groups if isinstance(item, h5py.Group) else datasets).append(item))
            for _ in range(rng.integers(1, 4)):
                with contextlib.suppress(ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError):
                    damage_hdf5(rng, h5py, pick(rng, groups), pick(rng, datasets) if datasets else None)
    return memory.getvalue()


def damage_hdf5(rng, h5py, group, dataset):
    names = [
        "0",
        "1",
        "²",
        "cell",
        "vars",
        "layers",
        "simple_rnn",
        "simple_rnn_²",
        "simple_rnn_" + "9" * 30,
        "a\\b",
        "é",
    ]
    name = pick(rng, [*names, dataset.name.rpartition("/")[2]])
    group = dataset.parent if dataset is not None and rng.integers(2) else group
    kind = int(rng.integers(13))
    if name in group and kind not in (6, 7, 10):
        del group[name]
    match kind:
        case 0:  # nothing is stored of it
            shape = tuple(pick(rng, HUGE[:14]) for _ in range(rng.integers(1, 4)))
            group.create_dataset(name, shape, "f4", chunks=True)
        case 1:
            n = int(10 ** rng.uniform(3, 6.5))
            group.create_dataset(name, data=np.zeros(n, np.float32), compression="gzip", chunks=(n,))
        case 2:
            group[name] = h5py.SoftLink(pick(rng, ["/", "/layers", name, "/absent"]))
        case 3:
            group[name] = h5py.ExternalLink("/etc/hostname", "/")
        case 4:
            group[name] = group.file["/"]  # a circle
        case 5:
            for _ in range(int(10 ** rng.uniform(0.5, 2.5))):
                group = group.create_group("cell" if rng.integers(2) else "a")
        case 6:
            at = pick(rng, [group, dataset])
            at.attrs[pick(rng, ["name", "weight_names", "layer_names", "model_config", "dtype"])] = pick(
                rng,
                [
                    "x",
                    b"\xff\xfe",
                    3,
                    np.zeros(3),
                    [b"a", b"\xff"],
                    "[" * 5000,
                    "bfloat16",
                    np.void(b"1234"),
                    h5py.Empty("f4"),
                ],
            )
        case 7:
            h5py.h5g.create(group.id, pick(rng, [b"\xff\xfe", b"simple_rnn_\xb2", b" ", b"vars\xff"]))
        case 8:
            dtype = pick(
                rng, ["S5", "c8", "V4", "i1", "f2", ">f8", h5py.string_dtype(), h5py.ref_dtype, [("a", "f4")], "u8"]
            )
            group.create_dataset(name, pick(rng, [(), (2,), (2, 2), (0, 3)]), dtype)
        case 9:
            layout = h5py.VirtualLayout(shape=(3, 3), dtype="f4")
            layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(3, 3))
            group.create_virtual_dataset(name, layout)
        case 10:
            dataset.parent.move(dataset.name, dataset.parent.name + "/" + name)
        case 11:
            group[name] = np.dtype("f4")  # a named type
        case _:
            group[name] = pick(rng, [1.0, "text", np.zeros((2, 3)), np.full((3, 3), np.nan, np.float32)])


def weights_of(rng, names, H, form):
    """A function that writes the arrays of these layers; form: "layers" as in Keras 3, another layout, or "older"."""

    def fill(h5py, file):
        I = 2
        for name in names:
            ways = [""] if not name.startswith("bidirectional") else ["forward_layer/", "backward_layer/"]
            arrays = [rng.normal(size=shape).astype("f4") for shape in ((I, H), (H, H), (H,))]
            I = H * len(ways)
            if form == "older":
                group = file.create_group(f"model_weights/{name}")
                places = [f"{name}/{way}{kind}:0" for way in ways for kind in ("kernel", "recurrent_kernel", "bias")]
                group.attrs["weight_names"] = [place.encode() for place in places]
                for place, a in zip(places, arrays * len(ways), strict=True):
                    group[place] = a
                continue
            at = "\\" if form == "backslash" else "/"
            top = "_layer_checkpoint_dependencies" if form == "checkpoint" else "layers"
            for way in ways:
                for i, a in enumerate(arrays):
                    file[f"{top}/{name}/{way}cell/vars".replace("/", at) + f"/{i}"] = a
            file.create_group(f"{top}/{name}/vars".replace("/", at)).attrs["name"] = name

    return fill


def make_h5(rng, hostile):
    names, H = LAYERS[: int(rng.integers(1, 4))], int(rng.integers(1, 4))
    form = pick(rng, ["older", "older", "layers", "checkpoint", "backslash"])
    fill = weights_of(rng, names, H, form)
    config = keras_config(names, H)
    if rng.integers(3) == 0:  # before Keras 2.2.3
        config["config"] = config["config"]["layers"]

    def filled(h5py, file):
        fill(h5py, file)
        if form == "older":
            text = damage_text(rng, config) if hostile and rng.integers(2) else text_of(config)
            text = text.encode() if isinstance(text, str) else text.replace(b"\0", b"0")
            file.attrs["model_config"] = text[:60_000]  # the most that an attribute holds

    return hdf5(rng, filled, hostile)


def make_keras(rng, hostile):
    names, H = LAYERS[: int(rng.integers(1, 4))], int(rng.integers(1, 4))
    config = keras_config(names, H)
    form = pick(rng, ["layers", "checkpoint", "backslash"])
    content = hdf5(rng, weights_of(rng, names, H, form), hostile and rng.integers(2))
    text = damage_text(rng, config) if hostile and rng.integers(2) else text_of(config).encode()
    if hostile and rng.integers(10) == 0:
        text += b" " * int(10 ** rng.uniform(4, 7.5))  # a bomb, if it is compressed
    if hostile and rng.integers(10) == 0:
        content += bytes(int(10 ** rng.uniform(4, 7.5)))
    members = [("metadata.json", b"{}"), ("config.json", text), ("model.weights.h5", content)]
    return archive(rng, members[int(rng.integers(2)) :], hostile)


def read_keras(path):
    from pyrnn.bridges.keras import load_keras, run_keras_rnn, to_state_dict

    layers = load_keras(path)
    layer = next(iter(layers.values()))
    run_keras_rnn(layer, np.ones((2, 3, layer.input_size), np.float32))
    with contextlib.suppress(ValueError):  # they need not stand on each other
        to_state_dict(layers)


# ---- One case -------------------------------------------------------------------------------------------------------
KINDS = {  # the end of the file's name, what makes one, what reads it, and what both need
    "npz": (".npz", make_npz, read_npz, ()),
    "safetensors": (".safetensors", make_safetensors, read_safetensors, ("safetensors",)),
    "onnx": (".onnx", make_onnx, read_onnx, ("onnx",)),
    "h5": (".h5", make_h5, read_keras, ("h5py",)),
    "keras": (".keras", make_keras, read_keras, ("h5py",)),
}


def available():
    """The kinds of files whose packages are installed."""
    return [kind for kind, (*_, needs) in KINDS.items() if all(map(importlib.util.find_spec, needs))]


def content_of(kind, seed, number):
    """The bytes of a case: damaged in what it says, in its bytes, in both, or, rarely, not at all."""
    rng = np.random.default_rng([seed, number, zlib.crc32(kind.encode())])
    how = rng.integers(8)
    content = KINDS[kind][1](rng, how not in (0, 1, 2))
    return damage_bytes(rng, content) if how in (1, 2, 3) else content, how == 0


class Wrong(Exception):
    """What a reader must not do."""


def expect_name(error, path):
    if path not in str(error):
        raise Wrong(f"a ValueError that does not name the file: {error!s:.300}") from error
    if len(str(error)) > 20_000:
        raise Wrong(f"a message of {len(str(error))} characters: {error!s:.300}")


def check(read, path, good):
    """Read a file; return whether it was taken, and raise Wrong unless that is right or the error is."""
    try:
        read(path)
    except ValueError as error:
        expect_name(error, path)
        if good:
            raise Wrong(f"a good file was refused: {error!s:.300}") from error
        return False
    except Wrong:
        raise
    except BaseException as error:  # pyo3's panics too
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Wrong(f"{type(error).__name__}: {error!s:.300}") from error
    return True


# ---- Readers that are wrong, to see that the loop finds them ---------------------------------------------------------
PLANTED = {
    "exception": lambda path: {}[path],
    "no name": lambda path: int("x"),
    "memory": lambda path: np.ones(2**25),
    "address space": lambda path: np.empty(2**40),
    "hang": lambda path: [None for _ in iter(int, 1)],
    "crash": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
}


# ---- Processes ------------------------------------------------------------------------------------------------------
def status(field):
    """A number of bytes from what Linux says of this process."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def work(arguments):
    """Run cases from one to another, in this process; a line of JSON for each failure."""
    import resource

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "dropout acts between layers")  # the constructor's, which is no fault of a file
    sanitized = "asan" in os.environ.get("LD_PRELOAD", "")  # it keeps memory that was freed
    folder = arguments.folder
    read = {kind: KINDS[kind][2] for kind in arguments.kinds}
    for kind in arguments.kinds:  # what is loaded once and kept
        path = os.path.join(folder, "first" + KINDS[kind][0])
        with open(path, "wb") as file:
            file.write(KINDS[kind][1](np.random.default_rng(0), False))
        check(read[kind], path, True)
    if arguments.plant:
        read = dict.fromkeys(read, PLANTED[arguments.plant])
    space = status("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before, taken = status("VmHWM"), 0
    with open(os.path.join(folder, "at"), "wb", buffering=0) as at:
        for number in range(arguments.start, arguments.stop):
            os.pwrite(at.fileno(), b"%12d" % number, 0)
            kind = arguments.kinds[number % len(arguments.kinds)]
            content, good = content_of(kind, arguments.seed, number)
            path = os.path.join(folder, f"case{KINDS[kind][0]}")
            with open(path, "wb") as file:
                file.write(content)
            made = status("VmHWM")
            # Seconds of this processor, not of the clock: a busy machine changes nothing. The signal ends the process.
            signal.setitimer(signal.ITIMER_PROF, arguments.seconds)
            problem = None
            try:
                taken += check(read[kind], path, good)
            except Wrong as error:
                problem = str(error)
            signal.setitimer(signal.ITIMER_PROF, 0)
            # The peak may be that of making the file; only what lies above that is the reader's.
            most = status("VmHWM") - max(made, before + SMALL + EXPANSION * len(content))
            if problem is None and most > 0 and not sanitized:
                problem = f"{(status('VmHWM') - before) / 2**20:.0f} MB for a file of {len(content)} bytes"
            if problem is not None:
                print(json.dumps({"case": number, "kind": kind, "problem": problem}), flush=True)
                if most > 0:
                    return  # the peak stays; the next process begins with a low one
    print(json.dumps({"taken": taken}), flush=True)


def run(cases, seed, *, kinds=None, first=0, plant=None, seconds=20.0, keep=None, log=lambda text: None):
    """Run so many cases; return the failures, and how many files were taken for good ones."""
    kinds, failures, taken = kinds or available(), [], 0
    with tempfile.TemporaryDirectory() as folder:
        start, stop = first, first + cases
        while start < stop:
            command = [
                sys.executable,
                "-P",
                os.path.abspath(__file__),
                "--work",
                "--folder",
                folder,
                "--start",
                str(start),
            ]
            command += ["--stop", str(stop), "--seed", str(seed), "--seconds", str(seconds), "--kinds", *kinds]
            command += ["--plant", plant] if plant else []
            process = subprocess.run(command, capture_output=True, text=True)
            at = os.path.join(folder, "at")
            if not os.path.exists(at):
                raise RuntimeError(f"the process did not begin: {process.stderr}")
            found = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
            taken += sum(line["taken"] for line in found if "taken" in line)
            here = [line for line in found if "case" in line]
            with open(at) as file:
                last = int(file.read() or start)
            if process.returncode > 0:
                raise RuntimeError(f"this program has failed at case {last} of seed {seed}: {process.stderr}")
            if process.returncode < 0:
                name, kind = signal.Signals(-process.returncode).name, kinds[last % len(kinds)]
                here.append({"case": last, "kind": kind, "problem": f"the process ended with {name}"})
            for failure in here:
                log(f"seed {seed} case {failure['case']} {failure['kind']}: {failure['problem']}")
                if keep:
                    name = f"{seed}-{failure['case']}{KINDS[failure['kind']][0]}"
                    with open(os.path.join(keep, name), "wb") as file:
                        file.write(content_of(failure["kind"], seed, failure["case"])[0])
            failures += here
            start = last + 1
            os.remove(at)
            if len(failures) > 100:
                break
    return failures, taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=available())
    parser.add_argument("--seconds", type=float, default=20.0, help="of processor time that a case may take")
    parser.add_argument("--keep", help="a folder for the files of failures", default=None)
    parser.add_argument("--plant", choices=list(PLANTED), help="read by this wrong reader")
    for name in ("--start", "--stop"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments)
    if arguments.keep:
        os.makedirs(arguments.keep, exist_ok=True)
    options = {name: getattr(arguments, name) for name in ("kinds", "first", "plant", "seconds", "keep")}
    failures, taken = run(arguments.cases, arguments.seed, **options, log=lambda text: print(text, flush=True))
    print(f"{arguments.cases} cases of seed {arguments.seed}: {len(failures)} failures, {taken} files taken")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
