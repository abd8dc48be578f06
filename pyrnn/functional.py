"""Forward, backward, state gradients and Jacobians of h_t = tanh(U x_t + W h_{t-1} + b): arrays in, arrays out."""

import numpy as np

from pyrnn import _bptt, _checks, _engines
from pyrnn._results import Gradients


def forward(x, U, W, b=None, h0=None, *, out=None, n_threads=None, engine="auto"):
    """Hidden states of a tanh RNN: h_t = tanh(b + U x_t + W h_{t-1}).

    Parameters
    ----------
    x : array_like, shape (T, B, I) or (T, I)
        Input, time first; without a batch axis the result has none either.
    U : array_like, shape (H, I)
        Input-to-hidden weights, PyTorch's ``weight_ih``.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights, PyTorch's ``weight_hh``.
    b : array_like, shape (H,), optional
        Bias, PyTorch's ``bias_ih + bias_hh``; None for none.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before ``x[0]``; None for zeros.
    out : ndarray, shape (T, B, H) or (T, H), optional
        Where to write the result: of the result's dtype, of any strides, overlapping no input.
    n_threads : int, optional
        The most threads that pyrnn itself may use; None for PYRNN_NUM_THREADS or, without it, the processors that the
        process may use. Small work stays on one thread, and no result depends on the number. What BLAS uses in the
        ``blas`` engine is set in BLAS, for the whole process (``OPENBLAS_NUM_THREADS``), and never changed here.
    engine : {"auto", "blas", "fused"}
        ``fused``: pyrnn's own kernels, where each number is one chain of multiply-adds, so that its bits depend neither
        on the rest of the batch nor on the processor. ``blas``: SciPy's BLAS. ``auto`` takes the faster one.

    Returns
    -------
    h : ndarray, shape (T, B, H) or (T, H)
        float32 if all arguments promote to it, else float64; ``out`` if that was given.

    Raises
    ------
    ValueError
        If shapes do not fit, ``out`` is read-only or overlaps an input, or an option has no such value.
    TypeError
        If an argument is complex, long double, text, an object or masked.

    See Also
    --------
    backward : the gradients.

    Notes
    -----
    Equations 10.8 and 10.9 of [1]_. U x_t is computed for many steps in one matrix product, W h_{t-1} for all
    sequences of a step in one, and bias and tanh in one pass over the result. tanh is within 1.4 units in the last
    place of the exact value. NaN and inf pass through. Arrays whose last axis is contiguous are read in
    place: a batch-first ``x`` goes in as ``x.transpose(1, 0, 2)`` without a copy.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> x = np.ones((3, 1))
    >>> pyrnn.forward(x, U=[[1.0], [0.0]], W=[[0.0, 0.5], [1.0, 0.0]]).round(4)
    array([[0.7616, 0.    ],
           [0.7616, 0.642 ],
           [0.867 , 0.642 ]])
    """
    compiled = _engines.choose(engine, n_threads)
    if out is None and _bptt.fit(x, U, W, b, h0):
        return compiled.forward(x, U, W, b, _initial(h0, x.shape[1], len(U), x.dtype), None, n_threads)
    given = {"x": x, "U": U, "W": W, "b": b, "h0": h0}
    x, U, W, b, h0 = _checks.as_real_arrays("b", "h0", **given)
    states = _check_network(x, U, W, h0)
    H = U.shape[0]
    _checks.check_shape("b", b, (H,), "U", U)
    if out is not None:
        _checks.check_out(out, states, x.dtype, given, (x, U, W, b, h0))
    U, W = _checks.matrix(U), _checks.matrix(W)
    if x.ndim == 3:
        h = _forward(compiled, x, U, W, b, _initial(h0, x.shape[1], H, x.dtype), out, n_threads)
    else:
        h0 = _initial(None if h0 is None else h0[np.newaxis], 1, H, x.dtype)
        h = _forward(compiled, x[:, np.newaxis], U, W, b, h0, None if out is None else out[:, np.newaxis], n_threads)[
            :, 0
        ]
    return h if out is None else out


def _forward(compiled, x, U, W, b, h0, out, n_threads):
    if out is None or _checks.written_in_place(out):
        return compiled.forward(x, U, W, b, h0, out, n_threads)
    out[...] = compiled.forward(x, U, W, b, h0, None, n_threads)
    return out


def backward(dh, h, x, U, W, h0=None, *, n_threads=None, engine="auto"):
    """Gradients of a loss through a tanh RNN, by exact backpropagation through time.

    Parameters
    ----------
    dh : array_like, shape (T, B, H) or (T, H)
        What the loss sends into each h_t directly: Vᵀ ∇L of the output layer, zero where there is no loss. Not the
        gradient through later steps: that is computed here.
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    x, U, W, h0
        As given to `forward`. The bias is not needed.
    n_threads, engine
        As in `forward`.

    Returns
    -------
    Gradients
        Named tuple ``(x, U, W, b, h0)`` of new arrays, shaped like the inputs of `forward`. All five are there,
        also where b or h0 was None.

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    See Also
    --------
    state_gradients : the whole gradient with respect to every h_t.
    loss_and_gradients : forward, output layer, loss and gradients in one call.

    Notes
    -----
    Equations 10.21, 10.23, 10.26 and 10.28 of [1]_, with delta_t = (1 - h_t²) ∘ grad_h_t the gradient at the
    pre-activation; from it also dx_t = Uᵀ delta_t and dh0 = Wᵀ delta_1. Memory beyond inputs and outputs does not
    grow with T. ``1 - h²`` is computed from the rounded h, so that a saturated unit's slope carries the relative
    error of that rounding: docs/bptt.md has the figures.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.2.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> x, U, W = np.ones((3, 1)), np.array([[1.0], [0.0]]), np.array([[0.0, 0.5], [1.0, 0.0]])
    >>> h = pyrnn.forward(x, U, W)
    >>> pyrnn.backward(np.ones_like(h), h, x, U, W).U.round(4)  # of the sum of all states
    array([[1.6126],
           [2.582 ]])
    """
    compiled = _engines.choose(engine, n_threads)
    if dh is not None and _bptt.fit(x, U, W, None, h0, dh, h):
        return Gradients(*compiled.backward(dh, h, x, U, W, _initial(h0, x.shape[1], len(U), x.dtype), n_threads))
    dh, h, x, U, W, h0 = _checks.as_real_arrays("h0", dh=dh, h=h, x=x, U=U, W=W, h0=h0)
    states = _check_network(x, U, W, h0)
    H = U.shape[0]
    _checks.check_shape("h", h, states, "x", x, "U", U)
    _checks.check_shape("dh", dh, states, "h", h)
    U, W = _checks.matrix(U), _checks.matrix(W)
    if x.ndim == 3:
        return Gradients(*compiled.backward(dh, h, x, U, W, _initial(h0, x.shape[1], H, x.dtype), n_threads))
    h0 = _initial(None if h0 is None else h0[np.newaxis], 1, H, x.dtype)
    dx, dU, dW, db, dh0 = compiled.backward(dh[:, np.newaxis], h[:, np.newaxis], x[:, np.newaxis], U, W, h0, n_threads)
    return Gradients(dx[:, 0], dU, dW, db, dh0[0])


def state_gradients(dh, h, W):
    """The gradient of the loss with respect to every state, through all later steps: equation 10.21 itself.

    Parameters
    ----------
    dh : array_like, shape (T, B, H) or (T, H)
        What the loss sends into each h_t directly.
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.

    Returns
    -------
    grad_h : ndarray, shape of h
        grad_h_t = dh_t + Wᵀ diag(1 - h_{t+1}²) grad_h_{t+1}.

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    Notes
    -----
    Equations 10.19 to 10.21 of Goodfellow et al., "Deep Learning". The norm of ``grad_h[t]`` over t, for a loss at
    the last step alone, is how fast gradients vanish or explode.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> h = np.zeros((3, 1))  # at h = 0 the Jacobian is W
    >>> pyrnn.state_gradients(np.array([[0.0], [0.0], [1.0]]), h, np.array([[0.5]])).ravel()
    array([0.25, 0.5 , 1.  ])
    """
    compiled = _engines.choose()
    dh, h, W = _checks.as_real_arrays(dh=dh, h=h, W=W)
    _check_states(h, W)
    _checks.check_shape("dh", dh, h.shape, "h", h)
    W = _checks.matrix(W)
    if h.ndim == 3:
        return compiled.state_gradients(dh, h, W)
    return compiled.state_gradients(dh[:, np.newaxis], h[:, np.newaxis], W)[:, 0]


def jacobian(h, W):
    """The Jacobian of every step, J_t = ∂h_t/∂h_{t-1} = diag(1 - h_t²) W.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.

    Returns
    -------
    J : ndarray, shape (T, B, H, H) or (T, H, H)
        ``J[t, r, i, j] = (1 - h[t, r, i]²) W[i, j]``, the derivative of unit i at t with respect to unit j at t - 1.

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    Notes
    -----
    The factor of equation 10.21 of Goodfellow et al., "Deep Learning". The result is H times as large as h: a product
    with a vector does not need it, see `state_gradients`.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> pyrnn.jacobian(np.array([[0.5, 0.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[[0.75, 1.5 ],
            [3.  , 4.  ]]])
    """
    compiled = _engines.choose("blas")  # no products and no sums: both engines have this loop
    h, W = _checks.as_real_arrays(h=h, W=W)
    _check_states(h, W)
    W = _checks.matrix(W)
    return compiled.jacobian(h, W) if h.ndim == 3 else compiled.jacobian(h[:, np.newaxis], W)[:, 0]


def _check_network(x, U, W, h0):
    """Check what forward and backward share; returns the shape of h."""
    _checks.check_sequence("x", "I", x)
    _checks.check_columns("U", "H", U, x.shape[-1], "x", x)
    H = U.shape[0]
    _checks.check_shape("W", W, (H, H), "U", U)
    states = (*x.shape[:-1], H)
    _checks.check_shape("h0", h0, states[1:], "x", x, "U", U)
    return states


def _check_states(h, W):
    _checks.check_sequence("h", "H", h)
    H = h.shape[-1]
    _checks.check_shape("W", W, (H, H), "h", h)


def _initial(h0, B, H, dtype):
    return np.zeros((B, H), dtype) if h0 is None else _checks.matrix(h0)
