"""What all online learners share: parameters, the state, and the last step."""

import copy
from typing import NamedTuple

import numpy as np

from pyrnn import _cell, _checks, _fused, _online

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
    alpha: np.ndarray | float | None = None


class Learner:
    """What all learners share: parameters, the state, and the last step.

    A subclass has `_begin`, which forgets the past, `_advance`, which makes one step of what it carries, and
    `_collect`, which makes gradients of it.
    """

    def __init__(self, U, W, b=None, h0=None, *, batch=None, nonlinearity="tanh", alpha=None, form="rate"):
        phi, current = _cell.numbers(nonlinearity, form)
        if batch is not None:
            batch = _checks.integer_within("batch", batch, 0)
        given = {"U": U, "W": W, "b": b, "h0": h0, "alpha": _cell.array_or_none(alpha)}
        arrays = _checks.as_real_arrays("b", "h0", "alpha", **given)
        U, W, b, h0, leak = (None if a is None else np.array(a, order="C") for a in arrays)
        if U.ndim != 2:
            _checks.shape_error("U", "(H, I)", U)
        H = len(U)
        _checks.check_shape("W", W, (H, H), "U", U)
        _checks.check_shape("b", b, (H,), "U", U)
        _checks.check_shape("h0", h0, (H,) if batch is None else (batch, H), "U", U)
        leak = _cell.checked_leak(alpha if leak is None else leak, current, H, U.dtype)
        self._U, self._W, self._b, self._cell, self._batch = U, W, b, (phi, leak, current), batch
        self._one_alpha = alpha is not None and np.ndim(alpha) == 0
        self._h0 = np.zeros((self._rows, H), U.dtype) if h0 is None else h0.reshape(self._rows, H)
        self.reset()

    # ---- What a user calls -------------------------------------------------------------------------------------------
    def forward(self, x):
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
        x = self._converted("x", x, self.input_size).reshape(self._rows, self.input_size)
        self._settle()
        phi, leak, current = self._cell
        h = np.empty((1, *self._h.shape), self.dtype)
        rates = np.empty_like(h) if leak is not None and not current else None
        _fused.forward(x[np.newaxis], self._U, self._W, self._b, self._h, h, 1, phi, leak, current, None, rates)
        self._follow(x, h[0], None if rates is None else rates[0])
        self._h = h[0]
        return self.h

    def gradients(self, dh=None):
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
        if dh is None:
            dh = np.zeros((self._rows, self.hidden_size), self.dtype)
        else:
            dh = self._converted("dh", dh, self.hidden_size).reshape(self._rows, self.hidden_size)
        return self._collect(np.ascontiguousarray(dh))

    def step(self, x, dh=None):
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
        if dh is not None:
            dh = self._converted("dh", dh, self.hidden_size)
        self.forward(x)
        return self.gradients(dh)

    def update(self, U=None, W=None, b=None, alpha=None):
        """Go on with other parameters; those that are not given stay.

        Parameters
        ----------
        U, W, b : array_like, optional
            Of the shapes of the construction; they are copied. A learner made without b has none, and takes none.
        alpha : float or array_like of shape (H,), optional
            Only of a learner made with a leak.

        Raises
        ------
        ValueError
            If a shape does not fit, or b or alpha is given to a learner without.
        TypeError
            As in `forward`.
        RuntimeError
            Within a block of steps: `finish` it first. Or as in `forward`.

        Notes
        -----
        What is carried stays as the old parameters have made it. From then on gradients are of no one set of
        parameters: they differ from those of the new parameters by terms of the order of the change, over as many steps
        as the state remembers. With small steps that is how all of these methods are used.
        """
        phi, leak, current = self._cell
        new = {"U": self._U, "W": self._W, "b": self._b}
        for name, a in (("U", U), ("W", W), ("b", b)):
            if a is None:
                continue
            if new[name] is None:
                raise ValueError(f"{name} must be None for a learner made without it, got an array")
            a = self._of_dtype(name, a)
            _checks.check_shape(name, a, new[name].shape)
            new[name] = np.array(a, order="C")
        if alpha is not None:
            if leak is None:
                raise ValueError("alpha must be None for a learner made without it, got a leak")
            leak = _cell.checked_leak(self._of_dtype("alpha", alpha), current, self.hidden_size, self.dtype).copy()
        self._before_update()
        self._U, self._W, self._b, self._cell = new["U"], new["W"], new["b"], (phi, leak, current)

    def reset(self, h0=None):
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
            h0 = self._converted("h0", h0, self.hidden_size).reshape(self._rows, self.hidden_size)
        self._h = np.array(self._h0 if h0 is None else h0, order="C")
        self._step, self._whole = None, True
        self._begin()

    # ---- What a user reads -------------------------------------------------------------------------------------------
    @property
    def h(self):
        """The state after the last step, a copy."""
        return self._h.reshape(self._shape(self.hidden_size)).copy()

    @property
    def batch(self):
        """How many sequences advance together, or None."""
        return self._batch

    @property
    def dtype(self):
        """Of all arrays."""
        return self._U.dtype

    @property
    def hidden_size(self):
        """H."""
        return len(self._U)

    @property
    def input_size(self):
        """I."""
        return self._U.shape[1]

    @property
    def U(self):
        """The input-to-hidden weights, a copy."""
        return self._U.copy()

    @property
    def W(self):
        """The hidden-to-hidden weights, a copy."""
        return self._W.copy()

    @property
    def b(self):
        """The bias, a copy, or None."""
        return None if self._b is None else self._b.copy()

    @property
    def alpha(self):
        """The leak of each unit, a copy, or None."""
        return None if self._cell[1] is None else self._cell[1].copy()

    def __copy__(self):
        return copy.deepcopy(self)  # what is carried is written in place

    def __repr__(self):
        sizes = {name: getattr(self, name) for name in ("input_size", "hidden_size", "batch", "dtype")}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in sizes.items())})"

    # ---- What the subclasses share -----------------------------------------------------------------------------------
    @property
    def _rows(self):
        return 1 if self.batch is None else self.batch

    @property
    def _columns(self):
        """Parameters of one unit: its rows of W and U, its bias, its leak."""
        return self.hidden_size + self.input_size + 1 + (self._cell[1] is not None)

    def _shape(self, n):
        return (n,) if self.batch is None else (self.batch, n)

    def _of_dtype(self, name, a):
        (array,) = _checks.as_real_arrays(**{name: np.asarray(a, self.dtype) if type(a) in (int, float) else a})
        if array.dtype.itemsize > self.dtype.itemsize:
            raise TypeError(
                f"{name} must be of a dtype that {self.dtype}, the learner's, can hold, got {np.asarray(a).dtype}"
            )
        return array if array.dtype == self.dtype else array.astype(self.dtype, order="C")

    def _converted(self, name, a, n):
        array = self._of_dtype(name, a)
        _checks.check_shape(name, array, self._shape(n))
        return array

    def _settle(self):
        """Make the step of what is carried that the last `forward` has left open."""
        self._check_whole()
        if self._step is not None:
            self._advancing(None)

    def _check_whole(self):
        if not self._whole:
            raise RuntimeError("the learner was interrupted, and what it carries is lost: call reset first")

    def _advancing(self, dh):
        """`_advance` by the open step, which an exception must not leave half done without a sign."""
        self._whole = False
        result = self._advance(self._step, dh)
        self._step, self._whole = None, True
        return result

    def _follow(self, x, h, rates):
        """Keep of a step from self._h to h what `_advance` needs."""
        self._step = _online.immediate(x, self._h, h, rates, self._cell)

    def _before_update(self):
        self._settle()

    def _named(self, G, h0=None):
        """G [H, C] as gradients."""
        H, Z = self.hidden_size, self.hidden_size + self.input_size
        alpha = None
        if self._cell[1] is not None:
            alpha = quiet(np.sum)(G[:, Z + 1]) if self._one_alpha else G[:, Z + 1].copy()
        h0 = None if h0 is None else h0.reshape(self._shape(H))
        return OnlineGradients(G[:, H:Z], G[:, :H], G[:, Z], h0, alpha)
