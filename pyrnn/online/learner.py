"""What all online learners share: parameters, the state, and the last step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar

import numpy as np

from pyrnn import _calls, _checks
from pyrnn import network as networks
from pyrnn._core import engine_fused, online
from pyrnn._core.call import Call
from pyrnn.online.arguments import check_held, copied, of_dtype, owned

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, Shape
    from pyrnn.cell import Cell
    from pyrnn.network import Network

quiet = np.errstate(all="ignore")  # for sums over inf and NaN, which pass through


class OnlineGradients(NamedTuple):
    """Gradients of the loss of one step, or of a block of steps, with respect to the parameters.

    Parameters
    ----------
    U : ndarray, shape (H, I)
    W : ndarray, shape (H, H)
    b : ndarray, shape (H,)
    h0 : ndarray, shape (H,) or (batch, H), or None from a learner that does not compute it
    alpha : ndarray, shape (H,), or a number, as the leak was given; None without

    Notes
    -----
    Sums over the batch, h0 aside. Arrays may be views of one array of all gradients, which nobody else holds.
    """

    U: np.ndarray
    W: np.ndarray
    b: np.ndarray
    h0: np.ndarray | None = None
    alpha: np.ndarray | np.floating | None = None


class Step(NamedTuple):
    """A step, or rows of many, as the influence sees it; the compiled functions read its fields by name.

    z [rows, H + I + 1] is what the parameters multiply, slopes [rows, H] is dh/da, moved [rows, H] dh/dalpha, None
    without alpha. The Jacobian is made at point [rows, H]; J [rows, H, H] is that of a pending step.
    """

    z: np.ndarray
    slopes: np.ndarray
    moved: np.ndarray | None
    point: np.ndarray
    J: np.ndarray | None = None


Returned = TypeVar("Returned", bound=OnlineGradients | None)


class Learner(Generic[Returned]):
    """What all learners share: parameters, the state, and the last step.

    A subclass has `_begin`, which forgets the past, `_advance`, which makes one step of what it carries, and
    `_collect`, which makes gradients of it.
    """

    _network: Network  # its own arrays
    _h: np.ndarray
    _step: Step | None
    _whole: bool

    def __init__(self, network: AnyNetwork, h0: ArrayLike | None = None, *, batch: int | None = None) -> None:
        self._network, self._h0, self._batch = owned(_without_output(network), h0, batch)
        self.reset()

    # ---- What a user calls -------------------------------------------------------------------------------------------
    def forward(self, x: ArrayLike) -> np.ndarray:
        """Advance the state by one step: h = phi(b + U x + W h), or another form of the cell.

        Parameters
        ----------
        x : array_like, shape (I,) or (batch, I)
            Input of the step.

        Returns
        -------
        h : ndarray, shape (H,) or (batch, H)
            The new state, a copy, with the bits of `pyrnn.forward` of the engine ``fused``.

        Raises
        ------
        ValueError
            If the shape does not fit. The learner is unchanged.
        TypeError
            If x is complex, long double, text, an object or masked, or of a wider dtype than the learner.
        RuntimeError
            If an earlier call was interrupted: `reset` first.
        """
        self._forward(self._converted("x", x, self.input_size))
        return self.h

    def _forward(self, x: np.ndarray) -> None:
        """Advance the state; x [rows, I]."""
        self._settle()
        U, W, b, _, _, _, cell = self._network
        h = np.empty((1, *self._h.shape), x.dtype)
        rates = np.empty_like(h) if cell.alpha is not None and not cell.current else None
        call = Call.forward(x[np.newaxis], U, W, b, self._h, cell, None, None, None, False, rates, h, 1)
        engine_fused.forward(_calls.made(call))
        self._follow(x, h[0], None if rates is None else rates[0])
        self._h = h[0]

    def gradients(self, dh: ArrayLike | None = None) -> Returned:
        """The gradients of the loss of the last step; for blocks see there.

        Parameters
        ----------
        dh : array_like, shape (H,) or (batch, H), optional
            What the loss of this step sends into the new state directly, Vᵀ ∇L of the output layer; None for zero.

        Returns
        -------
        OnlineGradients or None
            None only from a learner of blocks, within a block.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `forward`.
        """
        return self._collect(self._converted_dh(dh))

    def step(self, x: ArrayLike, dh: ArrayLike | Callable[[np.ndarray], ArrayLike] | None = None) -> Returned:
        """`forward`, then `gradients`.

        Parameters
        ----------
        x : array_like, shape (I,) or (batch, I)
            Input of the step.
        dh : array_like, shape (H,) or (batch, H), or callable, optional
            As in `gradients`; or a function of the new state that returns it, which is how most losses come by it.

        Returns
        -------
        OnlineGradients or None
            As `gradients`.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `forward`. A dh that does not fit is found before anything is computed, unless it is a function's.
        """
        if callable(dh):
            return self.gradients(dh(self.forward(x)))
        rows = self._converted_dh(dh)  # before anything is computed
        self._forward(self._converted("x", x, self.input_size))
        return self._collect(rows)

    def update(self, network: AnyNetwork) -> None:
        """Go on with other parameters.

        Parameters
        ----------
        network : Network or RNN of one layer
            With arrays of the shapes of the learner's, which are copied, and with a cell of the same nonlinearity and
            form. Its alpha may be another one, but must be there if, and only if, the learner has one. As at the
            construction, the output layer plays no part.

        Raises
        ------
        ValueError
            If a shape does not fit, b or alpha is missing or not expected, or the cell is of another kind.
        TypeError
            If an array is of a wider dtype than the learner, or as in `forward`.
        RuntimeError
            Within a block of steps: `finish` it first. Or as in `forward`.

        Notes
        -----
        What is carried stays as the old parameters have made it. From then on a gradient belongs to no single set of
        parameters. It differs from that of the new parameters by terms of the order of the change, over as many steps
        as the state remembers. With small steps this is how all of these methods are used.

        Examples
        --------
        >>> import pyrnn
        >>> learner = pyrnn.online.RTRL(pyrnn.initialize(2, 3, rng=0))
        >>> gradients = learner.step([1.0, -1.0], dh=lambda h: h)
        >>> network = learner.network
        >>> learner.update(network._replace(W=network.W - 0.1 * gradients.W))
        """
        new, *_ = networks.conform(_without_output(network))
        check_held("network", new.U, new.U.dtype, self.dtype, "the learner's")
        old = self._network
        pairs = [(name, getattr(new, name), getattr(old, name)) for name in ("U", "W", "b")]
        for name, a, its in (*pairs, ("alpha", new.cell.alpha, old.cell.alpha)):
            if its is None and a is not None:
                raise ValueError(f"{name} must be None for a learner made without it, got {_described(a)}")
            if its is not None and a is None:
                raise ValueError(f"{name} must be given for a learner made with it, got None")
        for name, a, its in pairs:
            if its is not None:
                _checks.check_shape(name, a, its.shape)
        for name in ("nonlinearity", "form", "negative_slope"):
            if getattr(new.cell, name) != getattr(old.cell, name):
                expected, got = (getattr(cell, name) for cell in (old.cell, new.cell))
                raise ValueError(f"{name} must be {expected!r}, the learner's, got {got!r}")
        new.cell.leak(self.hidden_size, self.dtype)  # checks the shape of alpha
        self._before_update()
        self._network = copied(new, self.dtype)

    def reset(self, h0: ArrayLike | None = None) -> None:
        """Forget the past: the state becomes h0, by default that of the construction, and nothing is carried.

        Parameters
        ----------
        h0 : array_like, shape (H,) or (batch, H), optional

        Raises
        ------
        ValueError, TypeError
            As in `forward`.
        """
        if h0 is not None:
            h0 = self._converted("h0", h0, self.hidden_size)
        self._h = np.array(self._h0 if h0 is None else h0, order="C")
        self._step, self._whole = None, True
        self._begin()

    # ---- What a user reads -------------------------------------------------------------------------------------------
    @property
    def h(self) -> np.ndarray:
        """The state after the last step, a copy."""
        return self._h.reshape(self._shape(self.hidden_size)).copy()

    @property
    def batch(self) -> int | None:
        """How many sequences advance together, or None."""
        return self._batch

    @property
    def dtype(self) -> np.dtype:
        """Of all arrays."""
        return self._h0.dtype

    @property
    def hidden_size(self) -> int:
        """H."""
        return len(self._network.U)

    @property
    def input_size(self) -> int:
        """I."""
        return int(self._network.U.shape[1])

    @property
    def network(self) -> Network:
        """The present parameters and their cell: copies, without an output layer."""
        return copied(self._network, self.dtype)

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # what is carried is written in place

    def __repr__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("input_size", "hidden_size", "batch", "dtype")}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in sizes.items())})"

    # ---- What a subclass has -----------------------------------------------------------------------------------------
    def _begin(self) -> None:
        """Forget the past."""
        raise NotImplementedError

    def _advance(self, step: Step, dh: np.ndarray | None) -> np.ndarray | None:
        """Make one step of what is carried; it may collect gradients for dh in the same pass."""
        raise NotImplementedError

    def _collect(self, dh: np.ndarray) -> Returned:
        """Make gradients of what is carried."""
        raise NotImplementedError

    # ---- What the subclasses share -----------------------------------------------------------------------------------
    @property
    def _rows(self) -> int:
        return len(self._h0)

    @property
    def _columns(self) -> int:
        """Parameters of one unit: its rows of W and U, its bias, its leak."""
        return self.hidden_size + self.input_size + 1 + (self._network.cell.alpha is not None)

    def _shape(self, n: int) -> Shape:
        return (n,) if self._batch is None else (self._batch, n)

    def _converted(self, name: str, a: ArrayLike, n: int) -> np.ndarray:
        """The argument as rows of n numbers."""
        array = of_dtype(name, a, self._h0.dtype, "the learner's")
        _checks.check_shape(name, array, self._shape(n))
        return array if array.ndim == 2 else array[np.newaxis]

    def _converted_dh(self, dh: ArrayLike | None) -> np.ndarray:
        if dh is None:
            return np.zeros(self._h0.shape, self._h0.dtype)
        return np.ascontiguousarray(self._converted("dh", dh, self.hidden_size))

    def _settle(self) -> None:
        """Apply the pending step, that of the last `forward`, to what is carried."""
        self._check_whole()
        if self._step is not None:
            self._advancing(self._step, None)

    def _check_whole(self) -> None:
        if not self._whole:
            raise RuntimeError("the learner was interrupted, and what it carries is lost: call reset first")

    def _advancing(self, step: Step, dh: np.ndarray | None) -> np.ndarray | None:
        """`_advance` by the pending step; marks the learner as broken if an exception interrupts that."""
        self._whole = False
        result = self._advance(step, dh)
        self._step, self._whole = None, True
        return result

    def _follow(self, x: np.ndarray, h: np.ndarray, rates: np.ndarray | None) -> None:
        """Keep of a step from self._h to h what `_advance` needs."""
        self._step = Step(*online.immediate(x, self._h, h, rates, self._network.cell))

    def _before_update(self) -> None:
        self._settle()

    def _named(self, G: np.ndarray, h0: np.ndarray | None = None) -> OnlineGradients:
        """G [H, C] as gradients."""
        (H, I), cell = self._network.U.shape, self._network.cell
        Z = H + I
        alpha = None if cell.alpha is None else _at_alpha(cell, G[:, Z + 1])
        h0 = None if h0 is None else h0.reshape(self._shape(H))
        return OnlineGradients(G[:, H:Z], G[:, :H], G[:, Z], h0, alpha)


def _without_output(network: AnyNetwork) -> Network:
    return networks.as_network(network)._replace(V=None, c=None)


@quiet
def _at_alpha(cell: Cell, each: np.ndarray) -> np.ndarray | np.floating:
    return cell.alpha_gradient(each)


def _described(a: object) -> str:
    return "an array" if isinstance(a, np.ndarray) else repr(a)
