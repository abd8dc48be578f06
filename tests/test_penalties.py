"""Penalties of rates, and of gradients that vanish: values and gradients against autograd and differences; lengths."""

import itertools

import numpy as np
import pytest
from helpers import central_differences, for_each

import pyrnn
from pyrnn.training import L2, SGD, RateChange, RatesL1, RatesL2, Vanishing

pytestmark = [pytest.mark.once]

T, B, I, H, O = 6, 4, 2, 5, 3
LENGTHS = np.array([6, 1, 0, 4])
NETWORKS = {
    "plain": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True, "nonlinearity": "softplus"},
    "leaky rates": {"alpha": 0.3, "num_layers": 2},
    "leaky currents": {"alpha": 0.3, "form": "current", "nonlinearity": "softplus", "bidirectional": True},
    "no output layer": {"output_size": None, "batch_first": True, "num_layers": 2},
}
PENALTIES = {"l2": RatesL2, "l1": RatesL1, "change": RateChange}


def rnn_of(dtype=np.float64, **options):
    return pyrnn.RNN(I, H, **{"output_size": O, "dtype": dtype, "rng": 0} | options)


def inputs(rnn, seed=0):
    """x, and what a loss sends into the outputs."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((B, T, I) if rnn.batch_first else (T, B, I)).astype(rnn.dtype)
    return x, rng.standard_normal(rnn(x)[0].shape).astype(rnn.dtype)


def sent(rnn, layer):
    """What a layer sends up, time first."""
    D = 1 + rnn.bidirectional
    of_all = rnn.layer_rates if rnn.form == "current" else rnn.layer_states
    both = np.concatenate(of_all[layer * D : (layer + 1) * D], axis=-1)
    return both.swapaxes(0, 1) if rnn.batch_first else both


def mean(name, layers, lengths):
    """The penalty from its formula, sequence after sequence, of arrays of NumPy or PyTorch [T, B, n]."""
    total, count = 0, 0
    for r, (b, n) in itertools.product(layers, enumerate(lengths)):
        rows = r[:n, b]
        rows = rows[1:] - rows[:-1] if name == "change" else rows
        total = total + (abs(rows) if name == "l1" else rows**2).sum()
        count += int(np.prod(rows.shape))
    return total / count


def with_penalties(rnn, x, do, lengths, penalties):
    """The sum of the values; the gradients are in rnn.gradients."""
    values = []
    rnn(x, lengths=lengths)
    rnn.backward(do, rates=lambda *at: values.extend(float(p.add_to_rates(rnn, *at)) for p in penalties))
    return sum(values)


@for_each("network", list(NETWORKS))
@for_each("name", list(PENALTIES))
@for_each("lengths", [None, LENGTHS])
@for_each("of", [None, 0, (0,)])
def test_values_and_gradients_against_differences(network, name, lengths, of):
    rnn = rnn_of(**NETWORKS[network])
    x, do = inputs(rnn)
    padded = np.arange(T)[:, np.newaxis] >= (np.full(B, T) if lengths is None else lengths)
    do[padded.T if rnn.batch_first else padded] = 0
    layers = range(rnn.num_layers) if of is None else [0]
    there = [T] * B if lengths is None else lengths

    def total(p):
        rnn.parameters = p
        o, _ = rnn(x, lengths=lengths)
        return (o * do).sum() + 0.7 * mean(name, [sent(rnn, layer) for layer in layers], there)

    first = rnn.parameters.copy()
    value = with_penalties(rnn, x, do, lengths, [PENALTIES[name](0.7, of)])
    gradient = rnn.gradients.copy()
    assert value == pytest.approx(total(first) - (rnn(x, lengths=lengths)[0] * do).sum(), rel=1e-12, abs=1e-12)
    expected = central_differences(total, {"p": first})["p"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


def torch_sent(torch, rnn, parameters, x, lengths):
    """What each layer sends up [T, B, D H], by a loop over sequences and steps that autograd follows."""
    phi = {"tanh": torch.tanh, "softplus": torch.nn.functional.softplus}[rnn.nonlinearity]
    leaky, results, below = rnn.alpha != 1, [], x
    for layer in range(rnn.num_layers):
        ways = []
        for way in ("", "_reverse")[: 1 + rnn.bidirectional]:
            U, W, b, d = (parameters[f"{n}_l{layer}{way}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            rows = [[torch.zeros(H, dtype=x.dtype)] * B for _ in range(T)]
            for i, n in enumerate(lengths):
                h = torch.zeros(H, dtype=x.dtype)
                for t in range(n) if way == "" else reversed(range(n)):
                    if rnn.form == "current":
                        h = (1 - rnn.alpha) * h + rnn.alpha * (U @ below[t, i] + b + d + W @ phi(h))
                        rows[t][i] = phi(h)
                    else:
                        r = phi(U @ below[t, i] + b + d + W @ h)
                        rows[t][i] = h = (1 - rnn.alpha) * h + rnn.alpha * r if leaky else r
            ways.append(torch.stack([torch.stack(row) for row in rows]))
        below = torch.cat(ways, dim=-1)
        results.append(below)
    return results


@pytest.mark.peer
@for_each("network", list(NETWORKS))
@for_each("name", list(PENALTIES))
@for_each("lengths", [None, LENGTHS])
def test_values_and_gradients_against_autograd(dtype, network, name, lengths):
    torch = pytest.importorskip("torch")
    rnn = rnn_of(dtype, **NETWORKS[network])
    x, do = inputs(rnn)
    there = [T] * B if lengths is None else lengths.tolist()
    leaves = {n: torch.tensor(p.astype(np.float64), requires_grad=True) for n, p in rnn.named_parameters()}
    first = (lambda a: a.swapaxes(0, 1)) if rnn.batch_first else (lambda a: a)
    layers = torch_sent(torch, rnn, leaves, torch.tensor(first(x).astype(np.float64)), there)
    o = layers[-1] if rnn.output_size is None else layers[-1] @ leaves["weight_out"].T + leaves["bias_out"]
    exists = torch.tensor(np.arange(T)[:, np.newaxis] < np.array(there))[..., np.newaxis]
    expected = 0.7 * mean(name, layers, there)
    (expected + (torch.where(exists, o, 0) * torch.tensor(first(do).astype(np.float64))).sum()).backward()

    value = with_penalties(rnn, x, do, lengths, [PENALTIES[name](0.7)])
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    assert value == pytest.approx(expected.item(), rel=tolerance)
    for n, gradient in rnn.named_gradients():
        exact = leaves[n].grad.numpy()
        np.testing.assert_allclose(gradient, exact, rtol=0, atol=tolerance * max(1, np.abs(exact).max()), err_msg=n)


def test_what_is_behind_the_ends_plays_no_part():
    """Not in the value, and not in the gradient, whatever is there."""
    rates, gradient = np.random.default_rng(0).standard_normal((2, T, B, H))
    for name, penalty in PENALTIES.items():
        rnn = rnn_of()
        rnn(np.zeros((T, B, I)), lengths=LENGTHS)
        expected, results = None, []
        for bad in (0.0, np.nan, np.inf):
            r, g = rates.copy(), gradient.copy()
            behind = np.arange(T)[:, np.newaxis] >= LENGTHS
            r[behind] = g[behind] = bad
            tape = rnn._last_tape()._replace(states=[r])
            value = penalty(0.5).add_to_rates(rnn, tape, 0, g)
            results.append((value, g[~behind]))
            np.testing.assert_array_equal(g[behind], bad)
        expected = 0.5 * mean(name, [rates], LENGTHS)
        for value, g in results:
            assert value == pytest.approx(expected, rel=1e-13)
            np.testing.assert_array_equal(g, results[0][1])


def test_no_step_at_all():
    rnn = rnn_of()
    x, do = inputs(rnn)
    for penalty in PENALTIES.values():
        assert with_penalties(rnn, x, do, np.zeros(B, int), [penalty(0.5)]) == 0
        assert with_penalties(rnn, x[:0], do[:0], None, [penalty(0.5)]) == 0
    assert with_penalties(rnn, x, do, np.ones(B, int), [RateChange(0.5)]) == 0


@for_each("units", [0, 1, 7, 8, 9, 16, 50])
@for_each("name", list(PENALTIES))
def test_every_number_of_units(dtype, units, name):
    rng = np.random.default_rng(units)
    r, g = rng.standard_normal((2, T, B, units)).astype(dtype)
    rnn = rnn_of(dtype)
    rnn(np.zeros((T, B, I)))
    tape = rnn._last_tape()._replace(states=[r])
    after = g.copy()
    value = PENALTIES[name](0.5).add_to_rates(rnn, tape, 0, after)
    if units == 0:
        assert value == 0
        return
    wide = r.astype(np.float64)
    change = np.diff(wide, axis=0)
    if name == "change":
        n, d = change.size, np.zeros_like(wide)
        d[1:] += 2 * change
        d[:-1] -= 2 * change
    else:
        n, d = r.size, 2 * wide if name == "l2" else np.sign(wide)
    assert value == pytest.approx(0.5 * mean(name, [wide], [T] * B), rel=1e-13 if dtype == np.float64 else 1e-6)
    np.testing.assert_allclose(after, g + 0.5 / n * d, rtol=0, atol=16 * np.finfo(dtype).eps)


def test_l1_at_zero_has_no_gradient():
    rnn = rnn_of()
    rnn(np.zeros((T, B, I)))
    g = np.zeros((T, B, H))
    tape = rnn._last_tape()._replace(states=[np.zeros((T, B, H))])
    assert RatesL1(1.0).add_to_rates(rnn, tape, 0, g) == 0
    np.testing.assert_array_equal(g, 0)


# ---- In fit ---------------------------------------------------------------------------------------------------------
def data_of(rnn, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((T, B, I)), rng.integers(0, O, (T, B))


OPTIONS = {"loss": "softmax_cross_entropy", "steps": 1, "optimizer": SGD(lr=1.0)}


def step_of(penalties, **network):
    """The gradient that one step of fit takes, and the penalty in the record."""
    rnn = rnn_of(**network)
    first = rnn.parameters.copy()
    history = pyrnn.fit(rnn, data_of(rnn), penalties=penalties, **OPTIONS)
    return first - rnn.parameters, history[0].get("penalty")


def test_names_and_objects_in_fit():
    plain, nothing = step_of(None)
    assert nothing is None
    names = {"rates_l2": RatesL2(0.3), "rates_l1": RatesL1(0.2), "rate_change": RateChange(0.1)}
    values, parts = 0, 0
    for name, penalty in names.items():
        by_name, by_object = step_of({name: penalty.strength}), step_of([penalty])
        np.testing.assert_array_equal(by_name[0], by_object[0])
        assert by_name[1] == by_object[1] > 0
        assert np.abs(by_name[0] - plain).max() > 1e-5
        values, parts = values + by_name[1], parts + by_name[0] - plain
    together, value = step_of({name: penalty.strength for name, penalty in names.items()} | {"l2": 0.1})
    weights = step_of({"l2": 0.1})
    np.testing.assert_allclose(together, plain + parts + weights[0] - plain, rtol=0, atol=1e-14)
    assert value == pytest.approx(values + weights[1], rel=1e-13)


def test_of_sequences_of_different_lengths_in_fit():
    """The record has the mean over the steps that exist."""
    rng = np.random.default_rng(0)
    data = [(rng.standard_normal((n, I)), rng.integers(0, O, n)) for n in (3, 6, 1)]
    rnn = rnn_of()
    rates = [rnn(x)[0] is None or rnn.layer_states[0] for x, _ in data]
    expected = 0.5 * np.concatenate(rates).__pow__(2).mean()
    history = pyrnn.fit(rnn, data, penalties={"rates_l2": 0.5}, **OPTIONS)
    assert history[0]["penalty"] == pytest.approx(expected, rel=1e-12)


def test_a_penalty_of_rates_lowers_the_rates():
    sizes = []
    for penalties in (None, {"rates_l2": 5.0}):
        rnn = rnn_of(nonlinearity="relu", noise=0.1, alpha=0.5)
        x, y = data_of(rnn)
        pyrnn.fit(rnn, (x, y), loss="softmax_cross_entropy", steps=50, penalties=penalties)
        rnn.eval()(x)
        sizes.append((rnn.layer_states[0] ** 2).mean())
    assert sizes[1] < 0.5 * sizes[0]


class Own:
    """A penalty of somebody else's: the mean of r⁴ of the first layer, and nothing of the parameters."""

    def check(self, rnn):
        pass

    def add_to_rates(self, rnn, tape, layer, gradient):
        r = tape.sent(layer)
        gradient += 4 * r**3 / r.size
        return (r**4).mean()


def test_a_penalty_of_ones_own():
    rnn = rnn_of()
    x, _ = data_of(rnn)
    rnn(x)
    expected = (rnn.layer_states[0] ** 4).mean()
    gradient, value = step_of([Own(), L2(0.1)])
    assert value == pytest.approx(expected + step_of({"l2": 0.1})[1], rel=1e-12)
    assert np.abs(gradient - step_of({"l2": 0.1})[0]).max() > 1e-4


# ---- Gradients that vanish ------------------------------------------------------------------------------------------
@for_each("network", ["plain", "leaky rates", "leaky currents"])
@for_each("variant", ["published", "book"])
def test_vanishing_is_the_regulariser_of_the_loss(network, variant):
    options = NETWORKS[network] | {"num_layers": 1, "bidirectional": False}
    plain, _ = step_of(None, **options)
    gradient, value = step_of([Vanishing(0.3, variant)], **options)
    rnn = rnn_of(**options)
    x, y = data_of(rnn)
    run = pyrnn.simulate(rnn.network(), x)
    _, do = pyrnn.softmax_cross_entropy(rnn(x)[0], y)
    at_rates = do / (T * B) @ rnn.weight_out
    dh = rnn.cell.slope(run.rates) * at_rates if rnn.form == "current" else at_rates
    omega, expected = pyrnn.training.vanishing_regularizer(run, run.state_gradients(dh), variant=variant)
    assert value == pytest.approx(0.3 * omega, rel=1e-10)
    rnn.parameters = gradient - plain
    np.testing.assert_allclose(rnn.weight_hh_l0, 0.3 * expected.W, rtol=1e-8, atol=1e-12)
    rnn.weight_hh_l0 = np.zeros((H, H))
    np.testing.assert_array_equal(rnn.parameters, 0)


def test_vanishing_of_constrained_weights_is_that_of_the_effective_ones():
    """The gradient goes on to the raw weights, as that of the loss does."""
    constraint = pyrnn.training.Constraint(mask=~np.eye(H, dtype=bool), signs=np.where(np.arange(H) < 3, 1, -1))
    constrained = {"constraints": {"weight_hh_l0": constraint}}
    plain, _ = step_of(None, **constrained)
    gradient, value = step_of([Vanishing(0.3)], **constrained)
    rnn = rnn_of(**constrained)
    x, y = data_of(rnn)
    run = pyrnn.simulate(rnn.network(), x)
    _, do = pyrnn.softmax_cross_entropy(rnn(x)[0], y)
    grad_h = run.state_gradients(do / (T * B) @ rnn.weight_out)
    omega, expected = pyrnn.training.vanishing_regularizer(run, grad_h, variant="published")
    assert value == pytest.approx(0.3 * omega, rel=1e-10)
    raw = rnn.weight_hh_l0.copy()
    rnn.parameters = gradient - plain
    np.testing.assert_allclose(rnn.weight_hh_l0, 0.3 * constraint.gradient(raw, expected.W), rtol=1e-8, atol=1e-12)
    assert np.abs(rnn.weight_hh_l0).max() > 1e-6


@pytest.mark.peer
def test_vanishing_against_autograd():
    """Omega as the paper has it: a function of W, with h and its gradients held constant."""
    torch = pytest.importorskip("torch")
    rnn = rnn_of()
    x, y = data_of(rnn)
    h = [torch.zeros(B, H, dtype=torch.float64)]
    a = {n: torch.tensor(p) for n, p in rnn.named_parameters()}
    for row in torch.tensor(x):
        h.append(
            torch.tanh(row @ a["weight_ih_l0"].T + h[-1] @ a["weight_hh_l0"].T + a["bias_ih_l0"] + a["bias_hh_l0"])
        )
        h[-1].requires_grad_() if len(h) == 2 else h[-1].retain_grad()
    o = torch.stack(h[1:]) @ a["weight_out"].T + a["bias_out"]
    torch.nn.functional.cross_entropy(o.reshape(-1, O), torch.tensor(y).reshape(-1)).backward()
    W = a["weight_hh_l0"].clone().requires_grad_()
    terms = []
    for state in h[1:]:
        g = state.grad
        handed = ((1 - state.detach() ** 2) * g) @ W
        terms.append((handed**2).sum(-1) / (g**2).sum(-1) - 1)
    omega = (torch.stack(terms) ** 2).mean()
    omega.backward()
    gradient, value = step_of({"vanishing": 0.3})
    assert value == pytest.approx(0.3 * omega.item(), rel=1e-9)
    rnn.parameters = gradient - step_of(None)[0]
    np.testing.assert_allclose(rnn.weight_hh_l0, 0.3 * W.grad.numpy(), rtol=1e-7, atol=1e-12)


# ---- Arguments ------------------------------------------------------------------------------------------------------
@for_each(
    ("make", "error", "message"),
    [
        (lambda: RatesL2(-1), ValueError, "strength must be a finite number and not negative, got -1"),
        (lambda: RatesL1("1"), TypeError, "strength must be a number, got '1'"),
        (lambda: RateChange(np.nan), ValueError, "strength must be a finite number and not negative, got nan"),
        (lambda: RatesL2(1, of="0"), TypeError, "of must be the number of a layer or several, got '0'"),
        (lambda: RatesL2(1, of=True), TypeError, "of must be the number of a layer or several, got True"),
        (lambda: RatesL2(1, of=()), TypeError, r"of must be the number of a layer or several, got \(\)"),
        (lambda: RatesL2(1, of=[0, 0]), ValueError, r"of must be different layers, got \[0, 0\]"),
        (lambda: RatesL2(1, of=1.0), TypeError, "of must be the number of a layer or several, got 1.0"),
        (lambda: RatesL2(1, of=2).check(rnn_of(num_layers=2)), ValueError, "of must be layers .* 0 to 1, got 2"),
        (lambda: RatesL2(1, of=-1).check(rnn_of()), ValueError, "of must be layers .* 0 to 0, got -1"),
        (lambda: Vanishing(-1), ValueError, "strength must be a finite number and not negative, got -1"),
        (lambda: Vanishing(1, "paper"), ValueError, "variant must be one of 'book', 'published', got 'paper'"),
        (lambda: Vanishing(1).check(rnn_of(num_layers=2)), ValueError, "Vanishing needs an RNN of one layer"),
        (lambda: Vanishing(1).check(rnn_of(bidirectional=True)), ValueError, "Vanishing needs an RNN of one layer"),
        (lambda: Vanishing(1).check(rnn_of(recurrent_dropout=0.1)), ValueError, "without recurrent_dropout, got 0.1"),
        (lambda: step_of({"rates": 1}), ValueError, "penalties must have names among .*'rate_change', .*, got 'rates'"),
        (lambda: step_of([type("P", (), {"check": print})()]), TypeError, "penalties must be objects with the methods"),
        (lambda: step_of([type("P", (), {"add": print})()]), TypeError, "penalties must be objects with the methods"),
        (lambda: step_of([RatesL2(1, of=1)]), ValueError, "of must be layers of the RNN, from 0 to 0, got 1"),
        (lambda: step_of([Vanishing(1)], num_layers=2), ValueError, "Vanishing needs an RNN of one layer"),
    ],
)
def test_arguments_that_do_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_rates_of_backward_must_be_a_function():
    rnn = rnn_of()
    o, _ = rnn(np.zeros((T, B, I)))
    with pytest.raises(TypeError, match=r"rates must be a function of tape, layer and gradient, got 1\.0"):
        rnn.backward(o, rates=1.0)


def test_what_backward_is_given_is_not_written():
    """Also where there is no output layer, and the gradient at the rates is that of the caller."""
    for options in (NETWORKS["no output layer"], NETWORKS["plain"]):
        rnn = rnn_of(**options)
        x, do = inputs(rnn)
        before = do.copy()
        with_penalties(rnn, x, do, None, [RatesL2(1.0)])
        np.testing.assert_array_equal(do, before)


def test_layers_from_the_top_down():
    rnn, seen = rnn_of(num_layers=3, alpha=0.5, form="current"), []
    x, do = inputs(rnn)

    def hook(tape, layer, dr):
        assert dr.shape == tape.sent(layer).shape == (T, B, H)
        assert dr.flags.c_contiguous
        seen.append(layer)

    rnn(x)
    rnn.backward(do, rates=hook)
    assert seen == [2, 1, 0]
    np.testing.assert_array_equal(rnn.gradients, (rnn.backward(do), rnn.gradients)[1])


def test_backward_layers_without_arrays_of_the_caller():
    """The same gradients as RNN.backward, for which it writes into the parameters' gradients."""
    from pyrnn.layers import backward_layers, forward_layers

    rnn = rnn_of(num_layers=2, alpha=0.3, output_size=None)
    x, do = inputs(rnn)
    hook = lambda tape, layer, dr: RateChange(0.7).add_to_rates(rnn, tape, layer, dr)
    rnn(x)
    rnn.backward(do, rates=hook)
    tape = forward_layers(x, [[rnn.network(layer)] for layer in range(2)])
    before = do.copy()
    gradients = backward_layers(tape, do, rates=hook)
    np.testing.assert_array_equal(do, before)
    for layer, (g,) in enumerate(gradients.layers):
        expected = dict(rnn.named_gradients())
        np.testing.assert_allclose(g.W, expected[f"weight_hh_l{layer}"], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(g.U, expected[f"weight_ih_l{layer}"], rtol=1e-12, atol=1e-14)
