"""docs/coming-from.md: other packages' equations, step by step in NumPy, and pyrnn with the arguments of its tables.

Each loop here is written from the package's source, which the page names; nothing of these packages is imported.
"""

import numpy as np
import pytest

import pyrnn
from pyrnn.training import Constraint

pytestmark = pytest.mark.once

T, B, I, H, O, EXCITATORY = 25, 4, 3, 15, 2, 12
DT, TAU = 20.0, 100.0
ALPHA = DT / TAU
SIGNS = np.where(np.arange(H) < EXCITATORY, 1, -1)


def arrays(seed=0):
    """x (T, B, I), and W_in, W_rec, W_out, b_rec, b_out of any sign."""
    rng = np.random.default_rng(seed)
    shapes = ((T, B, I), (H, I), (H, H), (O, H), (H,), (O,))
    return [rng.standard_normal(shape) / (1 if len(shape) == 3 else np.sqrt(shape[-1])) for shape in shapes]


def relu(a):
    return np.maximum(a, 0)


def check(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# ---- PsychRNN: psychrnn/backend/models/basic.py, rnn.py, initializations.py (1.0.0) ----------------------------------
def psychrnn(x, W_in, W_rec, W_out, b_rec, b_out, *, init_state, connectivity, dale_rec, dale_out, rec_noise, xi):
    W_rec = np.abs(W_rec * connectivity) @ dale_rec
    W_in, W_out = np.abs(W_in), np.abs(W_out) @ dale_out
    state, states, outputs = np.repeat(init_state, B, axis=0), [], []
    for t in range(T):
        state = (
            (1 - ALPHA) * state
            + ALPHA * (relu(state) @ W_rec.T + x[t] @ W_in.T + b_rec)
            + np.sqrt(2 * ALPHA * rec_noise**2) * xi[t]
        )
        states.append(state)
        outputs.append(relu(state) @ W_out.T + b_out)
    return np.stack(states), np.stack(outputs)


@pytest.mark.parametrize("rec_noise", [0.0, 0.1])
@pytest.mark.parametrize("inhibition_reaches_outputs", [True, False])
def test_psychrnn(rec_noise, inhibition_reaches_outputs):
    x, W_in, W_rec, W_out, b_rec, b_out = arrays()
    connectivity, seed = ~np.eye(H, dtype=bool), 7
    init_state = 0.1 + 0.01 * np.random.default_rng(1).standard_normal((1, H))
    states, outputs = psychrnn(
        *(x, W_in, W_rec, W_out, b_rec, b_out),
        init_state=init_state,
        connectivity=connectivity.astype(float),
        dale_rec=np.diag(SIGNS),
        dale_out=np.diag(SIGNS if inhibition_reaches_outputs else SIGNS > 0),
        rec_noise=rec_noise,
        xi=pyrnn.training.noise(seed, (T, B, H), 1.0),
    )
    W = Constraint(mask=connectivity, signs=SIGNS, dale="absolute").apply(W_rec)
    U = Constraint(signs=np.ones(I), dale="absolute").apply(W_in)
    reached = None if inhibition_reaches_outputs else np.broadcast_to(SIGNS > 0, (O, H))
    V = Constraint(mask=reached, signs=SIGNS, dale="absolute").apply(W_out)
    network = pyrnn.Network(U, W, b_rec, V, b_out, cell=pyrnn.Cell("relu", DT / TAU, "current"))
    run = pyrnn.simulate(network, x, np.repeat(init_state, B, axis=0), noise=rec_noise, seed=seed)
    check(run.h, states)
    check(pyrnn.output(run.read, V, b_out), outputs)


def test_losses_of_psychrnn():
    """They are means over all steps and outputs, those included that do not count; fit divides by what counts."""
    rng = np.random.default_rng(0)
    predictions, y = rng.standard_normal((2, T, B, O))
    mask = (rng.random((T, B)) < 0.3).astype(float)
    theirs = np.mean((mask[..., np.newaxis] * (predictions - y)) ** 2)
    ours = pyrnn.squared_error(predictions, y, mask / (mask.sum() * O))[0]
    check(theirs, ours * mask.mean())
    # Their binary cross-entropy takes probabilities from outside; ours, log odds.
    y = (y > 0).astype(float)
    p = 1 / (1 + np.exp(-predictions))
    theirs = np.mean(mask[..., np.newaxis] * -(y * np.log(p) + (1 - y) * np.log(1 - p)))
    ours = pyrnn.training.binary_cross_entropy(predictions, y, mask / (mask.sum() * O))[0]
    check(theirs, ours * mask.mean())


def test_clipping_of_psychrnn():
    """It clips each array of gradients by itself, pyrnn the norm of all: equal for one array alone, not for two."""
    rng = np.random.default_rng(0)
    parts = [3 * rng.standard_normal(5), 0.1 * rng.standard_normal(3)]
    theirs = [g * min(1, 1 / np.linalg.norm(g)) for g in parts]
    assert np.linalg.norm(np.concatenate(theirs)) > 1
    clipped, factor = pyrnn.training.clip_gradients(np.concatenate(parts), max_norm=1.0)
    check(factor, 1 / np.linalg.norm(np.concatenate(parts)))
    check(np.linalg.norm(clipped), 1.0)
    check(pyrnn.training.clip_gradients(parts[0], max_norm=1.0)[0], theirs[0])


# ---- nn4n: nn4n/layer/recurrent_layer.py, linear_layer.py (1.1.1), nn4n/nn/leaky_linear_layer.py (1.2) ---------------
def nn4n(x, layers, *, in_front=0.0, behind=0.0, xi=0.0):
    """in_front: preact_noise of 1.1.1, which the leak multiplies; behind: that of 1.2, which it does not."""
    (W_in, b_in), (W_hid, b_hid), (W_out, b_out) = layers
    v, rates = np.zeros((B, H)), []
    fr = relu(v)
    for t in range(T):
        v = (1 - ALPHA) * v + ALPHA * ((fr @ W_hid.T + b_hid) + (x[t] @ W_in.T + b_in))
        v = v + ALPHA * in_front * xi[t] + behind * xi[t]
        fr = relu(v)
        rates.append(fr)
    return np.stack(rates), np.stack(rates) @ W_out.T + b_out


def clamped(W, ei_mask, sparsity_mask):
    """What enforce_constraints does; masks have a row for each unit that sends, as the user gives them."""
    W = W * sparsity_mask.T
    W[ei_mask.T == 1] = np.maximum(W[ei_mask.T == 1], 0)
    W[ei_mask.T == -1] = np.minimum(W[ei_mask.T == -1], 0)
    return W


def test_nn4n():
    x, W_in, W_hid, W_out, b_hid, b_out = arrays(1)
    b_in, preact_noise, seed = 0.1 * b_hid[::-1], 0.2, 3
    sends, others = np.repeat(SIGNS[:, np.newaxis], H, axis=1), ~np.eye(H, dtype=bool)
    W_hid = clamped(W_hid, sends, others)
    check(W_hid, Constraint(mask=others, signs=SIGNS).project(arrays(1)[2]))
    layers, xi = ((W_in, b_in), (W_hid, b_hid), (W_out, b_out)), pyrnn.training.noise(seed, (T, B, H), 1.0)
    network = pyrnn.Network(W_in, W_hid, b_in + b_hid, W_out, b_out, cell=pyrnn.Cell("relu", DT / TAU, "current"))
    for noise, theirs in (
        (0.0, nn4n(x, layers, xi=xi)),
        (preact_noise * np.sqrt(ALPHA / 2), nn4n(x, layers, in_front=preact_noise, xi=xi)),
        (preact_noise / np.sqrt(2 * ALPHA), nn4n(x, layers, behind=preact_noise, xi=xi)),
    ):
        run = pyrnn.simulate(network, x, noise=noise, seed=seed)
        check(run.rates, theirs[0])
        check(pyrnn.output(run.rates, W_out, b_out), theirs[1])


# ---- trainRNNbrain: trainRNNbrain/rnns/RNN_torch.py ------------------------------------------------------------------
def train_rnn_brain(u, W_inp, W_rec, W_out, bias, *, equation_type, gamma, y_init, sigma_rec, sigma_inp, xi, xi_inp):
    """Arrays have the axes (units, steps, trials); the first state is y_init, and the last input is not used."""
    states = [np.repeat(y_init[:, np.newaxis], B, axis=1)]
    scale = np.sqrt(2 / ALPHA)
    for t in range(1, u.shape[1]):
        s = states[-1]
        inp = W_inp @ (u[:, t - 1] + scale * sigma_inp * xi_inp[:, t - 1]) + bias[:, np.newaxis]
        driven = W_rec @ relu(s) + inp if equation_type == "h" else relu(W_rec @ s + inp)
        states.append(s + ALPHA * (-s + driven + scale * sigma_rec * xi[:, t - 1] - gamma * s**3))
    states = np.stack(states, axis=1)
    read = relu(states) if equation_type == "h" else states
    return states, np.einsum("oj,jtk->otk", W_out, read)


@pytest.mark.parametrize(
    ("equation_type", "form", "sigma_rec"), [("h", "current", 0.1), ("h", "current", 0.0), ("s", "rate", 0.0)]
)
def test_train_rnn_brain(equation_type, form, sigma_rec):
    x, W_inp, raw, W_out, bias, _ = arrays(2)
    y_init, sigma_inp, seed = np.full(H, 0.05), 0.03, 5
    # weight_boundary="reflective": |param| * sign * mask
    W_rec = np.abs(raw) * SIGNS * ~np.eye(H, dtype=bool)
    xi, xi_inp = (pyrnn.training.noise(seed, (T, B, n), 1.0, stream=s) for n, s in ((H, "state"), (I, "input")))
    states, outputs = train_rnn_brain(
        *(x.transpose(2, 0, 1), W_inp, W_rec, W_out, bias),
        equation_type=equation_type,
        gamma=0.0,
        y_init=y_init,
        sigma_rec=sigma_rec,
        sigma_inp=sigma_inp,
        xi=xi.transpose(2, 0, 1),
        xi_inp=xi_inp.transpose(2, 0, 1),
    )
    W = Constraint(mask=~np.eye(H, dtype=bool), signs=SIGNS, dale="absolute").apply(raw)
    network = pyrnn.Network(W_inp, W, bias, W_out, cell=pyrnn.Cell("relu", DT / TAU, form))
    noisy = x + pyrnn.training.noise(seed, x.shape, np.sqrt(2 / ALPHA) * sigma_inp, stream="input")
    run = pyrnn.simulate(network, noisy[:-1], np.tile(y_init, (B, 1)), noise=sigma_rec, seed=seed)
    check(run.h, states[:, 1:].transpose(1, 2, 0))
    check(pyrnn.output(run.read, W_out), outputs[:, 1:].transpose(1, 2, 0))


@pytest.mark.parametrize(("gamma", "sigma_rec"), [(0.1, 0.0), (0.0, 0.1)])
def test_what_train_rnn_brain_has_and_pyrnn_has_not(gamma, sigma_rec):
    """The cubic leak, and in the rate form noise behind the nonlinearity, are other equations."""
    x, W_inp, W_rec, W_out, bias, _ = arrays(3)
    xi = pyrnn.training.noise(5, (T, B, H), 1.0)
    states, _ = train_rnn_brain(
        *(x.transpose(2, 0, 1), W_inp, W_rec, W_out, bias),
        equation_type="s",
        gamma=gamma,
        y_init=np.zeros(H),
        sigma_rec=sigma_rec,
        sigma_inp=0.0,
        xi=xi.transpose(2, 0, 1),
        xi_inp=np.zeros((I, T, B)),
    )
    network = pyrnn.Network(W_inp, W_rec, bias, cell=pyrnn.Cell("relu", ALPHA, "rate"))
    run = pyrnn.simulate(network, x[:-1], noise=sigma_rec, seed=5)
    assert np.abs(run.h - states[:, 1:].transpose(1, 2, 0)).max() > 1e-3


# ---- nn-brain: EI_RNN.ipynb ------------------------------------------------------------------------------------------
def test_nn_brain():
    """A loop over time as in the notebook, whose states leak and whose outputs read the first units."""
    x, W_in, raw, W_out, b_rec, b_out = arrays(4)
    b_in, sigma_rec, seed = 0.1 * b_rec[::-1], 0.15, 11
    mask = np.tile(SIGNS, (H, 1))
    np.fill_diagonal(mask, 0)
    xi, W_out = pyrnn.training.noise(seed, (T, B, H), 1.0), W_out[:, :EXCITATORY]
    state = output = np.zeros((B, H))
    outputs = []
    for t in range(T):
        total_input = (x[t] @ W_in.T + b_in) + (output @ (np.abs(raw) * mask).T + b_rec)
        state = state * (1 - ALPHA) + total_input * ALPHA + np.sqrt(2 * ALPHA) * sigma_rec * xi[t]
        output = relu(state)
        outputs.append(output[:, :EXCITATORY] @ W_out.T + b_out)
    W = Constraint(mask=~np.eye(H, dtype=bool), signs=SIGNS, dale="absolute").apply(raw)
    network = pyrnn.Network(W_in, W, b_in + b_rec, cell=pyrnn.Cell("relu", ALPHA, "current"))
    run = pyrnn.simulate(network, x, noise=sigma_rec, seed=seed)
    check(pyrnn.output(run.rates[..., :EXCITATORY], W_out, b_out), np.stack(outputs))


# ---- RNN with constraints --------------------------------------------------------------------------------------------
def test_raw_weights_of_psychrnn_are_those_of_an_rnn():
    """Its W_in, W_rec, W_out and init_state are assigned as they are: what both compute of them is the same."""
    x, W_in, W_rec, W_out, b_rec, b_out = arrays(5)
    connectivity, init_state = ~np.eye(H, dtype=bool), np.full((1, H), 0.1)
    states, outputs = psychrnn(
        *(x, W_in, W_rec, W_out, b_rec, b_out),
        init_state=init_state,
        connectivity=connectivity.astype(float),
        dale_rec=np.diag(SIGNS),
        dale_out=np.diag(SIGNS),
        rec_noise=0.0,
        xi=np.zeros((T, B, H)),
    )
    constraints = {
        "weight_ih_l0": Constraint(signs=np.ones(I), dale="absolute"),
        "weight_hh_l0": Constraint(mask=connectivity, signs=SIGNS, dale="absolute"),
        "weight_out": Constraint(signs=SIGNS, dale="absolute"),
    }
    cell = {"nonlinearity": "relu", "form": "current", "alpha": DT / TAU}
    rnn = pyrnn.RNN(I, H, output_size=O, constraints=constraints, train_h0=True, dtype=np.float64, **cell)
    rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.weight_out, rnn.h0 = W_in, W_rec, W_out, init_state
    rnn.bias_ih_l0, rnn.bias_hh_l0, rnn.bias_out = b_rec, 0 * b_rec, b_out
    check(rnn(x)[0], outputs)
    check(rnn.layer_states[0], states)


def test_output_units_are_the_first_units_of_nn_brain():
    x, W_in, W_rec, W_out, b_rec, b_out = arrays(6)
    cell = {"nonlinearity": "relu", "form": "current", "alpha": DT / TAU}
    rnn = pyrnn.RNN(I, H, output_size=O, output_units=SIGNS > 0, dtype=np.float64, **cell)
    rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.weight_out = W_in, W_rec, W_out[:, :EXCITATORY]
    rnn.bias_ih_l0, rnn.bias_hh_l0, rnn.bias_out = b_rec, 0 * b_rec, b_out
    outputs, _ = rnn(x)
    check(outputs, rnn.layer_rates[0][..., :EXCITATORY] @ W_out[:, :EXCITATORY].T + b_out)


# ---- What the tables say in words ------------------------------------------------------------------------------------
def test_a_gradient_that_is_multiplied_changes_nothing_with_adam():
    """plasticity_masks of nn4n: Adam divides by the size of gradients, so that only 0 changes much."""
    rng = np.random.default_rng(0)
    gradients, ends = rng.standard_normal((50, 4)), []
    for scale in (1.0, 0.1, 0.0):
        parameters, optimizer = np.zeros(4), pyrnn.training.Adam(lr=0.1)
        for g in gradients:
            optimizer.step(parameters, scale * g)
        ends.append(parameters)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)
    assert np.abs(ends[0]).min() > 1e-3
    assert (ends[2] == 0).all()


def test_noise_of_a_task_is_that_of_train_rnn_brain():
    """sigma_inp is the sigma of a task: √(2 tau / dt) sigma of each input."""
    task = pyrnn.tasks.PerceptualDecision(dt=DT, tau=TAU, sigma=0.03, batch_size=500)
    quiet = pyrnn.tasks.PerceptualDecision(dt=DT, tau=TAU, sigma=0.0, batch_size=500)
    noise = task.batch(0).x - quiet.batch(0).x
    assert noise.std() == pytest.approx(np.sqrt(2 / ALPHA) * 0.03, rel=0.02)
