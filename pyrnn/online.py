"""Learning online: gradients that are carried forward with the state, so that no step is ever gone back to."""

import copy
import operator
from typing import NamedTuple

import numpy as np

from pyrnn import _cell, _checks, _fused, _online

_quiet = np.errstate(all="ignore")  # for sums over inf and NaN, which pass through


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


class _Learner:
    """What all learners share: parameters, the state, and the last step.

    A subclass has `_begin`, which forgets the past, `_advance`, which makes one step of what it carries, and
    `_collect`, which makes gradients of it.
    """

    def __init__(self, U, W, b=None, h0=None, *, batch=None, nonlinearity="tanh", alpha=None, form="rate"):
        phi, current = _cell.numbers(nonlinearity, form)
        if batch is not None:
            batch = _size("batch", batch, 0)
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
            alpha = _quiet(np.sum)(G[:, Z + 1]) if self._one_alpha else G[:, Z + 1].copy()
        h0 = None if h0 is None else h0.reshape(self._shape(H))
        return OnlineGradients(G[:, H:Z], G[:, :H], G[:, Z], h0, alpha)


class _Influential(_Learner):
    """A learner with the whole influence of all parameters on the state."""

    def _begin(self):
        B, H, C = self._rows, self.hidden_size, self._columns + 1
        self._memory, self._high = _online.influence_memory(self._h, B, H, C), False
        self._influence()[:, np.arange(H), C - 1, np.arange(H)] = 1  # of h0 on itself

    def _influence(self):
        return _online.influence_rows(self._memory, self._high, self._rows, self.hidden_size, self._columns + 1)

    def influence(self):
        """dh / d(parameters) of the last step: what the learner carries.

        Returns
        -------
        OnlineGradients
            Copies, each with the axes of its parameter and then one of H units of the state, (batch, ...) in front
            where the learner has one; h0 is (H, H), and alpha has one for each unit.
        """
        self._settle()
        P = self._influence()
        P = (P if self.batch is not None else P[0]).copy()
        H, Z = self.hidden_size, self.hidden_size + self.input_size
        alpha = None if self._cell[1] is None else P[..., Z + 1, :]
        return OnlineGradients(P[..., H:Z, :], P[..., :H, :], P[..., Z, :], P[..., -1, :], alpha)

    def __getstate__(self):
        """Without the padding of memory, which depends on its address."""
        return self.__dict__ | {"_memory": self._influence().copy(), "_high": False}

    def __setstate__(self, state):
        self.__dict__.update(state)
        P, self._memory = self._memory, _online.influence_memory(self._h, *self._memory.shape[:3])
        self._influence()[...] = P

    def __deepcopy__(self, memo):
        other = object.__new__(type(self))
        memo[id(self)] = other
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return other


class RTRL(_Influential):
    """Real-time recurrent learning: the exact gradient at every step, without going back in time.

    It carries the influence P = dh / d(parameters) from step to step: H numbers for each parameter, and as many
    multiply-adds a step as it takes to multiply P by the Jacobian, about H³ (H + I).

    Parameters
    ----------
    U : array_like, shape (H, I)
        Input-to-hidden weights. All parameters are copied: `update` changes them.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    b : array_like, shape (H,), optional
        Bias; None for none. Its gradient is there also without.
    h0 : array_like, shape (H,) or (batch, H), optional
        The state before the first step; None for zeros.
    batch : int, optional
        How many sequences advance together, each with an influence of its own; None for one, whose arrays have no batch
        axis.
    nonlinearity, alpha, form
        As in `pyrnn.forward`.

    Attributes
    ----------
    U, W, b, alpha, h : ndarray or None
        Copies of the parameters and of the state.
    input_size, hidden_size : int
    batch : int or None
    dtype : numpy.dtype
        float32 if all arguments promote to it, else float64. Later arguments of a narrower dtype are converted to it;
        those of a wider one are a TypeError.

    Raises
    ------
    ValueError
        If shapes do not fit, an option has no such value, or batch is negative.
    TypeError
        If an argument is complex, long double, text, an object or masked, or batch is not an integer.

    See Also
    --------
    BlockedRTRL : the same gradients, once in a block of steps, for a fraction of the work.
    SnAp1, RFLO, UORO : approximations that cost no more than the step itself.
    backward : backpropagation through time, which needs all steps at once.

    Notes
    -----
    With a_t = b + U x_t + W h_{t-1}, J_t = dh_t/dh_{t-1} and z_t = (h_{t-1}, x_t, 1), the influence of the parameter in
    row i, column j of (W, U, b) is P_t[i, j] = J_t P_{t-1}[i, j] + (dh_t/da_t)_i z_t[j] e_i, and its gradient dh_t .
    P_t[i, j] [1]_. The sum over steps is what `pyrnn.backward` returns for all of them. One learner serves one thread
    at a time. Copies and pickles take state and influence along.

    References
    ----------
    .. [1] R. J. Williams, D. Zipser, "A learning algorithm for continually running fully recurrent neural networks",
       Neural Computation 1 (1989) 270-280.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> U, W, b, _, _ = pyrnn.initialize(input_size=2, hidden_size=4, rng=0)
    >>> x = np.random.default_rng(0).standard_normal((50, 2))
    >>> learner = pyrnn.RTRL(U, W, b)
    >>> total = sum(learner.step(sample, dh=lambda h: h).W for sample in x)  # the loss of a step: half of h²
    >>> h = pyrnn.forward(x, U, W, b)
    >>> np.allclose(total, pyrnn.backward(h, h, x, U, W).W)
    True
    """

    def _advance(self, step, dh):
        G = _online.advance(self._memory, self._high, self._columns + 1, step, self._W, self._cell, dh)
        self._high = not self._high
        return G

    @_quiet
    def _collect(self, dh):
        if self._whole and self._step is not None:
            G = self._advancing(dh)  # in one pass through the influence
        else:
            self._settle()
            G = _online.contract(self._memory, self._high, self._columns + 1, dh)
        return self._named(G[0] if len(G) == 1 else G.sum(axis=0), G[..., -1].copy())


class BlockedRTRL(_Influential):
    """RTRL by blocks of steps: exact gradients at the end of each block, for about H³ a step.

    Within a block it backpropagates; across blocks it carries the influence, which moves once a block.

    Parameters
    ----------
    U, W, b, h0
        As in `RTRL`.
    block : int, optional
        Steps of a block; None for H. Longer ones need memory for block H² numbers and gain little.
    every_step : bool
        Return at every step the gradients of its loss alone, as `RTRL` does: back through the block so far, and then
        by the influence at its beginning. Blocks of about 16 are best for it.
    batch, nonlinearity, alpha, form
        As in `RTRL`.

    Attributes
    ----------
    U, W, b, alpha, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.
    block : int
    every_step : bool

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    RTRL : gradients at every step.

    Notes
    -----
    `step` and `gradients` return None within a block, and at its last step the gradients of the losses of all its
    steps; `finish` ends a block early. What ends unasked, by a `forward` that no `gradients` follows, is added to the
    next that is returned: no step is lost. The sum of all is that of `RTRL`. With
    `every_step` nothing is gathered: each step returns its own.

    From a block of T steps after the state h_0 the gradient is what backpropagation finds within the block, and g_0 P
    with g_0 the gradient at h_0; then P <- K P + sum_t (dh_T/da_t) z_tᵀ with K = dh_T/dh_0 [1]_.

    References
    ----------
    .. [1] J. Schmidhuber, "A fixed size storage O(n³) time complexity learning algorithm for fully recurrent
       continually running networks", Neural Computation 4 (1992) 243-248.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> U, W, b, _, _ = pyrnn.initialize(input_size=2, hidden_size=4, rng=0)
    >>> learner = pyrnn.BlockedRTRL(U, W, b, block=3)
    >>> [learner.step(x, dh=np.ones(4)) is not None for x in np.ones((7, 2))]
    [False, False, True, False, False, True, False]
    >>> learner.finish().W.shape  # the seventh step
    (4, 4)
    """

    def __init__(
        self,
        U,
        W,
        b=None,
        h0=None,
        *,
        block=None,
        every_step=False,
        batch=None,
        nonlinearity="tanh",
        alpha=None,
        form="rate",
    ):
        if not isinstance(every_step, bool | np.bool_):
            raise TypeError(f"every_step must be True or False, got {every_step!r}")
        self._block, self._every_step = None if block is None else _size("block", block, 1), bool(every_step)
        super().__init__(U, W, b, h0, batch=batch, nonlinearity=nonlinearity, alpha=alpha, form=form)

    @property
    def block(self):
        """Steps of a block."""
        return max(self.hidden_size, 1) if self._block is None else self._block

    @property
    def every_step(self):
        """Whether each step returns gradients."""
        return self._every_step

    def finish(self):
        """End the block here, so that `update` may come.

        Returns
        -------
        OnlineGradients
            Of the steps since the last that were returned; zero if there are none, and with `every_step`.

        Raises
        ------
        RuntimeError
            As in `forward`.
        """
        self._check_whole()
        totals, self._totals = self._ended(), None
        return self._of_totals(totals)

    @_quiet
    def _of_totals(self, totals):
        U, W, b, h0, alpha = totals
        return OnlineGradients(
            U, W, b, h0.reshape(self._shape(self.hidden_size)), alpha.sum() if self._one_alpha else alpha
        )

    def _begin(self):
        super()._begin()
        T, B, H = self.block, self._rows, self.hidden_size
        self._steps, self._totals = 0, None
        self._xs = np.empty((T, B, self.input_size), self.dtype)
        self._hs = np.empty((T + 1, B, H), self.dtype)
        self._rs = np.empty((T, B, H), self.dtype)
        self._dhs = np.zeros((T, B, H), self.dtype)
        self._hs[0] = self._h

    def _follow(self, x, h, rates):
        t = self._steps
        self._xs[t], self._hs[t + 1] = x, h
        if rates is not None:
            self._rs[t] = rates
        self._steps = t + 1

    def _collect(self, dh):
        self._check_whole()
        if self._steps == 0:
            raise RuntimeError("gradients must come after forward, and the last block has ended")
        if self.every_step:
            self._dhs[self._steps - 1] = dh
            totals = self._within()
            self._dhs[self._steps - 1] = 0
            return self._of_totals(totals)
        self._dhs[self._steps - 1] += dh
        return self.finish() if self._steps == self.block else None

    def _settle(self):
        self._check_whole()
        if self._steps == self.block:
            self._totals = self._ended()

    def _before_update(self):
        self._settle()
        if self._steps:
            raise RuntimeError(f"update must come at the end of a block, got {self._steps} steps: call finish first")

    def influence(self):
        """As in `RTRL`, of the last state; it ends the block, whose gradients are added to the next returned."""
        self._check_whole()
        self._totals = self._ended()
        return super().influence()

    def _so_far(self):
        """The steps of the block so far: x, the states before and after, rates where they tell more."""
        n = self._steps
        rates = self._rs[:n] if self._cell[1] is not None and not self._cell[2] else None
        return self._xs[:n], self._hs[:n], self._hs[1 : n + 1], rates

    @_quiet
    def _within(self):
        """Gradients (U, W, b, h0, alpha) of the losses of the block so far."""
        H, Z = self.hidden_size, self.hidden_size + self.input_size
        phi, leak, current = self._cell
        x, _, h, rates = self._so_far()
        _, U, W, b, g0, _, alpha = _fused.backward(
            self._dhs[: self._steps], h, x, self._U, self._W, self._hs[0], 1, phi, leak, current, False, rates
        )
        G = _online.contract(self._memory, self._high, self._columns + 1, g0)
        sums = G[0] if len(G) == 1 else G.sum(axis=0)
        alpha = None if leak is None else alpha + sums[:, Z + 1]
        return U + sums[:, H:Z], W + sums[:, :H], b + sums[:, Z], G[..., -1].copy(), alpha

    @_quiet
    def _ended(self):
        """End the block: `_within`, and what earlier ones have left that nobody has asked for."""
        totals = self._within()
        self._whole = False
        rows = [None if a is None else a.reshape(self._steps * self._rows, a.shape[2]) for a in self._so_far()]
        steps = _online.immediate(*rows, self._cell)
        _online.advance_block(self._memory, self._high, self._columns + 1, self._rows, steps, self._W, self._cell)
        self._high = not self._high
        self._hs[0], self._dhs[: self._steps] = self._hs[self._steps], 0
        self._steps, self._whole = 0, True
        if self._totals is None:
            return totals
        return [None if a is None else a + old for a, old in zip(totals, self._totals, strict=True)]


class _Traced(_Learner):
    """A learner that keeps of the influence one number for each parameter: on its own unit alone."""

    _recurrent = True

    def _begin(self):
        self._trace = np.zeros((self._rows, self.hidden_size, self._columns), self.dtype)

    def _advance(self, step, dh):
        _online.advance_trace(self._trace, step, self._W, self._cell, self._recurrent)

    def _collect(self, dh):
        self._settle()
        return self._named(_online.contract_trace(self._trace, dh))


class SnAp1(_Traced):
    """RTRL's sparse one-step approximation: each parameter's influence on its own unit alone, for H (H + I) a step.

    Parameters
    ----------
    U, W, b, h0, batch, nonlinearity, alpha, form
        As in `RTRL`.

    Attributes
    ----------
    U, W, b, alpha, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    RTRL : the exact gradient.
    RFLO : also without the unit's own weight.

    Notes
    -----
    Keeps of P_t[i, j] the entry of unit i, where the immediate influence is: e_t[i, j] = J_t[i, i] e_{t-1}[i, j] +
    (dh_t/da_t)_i z_t[j], gradient dh_i e[i, j] [1]_. Exact if W is diagonal; else biased: what a unit makes of others
    and gets back is not seen. The gradient with respect to h0 is not computed.

    References
    ----------
    .. [1] J. Menick, E. Elsen, U. Evci, S. Osindero, K. Simonyan, A. Graves, "A practical sparse approximation for real
       time recurrent learning", arXiv:2006.07232 (2020).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> learner, exact = (cls(U=np.ones((3, 1)), W=np.diag([0.9, 0.5, -0.2])) for cls in (pyrnn.SnAp1, pyrnn.RTRL))
    >>> all(np.allclose(learner.step(x, [1, 1, 1]).U, exact.step(x, [1, 1, 1]).U) for x in np.ones((9, 1)))
    True
    """


class RFLO(_Traced):
    """Random-feedback local online learning: traces that fade with the leak alone, for H (H + I) a step.

    Parameters
    ----------
    U, W, b, h0, batch, nonlinearity, alpha, form
        As in `RTRL`. Without a leak nothing is remembered: the gradient through one step.

    Attributes
    ----------
    U, W, b, alpha, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    SnAp1 : also with the unit's own weight.

    Notes
    -----
    e_t[i, j] = (1 - alpha_i) e_{t-1}[i, j] + (dh_t/da_t)_i z_t[j], gradient dh_i e[i, j] [1]_, here also in the current
    form. Exact if W is 0; else biased by all that goes through W. The random feedback is the caller's: dh = B error
    instead of Vᵀ error, with a B that is drawn once. The gradient with respect to h0 is not computed.

    References
    ----------
    .. [1] J. M. Murray, "Local online learning in recurrent networks with random feedback", eLife 8 (2019) e43299.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> learner = pyrnn.RFLO(U=[[1.0]], W=[[0.0]], alpha=0.5, nonlinearity="identity")
    >>> [float(learner.step([x], [1.0]).U[0, 0]) for x in (1, 0, 0)]
    [0.5, 0.25, 0.125]
    """

    _recurrent = False


class UORO(_Learner):
    """Unbiased online recurrent optimisation: a random influence of rank one with the right mean, for H (H + I) a step.

    Parameters
    ----------
    U, W, b, h0, batch, nonlinearity, alpha, form
        As in `RTRL`.
    rng : int, numpy.random.Generator or None
        As in `numpy.random.default_rng`. `reset` does not set it back; a copy of a learner draws what the learner does.

    Attributes
    ----------
    U, W, b, alpha, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    RTRL : the expectation of these gradients.

    Notes
    -----
    With random signs s, v <- rho_0 J v + rho_1 s and theta <- theta / rho_0 + (s . immediate influence) / rho_1; the
    gradient is (dh . v) theta, and the mean of v thetaᵀ is the influence [1]_, as long as parameters do not change. The
    factors rho are those of the paper, which make the variance least. It still grows with H: a single gradient is
    mostly noise (docs/online-learning.md has figures). The gradient with respect to h0 is not computed.

    References
    ----------
    .. [1] C. Tallec, Y. Ollivier, "Unbiased online recurrent optimization", arXiv:1702.05043 (2017).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> U, W, b, _, _ = pyrnn.initialize(input_size=1, hidden_size=3, rng=0)
    >>> learner = pyrnn.UORO(U, W, b, rng=0)
    >>> learner.step([0.5], dh=lambda h: h).W.shape
    (3, 3)
    """

    def __init__(self, U, W, b=None, h0=None, *, batch=None, nonlinearity="tanh", alpha=None, form="rate", rng=None):
        self._rng = np.random.default_rng(rng)
        super().__init__(U, W, b, h0, batch=batch, nonlinearity=nonlinearity, alpha=alpha, form=form)

    def _begin(self):
        B, H = self._rows, self.hidden_size
        self._v, self._theta = np.zeros((B, H), self.dtype), np.zeros((B, H, self._columns), self.dtype)

    def _advance(self, step, dh):
        signs = (2 * self._rng.integers(0, 2, self._v.shape, np.int8) - 1).astype(self.dtype)
        _online.advance_rank_one(self._v, self._theta, signs, step, self._W, self._cell)

    @_quiet
    def _collect(self, dh):
        self._settle()
        along = np.einsum("bi,bi->b", dh, self._v)
        factors = np.ascontiguousarray(np.broadcast_to(along[:, np.newaxis], dh.shape))
        return self._named(_online.contract_trace(self._theta, factors))


def _size(name, value, least):
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer or None, got {value!r}") from None
    if size < least:
        raise ValueError(f"{name} must be at least {least}, got {size}")
    return size
