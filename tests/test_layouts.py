"""Every public function with every layout of every array that it takes, and with sizes of nothing and of one.

The table is made from the signatures: a function, a method or an argument that is new here fails until it has a value
(ARRAYS), is no array (OPTIONS), has a call of its own (CALLS) or is left out with a reason (LEFT_OUT).
"""

import contextlib
import dataclasses
import inspect

import numpy as np
import pytest
from helpers import LAYOUTS, WRITEABLE_LAYOUTS, for_each

import pyrnn
from pyrnn import _engines
from pyrnn._core import engine_blas, engine_fused, sequences, tangents
from pyrnn._core.call import Call

pytestmark = pytest.mark.plain_c

# Everything public by its name after `pyrnn.`, each thing once.
ROOMS = {"": pyrnn, "dynamics.": pyrnn.dynamics, "training.": pyrnn.training, "online.": pyrnn.online,
         "plots.": pyrnn.plots}  # fmt: skip
PUBLIC = {"elementwise.tanh": pyrnn.elementwise.tanh, "elementwise.sech2": pyrnn.elementwise.sech2}
for prefix, room in ROOMS.items():
    for name in room.__all__:
        public = getattr(room, name)
        if not inspect.ismodule(public) and not any(public is other for other in PUBLIC.values()):
            PUBLIC[prefix + name] = public
# The methods of a trajectory are functions of it.
PUBLIC |= {
    f"Trajectory.{name}": getattr(pyrnn.Trajectory, name)
    for name in dir(pyrnn.Trajectory)
    if not name.startswith("_") and name not in dir(tuple) and callable(getattr(pyrnn.Trajectory, name))
}

LEFT_OUT = {
    "initialize": "takes no arrays",
    "profile": "takes no arrays",
    "show_config": "takes no arrays",
    "plots.eigenvalues": "draws: test_plots.py has its layouts",
    "plots.learning_curve": "takes no arrays",
    "plots.plot_fixed_points": "draws what find_fixed_points has returned",
    "plots.plot_gradient_flow": "draws what gradient_flow has returned",
    "plots.psychometric": "draws: test_plots.py has its layouts",
    "plots.trajectories": "draws: test_plots.py has its layouts",
    "plots.trial": "draws: test_plots.py has its layouts",
    "plots.weights": "draws: test_plots.py has its layouts",
    "training.balanced": "takes no arrays",
    "training.lbfgs": "takes a function and a vector, which is copied: test_lbfgs.py",
    "fit": "test_fit.py: arrays go through RNN.__call__ and the losses",
    "fit_population": "test_population.py: as fit",
    "training.Population": "takes what fit_population has made",
    "training.FitState": "takes what fit has made",
    "training.History": "takes what fit has made",
    "training.EarlyStopping": "takes no arrays",
    "training.L1": "takes an RNN",
    "training.L2": "takes an RNN",
    "training.RateChange": "takes an RNN",
    "training.RatesL1": "takes an RNN",
    "training.RatesL2": "takes an RNN",
    "training.Vanishing": "takes an RNN",
    "training.CheckpointError": "takes no arrays",
    "training.SGD": "test_optimizers.py has the layouts that a step refuses, since it writes in place",
    "training.Adam": "as training.SGD",
    "training.AdamW": "as training.SGD",
    "training.RMSprop": "as training.SGD",
    "training.Constraint.trained": "takes no arrays",
    "training.noise": "takes no arrays but sigma, which is copied",
    "Trajectory.require_x": "takes no arrays",
    "Cell.alpha_gradient": "takes what backward has computed",
    "Cell.bend": "takes what functions have conformed",
    "Cell.check_units": "takes no arrays",
    "Cell.leak": "takes no arrays",
    "Cell.drive_sigma": "takes what functions have conformed",
    "Cell.phi": "takes what functions have conformed",
    "Cell.slope": "takes what functions have conformed",
    "Cell.slope_at": "takes what functions have conformed",
    "dynamics.FixedPoints.__init__": "is called by find_fixed_points alone",
    "RNN.__init__": "takes no arrays but alpha and output_units, which are copied: RNN.__call__ here has an alpha",
    "RNN.dropout": "is a number",
    "RNN.network": "takes no arrays",
    "RNN.recurrent_dropout": "is a number",
    "RNN.rng": "is a generator",
    "RNN.noise": "is a number, or an array that is copied",
    "RNN.save": "takes no arrays",
    "RNN.load": "takes no arrays",
    "RNN.train": "takes no arrays",
}
# Arguments that are no arrays.
OPTIONS = {
    "cell", "reverse", "x_gradient", "n_threads", "loss", "memory_limit", "preactivations",
    "step", "max_entries", "rng", "start", "stop", "norm", "vectors", "k", "warmup", "qr_every", "tolerance", "delta",
    "max_iterations", "unique_tolerance", "outlier_distance", "between", "k1", "k2", "length", "batch",
    "end_symbol", "temperature", "probability", "choose", "norms_only", "error_if_nonfinite", "radius", "block",
    "every_step", "dale", "strict", "max_norm", "max_value", "variant", "self", "cls", "args", "kwargs", "seed",
}  # fmt: skip
# Values that are made of several arrays, and whose they are.
NETWORK, CELL = ("U", "W", "b", "V", "c"), ("U", "W", "b", "h0", "x")
RUN = (*NETWORK, "h", "x", "h0", "rates", "drive", "lengths", "mask")
DIRECTION = ("x_dot", "U_dot", "W_dot", "b_dot", "h0_dot", "drive_dot", "alpha_dot")
VALUES = {"network": NETWORK, "self": RUN, "run": RUN, "direction": DIRECTION, "gradients": NETWORK}
# What a call takes beside the arrays, where it has the option.
GIVEN = {
    "rng": 0,
    "seed": 3,
    "probability": 0.5,
    "k1": 2,
    "k2": 3,
    "max_entries": 2,
    "radius": 0.9,
    "max_iterations": 20,
    "memory_limit": 1 << 30,
    "max_norm": 0.5,
}
VARIANTS = {
    "plain": {},
    "rate": {"form": "rate"},
    "current": {"form": "current", "nonlinearity": "relu"},
    "one alpha": {"form": "current", "one": True, "nonlinearity": "identity"},
    "lengths": {"lengths": True},
    "reversed": {"reverse": True, "form": "current"},
    "reversed lengths": {"lengths": True, "reverse": True, "form": "rate"},
    "mask": {"mask": True, "form": "rate"},
    "preactivations": {"preactivations": True},
    "squared error": {"loss": "squared_error"},
}
# Functions of a trajectory whose steps all exist.
ALL_STEPS = {
    "backward_jvp", "dynamics.jacobian_product", "dynamics.log_singular_values", "dynamics.preactivations",
    "dynamics.pull", "dynamics.push",
}  # fmt: skip
SIZES = {"T": 4, "B": 3, "I": 2, "H": 5, "O": 2}
ODD = [SIZES | {name: n} for name in SIZES for n in (0, 1)] + [SIZES | {"B": None}]
# The layouts that those, and float32, are tried in; float64 of the usual sizes in all there are.
FEW = ("F", "batch first", "batch-first sub-array", "all reversed", "steps in all axes", "unaligned", "big-endian")
ODD += [dict.fromkeys(SIZES, n) for n in (0, 1)] + [SIZES | {"T": 0, "B": 0}, SIZES | {"I": 0, "H": 1}]


# ---- Values ---------------------------------------------------------------------------------------------------------
def values(sizes, dtype, **o):
    """An array for each name that arguments have."""
    T, B, I, H, O = sizes.values()
    rng = np.random.default_rng(1)
    batch = () if B is None else (B,)
    steps, units = (T, *batch), (T, *batch, H)
    draw = lambda *shape: (rng.standard_normal(shape) * 0.5).astype(dtype)
    a = {name: draw(*shape) for name, shape in {
        "x": (*steps, I), "U": (H, I), "W": (H, H), "b": (H,), "h0": (*batch, H), "V": (O, H), "c": (O,), "R": (H, O),
        "dh": units, "drive": units, "do": (*steps, O), "o": (*steps, O), "x_dot": (*steps, I), "U_dot": (H, I),
        "W_dot": (H, H), "b_dot": (H,), "h0_dot": (*batch, H), "drive_dot": units, "alpha_dot": (H,), "dh_dot": units,
        "v": (*batch, 3, H), "u": (*batch, 3, H), "grad_h": units, "starts": (7, H), "inputs": (7, I), "a": (*steps, I),
        "first": (*batch, O), "fed": (*steps, O), "dout": (*steps, O), "dh_n": (1, *batch, H), "drates": units,
        "state": (*batch, H), "h0_n": (1, *batch, H), "raw": (H, H), "grad_effective": (H, H),
    }.items()}  # fmt: skip
    a["alpha"] = rng.uniform(0.2, 0.9, H).astype(dtype)
    if o.get("one"):
        a["alpha_dot"] = draw()
    a["numbers"], a["classes"] = draw(*steps, O), rng.integers(0, max(O, 1), steps)
    a["weights"] = rng.uniform(0.5, 1.5, steps).astype(dtype)
    a["lengths"] = rng.integers(0, T + 1, batch)
    a["mask"] = rng.random(steps) < 0.6
    a["noise"] = rng.uniform(0.1, 0.5, H).astype(dtype)
    a["steps"] = np.arange(T)[::2]
    a["signs"], a["frozen"] = rng.choice([-1.0, 0.0, 1.0], H), np.where(rng.random((H, H)) < 0.3, 0.0, np.nan)
    a["vector"] = draw(sum(a[name].size for name in NETWORK))
    run = pyrnn.simulate(network(a, o), a["x"], a["h0"], drive=a["drive"], **steps_of(a, o))
    a["h"], a["rates"] = run.h, run.rates if "form" in o else None
    a["shares"] = rng.random((*steps, O)).astype(dtype)
    return a


def cell(a, o):
    if "form" not in o:
        return pyrnn.Cell()
    return pyrnn.Cell(o.get("nonlinearity", "tanh"), 0.5 if o.get("one") else a["alpha"], o["form"])


def network(a, o, names=NETWORK):
    return pyrnn.Network(**{name: a[name] for name in names}, cell=cell(a, o))


def steps_of(a, o):
    """Which steps there are."""
    return {name: a[name] for name in ("lengths", "mask") if o.get(name)} | {"reverse": o.get("reverse", False)}


def trajectory(a, o):
    more = {name: a[name] for name in ("rates", "drive")} | steps_of(a, o)
    return pyrnn.Trajectory.of(network(a, o), a["h"], a["x"], a["h0"], **more)


# ---- Calls ----------------------------------------------------------------------------------------------------------
def learner(cls, a, o, **more):
    made = getattr(pyrnn.online, cls)(network(a, o, "UWb"), a["h0"], batch=batch_of(a), **more)
    results = [made.step(x, dh) for x, dh in zip(a["x"], a["dh"], strict=True)]
    results += [made.finish()] if hasattr(made, "finish") else []
    made.reset(a["state"])
    moved = dataclasses.replace(cell(a, o), alpha=None if "form" not in o else cell(a, o).alpha / 2)
    made.update(pyrnn.Network(a["U_dot"], a["W_dot"], a["b_dot"], cell=moved))
    if len(a["x"]):
        results += [made.forward(a["x"][0]), made.gradients(a["dh"][0])]
    results += [made.h, made.network]
    return [*results, made.influence()] if hasattr(made, "influence") else results


def batch_of(a):
    return None if a["h0"].ndim == 1 else len(a["h0"])


def stepper(a, o, names="UWb"):
    made = pyrnn.Stepper(network(a, o, names), a["h0"], batch=batch_of(a))
    results = [made.run(a["x"]), *(made.step(x).copy() for x in a["x"])]
    made.reset(a["state"])
    results += [made.step(x) for x in a["x"][:1]]
    made.state = a["h0_dot"]
    return [*results, made.state]


def rnn(a, o, out=None, h_n=None, dx=None, dh0=None, into=None):
    H, I = a["U"].shape
    form = {"nonlinearity": o.get("nonlinearity", "tanh"), "form": o.get("form", "rate")}
    form |= {"alpha": 0.5 if o.get("one") else a["alpha"]} if "form" in o else {}
    made = pyrnn.RNN(I, H, output_size=len(a["V"]), dtype=a["x"].dtype.newbyteorder("="), rng=0, **form)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_out", "bias_out")
    made.load_state_dict(dict(zip(names, (a[name] for name in NETWORK), strict=True)), strict=False)
    lengths = {"lengths": a["lengths"]} if o.get("lengths") else {}
    results = [made(a["x"], a["h0_n"], **lengths, out=None if out is None else (out, h_n))]
    results += [made.backward(a["dout"], a["dh_n"], out=None if dx is None else (dx, dh0)), made.gradients.copy()]
    results += [made.loss_and_gradients(
        a["x"], targets(a, o), h0=a["h0_n"], weights=a["weights"], out=into, **lengths, **loss(o)
    )]  # fmt: skip
    made.gradients = a["vector"] if a["vector"].shape == made.gradients.shape else made.gradients
    return [*results, made.layer_states, made.gradients]


def targets(a, o):
    return a["numbers" if "loss" in o else "classes"]


def loss(o):
    return {"loss": o["loss"]} if "loss" in o else {}


def objective(a, o):
    made = pyrnn.training.Objective(network(a, o), a["x"], targets(a, o), h0=a["h0"], weights=a["weights"], **loss(o))
    p, v = a["vector"], a["vector"][::-1]
    return [made.first, made.fun(p), made.jac(p), made.hessp(p, v), made.ggnp(p, v)]


def constraint(a, o):
    results = []
    for options in ({"mask": a["raw"] > 0}, {"frozen": a["frozen"]}, {"signs": a["signs"]}):
        made = pyrnn.training.Constraint(**options)
        W = made.apply(a["raw"])
        results += [W, made.gradient(a["raw"], a["grad_effective"]), made.project(a["W"]), made.raw(W)]
    return results


def gradients_of(o, dx, dU, dW, db, dh0, d_drive, d_alpha):
    """Where to write them; a number for alpha is not written."""
    d_alpha = None if "form" not in o else np.zeros(()) if o.get("one") else d_alpha
    return pyrnn.Gradients(dx, dU, dW, db, dh0, d_drive, d_alpha)


def backward_into(a, o, **out):
    more = {"cell": cell(a, o), "rates": a["rates"], "drive": a["drive"]} | steps_of(a, o)
    return pyrnn.backward(*(a[name] for name in ("dh", "h", "x", "U", "W", "h0")), out=gradients_of(o, **out), **more)


def forward_into(a, o, out, rates):
    rates = rates if "form" in o else None
    arrays = (a[name] for name in ("x", "U", "W", "b", "h0"))
    return pyrnn.forward(*arrays, cell=cell(a, o), out=out, rates=rates, **steps_of(a, o)), rates


def step_into(a, o, out):
    made = pyrnn.Stepper(network(a, o, "UWb"), a["h0"], batch=batch_of(a))
    return [made.step(x, out=out).copy() for x in a["x"]]


def of_function(a, o):
    """The form of check_gradients that takes a function and its arrays."""
    function = lambda x, U: (float((x @ U.T).sum()), (np.broadcast_to(U.sum(axis=0), x.shape), None))
    return pyrnn.training.check_gradients(function, [a["x"], a["U"]])


def raveled(a, o):
    fed = network(a, o, "UWbVcR")
    vector = np.concatenate([a["vector"], a["R"].ravel()])
    return [network(a, o).unravel(a["vector"]), network(a, o).ravel(), fed.unravel(vector), fed.closed_loop()]


LEARNER = (*CELL, "dh", "state", "U_dot", "W_dot", "b_dot")
RESULTS = {"dx": "x", "dU": "U", "dW": "W", "db": "b", "dh0": "h0", "d_drive": "dh", "d_alpha": "alpha"}
# By name: the call, the arrays that it reads, the shapes of those that it writes, and what variants change of it.
LEARNERS = {
    f"online.{cls}{' of every step' if more.get('every_step') else ''}": (
        lambda a, o, cls=cls, more=more: learner(cls, a, o, **more),
        LEARNER,
        {},
        {"form"},
    )
    for cls, more in (
        ("RTRL", {}),
        ("BlockedRTRL", {"block": 3}),
        ("BlockedRTRL", {"block": 2, "every_step": True}),
        ("SnAp1", {}),
        ("RFLO", {}),
        ("UORO", {"rng": 0}),
    )
}
CALLS = LEARNERS | {
    "Cell": (lambda a, o: pyrnn.Cell(alpha=a["alpha"]).alpha, ("alpha",), {}, set()),
    "Network": (raveled, (*NETWORK, "R", "vector"), {}, {"form"}),
    "Stepper": (stepper, (*CELL, "state", "h0_dot"), {}, {"form"}),
    "Stepper with outputs": (
        lambda a, o: stepper(a, o, NETWORK),
        (*CELL, *"Vc", "state", "h0_dot"),
        {},
        {"form"},
    ),
    "Stepper.step(out)": (step_into, CELL, {"out": "h0"}, {"form"}),
    "RNN": (
        rnn,
        (*NETWORK, "x", "h0_n", "dout", "dh_n", "lengths", "classes", "numbers", "weights", "vector", "alpha"),
        {},
        {"form", "lengths", "loss"},
    ),
    "RNN(out)": (
        rnn,
        ("x", "h0_n", "dout"),
        {"out": "do", "h_n": "h0_n", "dx": "x", "dh0": "h0_n"},
        {"form"},
    ),
    "training.Objective": (
        objective,
        (*NETWORK, "x", "h0", "classes", "numbers", "weights", "vector"),
        {},
        {"form", "loss"},
    ),
    "training.Constraint": (constraint, ("raw", "grad_effective", "frozen", "signs", "W"), {}, set()),
    "training.check_gradients of a function": (of_function, ("x", "U"), {}, set()),
    "forward(out)": (
        forward_into,
        ("x", "lengths", "mask"),
        {"out": "dh", "rates": "dh"},
        {"form", "lengths", "mask", "reverse"},
    ),
    "backward(out)": (backward_into, ("x", "lengths", "mask"), RESULTS, {"form", "lengths", "mask", "reverse"}),
    "Trajectory.backward(out)": (
        lambda a, o, **out: trajectory(a, o).backward(a["dh"], a["drates"], out=gradients_of(o, **out)),
        ("dh", "drates", "rates"),
        RESULTS,
        {"form", "lengths", "mask", "reverse"},
    ),
    "output(out)": (lambda a, o, out: pyrnn.output(a["h"], a["V"], a["c"], out=out), ("h", "V"), {"out": "o"}, set()),
    "output_gradients(out)": (
        lambda a, o, **out: pyrnn.output_gradients(a["do"], a["h"], a["V"], out=pyrnn.OutputGradients(**out)),
        ("do", "h", "V"),
        {"h": "h", "V": "V", "c": "c"},
        set(),
    ),
    "dynamics.find_fixed_points": (
        lambda a, o: pyrnn.dynamics.find_fixed_points(
            network(a, o), a["inputs"], starts=a["starts"], max_iterations=20, between=False
        ),
        (*NETWORK, "inputs", "starts"),
        {},
        {"form"},
    ),
}
# The methods that these calls go through.
CALLED = {
    "Cell.__init__", "Network.ravel", "Network.unravel", "Network.closed_loop",
    "Stepper.__new__", "Stepper.step", "Stepper.run", "Stepper.reset", "Stepper.state", "RNN.__call__",
    "RNN.backward", "RNN.loss_and_gradients", "RNN.load_state_dict", "RNN.parameters", "RNN.gradients",
    *(f"training.Objective.{method}" for method in ("__init__", "fun", "jac", "hessp", "ggnp")),
    *(f"training.Constraint.{method}" for method in ("__init__", "apply", "gradient", "project", "raw")),
}  # fmt: skip
CALLED |= {
    f"online.{cls}.{method}"
    for cls in ("RTRL", "BlockedRTRL", "SnAp1", "RFLO", "UORO")
    for method in ("__init__", "forward", "gradients", "step", "reset", "update")
}
# Functions of a network whose output is fed back.
FEEDBACK = {
    f"training.{name}"
    for name in ("teacher_forcing", "free_running", "free_running_output", "scheduled_sampling", "sample")
}


def names_in(function):
    return list(inspect.signature(PUBLIC[function]).parameters)


def arrays_of(function, o):
    """The arguments of a function that are arrays in this variant, by what `values` calls them."""
    left_out = {"out"}
    if function == "forward":
        left_out.add("rates")
    if "form" not in o:
        left_out |= {"rates", "alpha_dot"}
    left_out |= {name for name in ("lengths", "mask") if not o.get(name)}
    if function == "dynamics.lyapunov_spectrum":
        left_out.add("steps")
    if function == "dynamics.gradient_flow":
        left_out.add("dh")
    if function == "training.teacher_forcing":
        left_out.add("fed")
    if function in FEEDBACK and "loss" not in o:
        left_out |= {"first", "fed"}
    if function in ("training.free_running", "training.sample", "training.free_running_output"):
        left_out.add("first")
    chosen = []
    for name in names_in(function):
        if name in OPTIONS - {"self"} or name in left_out:
            continue
        if name == "targets":
            chosen.append(targets_of(function, o))
        else:
            chosen += VALUES.get(name, (name,))
        if name == "network" and function in FEEDBACK:
            chosen.append("R")
    return [name for name in dict.fromkeys(chosen) if name not in left_out]


def targets_of(function, o):
    """Which targets a function takes."""
    if function in ("training.binary_cross_entropy", "training.poisson"):  # from 0 on
        return "shares"
    of_numbers = ("squared_error", "training.free_running", "training.huber")
    return "numbers" if "loss" in o or function in of_numbers else "classes"


def call(function, a, o, chosen):
    """Call a public function with these arrays."""
    arguments = {}
    for name in names_in(function):
        if name == "network":
            arguments[name] = network(a, o, "UWbVcR" if function in FEEDBACK else NETWORK)
        elif name in ("self", "run"):
            arguments[name] = trajectory(a, o)
        elif name == "direction":
            moved = {field: a[f"{field}_dot"] for field in pyrnn.Direction._fields}
            arguments[name] = pyrnn.Direction(**moved | ({} if "form" in o else {"alpha": None}))
        elif name == "gradients":
            arguments[name] = tuple(a[field] for field in NETWORK)
        elif name == "targets":
            arguments[name] = a[targets_of(function, o)]
        elif name == "cell":
            arguments[name] = cell(a, o)
        elif name in chosen:
            arguments[name] = a[name]
        elif name in GIVEN:
            arguments[name] = GIVEN[name]
        elif name in o and name in ("reverse", "loss", "preactivations"):
            arguments[name] = o[name]
    if function == "training.free_running":
        arguments["loss"] = "squared_error"
    if function == "training.sample":
        arguments |= {"length": len(a["x"]), "batch": batch_of(a)}
    result = PUBLIC[function](**arguments)
    return list(result) if inspect.isgenerator(result) else result


def applies(function, variant):
    """Whether a variant changes what this function does."""
    if function in CALLS:
        names = CALLS[function][3]
    else:
        names = set(names_in(function))
        if names & {"network", "run", "self", "cell"}:
            names.add("form")
        if names & {"run", "self"}:
            names |= {"reverse"} if function in ALL_STEPS else {"reverse", "lengths", "mask"}
    options = VARIANTS[variant]
    return set(options) - {"nonlinearity", "one"} <= names and (
        variant != "squared error" or function != "training.free_running"
    )


FUNCTIONS = [
    name
    for name, public in PUBLIC.items()
    if name not in LEFT_OUT and name not in CALLS and not inspect.isclass(public)
]
CASES = [(name, variant) for name in [*FUNCTIONS, *CALLS] for variant in VARIANTS if applies(name, variant)]
every_case = pytest.mark.parametrize(
    ("function", "variant"), CASES, ids=[f"{name}-{variant}" for name, variant in CASES]
)


def run(function, variant, a, written=None):
    """The results of a case as a flat list of arrays."""
    o = VARIANTS[variant]
    if function in CALLS:
        result = CALLS[function][0](a, o, **(written or {}))
        return flat([result, written])
    return flat(call(function, a, o, arrays_of(function, o)))


def reads(function, variant):
    return CALLS[function][1] if function in CALLS else arrays_of(function, VARIANTS[variant])


def flat(result):
    if result is None or callable(result) or isinstance(result, pyrnn.Cell):
        return []
    if isinstance(result, pyrnn.dynamics.FixedPoints):
        return [np.asarray(len(result.h)), np.sort(result.h, axis=0)]
    if isinstance(result, dict):
        return flat(list(result.values()))
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in flat(part)]
    return [np.array(result)]


def assert_alike(actual, expected, function, dtype):
    """dtype: of the arguments."""
    exact, rounded = is_exact(function), function in FLOAT64_OF_ROUNDED
    rounded = rounded or (function in LOSSES and _engines.automatic() == "blas")
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype.newbyteorder("=")) == (e.shape, e.dtype)
        if exact or a.dtype.kind not in "f":
            np.testing.assert_array_equal(a, e)
            continue
        largest = np.abs(e).max(initial=0, where=np.isfinite(e))
        bits = np.finfo(dtype if rounded else e.dtype).bits
        np.testing.assert_allclose(a, e, rtol=0, atol=TOLERANCE[bits] * largest)


# What goes through NumPy's BLAS has other roundings for other strides, which a few steps amplify.
TOLERANCE = {64: 1e-11, 32: 2e-4}
# Their float64 results are sums, norms and logarithms of such products, which have the dtype of the arguments.
FLOAT64_OF_ROUNDED = (
    "dynamics.gradient_flow", "dynamics.log_singular_values", "training.free_running", "training.vanishing_regularizer",
)  # fmt: skip
# So are losses where blas is the default engine: the states have the roundings of its products.
LOSSES = (
    "loss_and_gradients", "training.scheduled_sampling", "training.teacher_forcing", "training.truncated_gradients",
    "training.truncated_updates",
)  # fmt: skip


def is_exact(function):
    """Whether the results have the same bits whatever the layout."""
    name = function.split("(")[0]
    return _engines.automatic() == "fused" and name in (
        "forward", "backward", "state_gradients", "jacobian", "output", "output_gradients", "Stepper.step", "jvp",
        "simulate", "Trajectory.state_gradients", "Trajectory.jacobian", "Trajectory.output",
    )  # fmt: skip


def outcome(function, variant, a, written=None):
    """The results, or the type of the error for arguments that the function refuses."""
    try:
        return run(function, variant, a, written)
    except (ValueError, TypeError) as error:
        if "compiled function" in str(error):
            raise
        return type(error)


def new_written(function, a, layout=None, which=None):
    """Arrays of NaN for what a call writes, one or all of them laid out."""
    if function not in CALLS or not CALLS[function][2]:
        return None
    written = {}
    for name, like in CALLS[function][2].items():
        written[name] = np.full(a[like].shape, np.nan, a[like].dtype)
        if layout is not None and which in (None, name):
            written[name] = layout(written[name])
    return written


# ---- The table ------------------------------------------------------------------------------------------------------
def laid_out(a, layout, names):
    return a | {name: layout(a[name]) for name in names if a[name] is not None and a[name].ndim > 0}


def check_each_argument(function, variant, dtype, layouts):
    a = values(SIZES, dtype, **VARIANTS[variant])
    expected = run(function, variant, a, new_written(function, a))
    assert any(result.size for result in expected)
    for layout_name, layout in layouts.items():
        for name in reads(function, variant):
            actual = run(function, variant, laid_out(a, layout, [name]), new_written(function, a))
            with told(f"{name}: {layout_name}"):
                assert_alike(actual, expected, function, dtype)


def check_all_arguments_at_once(function, variant, sizes, dtype, layouts):
    a = values(sizes, dtype, **VARIANTS[variant])
    expected = outcome(function, variant, a, new_written(function, a))
    for layout_name, layout in layouts.items():
        written = new_written(function, a, layout if layout_name in WRITEABLE_LAYOUTS else None)
        actual = outcome(function, variant, laid_out(a, layout, reads(function, variant)), written)
        with told(f"{layout_name}, {sizes}"):
            if isinstance(expected, type):
                assert actual is expected
            else:
                assert_alike(actual, expected, function, dtype)


@every_case
def test_every_layout_of_every_argument(function, variant, dtype):
    chosen = LAYOUTS if dtype is np.float64 else {name: LAYOUTS[name] for name in FEW}
    check_each_argument(function, variant, dtype, chosen)


@pytest.mark.parametrize(("function", "variant"), [case for case in CASES if case[0] in CALLS and CALLS[case[0]][2]])
def test_every_layout_of_what_is_written(function, variant, dtype):
    a = values(SIZES, dtype, **VARIANTS[variant])
    expected = run(function, variant, a, new_written(function, a))
    for layout_name, layout in WRITEABLE_LAYOUTS.items():
        for name in CALLS[function][2]:
            actual = run(function, variant, a, new_written(function, a, layout, name))
            with told(f"{name}: {layout_name}"):
                assert_alike(actual, expected, function, dtype)


@pytest.mark.compiled
@every_case
@for_each("sizes", ODD)
def test_odd_sizes(function, variant, sizes):
    chosen = {name: LAYOUTS[name] for name in FEW}
    check_all_arguments_at_once(function, variant, sizes, np.float64, chosen)


@every_case
@pytest.mark.slow
def test_the_rest_of_the_table(function, variant):
    """float32 and the odd sizes in all layouts too."""
    check_each_argument(function, variant, np.float32, LAYOUTS)
    for sizes in ODD:
        for dtype in (np.float32, np.float64):
            check_all_arguments_at_once(function, variant, sizes, dtype, LAYOUTS)


@contextlib.contextmanager
def told(text):
    """Say in an error which layout it was."""
    try:
        yield
    except AssertionError as error:
        error.add_note(text)
        raise


# ---- Nothing is left out --------------------------------------------------------------------------------------------
def signatures():
    """(name, parameters) of all public functions and methods."""
    for name, public in PUBLIC.items():
        if not inspect.isclass(public):
            yield name, names_in(name)
            continue
        if issubclass(public, Exception):
            continue
        base = tuple if issubclass(public, tuple) else object
        for method in dir(public):
            if method.startswith("_") and method not in ("__init__", "__new__", "__call__"):
                continue
            static, bound = inspect.getattr_static(public, method), getattr(public, method)
            if isinstance(static, property):
                if static.fset is not None:
                    yield f"{name}.{method}", ["value"]
            elif method in dir(base) and static is getattr(base, method, None):
                continue
            elif callable(bound) and not (base is tuple and method in dir(tuple)):
                yield f"{name}.{method}", list(inspect.signature(bound).parameters)


def test_no_function_and_no_argument_is_left_out():
    known = {*values(SIZES, np.float64), *OPTIONS, *VALUES, "targets", "out"}
    assert set(LEFT_OUT) <= {*PUBLIC, *(name for name, _ in signatures())}
    tested = {name for name, _ in CASES}
    for name, parameters in signatures():
        if name in LEFT_OUT or name.rpartition(".")[0] in LEFT_OUT or name in CALLED or name in CALLS:
            continue
        unknown = set(parameters) - known
        assert not unknown, f"{name} takes {unknown}: give values to them, or say that they are options"
        if name not in PUBLIC:
            assert set(parameters) <= OPTIONS, f"{name} takes arrays: add it to a call of CALLS, and to CALLED"
    for name, public in PUBLIC.items():
        assert name in tested or name in LEFT_OUT or inspect.isclass(public), f"{name} is tested nowhere"


# ---- What compiled functions are called with ------------------------------------------------------------------------
COMPILED = {
    "output": ("h", "V", "c"),
    "output_gradients": ("do", "h", "V"),
}


def wrong(a):
    """The values of an array with a fault in its type, shape, or layout."""
    yield "other type", a.astype(np.float32)
    yield "longer", np.concatenate([a, a], axis=0)
    yield "wider", np.concatenate([a, a], axis=-1)
    yield "flat", a.reshape(-1, 1, 1, 1)
    yield "big-endian", a.astype(">f8")
    yield "reversed", np.ascontiguousarray(a[..., ::-1])[..., ::-1]
    yield "every other", np.repeat(a, 2, axis=-1)[..., ::2]


@pytest.mark.compiled
@pytest.mark.parametrize("engine", [engine_blas, engine_fused], ids=["blas", "fused"])
@pytest.mark.parametrize(("function", "name"), [(f, name) for f, names in COMPILED.items() for name in names])
def test_compiled_functions_refuse_arrays_that_they_cannot_read(engine, function, name):
    a = values(SIZES, np.float64)
    a["out"] = np.empty(a["h"].shape)
    arguments = {key: a[key] for key in COMPILED[function]}
    getattr(engine, function)(**arguments)
    for fault, array in wrong(arguments[name]):
        if (function, name, fault) == ("output", "h", "longer"):  # no fault: more steps
            continue
        with told(fault), pytest.raises((ValueError, TypeError)):
            getattr(engine, function)(**arguments | {name: array})


PARAMETERS = {
    "forward": ("x", "U", "W", "b", "h0", "cell", "drive", "lengths", "mask", "reverse", "rates", "out", "n_threads"),
    "backward": (
        "dh", "h", "x", "U", "W", "h0", "cell", "drive", "lengths", "mask", "reverse", "rates", "x_gradient", "out",
        "n_threads",
    ),
    "state_gradients": ("dh", "h", "W", "cell", "lengths", "mask", "reverse", "rates", "n_threads"),
}  # fmt: skip
ARRAYS = ("x", "U", "W", "b", "h0", "drive", "rates", "out", "dh", "h", "lengths", "mask")


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("function", "name"), [(f, name) for f, names in PARAMETERS.items() for name in names if name in ARRAYS]
)
def test_calls_are_not_made_of_arrays_that_the_loops_cannot_read(function, name):
    a = values(SIZES, np.float64)
    T, B, H = a["h"].shape
    a |= dict.fromkeys(PARAMETERS[function]) | {n: v for n, v in a.items() if n in PARAMETERS[function]}
    a |= {"cell": pyrnn.Cell(alpha=0.5), "reverse": False, "x_gradient": True, "lengths": np.full(B, T - 1)}
    a |= {"drive": np.ones_like(a["h"]), "rates": np.ones_like(a["h"]), "mask": None}
    if name == "mask":
        a |= {"lengths": None, "mask": np.ones((T, B), bool)}
    if function == "forward":
        a["out"] = np.empty_like(a["h"])
    else:
        states = {"drive": a["h"], "alpha": a["h"][0, 0]}
        shapes = {"x": a["x"], "U": a["U"], "W": a["W"], "b": a["h"][0, 0], "h0": a["h"][0]} | states
        a["out"] = pyrnn.Gradients(**{n: np.empty(v.shape) for n, v in shapes.items()})
        a["cell"] = pyrnn.Cell(alpha=np.full(H, 0.5))
    made = lambda **others: getattr(Call, function)(*((a | others)[n] for n in PARAMETERS[function]))
    assert made() is not None
    if isinstance(a[name], pyrnn.Gradients):
        for field, array in a[name]._asdict().items():
            for fault, wrong_one in (*wrong(array), ("read-only", read_only(array)), ("an input", a["h"])):
                if field == "x" and fault == "reversed":
                    continue
                with told(f"{field}: {fault}"):
                    assert made(out=a[name]._replace(**{field: wrong_one})) is None
        return
    for fault, array in wrong(a[name]):
        if name in ("lengths", "mask") and fault in ("reversed", "every other"):  # no fault: read number by number
            continue
        if fault == "other type" and name in ("lengths", "mask"):
            array = a[name].astype(np.int8)
        with told(fault):
            assert made(**{name: array}) is None
    if name in ("out", "rates") and function == "forward":
        for array in (read_only(a[name]), a["drive"]):
            assert made(**{name: array}) is None


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


@pytest.mark.compiled
def test_a_call_is_computed_once_by_its_own_function():
    a = values(SIZES, np.float64)
    for engine in (engine_blas, engine_fused):
        made = Call.state_gradients(a["dh"], a["h"], a["W"], pyrnn.Cell(), None, None, False, None, None)
        for function in (engine.forward, engine.backward):
            with pytest.raises(ValueError, match="a call is computed once"):
                function(made)
        engine.state_gradients(made)
        with pytest.raises(ValueError, match="a call is computed once"):
            engine.state_gradients(made)
        for wrong_one in (None, a["h"]):
            with pytest.raises(TypeError):
                engine.forward(wrong_one)


@pytest.mark.compiled
def test_compiled_functions_refuse_offsets_and_lengths_beyond_the_arrays():
    a = values(SIZES, np.float64)
    T, B, H = a["h"].shape
    for lengths in ([1, T + 1, 0], [-1, 1, 1], [1, 1]):
        with pytest.raises(ValueError, match="lengths"):
            sequences.Sequences(T, B, np.array(lengths), None, False)
    packed, still = a["h"].reshape(1, T * B, H), pyrnn.Direction()
    run = pyrnn.Trajectory(pyrnn.Network(a["W"], a["W"]), packed, a["h"][0], packed, packed)
    for offsets in ([0, 3, 20], [0, 3, 2, 12], [1, 12], [0, 5, 12], [0, 3]):
        with pytest.raises(ValueError, match=r"offsets|packed"):
            tangents.tangent(run, still, np.array(offsets), np.empty_like(packed), None)
