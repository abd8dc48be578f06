"""A network that is fed one step at a time, for streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pyrnn import _checks, _engines
from pyrnn._core import stepper as compiled
from pyrnn.online.arguments import copied, of_dtype, owned

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, Shape
    from pyrnn.network import Network


class Stepper(compiled.Stepper):
    """An RNN that keeps its packed weights and its state between calls: one sample in, one state or output out.

    Each step computes h = tanh(b + U x + W h), or another form of the cell, and, with V, o = c + V h. The bits are
    those of `pyrnn.forward` in the engine ``fused``.

    Parameters
    ----------
    network : Network or RNN of one layer
        In any form of the cell; its arrays are copied. Without V the stepper returns its states. In the ``current``
        form V reads the rates, o = c + V phi(h).
    h0 : array_like, shape (H,) or (batch, H), optional
        The state before the first step; None for zeros.
    batch : int, optional
        How many sequences advance together; None for one, whose arrays have no batch axis.

    Attributes
    ----------
    network : Network
        Copies of the parameters, with their cell.
    input_size, hidden_size : int
        I and H.
    output_size : int or None
        O; None without V.
    batch : int or None
    dtype : numpy.dtype
        float32 if all arguments promote to it, else float64. Inputs and states of a narrower dtype are converted to
        it; those of a wider one are a TypeError, since they would lose digits.

    Raises
    ------
    ValueError
        If shapes do not fit, the network has R, or c without V, or batch is negative.
    TypeError
        If the network is none, an argument is complex, long double, text, an object or masked, or batch is not an
        integer.

    See Also
    --------
    forward : all steps of a sequence in one call.

    Notes
    -----
    Equations 10.8 to 10.10 of Goodfellow et al., "Deep Learning". One stepper serves one thread at a time: a call that
    finds it at work in another thread raises RuntimeError and changes nothing. A step runs on the thread that calls it,
    and keeps the GIL if it has less than a million multiplications and additions; `run` shares out large batches as
    `pyrnn.forward` does. Copies and pickles take the state along.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.initialize(input_size=8, hidden_size=64, output_size=2, rng=0)
    >>> stepper = pyrnn.Stepper(network)
    >>> x = np.random.default_rng(0).standard_normal((100, 8))
    >>> o = [stepper.step(sample) for sample in x]
    >>> np.array_equal(o, pyrnn.Stepper(network).run(x))
    True
    """

    __slots__ = ()

    def __new__(cls, network: AnyNetwork, h0: ArrayLike | None = None, *, batch: int | None = None) -> Self:
        own, first, batch = owned(network, h0, batch)
        return super().__new__(cls, own, batch, first)

    @property
    def network(self) -> Network:
        """The parameters and their cell: copies."""
        return copied(self._network, self.dtype)

    @property
    def state(self) -> np.ndarray:
        """The state h after the last step, shape (H,) or (batch, H): a copy. Assigning to it sets the state."""
        return self._read().reshape(self._shape(self.hidden_size))

    @state.setter
    def state(self, h: ArrayLike) -> None:
        self._write(self._converted("state", h, self.hidden_size).reshape(self._h0.shape))

    def reset(self, h0: ArrayLike | None = None) -> None:
        """Set the state to h0, by default that of the construction.

        Parameters
        ----------
        h0 : array_like, shape (H,) or (batch, H), optional

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `step`.
        """
        self._write(self._h0 if h0 is None else self._converted("h0", h0, self.hidden_size).reshape(self._h0.shape))

    def run(self, x: ArrayLike, *, n_threads: int | None = None) -> np.ndarray:
        """Advance the state by many steps; the same bits as from as many calls of `step`.

        Parameters
        ----------
        x : array_like, shape (T, I) or (T, batch, I)
            Inputs, time first.
        n_threads : int, optional
            As in `pyrnn.forward`.

        Returns
        -------
        ndarray, shape (T, H) or (T, batch, H), or (T, O) or (T, batch, O)
            What `step` returns, for every step.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `step`.

        Notes
        -----
        A run that is interrupted by Ctrl-C leaves the state as it was. With V, the states of all steps are kept until
        their outputs are computed.
        """
        _engines.check_threads(n_threads)
        x = self._converted("x", x, self.input_size, sequence=True)
        result = self._run(x[:, np.newaxis] if self.batch is None else x, n_threads)
        return result[:, 0] if self.batch is None else result

    def __repr__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("input_size", "hidden_size", "output_size", "batch", "dtype")}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in sizes.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        h0 = self._h0.reshape(self._shape(self.hidden_size))
        attributes = getattr(self, "__dict__", None)  # of a subclass
        return _restore, (type(self), self._network, h0, self.batch, self.state), attributes

    def _shape(self, n: int) -> Shape:
        return (n,) if self.batch is None else (self.batch, n)

    def _converted(self, name: str, a: ArrayLike, n: int, sequence: bool = False) -> np.ndarray:
        """The argument in the stepper's dtype, with rows as the kernels read them, after a check of its shape."""
        array = of_dtype(name, a, self.dtype, "the Stepper's")
        shape = self._shape(n)
        if not sequence:
            _checks.check_shape(name, array, shape)
        elif array.shape[1:] != shape:
            _checks.shape_error(name, f"(T, {', '.join(map(str, shape))})", array)
        return array

    def _checked(self, x: ArrayLike, out: np.ndarray | None) -> np.ndarray:
        """x in the Stepper's dtype, after a check: `step` calls this where it cannot read x or write out in place."""
        array = self._converted("x", x, self.input_size)
        if out is not None:
            shape = self._shape(self.hidden_size if self.output_size is None else self.output_size)
            _checks.check_out(out, shape, self.dtype, {"x": x}, (array,))
        return array


def _restore(cls: type[Stepper], network: Network, h0: np.ndarray, batch: int | None, state: np.ndarray) -> Stepper:
    stepper = Stepper.__new__(cls, network, h0, batch=batch)
    stepper.state = state
    return stepper
