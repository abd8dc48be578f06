from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from functools import cached_property
from os import PathLike
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pyrnn.profiling import FunctionTotals, PhaseRecord, PhaseTotals
from pyrnn.state_dict import StateDict

__version__: str
__all__ = [
    "RFLO",
    "RNN",
    "RTRL",
    "UORO",
    "BlockedRTRL",
    "Constraint",
    "FeedbackGradients",
    "FeedbackParameters",
    "FixedPoints",
    "GradientErrors",
    "GradientFlow",
    "Gradients",
    "LossGradients",
    "LyapunovSpectrum",
    "Objective",
    "OnlineGradients",
    "OutputGradients",
    "Parameters",
    "RNNGradients",
    "RegularizerGradients",
    "SampleGradients",
    "Samples",
    "ScaledProduct",
    "ScheduledGradients",
    "SnAp1",
    "Stepper",
    "TruncatedGradients",
    "backward",
    "backward_jvp",
    "balanced",
    "check_gradients",
    "clip_gradients",
    "find_fixed_points",
    "forward",
    "free_running",
    "free_running_output",
    "ggn_vp",
    "gradient_flow",
    "gradient_norm",
    "hvp",
    "initialize",
    "initialize_feedback",
    "jacobian",
    "jacobian_product",
    "jacobian_vector_product",
    "jvp",
    "log_singular_values",
    "loss_and_gradients",
    "lyapunov_spectrum",
    "output",
    "output_gradients",
    "output_jacobian",
    "per_sample_gradients",
    "plot_fixed_points",
    "plot_gradient_flow",
    "preactivations",
    "profile",
    "sample",
    "scale_spectral_radius",
    "scheduled_sampling",
    "sech2",
    "show_config",
    "softmax_cross_entropy",
    "spectral_radius",
    "squared_error",
    "state_gradients",
    "tanh",
    "teacher_forcing",
    "truncated_gradients",
    "truncated_updates",
    "vanishing_regularizer",
    "vector_jacobian_product",
    "vjp",
]

_Engine = Literal["auto", "blas", "fused"]
_Nonlinearity = Literal["tanh", "relu", "identity"]
_Form = Literal["rate", "current"]
_Loss = Literal["softmax_cross_entropy", "squared_error"]
_Scheme = Literal["orthogonal", "gaussian", "uniform", "glorot", "identity"]

_Dale = Literal["rectified", "absolute"]
_Omega = Literal["book", "published"]
_Nest = TypeVar("_Nest", bound=NDArray | tuple[Any, ...] | list[Any] | dict[Any, Any] | None)

class Gradients(NamedTuple):
    x: NDArray | None
    U: NDArray
    W: NDArray
    b: NDArray
    h0: NDArray
    drive: NDArray | None = None
    alpha: NDArray | float | None = None

class OutputGradients(NamedTuple):
    h: NDArray
    V: NDArray
    c: NDArray

class LossGradients(NamedTuple):
    U: NDArray
    W: NDArray
    b: NDArray | None
    V: NDArray | None
    c: NDArray | None
    x: NDArray | None
    h0: NDArray
    @property
    def parameters(self) -> Parameters: ...

class TruncatedGradients(NamedTuple):
    start: int
    stop: int
    loss: np.float64
    gradients: LossGradients
    h: NDArray

class Parameters(NamedTuple):
    U: NDArray
    W: NDArray
    b: NDArray | None = None
    V: NDArray | None = None
    c: NDArray | None = None
    def ravel(self) -> NDArray: ...
    def unravel(self, vector: ArrayLike) -> Parameters: ...

class RegularizerGradients(NamedTuple):
    h: NDArray
    W: NDArray

class FeedbackParameters(NamedTuple):
    U: NDArray
    W: NDArray | None
    b: NDArray | None
    V: NDArray
    c: NDArray | None
    R: NDArray
    def ravel(self) -> NDArray: ...
    def unravel(self, vector: ArrayLike) -> FeedbackParameters: ...

class FeedbackGradients(NamedTuple):
    U: NDArray
    W: NDArray | None
    b: NDArray | None
    V: NDArray
    c: NDArray | None
    R: NDArray
    x: NDArray
    h0: NDArray
    first: NDArray | None
    @property
    def parameters(self) -> FeedbackParameters: ...

class ScheduledGradients(NamedTuple):
    loss: np.float64
    gradients: FeedbackGradients
    fed: NDArray

class Samples(NamedTuple):
    classes: NDArray[np.intp]
    lengths: NDArray[np.intp] | np.intp
    log_probabilities: NDArray[np.float64]

class GradientErrors(NamedTuple):
    U: float
    W: float
    b: float | None
    V: float | None
    c: float | None
    x: float
    h0: float

class profile:
    seconds: float
    instruction_set: str
    peak: dict[str, float]
    records: tuple[PhaseRecord, ...]
    functions: dict[str, FunctionTotals]
    def __init__(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None: ...
    @property
    def phases(self) -> dict[str, PhaseTotals]: ...
    @property
    def threads(self) -> dict[int, PhaseTotals]: ...
    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...

def forward(
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    drive: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: NDArray | None = None,
    out: NDArray | None = None,
    n_threads: int | None = None,
    engine: _Engine = "auto",
) -> NDArray: ...
def backward(
    dh: ArrayLike,
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    drive: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
    x_gradient: bool = True,
    out: Gradients | None = None,
    accumulate: Collection[str] = (),
    n_threads: int | None = None,
    engine: _Engine = "auto",
) -> Gradients: ...
def state_gradients(
    dh: ArrayLike,
    h: ArrayLike,
    W: ArrayLike,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
) -> NDArray: ...
def jacobian(
    h: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
) -> NDArray: ...

_Norm = Literal["spectral", "frobenius"]

class ScaledProduct(NamedTuple):
    mantissa: NDArray
    log_scale: NDArray | np.float64

class GradientFlow(NamedTuple):
    log_gradient_norms: NDArray | None
    log_jacobian_norms: NDArray
    norm: _Norm

def jacobian_product(
    h: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    rates: ArrayLike | None = None,
    preactivations: ArrayLike | None = None,
) -> ScaledProduct: ...
def jacobian_vector_product(
    h: ArrayLike,
    W: ArrayLike,
    v: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    rates: ArrayLike | None = None,
    preactivations: ArrayLike | None = None,
) -> ScaledProduct: ...
def vector_jacobian_product(
    h: ArrayLike,
    W: ArrayLike,
    u: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    rates: ArrayLike | None = None,
    preactivations: ArrayLike | None = None,
) -> ScaledProduct: ...
def preactivations(
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    form: _Form = "rate",
    drive: ArrayLike | None = None,
) -> NDArray: ...
def log_singular_values(
    h: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    rates: ArrayLike | None = None,
    preactivations: ArrayLike | None = None,
) -> NDArray: ...
def gradient_flow(
    network: Parameters | RNN,
    x: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    loss: _Loss = "softmax_cross_entropy",
    dh: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    norm: _Norm = "frobenius",
    vectors: int | None = None,
    rng: int | np.random.Generator | None = 0,
) -> GradientFlow: ...
def plot_gradient_flow(flow: GradientFlow, path: str | PathLike[str]) -> None: ...

class LyapunovSpectrum(NamedTuple):
    exponents: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    finite_time: NDArray[np.float64]
    dimension: NDArray[np.float64] | float
    entropy_rate: NDArray[np.float64] | float
    log_volume: NDArray[np.float64] | float
    qr_every: NDArray[np.float64] | float

def lyapunov_spectrum(
    params: Parameters | tuple[ArrayLike | None, ...],
    x: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    steps: int | None = None,
    k: int | None = None,
    warmup: int | None = None,
    qr_every: int | Literal["auto"] = "auto",
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    rng: int | np.random.Generator | None = 0,
) -> LyapunovSpectrum: ...

class _Pullback(Protocol):
    def __call__(self, dh: ArrayLike, *, x_gradient: bool = True, out: Gradients | None = None) -> Gradients: ...

def jvp(
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    x_dot: ArrayLike | None = None,
    U_dot: ArrayLike | None = None,
    W_dot: ArrayLike | None = None,
    b_dot: ArrayLike | None = None,
    h0_dot: ArrayLike | None = None,
    drive_dot: ArrayLike | None = None,
    alpha_dot: ArrayLike | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
) -> NDArray: ...
def vjp(
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    drive: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    n_threads: int | None = None,
    engine: _Engine = "auto",
) -> tuple[NDArray, _Pullback]: ...
def backward_jvp(
    dh: ArrayLike,
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    dh_dot: ArrayLike | None = None,
    x_dot: ArrayLike | None = None,
    U_dot: ArrayLike | None = None,
    W_dot: ArrayLike | None = None,
    b_dot: ArrayLike | None = None,
    h0_dot: ArrayLike | None = None,
    drive_dot: ArrayLike | None = None,
    alpha_dot: ArrayLike | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    drive: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
    x_gradient: bool = True,
) -> Gradients: ...
@overload
def hvp(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    vector: Parameters,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
) -> Parameters: ...
@overload
def hvp(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    vector: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
) -> NDArray: ...
@overload
def ggn_vp(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    vector: Parameters,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
) -> Parameters: ...
@overload
def ggn_vp(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    vector: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
) -> NDArray: ...

class Objective:
    def __init__(
        self,
        params: Parameters,
        x: ArrayLike,
        targets: ArrayLike,
        *,
        loss: _Loss = "softmax_cross_entropy",
        h0: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        nonlinearity: _Nonlinearity = "tanh",
        alpha: ArrayLike | None = None,
        form: _Form = "rate",
    ) -> None: ...
    @property
    def first(self) -> NDArray: ...
    def fun(self, p: ArrayLike) -> np.float64: ...
    def jac(self, p: ArrayLike) -> NDArray: ...
    @overload
    def hessp(self, p: ArrayLike, v: Parameters) -> Parameters: ...
    @overload
    def hessp(self, p: ArrayLike, v: ArrayLike) -> NDArray: ...
    @overload
    def ggnp(self, p: ArrayLike, v: Parameters) -> Parameters: ...
    @overload
    def ggnp(self, p: ArrayLike, v: ArrayLike) -> NDArray: ...

class SampleGradients(NamedTuple):
    U: NDArray
    W: NDArray
    b: NDArray

def per_sample_gradients(
    dh: ArrayLike,
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    reverse: bool = False,
    rates: ArrayLike | None = None,
    norms_only: bool = False,
) -> SampleGradients: ...
def output_jacobian(
    params: Parameters,
    x: ArrayLike,
    *,
    steps: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
) -> NDArray: ...
def tanh(a: ArrayLike) -> Any: ...
def sech2(a: ArrayLike) -> Any: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, dict[str, Any]]: ...
def output(h: ArrayLike, V: ArrayLike, c: ArrayLike | None = None, *, out: NDArray | None = None) -> NDArray: ...
def output_gradients(
    do: ArrayLike, h: ArrayLike, V: ArrayLike, *, out: OutputGradients | None = None
) -> OutputGradients: ...
def softmax_cross_entropy(
    o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None
) -> tuple[np.float64, NDArray]: ...
def squared_error(o: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> tuple[np.float64, NDArray]: ...
def loss_and_gradients(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    memory_limit: int | None = None,
    x_gradient: bool = True,
) -> tuple[np.float64, LossGradients]: ...
def truncated_gradients(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    k1: int,
    k2: int,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> TruncatedGradients: ...
def truncated_updates(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    k1: int,
    k2: int,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Generator[TruncatedGradients, Parameters | None]: ...
def initialize_feedback(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    scheme: _Scheme = "orthogonal",
    gain: float = 1.0,
    dtype: DTypeLike = ...,
    rng: int | np.random.Generator | None = None,
) -> FeedbackParameters: ...
def teacher_forcing(
    params: FeedbackParameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    fed: ArrayLike | None = None,
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    memory_limit: int | None = None,
) -> tuple[np.float64, FeedbackGradients]: ...
def free_running(
    params: FeedbackParameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    memory_limit: int | None = None,
) -> tuple[np.float64, FeedbackGradients]: ...
def free_running_output(
    params: FeedbackParameters,
    x: ArrayLike,
    *,
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
) -> NDArray: ...
def scheduled_sampling(
    params: FeedbackParameters,
    x: ArrayLike,
    targets: ArrayLike,
    probability: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    choose: Literal["sample", "argmax"] = "sample",
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    rng: int | np.random.Generator | None = None,
) -> ScheduledGradients: ...
def sample(
    params: FeedbackParameters,
    length: int,
    *,
    batch: int | None = None,
    x: ArrayLike | None = None,
    first: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    end_symbol: int | None = None,
    temperature: float = 1.0,
    rng: int | np.random.Generator | None = None,
) -> Samples: ...
def check_gradients(
    params: Parameters,
    x: ArrayLike,
    targets: ArrayLike,
    *,
    loss: _Loss = "softmax_cross_entropy",
    h0: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    step: float = 1e-5,
    max_entries: int | None = 200,
    rng: int | np.random.Generator | None = 0,
) -> GradientErrors: ...
def initialize(
    input_size: int,
    hidden_size: int,
    output_size: int | None = None,
    *,
    scheme: _Scheme = "orthogonal",
    gain: float = 1.0,
    dtype: DTypeLike = ...,
    rng: int | np.random.Generator | None = None,
) -> Parameters: ...
def spectral_radius(W: ArrayLike) -> np.float64: ...
def scale_spectral_radius(W: ArrayLike, radius: float) -> NDArray: ...
def balanced(
    H: int,
    *,
    excitatory: float = 0.8,
    gain: float = 1.0,
    density: float = 1.0,
    rng: int | np.random.Generator | None = None,
    dtype: DTypeLike = ...,
) -> tuple[NDArray, NDArray]: ...
def gradient_norm(gradients: ArrayLike | tuple[Any, ...] | list[Any] | dict[Any, Any] | None) -> np.float64: ...
@overload
def clip_gradients(
    gradients: _Nest, *, max_norm: float | None = None, max_value: float | None = None, error_if_nonfinite: bool = False
) -> tuple[_Nest, float]: ...
@overload
def clip_gradients(
    gradients: float,
    *,
    max_norm: float | None = None,
    max_value: float | None = None,
    error_if_nonfinite: bool = False,
) -> tuple[np.float64, float]: ...
def vanishing_regularizer(
    grad_h: ArrayLike, h: ArrayLike, W: ArrayLike, *, form: _Omega = "book", nonlinearity: _Nonlinearity = "tanh"
) -> tuple[np.float64, RegularizerGradients]: ...

class Constraint:
    def __init__(
        self,
        mask: ArrayLike | None = None,
        frozen: ArrayLike | None = None,
        signs: ArrayLike | None = None,
        dale: _Dale = "rectified",
    ) -> None: ...
    @property
    def mask(self) -> NDArray[np.bool_] | None: ...
    @property
    def frozen(self) -> NDArray | None: ...
    @property
    def signs(self) -> NDArray[np.int8] | None: ...
    @property
    def dale(self) -> _Dale: ...
    def apply(self, raw: ArrayLike) -> NDArray: ...
    def gradient(self, raw: ArrayLike, grad_effective: ArrayLike) -> NDArray: ...
    def project(self, W: ArrayLike) -> NDArray: ...
    def raw(self, W: ArrayLike) -> NDArray: ...

class Stepper:
    def __new__(
        cls,
        U: ArrayLike,
        W: ArrayLike,
        b: ArrayLike | None = None,
        V: ArrayLike | None = None,
        c: ArrayLike | None = None,
        *,
        batch: int | None = None,
        h0: ArrayLike | None = None,
        nonlinearity: _Nonlinearity = "tanh",
        alpha: ArrayLike | None = None,
        form: _Form = "rate",
    ) -> Self: ...
    @property
    def input_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def output_size(self) -> int | None: ...
    @property
    def batch(self) -> int | None: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def state(self) -> NDArray: ...
    @state.setter
    def state(self, h: ArrayLike) -> None: ...
    def step(self, x: ArrayLike, out: NDArray | None = None) -> NDArray: ...
    def run(self, x: ArrayLike, *, n_threads: int | None = None) -> NDArray: ...
    def reset(self, h0: ArrayLike | None = None) -> None: ...

class OnlineGradients(NamedTuple):
    U: NDArray
    W: NDArray
    b: NDArray
    h0: NDArray | None = None
    alpha: NDArray | np.floating | None = None

class _Learner:
    @property
    def batch(self) -> int | None: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def input_size(self) -> int: ...
    def __init__(
        self,
        U: ArrayLike,
        W: ArrayLike,
        b: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        batch: int | None = None,
        nonlinearity: _Nonlinearity = "tanh",
        alpha: ArrayLike | None = None,
        form: _Form = "rate",
    ) -> None: ...
    @property
    def h(self) -> NDArray: ...
    @property
    def U(self) -> NDArray: ...
    @property
    def W(self) -> NDArray: ...
    @property
    def b(self) -> NDArray | None: ...
    @property
    def alpha(self) -> NDArray | None: ...
    def forward(self, x: ArrayLike) -> NDArray: ...
    def update(
        self,
        U: ArrayLike | None = None,
        W: ArrayLike | None = None,
        b: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
    ) -> None: ...
    def reset(self, h0: ArrayLike | None = None) -> None: ...
    def __copy__(self) -> Self: ...

class _EveryStep(_Learner):
    def gradients(self, dh: ArrayLike | None = None) -> OnlineGradients: ...
    def step(self, x: ArrayLike, dh: ArrayLike | Callable[[NDArray], ArrayLike] | None = None) -> OnlineGradients: ...

class RTRL(_EveryStep):
    def influence(self) -> OnlineGradients: ...

class BlockedRTRL(_Learner):
    @property
    def block(self) -> int: ...
    @property
    def every_step(self) -> bool: ...
    def __init__(
        self,
        U: ArrayLike,
        W: ArrayLike,
        b: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        block: int | None = None,
        every_step: bool = False,
        batch: int | None = None,
        nonlinearity: _Nonlinearity = "tanh",
        alpha: ArrayLike | None = None,
        form: _Form = "rate",
    ) -> None: ...
    def gradients(self, dh: ArrayLike | None = None) -> OnlineGradients | None: ...
    def step(
        self, x: ArrayLike, dh: ArrayLike | Callable[[NDArray], ArrayLike] | None = None
    ) -> OnlineGradients | None: ...
    def finish(self) -> OnlineGradients: ...
    def influence(self) -> OnlineGradients: ...

class SnAp1(_EveryStep): ...
class RFLO(_EveryStep): ...

class UORO(_EveryStep):
    def __init__(
        self,
        U: ArrayLike,
        W: ArrayLike,
        b: ArrayLike | None = None,
        h0: ArrayLike | None = None,
        *,
        batch: int | None = None,
        nonlinearity: _Nonlinearity = "tanh",
        alpha: ArrayLike | None = None,
        form: _Form = "rate",
        rng: int | np.random.Generator | None = None,
    ) -> None: ...

class RNNGradients(NamedTuple):
    x: NDArray
    h0: NDArray
    alpha: NDArray | np.floating | None

class RNN:
    training: bool
    input_size: Final[int]
    hidden_size: Final[int]
    num_layers: Final[int]
    nonlinearity: Final[_Nonlinearity]
    bias: Final[bool]
    batch_first: Final[bool]
    bidirectional: Final[bool]
    alpha: Final[float | NDArray]
    form: Final[_Form]
    output_size: Final[int | None]
    dtype: Final[np.dtype]
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: _Nonlinearity = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        alpha: ArrayLike = 1.0,
        form: _Form = "rate",
        output_size: int | None = None,
        dtype: DTypeLike = ...,
        rng: int | np.random.Generator | None = None,
    ) -> None: ...
    @property
    def dropout(self) -> float: ...
    @dropout.setter
    def dropout(self, p: float) -> None: ...
    @property
    def recurrent_dropout(self) -> float: ...
    @recurrent_dropout.setter
    def recurrent_dropout(self, p: float) -> None: ...
    @property
    def rng(self) -> np.random.Generator: ...
    @rng.setter
    def rng(self, rng: int | np.random.Generator | None) -> None: ...
    @property
    def parameters(self) -> NDArray: ...
    @parameters.setter
    def parameters(self, values: ArrayLike) -> None: ...
    @property
    def gradients(self) -> NDArray: ...
    @gradients.setter
    def gradients(self, values: ArrayLike) -> None: ...
    @property
    def layer_states(self) -> tuple[NDArray, ...]: ...
    @property
    def layer_rates(self) -> tuple[NDArray, ...]: ...
    def __getattr__(self, name: str) -> NDArray: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def named_parameters(self) -> Iterator[tuple[str, NDArray]]: ...
    def named_gradients(self) -> Iterator[tuple[str, NDArray]]: ...
    def state_dict(self) -> StateDict: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def __call__(
        self,
        x: ArrayLike,
        h0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        out: tuple[NDArray | None, NDArray | None] | None = None,
    ) -> tuple[NDArray, NDArray]: ...
    def backward(
        self,
        dout: ArrayLike | None,
        dh_n: ArrayLike | None = None,
        *,
        accumulate: bool = False,
        out: tuple[NDArray | None, NDArray | None] | None = None,
    ) -> RNNGradients: ...
    def loss_and_gradients(
        self,
        x: ArrayLike,
        targets: ArrayLike,
        *,
        loss: _Loss = "softmax_cross_entropy",
        h0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        out: NDArray | None = None,
    ) -> tuple[np.float64, NDArray]: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    @classmethod
    def load(cls, path: str | PathLike[str], *, rng: int | np.random.Generator | None = None) -> Self: ...
    def __copy__(self) -> Self: ...
    def __dir__(self) -> list[str]: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...

class FixedPoints:
    h: NDArray
    x: NDArray
    q: NDArray
    slow: NDArray
    outlier: NDArray
    origin: NDArray
    def __init__(
        self,
        h: NDArray,
        x: NDArray,
        q: NDArray,
        slow: NDArray,
        outlier: NDArray,
        origin: NDArray,
        slopes: NDArray,
        cell: tuple[NDArray, NDArray, bool],
        dtype: DTypeLike,
    ) -> None: ...
    @cached_property
    def jacobian(self) -> NDArray: ...
    @property
    def speed(self) -> NDArray: ...
    @property
    def counts(self) -> NDArray: ...
    @property
    def eigenvalues(self) -> NDArray: ...
    @property
    def right(self) -> NDArray: ...
    @property
    def left(self) -> NDArray: ...
    @property
    def unstable(self) -> NDArray: ...
    @property
    def stability(self) -> NDArray: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: slice | NDArray) -> FixedPoints: ...

def find_fixed_points(
    params: Parameters | tuple[Any, ...],
    x: ArrayLike | None = None,
    *,
    starts: ArrayLike,
    nonlinearity: _Nonlinearity = "tanh",
    alpha: ArrayLike | None = None,
    form: _Form = "rate",
    tolerance: float = 1e-24,
    max_iterations: int = 200,
    unique_tolerance: float = 1e-4,
    outlier_distance: float = 10.0,
    between: bool = True,
) -> FixedPoints: ...
def plot_fixed_points(
    points: FixedPoints,
    trajectories: ArrayLike | None = None,
    *,
    components: tuple[int, int] = (0, 1),
    directions: bool = True,
    axes: Any = None,
) -> Any: ...
