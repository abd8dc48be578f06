"""Optimisers with PyTorch's names, defaults and formulas, for parameters that are one array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import numpy as np

from pyrnn import _checks
from pyrnn._core import optimizers as compiled


class Optimizer(compiled.Optimizer):
    """What all optimisers have beside `step`: their options, their state, copies."""

    _rule: ClassVar[str]
    _states: ClassVar[tuple[str, str, str]]  # their names, in the order of the compiled class
    _options: dict[str, Any]

    def _begin(self, options: dict[str, Any]) -> None:
        """Take options that have been checked, and no state."""
        self._options = options
        self._set(self._rule, self._has(options), options)

    def _has(self, options: dict[str, Any]) -> tuple[bool, bool, bool]:
        """Which states there are."""
        raise NotImplementedError

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._shown().items())
        return f"{type(self).__name__}({shown})"

    def _shown(self) -> dict[str, Any]:
        """The options as arguments, with the rate of now."""
        given = {name: value for name, value in self._options.items() if name != "decoupled_weight_decay"}
        return given | {"lr": self.lr}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on, beside parameters and gradients.

        Returns
        -------
        dict
            ``step``, the number of steps made; copies of the arrays of the state by PyTorch's names, of which there are
            none before the first step; and the options. All values are arrays, numbers or a tuple of numbers, so that
            ``np.savez(path, **optimizer.state_dict())`` writes them.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> optimizer = pyrnn.training.SGD(lr=0.1, momentum=0.9)
        >>> optimizer.step(np.zeros(2), np.array([1.0, 2.0]))
        >>> state = optimizer.state_dict()
        >>> state["step"], state["momentum_buffer"], state["lr"]
        (1, array([1., 2.]), 0.1)
        """
        steps, arrays = self._read()
        named = {name: a for name, a in zip(self._states, arrays, strict=True) if a is not None}
        return {"step": steps} | named | self._options | {"lr": self.lr}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state: further steps have the bits that they would have had there.

        Parameters
        ----------
        state : mapping
            What `state_dict` has returned, or what ``np.load`` reads of it. Its options, lr among them, take the place
            of those of this optimizer. Arrays are copied.

        Raises
        ------
        ValueError, TypeError
            If a name is missing or of another optimizer, or a value is not what an option or a state can be. Nothing
            has changed then.
        """
        given = {name: state[name] for name in state}
        expected = {"step", *self._options}
        if missing := expected - set(given):
            raise ValueError(f"state must have {', '.join(sorted(missing))}, got {', '.join(sorted(given))}")
        options = {name: _plain(given.pop(name)) for name in self._options}
        steps = _checks.integer_within("state['step']", _plain(given.pop("step")), 0)
        decoupled = options.pop("decoupled_weight_decay", None)
        if decoupled is not self._options.get("decoupled_weight_decay"):
            raise ValueError(f"state must be of {type(self).__name__}, got decoupled_weight_decay={decoupled}")
        new = type(self)(**options)
        wanted = [name for name, has in zip(self._states, new._has(new._options), strict=True) if has and steps > 0]
        if set(given) != set(wanted):
            raise ValueError(
                f"state must have the arrays {wanted} after {steps} steps with these options, got {sorted(given)}"
            )
        arrays = {name: np.array(given[name], order="C") for name in wanted}
        for name, a in arrays.items():
            if a.dtype not in (np.float32, np.float64) or not a.dtype.isnative:
                raise TypeError(f"state[{name!r}] must be float32 or float64, got dtype {a.dtype}")
            first = arrays[wanted[0]]
            if a.shape != first.shape or a.dtype != first.dtype:
                raise ValueError(
                    f"state[{name!r}] must have shape {first.shape} and dtype {first.dtype} to match "
                    f"state[{wanted[0]!r}], got {a.shape} and {a.dtype}"
                )
        self._begin(new._options)
        self._write(steps, cast("Any", tuple(arrays.get(name) for name in self._states)))

    def copy(self) -> Self:
        """An optimizer with the same options and a copy of the state.

        Returns
        -------
        Optimizer
        """
        new = self.fresh()
        new._write(*self._read())
        return new

    def fresh(self) -> Self:
        """An optimizer with the same options, as before its first step.

        Returns
        -------
        Optimizer
        """
        new = type(self).__new__(type(self))
        new._begin(self._options | {"lr": self.lr})
        return new

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: object) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.state_dict())


def _restored(kind: type[Optimizer], state: dict[str, Any]) -> Optimizer:
    """An optimizer from its pickle."""
    optimizer = kind()
    optimizer.load_state_dict(state)
    return optimizer


def _plain(value: Any) -> Any:
    """A number, bool or tuple of numbers from what np.load makes of it: arrays."""
    return (tuple(value.tolist()) if value.ndim else value.item()) if isinstance(value, np.ndarray) else value


class _Option:
    """An option of an optimizer, which cannot be changed."""

    def __init__(self, name: str, doc: str) -> None:
        self._name, self.__doc__ = name, doc

    def __get__(self, optimizer: Optimizer | None, kind: type[Optimizer]) -> Any:
        return self if optimizer is None else optimizer._options[self._name]

    def __set__(self, optimizer: Optimizer, value: object) -> None:
        raise AttributeError(f"{self._name} cannot be changed: make another {type(optimizer).__name__}")


# ---- Checks of options ----------------------------------------------------------------------------------------------
def _numbers(**options: object) -> dict[str, Any]:
    """Numbers that are not negative."""
    return {name: compiled.non_negative(name, value) for name, value in options.items()}


def _flags(**options: object) -> dict[str, Any]:
    for name, value in options.items():
        _checks.check_flag(name, value)
    return {name: bool(value) for name, value in options.items()}


def _below_one(name: str, value: object) -> float:
    number: float = compiled.non_negative(name, value)
    if number >= 1:
        raise ValueError(f"{name} must be below 1, got {value!r}")
    return number


def _betas(betas: object) -> tuple[float, float]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers, got {betas!r}")
    return _below_one("betas[0]", betas[0]), _below_one("betas[1]", betas[1])


# ---- The optimisers -------------------------------------------------------------------------------------------------
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum where it is wanted.

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        How much of the buffer is kept from step to step; 0 for no buffer.
    dampening : float
        The buffer takes 1 - dampening of a gradient.
    weight_decay : float
        Times the parameters, added to the gradients.
    nesterov : bool
        Whether to look ahead along the buffer; it needs momentum, and no dampening.
    maximize : bool
        Whether to go up, not down.

    Raises
    ------
    ValueError
        If a number is negative or not finite, or `nesterov` has no momentum or some dampening.
    TypeError
        If an option is no number, or no bool.

    See Also
    --------
    Adam, AdamW, RMSprop : other rules, with the same methods.
    pyrnn.training.schedules : learning rates by step.

    Notes
    -----
    The formulas are those of ``torch.optim.SGD``, in its order of operations, with s the gradient (clipped, turned
    where `maximize`, with the decay added) and p the parameters:

        b ← momentum b + (1 - dampening) s, in the first step b ← s;  s ← s + momentum b (nesterov) or b;  p ← p - lr s

    Momentum is section 8.3.2 of [1]_, Nesterov's 8.3.3.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> p, optimizer = np.array([1.0, 2.0]), pyrnn.training.SGD(lr=0.1, momentum=0.9)
    >>> for _ in range(3):
    ...     optimizer.step(p, 2 * p)  # down the sum of squares
    >>> p
    array([0.062, 0.124])
    """

    _rule, _states = "sgd", ("momentum_buffer", "", "")
    momentum = _Option("momentum", "How much of the buffer is kept from step to step.")
    dampening = _Option("dampening", "What the buffer does not take of a gradient.")
    weight_decay = _Option("weight_decay", "What times the parameters is added to the gradients.")
    nesterov = _Option("nesterov", "Whether to look ahead along the buffer.")
    maximize = _Option("maximize", "Whether to go up, not down.")

    def __init__(
        self,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = _numbers(lr=lr, momentum=momentum)
        if isinstance(dampening, bool) or not _checks.is_finite_number(dampening):
            raise TypeError(f"dampening must be a finite number, got {dampening!r}")
        options |= {"dampening": float(dampening)} | _numbers(weight_decay=weight_decay)
        options |= _flags(nesterov=nesterov, maximize=maximize)
        if nesterov and (options["momentum"] == 0 or dampening != 0):
            raise ValueError(
                f"nesterov must come with momentum and without dampening, got momentum={momentum!r} and "
                f"dampening={dampening!r}"
            )
        self._begin(options)

    def _has(self, options: dict[str, Any]) -> tuple[bool, bool, bool]:
        return options["momentum"] != 0, False, False


class Adam(Optimizer):
    """Adam: means of gradients and of their squares, each with its beginning corrected.

    Parameters
    ----------
    lr : float
        Learning rate.
    betas : (float, float)
        What the two means keep from step to step, below 1.
    eps : float
        Added to the root of the mean square.
    weight_decay : float
        Times the parameters, added to the gradients. `AdamW` takes it off the parameters.
    amsgrad : bool
        Whether to divide by the largest mean square of all steps so far.
    maximize : bool
        Whether to go up, not down.

    Raises
    ------
    ValueError
        If a number is negative or not finite, or one of `betas` is not below 1.
    TypeError
        If an option is no number, no pair of numbers, or no bool.

    See Also
    --------
    AdamW, SGD, RMSprop : other rules, with the same methods.
    pyrnn.training.schedules : learning rates by step.

    Notes
    -----
    The formulas are those of ``torch.optim.Adam`` [1]_, in its order of operations, with s the gradient (clipped,
    turned where `maximize`, with the decay added), k the number of the step from 1 on and p the parameters:

        m ← m + (1 - β1)(s - m);  v ← β2 v + (1 - β2) s²;  a ← max(a, v) (amsgrad) or v
        p ← p - lr / (1 - β1^k) m / (√a / √(1 - β2^k) + eps)

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015; amsgrad: S. J. Reddi, S. Kale,
       S. Kumar, "On the convergence of Adam and beyond", ICLR 2018.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> rnn = pyrnn.RNN(1, 8, output_size=1, dtype=np.float64, rng=0)
    >>> x = np.sin(np.arange(31.0))[:, None]
    >>> optimizer, losses = pyrnn.training.Adam(lr=1e-2), []
    >>> for _ in range(100):
    ...     o, _ = rnn(x[:-1])
    ...     loss, do = pyrnn.squared_error(o, x[1:])
    ...     _ = rnn.backward(do)
    ...     norm = optimizer.step(rnn.parameters, rnn.gradients, clip_norm=10.0)
    ...     losses.append(loss)
    >>> bool(losses[-1] < 0.1 * losses[0])
    True
    """

    _rule, _states = "adam", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    _decoupled: ClassVar[bool] = False
    betas = _Option("betas", "What the two means keep from step to step.")
    eps = _Option("eps", "What is added to the root of the mean square.")
    weight_decay = _Option("weight_decay", "The decay of the parameters.")
    amsgrad = _Option("amsgrad", "Whether to divide by the largest mean square of all steps.")
    maximize = _Option("maximize", "Whether to go up, not down.")

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        self._begin(
            _numbers(lr=lr)
            | {"betas": _betas(betas)}
            | _numbers(eps=eps, weight_decay=weight_decay)
            | _flags(amsgrad=amsgrad, maximize=maximize)
            | {"decoupled_weight_decay": self._decoupled}
        )

    def _has(self, options: dict[str, Any]) -> tuple[bool, bool, bool]:
        return True, True, options["amsgrad"]


class AdamW(Adam):
    """Adam with a decay of the parameters that does not go through the means.

    Parameters
    ----------
    lr, betas, eps
        As of `Adam`.
    weight_decay : float
        Each step multiplies the parameters by 1 - lr weight_decay first.
    amsgrad, maximize
        As of `Adam`.

    Raises
    ------
    ValueError, TypeError
        As by `Adam`.

    See Also
    --------
    Adam : the formulas.

    Notes
    -----
    ``torch.optim.AdamW``, after [1]_.

    References
    ----------
    .. [1] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> p, optimizer = np.array([1.0]), pyrnn.training.AdamW(lr=0.1, weight_decay=0.5)
    >>> optimizer.step(p, np.array([0.0]))
    >>> p
    array([0.95])
    """

    _decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class RMSprop(Optimizer):
    """RMSprop: gradients over the root of a mean of their squares.

    Parameters
    ----------
    lr : float
        Learning rate.
    alpha : float
        What the mean square keeps from step to step.
    eps : float
        Added to the root.
    weight_decay : float
        Times the parameters, added to the gradients.
    momentum : float
        How much of the buffer is kept from step to step; 0 for no buffer.
    centered : bool
        Whether to divide by the root of the variance: the mean square less the square of the mean.
    maximize : bool
        Whether to go up, not down.

    Raises
    ------
    ValueError
        If a number is negative or not finite, or `alpha` is above 1.
    TypeError
        If an option is no number, or no bool.

    See Also
    --------
    Adam, AdamW, SGD : other rules, with the same methods.

    Notes
    -----
    The formulas are those of ``torch.optim.RMSprop``, in its order of operations, with s the gradient (clipped, turned
    where `maximize`, with the decay added) and p the parameters:

        v ← alpha v + (1 - alpha) s²;  m ← m + (1 - alpha)(s - m) and d ← √(v - m²) + eps (centered), or d ← √v + eps
        b ← momentum b + s / d;  p ← p - lr b

    As there, a gradient that does not change for thousands of steps makes the variance of `centered` a difference of
    equal numbers, which may be negative by rounding: then the parameter becomes NaN. It is section 8.5.2 of [1]_.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> p, optimizer = np.array([1.0, -1.0]), pyrnn.training.RMSprop(lr=0.01)
    >>> optimizer.step(p, np.array([5.0, -1e-3]))
    >>> p.round(3)
    array([ 0.9, -0.9])
    """

    _rule, _states = "rmsprop", ("square_avg", "grad_avg", "momentum_buffer")
    alpha = _Option("alpha", "What the mean square keeps from step to step.")
    eps = _Option("eps", "What is added to the root.")
    weight_decay = _Option("weight_decay", "What times the parameters is added to the gradients.")
    momentum = _Option("momentum", "How much of the buffer is kept from step to step.")
    centered = _Option("centered", "Whether to divide by the root of the variance.")
    maximize = _Option("maximize", "Whether to go up, not down.")

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = _numbers(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
        if options["alpha"] > 1:
            raise ValueError(f"alpha must be from 0 to 1, got {alpha!r}")
        self._begin(options | _flags(centered=centered, maximize=maximize))

    def _has(self, options: dict[str, Any]) -> tuple[bool, bool, bool]:
        return True, options["centered"], options["momentum"] > 0
