"""pyrnn.bridges.torch.RNN against torch.nn.RNN."""

import contextlib
import copy
import functools
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import for_each

import pyrnn

pytestmark = pytest.mark.peer

torch = pytest.importorskip("torch")

from torch.nn.utils import rnn as sequences  # noqa: E402

import pyrnn.bridges.torch  # noqa: E402

CASES = 520
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}  # of the largest entry of each array


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """The reasons that were given for leaving a call to PyTorch in this test."""
    reasons = set()
    monkeypatch.setattr(pyrnn.bridges.torch, "_said", reasons)
    return reasons


@pytest.fixture
def calls(monkeypatch):
    """The calls of an engine in this test: name and arguments."""
    seen = []

    class Recorder:
        def __init__(self, engine):
            self.engine = engine

        def __getattr__(self, name):
            return lambda *a, **named: seen.append((name, a)) or getattr(self.engine, name)(*a, **named)

    choose = pyrnn._engines.choose
    monkeypatch.setattr(pyrnn._engines, "choose", lambda *a: Recorder(choose(*a)))
    return seen


def pair(*args, **options):
    """torch.nn.RNN and ours with its weights."""
    theirs, ours = torch.nn.RNN(*args, **options), pyrnn.bridges.torch.RNN(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def draw(seed):
    """What a random case is: arguments of the constructor, sizes, the kind of input, and which results have a loss."""
    rng = np.random.default_rng(seed)
    options = {
        "nonlinearity": str(rng.choice(["tanh", "relu"])),
        "bias": bool(rng.integers(2)),
        "num_layers": int(rng.integers(1, 4)),
        "bidirectional": bool(rng.integers(2)),
        "batch_first": bool(rng.integers(2)),
    }
    kind = str(rng.choice(["padded", "unbatched", "sorted", "unsorted", "even"], p=[0.35, 0.1, 0.2, 0.25, 0.1]))
    T, B, I, H = (int(n) for n in rng.integers(1, [13, 6, 6, 9]))
    return options, kind, (T, B, I, H), bool(rng.integers(2)), str(rng.choice(["both", "output", "h_n"])), rng


def inputs(case, dtype):
    """x (with its lengths), h0 or None, and what the loss multiplies output and h_n with."""
    options, kind, (T, B, I, H), given, _, rng = case
    D = 2 if options["bidirectional"] else 1
    batch = () if kind == "unbatched" else (B,)
    steps = (B, T) if options["batch_first"] and batch else (T, *batch)

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)

    lengths = rng.integers(1, T + 1, B)
    lengths[rng.integers(B)] = T
    if kind == "sorted":
        lengths = -np.sort(-lengths)
    elif kind == "even":
        lengths[:] = T
    states = (options["num_layers"] * D, *batch, H)
    x, h0 = normal(*steps, I), normal(*states) if given else None
    rows = (int(lengths.sum()),) if kind in ("sorted", "unsorted", "even") else steps
    return x, torch.from_numpy(lengths), h0, normal(*rows, D * H), normal(*states)


def run(module, case, x, lengths, h0, d_output, d_h_n, create_graph=False):
    """output, h_n and every gradient of the loss of a case, by name."""
    options, kind, _, _, which, _ = case
    x = x.clone().requires_grad_()
    h0 = None if h0 is None else h0.clone().requires_grad_()
    given = x
    if kind in ("sorted", "unsorted", "even"):
        given = sequences.pack_padded_sequence(x, lengths, options["batch_first"], enforce_sorted=kind == "sorted")
    output, h_n = module(given, h0)
    if given is not x:
        assert (output.batch_sizes == given.batch_sizes).all()
        assert output.unsorted_indices is given.unsorted_indices
        output = output.data
    loss = (output * d_output).sum() * (which != "h_n") + (h_n * d_h_n).sum() * (which != "output")
    if which == "both" and create_graph:
        loss = loss + (output.sin() ** 2).sum()
    wanted = {"x": x} | ({} if h0 is None else {"h0": h0}) | dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, list(wanted.values()), create_graph=create_graph)
    results = {"output": output, "h_n": h_n} | dict(zip(wanted, gradients, strict=True))
    if create_graph:
        norm = sum((g**2).sum() for g in gradients)
        second = torch.autograd.grad(norm, list(wanted.values()), allow_unused=True)
        results |= {f"{name}, twice": g for name, g in zip(wanted, second, strict=True)}
    return results


def node(results):
    return results["output"].grad_fn.name()


def assert_same(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, their in theirs.items():
        our = ours[name]
        if their is None:
            assert our is None or not our.any(), name
            continue
        our = torch.zeros_like(their) if our is None else our
        assert our.shape == their.shape, name
        assert our.dtype == their.dtype, name
        if their.numel():
            error = (our - their).abs().max() / (their.abs().max() or 1)
            assert error <= tolerance, (name, float(error))


# ---- The same results -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@for_each("seed", range(CASES))
def test_like_torch(seed, dtype):
    case = draw(seed)
    options, _, (_, _, I, H), _, _, _ = case
    torch.manual_seed(seed)
    theirs, ours = pair(I, H, dtype=dtype, **options)
    arguments = inputs(case, dtype)
    expected, actual = run(theirs, case, *arguments), run(ours, case, *arguments)
    assert node(actual) == "_RNNFunctionBackward"
    assert_same(actual, expected, TOLERANCE[dtype])
    assert actual["output"].stride() == expected["output"].stride()
    with torch.no_grad():  # the way without a graph
        x, lengths, h0 = arguments[:3]
        if case[1] in ("padded", "unbatched"):
            output, h_n = ours(x, h0)
        else:
            packed = sequences.pack_padded_sequence(x, lengths, options["batch_first"], enforce_sorted=False)
            output, h_n = ours(packed, h0)
            output, expected["output"] = (
                sequences.pad_packed_sequence(packed._replace(data=data))[0]
                for data in (output.data, unsort(expected["output"], packed, case, arguments))
            )
    assert_same({"output": output, "h_n": h_n}, {n: expected[n] for n in ("output", "h_n")}, TOLERANCE[dtype])


def unsort(data, packed, case, arguments):
    """Packed data of the case as those of `packed`, whose sequences may be in another order of the same lengths."""
    x, lengths = arguments[:2]
    own = sequences.pack_padded_sequence(x, lengths, case[0]["batch_first"], enforce_sorted=case[1] == "sorted")
    padded, _ = sequences.pad_packed_sequence(own._replace(data=data))
    return sequences.pack_padded_sequence(padded, lengths, enforce_sorted=False).data


def test_every_kind_of_case_is_drawn():
    cases = [draw(seed) for seed in range(CASES)]
    kinds = {(kind, *(o[name] for name in ("nonlinearity", "bidirectional", "batch_first"))) for o, kind, *_ in cases}
    assert len(kinds) == 5 * 2 * 2 * 2
    kinds = {(o["bias"], o["num_layers"], o["bidirectional"], given, which) for o, _, _, given, which, _ in cases}
    assert len(kinds) == 2 * 3 * 2 * 2 * 3


@pytest.mark.parametrize("seed", range(60))
def test_second_derivatives_like_torch(seed):
    case = draw(seed)
    options, _, (_, _, I, H), _, _, _ = case
    torch.manual_seed(seed)
    theirs, ours = pair(I, H, dtype=torch.float64, **options)
    arguments = inputs(case, torch.float64)
    actual = run(ours, case, *arguments, create_graph=True)
    assert node(actual) == "_RNNFunctionBackward"
    assert_same(actual, run(theirs, case, *arguments, create_graph=True), 1e-11)


@pytest.mark.parametrize(("T", "B"), [(1, 1), (1, 3), (4, 0)])
def test_small_sizes(T, B):
    theirs, ours = pair(3, 5, num_layers=2, bidirectional=True)
    x = torch.randn(T, B, 3)
    for result, expected in zip(ours(x), theirs(x), strict=True):
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected)
    ours(x)[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in ours.parameters())


def test_packed_without_sequences():
    theirs, ours = pair(3, 5)
    packed = sequences.PackedSequence(torch.ones(0, 3), torch.tensor([0]))
    (expected, expected_h), (actual, actual_h) = theirs(packed), ours(packed)
    assert actual.data.shape == expected.data.shape
    assert actual_h.shape == expected_h.shape


def test_nan_stays_where_it_belongs():
    theirs, ours = pair(3, 5)
    x = torch.randn(6, 4, 3)
    x[2, 1] = torch.nan
    torch.testing.assert_close(ours(x), theirs(x), equal_nan=True)


# ---- Derivatives ----------------------------------------------------------------------------------------------------
FORMS = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 2, "dropout": 0.4},
]


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_differences(check, packed, options):
    torch.manual_seed(0)
    module = pyrnn.bridges.torch.RNN(2, 3, dtype=torch.float64, **options)
    names = list(module._flat_weights_names)
    rows = module.num_layers * (2 if module.bidirectional else 1)
    x = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(rows, 2, 3, dtype=torch.float64, requires_grad=True)
    weights = [p.detach().clone().requires_grad_() for p in module.parameters()]

    def function(x, h0, *weights):
        torch.manual_seed(3)  # dropout
        module._parameters.update(zip(names, weights, strict=True))
        if not packed:
            return module(x if module.batch_first else x.transpose(0, 1), h0)
        output, h_n = module(sequences.pack_padded_sequence(x, [2, 4], True, enforce_sorted=False), h0)
        return output.data, h_n

    assert check(function, (x, h0, *weights))


def test_weights_that_make_the_input():
    """The second derivative, where a path to a weight goes through x."""

    def twice(module):
        x = (torch.ones(4, 2, 3, dtype=torch.float64) @ module.weight_ih_l0.T).tanh()
        output = module(x)[0]
        gradient = torch.autograd.grad((output**2).sum(), module.weight_ih_l0, create_graph=True)[0]
        return gradient, torch.autograd.grad((gradient**2).sum(), module.weight_ih_l0)[0]

    theirs, ours = pair(3, 3, dtype=torch.float64)
    torch.testing.assert_close(twice(ours), twice(theirs))


def test_third_derivative():
    def thrice(module):
        x = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(4, 1, 3).requires_grad_()
        value = module(x)[0].sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = (gradient**2).sum()
        return gradient

    theirs, ours = pair(3, 4, dtype=torch.float64)
    torch.testing.assert_close(thrice(ours), thrice(theirs))


@pytest.mark.parametrize("wanted", ["x", "h0", "weight_ih_l1", "bias_hh_l0_reverse"])
def test_only_what_is_asked_for(wanted):
    def gradients(module):
        module.requires_grad_(False)
        x, h0 = torch.ones(4, 2, 3), torch.ones(4, 2, 5)
        leaf = {"x": x, "h0": h0}.get(wanted)
        leaf = getattr(module, wanted) if leaf is None else leaf
        leaf.requires_grad_()
        module(x, h0)[0].sum().backward()
        return {name: a.grad for name, a in {"x": x, "h0": h0, **dict(module.named_parameters())}.items()}

    theirs, ours = pair(3, 5, num_layers=2, bidirectional=True)
    actual, expected = gradients(ours), gradients(theirs)
    for name, gradient in expected.items():
        assert (gradient is None) == (name != wanted)
        torch.testing.assert_close(actual[name], gradient)


def test_nothing_is_asked_for():
    ours = pyrnn.bridges.torch.RNN(3, 5).requires_grad_(False)
    output, h_n = ours(torch.ones(4, 2, 3))
    assert not output.requires_grad
    assert not h_n.requires_grad
    assert output.grad_fn is None
    with torch.inference_mode():
        assert ours(torch.ones(4, 2, 3))[0].is_inference()


def test_backward_twice():
    ours = pyrnn.bridges.torch.RNN(3, 5)
    loss = ours(torch.ones(4, 2, 3))[0].sum()
    loss.backward(retain_graph=True)
    first = [p.grad.clone() for p in ours.parameters()]
    loss.backward()
    for gradient, p in zip(first, ours.parameters(), strict=True):
        torch.testing.assert_close(p.grad, 2 * gradient, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_the_two_bias_gradients_are_apart():
    ours = pyrnn.bridges.torch.RNN(3, 5)
    ours(torch.ones(4, 2, 3))[0].sum().backward()
    before = ours.bias_hh_l0.grad.clone()
    ours.bias_ih_l0.grad.zero_()
    assert torch.equal(ours.bias_hh_l0.grad, before)


@pytest.mark.parametrize("gradient", ["expanded", "sparse", "zero", "negative"])
def test_gradients_of_other_layouts(gradient):
    theirs, ours = pair(3, 5)
    x = torch.ones(4, 2, 3)
    dense = torch.ones(4, 2, 5)
    given = {
        "expanded": torch.ones(()).expand(4, 2, 5),
        "sparse": dense.to_sparse(),
        "zero": torch._efficientzerotensor((4, 2, 5)),
        "negative": torch.complex(dense, -dense).conj().imag,
    }[gradient]
    assert gradient != "negative" or given.is_neg()
    actual = torch.autograd.grad(ours(x)[0], list(ours.parameters()), given)
    expected = torch.autograd.grad(theirs(x)[0], list(theirs.parameters()), dense * (gradient != "zero"))
    torch.testing.assert_close(actual, expected)


def test_tensors_that_are_modified_before_the_backward_pass():
    ours = pyrnn.bridges.torch.RNN(3, 5)
    x = torch.ones(4, 2, 3, requires_grad=True)
    for change in ("x", "h0", "weight"):
        y, h0 = x * 1, torch.zeros(1, 2, 5)
        output, _ = ours(y, h0)
        with torch.no_grad():
            {"x": y, "h0": h0, "weight": ours.weight_hh_l0}[change].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@pytest.mark.parametrize("through_checkpoint", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True}, {"bidirectional": True, "num_layers": 2, "dropout": 0.5}], ids=str
)
def test_results_may_be_modified(options, packed, through_checkpoint):
    from torch.utils.checkpoint import checkpoint

    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(4, 2, 3).requires_grad_()

    def modified(module, x):
        given = sequences.pack_padded_sequence(x, torch.tensor([4, 3])) if packed else x
        output, h_n = module(given)
        output = output.data if packed else output
        output.mul_(2)
        output[1:3] = 0.5
        h_n.mul_(2)
        return output, h_n

    def gradients(module):
        torch.manual_seed(0)
        if through_checkpoint:
            output, h_n = checkpoint(modified, module, x, use_reentrant=False)
        else:
            output, h_n = modified(module, x)
        loss = (output * torch.arange(output.numel()).reshape(output.shape)).sum() + h_n.sum()
        first = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        assert all(map(torch.equal, first, torch.autograd.grad(loss, list(module.parameters()))))
        return output, h_n, first

    theirs, ours = pair(3, 5, **options, dtype=torch.float64)
    torch.testing.assert_close(gradients(ours), gradients(theirs))


def test_memory_of_modified_results_is_not_kept():
    """What counts operations in place keeps nothing alive."""
    output, _ = pyrnn.bridges.torch.RNN(3, 5)(torch.ones(4, 2, 3))
    version = pyrnn.bridges.torch._version_of(output)
    assert version() == 0
    output.detach().add_(1)
    assert version() == 1
    kept = [c.cell_contents for c in version.__closure__]
    assert all(a.untyped_storage().nbytes() == 0 for a in kept if isinstance(a, torch.Tensor))


def test_gradients_in_place_do_not_reach_what_was_given():
    """With a loss of h_n the gradient of the output is added to."""
    ours = pyrnn.bridges.torch.RNN(3, 5)
    output, h_n = ours(torch.ones(4, 2, 3))
    d_output, d_h_n = torch.ones_like(output), torch.ones_like(h_n)
    torch.autograd.backward([output, h_n], [d_output, d_h_n])
    assert (d_output == 1).all()
    assert (d_h_n == 1).all()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    from torch.utils.checkpoint import checkpoint

    theirs, ours = pair(3, 5, num_layers=2, dropout=0.5)
    gradients = []
    for module, through in ((ours, True), (theirs, False)):
        torch.manual_seed(0)
        x = torch.ones(4, 2, 3, requires_grad=True)
        output = checkpoint(lambda x: module(x)[0], x, use_reentrant=reentrant) if through else module(x)[0]  # noqa: B023
        output.sum().backward()
        gradients.append([x.grad, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(*gradients)


# ---- Dropout --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("p", [0.3, 1.0])
@pytest.mark.parametrize("kind", ["padded", "unbatched", "unsorted", "even"])
def test_dropout_draws_the_same(kind, p, bidirectional):
    theirs, ours = pair(3, 7, 3, dropout=p, bidirectional=bidirectional, batch_first=True, dtype=torch.float64)
    case = ({"batch_first": True, "num_layers": 3, "bidirectional": bidirectional}, kind, (6, 4, 3, 7), True, "both")
    arguments = inputs((*case, np.random.default_rng(0)), torch.float64)
    results, generators = [], []
    for module in (ours, theirs):
        torch.manual_seed(5)
        results.append(run(module, (*case, None), *arguments, create_graph=True))
        generators.append(torch.get_rng_state())
    assert_same(*results, 1e-11)
    assert torch.equal(*generators)
    assert not torch.equal(results[0]["output"], run(ours.eval(), (*case, None), *arguments)["output"])
    assert_same(run(ours, (*case, None), *arguments), run(theirs.eval(), (*case, None), *arguments), 1e-12)


# ---- Errors ---------------------------------------------------------------------------------------------------------
CONSTRUCTORS = [
    ((0, 5), {}),
    ((3, 0), {}),
    ((3.0, 5), {}),
    ((3, "5"), {}),
    ((3, 5, 0), {}),
    ((3, 5, 1, "sigmoid"), {}),
    ((3, 5), {"nonlinearity": None}),
    ((3, 5), {"bias": 1}),
    ((3, 5), {"batch_first": "yes"}),
    ((3, 5, 2), {"dropout": 1.5}),
    ((3, 5, 2), {"dropout": True}),
    ((3, 5), {"proj_size": 2}),
    ((3, 5), {"device": "nowhere"}),
    ((3, 5), {"dtype": "float32"}),
    ((3, 5), {"units": 3}),
    ((), {}),
]


def error_of(function):
    with pytest.raises(Exception) as caught:
        function()
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize(("args", "options"), CONSTRUCTORS)
def test_bad_constructor(args, options):
    expected = error_of(lambda: torch.nn.RNN(*args, **options))
    assert error_of(lambda: pyrnn.bridges.torch.RNN(*args, **options)) == expected


def test_dropout_of_one_layer_warns():
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        pyrnn.bridges.torch.RNN(3, 5, dropout=0.5)


def packed_as(data, *sizes):
    return sequences.PackedSequence(data, torch.tensor(sizes))


CALLS = {
    "nothing": (),
    "None": (None,),
    "an array": (np.ones((4, 2, 3), np.float32),),
    "a list": ([[1.0]],),
    "one axis": (torch.ones(3),),
    "four axes": (torch.ones(1, 4, 2, 3),),
    "columns": (torch.ones(4, 2, 4),),
    "no steps": (torch.ones(0, 2, 3),),
    "no steps, no sequences": (torch.ones(0, 0, 3),),
    "float64": (torch.ones(4, 2, 3, dtype=torch.float64),),
    "h0 of another batch": (torch.ones(4, 2, 3), torch.ones(1, 3, 5)),
    "h0 of other layers": (torch.ones(4, 2, 3), torch.ones(2, 2, 5)),
    "h0 without batch": (torch.ones(4, 2, 3), torch.ones(1, 5)),
    "h0 with batch": (torch.ones(4, 3), torch.ones(1, 2, 5)),
    "h0 float64": (torch.ones(4, 2, 3), torch.ones(1, 2, 5, dtype=torch.float64)),
    "h0 an array": (torch.ones(4, 2, 3), np.ones((1, 2, 5), np.float32)),
    "h0 a tuple, as of an LSTM": (torch.ones(4, 2, 3), (torch.ones(1, 2, 5), torch.ones(1, 2, 5))),
    "packed columns": (packed_as(torch.ones(3, 4), 2, 1),),
    "packed with three axes": (packed_as(torch.ones(3, 1, 3), 2, 1),),
    "packed, too few rows": (packed_as(torch.ones(2, 3), 2, 1),),
    "packed, growing": (packed_as(torch.ones(3, 3), 1, 2),),
    "packed, h0 of another batch": (packed_as(torch.ones(3, 3), 2, 1), torch.ones(1, 3, 5)),
    "packed, sizes as floats": (sequences.PackedSequence(torch.ones(3, 3), torch.tensor([2.0, 1.0])),),
    "packed, float64": (packed_as(torch.ones(3, 3, dtype=torch.float64), 2, 1),),
}


@pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS)
def test_bad_call(arguments):
    theirs, ours = pair(3, 5)
    expected = error_of(lambda: theirs(*arguments))
    actual = error_of(lambda: ours(*arguments))
    assert actual[0] is expected[0]
    assert actual[1].replace("pyrnn.bridges.torch.", "") == expected[1]


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
@pytest.mark.parametrize("value", [torch.ones(4, 4), torch.ones(5, 3, dtype=torch.float64), None], ids=str)
def test_bad_weights(name, value):
    modules = pair(3, 5)
    for module in modules:
        setattr(module, name, None if value is None else torch.nn.Parameter(value))
    expected, actual = (error_of(lambda m=m: m(torch.ones(4, 2, 3))) for m in modules)
    assert actual == expected


# ---- What is left to PyTorch ----------------------------------------------------------------------------------------
@contextlib.contextmanager
def dispatch_mode():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        yield


class Subclass(torch.Tensor):
    pass


def forward_mode(module):
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        output = module(forward_ad.make_dual(torch.ones(4, 2, 3), torch.ones(4, 2, 3)))[0]
        return forward_ad.unpack_dual(output).tangent


def under(context):
    def call(module):
        with context():
            return module(torch.ones(4, 2, 3))[0]

    return call


def traced(module):
    return torch.jit.trace(module, torch.ones(4, 2, 3))(torch.ones(4, 2, 3))[0]


UNSUPPORTED = {
    "half": (lambda m: m.half()(torch.ones(4, 2, 3).half())[0], "a tensor has dtype torch.float16"),
    "bfloat16": (lambda m: m.bfloat16()(torch.ones(4, 2, 3).bfloat16())[0], "a tensor has dtype torch.bfloat16"),
    "meta": (lambda m: m.to("meta")(torch.ones(4, 2, 3, device="meta"))[0].shape, "a tensor is on device meta"),
    "subclass": (lambda m: m(torch.ones(4, 2, 3).as_subclass(Subclass))[0], "a tensor is a Subclass"),
    "autocast": (under(lambda: torch.autocast("cpu")), "autocast is enabled"),
    "forward mode": (forward_mode, "it is differentiated in forward mode"),
    "trace": (traced, "torch.jit.trace traces it"),
    "dispatch mode": (under(dispatch_mode), "a TorchDispatchMode is active"),
    "vmap": (lambda m: torch.func.vmap(lambda x: m(x)[0])(torch.ones(2, 4, 2, 3)), "torch.func transforms it"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_is_said_once(name):
    call, reason = UNSUPPORTED[name]
    theirs, ours = pair(3, 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        actual = call(ours)
        call(ours)
        call(pyrnn.bridges.torch.RNN(3, 5))
    mine = [w for w in caught if str(w.message).startswith("pyrnn.bridges.torch.RNN")]
    message = f"pyrnn.bridges.torch.RNN leaves this to PyTorch's own operations, because {reason}; this is said once"
    assert [str(w.message) for w in mine] == [message]
    assert mine[0].category is UserWarning
    if name == "vmap":
        expected = torch.stack([theirs(torch.ones(4, 2, 3))[0]] * 2)
    else:
        expected = call(theirs)
    if name == "meta":
        assert actual == expected
    else:
        torch.testing.assert_close(actual, expected)


def test_the_warning_points_at_the_caller():
    ours = pyrnn.bridges.torch.RNN(3, 5).half()
    with pytest.warns(UserWarning, match="float16") as caught:
        ours(torch.ones(4, 2, 3).half())
    assert caught[0].filename == __file__


def test_nothing_is_said_of_what_is_supported(said):
    ours = pyrnn.bridges.torch.RNN(3, 5)
    ours(torch.ones(4, 2, 3))
    with torch.no_grad(), torch.device("cpu"):
        ours(torch.ones(2, 3))
    assert not said


@pytest.mark.filterwarnings("ignore:pyrnn.bridges.torch.RNN leaves this")
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
def test_transforms(options):
    """Gradients of each sequence by vmap and grad, against a loop."""
    theirs, ours = pair(3, 5, dtype=torch.float64, **options)
    parameters = dict(ours.named_parameters())
    x = torch.randn(6, 4, 3, dtype=torch.float64)

    def loss(parameters, x):
        output, h_n = torch.func.functional_call(ours, parameters, (x,))
        return (output**2).sum() + h_n.sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(len(x)):
        output, h_n = theirs(x[i])
        expected = torch.autograd.grad((output**2).sum() + h_n.sum(), list(theirs.parameters()))
        for (name, gradients), gradient in zip(each.items(), expected, strict=True):
            torch.testing.assert_close(gradients[i], gradient, msg=name)
    stacked = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}  # an ensemble
    both = torch.func.vmap(loss, in_dims=(0, None))(stacked, x)
    alone = torch.stack([loss({name: p[i] for name, p in stacked.items()}, x) for i in range(2)])
    torch.testing.assert_close(both, alone)


def test_functional_call_is_ours():
    ours, other = pyrnn.bridges.torch.RNN(3, 5), pyrnn.bridges.torch.RNN(3, 5)
    x = torch.ones(4, 2, 3)
    output, _ = torch.func.functional_call(ours, dict(other.named_parameters()), (x,))
    assert output.grad_fn.name() == "_RNNFunctionBackward"
    assert torch.equal(output, other(x)[0])
    assert not torch.equal(output, ours(x)[0])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_batches_of_gradients(options):
    """torch.autograd.functional.jacobian(vectorize=True) gives the backward pass all rows at once."""
    theirs, ours = pair(3, 2, dtype=torch.float64, **options)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(lambda x: ours(x), x, vectorize=True)
    torch.testing.assert_close(J, torch.autograd.functional.jacobian(lambda x: theirs(x), x))


class Network(torch.nn.Module):
    def __init__(self, rnn, units=5):
        super().__init__()
        self.rnn, self.output = rnn, torch.nn.Linear(units, 1)

    def forward(self, x):
        return self.output(self.rnn(x)[0])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:.torch.jit:FutureWarning")
def test_script():
    _, ours = pair(3, 5)
    network = Network(ours)
    expected = network(torch.ones(4, 2, 3))
    with pytest.warns(UserWarning, match=r"because torch\.jit\.script compiles it"):
        scripted = torch.jit.script(network)
    torch.testing.assert_close(scripted(torch.ones(4, 2, 3)), expected)


def test_symbolic_trace():
    network = Network(pyrnn.bridges.torch.RNN(3, 5))
    graph = torch.fx.symbolic_trace(network)
    assert [n.target for n in graph.graph.nodes if n.op == "call_module"] == ["rnn", "output"]
    assert torch.equal(graph(torch.ones(4, 2, 3)), network(torch.ones(4, 2, 3)))


def backends():
    return ["eager", "aot_eager", *(["inductor"] if shutil.which("c++") or shutil.which("g++") else [])]


@pytest.fixture
def frames():
    """PyTorch's counts of the frames that it looked at; it forgets what was compiled before."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters["frames"]
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of the import of inductor
@pytest.mark.parametrize("backend", backends())
@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_compile(backend, kind, calls, frames, said, monkeypatch):
    """One opaque call: no frame of this package is traced, and none once more for another length."""
    traced = []
    watch = torch._dynamo.convert_frame.ConvertFrame.__call__

    def convert(self, frame, *args, **options):
        traced.append(frame.f_code.co_filename)
        return watch(self, frame, *args, **options)

    monkeypatch.setattr(torch._dynamo.convert_frame.ConvertFrame, "__call__", convert)
    torch.manual_seed(0)
    network = Packed() if kind == "packed" else Network(pyrnn.bridges.torch.RNN(3, 5, 2, bidirectional=True), 10)
    compiled = torch.compile(network, backend=backend)
    seen = []
    for T in (4, 6, 5, 9, 4):
        x = torch.randn(T, 2, 3, requires_grad=True)
        results = []
        for module in (compiled, network):
            del calls[:]
            output = module(x)
            gradients = torch.autograd.grad((output**2).sum(), [x, *network.parameters()])
            names = [name for name, _ in calls if name != "takes_sequences"]
            assert names == ["forward"] * 4 + ["backward"] * 4
            results.append((output, *gradients))
        torch.testing.assert_close(*results)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), network(x))
        seen.append((frames["total"], len(traced)))
    assert seen[2:] == seen[1:2] * 3  # the compiler looks once more where a size changes for the first time
    own = [name for name in traced if os.path.dirname(pyrnn.__file__) in name]
    assert set(own) <= {pyrnn.bridges.torch.__file__}
    assert len(own) <= 1  # its forward alone, in front of which the compiler stops
    assert not said


class Packed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = pyrnn.bridges.torch.RNN(3, 5, 2, bidirectional=True)

    def forward(self, x):
        packed = sequences.pack_padded_sequence(x * 2, torch.tensor([len(x), 2]))
        return self.rnn(packed)[0].data.sin()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's, with torch.nn.RNN too
def test_compiled_training_step(frames):
    """With the backward pass inside."""
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        network = Network(pyrnn.bridges.torch.RNN(3, 5))

        def step(x, network=network):
            loss = (network(x) ** 2).mean()
            loss.backward()
            return loss.detach()

        run = torch.compile(step, backend="eager") if compiled else step
        for T in (4, 6, 4):
            loss = run(torch.ones(T, 2, 3))
        losses.append((loss, *(p.grad for p in network.parameters())))
    torch.testing.assert_close(*losses)
    assert frames["total"] <= 12


def test_compiler_that_does_not_say_whether_it_looks(frames, monkeypatch):
    """Versions without get_eval_frame_callback."""
    monkeypatch.setattr(pyrnn.bridges.torch, "_compiler", functools.partial(sys.modules.get, "torch._dynamo"))
    network = Network(pyrnn.bridges.torch.RNN(3, 5))
    x = torch.ones(4, 2, 3)
    expected = network(x)
    torch.testing.assert_close(torch.compile(network, backend="eager")(x), expected)
    assert frames["total"] > 0


# ---- A module among others ------------------------------------------------------------------------------------------
def test_state_dict_goes_both_ways():
    theirs, ours = pair(3, 5, 2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    back = torch.nn.RNN(3, 5, 2, bidirectional=True)
    back.load_state_dict(ours.state_dict())
    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(back(x), theirs(x), rtol=0, atol=0)
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, torch.nn.RNN)


def test_the_same_seed_makes_the_same_weights():
    torch.manual_seed(0)
    theirs = torch.nn.RNN(3, 5, 2)
    torch.manual_seed(0)
    ours = pyrnn.bridges.torch.RNN(3, 5, 2)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def through_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_file])
def test_copies(copied):
    ours = pyrnn.bridges.torch.RNN(3, 5, 2, nonlinearity="relu", bidirectional=True)
    x = torch.ones(4, 2, 3)
    ours(x)[0].sum().backward()
    other = copied(ours)
    assert type(other) is pyrnn.bridges.torch.RNN
    assert torch.equal(other(x)[0], ours(x)[0])
    with torch.no_grad():
        other.weight_hh_l0.zero_()
    assert not torch.equal(other(x)[0], ours(x)[0])
    other.load_state_dict(ours.state_dict())
    other.flatten_parameters()
    assert torch.equal(other(x)[0], ours(x)[0])


def test_to_and_back():
    ours = pyrnn.bridges.torch.RNN(3, 5)
    x = torch.ones(4, 2, 3)
    expected = ours(x)[0]
    ours.double()
    assert ours(x.double())[0].dtype == torch.float64
    ours.to(torch.float32)
    torch.testing.assert_close(ours(x)[0], expected)


def test_weights_that_are_computed():
    from torch.nn.utils import parametrizations

    def results(module):
        torch.manual_seed(0)
        parametrizations.spectral_norm(module, "weight_hh_l0")
        output = module.eval()(torch.ones(4, 2, 3))[0]
        output.sum().backward()
        return output, [p.grad for p in module.parameters()]

    theirs, ours = pair(3, 5)
    actual = results(ours)
    assert actual[0].grad_fn.name() == "_RNNFunctionBackward"
    torch.testing.assert_close(actual, results(theirs))


def test_weights_that_are_assigned():
    theirs, ours = pair(3, 5)
    weight = torch.nn.Parameter(torch.eye(5))
    theirs.weight_hh_l0 = ours.weight_hh_l0 = weight
    torch.testing.assert_close(ours(torch.ones(4, 2, 3)), theirs(torch.ones(4, 2, 3)))
    theirs.weight_hh_l0.data = ours.weight_hh_l0.data = 0.5 * torch.eye(5)
    torch.testing.assert_close(ours(torch.ones(4, 2, 3)), theirs(torch.ones(4, 2, 3)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_nothing_is_copied(calls, batch_first):
    ours = pyrnn.bridges.torch.RNN(3, 5, batch_first=batch_first)
    x, h0 = torch.ones(4, 2, 3), torch.zeros(1, 4 if batch_first else 2, 5)
    output, _ = ours(x, h0)
    d_output = torch.ones_like(output)
    output.backward(d_output)
    seen = [call for _, (call,) in calls]
    assert len(seen) == 2
    for call in seen:
        for array, tensor in (
            (call.x, x), (call.U, ours.weight_ih_l0), (call.W, ours.weight_hh_l0), (call.h0, h0), (call.h, output),
        ):  # fmt: skip
            assert np.shares_memory(array, tensor.detach().numpy())
    assert np.shares_memory(seen[1].dh, d_output.numpy())


LAYOUTS = {
    "steps in the last axis": lambda *shape: torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2],
    "axes in another order": lambda *shape: torch.randn(shape[::-1]).permute(*range(len(shape))[::-1]),
    "the same for all sequences": lambda *shape: torch.randn(*shape[:-2], 1, shape[-1]).expand(shape),
    "the same number everywhere": lambda *shape: torch.randn(()).expand(shape),
    "part of a larger one": lambda *shape: torch.randn([n + 2 for n in shape])[tuple(slice(1, -1) for _ in shape)],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout):
    """Of x, h0 and every parameter."""
    results = []
    for module in pair(3, 5, 2, bidirectional=True):
        torch.manual_seed(0)
        for name, p in list(module.named_parameters()):
            setattr(module, name, torch.nn.Parameter(0.3 * layout(1, *p.shape)[0]))
        x, h0 = layout(4, 2, 3).requires_grad_(), layout(4, 2, 5).requires_grad_()
        output, h_n = module(x, h0)
        loss = (output**2).sum() + h_n.sum()
        results.append((output, h_n, *torch.autograd.grad(loss, [x, h0, *module.parameters()])))
    assert results[1][0].grad_fn.name() == "_RNNFunctionBackward"
    torch.testing.assert_close(*results)


ANY_LAYOUT = 300


def spread(a, rng):
    """The numbers of a tensor in other memory: another order of axes, gaps, one slice for all, or off alignment."""
    kind = rng.choice(["contiguous", "permuted", "sliced", "expanded", "overlapping", "unaligned"])
    if kind == "permuted" and a.ndim:
        order = [int(axis) for axis in rng.permutation(a.ndim)]
        return a.permute(order).contiguous().permute([order.index(axis) for axis in range(a.ndim)])
    if kind == "sliced" and a.ndim:
        steps, starts = rng.integers(1, 4, a.ndim), rng.integers(0, 3, a.ndim)
        whole = a.new_full([int(n * k + s) for n, k, s in zip(a.shape, steps, starts, strict=True)], np.nan)
        part = tuple(slice(int(s), int(s + n * k), int(k)) for n, k, s in zip(a.shape, steps, starts, strict=True))
        whole[part] = a
        return whole[part]
    if kind == "expanded" and a.numel():
        for axis in range(a.ndim):
            if rng.integers(2):
                a = a.narrow(axis, 0, 1).expand(a.shape)
        return a
    if kind == "overlapping" and a.numel() and a.ndim:  # windows of a series
        strides = [int(n) for n in rng.integers(0, 3, a.ndim)]
        series = torch.from_numpy(rng.standard_normal(1 + 2 * sum(a.shape))).to(a.dtype)
        return series.as_strided(a.shape, strides)
    if kind == "unaligned" and a.numel():
        memory = np.zeros(a.numel() * a.itemsize + 1, np.uint8)
        torch.frombuffer(memory, dtype=torch.uint8)[1:].copy_(a.contiguous().reshape(-1).view(torch.uint8))
        return torch.frombuffer(memory, dtype=a.dtype, offset=1).reshape(a.shape)
    return a.clone()


def draw_any_layout(seed):
    """A function of a module that returns what it computes from tensors of random layouts, and the two modules."""
    rng = np.random.default_rng(seed)
    options, kind, (T, B, I, H), given, which, _ = draw(seed)
    dtype = (torch.float64, torch.float32)[seed % 2]
    if kind in ("padded", "unbatched") and rng.random() < 0.15:
        B, I = int(rng.integers(2)) if kind == "padded" else B, 1
    torch.manual_seed(seed)
    theirs, ours = pair(I, H, dtype=dtype, **options)
    for name, p in list(theirs.named_parameters()):
        laid = spread(p.detach(), rng)
        needed = bool(rng.random() < 0.8)
        for module in (theirs, ours):
            setattr(module, name, torch.nn.Parameter(laid, requires_grad=needed))
    case = (options, kind, (T, B, I, H), given, which, rng)
    lengths = rng.integers(1, T + 1, B)
    if B:
        lengths[rng.integers(B)] = T
    batch = () if kind == "unbatched" else (B,)
    D = 2 if options["bidirectional"] else 1
    steps = (B, T) if options["batch_first"] and batch else (T, *batch)
    packed = kind in ("sorted", "unsorted", "even")
    lengths = -np.sort(-lengths) if kind == "sorted" else np.full(B, T) if kind == "even" else lengths

    def normal(*shape):
        return torch.from_numpy(rng.standard_normal(shape)).to(dtype)

    x = normal(*steps, I)
    sequence = None
    if packed:
        sequence = sequences.pack_padded_sequence(
            x, torch.from_numpy(lengths), options["batch_first"], enforce_sorted=kind == "sorted"
        )
        x = sequence.data
    x = spread(x, rng)
    hx = spread(normal(options["num_layers"] * D, *batch, H), rng) if given else None
    d_output = spread(normal(*x.shape[:-1], D * H), rng) if which != "h_n" else None
    d_h_n = spread(normal(options["num_layers"] * D, *batch, H), rng) if which != "output" else None
    needs = [bool(rng.random() < 0.75) for _ in range(2)]
    in_place, twice = rng.random() < 0.15, rng.random() < 0.2

    def compute(module):
        own = [None if a is None else a.detach().requires_grad_(need) for a, need in zip((x, hx), needs, strict=True)]
        output, h_n = module(own[0] if sequence is None else sequence._replace(data=own[0]), own[1])
        output = output.data if packed else output
        results = {"output": output, "h_n": h_n}
        wanted = {"x": own[0], "hx": own[1]} | dict(module.named_parameters())
        wanted = {name: a for name, a in wanted.items() if a is not None and a.requires_grad}
        if not wanted:
            return results
        if in_place:
            output.mul_(2)
            h_n[..., :1] = 0.5
        used = [(o, d) for o, d in ((output, d_output), (h_n, d_h_n)) if d is not None]
        gradients = torch.autograd.grad(
            [o for o, _ in used], list(wanted.values()), [d for _, d in used], create_graph=bool(twice)
        )
        results |= dict(zip(wanted, gradients, strict=True))
        norm = sum((g**2).sum() for g in gradients)
        if norm.requires_grad:
            second = torch.autograd.grad(norm, list(wanted.values()), allow_unused=True)
            results |= {f"{name}, twice": g for name, g in zip(wanted, second, strict=True)}
        return results

    return compute, theirs, ours, case


def check_any_layout(seed):
    compute, theirs, ours, _ = draw_any_layout(seed)
    expected, actual = compute(theirs), compute(ours)
    assert_same(actual, expected, TOLERANCE[next(theirs.parameters()).dtype])
    return actual


@for_each("seed", range(ANY_LAYOUT))
def test_any_layout_like_torch(seed, said):
    check_any_layout(seed)
    assert not said


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_gradient_of_states_with_axes_in_any_order(order, packed):
    results = []
    for module in pair(3, 5, 2, bidirectional=True, dtype=torch.float64):
        torch.manual_seed(0)
        x, hx = torch.randn(6, 4, 3, dtype=torch.float64), torch.randn(4, 4, 5, dtype=torch.float64)
        hx = hx.permute(order).contiguous().permute(*np.argsort(order).tolist()).requires_grad_()
        given = sequences.pack_padded_sequence(x, torch.tensor([6, 6, 4, 1])) if packed else x
        output, h_n = module(given, hx)
        loss = ((output.data if packed else output) ** 2).sum() + (h_n**3).sum()
        results.append(torch.autograd.grad(loss, hx)[0])
    torch.testing.assert_close(*results)


def test_one_parameter_in_two_places():
    results = []
    for module in pair(3, 5, bidirectional=True):
        module.weight_hh_l0_reverse = module.weight_hh_l0
        module(torch.ones(4, 2, 3))[0].sum().backward()
        results.append([p.grad for p in module.parameters()])
    assert len(results[1]) == 7
    torch.testing.assert_close(*results)


def test_another_default_device_and_dtype():
    ours = pyrnn.bridges.torch.RNN(3, 5, 2, dropout=0.5)
    before = torch.get_default_dtype()
    x = torch.ones(4, 2, 3)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            output, h_n = ours(x)
            output.sum().backward()
    finally:
        torch.set_default_dtype(before)
    for result in (output, h_n, *(p.grad for p in ours.parameters())):
        assert result.is_cpu
        assert result.dtype == torch.float32


@pytest.mark.parametrize("hooks", [torch.autograd.graph.save_on_cpu, torch.autograd.detect_anomaly])
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_hooks_of_autograd(hooks):
    results = []
    for module in pair(3, 5, 2):
        with hooks():
            module(torch.ones(4, 2, 3))[0].sum().backward()
        results.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(*results)


def test_hooks_of_the_module():
    ours = pyrnn.bridges.torch.RNN(3, 5)
    seen = []
    ours.register_forward_pre_hook(lambda module, arguments: seen.append("before"))
    ours.register_forward_hook(lambda module, arguments, results: seen.append("after"))
    ours.register_full_backward_hook(lambda module, below, above: seen.append("backward"))
    ours(torch.ones(4, 2, 3, requires_grad=True))[0].sum().backward()
    assert seen == ["before", "after", "backward"]


def test_torch_says_how_many_threads(calls, monkeypatch):
    ours = pyrnn.bridges.torch.RNN(3, 5)
    for n in (1, 2):
        torch.set_num_threads(n)
        ours(torch.ones(4, 2, 3))
    monkeypatch.setattr(pyrnn.bridges.torch, "_OWN_LIMIT", True)
    ours(torch.ones(4, 2, 3))
    assert [call.n_threads for _, (call,) in calls] == [1, 2, None]


def test_many_threads_at_once():
    ours = pyrnn.bridges.torch.RNN(16, 64, 2, bidirectional=True)
    xs = torch.randn(8, 30, 4, 16)
    expected = [torch.autograd.grad(ours(x)[0].sum(), list(ours.parameters())) for x in xs]
    actual = [None] * len(xs)

    def work(i):
        for _ in range(5):
            actual[i] = torch.autograd.grad(ours(xs[i])[0].sum(), list(ours.parameters()))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, e in zip(actual, expected, strict=True):
        assert all(map(torch.equal, a, e))


# ---- Processes ------------------------------------------------------------------------------------------------------
def train(whose, processes, meeting):
    """The losses that tests/torch_training.py prints."""
    script = Path(__file__).with_name("torch_training.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if Path("/sys/class/net/lo").exists():
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    workers = [
        subprocess.Popen(
            [sys.executable, "-P", str(script), whose, str(processes), str(rank), meeting.as_uri()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(processes)
    ]
    try:
        outputs = [worker.communicate(timeout=3600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * processes, outputs
    return np.array(json.loads(outputs[0][0]))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without it")
def test_two_processes(tmp_path):
    alone = train("ours", 1, tmp_path / "unused")
    together = train("ours", 2, tmp_path / "meeting")
    assert alone[-1] < 0.1 * alone[0]  # it learns
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(train("theirs", 1, tmp_path / "unused"), alone, rtol=0, atol=1e-6)


# ---- Without PyTorch ------------------------------------------------------------------------------------------------
def test_torch_is_missing():
    lines = [
        "import sys; sys.modules['torch'] = None",
        "import pyrnn",
        "try:",
        "    import pyrnn.bridges.torch",
        "except ImportError as error:",
        "    print(error)",
    ]
    process = subprocess.run(
        [sys.executable, "-P", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=3600, check=True
    )
    assert process.stdout.startswith("pyrnn.bridges.torch needs PyTorch")
