"""Penalties of parameters and of rates: what is added to a loss, and its gradient."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from pyrnn._core import losses as compiled
from pyrnn._core.optimizers import non_negative
from pyrnn.layers.parameters import Workspace
from pyrnn.training.regularizer import VARIANTS, vanishing_regularizer

if TYPE_CHECKING:
    from pyrnn._types import Omega
    from pyrnn.layers.rnn import RNN
    from pyrnn.layers.stack import Tape


class Penalty(Protocol):
    """What `pyrnn.fit` takes as a penalty of parameters."""

    def check(self, rnn: RNN) -> None:
        """Raise an error unless the penalty fits the network."""

    def add(self, rnn: RNN) -> float:
        """Add the gradient to ``rnn.gradients``; return the value."""


class PenaltyOfRates(Protocol):
    """What `pyrnn.fit` takes as a penalty of rates."""

    def check(self, rnn: RNN) -> None:
        """Raise an error unless the penalty fits the network."""

    def add_to_rates(self, rnn: RNN, tape: Tape, layer: int, gradient: np.ndarray) -> float:
        """Add to the gradient of what a layer sends up; return the value."""


# ---- Of parameters --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _OfParameters:
    strength: float
    of: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", non_negative("strength", self.strength))
        if self.of is not None and not isinstance(self.of, str):
            if not isinstance(self.of, Iterable) or not all(isinstance(name, str) for name in self.of):
                raise TypeError(f"of must be a name or names of parameters, got {self.of!r}")
            object.__setattr__(self, "of", tuple(self.of))
        object.__setattr__(self, "_workspace", Workspace())

    def _names(self, rnn: RNN) -> list[str]:
        if self.of is None:
            return [name for name, _ in rnn.named_parameters() if name.startswith("weight")]
        return [self.of] if isinstance(self.of, str) else list(self.of)

    def check(self, rnn: RNN) -> None:
        """Raise an error unless the network has the parameters.

        Parameters
        ----------
        rnn : RNN

        Raises
        ------
        ValueError
        """
        known = [name for name, _ in rnn.named_parameters()]
        for name in self._names(rnn):
            if name not in known:
                raise ValueError(f"of must be names of parameters of the RNN, {', '.join(known)}, got {name!r}")

    def add(self, rnn: RNN) -> float:
        """Add the gradient to ``rnn.gradients`` and return the value.

        Parameters
        ----------
        rnn : RNN

        Returns
        -------
        float
        """
        workspace: Workspace = self.__dict__["_workspace"]
        parameters, gradients = dict(rnn.named_parameters()), dict(rnn.named_gradients())
        thread, value = threading.get_ident(), 0.0  # one penalty may serve runs on several threads
        for name in self._names(rnn):
            p = parameters[name]
            value += self._value(p, workspace((thread, "value", p.dtype), p.shape, p.dtype))
            change = workspace((thread, "change", p.dtype), p.shape, p.dtype)
            self._gradient(p, change)
            gradients[name] += change
        return value

    def _value(self, p: np.ndarray, scratch: np.ndarray) -> float:
        raise NotImplementedError

    def _gradient(self, p: np.ndarray, out: np.ndarray) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class L2(_OfParameters):
    """The sum of squares of parameters, times a strength.

    Parameters
    ----------
    strength : float
    of : str or sequence of str, optional
        Names of parameters of the RNN, such as "weight_hh_l0"; None for all weights, without biases.

    Raises
    ------
    ValueError, TypeError
        If strength is no number, negative or not finite, or `of` is no name.

    See Also
    --------
    L1 : the sum of absolute values.

    Notes
    -----
    strength Σ w² and its gradient 2 strength w: section 7.1.1 of Goodfellow et al., "Deep Learning", where half of it
    is taken. w are the numbers in ``rnn.parameters``, not what a constraint makes of them. ``weight_decay`` of an
    optimizer adds weight_decay w to the gradient, of the biases too.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> rnn = pyrnn.RNN(1, 2, bias=False, dtype=np.float64, rng=0)
    >>> rnn.parameters = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
    >>> pyrnn.training.L2(0.5, of="weight_ih_l0").add(rnn), rnn.gradients
    (2.5, array([1., 2., 0., 0., 0., 0.]))
    """

    def _value(self, p: np.ndarray, scratch: np.ndarray) -> float:
        return self.strength * float(np.multiply(p, p, out=scratch).sum(dtype=np.float64))

    def _gradient(self, p: np.ndarray, out: np.ndarray) -> None:
        np.multiply(p, 2 * self.strength, out=out)


@dataclass(frozen=True)
class L1(_OfParameters):
    """The sum of absolute values of parameters, times a strength.

    Parameters
    ----------
    strength : float
    of : str or sequence of str, optional
        As of `L2`.

    Raises
    ------
    ValueError, TypeError
        As by `L2`.

    See Also
    --------
    L2 : the sum of squares.

    Notes
    -----
    strength Σ abs(w) and its gradient strength sign(w), which is 0 at 0: section 7.1.2 of Goodfellow et al., "Deep
    Learning". w are the numbers in ``rnn.parameters``, as for `L2`.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> rnn = pyrnn.RNN(1, 2, bias=False, dtype=np.float64, rng=0)
    >>> rnn.parameters = [1.0, -2.0, 3.0, 0.0, 0.0, 0.0]
    >>> pyrnn.training.L1(0.5).add(rnn), rnn.gradients
    (3.0, array([ 0.5, -0.5,  0.5,  0. ,  0. ,  0. ]))
    """

    def _value(self, p: np.ndarray, scratch: np.ndarray) -> float:
        return self.strength * float(np.abs(p, out=scratch).sum(dtype=np.float64))

    def _gradient(self, p: np.ndarray, out: np.ndarray) -> None:
        np.sign(p, out=out)
        out *= self.strength


# ---- Of rates -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _OfRates:
    strength: float
    of: int | tuple[int, ...] | None = None

    _compiled: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", non_negative("strength", self.strength))
        if self.of is None:
            return
        numbers = tuple(self.of) if isinstance(self.of, Iterable) else (self.of,)
        if not numbers or not all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in numbers):
            raise TypeError(f"of must be the number of a layer or several, got {self.of!r}")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"of must be different layers, got {self.of!r}")
        object.__setattr__(self, "of", tuple(map(int, numbers)) if isinstance(self.of, Iterable) else int(self.of))

    def _layers(self, rnn: RNN) -> Sequence[int]:
        if self.of is None:
            return range(rnn.num_layers)
        return (self.of,) if isinstance(self.of, int) else self.of

    def check(self, rnn: RNN) -> None:
        """Raise an error unless the network has the layers.

        Parameters
        ----------
        rnn : RNN

        Raises
        ------
        ValueError
        """
        for layer in self._layers(rnn):
            if not 0 <= layer < rnn.num_layers:
                raise ValueError(f"of must be layers of the RNN, from 0 to {rnn.num_layers - 1}, got {layer}")

    def add_to_rates(self, rnn: RNN, tape: Tape, layer: int, gradient: np.ndarray) -> float:
        """Add the gradient to that of what a layer sends up, and return the value.

        Parameters
        ----------
        rnn : RNN
        tape : Tape
            Of the last call.
        layer : int
        gradient : ndarray, shape (T, B, D H)
            Contiguous. Steps behind the ends of sequences are neither read nor written.

        Returns
        -------
        float
            What the layer contributes; 0 if the penalty is not of this layer.

        See Also
        --------
        pyrnn.RNN.backward : its argument ``rates`` is a function of tape, layer and gradient.
        """
        layers = self._layers(rnn)
        if layer not in layers:
            return 0.0
        rates, lengths = tape.sent(layer), tape.lengths
        T, B, units = rates.shape
        n = units * len(layers) * self._count(np.full(B, T) if lengths is None else lengths)
        factor = self.strength / n if n else 0.0
        return factor * compiled.of_rates(self._compiled, rates, gradient, lengths, factor)

    def _count(self, lengths: np.ndarray) -> int:
        """Of how many numbers of each unit the mean is."""
        return int(lengths.sum())


@dataclass(frozen=True)
class RatesL2(_OfRates):
    """The mean of squares of rates, times a strength.

    Parameters
    ----------
    strength : float
    of : int or sequence of int, optional
        Layers, from 0 on; None for all.

    Raises
    ------
    ValueError, TypeError
        If strength is no number, negative or not finite, or `of` is no number of a layer.

    See Also
    --------
    RatesL1 : the mean of absolute values.
    RateChange : of changes from step to step.
    L2 : of weights.

    Notes
    -----
    With r what a layer sends up, the states, or in the ``current`` form phi of the states::

        strength / n Σ r²         with the gradient 2 strength / n r

    over the n numbers of all steps that exist, sequences, units, directions and layers `of`. So strength has the
    meaning that it has in papers about networks of firing rates, such as [1]_, whatever the size of the batch. Steps
    behind the ends of sequences do not count; steps whose loss has the weight 0 do. The gradient is added where that of
    the loss arrives at the rates: there is no second pass.

    References
    ----------
    .. [1] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks", PLoS Computational Biology 12 (2016) e1004792.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> rnn = pyrnn.RNN(1, 2, output_size=1, nonlinearity="identity", dtype=np.float64, rng=0)
    >>> penalty = pyrnn.training.RatesL2(0.1)
    >>> o, _ = rnn(np.ones((4, 3, 1)))
    >>> values = []
    >>> _ = rnn.backward(np.zeros_like(o), rates=lambda *at: values.append(penalty.add_to_rates(rnn, *at)))
    >>> bool(np.isclose(values[0], 0.1 * np.mean(rnn.layer_states[0] ** 2)))
    True
    """

    _compiled = "l2"


@dataclass(frozen=True)
class RatesL1(_OfRates):
    """The mean of absolute values of rates, times a strength.

    Parameters
    ----------
    strength : float
    of : int or sequence of int, optional
        As of `RatesL2`.

    Raises
    ------
    ValueError, TypeError
        As by `RatesL2`.

    See Also
    --------
    RatesL2 : what rates are, and which steps count.

    Notes
    -----
    strength / n Σ abs(r) with the gradient strength / n sign(r), which is 0 at 0.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=1, batch_size=4)
    >>> rnn = pyrnn.RNN(1, 8, output_size=1, rng=0)
    >>> history = pyrnn.fit(rnn, task, steps=5, penalties=[pyrnn.training.RatesL1(0.01)])
    >>> 0 < history[0]["penalty"] < 0.01
    True
    """

    _compiled = "l1"


@dataclass(frozen=True)
class RateChange(_OfRates):
    """The mean of squared changes of rates from step to step, times a strength.

    Parameters
    ----------
    strength : float
    of : int or sequence of int, optional
        As of `RatesL2`.

    Raises
    ------
    ValueError, TypeError
        As by `RatesL2`.

    See Also
    --------
    RatesL2 : what rates are, and which steps count.

    Notes
    -----
    strength / n Σ (r_t - r_{t-1})² over the pairs of neighbouring steps that both exist, T - 1 pairs of a sequence of T
    steps: the state before the first step is not one of them. n counts the pairs of all sequences, units, directions
    and layers `of`.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=1, batch_size=4)
    >>> rnn = pyrnn.RNN(1, 8, output_size=1, rng=0)
    >>> history = pyrnn.fit(rnn, task, steps=5, penalties={"rate_change": 0.01, "l2": 1e-4})
    >>> history[0]["penalty"] > 0
    True
    """

    _compiled = "change"

    def _count(self, lengths: np.ndarray) -> int:
        return int(np.maximum(lengths - 1, 0).sum())


@dataclass(frozen=True)
class Vanishing:
    """The regulariser of Pascanu, Mikolov and Bengio against gradients that vanish, times a strength.

    Parameters
    ----------
    strength : float
    variant : {"published", "book"}
        As of `vanishing_regularizer`.

    Raises
    ------
    ValueError, TypeError
        If strength is no number, negative or not finite, or the variant has another name. By `fit`, if the RNN has
        several layers or directions, or recurrent dropout.

    See Also
    --------
    vanishing_regularizer : the formula.

    Notes
    -----
    strength Omega, with the gradient strength dOmega/dW of the paper, through W alone: the states, and the gradients
    that arrive at them, are held constant. It takes a second pass backwards for these gradients, which are those of the
    loss and of the penalties of rates that stand before this one.

    Examples
    --------
    >>> import pyrnn
    >>> task = pyrnn.tasks.FlipFlop(bits=1, batch_size=4)
    >>> rnn = pyrnn.RNN(1, 8, output_size=1, rng=0)
    >>> history = pyrnn.fit(rnn, task, steps=5, penalties={"vanishing": 0.1})
    >>> history[0]["penalty"] > 0
    True
    """

    strength: float
    variant: Omega = "published"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", non_negative("strength", self.strength))
        if not isinstance(self.variant, str) or self.variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(map(repr, VARIANTS))}, got {self.variant!r}")

    def check(self, rnn: RNN) -> None:
        """Raise an error unless the network has one layer and direction, and no recurrent dropout.

        Parameters
        ----------
        rnn : RNN

        Raises
        ------
        ValueError
        """
        if rnn.num_layers > 1 or rnn.bidirectional:
            raise ValueError(f"Vanishing needs an RNN of one layer and direction, got {rnn!r}")
        if rnn.recurrent_dropout > 0:
            raise ValueError(f"Vanishing needs an RNN without recurrent_dropout, got {rnn.recurrent_dropout}")

    def add_to_rates(self, rnn: RNN, tape: Tape, layer: int, gradient: np.ndarray) -> float:
        """Add the gradient of weight_hh_l0 to ``rnn.gradients``, and return the value.

        Parameters
        ----------
        rnn : RNN
        tape : Tape
            Of the last call.
        layer : int
        gradient : ndarray, shape (T, B, H)
            Of what the layer sends up; only read.

        Returns
        -------
        float
        """
        run = tape.run(layer)
        cell = run.network.cell
        dh = cell.slope(run.rates) * gradient if cell.current else gradient
        omega, gradients = vanishing_regularizer(run, run.state_gradients(dh), variant=self.variant)
        name, dW = "weight_hh_l0", gradients.W
        if name in rnn.constraints:
            dW = rnn.constraints[name].gradient(rnn.weight_hh_l0, dW)
        gradient_of_W = dict(rnn.named_gradients())[name]
        gradient_of_W += dW * gradient_of_W.dtype.type(self.strength)
        return self.strength * float(omega)


# ---- By name --------------------------------------------------------------------------------------------------------
BY_NAME = {
    "l1": L1,
    "l2": L2,
    "rates_l1": RatesL1,
    "rates_l2": RatesL2,
    "rate_change": RateChange,
    "vanishing": Vanishing,
}


def checked(
    penalties: Mapping[str, float] | Sequence[Penalty | PenaltyOfRates] | None, rnn: RNN
) -> tuple[tuple[Any, ...], tuple[Penalty, ...], tuple[PenaltyOfRates, ...]]:
    """Return the penalties as objects that fit the network: all, those of parameters, and those of rates."""
    if penalties is None:
        return (), (), ()
    if isinstance(penalties, Mapping):
        for name in penalties:
            if name not in BY_NAME:
                raise ValueError(f"penalties must have names among {', '.join(map(repr, BY_NAME))}, got {name!r}")
        made: tuple[Any, ...] = tuple(BY_NAME[name](strength) for name, strength in penalties.items())
    else:
        if not isinstance(penalties, Sequence) or isinstance(penalties, str):
            raise TypeError(f"penalties must be a dict of strengths or a sequence of penalties, got {penalties!r}")
        made = tuple(penalties)
    has: Callable[[Any, str], bool] = lambda penalty, method: callable(getattr(penalty, method, None))
    for penalty in made:
        if not has(penalty, "check") or not (has(penalty, "add") or has(penalty, "add_to_rates")):
            raise TypeError(
                f"penalties must be objects with the methods check and add, such as L2, or check and add_to_rates, "
                f"such as RatesL2, got {penalty!r}"
            )
        penalty.check(rnn)
    return made, tuple(p for p in made if has(p, "add")), tuple(p for p in made if has(p, "add_to_rates"))
