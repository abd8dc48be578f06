"""pyrnn: exact backpropagation through time for recurrent networks, on CPUs, as NumPy function calls.

h_t = tanh(U x_t + W h_{t-1} + b), its gradients and its Jacobians; see `forward` and `backward` first. What people do
with them has rooms of its own, loaded when they are first used: `pyrnn.dynamics` analyses networks, `pyrnn.training`
trains them, `pyrnn.tasks` has what they are trained on, `pyrnn.online` learns step by step, `pyrnn.plots` draws.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("pyrnn._core.engine_blas") is None:
    raise ImportError(
        f"pyrnn has no compiled modules in {__path__[0]}: this is the source folder, found before the installed "
        "package because it lies in the current folder. Run `python -P -m ...`, or from another folder, or install "
        "in place with `python -m pip install -e .`"
    )

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pyrnn import config as config
    from pyrnn import dynamics as dynamics
    from pyrnn import layers as layers
    from pyrnn import online as online
    from pyrnn import plots as plots
    from pyrnn import tasks as tasks
    from pyrnn import training as training
    from pyrnn._results import (
        Gradients as Gradients,
    )
    from pyrnn._results import (
        LossGradients as LossGradients,
    )
    from pyrnn._results import (
        OutputGradients as OutputGradients,
    )
    from pyrnn.cell import Cell as Cell
    from pyrnn.config import show_config as show_config
    from pyrnn.derivatives import backward_jvp as backward_jvp
    from pyrnn.derivatives import jvp as jvp
    from pyrnn.functional import (
        backward as backward,
    )
    from pyrnn.functional import (
        forward as forward,
    )
    from pyrnn.functional import (
        jacobian as jacobian,
    )
    from pyrnn.functional import (
        state_gradients as state_gradients,
    )
    from pyrnn.layers.rnn import RNN as RNN
    from pyrnn.losses import softmax_cross_entropy as softmax_cross_entropy
    from pyrnn.losses import squared_error as squared_error
    from pyrnn.network import Network as Network
    from pyrnn.network import initialize as initialize
    from pyrnn.online.stepper import Stepper as Stepper
    from pyrnn.profiling import profile as profile
    from pyrnn.readout import output as output
    from pyrnn.readout import output_gradients as output_gradients
    from pyrnn.training.check import check_gradients as check_gradients
    from pyrnn.training.fitting import fit as fit
    from pyrnn.training.gradients import loss_and_gradients as loss_and_gradients
    from pyrnn.training.population import fit_population as fit_population
    from pyrnn.trajectory import Direction as Direction
    from pyrnn.trajectory import Trajectory as Trajectory
    from pyrnn.trajectory import simulate as simulate

_HOMES = {
    "Gradients": "_results",
    "LossGradients": "_results",
    "OutputGradients": "_results",
    "Cell": "cell",
    "show_config": "config",
    "backward_jvp": "derivatives",
    "jvp": "derivatives",
    "backward": "functional",
    "forward": "functional",
    "jacobian": "functional",
    "state_gradients": "functional",
    "RNN": "layers.rnn",
    "softmax_cross_entropy": "losses",
    "squared_error": "losses",
    "Network": "network",
    "initialize": "network",
    "Stepper": "online.stepper",
    "profile": "profiling",
    "output": "readout",
    "output_gradients": "readout",
    "check_gradients": "training.check",
    "fit": "training.fitting",
    "fit_population": "training.population",
    "loss_and_gradients": "training.gradients",
    "Direction": "trajectory",
    "Trajectory": "trajectory",
    "simulate": "trajectory",
}
_ROOMS = ("config", "dynamics", "layers", "online", "plots", "tasks", "training")

__all__ = [
    "RNN",
    "Cell",
    "Direction",
    "Gradients",
    "LossGradients",
    "Network",
    "OutputGradients",
    "Stepper",
    "Trajectory",
    "backward",
    "backward_jvp",
    "check_gradients",
    "config",
    "dynamics",
    "fit",
    "fit_population",
    "forward",
    "initialize",
    "jacobian",
    "jvp",
    "layers",
    "loss_and_gradients",
    "online",
    "output",
    "output_gradients",
    "plots",
    "profile",
    "show_config",
    "simulate",
    "softmax_cross_entropy",
    "squared_error",
    "state_gradients",
    "tasks",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"pyrnn.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'pyrnn' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pyrnn.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
