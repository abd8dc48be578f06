"""Every function of a network or a trajectory, in every form of the cell: a table made from the signatures.

A function that is new fails until it has a check here. Each check compares with reference.py, with differences of it,
or with sums that are written out.
"""

import dataclasses
import inspect
import itertools

import numpy as np
import pytest
from helpers import FUSED

import pyrnn
from pyrnn import dynamics, online, plots, reference, training
from pyrnn.cell import NONLINEARITIES

pytestmark = pytest.mark.once

T, B, I, H, O = 6, 2, 3, 4, 2
SLOPES = {"leaky_relu": {"negative_slope": 0.2}}
LEAKS = ({}, {"alpha": 0.6}, {"alpha": np.array([0.4, 0.9, 0.7, 1.0]), "form": "current"})
CELLS = [pyrnn.Cell(name, **leak, **SLOPES.get(name, {})) for name, leak in itertools.product(NONLINEARITIES, LEAKS)]
TAKES = {"network", "run", "self"}


def functions():
    """Public names whose first argument is a network or a trajectory, and the methods of a Trajectory."""
    found = {}
    for module in (pyrnn, dynamics, online, training, plots):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), None) in TAKES:
                found[name] = value
            elif inspect.isclass(value) and not issubclass(value, tuple | Exception):
                found |= {name: value} if next(iter(inspect.signature(value).parameters), None) == "network" else {}
    methods = inspect.getmembers(pyrnn.Trajectory, inspect.isfunction)
    return found | {f"Trajectory.{name}": f for name, f in methods if not name.startswith("_")}


class Problem:
    """A network of one form, an input, and what the loops and differences of this file read."""

    def __init__(self, cell, dtype=np.float64):
        rng = np.random.default_rng(3)
        self.draw = draw = lambda *shape: rng.standard_normal(shape)
        U, W, b, V, c, R = draw(H, I), draw(H, H) / 3, draw(H), draw(O, H), draw(O), draw(H, O) / 3
        self.cell, self.network, self.feedback = cell, pyrnn.Network(U, W, b, V, c, None, cell), None
        self.feedback = self.network._replace(R=R)
        self.x, self.h0, self.dh = draw(T, B, I), draw(B, H) / 2, draw(T, B, H)
        self.targets, self.classes = draw(T, B, O), rng.integers(0, O, (T, B))
        self.run = pyrnn.simulate(self.network, self.x, self.h0)
        self.exact = reference.simulate(self.network, self.x, self.h0)
        self.direction = pyrnn.Direction(draw(T, B, I), draw(H, I), draw(H, H), draw(H), draw(B, H), draw(T, B, H),
                                         None if cell.alpha is None else draw(*np.shape(cell.alpha)))  # fmt: skip
        self.J = reference.jacobian(self.exact.h, W, self.h0, cell=cell, rates=self.exact.written_rates)

    def outputs(self, network, x=None, h0=None):
        """Of an ordinary network."""
        run = reference.simulate(network, self.x if x is None else x, self.h0 if h0 is None else h0)
        return run.read @ network.V.T + network.c

    def squared(self, network, x=None, h0=None):
        return np.square(self.outputs(network, x, h0) - self.targets).sum()

    def fed_outputs(self, network, fed):
        """Step by step: fed(t, o) is what is fed back at step t, o the output of the step before."""
        h, o, outputs = self.h0, None, []
        for t in range(T):
            drive = (fed(t, o) @ network.R.T)[np.newaxis]
            run = reference.simulate(network, self.x[t : t + 1], h, drive=drive)
            h, o = run.h[0], run.read[0] @ network.V.T + network.c
            outputs.append(o)
        return np.array(outputs)

    def differences(self, function, point):
        """d function / d point, by central differences."""
        point, gradient = np.array(point, float), np.empty(np.shape(point))
        for at in np.ndindex(point.shape):
            moved = []
            for step in (1e-6, -1e-6):
                other = point.copy()
                other[at] += step
                moved.append(function(other))
            gradient[at] = (moved[0] - moved[1]) / 2e-6
        return gradient

    def of_parameters(self, loss, network=None):
        """d loss(network) / d parameters, as a vector."""
        network = self.network if network is None else network
        return self.differences(lambda vector: loss(network.unravel(vector)), network.ravel())

    def of_alpha(self, loss, network=None):
        network = self.network if network is None else network
        make = lambda alpha: network._replace(cell=dataclasses.replace(self.cell, alpha=alpha))
        return None if self.cell.alpha is None else self.differences(lambda a: loss(make(a)), self.cell.alpha)


def close(actual, expected, tolerance=1e-7):
    if expected is None:
        assert actual is None
        return
    scale = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


# ---- The checks -----------------------------------------------------------------------------------------------------
def check_simulate(p):
    close(p.run.h, p.exact.h, 1e-13)
    close(p.run.rates, p.exact.rates, 1e-13)


def check_backward(p):
    drates = p.draw(T, B, H)
    for actual, expected in zip(
        p.run.backward(p.dh, drates), reference.backward_of(p.exact, p.dh, drates), strict=True
    ):
        close(actual, expected, 1e-12)
    loss = lambda x: (p.dh * (run := reference.simulate(p.network, x, p.h0)).h).sum() + (drates * run.rates).sum()
    close(p.run.backward(p.dh, drates).x, p.differences(loss, p.x))


def check_state_gradients(p):
    expected = reference.state_gradients(p.dh, p.exact.h, p.network.W, cell=p.cell, rates=p.exact.written_rates)
    close(p.run.state_gradients(p.dh), expected, 1e-12)


def check_jacobian(p):
    close(p.run.jacobian(), p.J, 1e-12)
    last = lambda h0: reference.simulate(p.network, p.x[:1], np.array([h0, h0]))
    for i in range(H):
        close(p.J[0, 0, i], p.differences(lambda h0, i=i: last(h0).h[0, 0, i], p.h0[0]))


def check_output(p):
    close(p.run.output(), p.outputs(p.network), 1e-12)


def check_loss_and_gradients(p):
    loss, gradients = pyrnn.loss_and_gradients(p.network, p.x, p.targets, loss="squared_error", h0=p.h0)
    close(loss, p.squared(p.network), 1e-12)
    close(gradients.parameters.ravel(), p.of_parameters(p.squared))
    close(gradients.alpha, p.of_alpha(p.squared))
    close(gradients.x, p.differences(lambda x: p.squared(p.network, x), p.x))
    close(gradients.h0, p.differences(lambda h0: p.squared(p.network, None, h0), p.h0))


def check_check_gradients(p):
    errors = pyrnn.check_gradients(p.network, p.x, p.targets, loss="squared_error", h0=p.h0)
    assert errors.worst < 1e-6
    assert (errors.alpha is None) == (p.cell.alpha is None)


def check_objective(p):
    objective = training.Objective(p.network, p.x, p.targets, loss="squared_error", h0=p.h0)
    point = p.network.ravel()
    v = p.draw(len(point))
    close(objective.jac(point), p.of_parameters(p.squared))
    along = lambda s: objective.jac(point + s * v)
    close(objective.hessp(point, v), (along(1e-6) - along(-1e-6)) / 2e-6, 1e-6)
    J = training.output_jacobian(p.network, p.x, p.h0).reshape(-1, len(point))
    close(objective.ggnp(point, v), 2 * J.T @ (J @ v), 1e-11)


def check_output_jacobian(p):
    J = training.output_jacobian(p.network, p.x, p.h0)
    for t, r, k in ((0, 0, 0), (T - 1, 1, 1)):
        close(J[t, r, k], p.of_parameters(lambda network, at=(t, r, k): p.outputs(network)[at]))


def check_per_sample_gradients(p):
    each = training.per_sample_gradients(p.run, p.dh)
    for i in range(B):
        at = slice(i, i + 1)
        alone = reference.simulate(p.network, p.x[:, at], p.h0[at])
        for actual, expected in zip(each, reference.backward_of(alone, p.dh[:, at])[1:4], strict=True):
            close(actual[i], expected, 1e-12)


def check_teacher_forcing(p):
    fed = np.concatenate([np.zeros((1, B, O)), p.targets[:-1]])
    loss = lambda network: np.square(p.fed_outputs(network, lambda t, o: fed[t]) - p.targets).sum()
    value, gradients = training.teacher_forcing(p.feedback, p.x, p.targets, loss="squared_error", h0=p.h0)
    close(value, loss(p.feedback), 1e-12)
    close(gradients.parameters.ravel(), p.of_parameters(loss, p.feedback))
    close(gradients.alpha, p.of_alpha(loss, p.feedback))


def of_h0(p, network):
    """The output of h0, which is fed back at the first step."""
    read = reference.phi_of(p.cell)(p.h0) if p.cell.current else p.h0
    return read @ network.V.T + network.c


def check_free_running(p):
    fed = lambda network: lambda t, o: of_h0(p, network) if o is None else o
    loss = lambda network: np.square(p.fed_outputs(network, fed(network)) - p.targets).sum()
    value, gradients = training.free_running(p.feedback, p.x, p.targets, loss="squared_error", h0=p.h0)
    close(value, loss(p.feedback), 1e-11)
    close(gradients.parameters.ravel(), p.of_parameters(loss, p.feedback), 1e-6)
    close(gradients.alpha, p.of_alpha(loss, p.feedback), 1e-6)


def check_free_running_output(p):
    fed = lambda t, o: of_h0(p, p.feedback) if o is None else o
    close(training.free_running_output(p.feedback, p.x, h0=p.h0), p.fed_outputs(p.feedback, fed), 1e-11)


def check_scheduled_sampling(p):
    result = training.scheduled_sampling(p.feedback, p.x, p.targets, 0.0, loss="squared_error", h0=p.h0, rng=0)
    fed = lambda t, o: np.zeros((B, O)) if o is None else o
    outputs = p.fed_outputs(p.feedback, fed)
    close(result.fed[1:], outputs[:-1], 1e-11)
    close(result.loss, np.square(outputs - p.targets).sum(), 1e-11)


def check_sample(p):
    samples = training.sample(p.feedback, T, batch=B, x=p.x, h0=p.h0, temperature=0, rng=0)
    one_hot = lambda o: np.eye(O)[o.argmax(axis=-1)]
    outputs = p.fed_outputs(p.feedback, lambda t, o: np.zeros((B, O)) if o is None else one_hot(o))
    np.testing.assert_array_equal(samples.classes, outputs.argmax(axis=-1))


def check_truncated_gradients(p):
    options = {"loss": "squared_error", "h0": p.h0}
    _, whole = pyrnn.loss_and_gradients(p.network, p.x, p.targets, **options)
    result = training.truncated_gradients(p.network, p.x, p.targets, k1=2, k2=T, **options)
    for actual, expected in zip(result.gradients, whole, strict=True):
        close(actual, expected, 1e-11)
    # Of two steps at a time, each from the state that is there.
    pieces, h0 = np.zeros(p.network.ravel().size), p.h0
    for start in range(0, T, 2):
        part = slice(start, start + 2)
        _, piece = pyrnn.loss_and_gradients(p.network, p.x[part], p.targets[part], loss="squared_error", h0=h0)
        pieces, h0 = pieces + piece.parameters.ravel(), p.exact.h[start + 1]
    result = training.truncated_gradients(p.network, p.x, p.targets, k1=2, k2=2, **options)
    close(result.gradients.parameters.ravel(), pieces, 1e-11)


def check_truncated_updates(p):
    options = {"k1": 2, "k2": 3, "loss": "squared_error", "h0": p.h0}
    total = training.truncated_gradients(p.network, p.x, p.targets, **options)
    updates = list(training.truncated_updates(p.network, p.x, p.targets, **options))
    close(sum(u.gradients.parameters.ravel() for u in updates), total.gradients.parameters.ravel(), 1e-12)
    close(updates[-1].h, p.exact.h[-1], 1e-12)
    if p.cell.alpha is not None:
        close(sum(u.gradients.alpha for u in updates), total.gradients.alpha, 1e-12)


def check_jvp(p):
    close(pyrnn.jvp(p.run, p.direction), reference.jvp(p.exact, p.direction), 1e-12)
    moved = []
    for s in (1e-6, -1e-6):
        add = lambda a, d, s=s: a if d is None else a + s * d
        x, U, W, b, h0, drive, alpha = p.direction
        cell = p.cell if alpha is None else dataclasses.replace(p.cell, alpha=add(p.cell.alpha, alpha))
        network = pyrnn.Network(add(p.network.U, U), add(p.network.W, W), add(p.network.b, b), cell=cell)
        moved.append(reference.simulate(network, add(p.x, x), add(p.h0, h0), drive=s * drive).h)
    close(pyrnn.jvp(p.run, p.direction), (moved[0] - moved[1]) / 2e-6)


def check_backward_jvp(p):
    dh_dot = p.draw(T, B, H)
    actual = pyrnn.backward_jvp(p.run, p.dh, p.direction, dh_dot=dh_dot)
    expected = reference.backward_jvp(p.exact, p.dh, p.direction, dh_dot=dh_dot)
    for a, e in zip(actual, expected, strict=True):
        close(a, e, 1e-11)


def product_of(p, sequence=0):
    M = np.eye(H)
    for J in p.J[:, sequence]:
        M = J @ M
    return M


def check_jacobian_product(p):
    product = dynamics.jacobian_product(p.run)
    close(product.mantissa[0] * np.exp(product.log_scale[0]), product_of(p), 1e-11)


def check_push(p):
    v = p.draw(3, H)
    product = dynamics.push(p.run, v)
    close(product.mantissa[0] * np.exp(product.log_scale[0])[:, np.newaxis], v @ product_of(p).T, 1e-11)


def check_pull(p):
    u = p.draw(3, H)
    product = dynamics.pull(p.run, u)
    close(product.mantissa[0] * np.exp(product.log_scale[0])[:, np.newaxis], u @ product_of(p), 1e-11)


def check_log_singular_values(p):
    expected = np.linalg.svd(product_of(p), compute_uv=False)
    close(np.exp(dynamics.log_singular_values(p.run)[-1, 0]), expected, 1e-11)


def check_preactivations(p):
    a = dynamics.preactivations(p.run)
    close(a, reference.preactivations(p.exact), 1e-12)
    if not p.cell.current:
        close(reference.phi_of(p.cell)(a), p.exact.rates, 1e-12)


def check_gradient_flow(p):
    flow = dynamics.gradient_flow(p.network, p.x, dh=p.dh, h0=p.h0)
    dh = p.dh  # arrives at what the layer sends up, in the current form at the rates
    if p.cell.current:
        dh = dh * reference.slope_of(p.cell)(p.exact.rates)
    g = reference.state_gradients(dh, p.exact.h, p.network.W, cell=p.cell, rates=p.exact.written_rates)
    close(np.exp(flow.log_gradient_norms[0]), np.linalg.norm(g, axis=-1), 1e-11)


def check_vanishing_regularizer(p):
    g = p.dh
    omega, gradients = training.vanishing_regularizer(p.run, g)
    lengths = lambda J: np.linalg.norm(np.einsum("tbi,tbij->tbj", g, J), axis=-1) / np.linalg.norm(g, axis=-1)
    close(omega, np.square(lengths(p.J) - 1).sum(), 1e-11)

    def of_W(W):
        J = reference.jacobian(p.exact.h, W, p.h0, cell=p.cell, rates=p.exact.written_rates)
        return np.square(lengths(J) - 1).sum()

    close(gradients.W, p.differences(of_W, p.network.W))


def check_lyapunov_spectrum(p):
    one = p.x[:, 0]
    spectrum = dynamics.lyapunov_spectrum(p.network, one, p.h0[0], warmup=0)
    J = reference.jacobian(p.exact.h[:, 0], p.network.W, p.h0[0], cell=p.cell,
                           rates=None if p.cell.alpha is None else p.exact.rates[:, 0])  # fmt: skip
    volume = np.mean([np.log(abs(np.linalg.det(j))) for j in J]) if np.all(np.linalg.det(J)) else -np.inf
    close(np.exp(spectrum.exponents.sum()), np.exp(volume), 1e-9)


def check_find_fixed_points(p):
    x = p.x[0, 0]
    points = dynamics.find_fixed_points(p.network, x, starts=p.draw(30, H))
    fixed = points[~points.slow]
    assert len(fixed) > 0
    n = len(fixed)
    run = reference.simulate(p.network, np.broadcast_to(x, (1, n, I)), fixed.h)
    close(run.h[0], fixed.h, 1e-10)
    J = reference.jacobian(run.h, p.network.W, fixed.h, cell=p.cell, rates=run.written_rates)[0]
    close(fixed.jacobian, J, 1e-10)


def learned(p, make, network=None):
    """The sum of a learner's gradients, and what backpropagation finds."""
    network = p.network if network is None else network
    size, run = len(network.W), pyrnn.simulate(network, p.x, p.h0[:, : len(network.W)])
    learner, dh = make(network, run.h0, batch=B), p.dh[..., :size]
    steps = [learner.step(x, d) for x, d in zip(p.x, dh, strict=True)]
    if hasattr(learner, "finish"):
        steps.append(learner.finish())
    steps = [s for s in steps if s is not None]
    exact = reference.backward_of(run, dh)
    sums = [None if steps[0][i] is None else sum(s[i] for s in steps) for i in (0, 1, 2, 4)]
    return sums, (exact.U, exact.W, exact.b, exact.alpha)


def check_learner(p, make, network=None):
    for actual, expected in zip(*learned(p, make, network), strict=True):
        close(actual, expected, 1e-11)


def check_uoro(p):
    """Without bias: the mean over many seeds is within five of its standard errors."""
    seeds = [learned(p, lambda *given, seed=seed, **o: online.UORO(*given, **o, rng=seed)) for seed in range(300)]
    for i, exact in enumerate(seeds[0][1]):
        if exact is None:
            assert seeds[0][0][i] is None
            continue
        each = np.array([sums[i] for sums, _ in seeds])
        errors = np.abs(each.mean(axis=0) - exact) / (each.std(axis=0) / np.sqrt(len(seeds)) + 1e-12)
        assert errors.max() < 5


def check_stepper(p):
    stepper = pyrnn.Stepper(p.network, p.h0, batch=B)
    np.testing.assert_array_equal(FUSED.simulate(p.network, p.x, p.h0).output(), stepper.run(p.x))
    close(stepper.state, p.exact.h[-1], 1e-12)


diagonal = lambda p: p.network._replace(W=np.diag(np.diag(p.network.W)))
CHECKS = {
    "simulate": check_simulate,
    "Trajectory.backward": check_backward,
    "Trajectory.state_gradients": check_state_gradients,
    "Trajectory.jacobian": check_jacobian,
    "Trajectory.output": check_output,
    "loss_and_gradients": check_loss_and_gradients,
    "check_gradients": check_check_gradients,
    "jvp": check_jvp,
    "backward_jvp": check_backward_jvp,
    "Stepper": check_stepper,
    "jacobian_product": check_jacobian_product,
    "push": check_push,
    "pull": check_pull,
    "log_singular_values": check_log_singular_values,
    "preactivations": check_preactivations,
    "gradient_flow": check_gradient_flow,
    "lyapunov_spectrum": check_lyapunov_spectrum,
    "find_fixed_points": check_find_fixed_points,
    "RTRL": lambda p: check_learner(p, online.RTRL),
    "BlockedRTRL": lambda p: check_learner(p, online.BlockedRTRL),
    "SnAp1": lambda p: check_learner(p, online.SnAp1, diagonal(p)),  # exact where W is diagonal
    "RFLO": lambda p: check_learner(p, online.RFLO, p.network._replace(W=np.zeros((H, H)))),  # where it is 0
    "UORO": check_uoro,
    "Objective": check_objective,
    "output_jacobian": check_output_jacobian,
    "per_sample_gradients": check_per_sample_gradients,
    "vanishing_regularizer": check_vanishing_regularizer,
    "teacher_forcing": check_teacher_forcing,
    "free_running": check_free_running,
    "free_running_output": check_free_running_output,
    "scheduled_sampling": check_scheduled_sampling,
    "sample": check_sample,
    "truncated_gradients": check_truncated_gradients,
    "truncated_updates": check_truncated_updates,
}
LEFT_OUT = {
    "Trajectory.require_x",  # returns what is there
    "FixedPoints",  # is made by find_fixed_points
}


def test_no_function_is_left_out():
    assert set(functions()) - LEFT_OUT == set(CHECKS)


@pytest.mark.parametrize("cell", CELLS, ids=repr)
@pytest.mark.parametrize("name", CHECKS)
def test_every_function_in_every_form(name, cell):
    CHECKS[name](Problem(cell))
