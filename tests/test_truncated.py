"""`pyrnn.training.truncated_gradients` and `truncated_updates`: against PyTorch's autograd, window by window."""

import inspect

import numpy as np
import pytest
from helpers import LAYOUTS, assert_close, for_each, forms, network

import pyrnn
from pyrnn import reference
from pyrnn.training import truncated_gradients, truncated_updates

pytestmark = pytest.mark.once

PLAIN = pyrnn.Cell()
FIELDS = ("U", "W", "b", "V", "c", "x", "h0", "alpha")
KS = [(1, 1), (1, 4), (2, 2), (3, 3), (3, 4), (3, 7), (4, 11), (11, 11), (11, 30), (30, 30)]
every_ks = pytest.mark.parametrize(("k1", "k2"), KS)
every_loss = pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])


every_form = pytest.mark.parametrize("cell", forms(4).values(), ids=forms(4))


def problem(loss="squared_error", missing="", cell=PLAIN, **sizes):
    """A network, and the other arguments, of 11 steps."""
    n = network(**{"T": 11, "B": 3, "I": 2, "H": 4, "O": 3} | sizes) | dict.fromkeys(missing.split())
    targets = n["targets"] if loss == "softmax_cross_entropy" else n["h" if n["V"] is None else "numbers"] * 0.5
    others = {"x": n["x"], "targets": targets, "h0": n["h0"], "weights": n["weights"], "loss": loss}
    return pyrnn.Network(*(n[name] for name in "UWbVc"), cell=cell), others


def in_torch(network, x, targets, h0, weights, loss, k1, k2):
    """The updates by autograd: each through a graph of its own, that begins with a state taken as a constant."""
    torch = pytest.importorskip("torch")
    T = len(x)
    cell = network.cell
    phi = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda a: a}[cell.nonlinearity]
    alpha = None if cell.alpha is None else torch.tensor(cell.alpha, dtype=torch.float64)
    given = [*(None if a is None else torch.tensor(a) for a in network[:5]), alpha]
    x, h0 = torch.tensor(x), torch.zeros(*x.shape[1:-1], len(network.U), dtype=torch.float64) if h0 is None else h0
    targets, h = torch.tensor(targets), torch.as_tensor(h0)
    weights = torch.ones(x.shape[:-1]) if weights is None else torch.tensor(weights)

    read = lambda h: phi(h) if cell.current else h

    def step(x, h, U, W, b, V, c, alpha):
        a = x @ U.T + read(h) @ W.T + (0 if b is None else b)
        new = a if cell.current else phi(a)
        return new if alpha is None else (1 - alpha) * h + alpha * new

    states = [h]
    for t in range(T):
        states.append(step(x[t], states[-1], *given))
    for new in range(0, T, k1):
        stop = min(new + k1, T)
        start = max(0, stop - k2)
        leaves = [None if a is None else a.clone().requires_grad_() for a in given]
        window, first = x[start:stop].clone().requires_grad_(), states[start].clone().requires_grad_()
        h, value = first, 0.0
        for t in range(start, stop):
            h = step(window[t - start], h, *leaves)
            if t < new:
                continue
            o = read(h) if leaves[3] is None else read(h) @ leaves[3].T + (0 if leaves[4] is None else leaves[4])
            if loss == "squared_error":
                value = value + (weights[t] * ((o - targets[t]) ** 2).sum(-1)).sum()
            else:
                chosen = torch.log_softmax(o, -1).gather(-1, targets[t].unsqueeze(-1))[..., 0]
                value = value - (weights[t] * chosen).sum()
        value.backward()
        grads = [None if a is None else a.grad for a in (*leaves[:5], window, first, leaves[5])]
        yield start, stop, value.item(), [None if g is None else g.numpy() for g in grads], h.detach().numpy()


@pytest.mark.peer
@every_loss
@every_ks
@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("missing", ["", "b c", "V c", "h0 weights"])
def test_updates_against_torch(loss, k1, k2, B, missing):
    n, others = problem(loss, missing, B=B)
    updates = list(truncated_updates(n, **others, k1=k1, k2=k2))
    expected = list(in_torch(n, **others, k1=k1, k2=k2))
    assert len(updates) == len(expected) == -(-11 // k1)
    for update, (start, stop, value, gradients, h) in zip(updates, expected, strict=True):
        assert (update.start, update.stop) == (start, stop)
        np.testing.assert_allclose(update.loss, value, rtol=1e-12)
        assert_close(update.h, h, 1e-13)
        for name, exact in zip(FIELDS, gradients, strict=True):
            if exact is None:
                assert getattr(update.gradients, name) is None
            else:
                assert_close(getattr(update.gradients, name), exact, 1e-12)


@pytest.mark.peer
@every_ks
@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("missing", ["", "V c", "h0 weights"])
def test_sum_of_the_updates(k1, k2, B, missing):
    n, others = problem("squared_error", missing, B=B)
    result = truncated_gradients(n, **others, k1=k1, k2=k2)
    expected = dict.fromkeys(FIELDS[:5], 0.0) | {"x": np.zeros_like(others["x"]), "h0": np.zeros(result.h.shape)}
    expected["alpha"] = None
    loss = 0.0
    for start, stop, value, gradients, h in in_torch(n, **others, k1=k1, k2=k2):
        loss, last = loss + value, h
        for name, gradient in zip(FIELDS[:5], gradients, strict=False):
            expected[name] = None if gradient is None else expected[name] + gradient
        expected["x"][start:stop] += gradients[5]
        if start == 0:
            expected["h0"] += gradients[6]
    assert (result.start, result.stop) == (0, 11)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-12)
    assert_close(result.h, last, 1e-13)
    for name, exact in expected.items():
        if exact is None:
            assert getattr(result.gradients, name) is None
        else:
            assert_close(getattr(result.gradients, name), exact, 1e-12)


@every_loss
@pytest.mark.parametrize("k1", [1, 2, 5, 11, 40])
@pytest.mark.parametrize("k2", [11, 40, 10**30])
def test_far_enough_back_is_the_whole_gradient(dtype, loss, k1, k2):
    if k2 < k1:
        k2 = k1
    n, others = problem(loss, dtype=dtype)
    value, gradients = pyrnn.loss_and_gradients(n, **others)
    result = truncated_gradients(n, **others, k1=k1, k2=k2)
    np.testing.assert_allclose(result.loss, value, rtol=1e-6 if dtype == np.float32 else 1e-13)
    for name in FIELDS[:-1]:
        assert getattr(result.gradients, name).dtype == dtype
        assert_close(getattr(result.gradients, name), getattr(gradients, name), 1e-5 if dtype == np.float32 else 1e-13)


# ---- Every form of the cell -----------------------------------------------------------------------------------------
@pytest.mark.peer
@every_form
@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "squared_error"])
@pytest.mark.parametrize(("k1", "k2"), [(1, 4), (3, 7)])
@pytest.mark.parametrize("B", [None, 3])
@pytest.mark.parametrize("missing", ["", "V c"])
def test_forms_against_torch(cell, loss, k1, k2, B, missing):
    n, others = problem(loss, missing, cell, B=B)
    updates = list(truncated_updates(n, **others, k1=k1, k2=k2))
    expected = list(in_torch(n, **others, k1=k1, k2=k2))
    alpha = 0.0
    for update, (start, stop, value, gradients, h) in zip(updates, expected, strict=True):
        assert (update.start, update.stop) == (start, stop)
        np.testing.assert_allclose(update.loss, value, rtol=1e-12)
        assert_close(update.h, h, 1e-13)
        for name, exact in zip(FIELDS, gradients, strict=True):
            if exact is None:
                assert getattr(update.gradients, name) is None
            else:
                assert_close(np.asarray(getattr(update.gradients, name)), exact, 1e-11)
        alpha = None if gradients[7] is None else alpha + gradients[7]
    total = truncated_gradients(n, **others, k1=k1, k2=k2)
    if alpha is None:
        assert total.gradients.alpha is None
    else:
        assert_close(np.asarray(total.gradients.alpha), alpha, 1e-11)
        assert np.ndim(total.gradients.alpha) == np.ndim(cell.alpha)


@every_form
@pytest.mark.parametrize("k1", [1, 4, 11])
def test_forms_far_enough_back_are_the_whole_gradient(dtype, cell, k1):
    """Of the reference, and of `loss_and_gradients`."""
    n, others = problem(dtype=dtype, cell=cell)
    result = truncated_gradients(n, **others, k1=k1, k2=11)
    wide = {name: a.astype(float) if isinstance(a, np.ndarray) else a for name, a in others.items()}
    double = pyrnn.Network(*(a.astype(float) for a in n[:5]), cell=cell)
    for value, gradients in (pyrnn.loss_and_gradients(n, **others), reference.loss_and_gradients(double, **wide)):
        np.testing.assert_allclose(result.loss, value, rtol=1e-5 if dtype == np.float32 else 1e-13)
        for name, exact in gradients._asdict().items():
            a = getattr(result.gradients, name)
            if exact is None:
                assert a is None
            else:
                assert a.dtype == dtype
                assert_close(a, exact, 1e-4 if dtype == np.float32 else 1e-12)


def test_an_rnn_whose_parameters_change():
    rnn = pyrnn.RNN(2, 4, alpha=0.3, output_size=3, dtype=float, rng=0)
    _, others = problem(T=6, B=2)
    updates = truncated_updates(rnn, **others, k1=3, k2=3)
    first = next(updates)
    rnn.parameters *= 1.5
    second = next(updates)
    rest = {name: others[name][3:] for name in ("x", "targets", "weights")}
    value, gradients = pyrnn.loss_and_gradients(rnn, **rest, h0=first.h, loss=others["loss"])
    np.testing.assert_allclose(second.loss, value, rtol=1e-14)
    assert_close(second.gradients.W, gradients.W, 1e-13)


def test_truncation_leaves_something_out():
    """Otherwise the tests above would compare the same with the same."""
    n, others = problem()
    _, whole = pyrnn.loss_and_gradients(n, **others)
    for k1, k2 in [(1, 1), (2, 4), (3, 5)]:
        part = truncated_gradients(n, **others, k1=k1, k2=k2).gradients
        assert np.abs(part.W - whole.W).max() > 1e-6 * np.abs(whole.W).max()
        np.testing.assert_allclose(part.V, whole.V, rtol=1e-12)  # no time between the loss and V


@pytest.mark.parametrize("B", [None, 2])
@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (2, 6)])
def test_states_carry_over(B, k1, k2):
    """Two halves, the second from the state where the first one ended, have the losses of the whole."""
    n, others = problem(T=12, B=B)
    whole = list(truncated_updates(n, **others, k1=k1, k2=k2))
    first, second = ({n: others[n][part] for n in ("x", "targets", "weights")} for part in (slice(6), slice(6, None)))
    h = truncated_gradients(n, **first, h0=others["h0"], loss=others["loss"], k1=k1, k2=k2).h
    losses = [
        update.loss
        for part, h0 in ((first, others["h0"]), (second, h))
        for update in truncated_updates(n, **part, h0=h0, loss=others["loss"], k1=k1, k2=k2)
    ]
    np.testing.assert_allclose(losses, [update.loss for update in whole], rtol=1e-13)
    assert_close(h, pyrnn.simulate(n, first["x"], others["h0"]).h[-1], 1e-13)


@pytest.mark.parametrize("k2", [1, 2, 5, 6, 64])
def test_long_sequences_move_their_window(k2):
    """Far more steps than the window holds."""
    n, others = problem(T=500, B=2)
    h = pyrnn.simulate(n, others["x"], others["h0"]).h
    for update in truncated_updates(n, **others, k1=1, k2=k2):
        assert_close(update.h, h[update.stop - 1], 1e-13)
        assert update.stop - update.start == min(k2, update.stop)
    o = pyrnn.output(h, n.V, n.c)
    _, do = pyrnn.squared_error(o, others["targets"], others["weights"])
    dh = pyrnn.output_gradients(do, h, n.V).h
    dh[:-1] = 0
    last = pyrnn.backward(dh[-k2:], h[-k2:], others["x"][-k2:], *n[:2], h[-k2 - 1])
    assert_close(update.gradients.W, last.W, 1e-12)
    assert_close(update.gradients.x, last.x, 1e-12)


# ---- Parameters that change -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["in place", "sent"])
def test_changed_parameters_count_from_the_next_step_on(how):
    n, others = problem(T=6, B=2)
    changed = n.unravel(n.ravel() * 1.5)
    updates = truncated_updates(n, **others, k1=3, k2=3)
    first = next(updates)
    if how == "sent":
        second = updates.send(changed)
    else:
        for a, new in zip(n.arrays, changed.arrays, strict=True):
            a[...] = new
        second = next(updates)
    rest = {name: others[name][3:] for name in ("x", "targets", "weights")}
    value, gradients = pyrnn.loss_and_gradients(changed, **rest, h0=first.h, loss=others["loss"])
    np.testing.assert_allclose(second.loss, value, rtol=1e-14)
    for name in FIELDS:
        assert_close(getattr(second.gradients, name), getattr(gradients, name), 1e-13)
    assert next(updates, None) is None


def test_sent_parameters_keep_their_shapes():
    n, others = problem()
    updates = truncated_updates(n, **others, k1=3, k2=3)
    next(updates)
    with pytest.raises(ValueError, match=r"^W must keep its shape \(4, 4\) from update to update, got \(5, 5\)$"):
        updates.send(n._replace(W=np.ones((5, 5))))


@pytest.mark.parametrize(
    ("cell", "other"),
    [
        (pyrnn.Cell(), pyrnn.Cell(alpha=0.5)),
        (pyrnn.Cell(alpha=0.5), pyrnn.Cell()),
        (pyrnn.Cell(alpha=0.5), pyrnn.Cell(alpha=0.5, form="current")),
    ],
)
def test_sent_networks_keep_the_form_of_their_cell(cell, other):
    n, others = problem(cell=cell)
    updates = truncated_updates(n, **others, k1=3, k2=3)
    next(updates)
    with pytest.raises(ValueError, match=r"^cell must keep its form from update to update, Cell.*, got Cell"):
        updates.send(n._replace(cell=other))


def test_yielded_arrays_are_not_used_again():
    n, others = problem()
    updates = list(truncated_updates(n, **others, k1=2, k2=4))
    spoiled = []
    for update in truncated_updates(n, **others, k1=2, k2=4):
        spoiled.append(update.loss)
        for a in (*update.gradients[:7], update.h):
            a[...] = np.nan
    assert spoiled == [update.loss for update in updates]


# ---- Edges and errors -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("B", [None, 0, 1, 3])
@pytest.mark.parametrize("T", [0, 1, 3])
@pytest.mark.parametrize("H", [0, 1, 3])
def test_edge_sizes(T, B, H):
    n, others = problem(T=T, B=B, H=H)
    value, gradients = pyrnn.loss_and_gradients(n, **others)
    result = truncated_gradients(n, **others, k1=2, k2=3)
    np.testing.assert_allclose(result.loss, value, rtol=1e-13)
    for a, exact in zip(result.gradients, gradients, strict=True):
        assert_close(a, exact, 1e-13)
    if T == 0:
        np.testing.assert_array_equal(result.h, others["h0"])
        assert list(truncated_updates(n, **others, k1=2, k2=3)) == []


def test_inputs_are_not_written():
    n, others = problem()
    given = [*n.arrays, *(a for a in others.values() if isinstance(a, np.ndarray))]
    before = [a.tobytes() for a in given]
    for a in given:
        a.flags.writeable = False
    truncated_gradients(n, **others, k1=2, k2=5)
    assert [a.tobytes() for a in given] == before


@for_each("layout", LAYOUTS)
def test_layouts(layout):
    n, others = problem()
    expected = truncated_gradients(n, **others, k1=2, k2=5)
    others |= {name: layout(others[name]) for name in ("x", "targets", "h0", "weights")}
    result = truncated_gradients(pyrnn.Network(*map(layout, n[:5])), **others, k1=2, k2=5)
    for a, exact in zip(result.gradients, expected.gradients, strict=True):
        assert_close(a, exact, 1e-13)


def test_nan_spreads_as_far_as_it_does_in_time():
    n, others = problem(B=2)
    others["x"][6, 1, 0] = np.nan
    result = truncated_gradients(n, **others, k1=2, k2=4)
    assert np.isnan(result.loss)
    assert np.isfinite(result.gradients.x[:, 0]).all()
    assert np.isnan(result.gradients.x[6:, 1]).all()
    assert np.isnan(result.gradients.W).all()


@pytest.mark.parametrize("function", [truncated_gradients, truncated_updates])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"k1": 0}, ValueError, "k1 must be a positive integer, got 0"),
        ({"k1": -1}, ValueError, "k1 must be a positive integer, got -1"),
        ({"k1": 2.0}, TypeError, r"k1 must be a positive integer, got 2\.0"),
        ({"k1": None}, TypeError, "k1 must be a positive integer, got None"),
        ({"k2": "4"}, TypeError, "k2 must be a positive integer, got '4'"),
        ({"k2": 2}, ValueError, "k2 must not be less than k1, 3, got 2"),
        ({"loss": "mse"}, ValueError, "loss must be one of .*, got 'mse'"),
        ({"network": (1, 2)}, TypeError, "network must be a pyrnn.Network or .*, got tuple; Network.* makes one"),
        ({"network": 1}, TypeError, "network must be a pyrnn.Network or a pyrnn.RNN, got int"),
        ({"R": np.ones((4, 3))}, ValueError, "network must be without R here: .*"),
        ({"x": None}, TypeError, "x must be an array of numbers, got None"),
        ({"x": np.ones((11, 3, 5))}, ValueError, r"U must have shape \(H, 5\) .*"),
        ({"x": np.ones(4)}, ValueError, r"x must have shape \(T, B, I\) or \(T, I\), got \(4,\)"),
        ({"h0": np.ones(4)}, ValueError, r"h0 must have shape \(3, 4\) .*, got \(4,\)"),
        ({"weights": np.ones(11)}, ValueError, r"weights must have shape \(11, 3\) .*, got \(11,\)"),
        ({"weights": np.ones((11, 3), complex)}, TypeError, "weights must be real numbers .*, got dtype complex128"),
        ({"targets": None}, TypeError, "targets must be integers, .*"),
        ({"targets": np.ones((11, 3))}, TypeError, "targets must be integers, .*, got dtype float64"),
        ({"targets": np.full((11, 3), 3)}, ValueError, r"targets must be classes from 0 to 2, got 3 at \(0, 0\)"),
        ({"W": np.ones((4, 5))}, ValueError, r"W must have shape \(4, 4\) .*"),
        ({"b": np.ones(5)}, ValueError, r"b must have shape \(4,\) .*"),
        ({"c": np.ones(5)}, ValueError, r"c must have shape \(3,\) .*"),
        ({"V": None}, ValueError, "network must have V where it has c, got V None"),
        ({"V": np.ones((3, 5))}, ValueError, r"V must have shape \(O, 4\) .*"),
    ],
)
def test_errors(function, changes, error, message):
    """When it is called: also by the generator."""
    n, others = problem("softmax_cross_entropy")
    in_network = {name: a for name, a in changes.items() if name in n._fields}
    given = {"network": n._replace(**in_network), "k1": 3, "k2": 5} | others
    given |= {name: a for name, a in changes.items() if name not in in_network}
    with pytest.raises(error, match=f"^{message}$"):
        function(**given)


def test_signatures_agree():
    first, second = (inspect.signature(f).parameters for f in (truncated_gradients, truncated_updates))
    assert first == second
