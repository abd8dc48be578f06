"""PyTorch: a module that takes the place of `torch.nn.RNN` on CPU tensors, computed by `pyrnn.forward` and `backward`.

Tensors and arrays share memory in both directions, nothing is copied for the sake of the bridge. One node of the
autograd graph stands for all layers and directions of a call. `import pyrnn` does not load this module.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

try:
    import torch
    import torch.fx
except ImportError as error:
    raise ImportError("pyrnn.bridges.torch needs PyTorch, version 2.4 or newer: python -m pip install torch") from error
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from pyrnn.arguments import tensor_array as array
from pyrnn.cell import Cell
from pyrnn.layers import Tape, backward_layers, forward_layers
from pyrnn.network import Network

if TYPE_CHECKING:
    from typing import TypeAlias

    _RunLayer: TypeAlias = Callable[["_Call", Tensor, Tensor, list[list[Tensor]]], tuple[Tensor, Tensor]]

__all__ = ["RNN"]

# Returns what torch.compile has set to look at each frame, None outside of a compiled function. No function of Python
# stands here, since it would be traced.
try:
    from torch._C._dynamo.eval_frame import get_eval_frame_callback as _compiler
except ImportError:  # older versions: the compiler's package, if it was imported
    _compiler = functools.partial(sys.modules.get, "torch._dynamo")

_PLAIN = (torch.Tensor, torch.nn.Parameter)  # a subclass may mean something else by its elements
_STRIDED = torch.strided
_DTYPES = (torch.float32, torch.float64)
_OWN_LIMIT = bool(os.environ.get("PYRNN_NUM_THREADS"))
_CELLS = {"tanh": Cell(), "relu": Cell("relu")}
_WRONG, _TRANSFORMED = "of an error", "torch.func transforms it"


class RNN(torch.nn.RNN):
    """`torch.nn.RNN`, several times as fast on CPU tensors: the same constructor, arguments, results and state_dict.

    Parameters
    ----------
    input_size, hidden_size : int
    num_layers : int
    nonlinearity : {"tanh", "relu"}
    bias : bool
    batch_first : bool
    dropout : float
    bidirectional : bool
    device, dtype
        All as in `torch.nn.RNN`, in the same order.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        What `torch.nn.RNN` raises for the same arguments, in the constructor and in a call.

    Warns
    -----
    UserWarning
        Once for each reason why a call is left to PyTorch's own operations: tensors that are not on a CPU, not float32
        or float64, or of a subclass; autocast, tracing, scripting, forward-mode differentiation, `torch.func`.

    See Also
    --------
    pyrnn.forward, pyrnn.backward : what computes a layer in one direction.

    Notes
    -----
    h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu, equations 10.8 and 10.9 of [1]_ with b = b_ih + b_hh;
    the backward pass is that of section 10.2.2. Dropout draws from PyTorch's generator what `torch.nn.RNN` draws, so
    that a seed gives the same masks. A backward pass under ``create_graph=True`` is made of PyTorch's own operations,
    so that it can be differentiated in turn: right, and as slow as `torch.nn.RNN`. At most ``torch.get_num_threads()``
    threads work, or PYRNN_NUM_THREADS if that was in the environment at import.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.

    Examples
    --------
    >>> import torch, pyrnn.bridges.torch
    >>> theirs = torch.nn.RNN(3, 5, num_layers=2)
    >>> ours = pyrnn.bridges.torch.RNN(3, 5, num_layers=2)
    >>> ours.load_state_dict(theirs.state_dict())
    <All keys matched successfully>
    >>> x = torch.randn(10, 4, 3)
    >>> torch.testing.assert_close(ours(x), theirs(x))
    """

    @overload
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(self, input: PackedSequence, hx: Tensor | None = None) -> tuple[PackedSequence, Tensor]: ...
    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        """The states of the last layer at every step, and those of every layer at the last step."""
        if torch.compiler.is_dynamo_compiling():  # only with allow_rnn: it stops in front of every torch.nn.RNN
            return super().forward(input, hx)
        return (_opaque_run if _compiler() else _run)(self, input, hx)

    def __prepare_scriptable__(self) -> torch.nn.RNN:
        """What `torch.jit.script` compiles in place of this module: `torch.nn.RNN` on the same parameters."""
        _warn_once("torch.jit.script compiles it")
        twin = torch.nn.RNN.__new__(torch.nn.RNN)
        twin.__dict__ = self.__dict__.copy()
        return twin


def _run(module: RNN, input: Any, hx: Tensor | None) -> Any:
    """`RNN.forward`, of which torch.compile sees nothing."""
    packed = isinstance(input, PackedSequence)
    data, batch_sizes, sorted_indices, unsorted_indices = input if packed else (input, None, None, None)
    weights = _weights(module)
    reason = _unsupported(data, hx, weights)
    call = None if reason and reason is not _TRANSFORMED else _call(module, data, batch_sizes, hx, weights)
    if reason is _WRONG and isinstance(input, torch.fx.Proxy):
        return _leaf_of_graph(module, input, hx)
    if reason and reason is not _WRONG:
        _warn_once(reason)
    if call is None or (reason and packed):
        return torch.nn.RNN.forward(module, input, hx)  # where there is an error, it raises it
    if packed and hx is not None and sorted_indices is not None:
        hx = hx.index_select(1, sorted_indices)
    if reason:
        return _by_torch(call, data, hx, weights, None, _unrolled)
    if torch.is_grad_enabled() and (
        data.requires_grad or (hx is not None and hx.requires_grad) or any(w.requires_grad for w in weights)
    ):
        output, h_n = _RNNFunction.apply(call, data, hx, *weights)
    else:
        states, h_n, _ = _forward(call, data, hx, weights)
        output = _as_given(call, states[-1])
    if packed:
        output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        if unsorted_indices is not None:
            h_n = h_n.index_select(1, unsorted_indices)
    return output, h_n


# As torch.compiler.disable, but without the import of the compiler before the first call, which takes a second.
_opaque_run = torch._disable_dynamo(_run)


class _Call(NamedTuple):
    """A call without its tensors. T, B, I and H are those of `pyrnn.forward`."""

    nonlinearity: Literal["tanh", "relu"]
    layers: int
    directions: int
    parameters: int  # of each layer and direction: U, W and, with bias, b twice
    batch_axis: int | None  # of the input; None: one sequence without
    dropout: float  # 0 where there is none to apply
    batch_sizes: Tensor | None  # of a packed sequence, whose data are [N, I], else None
    exists: np.ndarray | None  # [T, B] of a packed sequence, None if all of its sequences have T steps
    lengths: np.ndarray | None  # [B], with `exists`
    n_threads: int | None

    def of_layer(self, weights: Sequence[Tensor], layer: int) -> list[list[Tensor]]:
        """For each direction of a layer, its U, W and the two halves of b if there are."""
        first, n = layer * self.directions, self.parameters
        return [list(weights[k * n : (k + 1) * n]) for k in range(first, first + self.directions)]


# ---- Whether and how a call can be computed here --------------------------------------------------------------------
def _leaf_of_graph(module: RNN, input: torch.fx.Proxy, hx: Tensor | None) -> torch.fx.Proxy:
    """The node of torch.fx's symbolic trace, which keeps the modules of torch.nn whole."""
    arguments = (input,) if hx is None else (input, hx)
    tracer: Any = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), arguments, {})


def _weights(module: RNN) -> list[Any]:
    """The parameters by the order of `torch.nn.RNN`; parametrizations make attributes of them."""
    parameters: dict[str, Any] = module._parameters
    try:
        return [parameters[name] for name in module._flat_weights_names]
    except KeyError:
        return [getattr(module, name, None) for name in module._flat_weights_names]


def _unsupported(data: Tensor, hx: Tensor | None, weights: list[Tensor]) -> str | None:
    """Why PyTorch's own operations must do it; _WRONG if torch.nn.RNN will say, None if nothing speaks for it."""
    for a in (data, *weights) if hx is None else (data, hx, *weights):
        if type(a) not in _PLAIN:
            return f"a tensor is a {type(a).__name__}" if isinstance(a, torch.Tensor) else _WRONG
        if not a.is_cpu:
            return f"a tensor is on device {a.device.type}"
        if a.dtype not in _DTYPES:
            return f"a tensor has dtype {a.dtype}"
        if a.layout is not _STRIDED:
            return f"a tensor has layout {a.layout}"
    if torch._C._are_functorch_transforms_active():
        return _TRANSFORMED
    if torch.autograd.forward_ad._current_level >= 0:
        return "it is differentiated in forward mode"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is enabled"
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace traces it"
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a TorchDispatchMode is active"
    return None


_said: set[str] = set()


def _warn_once(reason: str) -> None:
    """Say why a call is left to PyTorch, the first time; the warning points at where the module is called."""
    if reason not in _said:
        _said.add(reason)
        message = (
            f"pyrnn.bridges.torch.RNN leaves this to PyTorch's own operations, because {reason}; this is said once"
        )
        warnings.warn(message, UserWarning, stacklevel=6)


def _call(
    module: RNN, data: Tensor, batch_sizes: Tensor | None, hx: Tensor | None, weights: list[Tensor]
) -> _Call | None:
    """The `_Call`, or None for arguments that `torch.nn.RNN` refuses."""
    shape, H, directions = data.shape, module.hidden_size, 2 if module.bidirectional else 1
    ndim, rows, axis, exists, lengths = len(shape), module.num_layers * directions, None, None, None
    states: tuple[int, ...]
    if batch_sizes is not None:
        if ndim != 2 or not _is_packed(batch_sizes, shape[0]):
            return None
        axis, sizes = 1, batch_sizes.numpy()
        steps, states = len(sizes), (rows, int(sizes[0]), H)
        if sizes[-1] != sizes[0]:
            exists = np.arange(sizes[0]) < sizes[:, np.newaxis]
            lengths = exists.sum(axis=0)
    elif ndim == 3:
        axis = 0 if module.batch_first else 1
        steps, states = shape[1 - axis], (rows, shape[axis], H)
    elif ndim == 2:
        steps, states = shape[0], (rows, H)
    else:
        return None
    if steps == 0 or shape[-1] != module.input_size or (hx is not None and hx.shape != states):
        return None
    dtype, n = data.dtype, 4 if module.bias else 2
    if hx is not None and hx.dtype is not dtype:
        return None
    rest: list[tuple[int, ...]] = [(H, H), (H,), (H,)][: n - 1]
    shapes = [(H, module.input_size), *rest] * directions
    if module.num_layers > 1:
        shapes += [(H, H * directions), *rest] * (rows - directions)
    if len(weights) != len(shapes):
        return None
    for w, expected in zip(weights, shapes, strict=True):
        if w.dtype is not dtype or w.shape != expected:
            return None
    dropout = module.dropout if module.training and module.num_layers > 1 else 0.0
    nonlinearity: Literal["tanh", "relu"] = "tanh" if module.mode == "RNN_TANH" else "relu"
    n_threads = None if _OWN_LIMIT else torch.get_num_threads()
    return _Call(nonlinearity, module.num_layers, directions, n, axis, dropout, batch_sizes, exists, lengths, n_threads)


def _is_packed(batch_sizes: Tensor, N: int) -> bool:
    """Whether these can be the batch sizes of N rows: positive, none larger than the one before."""
    a = batch_sizes
    if type(a) is not torch.Tensor or not a.is_cpu or a.dtype is not torch.int64 or a.dim() != 1 or len(a) == 0:
        return False
    sizes = a.numpy()
    return bool(sizes[-1] > 0 and sizes.sum() == N and (sizes[1:] <= sizes[:-1]).all())


# ---- Tensors and arrays ---------------------------------------------------------------------------------------------
def _time_first(call: _Call, a: Tensor) -> np.ndarray:
    """A sequence as array [T, B, .], with zeros behind the ends of packed sequences."""
    h = array(a)
    if call.batch_sizes is None:
        return h[:, np.newaxis] if call.batch_axis is None else h if call.batch_axis == 1 else h.transpose(1, 0, 2)
    if call.exists is None:
        return h.reshape(len(call.batch_sizes), -1, h.shape[1])
    padded = np.zeros((*call.exists.shape, h.shape[1]), h.dtype)
    padded[call.exists] = h
    return padded


def _as_given(call: _Call, a: np.ndarray) -> Tensor:
    """The tensor of an array [T, B, .], in the form of the input."""
    if call.batch_sizes is None:
        a = a[:, 0] if call.batch_axis is None else a if call.batch_axis == 1 else a.transpose(1, 0, 2)
    else:
        a = a.reshape(-1, a.shape[2]) if call.exists is None else a[call.exists]
    return torch.from_numpy(a)


def _states(call: _Call, a: Tensor | None) -> np.ndarray | None:
    """States [layers directions, B, H], or without B, as array with B."""
    if a is None:
        return None
    return array(a)[:, np.newaxis] if call.batch_axis is None else array(a)


def _dropout_noise(call: _Call, a: np.ndarray, weights: Sequence[Tensor]) -> Tensor:
    """What `torch.nn.RNN` multiplies the states of a layer with, as PyTorch's generator draws it; a: the input."""
    steps = a.shape[:2] if call.exists is None else (int(call.exists.sum()),)
    noise = torch.empty((*steps, call.directions * len(weights[1])), dtype=weights[1].dtype, device="cpu")
    if call.dropout == 1:
        noise.zero_()
    else:
        noise.bernoulli_(1 - call.dropout).div_(1 - call.dropout)
    return noise


def _factors(call: _Call, noises: Sequence[Tensor]) -> list[np.ndarray | None]:
    """What the input of each layer is multiplied by, [T, B, .], or None."""
    if call.exists is None:
        return [None, *map(array, noises)]
    return [None, *(_time_first(call, noise) for noise in noises)]


def _networks(call: _Call, weights: Sequence[Tensor], bias: bool = True) -> list[list[Network]]:
    """The arrays of the weights, by layer and direction; bias: whether b is wanted."""
    a, n, D, cell = list(map(array, weights)), call.parameters, call.directions, _CELLS[call.nonlinearity]
    networks = [
        Network(a[k], a[k + 1], a[k + 2] + a[k + 3] if bias and n > 2 else None, None, None, None, cell)
        for k in range(0, len(a), n)
    ]
    return [networks] if call.layers == 1 else [networks[k : k + D] for k in range(0, len(networks), D)]


# ---- Forward and backward -------------------------------------------------------------------------------------------
def _forward(
    call: _Call, x: Tensor, hx: Tensor | None, weights: Sequence[Tensor], noises: Sequence[Tensor] | None = None
) -> tuple[list[np.ndarray], Tensor, Sequence[Tensor]]:
    """The states of each layer as arrays [T, B, .], h_n as tensor, and the noise of dropout, if any, above each layer.

    noises: what an earlier call drew; None to draw.
    """
    a, networks = _time_first(call, x), _networks(call, weights)
    if noises is None:
        noises = [_dropout_noise(call, a, weights) for _ in networks[1:]] if call.dropout > 0 else ()
    dropout = _factors(call, noises) if noises else None
    h0, lengths, n_threads = _states(call, hx), call.lengths, call.n_threads
    tape = forward_layers(a, networks, h0, lengths=lengths, dropout=dropout, n_threads=n_threads)
    h_n = tape.last_states()
    return tape.states, torch.from_numpy(h_n[:, 0] if call.batch_axis is None else h_n), noises


def _backward(
    call: _Call,
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    states: list[np.ndarray],
    noises: Sequence[Tensor],
    d_output: Tensor | None,
    d_h_n: Tensor | None,
    needs_dx: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients with respect to x, hx and the weights; states: of each layer, [T, B, .] as arrays."""
    networks, dropout, inputs = _networks(call, weights, bias=False), None, [_time_first(call, x), *states[:-1]]
    if noises:
        dropout = _factors(call, noises)
        inputs = [a if factors is None else a * factors for a, factors in zip(inputs, dropout, strict=True)]
    rest = (_states(call, hx), call.lengths, dropout, None, (False, True), call.n_threads)
    tape = Tape(networks, inputs, states, [None] * len(states), *rest)
    dh = None if d_output is None else _time_first(call, d_output)
    fresh = call.exists is not None  # nobody else has the memory of dh
    gradients = backward_layers(tape, dh, _states(call, d_h_n), x_gradient=needs_dx, overwrite=fresh)
    d_weights: list[Tensor] = []
    for g in (g for layer in gradients.layers for g in layer):
        d_weights += torch.from_numpy(g.U), torch.from_numpy(g.W)
        if call.parameters > 2:  # one tensor for both halves: PyTorch sees that it is shared
            d_weights += [torch.from_numpy(g.b)] * 2
    dx, dh0 = gradients.x, gradients.h0
    if dh0 is not None:
        dh0 = torch.from_numpy(dh0[:, 0] if call.batch_axis is None else dh0)
    return None if dx is None else _as_given(call, dx), dh0, *d_weights


def _by_torch(
    call: _Call,
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    noises: Sequence[Tensor] | None,
    run_layer: _RunLayer,
) -> tuple[Tensor, Tensor]:
    """output and h_n by PyTorch's own operations; noises: those of dropout, None to draw them."""
    D, a, lasts = call.directions, x, []
    if call.batch_axis == 0:
        a = a.transpose(0, 1)
    elif call.batch_axis is None:
        a = a.unsqueeze(1)
    if hx is None:
        B = a.shape[1] if call.batch_sizes is None else int(call.batch_sizes[0])
        hx = x.new_zeros(call.layers * D, B, weights[1].shape[0])
    elif call.batch_axis is None:
        hx = hx.unsqueeze(1)
    for layer in range(call.layers):
        a, last = run_layer(call, a, hx[layer * D : (layer + 1) * D], call.of_layer(weights, layer))
        lasts.append(last)
        if layer < call.layers - 1 and call.dropout > 0:
            if noises is None:
                a = torch.nn.functional.dropout(a, call.dropout)
            else:
                a = a * noises[layer].reshape(a.shape)
    h_n = torch.cat(lasts)
    if call.batch_axis == 0:
        a = a.transpose(0, 1)
    elif call.batch_axis is None:
        a, h_n = a.squeeze(1), h_n.squeeze(1)
    return a, h_n


def _as_one(call: _Call, x: Tensor, h0: Tensor, directions: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """All directions of a layer, x [T, B, .] or packed, by the function under `torch.nn.RNN`."""
    function: Callable[..., tuple[Tensor, Tensor]] = torch.rnn_tanh if call.nonlinearity == "tanh" else torch.rnn_relu
    weights = [w for parameters in directions for w in parameters]
    flags = (call.parameters > 2, 1, 0.0, False, call.directions == 2)
    if call.batch_sizes is not None:
        return function(x, call.batch_sizes, h0, weights, *flags)
    return function(x, h0, weights, *flags, False)


def _unrolled(call: _Call, x: Tensor, h0: Tensor, directions: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """The same step by step, for torch.func: its vmap has no rule for the function under `torch.nn.RNN`."""
    phi = torch.tanh if call.nonlinearity == "tanh" else torch.relu
    outputs, h_n = [], []
    for d, (U, W, *b) in enumerate(directions):
        inputs, h, states = torch.nn.functional.linear(x, U), h0[d], []
        for bias in b:
            inputs = inputs + bias
        for a in reversed(inputs.unbind()) if d == 1 else inputs.unbind():
            h = phi(a + torch.nn.functional.linear(h, W))
            states.append(h)
        outputs.append(torch.stack(states[::-1] if d == 1 else states))
        h_n.append(h)
    return torch.cat(outputs, dim=2), torch.stack(h_n)


def _differentiable(
    call: _Call,
    x: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    noises: Sequence[Tensor],
    d_outputs: tuple[Tensor | None, Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The same gradients, each a function of everything that it depends on: a forward pass of PyTorch, differentiated.

    Aliases stand for the inputs, or the gradient with respect to a weight would go through an x that is made with it.
    """
    with torch.enable_grad():
        given = [x, hx, *weights]
        aliases: list[Any] = [
            None if a is None else a.view_as(a) if a.requires_grad else a.detach().requires_grad_(need)
            for a, need in zip(given, needed, strict=True)
        ]
        outputs = _by_torch(call, aliases[0], aliases[1], aliases[2:], noises, _as_one)
    used = [(o, d) for o, d in zip(outputs, d_outputs, strict=True) if d is not None]
    wanted = [a for a, need in zip(aliases, needed, strict=True) if need]
    gradients = iter(
        torch.autograd.grad(
            [o for o, _ in used],
            wanted,
            [d for _, d in used],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    )
    return [next(gradients) if need else None for need in needed]


class _RNNFunction(torch.autograd.Function):
    """A whole call as one node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, hx: Tensor | None, *weights: Tensor) -> tuple[Tensor, Tensor]:
        states, h_n, noises = _forward(call, x, hx, weights)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, hx, *weights, *map(torch.from_numpy, states), *noises)
        output = _as_given(call, states[-1])
        ctx.version = None if call.exists is not None else _version_of(output)
        return output, h_n

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, d_h_n: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.compiler.is_dynamo_compiling() or _compiler():  # a compiled function calls Tensor.backward
            return _opaque_run_back(ctx, d_output, d_h_n)
        return _run_back(ctx, d_output, d_h_n)


def _run_back(ctx: Any, d_output: Tensor | None, d_h_n: Tensor | None) -> tuple[Tensor | None, ...]:
    """`_RNNFunction.backward`."""
    call, (x, hx, *saved) = ctx.call, ctx.saved_tensors
    n = call.layers * call.directions * call.parameters
    weights, states, noises = saved[:n], saved[n : n + call.layers], saved[n + call.layers :]
    needed = ctx.needs_input_grad[1:]
    given = [d for d in (d_output, d_h_n) if d is not None]
    if not given:
        return (None,) * (1 + len(needed))
    if torch.is_grad_enabled() or not all(map(_is_plain, given)):
        return None, *_differentiable(call, x, hx, weights, noises, (d_output, d_h_n), needed)
    if ctx.version is None or ctx.version() == 0:
        states = [array(h) for h in states]
    else:  # the output was modified in place, which torch.nn.RNN allows, and it is the states of the last layer
        states, _, _ = _forward(call, x, hx, weights, noises)
    gradients = _backward(call, x, hx, weights, states, noises, d_output, d_h_n, needed[0])
    return None, *(g if need else None for g, need in zip(gradients, needed, strict=True))


_opaque_run_back = torch._disable_dynamo(_run_back)


def _version_of(a: Tensor) -> Callable[[], int]:
    """A function () that counts the operations on a tensor in place since now, without keeping its memory."""
    counted = a.detach()
    counted.data = counted.new_empty(0)
    before = counted._version
    return lambda: counted._version - before


def _is_plain(a: Tensor) -> bool:
    """Whether a gradient has numbers in plain memory: is neither a fake nor a batch of gradients."""
    if torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(a):
        return False
    return type(a) in _PLAIN
