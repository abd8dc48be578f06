"""Forward, backward, state gradients and Jacobians of h_t = tanh(U x_t + W h_{t-1} + b): arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _calls, _checks, _engines, _steps
from pyrnn import cell as cells
from pyrnn._core import engine_blas
from pyrnn._core.call import Call
from pyrnn._results import Gradients
from pyrnn.cell import PLAIN, Cell

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def forward(
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    b: ArrayLike | None = None,
    h0: ArrayLike | None = None,
    *,
    cell: Cell = PLAIN,
    drive: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: np.ndarray | None = None,
    out: np.ndarray | None = None,
    n_threads: int | None = None,
) -> np.ndarray:
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
    cell : Cell
        What a unit makes of its sum, and how it leaks; by default the plain tanh cell.
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
        Of a cell with alpha: where to write phi as each step has computed it, and 0 for steps that do not exist;
        `backward` reads it. As `out`.
    out : ndarray, shape (T, B, H) or (T, H), optional
        Where to write the result: of the result's dtype, of any strides, overlapping no input.
    n_threads : int, optional
        The most threads that pyrnn itself may use; None for PYRNN_NUM_THREADS or, without it, the processors that the
        process may use. Small work stays on one thread, and no result depends on the number. What BLAS uses in the
        engine ``blas`` (`pyrnn.config.using`) is set in BLAS, for the whole process (``OPENBLAS_NUM_THREADS``), and
        never changed here.

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
    Equations 10.8 and 10.9 of [1]_. U x_t is computed for many steps in one matrix product, W h_{t-1} for all sequences
    of a step in one, and bias and tanh in one pass over the result. tanh is within 1.4 units in the last
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
    compiled = _engines.choose(n_threads)
    if cell is not PLAIN:
        cells.check(cell)
    call = Call.forward(x, U, W, b, h0, cell, drive, lengths, mask, reverse, rates, out, n_threads)
    if call is None:
        call = _calls.conform_forward(x, U, W, b, h0, cell, drive, lengths, mask, reverse, rates, out, n_threads)
    compiled.forward(call)
    return call.h if call.give is None else call.give(call.h)


def backward(
    dh: ArrayLike,
    h: ArrayLike,
    x: ArrayLike,
    U: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    cell: Cell = PLAIN,
    drive: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
    x_gradient: bool = True,
    out: Gradients | None = None,
    n_threads: int | None = None,
) -> Gradients:
    """Gradients of a loss through an RNN, by exact backpropagation through time.

    Parameters
    ----------
    dh : array_like, shape (T, B, H) or (T, H)
        What the loss sends into each h_t directly: Vᵀ ∇L of the output layer, zero where there is no loss. Not the
        gradient through later steps: that is computed here.
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    x, U, W, h0, cell, lengths, mask, reverse
        As given to `forward`. The bias is not needed.
    drive : array_like, shape of h, optional
        As given to `forward`: asks for its gradient.
    rates : array_like, shape of h, optional
        Of a cell with alpha: what `forward` wrote there. In the ``current`` form it is phi(h), and computed if not
        given; in the ``rate`` form h does not tell it without loss, and it must be given.
    x_gradient : bool
        Whether the gradient at x is wanted; without it, ``x`` of the result is None.
    out : Gradients, optional
        What an earlier call of the same shapes has returned: its arrays are overwritten, so that a loop of training
        steps allocates nothing. Its ``x`` is None if that gradient is not wanted. If alpha is a number, so is its
        gradient: read it from the result, ``out`` keeps the old one.
    n_threads : int, optional
        As in `forward`.

    Returns
    -------
    Gradients
        Named tuple ``(x, U, W, b, h0, drive, alpha)`` of arrays shaped like the inputs of `forward`, new ones or those
        of ``out``. The first five are there also where b or h0 was None; ``drive`` is None unless it was given,
        ``alpha`` unless the cell has one. Steps that do not exist have gradient 0.

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
    compiled = _engines.choose(n_threads)
    if cell is not PLAIN:
        cells.check(cell)
    if x_gradient is not True:
        _checks.check_flag("x_gradient", x_gradient)
    if out is not None and not isinstance(out, Gradients):
        raise TypeError(f"out must be a pyrnn.Gradients, as backward returns it, got {type(out).__name__}")
    given = (dh, h, x, U, W, h0, cell, drive, lengths, mask, reverse, rates, x_gradient, out, n_threads)
    call = Call.backward(*given)
    if call is None:
        call = _calls.conform_backward(*given)
    compiled.backward(call)
    results = call.results if call.give is None else call.give(call.results)
    return _calls.gradients(results, cell, out)


def state_gradients(
    dh: ArrayLike,
    h: ArrayLike,
    W: ArrayLike,
    *,
    cell: Cell = PLAIN,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
) -> np.ndarray:
    """The gradient of the loss with respect to every state, through all later steps: equation 10.21 itself.

    Parameters
    ----------
    dh : array_like, shape (T, B, H) or (T, H)
        What the loss sends into each h_t directly.
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    cell, lengths, mask, reverse
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
    cells.check(cell)
    call = Call.state_gradients(dh, h, W, cell, lengths, mask, reverse, rates, None)
    if call is None:
        call = _calls.conform_state_gradients(dh, h, W, cell, lengths, mask, reverse, rates)
    compiled.state_gradients(call)
    grad_h = call.grad_h
    if call.mask is not None:
        _calls.pass_back_through_holes(compiled, call, cell)
    return grad_h if call.give is None else call.give(grad_h)


def jacobian(
    h: ArrayLike,
    W: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    cell: Cell = PLAIN,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reverse: bool = False,
    rates: ArrayLike | None = None,
) -> np.ndarray:
    """The Jacobian of every step, J_t = ∂h_t/∂h_{t-1} = diag(1 - h_t²) W.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    h0 : array_like, shape (B, H) or (H,), optional
        The state before the first step; None for zeros. Only the ``current`` form reads it.
    cell, lengths, mask, reverse
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
    compiled = _engines.measured(engine_blas)  # no products and no sums: both engines have this loop
    cells.check(cell)
    h, W, h0, rates = _checks.as_real_arrays("h0", "rates", h=h, W=W, h0=h0, rates=rates)
    _calls.check_states(h, W)
    _checks.check_shape("h0", h0, h.shape[1:], "h", h)
    _checks.check_shape("rates", rates, h.shape, "h", h)
    cell.check_units(len(W))
    cells.check_read_rates(cell, rates)
    lengths, mask, reverse = _steps.check(lengths, mask, reverse, h)
    W = _checks.matrix(W)
    if cell.current:
        slopes_of = _calls.phi_of_previous(h, h0, cell, lengths, reverse)
    else:
        slopes_of = h if rates is None else rates
    if h.ndim == 3:
        J: np.ndarray = compiled.jacobian(slopes_of, W, cell)
    else:
        J = compiled.jacobian(slopes_of[:, np.newaxis], W, cell)[:, 0]
    missing = _calls.missing_steps(h, lengths, mask)
    if missing is not None:
        J[missing] = 0 if mask is None else np.eye(len(W), dtype=h.dtype)
    return J
