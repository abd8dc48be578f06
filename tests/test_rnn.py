"""pyrnn.RNN against torch.nn.RNN, finite differences, and what its arguments promise."""

import copy
import io
import itertools
import json
import pickle
import struct
import sys
import threading
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from helpers import allocated, assert_close, central_differences, for_each

import pyrnn
import pyrnn.bridges.keras
import pyrnn.bridges.onnx
import pyrnn.bridges.safetensors
import pyrnn.bridges.state_dict

pytestmark = pytest.mark.once

TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}


def rnn_and_x(T=5, B=3, I=4, H=6, *, seed=0, dtype=np.float64, **options):
    """An RNN with random biases and all, and an input."""
    rng = np.random.default_rng(seed)
    rnn = pyrnn.RNN(I, H, dtype=dtype, rng=rng, **options)
    steps = () if B is None else (B,)
    shape = (*steps, T, I) if options.get("batch_first") else (T, *steps, I)
    return rnn, rng.standard_normal(shape).astype(dtype)


def state_shape(rnn, B):
    return (rnn.num_layers * (1 + rnn.bidirectional), *(() if B is None else (B,)), rnn.hidden_size)


# ---- PyTorch --------------------------------------------------------------------------------------------------------
def torch_case(rnn, x, h0, lengths, dout, dh_n):
    """out, h_n, and the gradients of the parameters, of x and of h0, from torch.nn.RNN with the same parameters."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.RNN(
        rnn.input_size,
        rnn.hidden_size,
        rnn.num_layers,
        nonlinearity=rnn.nonlinearity,
        bias=rnn.bias,
        batch_first=rnn.batch_first,
        bidirectional=rnn.bidirectional,
        dtype=getattr(torch, rnn.dtype.name),
    )
    theirs.load_state_dict({name: torch.tensor(a) for name, a in rnn.state_dict().items()})
    x = torch.tensor(x, requires_grad=True)
    h0 = None if h0 is None else torch.tensor(h0, requires_grad=True)
    if lengths is None:
        out, h_n = theirs(x, h0)
    else:
        pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        packed = pack(x, torch.tensor(lengths), rnn.batch_first, enforce_sorted=False)
        out, h_n = theirs(packed, h0)
        steps = x.shape[1 if rnn.batch_first else 0]
        out, _ = pad(out, rnn.batch_first, total_length=steps)
    ((out * torch.tensor(dout)).sum() + (h_n * torch.tensor(dh_n)).sum()).backward()
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    gradients |= {"x": x.grad.numpy(), "h0": None if h0 is None else h0.grad.numpy()}
    return out.detach().numpy(), h_n.detach().numpy(), gradients


YES_NO = (False, True)
GRID = list(itertools.product(("tanh", "relu"), YES_NO, (1, 2, 3), YES_NO, YES_NO, YES_NO, YES_NO))


@pytest.mark.peer
@for_each(("nonlinearity", "bias", "num_layers", "bidirectional", "batch_first", "with_lengths", "with_h0"), GRID)
def test_parity_with_torch(dtype, nonlinearity, bias, num_layers, bidirectional, batch_first, with_lengths, with_h0):
    """384 cells of the grid, two random sizes each.

    Errors are relative to the largest entry. In float32 no array has a single one, a sum that may cancel to anything.
    """
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "batch_first": batch_first}
    options |= {"nonlinearity": nonlinearity, "bias": bias}
    fewest = 1 if dtype == np.float64 else 2
    for seed in range(2):
        choice = (nonlinearity == "relu", bias, num_layers, bidirectional, batch_first, with_lengths, with_h0)
        rng = np.random.default_rng([seed, *map(int, choice)])
        T, B, I, H = (int(n) for n in rng.integers((1, 1, fewest, fewest), (9, 7, 10, 14)))
        B = None if rng.random() < 0.15 and not with_lengths else B
        rnn, x = rnn_and_x(T, B, I, H, seed=rng, dtype=dtype, **options)
        draw = lambda shape, rng=rng: rng.standard_normal(shape).astype(dtype)
        lengths = rng.integers(1, T + 1, B) if with_lengths else None
        h0 = draw(state_shape(rnn, B)) if with_h0 else None
        dout, dh_n = draw((*x.shape[:-1], (1 + bidirectional) * H)), draw(state_shape(rnn, B))
        expected_out, expected_h_n, expected = torch_case(rnn, x, h0, lengths, dout, dh_n)
        out, h_n = rnn(x, h0, lengths)
        gradients = rnn.backward(dout, dh_n)
        tolerance = TOLERANCE[dtype]
        for a in (out, h_n, gradients.x, gradients.h0, rnn.gradients):
            assert a.dtype == dtype
        assert_close(out, expected_out, tolerance)
        assert_close(h_n, expected_h_n, tolerance)
        assert_close(gradients.x, expected["x"], tolerance)
        if with_h0:
            assert_close(gradients.h0, expected["h0"], tolerance)
        for name, a in rnn.named_gradients():
            assert_close(a, expected[name], tolerance)


@pytest.mark.peer
def test_names_shapes_and_order_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for options in ({}, {"bias": False, "num_layers": 3}, {"bidirectional": True, "num_layers": 2}):
        theirs, ours = torch.nn.RNN(3, 5, **options), pyrnn.RNN(3, 5, **options)
        shapes = {name: tuple(p.shape) for name, p in theirs.named_parameters()}
        assert list(shapes.items()) == [(name, a.shape) for name, a in ours.named_parameters()]
        assert repr(ours) == repr(theirs)
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})
        flat = torch.nn.utils.parameters_to_vector(theirs.parameters())
        np.testing.assert_array_equal(ours.parameters, flat.detach().numpy())
        ours.parameters = flat  # which requires a gradient
        ours.load_state_dict(dict(theirs.named_parameters()))


# ---- Zeros, and sizes of nothing ------------------------------------------------------------------------------------
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.3}, {"alpha": 0.3, "form": "current"}, {"output_size": 2}])
def test_each_sequence_as_alone(options, bidirectional):
    """With lengths of any size, 0 too, and NaN wherever nothing must be read."""
    rnn, x = rnn_and_x(T=6, B=5, num_layers=2, bidirectional=bidirectional, **options)
    lengths = [3, 0, 6, 1, 0]
    rng = np.random.default_rng(1)
    h0, dh_n = rng.standard_normal((2, *state_shape(rnn, 5)))
    N = 2 if rnn.output_size else (1 + bidirectional) * 6
    dout = rng.standard_normal((6, 5, N))
    for a in (x, dout):
        for i, n in enumerate(lengths):
            a[n:, i] = np.nan
    out, h_n = rnn(x, h0, lengths)
    gradients = rnn.backward(dout, dh_n)
    whole = rnn.gradients.copy()
    total = np.zeros_like(whole)
    for i, n in enumerate(lengths):
        alone_out, alone_h_n = rnn(x[:n, i], h0[:, i])
        alone = rnn.backward(dout[:n, i], dh_n[:, i])
        total += rnn.gradients
        assert_close(out[:n, i], alone_out, 1e-13)
        assert (out[n:, i] == 0).all()
        assert_close(h_n[:, i], alone_h_n, 1e-13)
        assert_close(gradients.x[:n, i], alone.x, 1e-13)
        assert (gradients.x[n:, i] == 0).all()
        assert_close(gradients.h0[:, i], alone.h0, 1e-13)
    assert_close(whole, total, 1e-13)


@pytest.mark.parametrize("T", [0, 1, 5])
@pytest.mark.parametrize("B", [None, 0, 1])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "options",
    [{}, {"output_size": 2}, {"alpha": 0.5}, {"alpha": 0.5, "form": "current", "output_size": 2}],
)
def test_sizes_of_nothing(T, B, batch_first, options):
    rnn, x = rnn_and_x(T, B, batch_first=batch_first, bidirectional=True, num_layers=2, **options)
    h0 = np.ones(state_shape(rnn, B))
    lengths = None if B is None else np.full(B, T)
    for more in ({}, {"lengths": lengths}):
        out, h_n = rnn(x, h0, **more)
        assert out.shape == (*x.shape[:-1], 2 if rnn.output_size else 12)
        gradients = rnn.backward(np.ones_like(out), dh_n=np.ones_like(h_n))
        assert gradients.x.shape == x.shape
        if T == 0:
            np.testing.assert_array_equal(h_n, h0)
            np.testing.assert_array_equal(gradients.h0, np.ones_like(h0))
        if T == 0 or B == 0:
            assert not rnn.gradients.any()
            loss, gradient = rnn.loss_and_gradients(x, np.zeros(x.shape[:-1], int), h0=h0, **more)
            assert loss == 0
            assert not gradient.any()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"output_size": 2}, {"alpha": 0.5, "form": "current"}])
def test_training_without_sequences(dtype, batch_first, options):
    rnn = pyrnn.RNN(3, 4, 2, batch_first=batch_first, dtype=dtype, **options)
    steps = (0, 5) if batch_first else (5, 0)
    loss, gradient = rnn.loss_and_gradients(np.zeros((*steps, 3), dtype), np.zeros(steps, int))
    assert loss == 0
    assert not gradient.any()


def test_inf_and_nan_pass_without_a_warning():
    rnn, x = rnn_and_x(num_layers=2, dropout=0.5, recurrent_dropout=0.5, alpha=0.5, form="current", nonlinearity="relu")
    x[0, 0, 0], x[0, 1, 0] = np.nan, np.inf
    out, h_n = rnn(x)
    rnn.backward(np.full_like(out, np.inf), h_n)
    assert np.isnan(rnn.gradients).any()


def test_a_sum_that_overflows_gives_no_warning():
    rnn, x = rnn_and_x(dtype=np.float32, alpha=0.5, nonlinearity="identity")
    rnn.parameters[:] = 0
    rnn.bias_ih_l0[:] = 1  # after one step, the gradient at each alpha is that of the state
    rnn(x[:1])
    assert rnn.backward(np.full((1, 3, 6), 1e38, np.float32)).alpha == np.inf


def test_any_layout(layout):
    rnn, x = rnn_and_x(num_layers=2, bidirectional=True, output_size=2)
    rng = np.random.default_rng(0)
    h0, dh_n = rng.standard_normal((2, *state_shape(rnn, 3)))
    dout = rng.standard_normal((5, 3, 2))
    for lengths in (None, np.array([5, 2, 3])):
        expected = (*rnn(x, h0, lengths), *rnn.backward(dout, dh_n)[:2], rnn.gradients.copy())
        lengths = None if lengths is None else layout(lengths)
        results = (*rnn(layout(x), layout(h0), lengths), *rnn.backward(layout(dout), layout(dh_n))[:2], rnn.gradients)
        for a, b in zip(results, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_bits_are_those_of_forward_and_backward(dtype):
    rnn, x = rnn_and_x(9, 14, 7, 33, dtype=dtype, bidirectional=True)
    out, _ = rnn(x)
    dout = np.cos(np.arange(out.size, dtype=dtype)).reshape(out.shape)
    gradients = rnn.backward(dout)
    total = 0
    for suffix, units in (("", slice(33)), ("_reverse", slice(33, None))):
        U, W = getattr(rnn, f"weight_ih_l0{suffix}"), getattr(rnn, f"weight_hh_l0{suffix}")
        b = getattr(rnn, f"bias_ih_l0{suffix}") + getattr(rnn, f"bias_hh_l0{suffix}")
        h = pyrnn.forward(x, U, W, b, reverse=suffix != "")
        np.testing.assert_array_equal(out[..., units], h)
        expected = pyrnn.backward(dout[..., units], h, x, U, W, reverse=suffix != "")
        np.testing.assert_array_equal(dict(rnn.named_gradients())[f"weight_hh_l0{suffix}"], expected.W)
        total = total + expected.x
    np.testing.assert_array_equal(gradients.x, total)


# ---- Derivatives of all forms ---------------------------------------------------------------------------------------
FORMS = [
    {"alpha": 0.3},
    {"alpha": np.array([0.1, 0.9, 1.0, 0.4])},
    {"alpha": 0.3, "form": "current"},
    {"alpha": np.array([0.1, 0.9, 1.0, 0.4]), "form": "current"},
    {"form": "current"},
    {"nonlinearity": "relu", "alpha": 0.3, "form": "current"},
    {"nonlinearity": "identity", "alpha": 0.3, "form": "current", "bidirectional": True},
    {"nonlinearity": "identity", "bias": False, "output_size": 2},
    {"bidirectional": True, "alpha": 0.3, "output_size": 2},
    {"dropout": 0.4},
    {"recurrent_dropout": 0.4, "bidirectional": True},
    {"recurrent_dropout": 0.4, "dropout": 0.3, "alpha": 0.3, "form": "current", "output_size": 3},
    {"recurrent_dropout": 0.4, "dropout": 0.3, "alpha": 0.3, "batch_first": True},
]


@pytest.mark.parametrize("with_lengths", [False, True])
@pytest.mark.parametrize("options", FORMS, ids=lambda options: "-".join(options))
def test_gradients_against_finite_differences(options, with_lengths):
    """Of every parameter, x, h0 and alpha; dropout the same in each evaluation."""
    T, B, H = 4, 3, 4
    rnn, x = rnn_and_x(T, B, 2, H, num_layers=2, **options)
    rng = np.random.default_rng(3)
    h0, dh_n = rng.standard_normal((2, *state_shape(rnn, B)))
    lengths = [2, 4, 0] if with_lengths else None
    dout = rng.standard_normal((*x.shape[:-1], rnn.output_size or (1 + rnn.bidirectional) * H))

    def loss(parameters, x, h0, alpha):
        other = rnn
        if not np.array_equal(alpha, rnn.alpha):
            other = pyrnn.RNN(2, H, 2, dtype=np.float64, **options | {"alpha": alpha})
        other.parameters, other.rng = parameters, 5
        out, h_n = other(x, h0, lengths)
        return (out * dout).sum() + (h_n * dh_n).sum()

    arguments = {"parameters": rnn.parameters.copy(), "x": x, "h0": h0, "alpha": np.asarray(rnn.alpha)}
    near, far = (central_differences(loss, arguments, step) for step in (1e-4, 2e-4))
    expected = {name: (4 * near[name] - far[name]) / 3 for name in near}  # an error of fourth order
    rnn.parameters, rnn.rng = arguments["parameters"], 5
    rnn(x, h0, lengths)
    gradients = rnn.backward(dout, dh_n)
    assert_close(rnn.gradients, expected["parameters"], 1e-8)
    assert_close(gradients.x, expected["x"], 1e-8)
    assert_close(gradients.h0, expected["h0"], 1e-8)
    if "alpha" in options:
        assert_close(np.asarray(gradients.alpha), expected["alpha"], 1e-8)
    elif "form" not in options:
        assert gradients.alpha is None
    again = rnn.backward(dout, dh_n)  # a second time, and added up
    np.testing.assert_array_equal(again.x, gradients.x)
    once = rnn.gradients.copy()
    rnn.backward(dout, dh_n, accumulate=True)
    assert_close(rnn.gradients, 2 * once, 1e-14)


def test_an_alpha_of_one_is_no_leak(dtype):
    (plain, x), (leaky, _) = (rnn_and_x(H=4, dtype=dtype, **options) for options in ({}, {"alpha": np.ones(4)}))
    np.testing.assert_array_equal(plain(x)[0], leaky(x)[0])
    assert plain.backward(x[..., :4]).alpha is None
    assert leaky.backward(x[..., :4]).alpha.shape == (4,)


def test_current_form_sends_rates_and_keeps_currents():
    """nn4n's and PsychRNN's cell: h <- (1 - alpha) h + alpha (W relu(h) + U x + b), out is relu(h)."""
    rnn, x = rnn_and_x(num_layers=1, nonlinearity="relu", alpha=0.2, form="current", output_size=2)
    h = np.zeros((3, 6))
    for t in range(5):
        sums = np.maximum(h, 0) @ rnn.weight_hh_l0.T + x[t] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + rnn.bias_hh_l0
        h = 0.8 * h + 0.2 * sums
    out, h_n = rnn(x)
    np.testing.assert_allclose(h_n[0], h, rtol=1e-13)
    np.testing.assert_allclose(out[-1], np.maximum(h, 0) @ rnn.weight_out.T + rnn.bias_out, rtol=1e-12)
    np.testing.assert_array_equal(rnn.layer_states[0][-1], h_n[0])
    np.testing.assert_array_equal(rnn.layer_rates[0][-1], np.maximum(h_n[0], 0))


# ---- Dropout --------------------------------------------------------------------------------------------------------
def test_dropout_between_layers(dtype):
    """What the second layer of an identity network shows is the first one's output, dropped."""
    rnn = pyrnn.RNN(1, 50, 2, nonlinearity="identity", dropout=0.3, bias=False, dtype=dtype, rng=0)
    rnn.parameters[:] = 0
    rnn.weight_ih_l0[:], rnn.weight_ih_l1[:] = 1, np.eye(50)
    x = np.ones((40, 30, 1), dtype)
    out, _ = rnn(x)
    kept = out != 0
    np.testing.assert_allclose(out[kept], 1 / 0.7, rtol=1e-6)
    n = kept.size
    assert abs(kept.mean() - 0.7) < 5 * (0.21 / n) ** 0.5
    for axis in range(3):  # no step, sequence or unit is like its neighbour
        a = np.moveaxis(kept, axis, 0)
        assert abs((a[1:] == a[:-1]).mean() - 0.58) < 0.02
    assert not np.array_equal(out, rnn(x)[0])
    assert (rnn.layer_states[0] == 1).all()
    rnn.eval()
    assert not rnn.training
    assert (rnn(x)[0] == 1).all()
    assert rnn.train() is rnn
    rnn.rng = 7
    first = rnn(x)[0]
    rnn.rng = np.random.default_rng(7)
    np.testing.assert_array_equal(rnn(x)[0], first)
    rnn.dropout = 1
    assert (rnn(x)[0] == 0).all()
    rnn.dropout = 0
    assert (rnn(x)[0] == 1).all()


def test_recurrent_dropout_is_one_mask_for_all_steps(dtype):
    """In a network that only repeats its state, h_t is the mask to the power of t."""
    H, B, T = 60, 50, 4
    rnn = pyrnn.RNN(1, H, nonlinearity="identity", recurrent_dropout=0.25, bidirectional=True, dtype=dtype, rng=0)
    rnn.parameters[:] = 0
    rnn.weight_hh_l0[:] = rnn.weight_hh_l0_reverse[:] = np.eye(H)
    x, h0 = np.zeros((T, B, 1), dtype), np.ones((2, B, H), dtype)
    out, _ = rnn(x, h0)
    masks = np.stack([out[0, :, :H], out[-1, :, H:]])
    assert set(np.unique(masks != 0)) == {False, True}
    np.testing.assert_allclose(masks[masks != 0], 1 / 0.75, rtol=1e-6)
    for t in range(T):
        np.testing.assert_allclose(out[t, :, :H], masks[0] ** (t + 1), rtol=1e-5)
        np.testing.assert_allclose(out[T - 1 - t, :, H:], masks[1] ** (t + 1), rtol=1e-5)
    kept = masks != 0
    assert abs(kept.mean() - 0.75) < 5 * (0.1875 / kept.size) ** 0.5
    for axis in range(3):
        a = np.moveaxis(kept, axis, 0)
        assert abs((a[1:] == a[:-1]).mean() - 0.625) < 0.04
    rnn.eval()
    np.testing.assert_array_equal(rnn(x, h0)[1], h0)


def test_recurrent_dropout_does_not_touch_the_leak():
    rnn = pyrnn.RNN(1, 8, alpha=0.25, recurrent_dropout=1.0, dtype=np.float64, rng=0)
    out, _ = rnn(np.zeros((3, 1)), np.ones((1, 8)))
    sums = np.tanh(rnn.bias_ih_l0 + rnn.bias_hh_l0)
    np.testing.assert_allclose(out[0], 0.75 + 0.25 * sums, rtol=1e-14)


# ---- Parameters -----------------------------------------------------------------------------------------------------
def test_parameters_start_as_in_torch():
    rnn = pyrnn.RNN(30, 400, 2, bidirectional=True, output_size=50, rng=0)
    for name, a in rnn.named_parameters():
        bound = 1 / (800 if name.endswith("_out") else 400) ** 0.5
        assert np.abs(a).max() <= bound
        assert np.abs(a).max() > 0.9 * bound
        assert abs(a.mean()) < 5 * bound / (3 * a.size) ** 0.5
        assert abs(a.std() / bound - 3**-0.5) < 2 / a.size**0.5
    again = pyrnn.RNN(30, 400, 2, bidirectional=True, output_size=50, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again.parameters, rnn.parameters)


def test_one_vector_and_its_views():
    rnn = pyrnn.RNN(3, 5, 2, output_size=2, rng=0)
    vector = rnn.parameters
    assert vector.ndim == 1
    assert vector.size == sum(a.size for a in rnn.state_dict().values())
    vector[:] = np.arange(vector.size)
    np.testing.assert_array_equal(rnn.weight_ih_l0, np.arange(15).reshape(5, 3))
    assert rnn.bias_out[-1] == vector.size - 1
    np.testing.assert_array_equal(np.concatenate([a.ravel() for _, a in rnn.named_parameters()]), vector)
    rnn.weight_hh_l1 = np.eye(5)  # copies in
    assert np.shares_memory(rnn.weight_hh_l1, vector)
    rnn.weight_hh_l1 *= 2
    rnn.parameters -= 1
    assert rnn.parameters is vector
    np.testing.assert_array_equal(rnn.weight_hh_l1, 2 * np.eye(5) - 1)
    values = np.random.default_rng(0).standard_normal(vector.size)
    rnn.parameters = values
    assert rnn.parameters is vector
    np.testing.assert_array_equal(vector, values.astype(np.float32))
    copies = rnn.state_dict()
    copies["weight_ih_l0"][:] = 9
    np.testing.assert_array_equal(vector, values.astype(np.float32))
    rnn.gradients[:] = 1
    rnn.gradients *= 3
    assert all((a == 3).all() for _, a in rnn.named_gradients())
    assert "weight_hh_l1" in dir(rnn)
    assert not hasattr(rnn, "weight_hh_l2")


def test_load_state_dict(dtype):
    rnn, other = (pyrnn.RNN(3, 5, output_size=2, dtype=dtype, rng=seed) for seed in (0, 1))
    state = other.state_dict()
    rnn.load_state_dict(state)
    np.testing.assert_array_equal(rnn.parameters, other.parameters)
    before = rnn.parameters.copy()
    bad = {name: a + 1 for name, a in state.items() if name != "bias_out"}
    bad |= {"weight_hh_l0": np.ones((5, 4)), "weight_ih_l1": np.ones((5, 5)), "bias_ih_l0": np.ones(6)}
    with pytest.raises(
        ValueError, match="missing: bias_out; unexpected: weight_ih_l1; weight_hh_l0 must have shape"
    ) as e:
        rnn.load_state_dict(bad)
    assert "bias_ih_l0 must have shape (5,), got (6,)" in str(e.value)
    with pytest.raises(ValueError, match="weight_hh_l0 must have shape"):
        rnn.load_state_dict(bad, strict=False)
    for wrong, error in (
        (None, TypeError),
        ([1.0], TypeError),
        ({}, ValueError),
        (state | {"bias_out": "text"}, TypeError),
        (state | {"bias_out": np.ones(2, complex)}, TypeError),
        (state | {"bias_out": None}, TypeError),
        (state | {"bias_out": [[1], [2, 3]]}, ValueError),
        (state | {5: np.ones(2)}, ValueError),
    ):
        with pytest.raises(error, match=r"state_dict|bias_out"):
            rnn.load_state_dict(wrong)
    with pytest.raises(TypeError, match="strict must be True or False"):
        rnn.load_state_dict(state, strict=None)
    np.testing.assert_array_equal(rnn.parameters, before)
    swapped = {"bias_ih_l0": rnn.bias_hh_l0, "bias_hh_l0": rnn.bias_ih_l0, "weight_hh_l0": rnn.weight_hh_l0.T}
    expected = {name: a.copy() for name, a in swapped.items()}
    rnn.load_state_dict(swapped, strict=False)  # its own views
    for name, a in expected.items():
        np.testing.assert_array_equal(getattr(rnn, name), a)
    rnn.load_state_dict({"bias_out": np.array([7, 8]), "other": "x"}, strict=False)
    np.testing.assert_array_equal(rnn.bias_out, [7, 8])


# ---- Training -------------------------------------------------------------------------------------------------------
@pytest.mark.peer
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"])
@pytest.mark.parametrize("output_size", [None, 3])
@pytest.mark.parametrize("with_weights", [False, True, "by output"])
def test_loss_and_gradients_against_torch(dtype, batch_first, loss, output_size, with_weights):
    torch = pytest.importorskip("torch")
    rnn, x = rnn_and_x(
        6, 4, bidirectional=True, num_layers=2, batch_first=batch_first, output_size=output_size, dtype=dtype
    )
    rng = np.random.default_rng(2)
    lengths, h0 = np.array([6, 1, 0, 4]), rng.standard_normal(state_shape(rnn, 4)).astype(dtype)
    steps, O = x.shape[:-1], output_size or 12
    exists = np.arange(6)[:, None] < lengths
    exists = exists.T if batch_first else exists
    by_output = with_weights == "by output" and loss != "softmax_cross_entropy"
    weights = rng.uniform(0.5, 2, (*steps, O) if by_output else steps) if with_weights else None
    if loss != "softmax_cross_entropy":
        targets = rng.standard_normal((*steps, O))
        targets = {"binary_cross_entropy": targets > 0, "poisson": abs(targets)}.get(loss, targets).astype(float)
        targets[~exists] = np.nan
    else:
        targets = rng.integers(0, O, steps)
        targets[~exists] = -100
    if with_weights:
        weights[~exists] = np.nan
    value, gradient = rnn.loss_and_gradients(x, targets, loss=loss, h0=h0, lengths=lengths, weights=weights)

    theirs = torch.nn.RNN(4, 6, 2, bidirectional=True, dtype=torch.float64)
    layer = torch.nn.Linear(12, O, dtype=torch.float64) if output_size else torch.nn.Identity()
    state = {name: torch.tensor(a).double() for name, a in rnn.state_dict().items()}
    theirs.load_state_dict({name: a for name, a in state.items() if not name.endswith("_out")})
    if output_size:
        layer.load_state_dict({"weight": state["weight_out"], "bias": state["bias_out"]})
    total = 0
    for i, n in enumerate(lengths):
        if n > 0:
            part = (i, slice(n)) if batch_first else (slice(n), i)
            o = layer(theirs(torch.tensor(x[part]).double(), torch.tensor(h0[:, i]).double())[0])
            y = torch.tensor(targets[part])
            each = {
                "softmax_cross_entropy": lambda o, y: torch.nn.functional.cross_entropy(o, y, reduction="none")[
                    :, None
                ],
                "squared_error": lambda o, y: (o - y) ** 2,
                "binary_cross_entropy": torch.nn.BCEWithLogitsLoss(reduction="none"),
                "poisson": torch.nn.PoissonNLLLoss(reduction="none"),
                "huber": torch.nn.HuberLoss(reduction="none"),
            }[loss](o, y)
            total = total + (each * (1 if weights is None else torch.tensor(weights[part]).reshape(n, -1))).sum()
    total.backward()
    grads = [p.grad.numpy().ravel() for p in (*theirs.parameters(), *layer.parameters())]
    assert value == pytest.approx(float(total.detach()), rel=1e-12 if dtype == np.float64 else 2e-6)
    assert gradient.dtype == dtype
    assert_close(gradient, np.concatenate(grads), TOLERANCE[dtype])
    np.testing.assert_array_equal(gradient, rnn.gradients)
    assert not np.shares_memory(gradient, rnn.gradients)
    kept = gradient.copy()
    assert rnn.loss_and_gradients(2 * x, targets, loss=loss, lengths=lengths, out=rnn.gradients)[1] is rnn.gradients
    np.testing.assert_array_equal(gradient, kept)
    other = np.empty_like(kept)
    assert rnn.loss_and_gradients(2 * x, targets, loss=loss, lengths=lengths, out=other)[1] is other
    np.testing.assert_array_equal(other, rnn.gradients)


@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS", "CG"])
def test_scipy_drives_it(method):
    """BFGS takes the difference of two gradients, which one array for both would make 0."""
    from scipy.optimize import minimize

    rnn, _ = rnn_and_x(I=1, H=5, output_size=1)
    x = np.sin(np.arange(60.0))[:, np.newaxis]

    def objective(vector):
        rnn.parameters = vector
        return rnn.loss_and_gradients(x[:-1], x[1:], loss="squared_error")

    start = objective(rnn.parameters.copy())[0]
    result = minimize(objective, rnn.parameters, jac=True, method=method, options={"maxiter": 60})
    assert result.fun < 0.02 * start


def test_results_belong_to_the_caller():
    """A later call changes neither results nor layer states."""
    rnn, x = rnn_and_x(num_layers=2)
    out, h_n = rnn(x)
    gradients = rnn.backward(out, h_n)
    states = rnn.layer_states
    arrays = (out, h_n, *gradients[:2], *states)
    before = [a.copy() for a in arrays]
    rnn(3 * x)
    rnn.backward(3 * x[..., :1] + np.zeros(6))
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    out, _ = rnn(x)
    expected = rnn.backward(out).x
    dout = out.copy()
    out[:] = 0  # nor does the caller's change of a result change the gradient
    np.testing.assert_array_equal(rnn.backward(dout).x, expected)


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"alpha": 0.5, "output_size": 2}])
@pytest.mark.parametrize("B", [3, None])
def test_out(options, B):
    rnn, x = rnn_and_x(B=B, num_layers=2, bidirectional=True, **options)
    expected = rnn(x)
    gradients = rnn.backward(expected[0], expected[1])
    targets = tuple(np.full_like(a, np.nan) for a in expected)
    results = rnn(x, out=targets)
    assert all(a is b for a, b in zip(results, targets, strict=True))
    dx, dh0 = np.empty_like(x), np.empty_like(expected[1])
    g = rnn.backward(*results, out=(dx, dh0))
    assert g.x is dx
    assert g.h0 is dh0
    for a, b in zip((*results, dx, dh0), (*expected, *gradients[:2]), strict=True):
        np.testing.assert_array_equal(a, b)
    other = np.empty(expected[0].shape[::-1]).T
    assert rnn(x, out=(other, None))[0] is other
    np.testing.assert_array_equal(other, expected[0])


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}, {"alpha": 0.5}, {"recurrent_dropout": 0.5}],
)
@pytest.mark.parametrize("B", [3, None])
def test_without_the_gradient_of_x(options, B):
    rnn, x = rnn_and_x(B=B, **options)
    out, h_n = rnn(x)
    expected = rnn.backward(out, h_n)
    gradients = rnn.gradients.copy()
    dh0 = np.empty_like(h_n)
    found = rnn.backward(out, h_n, x_gradient=False, out=(None, dh0))
    assert found.x is None
    assert found.h0 is dh0
    for a, b in zip((rnn.gradients, *found[1:]), (gradients, *expected[1:]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert rnn.backward(out, x_gradient=False).x is None


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("B", [3, None])
def test_layer_states(batch_first, B):
    rnn, x = rnn_and_x(B=B, num_layers=2, bidirectional=True, batch_first=batch_first)
    with pytest.raises(RuntimeError, match="call the RNN first"):
        _ = rnn.layer_states
    out, h_n = rnn(x)
    states = rnn.layer_states
    assert len(states) == 4
    np.testing.assert_array_equal(np.concatenate(states[2:], axis=-1), out)
    for i, a in enumerate(states):
        assert a.shape == (*x.shape[:-1], 6)
        last = 0 if i % 2 else -1
        np.testing.assert_array_equal(a[:, last] if batch_first and B else a[last], h_n[i])
    for a, b in zip(rnn.layer_rates, states, strict=True):
        np.testing.assert_array_equal(a, b)
    # the upper layer on what the lower one sends
    upper = pyrnn.RNN(12, 6, bidirectional=True, batch_first=batch_first, dtype=np.float64)
    upper.load_state_dict({n.replace("l1", "l0"): a for n, a in rnn.state_dict().items() if "l1" in n})
    np.testing.assert_array_equal(upper(np.concatenate(states[:2], axis=-1))[0], out)


def test_backward_needs_a_call_with_these_parameters():
    rnn, x = rnn_and_x()
    dout = np.ones((5, 3, 6))
    with pytest.raises(RuntimeError, match="call the RNN first"):
        rnn.backward(dout)
    for change in (
        lambda: setattr(rnn, "parameters", rnn.parameters + 1),
        lambda: setattr(rnn, "weight_hh_l0", np.eye(6)),
        lambda: rnn.load_state_dict(rnn.state_dict()),
        lambda: rnn.__setattr__("parameters", rnn.parameters),  # as of rnn.parameters -= ...
    ):
        rnn(x)
        rnn.backward(dout)
        change()
        gradients = rnn.gradients.copy()
        with pytest.raises(RuntimeError, match="parameters were changed since the last call"):
            rnn.backward(dout)
        np.testing.assert_array_equal(rnn.gradients, gradients)
    rnn(x)
    with pytest.raises(ValueError, match="x must have shape"):
        rnn(x[..., 1:])
    rnn.backward(dout)  # a call that was refused changed nothing


# ---- Memory ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}, {"alpha": 0.5}])
def test_a_call_allocates_nothing_after_the_first(monkeypatch, options):
    """In the fused engine; the other one keeps a chunk where rows of states do not lie one after the other."""
    monkeypatch.setattr("pyrnn._engines.automatic", lambda: "fused")
    rnn, x = rnn_and_x(30, 64, 32, 128, dtype=np.float32, **options)  # where B H numbers take 32 KB
    out = tuple(np.empty_like(a) for a in rnn(x))
    _, most = allocated(lambda: rnn(x, out=out))
    assert most < 8192  # the sum of all small objects


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}, {"alpha": 0.5}])
def test_training_keeps_nothing_more_after_the_first_step(options):
    rnn, x = rnn_and_x(50, 16, 32, 64, dtype=np.float32, output_size=3, **options)
    targets = np.zeros(x.shape[:2], int)

    def steps(count=1):
        for _ in range(count):
            rnn.loss_and_gradients(x, targets, out=rnn.gradients)
            rnn.loss_and_gradients(x[:20], targets[:20], out=rnn.gradients)

    steps()
    kept, _ = allocated(lambda: steps(3))
    assert kept < 4096


# ---- Copies and files -----------------------------------------------------------------------------------------------
EVERYTHING = {
    "num_layers": 2,
    "nonlinearity": "relu",
    "bias": False,
    "batch_first": True,
    "bidirectional": True,
    "dropout": 0.25,
    "recurrent_dropout": 0.125,
    "alpha": np.linspace(0.1, 1, 6),
    "form": "current",
    "output_size": 2,
}


def assert_same(a, b):
    assert type(a) is type(b)
    assert repr(a) == repr(b)
    assert a.state_dict().keys() == b.state_dict().keys()
    np.testing.assert_array_equal(a.parameters, b.parameters)
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.alpha, b.alpha)


@pytest.mark.peer
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_save_and_load(tmp_path, dtype, options, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    rnn, x = rnn_and_x(dtype=dtype, **options)
    for path in (tmp_path / f"rnn{suffix}", str(tmp_path / f"other{suffix}")):
        rnn.save(path)
        loaded = pyrnn.RNN.load(path, rng=1)
        assert_same(rnn, loaded)
        np.testing.assert_array_equal(rnn.eval()(x)[0], loaded.eval()(x)[0])
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            assert set(file.files) == {*rnn.state_dict(), "pyrnn.RNN"}
            assert json.loads(str(file["pyrnn.RNN"]))["hidden_size"] == 6
    else:
        from safetensors.numpy import load_file

        assert load_file(path).keys() == rnn.state_dict().keys()


def test_files_that_are_none(tmp_path):
    rnn, _ = rnn_and_x()
    for path in ("rnn", "rnn.npy", "rnn.pt", "rnn.NPZ"):
        for call in (rnn.save, pyrnn.RNN.load):
            with pytest.raises(ValueError, match=r"path must end in \.npz or \.safetensors, got"):
                call(tmp_path / path)
    with pytest.raises(TypeError):
        rnn.save(None)
    assert not list(tmp_path.iterdir())
    path = tmp_path / "rnn.npz"
    with pytest.raises(FileNotFoundError):
        pyrnn.RNN.load(path)
    state, key = rnn.state_dict(), "pyrnn.RNN"
    arguments = {"input_size": 4, "hidden_size": 6, "dtype": "float64"}
    for contents, message in (
        (state, "has no arguments of pyrnn.RNN, only arrays: weight_ih_l0, weight_hh_l0"),
        (state | {key: "{"}, "that are not JSON"),
        (state | {key: "[1]"}, "must have arguments of pyrnn.RNN by name"),
        (state | {key: json.dumps({"input_size": 4})}, "does not take: .*hidden_size"),
        (state | {key: json.dumps(arguments | {"layers": 3})}, "does not take: .*layers"),
        (state | {key: json.dumps(arguments | {"hidden_size": 7})}, "weight_ih_l0 must have shape"),
        ({key: json.dumps(arguments)}, "missing: weight_ih_l0"),
    ):
        np.savez(path, **contents)
        with pytest.raises(ValueError, match=message):
            pyrnn.RNN.load(path)
    np.savez(path, **state | {"weight_ih_l0": np.array([None]), key: json.dumps(arguments)})  # a pickle inside
    with pytest.raises(ValueError, match="pickle"):
        pyrnn.RNN.load(path)
    for contents in (b"", b"text", pickle.dumps(rnn)):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=r"rnn\.npz must be a whole \.npz file: File is not a zip file"):
            pyrnn.RNN.load(path)
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(ValueError, match=r"rnn\.npz must be an \.npz file, got one array"):
        pyrnn.RNN.load(path)


def member(path, name="weight_ih_l0", header=None, data=b"", version=(1, 0), **options):
    """Write a .npz file with this array and the arguments of a small RNN; header: of the array, as text or bytes."""
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }" if header is None else header
    header = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H" if version[0] == 1 else "<I", options.pop("length", len(header)))
    arguments = io.BytesIO()
    np.save(arguments, np.array(json.dumps({"input_size": 1, "hidden_size": 2} | options.pop("arguments", {}))))
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY" + bytes(version) + length + header + data)
        archive.writestr("pyrnn.RNN.npy", arguments.getvalue())


def shaped(shape, descr="<f4"):
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


DAMAGED_MEMBERS = {
    "objects": ({"header": shaped("(2, 1)", "|O"), "data": pickle.dumps(None)}, "weight_ih_l0.* Python objects"),
    "text": ({"header": shaped("(2, 1)", "<U2"), "data": b"1234" * 4}, "weight_ih_l0.* real numbers"),
    "complex": ({"header": shaped("(2, 1)", "<c8"), "data": b"12345678" * 2}, "weight_ih_l0.* real numbers"),
    "long double": ({"header": shaped("(2, 1)", "<f16"), "data": b"12345678" * 4}, "weight_ih_l0.* real numbers"),
    "fields": ({"header": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"}, "header"),
    "call": ({"header": "{'descr': '<f4', 'fortran_order': False, 'shape': (exit(),), }"}, "header"),
    "nested": ({"header": "(" * 9000}, "header"),
    "spaces": ({"header": "{" + " " * 9000}, "header"),
    "a string that is not closed": ({"header": "{'descr': '<f4"}, "header"),  # a TokenError in NumPy
    "no header": ({"header": ""}, "version 1 or 2"),
    "bytes": ({"header": bytes(range(128, 256))}, "header"),
    "huge": ({"header": shaped("(20000, 20000)"), "data": b"1234" * 2}, "declares 1600000000 bytes"),
    "beyond int64": ({"header": shaped(f"({2**62}, {2**62})"), "data": b"1234"}, "declares"),
    "a long number": ({"header": shaped(f"({'9' * 9000},)"), "data": b"1234"}, "npz"),
    "nothing, hugely": ({"header": shaped(f"(0, {2**62}, {2**62})")}, "npz"),
    "many dimensions": ({"header": shaped(f"({'1, ' * 100})"), "data": b"1234"}, "100 dimensions"),
    "fewer numbers": ({"header": shaped("(2, 1)"), "data": b"1234567"}, "declares 8 bytes.* holds 7"),
    "more numbers": ({"header": shaped("(2, 1)"), "data": b"123456789"}, "declares 8 bytes.* holds 9"),
    "a long header": ({"length": 60000}, "header of 60000 bytes"),
    "a longer header": ({"version": (2, 0), "length": 2**32 - 1}, "header of 4294967295 bytes"),
    "version 3": ({"version": (3, 0)}, "version 1 or 2"),
    "bzip2": ({"compression": zipfile.ZIP_BZIP2}, "compressed by method 12"),
    "twice": ({"name": "pyrnn.RNN"}, "two arrays have one name"),
}


@pytest.mark.parametrize("case", DAMAGED_MEMBERS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_npz(tmp_path, case):
    options, message = DAMAGED_MEMBERS[case]
    member(tmp_path / "rnn.npz", **options)
    with pytest.raises(ValueError, match=f"rnn.npz must .*{message}"):
        pyrnn.RNN.load(tmp_path / "rnn.npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_flipped_npz(tmp_path, compressed):
    """Whatever stands in the file, the error is a ValueError that names it, and no pickle is mentioned as advice."""
    rnn, _ = rnn_and_x(num_layers=2)
    path, rng, errors = tmp_path / "rnn.npz", np.random.default_rng(0), []
    rnn.save(path)
    if compressed:
        with np.load(path) as file:
            np.savez_compressed(path, **dict(file))
    content = path.read_bytes()
    assert_same(rnn, pyrnn.RNN.load(path))
    for i in range(600):
        damaged = bytearray(content)
        for at in rng.integers(len(content), size=rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged if i % 3 else content[: rng.integers(len(content))])
        try:
            pyrnn.RNN.load(path)
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 300
    assert all(str(path) in error and "allow_pickle" not in error for error in errors)


def test_npz_of_other_writers(tmp_path):
    """Compressed, of another byte order, transposed in memory, of version 2."""
    rnn, _ = rnn_and_x()
    rnn.save(tmp_path / "rnn.npz")
    with np.load(tmp_path / "rnn.npz") as file:
        arrays = dict(file)
    for change in (lambda a: a.astype(a.dtype.newbyteorder()), np.asfortranarray):
        np.savez_compressed(tmp_path / "rnn.npz", **{name: change(a) for name, a in arrays.items()})
        assert_same(rnn, pyrnn.RNN.load(tmp_path / "rnn.npz"))
    double = pyrnn.RNN(1, 2, dtype=np.float64)
    state = {name: a.astype(np.float32) for name, a in double.named_parameters()}
    state["bias_ih_l0"].view(np.uint32)[0] = 0x7F800001  # a NaN that signals where it is converted
    np.savez(tmp_path / "single.npz", **state, **{"pyrnn.RNN": json.dumps(double._arguments())})
    np.testing.assert_array_equal(pyrnn.RNN.load(tmp_path / "single.npz").bias_ih_l0, state["bias_ih_l0"])
    single = pyrnn.RNN(1, 2)
    wide = {name: a.astype(np.float64) for name, a in single.named_parameters()}
    np.savez(tmp_path / "single.npz", **wide, **{"pyrnn.RNN": json.dumps(single._arguments())})
    with pytest.raises(ValueError, match=r"single\.npz declares numbers of float32, got weight_ih_l0 of float64"):
        pyrnn.RNN.load(tmp_path / "single.npz")
    with zipfile.ZipFile(tmp_path / "rnn.npz", "w") as archive:
        for name, a in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, a, version=(2, 0))
    assert_same(rnn, pyrnn.RNN.load(tmp_path / "rnn.npz"))


@pytest.mark.peer
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"hidden_size": 20_000}, "weight_ih_l0 must have shape"),
        ({"hidden_size": 10**30}, "hidden_size must be a positive integer, got 10000"),
        ({"input_size": 10**9}, "weight_ih_l0 must have shape"),
        ({"num_layers": 10**6}, "arrays of 1000000 layers, got 4"),
        ({"output_size": 10**9}, "missing: weight_out, bias_out"),
        ({"hidden_size": 2.0}, "hidden_size must be a positive integer, got 2.0"),
        ({"bias": 3}, "bias must be True or False, got 3"),
        ({"dtype": ["f4"]}, "dtype"),
        ({"alpha": "x" * 10**5}, "alpha"),
        ({"nonlinearity": ["tanh"]}, "nonlinearity"),
    ],
)
def test_nothing_is_built_that_the_file_does_not_hold(tmp_path, suffix, declared, message):
    rnn = pyrnn.RNN(1, 2)
    path = tmp_path / f"rnn{suffix}"
    if suffix == ".npz":
        np.savez(path, **rnn.state_dict(), **{"pyrnn.RNN": json.dumps(rnn._arguments() | declared)})
    else:
        save_file = pytest.importorskip("safetensors.numpy").save_file
        save_file(rnn.state_dict(), path, metadata={"pyrnn.RNN": json.dumps(rnn._arguments() | declared)})
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as caught:
            pyrnn.RNN.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_npz_bombs(tmp_path):
    """Zeros that compress a thousandfold, in one member and in many; false sizes in the directory; overlaps."""
    path, zeros = tmp_path / "rnn.npz", bytes(2**25)
    member(path, header=shaped(f"({2**23},)"), data=zeros, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    bomb = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "many.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(32):
            archive.writestr(f"{i}.npy", zeros[: 2**20])
    wide = pyrnn.RNN(1, 1000, dtype=np.float64)
    state = {name: np.zeros(a.shape, np.int8) for name, a in wide.named_parameters()}
    np.savez_compressed(tmp_path / "wide.npz", **state, **{"pyrnn.RNN": json.dumps(wide._arguments())})
    with pytest.raises(ValueError, match=r"wide\.npz: its .* would become .* of float64"):
        pyrnn.RNN.load(tmp_path / "wide.npz")
    at = bomb.index(b"PK\x01\x02")  # of the first member in the directory
    cases = {"bomb": bomb, "many": (tmp_path / "many.npz").read_bytes()}
    for name, size in (("small", 100), ("smaller than the header", 1), ("huge", 2**32 - 2)):
        cases[name] = bomb[: at + 24] + struct.pack("<I", size) + bomb[at + 28 :]
    stored = io.BytesIO()
    member(stored, data=b"12345678")
    stored = stored.getvalue()
    at = stored.index(b"PK\x01\x02")
    cases["stored"] = stored[: at + 20] + struct.pack("<II", 2**31, 2**31) + stored[at + 28 :]
    for content in cases.values():
        path.write_bytes(content)
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"rnn\.npz must be a whole \.npz file"):
                pyrnn.RNN.load(path)
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()


@pytest.mark.peer
def test_safetensors_files_that_are_none(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.numpy")
    rnn, _ = rnn_and_x()
    path = tmp_path / "rnn.safetensors"
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"must be a whole \.safetensors file"):
        pyrnn.RNN.load(path)
    safetensors.save_file(rnn.state_dict(), path)
    with pytest.raises(ValueError, match="only arrays: bias"):
        pyrnn.RNN.load(path)
    rnn.load_state_dict(safetensors.load_file(path))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (rnn.save, pyrnn.RNN.load):
        with pytest.raises(ImportError, match=r"pip install 'pyrnn-bptt\[safetensors\]'"):
            call(path)


class Named(pyrnn.RNN):
    """A subclass with an attribute of its own."""

    name = None


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_pickle_and_deepcopy(dtype, options):
    rnn, x = rnn_and_x(dtype=dtype, **options)
    rnn.backward(np.ones_like(rnn(x)[0]))
    for make in (copy.deepcopy, *(lambda rnn, p=p: pickle.loads(pickle.dumps(rnn, p)) for p in range(2, 6))):
        other = make(rnn)
        assert_same(rnn, other)
        np.testing.assert_array_equal(other.gradients, rnn.gradients)
        assert not np.shares_memory(other.parameters, rnn.parameters)
        assert np.shares_memory(other.parameters, other.weight_ih_l0)
        a, b = rnn(x)[0], other(x)[0]
        np.testing.assert_array_equal(a, b)  # the same dropout too
    named = Named(3, 5)
    named.name = "mine"
    named.eval()
    for other in (copy.copy(named), copy.deepcopy(named), pickle.loads(pickle.dumps(named))):
        assert (type(other), other.name, other.training) == (Named, "mine", False)
    assert len(pickle.dumps(rnn)) < 4 * rnn.parameters.nbytes + 4000  # no workspace in it


def test_copy_shares_parameters_alone():
    rnn, x = rnn_and_x()
    other = copy.copy(rnn)
    rnn.parameters *= 2
    np.testing.assert_array_equal(other.weight_hh_l0, rnn.weight_hh_l0)
    assert np.shares_memory(other.parameters, rnn.parameters)
    assert not np.shares_memory(other.gradients, rnn.gradients)
    out = rnn(x)[0]
    other(2 * x)
    expected = rnn.backward(out).x
    other(3 * x)
    np.testing.assert_array_equal(rnn.backward(out).x, expected)


def test_copies_in_threads():
    rnn, x = rnn_and_x(30, 8, 16, 32, num_layers=2)
    expected = rnn.loss_and_gradients(x, np.zeros((30, 8), int))
    results = {}

    def work(i, mine):
        for _ in range(20):
            results[i] = mine.loss_and_gradients(x, np.zeros((30, 8), int))

    threads = [threading.Thread(target=work, args=(i, copy.copy(rnn))) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for value, gradient in results.values():
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])


def test_read_only_memory_is_copied():
    rnn, x = rnn_and_x()
    state = rnn.__getstate__()
    for name in ("_parameters", "_gradients"):
        state[name] = state[name].copy()
        state[name].flags.writeable = False
    other = pyrnn.RNN.__new__(pyrnn.RNN)
    other.__setstate__(state)
    other.parameters *= 2
    other.backward(other(x)[0])


def test_repr():
    assert repr(pyrnn.RNN(3, 5)) == "RNN(3, 5)"
    rnn = pyrnn.RNN(
        3, 5, 2, nonlinearity="relu", dropout=0.5, alpha=0.1, form="current", dtype=np.float64, output_size=1
    )
    expected = "RNN(3, 5, num_layers=2, nonlinearity='relu', dropout=0.5, alpha=0.1, form='current', output_size=1, "
    assert repr(rnn) == expected + "dtype=float64)"
    assert "alpha=array([1., 1.])" in repr(pyrnn.RNN(3, 2, alpha=np.ones(2)))


# ---- Constraints, a trained start, a trained leak, units that are read ----------------------------------------------
Constraint = pyrnn.training.Constraint
TANH_LIKE = ("tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu")


def random_constraint(rng, shape, dale):
    """A constraint of any of the three kinds."""
    signs = (None, rng.integers(-1, 2, shape[1]), np.where(rng.random(shape[1]) < 0.7, 1, -1))[rng.integers(3)]
    mask = rng.random(shape) < 0.7 if rng.integers(2) else None
    frozen = None
    if rng.integers(2):
        values = rng.uniform(0, 0.5, shape) * (1 if signs is None else np.where(signs == 0, -1, signs))
        values = values if mask is None else values * mask
        frozen = np.where(rng.random(shape) < 0.2, values, np.nan)
    return Constraint(mask, frozen, signs, dale)


def random_rnn(seed):
    """An RNN of any form with some of what can be trained or constrained, its input, lengths and a loss."""
    rng = np.random.default_rng(seed)
    I, H, O, T, B, L = (int(n) for n in rng.integers((1, 2, 1, 1, 1, 1), (5, 8, 4, 8, 5, 3)))
    two, form = bool(rng.integers(2)), ("rate", "current")[rng.integers(2)]
    output_size = (None, O)[rng.integers(2)]
    trained = bool(rng.integers(2))
    low, high = (0.0, 1.0) if not trained or rng.integers(2) else (0.05, 1.5)
    alpha = rng.uniform(0.2, 0.9, H) if rng.integers(2) else float(rng.uniform(0.2, 0.9))
    units = None
    if output_size is not None and not two and rng.integers(2):
        units = np.sort(rng.permutation(H)[: rng.integers(1, H + 1)])
    options = {
        "nonlinearity": TANH_LIKE[rng.integers(7)], "bidirectional": two, "bias": bool(rng.integers(2)), "form": form,
        "alpha": 1.0 if form == "rate" and not trained and rng.integers(3) == 0 else alpha, "output_size": output_size,
        "output_units": units, "train_h0": bool(rng.integers(2)), "train_alpha": trained, "alpha_bounds": (low, high),
        "noise": (0.0, 0.3, np.linspace(0.0, 0.5, H))[rng.integers(3)], "batch_first": bool(rng.integers(2)),
    }  # fmt: skip
    plain = pyrnn.RNN(I, H, L, dtype=np.float64, rng=rng, **options)
    shapes = {name: a.shape for name, a in plain.named_parameters() if name.startswith("weight")}
    chosen = [name for name in shapes if rng.random() < 0.7]
    constraints = {
        name: random_constraint(rng, shapes[name], ("rectified", "absolute")[i % 2]) for i, name in enumerate(chosen)
    }
    rnn = pyrnn.RNN(I, H, L, dtype=np.float64, rng=rng, constraints=constraints, **options)
    rnn.parameters += 0.3 * rng.standard_normal(rnn.parameters.shape)  # raw weights of any sign, and at fixed entries
    x = rng.standard_normal((T, B, I))
    lengths = rng.integers(0, T + 1, B) if rng.integers(2) else None
    h0 = rng.standard_normal(state_shape(rnn, B)) if rng.integers(3) == 0 else None
    dout, dh_n = rng.standard_normal((T, B, output_size or (1 + two) * H)), rng.standard_normal(state_shape(rnn, B))
    return rnn, x, h0, lengths, dout, dh_n


def loop_in_torch(rnn, x, h0, lengths, dout, dh_n, seed):
    """Outputs, last states, and gradients of parameters, x, h0 and alpha, by autograd; with the noise of rng = seed."""
    torch = pytest.importorskip("torch")
    (T, B, _), L, D, H = x.shape, rnn.num_layers, 1 + rnn.bidirectional, rnn.hidden_size
    raw = {name: torch.tensor(a, requires_grad=True) for name, a in rnn.named_parameters()}
    x = torch.tensor(x, requires_grad=True)
    slope = rnn.negative_slope
    phi = {
        "tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a, "sigmoid": torch.sigmoid,
        "softplus": lambda a: torch.logaddexp(a, torch.zeros_like(a)), "retanh": lambda a: torch.relu(torch.tanh(a)),
        "leaky_relu": lambda a: torch.where(a > 0, a, slope * a),
    }[rnn.nonlinearity]  # fmt: skip

    def weight(name):
        W, constraint = raw[name], rnn.constraints.get(name)
        if constraint is None:
            return W
        if constraint.signs is not None:
            s = torch.tensor(constraint.signs, dtype=torch.float64)
            positive = torch.relu(W) if constraint.dale == "rectified" else torch.abs(W)
            W = torch.where(s != 0, s * positive, W)
        if constraint.mask is not None:
            W = W * torch.tensor(constraint.mask)
        if constraint.frozen is not None:
            W = torch.where(
                torch.tensor(np.isnan(constraint.frozen)), W, torch.tensor(np.nan_to_num(constraint.frozen))
            )
        return W

    leaky = rnn.cell.alpha is not None
    if rnn.train_alpha:
        low, high = rnn.alpha_bounds
        alpha = low + (high - low) / (1 + torch.exp(-raw["raw_alpha"]))
        alpha.retain_grad()
        of_noise = alpha
    else:
        alpha = torch.tensor(np.atleast_1d(rnn.alpha).astype(float), requires_grad=True)
        of_noise = alpha.detach()  # what `backward` returns is for this drive
    first = raw["h0"][:, None].expand(L * D, B, H) if h0 is None and rnn.train_h0 else None
    if first is None:
        first = torch.tensor(np.zeros((L * D, B, H)) if h0 is None else h0)
    given = first.detach().clone().requires_grad_() if h0 is not None else first
    seeds = np.random.default_rng(seed).integers(2**64, size=L * D, dtype=np.uint64).tolist()
    exists = np.arange(T)[:, None] < (np.full(B, T) if lengths is None else lengths)
    exists = torch.tensor(exists[..., None])
    below, last = x, []
    for layer in range(L):
        sent = []
        for d in range(D):
            end = f"_l{layer}" + "_reverse" * d
            U, W = weight("weight_ih" + end), weight("weight_hh" + end)
            b = raw["bias_ih" + end] + raw["bias_hh" + end] if rnn.bias else 0
            xi = (
                pyrnn.training.noise(seeds[layer * D + d], (T, B, H), dtype=np.float64)
                if np.any(rnn.noise)
                else np.zeros((T, B, H))
            )
            drive = torch.sqrt(2 / of_noise) * torch.tensor(rnn.noise, dtype=torch.float64) * torch.tensor(xi)
            h, steps = given[layer * D + d], [None] * T
            for t in reversed(range(T)) if d else range(T):
                a = below[t] @ U.T + b + (phi(h) if rnn.form == "current" else h) @ W.T + drive[t]
                new = (1 - alpha) * h + alpha * (a if rnn.form == "current" else phi(a)) if leaky else phi(a)
                h = torch.where(exists[t], new, h)
                steps[t] = torch.where(exists[t], phi(h) if rnn.form == "current" else h, 0.0)
            sent.append(torch.stack(steps))
            last.append(h)
        below = torch.cat(sent, dim=2)
    out = below
    if rnn.output_size is not None:
        read = below if rnn.output_units is None else below[..., torch.tensor(rnn.output_units)]
        out = read @ weight("weight_out").T + (raw["bias_out"] if rnn.bias else 0)
        out = torch.where(exists, out, 0.0)
    h_n = torch.stack(last)
    ((out * torch.tensor(dout) * exists).sum() + (h_n * torch.tensor(dh_n)).sum()).backward()
    number = lambda p: np.zeros(p.shape) if p.grad is None else p.grad.numpy()
    gradients = {name: number(p) for name, p in raw.items()}
    gradients |= {"x": number(x), "given h0": None if h0 is None else number(given)}
    gradients["alpha"] = number(alpha) if leaky else None
    return out.detach().numpy(), h_n.detach().numpy(), gradients


@pytest.mark.peer
@for_each("seed", range(100))
def test_what_can_be_trained_against_a_loop_in_torch(seed):
    """Random layers, directions, forms, constraints, trained starts and leaks, units that are read, noise, lengths."""
    rnn, x, h0, lengths, dout, dh_n = random_rnn(seed)
    turn = (lambda a: a.swapaxes(0, 1)) if rnn.batch_first else (lambda a: a)
    expected_out, expected_h_n, expected = loop_in_torch(rnn, x, h0, lengths, dout, dh_n, 7)
    rnn.rng = 7
    out, h_n = rnn(turn(x), h0, lengths)
    gradients = rnn.backward(turn(dout), dh_n)
    assert_close(turn(out), expected_out, 1e-12)
    assert_close(h_n, expected_h_n, 1e-12)
    for name, a in rnn.named_gradients():
        assert_close(a, expected[name], 1e-12)
    assert_close(turn(gradients.x), expected["x"], 1e-12)
    assert_close(None if h0 is None else gradients.h0, expected["given h0"], 1e-12)
    assert_close(None if gradients.alpha is None else np.atleast_1d(gradients.alpha), expected["alpha"], 1e-12)
    for name, constraint in rnn.constraints.items():
        gradient = dict(rnn.named_gradients())[name]
        assert (gradient[~constraint.trained(gradient.shape)] == 0).all()
    once = rnn.gradients.copy()
    rnn.backward(turn(dout), dh_n, accumulate=True)
    assert_close(rnn.gradients, 2 * once, 1e-14)


DALE = Constraint(mask=~np.eye(6, dtype=bool), signs=[1, 1, 1, 1, -1, -1])
NEURO = {
    "nonlinearity": "relu",
    "alpha": 0.2,
    "noise": 0.1,
    "output_size": 2,
    "output_units": [0, 1, 2, 3],
    "train_h0": True,
    "train_alpha": True,
    "alpha_bounds": (0.01, 0.99),
    "constraints": {
        "weight_ih_l0": Constraint(signs=[1, 0, -1, 1], dale="absolute"),
        "weight_hh_l0": DALE,
        "weight_out": Constraint(frozen=[[0.5, np.nan, np.nan, np.nan], [np.nan] * 3 + [-0.0]]),
    },
}


@pytest.mark.parametrize("alpha", [0.3, np.linspace(0.2, 0.9, 6)])
@pytest.mark.parametrize(
    "options", [{}, {"recurrent_dropout": 0.3}, {"num_layers": 2, "dropout": 0.3}, {"form": "current"}]
)
@pytest.mark.parametrize("with_lengths", [False, True])
def test_trained_leak_with_noise_and_dropout_by_differences(alpha, options, with_lengths):
    given = NEURO | {"alpha": alpha, "nonlinearity": "tanh", "noise": np.linspace(0, 1, 6)}
    given = given | options
    rnn, x = rnn_and_x(T=6, B=9, **given)
    rng = np.random.default_rng(1)
    dout = rng.standard_normal((6, 9, 2))
    lengths = rng.integers(0, 7, 9) if with_lengths else None
    if with_lengths:
        dout[np.arange(6)[:, None] >= lengths] = 0

    def loss(parameters):
        rnn.parameters, rnn.rng = parameters, 5
        return (rnn(x, lengths=lengths)[0] * dout).sum()

    start = rnn.parameters.copy()
    near, far = (central_differences(loss, {"parameters": start}, step)["parameters"] for step in (1e-4, 2e-4))
    loss(start)
    rnn.backward(dout)
    assert_close(rnn.gradients, (4 * near - far) / 3, 1e-8)
    assert np.abs(rnn.gradients[-np.size(alpha) :]).max() > 1e-3


def test_a_call_applies_constraints_to_what_the_parameters_are_now(dtype):
    rnn, x = rnn_and_x(dtype=dtype, **NEURO)
    rnn.eval()
    kept = rnn.network()
    before = kept.W.copy()
    for change in (
        lambda: rnn.parameters.__imul__(dtype(-0.5)),
        lambda: setattr(rnn, "weight_hh_l0", np.full((6, 6), np.nan) * np.eye(6) + DALE.raw(before)),
        lambda: rnn.load_state_dict({name: a + 1 for name, a in rnn.state_dict().items()}),
    ):
        change()
        network, effective = rnn.network(), rnn.effective_weights()
        for name, a in effective.items():
            constraint = rnn.constraints[name]
            np.testing.assert_array_equal(a, constraint.apply(getattr(rnn, name)))
            assert a.dtype == dtype
            assert not np.shares_memory(a, rnn.parameters)
        np.testing.assert_array_equal(network.U, effective["weight_ih_l0"])
        np.testing.assert_array_equal(network.W, effective["weight_hh_l0"])
        np.testing.assert_array_equal(network.V[:, :4], effective["weight_out"])
        np.testing.assert_array_equal(network.V[:, 4:], 0)
        h0 = np.repeat(rnn.h0, 3, axis=0)
        run = pyrnn.simulate(rnn, x, h0)
        out, _ = rnn(x)
        np.testing.assert_array_equal(run.output(), out)
        np.testing.assert_array_equal(run.h, rnn.layer_states[0])
        assert network.cell == rnn.cell
        assert network.cell.alpha == rnn.alpha
    np.testing.assert_array_equal(kept.W, before)
    plain = pyrnn.RNN(4, 6, rng=0)
    assert np.shares_memory(plain.network().W, plain.parameters)
    assert plain.constraints == {}
    assert rnn.constraints == NEURO["constraints"]
    assert list(rnn.effective_weights()) == ["weight_ih_l0", "weight_hh_l0", "weight_out"]


def test_units_that_are_not_read():
    """As an output layer that has zeros there, to the bit; by indices and by booleans."""
    options = {"output_size": 2, "num_layers": 2, "alpha": 0.4}
    rnn, x = rnn_and_x(output_units=[4, 0, 3], **options)
    assert rnn.weight_out.shape == (2, 3)
    assert np.abs(rnn.weight_out).max() > 1 / 6**0.5  # within 1/sqrt(3)
    whole, _ = rnn_and_x(**options)
    state = rnn.state_dict()
    state["weight_out"] = np.zeros((2, 6))
    state["weight_out"][:, [4, 0, 3]] = rnn.weight_out
    whole.load_state_dict(dict(state))
    out, _ = rnn(x)
    np.testing.assert_array_equal(out, whole(x)[0])
    gradients, expected = rnn.backward(out), whole.backward(out)
    np.testing.assert_array_equal(gradients.x, expected.x)
    for name, a in rnn.named_gradients():
        other = dict(whole.named_gradients())[name]
        np.testing.assert_array_equal(a, other[:, [4, 0, 3]] if name == "weight_out" else other)
    np.testing.assert_array_equal(rnn.output_units, [4, 0, 3])
    chosen = np.isin(np.arange(6), [0, 3, 4])
    np.testing.assert_array_equal(pyrnn.RNN(4, 6, output_size=1, output_units=chosen).output_units, [0, 3, 4])
    with pytest.raises(ValueError, match="read-only"):
        rnn.output_units[0] = 1


def test_trained_start(dtype):
    """Used where a call is given no h0, whose gradient is then that of the parameter, summed over sequences."""
    rnn, x = rnn_and_x(train_h0=True, num_layers=2, bidirectional=True, dtype=dtype)
    plain, _ = rnn_and_x(num_layers=2, bidirectional=True, dtype=dtype)
    np.testing.assert_array_equal(rnn.h0, np.zeros((4, 6)))
    np.testing.assert_array_equal(rnn(x)[0], plain(x)[0])
    rnn.h0 = np.random.default_rng(1).standard_normal((4, 6))
    h0 = np.repeat(rnn.h0[:, np.newaxis], 3, axis=1)
    out, h_n = rnn(x)
    np.testing.assert_array_equal(out, plain(x, h0)[0])
    dh0 = rnn.backward(out, h_n).h0
    np.testing.assert_array_equal(dict(rnn.named_gradients())["h0"], dh0.sum(axis=1))
    np.testing.assert_array_equal(dh0, plain.backward(out, h_n).h0)
    rnn(x, h0)
    np.testing.assert_array_equal(rnn.backward(out, h_n).h0, dh0)
    np.testing.assert_array_equal(dict(rnn.named_gradients())["h0"], 0)
    alone, _ = rnn(x[:, 0])
    np.testing.assert_array_equal(alone, out[:, 0])
    np.testing.assert_array_equal(dict(rnn.named_gradients())["h0"], 0)
    np.testing.assert_array_equal(rnn.backward(alone).h0, dict(rnn.named_gradients())["h0"])
    empty = np.zeros((5, 0, 4), dtype)
    rnn.backward(rnn(empty)[0])
    assert not rnn.gradients.any()
    rnn.loss_and_gradients(x, np.zeros((5, 3), int))
    assert dict(rnn.named_gradients())["h0"].any()


@pytest.mark.parametrize("form", ["rate", "current"])
@pytest.mark.parametrize("alpha", [0.3, np.linspace(0.2, 0.9, 6)])
def test_trained_leak_is_that_of_an_rnn_with_this_leak(dtype, form, alpha):
    options = {"form": form, "dtype": dtype, "num_layers": 2}
    rnn, x = rnn_and_x(alpha=alpha, train_alpha=True, alpha_bounds=(0.1, 0.95), **options)
    assert rnn.raw_alpha.shape == np.shape(np.atleast_1d(alpha))
    np.testing.assert_allclose(rnn.alpha, alpha, rtol=4 * np.finfo(dtype).eps)
    assert np.ndim(rnn.alpha) == np.ndim(alpha)
    for raw in (-1.0, 0.5, -800.0, 800.0):
        rnn.raw_alpha = np.full(rnn.raw_alpha.shape, raw)
        expected = 0.1 + 0.85 / (1 + np.exp(-raw)) if raw > -800 else 0.1
        np.testing.assert_allclose(rnn.alpha, expected, rtol=1e-15)
        fixed, _ = rnn_and_x(alpha=rnn.alpha, **options)
        fixed.load_state_dict(dict(rnn.state_dict()), strict=False)
        out, h_n = rnn(x)
        np.testing.assert_array_equal(out, fixed(x)[0])
        gradients, others = rnn.backward(out, h_n), fixed.backward(out, h_n)
        np.testing.assert_array_equal(gradients.x, others.x)
        np.testing.assert_array_equal(gradients.alpha, others.alpha)
        slope = 0.85 / ((1 + np.exp(-raw)) * (1 + np.exp(raw))) if abs(raw) < 800 else 0
        np.testing.assert_allclose(dict(rnn.named_gradients())["raw_alpha"], slope * others.alpha, rtol=1e-5)
    with pytest.raises(AttributeError, match="alpha cannot be changed after construction"):
        rnn.alpha = 0.3
    if np.ndim(alpha):
        with pytest.raises(ValueError, match="read-only"):
            rnn.alpha[0] = 1
    before = rnn.layer_states
    rnn.raw_alpha[...] = 0.0  # in place, after the call
    np.testing.assert_array_equal(rnn.layer_states[1], before[1])
    assert rnn.cell.alpha == pytest.approx(0.525)
    one = pyrnn.RNN(2, 3, alpha=1.0, train_alpha=True, alpha_bounds=(0.5, 1.5))
    assert one.cell.alpha == 1.0
    assert one.backward(one(np.ones((4, 2)))[0]).alpha is not None


@pytest.mark.parametrize("dale", ["rectified", "absolute"])
def test_first_raw_weights(dtype, dale):
    """The weights that were drawn, made allowed: no connection of a column with a sign starts at 0."""
    mask, signs = np.random.default_rng(0).random((6, 6)) < 0.7, [1, 1, 0, 0, -1, -1]
    frozen = np.full((6, 6), np.nan)
    frozen[0] = [0.5, 0, -0.25, 0.25, -1, 0]
    frozen[~mask] = np.nan
    constraint = Constraint(mask, frozen, signs, dale)
    plain, rnn = (pyrnn.RNN(4, 6, dtype=dtype, rng=3, **o) for o in ({}, {"constraints": {"weight_hh_l0": constraint}}))
    drawn, raw = plain.weight_hh_l0, rnn.weight_hh_l0
    trained = constraint.trained((6, 6))
    np.testing.assert_array_equal(raw[trained], np.where(signs, abs(drawn), drawn)[trained])
    np.testing.assert_array_equal(raw[~mask], 0)
    known = ~np.isnan(frozen)
    np.testing.assert_array_equal(raw[known], np.where(signs, abs(frozen), frozen)[known].astype(dtype))
    W = rnn.effective_weights()["weight_hh_l0"]
    np.testing.assert_array_equal(constraint.raw(W), raw)
    np.testing.assert_array_equal(W[known], frozen[known].astype(dtype))
    for name, a in plain.named_parameters():
        if name != "weight_hh_l0":
            np.testing.assert_array_equal(a, getattr(rnn, name))  # the same numbers of rng


def test_analyses_see_effective_weights():
    rnn, x = rnn_and_x(**NEURO)
    network = rnn.network()
    assert (network.W * DALE.signs >= 0).all()
    assert not np.diag(network.W).any()
    starts = np.random.default_rng(0).standard_normal((20, 6))
    ours, theirs = (pyrnn.dynamics.find_fixed_points(n, starts=starts, max_iterations=50) for n in (rnn, network))
    np.testing.assert_array_equal(ours.h, theirs.h)
    np.testing.assert_array_equal(
        pyrnn.dynamics.lyapunov_spectrum(rnn, x[:, 0]).exponents,
        pyrnn.dynamics.lyapunov_spectrum(network, x[:, 0]).exponents,
    )
    rnn.h0 = np.linspace(0.1, 0.6, 6)[np.newaxis]
    rnn.eval()
    np.testing.assert_array_equal(pyrnn.Stepper(rnn, h0=rnn.h0[0]).run(x[:, 0]), rnn(x[:, 0])[0])
    targets = np.zeros((5, 3), int)
    for h0 in (None, np.ones((1, 3, 6))):
        flow = pyrnn.dynamics.gradient_flow(rnn, x, targets, h0=h0)
        first = np.repeat(rnn.h0, 3, axis=0) if h0 is None else h0[0]
        expected = pyrnn.dynamics.gradient_flow(network, x, targets, h0=first)
        np.testing.assert_array_equal(flow.log_gradient_norms, expected.log_gradient_norms)
    both = {"bidirectional": True, "output_size": 2, "constraints": {"weight_out": Constraint(signs=[1] * 12)}}
    rnn, x = rnn_and_x(**both)
    rnn.weight_out -= 0.1  # some are below 0
    plain, _ = rnn_and_x(bidirectional=True, output_size=2)
    plain.load_state_dict(rnn.state_dict() | rnn.effective_weights())
    flows = [pyrnn.dynamics.gradient_flow(n, x, targets).log_gradient_norms for n in (rnn, plain)]
    np.testing.assert_array_equal(*flows)


@pytest.mark.peer
def test_exporters_write_effective_weights(tmp_path):
    rnn, x = rnn_and_x(constraints={"weight_hh_l0": DALE, "weight_ih_l0": Constraint(signs=[1, -1, 0, 1])})
    rnn.parameters -= 0.1
    state, effective = rnn.state_dict(), rnn.effective_weights()
    assert not np.array_equal(effective["weight_hh_l0"], state["weight_hh_l0"])
    described = pyrnn.bridges.state_dict.describe(state)
    for name, a in effective.items():
        np.testing.assert_array_equal(described.state_dict[name], a)
    np.testing.assert_array_equal(state["weight_hh_l0"], rnn.weight_hh_l0)
    kernel, recurrent_kernel = pyrnn.bridges.keras.to_keras(state)[0][:2]
    np.testing.assert_array_equal(kernel, effective["weight_ih_l0"].T)
    np.testing.assert_array_equal(recurrent_kernel, effective["weight_hh_l0"].T)
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match=r"state_dict must be of an RNN without constraints for \.safetensors"):
        pyrnn.bridges.safetensors.save_safetensors(state, tmp_path / "rnn.safetensors")
    with pytest.raises(ValueError, match=r"path must be of .* got those of weight_ih_l0, weight_hh_l0: PyTorch"):
        rnn.save(tmp_path / "rnn.safetensors")
    assert not list(tmp_path.iterdir())
    pyrnn.bridges.safetensors.save_safetensors(state | effective, tmp_path / "rnn.safetensors")
    from safetensors.numpy import save_file

    for declared, message in (
        ({"weight_hh_l0": {}}, "got those of weight_hh_l0"),
        ([1], r"got those of \[1\]"),
        (5, "of 5:"),
    ):
        text = json.dumps({"input_size": 4, "hidden_size": 6, "constraints": declared})
        save_file(dict(state), tmp_path / "other.safetensors", metadata={"pyrnn.RNN": text})
        for read in (pyrnn.RNN.load, pyrnn.bridges.safetensors.load_safetensors):
            with pytest.raises(ValueError, match=message):
                read(tmp_path / "other.safetensors")
    torch = pytest.importorskip("torch")
    theirs = torch.nn.RNN(4, 6, dtype=torch.float64)
    theirs.load_state_dict({name: torch.tensor(a) for name, a in (state | effective).items()})
    np.testing.assert_allclose(theirs(torch.tensor(x))[0].detach().numpy(), rnn(x)[0], rtol=1e-12)
    if pytest.importorskip("onnx"):
        node = pyrnn.bridges.onnx.to_state_dict(pyrnn.bridges.onnx.from_onnx(pyrnn.bridges.onnx.to_onnx(state)))
        np.testing.assert_array_equal(node.state_dict["weight_hh_l0"], effective["weight_hh_l0"].astype(np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_h0": True}, "got h0, which PyTorch, ONNX and Keras do not have"),
        ({"train_alpha": True, "alpha": 1.0, "alpha_bounds": (0.5, 1.5)}, "must be of a network without a leak"),
        (
            {"output_size": 1, "constraints": {"weight_out": Constraint()}},
            r"leave these out of rnn.state_dict\(\) \| rnn",
        ),
    ],
)
def test_exporters_refuse_what_others_do_not_have(options, message):
    with pytest.raises(ValueError, match=message):
        pyrnn.bridges.state_dict.describe(pyrnn.RNN(2, 3, **options).state_dict())
    if "train_alpha" in options:
        with pytest.raises(ValueError, match="got raw_alpha, which"):
            pyrnn.bridges.state_dict.describe(dict(pyrnn.RNN(2, 3, **options).state_dict()))


@pytest.mark.parametrize("alpha", [0.2, np.linspace(0.1, 0.9, 6)])
def test_files_and_copies_with_constraints(tmp_path, dtype, alpha):
    rnn, x = rnn_and_x(dtype=dtype, **NEURO | {"alpha": alpha})
    rnn.parameters += 0.25
    path = tmp_path / "rnn.npz"
    rnn.save(path)
    arguments = rnn.state_dict().arguments
    again = pyrnn.RNN(**arguments)
    again.load_state_dict(rnn.state_dict())
    others = [pyrnn.RNN.load(path), copy.copy(rnn), copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), again]
    rnn.rng = 5
    out, _ = rnn(x)
    rnn.backward(out)
    for other in others:
        assert_same(rnn, other)
        assert other.constraints == rnn.constraints
        assert {name: c.dale for name, c in other.constraints.items()} == {
            n: c.dale for n, c in rnn.constraints.items()
        }
        assert (other.train_h0, other.train_alpha, other.alpha_bounds) == (True, True, (0.01, 0.99))
        np.testing.assert_array_equal(other.output_units, [0, 1, 2, 3])
        other.rng = 5
        np.testing.assert_array_equal(other(x)[0], out)
        other.backward(out)
        np.testing.assert_array_equal(other.gradients, rnn.gradients)
    with np.load(path, allow_pickle=False) as file:
        assert file["pyrnn.RNN.constraints.weight_hh_l0.mask"].dtype == bool
        assert file["pyrnn.RNN.constraints.weight_out.frozen"].shape == (2, 4)
        assert json.loads(str(file["pyrnn.RNN"]))["constraints"]["weight_ih_l0"] == {
            "dale": "absolute",
            "arrays": ["signs"],
        }
    assert all(a.shape == b.shape for a, b in zip(rnn.state_dict().values(), again.state_dict().values(), strict=True))


HH = "pyrnn.RNN.constraints.weight_hh_l0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, arrays: a.update(constraints=None), "they declare None, got arrays pyrnn.RNN.constraints"),
        (lambda a, arrays: a.update(constraints=[1]), r"they declare \[1\]"),
        (lambda a, arrays: a["constraints"].update(bias_ih_l0={}), "'bias_ih_l0' is {}"),
        (lambda a, arrays: a["constraints"].update(weight_hh_l9={"dale": "absolute", "arrays": []}), "weight_hh_l9"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(dale="softplus"), "dale must be one of"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(dale=["x"]), "dale must be one of"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(other=1), "'weight_hh_l0' is"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(arrays="mask"), "has arrays 'mask'"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(arrays=["masks"]), "has arrays"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(arrays=[["mask"]]), "has arrays"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(arrays=["mask", "mask"]), "has arrays"),
        (lambda a, arrays: a["constraints"]["weight_hh_l0"].update(arrays=["mask"]), "unexpected: .*hh_l0.signs"),
        (lambda a, arrays: arrays.pop(f"{HH}.mask"), "missing: .*weight_hh_l0.mask"),
        (lambda a, arrays: arrays.update({f"{HH}.mask": np.ones((6, 6))}), "must be booleans"),
        (lambda a, arrays: arrays.update({f"{HH}.mask": np.ones(6, bool)}), "must have the shape of its weights"),
        (lambda a, arrays: arrays.update({f"{HH}.signs": np.full(6, 3)}), "signs must be"),
        (lambda a, arrays: arrays.update({"pyrnn.RNN.constraints.x.mask": np.ones(6, bool)}), "unexpected: .*x.mask"),
        (lambda a, arrays: a.update(train_h0=False), "unexpected: h0"),
        (lambda a, arrays: a.update(train_h0="yes"), "train_h0 must be True or False, got 'yes'"),
        (lambda a, arrays: a.update(train_alpha=False), "unexpected: raw_alpha"),
        (lambda a, arrays: a.update(alpha=[0.1] * 6), "raw_alpha must have shape"),
        (lambda a, arrays: a.update(alpha_bounds=[0.5, 1.0]), "alpha must start strictly between"),
        (lambda a, arrays: a.update(alpha_bounds=3), "alpha_bounds must be two finite numbers"),
        (lambda a, arrays: a.update(output_units=5), "output_units must be a list, got 5"),
        (lambda a, arrays: a.update(output_units=[0, 1, 2]), "weight_out must have shape"),
        (lambda a, arrays: a.update(output_units=[0, 1, 2, 9]), "output_units must be different units from 0 to 5"),
        (lambda a, arrays: a.update(output_units=["a"] * 4), "output_units must be integers or booleans"),
    ],
)  # fmt: skip
def test_files_that_declare_other_constraints(tmp_path, change, message):
    rnn, _ = rnn_and_x(**NEURO)
    path = tmp_path / "rnn.npz"
    rnn.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    arguments = json.loads(str(arrays.pop("pyrnn.RNN")))
    change(arguments, arrays)
    np.savez(path, **arrays, **{"pyrnn.RNN": json.dumps(arguments)})
    with pytest.raises(ValueError, match=message) as caught:
        pyrnn.RNN.load(path)
    assert str(path) in str(caught.value)


def test_state_dicts_of_other_constraints():
    """Raw numbers of another constraint mean other weights."""
    rnn, plain = (pyrnn.RNN(4, 6, rng=0, **options) for options in ({"constraints": {"weight_hh_l0": DALE}}, {}))
    before = rnn.parameters.copy()
    for ours, theirs in ((rnn, plain), (plain, rnn)):
        with pytest.raises(
            ValueError, match=r"state_dict must be of an RNN with the same constraints, got .* weight_hh_l0"
        ):
            ours.load_state_dict(theirs.state_dict())
    absolute = Constraint(DALE.mask, None, DALE.signs, "absolute")
    other = pyrnn.RNN(4, 6, constraints={"weight_hh_l0": absolute})
    with pytest.raises(ValueError, match="same constraints"):
        rnn.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(rnn.parameters, before)
    plain.load_state_dict(rnn.state_dict() | rnn.effective_weights())
    np.testing.assert_array_equal(plain.weight_hh_l0, rnn.effective_weights()["weight_hh_l0"])
    rnn.load_state_dict(dict(plain.state_dict()))  # says nothing: taken as raw weights
    rest = plain.state_dict()
    del rest["weight_hh_l0"]
    rnn.load_state_dict(rest, strict=False)
    bounds = [pyrnn.RNN(4, 6, alpha=0.5, train_alpha=True, alpha_bounds=(0.0, high)) for high in (1.0, 2.0)]
    with pytest.raises(ValueError, match=r"of an RNN with alpha_bounds \(0.0, 1.0\), got \(0.0, 2.0\)"):
        bounds[0].load_state_dict(bounds[1].state_dict())


def test_equal_constraints():
    same = Constraint(mask=~np.eye(6, dtype=bool), signs=np.array([1.0, 1, 1, 1, -1, -1]))
    assert same == DALE
    assert hash(same) == hash(DALE)
    assert Constraint(dale="absolute") == Constraint()  # of no sign
    for other in (
        Constraint(DALE.mask, None, DALE.signs, "absolute"),
        Constraint(DALE.mask),
        Constraint(None, None, DALE.signs),
    ):
        assert other != DALE
    assert DALE != "DALE"


@pytest.mark.parametrize(
    "options", [NEURO | {"noise": 0.0}, NEURO, NEURO | {"num_layers": 2, "alpha": np.full(128, 0.5)}]
)
def test_constraints_allocate_nothing_after_the_first_call(monkeypatch, options):
    monkeypatch.setattr("pyrnn._engines.automatic", lambda: "fused")
    H, rng = 128, np.random.default_rng(0)
    constraints = {f"weight_{kind}": random_constraint(rng, (H, H), "rectified") for kind in ("ih_l0", "hh_l0")}
    constraints["weight_hh_l0"] = Constraint(~np.eye(H, dtype=bool), None, np.where(np.arange(H) < 100, 1, -1))
    options = options | {"constraints": constraints, "output_units": np.arange(100)}
    rnn, x = rnn_and_x(30, 64, H, H, dtype=np.float32, **options)
    rnn.parameters *= 0.1  # else the states grow beyond what float32 holds
    out = tuple(np.empty_like(a) for a in rnn(x))
    dx, dh0 = np.empty_like(x), np.empty_like(out[1])
    rnn.backward(out[0], out=(dx, dh0))

    def step():
        rnn(x, out=out)
        rnn.backward(out[0], out=(dx, dh0))
        rnn.raw_alpha += 0.01
        rnn(x, out=out)
        rnn.backward(out[0], out=(dx, dh0))

    step()
    kept, most = allocated(lambda: [step() for _ in range(5)])
    assert most < 24576  # the sum of all small objects: no array of B H numbers
    assert kept < 24576


def test_summary():
    rnn, _ = rnn_and_x(**NEURO)
    text = rnn.summary()
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert rows["weight_ih_l0"][-5:] == ["24", "0", "0", "18", "absolute"]
    assert rows["weight_hh_l0"][-6:] == ["36", "30", "6", "0", "30", "rectified"]
    assert rows["weight_out"][-5:] == ["8", "6", "0", "2", "0"]
    assert rows["h0"][-2:] == ["6", "6"]
    assert rows["raw_alpha"][-2:] == ["1", "1"]
    assert rows["total"][-2:] == [str(rnn.parameters.size), str(rnn.parameters.size - 8)]
    for part in (
        "alpha 0.2, trained, from 0.01 to 0.99, form rate",
        "0.1, in training",
        "2, of 4 of the units",
        "h0, trained",
    ):
        assert part in text
    plain = pyrnn.RNN(
        3, 5, 2, bidirectional=True, dropout=0.5, recurrent_dropout=0.25, nonlinearity="leaky_relu"
    ).summary()
    for part in ("2 layers, two directions", "outputs     none", "leaky_relu of slope 0.01", "leak        none",
                 "0.5 between layers, 0.25 of recurrent weights"):  # fmt: skip
        assert part in plain


def test_fit_trains_a_network_of_excitatory_and_inhibitory_units(tmp_path):
    """And a run that is resumed, by another object, has the bits of one that was not interrupted."""
    task = pyrnn.tasks.PerceptualDecision(batch_size=16)
    H, excitatory = 20, 16
    signs = np.where(np.arange(H) < excitatory, 1, -1)
    constraints = {
        "weight_ih_l0": Constraint(signs=np.ones(task.input_size)),
        "weight_hh_l0": Constraint(~np.eye(H, dtype=bool), None, signs),
        "weight_out": Constraint(signs=np.ones(excitatory), dale="absolute"),
    }
    options = {"nonlinearity": "relu", "alpha": 0.2, "noise": 0.1, "constraints": constraints, "train_h0": True}
    options |= {"output_size": task.output_size, "output_units": np.arange(excitatory), "train_alpha": True}
    make = lambda: pyrnn.RNN(task.input_size, H, rng=1, **options)
    rnn, fitting = make(), {"clip_norm": 1.0, "penalties": {"l2": 1e-4}}
    adam = lambda: pyrnn.training.Adam(lr=1e-2)
    first = rnn.alpha
    history = pyrnn.fit(rnn, task, steps=60, optimizer=adam(), **fitting)
    losses = [record["loss"] for record in history]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    network = rnn.network()
    assert (network.W * signs >= 0).all()
    assert not np.diag(network.W).any()
    assert (network.U >= 0).all()
    assert (network.V >= 0).all()
    assert rnn.h0.any()
    assert rnn.alpha != first
    path, other = tmp_path / "run.npz", make()
    pyrnn.fit(other, task, steps=25, optimizer=adam(), checkpoint=path, **fitting)
    for resumed in (other, make()):  # the one that is trained already, and one from the beginning
        again = pyrnn.fit(resumed, task, steps=60, optimizer=adam(), checkpoint=path, resume=True, **fitting)
        np.testing.assert_array_equal(resumed.parameters, rnn.parameters)
        assert again.to_list() == history.to_list()
    wrong = constraints | {"weight_hh_l0": Constraint(None, None, signs)}
    different = pyrnn.RNN(task.input_size, H, rng=1, **options | {"constraints": wrong})
    with pytest.raises(ValueError, match=r"rnn, .*constraints.* must be that of the run"):
        pyrnn.fit(different, task, steps=60, optimizer=adam(), checkpoint=path, resume=True, **fitting)


# ---- Bad arguments --------------------------------------------------------------------------------------------------
READ = {"output_size": 2}
BAD_CONSTRUCTION = [
    ({"input_size": 0}, ValueError, "input_size must be a positive integer, got 0"),
    ({"input_size": 2.0}, TypeError, "input_size must be a positive integer"),
    ({"hidden_size": -1}, ValueError, "hidden_size must be a positive integer, got -1"),
    ({"hidden_size": None}, TypeError, "hidden_size must be a positive integer"),
    ({"num_layers": 0}, ValueError, "num_layers must be a positive integer, got 0"),
    ({"num_layers": "2"}, TypeError, "num_layers must be a positive integer"),
    ({"nonlinearity": "gelu"}, ValueError, "nonlinearity must be one of 'tanh', 'relu', .*, got 'gelu'"),
    ({"nonlinearity": None}, ValueError, "nonlinearity must be one of"),
    ({"bias": 1}, TypeError, "bias must be True or False, got 1"),
    ({"batch_first": None}, TypeError, "batch_first must be True or False, got None"),
    ({"bidirectional": "yes"}, TypeError, "bidirectional must be True or False, got 'yes'"),
    ({"dropout": 1.5}, ValueError, "dropout must be a number from 0 to 1, got 1.5"),
    ({"dropout": np.nan}, ValueError, "dropout must be a number from 0 to 1, got nan"),
    ({"dropout": True}, ValueError, "dropout must be a number from 0 to 1, got True"),
    ({"dropout": None}, ValueError, "dropout must be a number"),
    ({"recurrent_dropout": -0.1}, ValueError, "recurrent_dropout must be a number from 0 to 1, got -0.1"),
    ({"recurrent_dropout": "0.5"}, ValueError, "recurrent_dropout must be a number from 0 to 1, got '0.5'"),
    ({"alpha": np.ones(5)}, ValueError, r"alpha must be a number or have shape \(6,\), got \(5,\)"),
    ({"alpha": np.inf}, ValueError, "alpha must be finite, got inf"),
    ({"alpha": None}, TypeError, "alpha must be an array of numbers, got None"),
    ({"alpha": 1j}, TypeError, "alpha must be real numbers"),
    ({"form": "leaky"}, ValueError, "form must be one of 'rate', 'current', got 'leaky'"),
    ({"output_size": 0}, ValueError, "output_size must be a positive integer, got 0"),
    ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got float16"),
    ({"dtype": np.complex128}, TypeError, "dtype must be float32 or float64, got complex128"),
    ({"dtype": np.dtype("f8").newbyteorder()}, TypeError, "dtype must be float32 or float64"),
    ({"dtype": None}, TypeError, "dtype must be float32 or float64, got None"),
    ({"constraints": 3}, TypeError, "constraints must be a mapping of names to constraints, got int"),
    (
        {"constraints": {"bias_ih_l0": DALE}},
        ValueError,
        "constraints must be of weights of the RNN, weight_ih_l0, .*, got",
    ),
    (
        {"constraints": {"weight_hh_l1": DALE}},
        ValueError,
        "constraints must be of weights of the RNN, .*'weight_hh_l1'",
    ),
    (
        {"constraints": {"weight_out": DALE}},
        ValueError,
        "constraints must be of weights of the RNN, .*got 'weight_out'",
    ),
    ({"constraints": {3: DALE}}, ValueError, "constraints must be of weights of the RNN, .*, got 3"),
    (
        {"constraints": {"weight_hh_l0": np.eye(6)}},
        TypeError,
        "weight_hh_l0'. must be a pyrnn.training.Constraint, got",
    ),
    (
        {"constraints": {"weight_ih_l0": DALE}},
        ValueError,
        r"mask of constraints\['weight_ih_l0'\] must have shape \(6, 4\), got \(6, 6\)",
    ),
    (
        {"constraints": {"weight_hh_l0": Constraint(frozen=np.ones((5, 6)))}},
        ValueError,
        r"frozen of constraints\['weight_hh_l0'\] must have shape \(6, 6\), got \(5, 6\)",
    ),
    (
        {"constraints": {"weight_hh_l0": Constraint(signs=[1, 1])}},
        ValueError,
        r"signs of constraints\['weight_hh_l0'\] must have shape \(6,\), got \(2,\)",
    ),
    ({"train_h0": 1}, TypeError, "train_h0 must be True or False, got 1"),
    ({"train_alpha": None}, TypeError, "train_alpha must be True or False, got None"),
    ({"train_alpha": True}, ValueError, "alpha must start strictly between the alpha_bounds, 0.0 and 1.0, .* got 1.0"),
    ({"train_alpha": True, "alpha": 0.0}, ValueError, "alpha must start strictly between"),
    ({"train_alpha": True, "alpha": [0.5] * 5 + [1.0]}, ValueError, "alpha must start strictly between"),
    ({"alpha_bounds": (0.0, 2.0)}, ValueError, r"alpha_bounds must be left at \(0.0, 1.0\) without train_alpha, got"),
    ({"alpha_bounds": (1.0, 0.0)}, ValueError, "alpha_bounds must be two finite numbers, the lower one first, got"),
    ({"alpha_bounds": (0.0, np.inf)}, ValueError, "alpha_bounds must be two finite numbers"),
    ({"alpha_bounds": (0.0, np.nan)}, ValueError, "alpha_bounds must be two finite numbers"),
    ({"alpha_bounds": 0.5}, ValueError, "alpha_bounds must be two finite numbers"),
    ({"alpha_bounds": "01"}, TypeError, "alpha_bounds must be real numbers"),
    ({"alpha_bounds": None}, TypeError, "alpha_bounds must be an array of numbers, got None"),
    ({"output_units": [0]}, ValueError, r"output_units must come with output_size, got \[0\] without it"),
    ({**READ, "output_units": [0], "bidirectional": True}, ValueError, "output_units must be None in a bidirectional"),
    ({**READ, "output_units": []}, ValueError, "output_units must be one unit or more"),
    ({**READ, "output_units": 3}, ValueError, "output_units must be one unit or more"),
    ({**READ, "output_units": [[0]]}, ValueError, "output_units must be one unit or more"),
    ({**READ, "output_units": [False] * 6}, ValueError, "output_units must be one unit or more"),
    ({**READ, "output_units": [True] * 5}, ValueError, r"output_units must have shape \(6,\), got \(5,\)"),
    ({**READ, "output_units": [0, 6]}, ValueError, "output_units must be different units from 0 to 5, got"),
    ({**READ, "output_units": [-1]}, ValueError, "output_units must be different units from 0 to 5, got"),
    ({**READ, "output_units": [1, 1]}, ValueError, "output_units must be different units from 0 to 5, got"),
    ({**READ, "output_units": [1.0]}, TypeError, "output_units must be integers or booleans, got dtype float64"),
    ({**READ, "output_units": "all"}, TypeError, "output_units must be integers or booleans, got dtype"),
    ({"rng": "seed"}, TypeError, None),
    ({"rng": -1}, ValueError, None),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD_CONSTRUCTION)
def test_bad_construction(bad, error, message):
    with pytest.raises(error, match=message):
        pyrnn.RNN(**{"input_size": 4, "hidden_size": 6} | bad)


def test_options_are_by_name_alone():
    with pytest.raises(TypeError, match="positional"):
        pyrnn.RNN(4, 6, 1, "tanh")


def test_dropout_that_does_nothing_warns():
    with pytest.warns(UserWarning, match="dropout acts between layers"):
        pyrnn.RNN(4, 6, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyrnn.RNN(4, 6, 2, dropout=0.5)
        pyrnn.RNN(4, 6, recurrent_dropout=0.5)


FIXED = (
    "input_size hidden_size num_layers nonlinearity bias batch_first bidirectional alpha form output_size dtype "
    "constraints train_h0 train_alpha alpha_bounds output_units"
)


@pytest.mark.parametrize("name", FIXED.split())
def test_what_is_fixed(name):
    rnn, _ = rnn_and_x()
    with pytest.raises(AttributeError, match=f"{name} cannot be changed after construction"):
        setattr(rnn, name, 1)
    with pytest.raises(ValueError, match="read-only"):
        pyrnn.RNN(4, 6, alpha=np.ones(6)).alpha[0] = 3


def test_bad_assignments():
    rnn, _ = rnn_and_x()
    before = rnn.parameters.copy()
    for name, value, error, message in (
        ("parameters", np.ones(3), ValueError, r"parameters must have shape \(72,\), got \(3,\)"),
        ("parameters", 1.0, ValueError, "parameters must have shape"),
        ("parameters", None, TypeError, "parameters must be an array of numbers"),
        ("parameters", np.ones(72, complex), TypeError, "parameters must be real"),
        ("gradients", np.ones((72, 1)), ValueError, "gradients must have shape"),
        ("weight_hh_l0", np.ones((6, 5)), ValueError, r"weight_hh_l0 must have shape \(6, 6\), got \(6, 5\)"),
        ("weight_hh_l0", "text", TypeError, "weight_hh_l0 must be real numbers"),
        ("dropout", 2, ValueError, "dropout must be a number from 0 to 1"),
        ("recurrent_dropout", None, ValueError, "recurrent_dropout must be a number"),
        ("rng", "x", TypeError, None),
    ):
        with pytest.raises(error, match=message):
            setattr(rnn, name, value)
    np.testing.assert_array_equal(rnn.parameters, before)
    with pytest.raises(TypeError, match="mode must be True or False"):
        rnn.train("yes")
    with pytest.raises(AttributeError, match="'RNN' object has no attribute 'weight_hh_l1'"):
        _ = rnn.weight_hh_l1


X = np.ones((5, 3, 4))
BAD_CALLS = [
    ((np.ones((5, 3, 3)),), {}, ValueError, r"x must have shape \(T, B, 4\) or \(T, 4\), got \(5, 3, 3\)"),
    ((np.ones(4),), {}, ValueError, "x must have shape"),
    ((None,), {}, TypeError, "x must be an array of numbers, got None"),
    ((X.astype(complex),), {}, TypeError, "x must be real numbers"),
    ((X.astype(np.longdouble),), {}, TypeError, "x must be real numbers"),
    ((np.ma.masked_less(X, 2),), {}, TypeError, "x must be an array without masked values"),
    ((X, np.ones((3, 6))), {}, ValueError, r"h0 must have shape \(1, 3, 6\) to match x \(5, 3, 4\), got \(3, 6\)"),
    ((X, np.ones((1, 2, 6))), {}, ValueError, "h0 must have shape"),
    ((X, "zeros"), {}, TypeError, "h0 must be real"),
    ((X, None, [5, 5]), {}, ValueError, r"lengths must have shape \(3,\) to match x \(5, 3, 4\), got \(2,\)"),
    ((X, None, 5), {}, ValueError, "lengths must have shape"),
    ((X, None, [5, 6, 1]), {}, ValueError, "lengths must be from 0 to 5, got 1 to 6"),
    ((X, None, [5, -1, 1]), {}, ValueError, "lengths must be from 0 to 5, got -1 to 5"),
    ((X, None, [1.0, 2.0, 3.0]), {}, TypeError, "lengths must be integers, got dtype float64"),
    ((X,), {"out": np.empty((5, 3, 6))}, TypeError, "out must be a tuple of two arrays or None, got ndarray"),
    ((X,), {"out": (None,)}, TypeError, "out must be a tuple of two arrays"),
    ((X,), {"out": (np.empty((5, 3, 5)), None)}, ValueError, r"out\[0\] must have shape \(5, 3, 6\), got \(5, 3, 5\)"),
    ((X,), {"out": (None, np.empty((3, 6)))}, ValueError, r"out\[1\] must have shape \(1, 3, 6\)"),
    ((X,), {"out": (None, np.empty((1, 3, 6), np.float32))}, ValueError, r"out\[1\] must have dtype float64"),
    ((X,), {"out": ([1.0], None)}, TypeError, r"out\[0\] must be a NumPy array, got list"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD_CALLS)
def test_bad_calls(arguments, options, error, message):
    rnn, x = rnn_and_x()
    expected = rnn(x)[0]
    gradient = rnn.backward(expected).x
    with pytest.raises(error, match=message):
        rnn(*arguments, **options)
    np.testing.assert_array_equal(rnn.backward(expected).x, gradient)  # the last call is still the last one


CASTS = {
    "float64": lambda a: a.astype(np.float64),
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "int64": lambda a: np.round(4 * a).astype(np.int64),
    "int8": lambda a: np.round(4 * a).astype(np.int8),
    "bool": lambda a: a > 0,
    "big-endian": lambda a: a.astype(">f8"),
    "list": lambda a: np.round(4 * a).tolist(),
    "list of integers": lambda a: np.round(4 * a).astype(int).tolist(),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("output_size", [None, 2])
def test_inputs_are_cast(dtype, cast, batch_first, output_size):
    """In every method, to the bits of the same numbers cast beforehand."""
    rnn, x = rnn_and_x(dtype=dtype, batch_first=batch_first, output_size=output_size)
    rng = np.random.default_rng(1)
    out, h_n = rnn(x)
    x, h0, dout, dh_n = (cast(rng.standard_normal(a.shape)) for a in (x, h_n, out, h_n))
    targets, weights = cast(rng.standard_normal(out.shape)), cast(np.abs(rng.standard_normal(out.shape[:2])))
    results = []
    for convert in (lambda a: np.asarray(a, dtype), lambda a: a):
        results.append([*rnn(convert(x), convert(h0))])
        results[-1] += [*rnn.layer_states, *rnn.backward(convert(dout), convert(dh_n))[:2], rnn.gradients.copy()]
        options = {"loss": "squared_error", "h0": convert(h0), "weights": weights}
        results[-1] += [rnn.loss_and_gradients(convert(x), targets, **options)[1].copy()]
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [1j, "1", None, object()], ids=lambda a: type(a).__name__)
def test_inputs_that_are_no_real_numbers(bad):
    rnn, x = rnn_and_x(dtype=np.float32)
    wrong = np.full(x.shape, bad)
    out, h_n = rnn(x)
    with pytest.raises(TypeError, match=r"^x must be "):
        rnn(wrong)
    with pytest.raises(TypeError, match=r"^h0 must be "):
        rnn(x, np.full(h_n.shape, bad))
    with pytest.raises(TypeError, match=r"^dout must be "):
        rnn.backward(np.full(out.shape, bad))
    with pytest.raises(TypeError, match=r"^dh_n must be "):
        rnn.backward(out, np.full(h_n.shape, bad))
    with pytest.raises(TypeError, match=r"^x must be "):
        rnn.loss_and_gradients(wrong, np.zeros(out.shape), loss="squared_error")
    for dtype in (np.float64, np.float16):
        with pytest.raises(ValueError, match=r"^out\[0\] must have dtype float32"):
            rnn(x, out=(out.astype(dtype), None))
        with pytest.raises(ValueError, match=r"^out\[1\] must have dtype float32"):
            rnn.backward(out, out=(None, h_n.astype(dtype)))


@for_each(("T", "B"), [(0, 0), (0, 1), (0, 3), (1, 0), (5, 0), (1, 1), (5, 1), (0, None), (1, None)])
@for_each("I", [1, 3])
@for_each("output_size", [None, 1, 2])
@pytest.mark.parametrize("form", [{}, {"alpha": 0.5}, {"alpha": np.full(4, 0.5), "form": "current"}], ids=str)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
def test_sizes_of_none_and_one(T, B, I, output_size, form, options, dtype):
    rnn = pyrnn.RNN(I, 4, output_size=output_size, rng=0, dtype=dtype, **form, **options)
    first = options.get("batch_first", False) and B is not None
    steps = (T,) if B is None else (B, T) if first else (T, B)
    D, L = 1 + rnn.bidirectional, rnn.num_layers
    x, O = np.ones((*steps, I), dtype), output_size or 4 * D
    for lengths in (None, 0 if B is None else np.zeros(B, int)):
        out, h_n = rnn(x, lengths=lengths)
        assert out.shape == (*steps, O)
        assert h_n.shape == (L * D, *(() if B is None else (B,)), 4)
        assert [a.shape[:-1] for a in rnn.layer_states] == [steps] * (L * D)
        gradients = rnn.backward(np.ones_like(out), np.ones_like(h_n))
        assert gradients.x.shape == x.shape
        assert gradients.h0.shape == h_n.shape
        if x.size == 0 or lengths is not None:
            assert not rnn.gradients[: -O * (D * 4 + 1) if output_size else None].any()
            np.testing.assert_array_equal(gradients.h0, 1)
        for loss, targets in (("squared_error", np.ones_like(out)), ("softmax_cross_entropy", np.zeros(steps, int))):
            value, vector = rnn.loss_and_gradients(x, targets, loss=loss, lengths=lengths)
            assert np.isfinite(vector).all()
            if x.size == 0:
                assert value == 0
                assert not vector.any()


def test_shapes_in_errors_are_the_callers():
    rnn, x = rnn_and_x(batch_first=True)
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, 4\) or \(T, 4\), got \(3, 5, 3\)"):
        rnn(x[..., 1:])
    with pytest.raises(ValueError, match=r"lengths must have shape \(3,\) to match x \(3, 5, 4\), got \(5,\)"):
        rnn(x, lengths=[1] * 5)
    with pytest.raises(ValueError, match=r"targets must have shape \(3, 5\) to match x \(3, 5, 4\), got \(5, 3\)"):
        rnn.loss_and_gradients(x, np.zeros((5, 3), int))


def test_overlaps():
    rnn, x = rnn_and_x(I=6)
    h0 = np.ones((1, 3, 6))
    with pytest.raises(ValueError, match=r"out\[0\] must not overlap an input, but shares memory with x"):
        rnn(x, out=(x, None))
    with pytest.raises(ValueError, match=r"out\[1\] must not overlap an input, but shares memory with h0"):
        rnn(x, h0, out=(None, h0))
    memory = np.empty((5, 3, 6))
    with pytest.raises(ValueError, match=r"out\[1\] must not overlap an input, but shares memory with out\[0\]"):
        rnn(x, out=(memory, memory[:1]))
    with pytest.raises(ValueError, match=r"out\[0\] must not overlap an input, but shares memory with parameters"):
        rnn(x[:1], out=(rnn.parameters[:18].reshape(1, 3, 6), None))
    out, h_n = rnn(x, h0)
    for dx, dh0 in ((x, None), (out, None), (None, h_n), (None, h0)):
        with pytest.raises(ValueError, match="must not overlap"):
            rnn.backward(out, h_n, out=(dx, dh0))
    read_only = np.empty_like(x)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match=r"out\[0\] must be writeable"):
        rnn.backward(out, out=(read_only, None))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((None,), {}, ValueError, "dout or dh_n must be given"),
        ((np.ones((5, 3, 5)),), {}, ValueError, r"dout must have shape \(5, 3, 6\) to match x \(5, 3, 4\)"),
        (("x",), {}, TypeError, "dout must be real"),
        ((None, np.ones((3, 6))), {}, ValueError, r"dh_n must have shape \(1, 3, 6\)"),
        ((None, 1j * np.ones((1, 3, 6))), {}, TypeError, "dh_n must be real"),
        ((np.ones((5, 3, 6)),), {"accumulate": 1}, TypeError, "accumulate must be True or False, got 1"),
        ((np.ones((5, 3, 6)),), {"x_gradient": 1}, TypeError, "x_gradient must be True or False, got 1"),
        (
            (np.ones((5, 3, 6)),),
            {"x_gradient": False, "out": (np.ones((5, 3, 4)), None)},
            ValueError,
            r"out\[0\] must be None without x_gradient, got ndarray",
        ),
        ((np.ones((5, 3, 6)),), {"out": 3}, TypeError, "out must be a tuple of two arrays or None, got int"),
    ],
)
def test_bad_backward(arguments, options, error, message):
    rnn, x = rnn_and_x()
    rnn(x)
    rnn.gradients[:] = 7
    with pytest.raises(error, match=message):
        rnn.backward(*arguments, **options)
    assert (rnn.gradients == 7).all()


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"x": X[..., 1:]}, ValueError, "x must have shape"),
        ({"h0": np.ones((1, 2, 6))}, ValueError, "h0 must have shape"),
        ({"lengths": [9, 1, 1]}, ValueError, "lengths must be from 0 to 5"),
        ({"targets": None}, ValueError, r"targets must have shape \(5, 3\)"),
        ({"targets": np.zeros((5, 3, 1), int)}, ValueError, r"targets must have shape \(5, 3\)"),
        ({"targets": np.zeros((5, 3))}, TypeError, "targets must be integers"),
        ({"targets": np.full((5, 3), 2)}, ValueError, "targets must be classes from 0 to 1"),
        ({"loss": "mse"}, ValueError, "loss must be one of 'softmax_cross_entropy', .*, 'huber', got 'mse'"),
        ({"loss": None}, ValueError, "loss must be one of"),
        ({"loss": "squared_error"}, ValueError, r"targets must have shape \(5, 3, 2\)"),
        ({"weights": np.ones((3, 5))}, ValueError, r"weights must have shape \(5, 3\) to match x"),
        ({"weights": np.ones((5, 3, 2))}, ValueError, r"weights must have shape \(5, 3\) to match x"),
        (
            {"weights": np.ones((5, 3, 1)), "loss": "huber", "targets": np.ones((5, 3, 2))},
            ValueError,
            r"weights must have shape \(5, 3\) or \(5, 3, 2\) to match x",
        ),
        ({"loss": "poisson", "targets": -np.ones((5, 3, 2))}, ValueError, "targets must be not negative for poisson"),
        ({"weights": "1"}, TypeError, "weights must be real"),
        ({"out": np.empty(3)}, ValueError, "out must have shape"),
        ({"out": "x"}, TypeError, "out must be a NumPy array, got str"),
    ],
)
def test_bad_loss_and_gradients(bad, error, message):
    rnn, _ = rnn_and_x(output_size=2)
    rnn.gradients[:] = 7
    with pytest.raises(error, match=message):
        rnn.loss_and_gradients(**{"x": X, "targets": np.zeros((5, 3), int)} | bad)
    assert (rnn.gradients == 7).all()
    with pytest.raises(ValueError, match="out must not overlap an input, but shares memory with parameters"):
        rnn.loss_and_gradients(X, np.zeros((5, 3), int), out=rnn.parameters)


def test_nothing_that_is_given_is_written_to():
    rnn, x = rnn_and_x(num_layers=2, bidirectional=True, dropout=0.5, output_size=2, alpha=0.5, form="current")
    rng = np.random.default_rng(0)
    h0, dh_n = rng.standard_normal((2, *state_shape(rnn, 3)))
    lengths, dout, targets, weights = (
        np.array([5, 2, 3]),
        rng.standard_normal((5, 3, 2)),
        np.ones((5, 3), int),
        x[..., 0],
    )
    arrays = (x, h0, lengths, dout, dh_n, targets, weights, rnn.parameters)
    before = [a.tobytes() for a in arrays]
    for a in arrays[:-1]:
        a.flags.writeable = False
    rnn(x, h0, lengths)
    rnn.backward(dout, dh_n)
    rnn.loss_and_gradients(x, targets, h0=h0, lengths=lengths, weights=weights)
    assert [a.tobytes() for a in arrays] == before


# ---- Its networks ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "nonlinearity": "relu"}, {"alpha": 0.3, "form": "current"}])
@pytest.mark.parametrize("bias", [True, False])
def test_networks_of_layers_compute_what_the_rnn_does(options, bias):
    rnn = pyrnn.RNN(3, 4, 2, bidirectional=True, bias=bias, dtype=np.float64, rng=0, **options)
    x = np.random.default_rng(1).standard_normal((6, 5, 3))
    out, _ = rnn(x)
    for layer in range(2):
        runs = [pyrnn.simulate(rnn.network(layer, way), x, reverse=way == 1) for way in (0, 1)]
        for way, run in enumerate(runs):
            np.testing.assert_array_equal(run.h, rnn.layer_states[2 * layer + way])
        x = np.concatenate([run.read for run in runs], axis=2)
    np.testing.assert_array_equal(x, out)
    assert rnn.network(-1, 1).V is None
    assert rnn.network(0, 0).b is None or bias


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "form": "current"}, {"bias": False}])
def test_the_network_of_one_layer_has_the_output_layer(options):
    rnn = pyrnn.RNN(3, 4, output_size=2, dtype=np.float64, rng=0, **options)
    x = np.random.default_rng(1).standard_normal((6, 5, 3))
    out, _ = rnn(x)
    run = pyrnn.simulate(rnn, x)
    np.testing.assert_array_equal(run.output(), out)
    assert run.network.cell == rnn.cell
    assert np.shares_memory(rnn.network().W, rnn.parameters)
    two = pyrnn.RNN(3, 4, 2, output_size=2, rng=0)
    assert two.network(0).V is None
    np.testing.assert_array_equal(two.network(1).V, two.weight_out)


@pytest.mark.parametrize(
    ("sizes", "options", "arguments", "message"),
    [
        ((3, 4, 2), {}, (), "layer must be given for an RNN of 2 layers"),
        ((3, 4), {"bidirectional": True}, (), "direction must be given for a bidirectional RNN"),
        ((3, 4), {}, (1,), "layer must be an integer from -1 to 0, got 1"),
        ((3, 4), {}, (0, 1), "direction must be an integer from 0 to 0, got 1"),
    ],
)
def test_networks_that_are_not_there(sizes, options, arguments, message):
    with pytest.raises(ValueError, match=message):
        pyrnn.RNN(*sizes, **options).network(*arguments)
    if not arguments:
        with pytest.raises(ValueError, match=message):
            pyrnn.simulate(pyrnn.RNN(*sizes, **options), np.ones((2, 3)))


def test_the_cell_of_an_rnn():
    assert pyrnn.RNN(3, 4).cell == pyrnn.Cell()
    assert pyrnn.RNN(3, 4, alpha=1, form="current").cell == pyrnn.Cell("tanh", 1.0, "current")
    alpha = [0.1, 0.2, 0.3, 1.0]
    assert pyrnn.RNN(3, 4, nonlinearity="relu", alpha=alpha).cell == pyrnn.Cell("relu", alpha)
