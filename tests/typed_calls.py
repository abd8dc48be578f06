"""A user's calls with the types that they have: mypy reads this file (test_types.py), nobody runs it.

A comment ``type: ignore`` marks what has to be an error: mypy complains of one that is none.
"""

from collections.abc import Generator
from typing import Any, Literal, assert_type

import numpy as np
from numpy.typing import NDArray

import pyrnn
import pyrnn.bridges.keras
import pyrnn.bridges.onnx
import pyrnn.bridges.safetensors
import pyrnn.bridges.state_dict
from pyrnn.layers import RNNGradients

x, U, W = np.ones((3, 2, 4)), np.ones((5, 4)), np.eye(5)
classes = np.ones((3, 2), int)
network = pyrnn.initialize(4, 5, 2, cell=pyrnn.Cell("relu", alpha=[0.1] * 5))
assert_type(network, pyrnn.Network)
assert_type(network.b, NDArray[Any] | None)
assert_type(network.unravel([1.0]), pyrnn.Network)
assert_type(network.cell, pyrnn.Cell)
pyrnn.Cell("elu")  # type: ignore[arg-type]
pyrnn.Cell(form="rates")  # type: ignore[arg-type]
network.cell.alpha = 0.5  # type: ignore[misc]

# ---- Passes forwards and backwards ----------------------------------------------------------------------------------
h = pyrnn.forward(x, [[1.0]], W, cell=pyrnn.Cell("relu", 0.5, "current"))
assert_type(h, NDArray[Any])
pyrnn.forward(x, U, W, cell="relu")  # type: ignore[arg-type]
pyrnn.config.using(engine="mkl")  # type: ignore[arg-type]
pyrnn.forward(x, U, W, out=[1.0])  # type: ignore[arg-type]
pyrnn.forward(x, U)  # type: ignore[call-arg]
gradients = pyrnn.backward(h, h, x, U, W, x_gradient=True, out=None)
assert_type(gradients, pyrnn.Gradients)
assert_type(gradients.x, NDArray[Any] | None)
assert_type(gradients.alpha, NDArray[Any] | float | None)
run = pyrnn.simulate(network, x)
assert_type(run, pyrnn.Trajectory)
assert_type(run.backward(h, h, x_gradient=False, out=gradients), pyrnn.Gradients)
run.backward(h, h, False)  # type: ignore[call-arg]
assert_type(pyrnn.jvp(run, pyrnn.Direction(W=W)), NDArray[Any])
loss, below = pyrnn.loss_and_gradients(network, x, classes)
assert_type(loss, np.float64)
assert_type(below.parameters, pyrnn.Network)
assert_type(
    pyrnn.training.truncated_updates(network, x, classes, k1=1, k2=2),
    Generator[pyrnn.training.TruncatedGradients, pyrnn.Network | pyrnn.RNN | None],
)

# ---- Results that depend on an argument -----------------------------------------------------------------------------
objective = pyrnn.training.Objective(network, x, classes)
assert_type(objective.hessp([1.0], network), pyrnn.Network)
assert_type(objective.hessp([1.0], [1.0]), NDArray[Any])
assert_type(objective.ggnp([1.0], network), pyrnn.Network)
assert_type(objective.ggnp([1.0], [1.0]), NDArray[Any])
assert_type(pyrnn.training.clip_gradients(gradients, max_norm=1.0), tuple[pyrnn.Gradients, float])
assert_type(pyrnn.training.clip_gradients({"W": gradients.W}, max_norm=1.0), tuple[dict[str, NDArray[Any]], float])
assert_type(pyrnn.training.clip_gradients(1.0, max_norm=1.0), tuple[np.float64, float])
assert_type(pyrnn.show_config("dicts"), dict[str, dict[str, Any]])
pyrnn.show_config("json")  # type: ignore[call-overload]
with pyrnn.profile() as profile:
    pass
assert_type(profile.to_json(), str)
assert_type(profile.peak, dict[str, float])

# ---- Analyses -------------------------------------------------------------------------------------------------------
assert_type(pyrnn.dynamics.lyapunov_spectrum(network, steps=3).exponents, NDArray[np.float64])
assert_type(pyrnn.dynamics.gradient_flow(network, x).norm, Literal["spectral", "frobenius"])
points = pyrnn.dynamics.find_fixed_points(network, starts=h)
assert_type(points.jacobian, NDArray[Any])
assert_type(points[1:], pyrnn.dynamics.FixedPoints)
assert_type(pyrnn.dynamics.jacobian_product(run).log_scale, NDArray[Any] | np.float64)
feedback = pyrnn.initialize(1, 2, 3, feedback=True)
assert_type(feedback.R, NDArray[Any] | None)
assert_type(pyrnn.training.sample(feedback, 3).classes, NDArray[np.intp])
assert_type(pyrnn.check_gradients(network, x, classes).b, float | None)
constraint = pyrnn.training.Constraint(signs=[1, -1])
assert_type(constraint.signs, NDArray[np.int8] | None)
assert_type(constraint.dale, Literal["rectified", "absolute"])

# ---- Objects with a state -------------------------------------------------------------------------------------------
stepper = pyrnn.Stepper(network)
assert_type(stepper, pyrnn.Stepper)
assert_type(stepper.output_size, int | None)
stepper.state = [1.0]
stepper.batch = 3  # type: ignore[misc]
assert_type(pyrnn.online.RTRL(network).step(x, lambda h: 2 * h), pyrnn.online.OnlineGradients)
assert_type(pyrnn.online.UORO(network, rng=1).gradients(), pyrnn.online.OnlineGradients)
assert_type(pyrnn.online.RFLO(network).network, pyrnn.Network)
assert_type(pyrnn.online.BlockedRTRL(network).step(x), pyrnn.online.OnlineGradients | None)
assert_type(pyrnn.online.BlockedRTRL(network).finish(), pyrnn.online.OnlineGradients)
rnn = pyrnn.RNN(3, 4, form="current", alpha=0.5)
assert_type(rnn(x), tuple[NDArray[Any], NDArray[Any]])
assert_type(rnn.weight_ih_l0, NDArray[Any])
Nonlinearities = Literal["tanh", "relu", "identity", "softplus", "sigmoid", "retanh", "leaky_relu"]
assert_type(rnn.nonlinearity, Nonlinearities)
assert_type(rnn.backward(h), RNNGradients)
assert_type(rnn.network(0), pyrnn.Network)
assert_type(pyrnn.RNN.load("network.npz"), pyrnn.RNN)
assert_type(rnn.state_dict(), pyrnn.layers.StateDict)
rnn.parameters = [1.0]
rnn.hidden_size = 3  # type: ignore[misc]
task = pyrnn.tasks.FlipFlop(bits=2)
assert_type(task.batch(0), pyrnn.tasks.Batch)
assert_type(task(), pyrnn.tasks.Batch)
assert_type(task.loss, Literal["softmax_cross_entropy", "squared_error", "binary_cross_entropy", "poisson", "huber"])
assert_type(task.trial_info(0), dict[str, NDArray[Any]])
assert_type(task.accuracy(h, h), float)
assert_type(pyrnn.tasks.DelayedMatch(delay=(100, 200)).choices(h, classes), NDArray[Any])
task.bits = 3  # type: ignore[misc]
history = pyrnn.fit(rnn, task, steps=3, loss="poisson", penalties={"l2": 0.1})
assert_type(history, pyrnn.training.History)
assert_type(history[0], dict[str, Any])
assert_type(history[1:], list[dict[str, Any]])
pyrnn.fit(rnn, (x, classes), loss=lambda o, y, weights: (0.0, o), optimizer=pyrnn.training.Adam(), epochs=1)
pyrnn.fit(rnn, task, steps=3, loss="mse")  # type: ignore[arg-type]
pyrnn.fit(rnn, task, steps=3, optimizer="lbfgs")  # type: ignore[arg-type]
pyrnn.fit(rnn, task, steps=3, n_threads="all")  # type: ignore[arg-type]
population = pyrnn.fit_population(lambda k: pyrnn.RNN(2, 3, rng=k), 3, task, steps=3, each=lambda k: {"rng": k})
assert_type(population, pyrnn.training.Population)
assert_type(population.rnns, list[pyrnn.RNN])
assert_type(population[0], pyrnn.training.Member)
assert_type(population[0].history, pyrnn.training.History | None)
assert_type(population.failed, dict[int, str])
pyrnn.fit_population(rnn, 3, task, steps=3)  # type: ignore[arg-type]
pyrnn.config.using(n_threads="all")  # type: ignore[arg-type]
pyrnn.tasks.WorkingMemory(delay="long")  # type: ignore[arg-type]

# ---- Files of others ------------------------------------------------------------------------------------------------
layer = pyrnn.bridges.keras.KerasRNN([[1.0]], [[1.0]], merge_mode="sum")
assert_type(layer.kernel, NDArray[Any])
assert_type(layer.backward, pyrnn.bridges.keras.KerasRNN | None)
assert_type(pyrnn.bridges.keras.load_keras("model.keras"), dict[str, pyrnn.bridges.keras.KerasRNN])
layer.name = "rnn"  # type: ignore[misc]
node = pyrnn.bridges.onnx.OnnxRNN([[[1.0]]], [[[1.0]]], direction="reverse")
assert_type(node.B, NDArray[Any] | None)
assert_type(node.layout, Literal[0, 1])
assert_type(pyrnn.bridges.onnx.run_onnx_rnn(node, x).Y_h, NDArray[Any])
pyrnn.bridges.onnx.OnnxRNN([1.0], [1.0], direction="both")  # type: ignore[arg-type]
description = pyrnn.bridges.state_dict.describe({"weight_ih_l0": U})
assert_type(description.layer(0), tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None])
assert_type(pyrnn.bridges.safetensors.load_safetensors("network.safetensors"), pyrnn.layers.StateDict)
