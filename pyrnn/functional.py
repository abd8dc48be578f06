"""Forward, backward, state gradients and Jacobians of h_t = tanh(U x_t + W h_{t-1} + b): arrays in, arrays out."""

import numpy as np

from pyrnn import _bptt, _cell, _checks, _engines, _sequences
from pyrnn._results import Gradients


def forward(
    x,
    U,
    W,
    b=None,
    h0=None,
    *,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    drive=None,
    lengths=None,
    mask=None,
    reverse=False,
    rates=None,
    out=None,
    n_threads=None,
    engine="auto",
):
    """Hidden states of an RNN: h_t = tanh(b + U x_t + W h_{t-1}), and the other forms of its cell.

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
        The state before the first step; None for zeros.
    nonlinearity : {"tanh", "relu", "identity"}
        The function phi of each unit.
    alpha : float or array_like of shape (H,), optional
        The leak, a step of time over the unit's time constant; None for a cell without leak.
    form : {"rate", "current"}
        What leaks. ``rate``: h_t = (1 - alpha) h_{t-1} + alpha phi(b + U x_t + W h_{t-1}). ``current``: the states are
        pre-activations, h_t = (1 - alpha) h_{t-1} + alpha (b + U x_t + W phi(h_{t-1})). docs/cells.md says who uses
        which.
    drive : array_like, shape (T, B, H) or (T, H), optional
        Is added to every pre-activation, as b is: noise, a context, a skip connection.
    lengths : array_like of integers, shape (B,), or an integer without a batch axis, optional
        How many steps each sequence has, 0 to T, in any order. What lies behind is never read, and its states are 0.
    mask : array_like of booleans, shape (T, B) or (T,), optional
        False where a step does not exist: its input is never read, and its state is that of the step before. Not
        together with `lengths`.
    reverse : bool
        Go through time backwards, from the last step of each sequence to ``x[0]``: h_t is made of h_{t+1}.
    rates : ndarray, shape (T, B, H) or (T, H), optional
        With alpha: where to write phi as each step has computed it, and 0 for steps that do not exist; `backward` reads
        it. As `out`.
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
    Equations 10.8 and 10.9 of [1]_; the book's alpha (10.9.2) multiplies the old state and is 1 - alpha here. U x_t is
    computed for many steps in one matrix product, W h_{t-1} for all
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
    phi, current = _cell.numbers(nonlinearity, form)
    if type(reverse) is bool and not (current and alpha is None):
        leak = _cell.leak(alpha, x, U)
        if _bptt.fit(x, U, W, b, h0, None, None, drive, leak, rates, out):
            h0 = _initial(h0, x.shape[1], len(U), x.dtype)
            if not (lengths is mask is None):
                lengths, mask = _cell.check_steps(lengths, mask, reverse, x)
                h = np.empty((*x.shape[:2], len(U)), x.dtype) if out is None else out
                options = (n_threads, phi, leak, current)
                _forward_sequences(compiled, x, U, W, b, h0, h, options, drive, rates, lengths, mask, reverse)
                return h
            if not reverse:
                return compiled.forward(x, U, W, b, h0, out, n_threads, phi, leak, current, drive, rates)
            h = np.empty((*x.shape[:2], len(U)), x.dtype) if out is None else out
            x, to, drive, rates = (_in_order(a, True) for a in (x, h, drive, rates))
            compiled.forward(x, U, W, b, h0, to, n_threads, phi, leak, current, drive, rates)
            return h
    given = {"x": x, "U": U, "W": W, "b": b, "h0": h0, "drive": drive, "alpha": _cell.array_or_none(alpha)}
    arrays = _checks.as_real_arrays("b", "h0", "drive", "alpha", **given)
    x, U, W, b, h0, drive, alpha_array = arrays
    states = _check_network(x, U, W, h0)
    H = U.shape[0]
    _checks.check_shape("b", b, (H,), "U", U)
    _checks.check_shape("drive", drive, states, "x", x, "U", U)
    cell = _cell.cell(phi, alpha if alpha_array is None else alpha_array, current, H, x.dtype)
    lengths, mask = _cell.check_steps(lengths, mask, reverse, x)
    inputs = (given, (x, U, W, b, h0, drive, alpha_array))
    _cell.check_rates(rates, states, x.dtype, *inputs, cell)
    if out is not None:
        _checks.check_out(out, states, x.dtype, given | {"rates": rates}, (*inputs[1], rates))
    U, W = _checks.matrix(U), _checks.matrix(W)
    batched = x.ndim == 3
    if not batched:
        x, drive, rates, result = (_with_batch(a) for a in (x, drive, rates, out))
        h0, lengths, mask = (None if a is None else a[np.newaxis] for a in (h0, lengths, mask))
        mask = None if mask is None else mask.T
    else:
        result = out
    h0 = _initial(h0, x.shape[1], H, x.dtype)
    if result is None:
        result = np.empty((*x.shape[:2], H), x.dtype)
    options = (n_threads, cell.nonlinearity, cell.alpha, cell.current)
    if lengths is not None or mask is not None:
        _forward_sequences(compiled, x, U, W, b, h0, result, options, drive, rates, lengths, mask, reverse)
    else:
        x, drive, to, rates_to = (_in_order(a, reverse) for a in (x, drive, result, rates))
        h, r = (
            None if a is None else a if _checks.written_in_place(a) else np.empty(a.shape, a.dtype)
            for a in (to, rates_to)
        )
        compiled.forward(x, U, W, b, h0, h, *options, drive, r)
        for a, target in ((h, to), (r, rates_to)):
            if a is not target:
                target[...] = a
    if out is not None:
        return out
    return result if batched else result[:, 0]


def _forward_sequences(compiled, x, U, W, b, h0, h, options, drive, rates, lengths, mask, reverse):
    """forward over the steps that exist; h and rates are written."""
    sequences = _sequences.Sequences(*x.shape[:2], lengths, mask, bool(reverse))
    packed_rates = None if rates is None else sequences.empty(x, h.shape[2])
    drive = None if drive is None else sequences.gather(drive)
    first = np.ascontiguousarray(h0[sequences.order])
    states = compiled.forward(
        sequences.gather(x),
        U,
        W,
        b,
        first,
        sequences.empty(x, h.shape[2]),
        *options,
        drive,
        packed_rates,
        sequences.offsets,
    )
    for packed, to, before in ((states, h, None if mask is None else h0), (packed_rates, rates, None)):
        if packed is not None:
            a = to if _checks.written_in_place(to) else np.empty(to.shape, to.dtype)
            sequences.scatter(packed, a, before)
            if a is not to:
                to[...] = a


def backward(
    dh,
    h,
    x,
    U,
    W,
    h0=None,
    *,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    drive=None,
    lengths=None,
    mask=None,
    reverse=False,
    rates=None,
    x_gradient=True,
    out=None,
    n_threads=None,
    engine="auto",
):
    """Gradients of a loss through an RNN, by exact backpropagation through time.

    Parameters
    ----------
    dh : array_like, shape (T, B, H) or (T, H)
        What the loss sends into each h_t directly: Vᵀ ∇L of the output layer, zero where there is no loss. Not the
        gradient through later steps: that is computed here.
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    x, U, W, h0, nonlinearity, alpha, form, lengths, mask, reverse
        As given to `forward`. The bias is not needed.
    drive : array_like, shape of h, optional
        As given to `forward`: asks for its gradient.
    rates : array_like, shape of h, optional
        With alpha: what `forward` wrote there. In the ``current`` form it is phi(h), and computed if not given; in the
        ``rate`` form h does not tell it without loss, and it must be given.
    x_gradient : bool
        Whether the gradient at x is wanted; without it, ``x`` of the result is None.
    out : Gradients, optional
        What an earlier call of the same shapes has returned: to be overwritten, so that a loop of training steps
        allocates nothing. Its ``x`` is None if that gradient is not wanted.
    n_threads, engine
        As in `forward`.

    Returns
    -------
    Gradients
        Named tuple ``(x, U, W, b, h0)`` of new arrays, shaped like the inputs of `forward`, or ``out``. All five are
        there, also where b or h0 was None. Its attributes ``drive`` and ``alpha`` are None unless those were given.
        Steps that do not exist have gradient 0.

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
    phi, current = _cell.numbers(nonlinearity, form)
    if not isinstance(x_gradient, bool | np.bool_):
        raise TypeError(f"x_gradient must be True or False, got {x_gradient!r}")
    x_gradient = bool(x_gradient) if out is None or not isinstance(out, Gradients) else out.x is not None
    if type(reverse) is bool and (rates is None) == (alpha is None) and dh is not None:
        leak = _cell.leak(alpha, x, U)
        if _bptt.fit(x, U, W, None, h0, dh, h, drive, leak, rates) and (leak is not None or not current):
            if not (lengths is mask is None) and out is None:
                lengths, mask = _cell.check_steps(lengths, mask, reverse, x)
                h0 = _initial(h0, x.shape[1], len(U), x.dtype)
                options = (n_threads, phi, leak, current, drive is not None)
                sequences = (lengths, mask, reverse, x_gradient)
                return _gradients(_backward_sequences(compiled, dh, h, x, U, W, h0, options, rates, *sequences), alpha)
            results = (
                False
                if not (lengths is mask is None)
                else _results_to_write(out, x_gradient, x, U, (dh, h, x, U, W, h0, drive, leak, rates))
            )
            if results is not False:
                h0 = _initial(h0, x.shape[1], len(U), x.dtype)
                options = (n_threads, phi, leak, current, drive is not None)
                if not reverse:
                    results = compiled.backward(dh, h, x, U, W, h0, *options, rates, None, results)
                else:
                    if results is None:
                        results = (np.empty(x.shape, x.dtype), *_all_but_x(x, x.shape[1], U, options[4], leak)[1:])
                    dh, h, x, rates, dx, d_drive = (
                        _in_order(a, True) for a in (dh, h, x, rates, results[0], results[5])
                    )
                    turned = (dx, *results[1:5], d_drive, results[6])
                    compiled.backward(dh, h, x, U, W, h0, *options, rates, None, turned)
                return _gradients(results, alpha, out)
    given = {"dh": dh, "h": h, "x": x, "U": U, "W": W, "h0": h0, "drive": drive, "rates": rates}
    given["alpha"] = _cell.array_or_none(alpha)
    arrays = _checks.as_real_arrays("h0", "drive", "rates", "alpha", **given)
    dh, h, x, U, W, h0, drive, rates, alpha_array = arrays
    states = _check_network(x, U, W, h0)
    H = U.shape[0]
    _checks.check_shape("h", h, states, "x", x, "U", U)
    for name, a in (("dh", dh), ("drive", drive), ("rates", rates)):
        _checks.check_shape(name, a, states, "h", h)
    cell = _cell.cell(phi, alpha if alpha_array is None else alpha_array, current, H, x.dtype)
    _cell.check_given_rates(rates, cell)
    lengths, mask = _cell.check_steps(lengths, mask, reverse, x)
    if out is not None:
        _check_gradients(out, x, U, drive, alpha, given, arrays)
    U, W = _checks.matrix(U), _checks.matrix(W)
    batched = x.ndim == 3
    if not batched:
        dh, h, x, rates = (_with_batch(a) for a in (dh, h, x, rates))
        h0, lengths, mask = (None if a is None else a[np.newaxis] for a in (h0, lengths, mask))
        mask = None if mask is None else mask.T
    h0 = _initial(h0, x.shape[1], H, x.dtype)
    options = (n_threads, cell.nonlinearity, cell.alpha, cell.current, drive is not None)
    if lengths is not None or mask is not None:
        results = _backward_sequences(compiled, dh, h, x, U, W, h0, options, rates, lengths, mask, reverse, x_gradient)
    else:
        dx = np.empty(x.shape, x.dtype) if x_gradient else None
        _, dU, dW, db, dh0, d_drive, d_alpha = _all_but_x(x, x.shape[1], U, drive is not None, cell.alpha)
        results = (dx, dU, dW, db, dh0, d_drive, d_alpha)
        dh, h, x, rates, dx, d_drive = (_in_order(a, reverse) for a in (dh, h, x, rates, dx, d_drive))
        turned = (dx, dU, dW, db, dh0, d_drive, d_alpha)
        compiled.backward(dh, h, x, U, W, h0, *options, rates, None, turned)
    dx, dU, dW, db, dh0, d_drive, d_alpha = results[:7]
    if not batched:
        dx, d_drive = (None if a is None else a[:, 0] for a in (dx, d_drive))
        dh0 = dh0[0]
    if out is None:
        return _gradients((dx, dU, dW, db, dh0, d_drive, d_alpha), alpha)
    for a, to in zip((dx, dU, dW, db, dh0, d_drive), (*out, out.drive), strict=True):
        if to is not None:
            to[...] = a
    return _gradients((*out, out.drive, d_alpha), alpha, out)


def _scattered(sequences, packed):
    """An array [T, B, n] with zeros where no step exists."""
    a = np.empty((sequences.T, sequences.B, packed.shape[2]), packed.dtype)
    sequences.scatter(packed, a)
    return a


def _gradients(results, alpha, out=None):
    """What an engine has returned, as the public tuple; a number where alpha is one."""
    gradients = Gradients(*results[:5]) if out is None else out
    if out is None and results[5] is not None:
        gradients.drive = results[5]
    if alpha is not None:
        d_alpha = results[6]
        if np.ndim(alpha) == 0:
            gradients.alpha = d_alpha.sum()
        elif out is None or out.alpha is None:
            gradients.alpha = d_alpha
        elif out.alpha is not d_alpha:
            out.alpha[...] = d_alpha
    return gradients


def _results_to_write(out, x_gradient, x, U, inputs):
    """The arrays that an engine shall write to, or None for new ones; False where they do not fit as they lie."""
    if out is None and x_gradient is True:
        return None
    leak, H = inputs[7], len(U)
    if out is None and x_gradient is False:
        return _all_but_x(x, x.shape[1], U, inputs[6] is not None, leak)
    if (
        type(out) is not Gradients
        or x_gradient is not (out.x is not None)
        or (inputs[6] is None) != (out.drive is None)
    ):
        return False
    d_alpha = out.alpha if isinstance(out.alpha, np.ndarray) and out.alpha.ndim else None
    if leak is not None and d_alpha is None:
        d_alpha = np.empty(H, x.dtype)
    results = (*out, out.drive, None if leak is None else d_alpha)
    return results if _bptt.fit_results(results, x, U, inputs) else False


def _all_but_x(x, B, U, drive, leak):
    """New arrays for the results of an engine, without that for dx."""
    H = len(U)
    shapes = [U.shape, (H, H), (H,), (B, H), (*x.shape[:2], H) if drive else None, None if leak is None else (H,)]
    return (None, *(None if shape is None else np.empty(shape, x.dtype) for shape in shapes))


def _check_gradients(out, x, U, drive, alpha, given, arrays):
    """Check the Gradients that backward is to overwrite."""
    if not isinstance(out, Gradients):
        raise TypeError(f"out must be a pyrnn.Gradients, as backward returns it, got {type(out).__name__}")
    H = len(U)
    states = (*x.shape[:-1], H)
    shapes = {"x": x.shape, "U": U.shape, "W": (H, H), "b": (H,), "h0": states[1:], "drive": states}
    if alpha is not None and np.ndim(alpha):
        shapes["alpha"] = (H,)
    optional = ("x", "alpha") if drive is not None else ("x", "drive", "alpha")
    seen = []
    for name, shape in shapes.items():
        a = getattr(out, name)
        if a is None and name in optional:
            continue
        _checks.check_out(a, shape, x.dtype, given, arrays, name=f"out.{name}")
        for other, b in seen:
            if _checks.overlap(a, b):
                raise ValueError(f"out.{name} must not share memory with out.{other}")
        seen.append((name, a))


def _backward_sequences(compiled, dh, h, x, U, W, h0, options, rates, lengths, mask, reverse, x_gradient):
    """backward over the steps that exist; the results as from an engine."""
    sequences = _sequences.Sequences(*x.shape[:2], lengths, mask, bool(reverse))
    dh, dh0 = sequences.gather_gradients(dh)
    h, x, rates = (None if a is None else sequences.gather(a) for a in (h, x, rates))
    first = np.ascontiguousarray(h0[sequences.order])
    new = None if x_gradient else _all_but_x(x, len(first), U, options[4], options[2])
    results = compiled.backward(dh, h, x, U, W, first, *options, rates, sequences.offsets, new)
    dx, dU, dW, db, first, d_drive, d_alpha = results[:7]
    dh0[sequences.order] += first
    dx, d_drive = (None if a is None else _scattered(sequences, a) for a in (dx, d_drive))
    return dx, dU, dW, db, dh0, d_drive, d_alpha


def state_gradients(
    dh, h, W, *, nonlinearity="tanh", alpha=None, form="rate", lengths=None, mask=None, reverse=False, rates=None
):
    """The gradient of the loss with respect to every state, through all later steps: equation 10.21 itself.

    Parameters
    ----------
    dh : array_like, shape (T, B, H) or (T, H)
        What the loss sends into each h_t directly.
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    nonlinearity, alpha, form, lengths, mask, reverse
        As given to `forward`.
    rates : array_like, shape of h, optional
        As in `backward`.

    Returns
    -------
    grad_h : ndarray, shape of h
        grad_h_t = dh_t + Wᵀ diag(1 - h_{t+1}²) grad_h_{t+1}, or what that is in other forms of the cell; 0 behind the
        ends of sequences.

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
    phi, current = _cell.numbers(nonlinearity, form)
    dh, h, W, alpha_array, rates = _checks.as_real_arrays(
        "alpha", "rates", dh=dh, h=h, W=W, alpha=_cell.array_or_none(alpha), rates=rates
    )
    _check_states(h, W)
    for name, a in (("dh", dh), ("rates", rates)):
        _checks.check_shape(name, a, h.shape, "h", h)
    cell = _cell.cell(phi, alpha if alpha_array is None else alpha_array, current, len(W), h.dtype)
    _cell.check_given_rates(rates, cell)
    lengths, mask = _cell.check_steps(lengths, mask, reverse, h)
    W = _checks.matrix(W)
    batched = h.ndim == 3
    if not batched:
        dh, h, rates = (_with_batch(a) for a in (dh, h, rates))
        lengths, mask = (None if a is None else a[np.newaxis] for a in (lengths, mask))
        mask = None if mask is None else mask.T
    options = (cell.nonlinearity, cell.alpha, cell.current)
    if lengths is not None or mask is not None:
        grad_h = _state_gradients_of_sequences(compiled, dh, h, W, options, rates, lengths, mask, reverse)
    else:
        grad_h = compiled.state_gradients(
            *(_in_order(a, reverse) for a in (dh, h)), W, *options, _in_order(rates, reverse)
        )
        if reverse:
            grad_h = np.ascontiguousarray(grad_h[::-1])
    return grad_h if batched else grad_h[:, 0]


def _state_gradients_of_sequences(compiled, dh, h, W, options, rates, lengths, mask, reverse):
    sequences = _sequences.Sequences(*h.shape[:2], lengths, mask, bool(reverse))
    packed_dh, initial = sequences.gather_gradients(dh)
    packed_h, packed_rates = sequences.gather(h), None if rates is None else sequences.gather(rates)
    packed = compiled.state_gradients(packed_dh, packed_h, W, *options, packed_rates, sequences.offsets)
    out = np.empty(h.shape, h.dtype)
    if mask is not None:
        # Where sequences do not begin with a step, h0 stands in h; its gradient, as that of a network without inputs.
        order, nothing = sequences.order, np.empty((1, sequences.N, 0), h.dtype)
        h0 = np.ascontiguousarray(h[-1 if reverse else 0][order])
        results = compiled.backward(
            packed_dh,
            packed_h,
            nothing,
            nothing[0, :0].reshape(len(W), 0),
            W,
            h0,
            None,
            *options,
            False,
            packed_rates,
            sequences.offsets,
        )
        initial[order] += results[4]
    sequences.scatter_gradients(packed, dh, initial, out)
    return out


def jacobian(
    h,
    W,
    h0=None,
    *,
    nonlinearity="tanh",
    alpha=None,
    form="rate",
    lengths=None,
    mask=None,
    reverse=False,
    rates=None,
):
    """The Jacobian of every step, J_t = ∂h_t/∂h_{t-1} = diag(1 - h_t²) W.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before the first step; None for zeros. Only the ``current`` form reads it.
    nonlinearity, alpha, form, lengths, mask, reverse
        As given to `forward`.
    rates : array_like, shape of h, optional
        As in `backward`.

    Returns
    -------
    J : ndarray, shape (T, B, H, H) or (T, H, H)
        ``J[t, r, i, j] = (1 - h[t, r, i]²) W[i, j]``, the derivative of unit i at t with respect to unit j at the step
        before. With alpha, (1 - alpha) I + alpha diag(phi') W, in the ``current`` form (1 - alpha) I + alpha W
        diag(phi') with phi' of the step before. The identity at steps that `mask` leaves out, 0 behind the ends of
        sequences.

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
    phi, current = _cell.numbers(nonlinearity, form)
    h, W, h0, alpha_array, rates = _checks.as_real_arrays(
        "h0", "alpha", "rates", h=h, W=W, h0=h0, alpha=_cell.array_or_none(alpha), rates=rates
    )
    _check_states(h, W)
    _checks.check_shape("h0", h0, h.shape[1:], "h", h)
    _checks.check_shape("rates", rates, h.shape, "h", h)
    cell = _cell.cell(phi, alpha if alpha_array is None else alpha_array, current, len(W), h.dtype)
    _cell.check_given_rates(rates, cell)
    lengths, mask = _cell.check_steps(lengths, mask, reverse, h)
    W = _checks.matrix(W)
    if cell.current:
        slopes = _phi_of_previous(h, 0 if h0 is None else h0, cell, lengths, reverse)
    else:
        slopes = h if rates is None else rates
    options = (cell.nonlinearity, cell.alpha, cell.current)
    if h.ndim == 3:
        J = compiled.jacobian(slopes, W, *options)
    else:
        J = compiled.jacobian(slopes[:, np.newaxis], W, *options)[:, 0]
    if lengths is not None:
        J[np.arange(len(h)).reshape(-1, *[1] * (h.ndim - 2)) >= lengths] = 0
    elif mask is not None:
        J[~mask] = np.eye(len(W), dtype=h.dtype)
    return J


def _phi_of_previous(h, h0, cell, lengths, reverse):
    """phi(h_{t-1}) for every step."""
    before = np.empty(h.shape, h.dtype)
    if reverse:
        before[:-1], before[-1:] = h[1:], h0
        if lengths is not None:
            last = np.arange(len(h)).reshape(-1, *[1] * (h.ndim - 2)) == lengths - 1
            np.copyto(before, h0, where=last[..., np.newaxis])
    else:
        before[1:], before[:1] = h[:-1], h0
    return _bptt._phi(before.reshape(before.size // max(h.shape[-1], 1), h.shape[-1]), cell.nonlinearity).reshape(
        h.shape
    )


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


def _with_batch(a):
    return None if a is None else a[:, np.newaxis]


def _in_order(a, reverse):
    """A sequence in the order of the steps."""
    return a[::-1] if reverse and a is not None else a


def _initial(h0, B, H, dtype):
    return np.zeros((B, H), dtype) if h0 is None else _checks.matrix(h0)
