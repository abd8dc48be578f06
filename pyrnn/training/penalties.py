"""Penalties of parameters: what is added to a loss, and its gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pyrnn._core.optimizers import non_negative
from pyrnn.layers.parameters import Workspace

if TYPE_CHECKING:
    from pyrnn.layers.rnn import RNN


class Penalty(Protocol):
    """What `pyrnn.fit` takes as a penalty."""

    def check(self, rnn: RNN) -> None:
        """Raise an error unless the penalty fits the network."""

    def add(self, rnn: RNN) -> float:
        """Add the gradient to ``rnn.gradients``; return the value."""


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
        value = 0.0
        for name in self._names(rnn):
            p = parameters[name]
            value += self._value(p, workspace(("value", p.dtype), p.shape, p.dtype))
            change = workspace(("change", p.dtype), p.shape, p.dtype)
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
    is taken. ``weight_decay`` of an optimizer adds weight_decay w to the gradient, of the biases too.

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
    Learning".

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


BY_NAME = {"l1": L1, "l2": L2}


def checked(penalties: Mapping[str, float] | Sequence[Penalty] | None, rnn: RNN) -> tuple[Penalty, ...]:
    """Return the penalties as objects that fit the network."""
    if penalties is None:
        return ()
    if isinstance(penalties, Mapping):
        for name in penalties:
            if name not in BY_NAME:
                raise ValueError(f"penalties must have names among {', '.join(map(repr, BY_NAME))}, got {name!r}")
        made: tuple[Any, ...] = tuple(BY_NAME[name](strength) for name, strength in penalties.items())
    else:
        if not isinstance(penalties, Sequence) or isinstance(penalties, str):
            raise TypeError(f"penalties must be a dict of strengths or a sequence of penalties, got {penalties!r}")
        made = tuple(penalties)
    for penalty in made:
        if not callable(getattr(penalty, "add", None)) or not callable(getattr(penalty, "check", None)):
            raise TypeError(f"penalties must be objects with the methods check and add, such as L2, got {penalty!r}")
        penalty.check(rnn)
    return made
