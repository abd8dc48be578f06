"""The regulariser of Pascanu, Mikolov and Bengio, which asks every step to hand on a gradient as long as it got."""

import math

import numpy as np

from pyrnn import _cell, _checks
from pyrnn._results import RegularizerGradients

FORMS = ("book", "published")
PUBLISHED_BOUND = 1e-20  # of squared norms: `bound` in RNN.py of pascanur/trainingRNNs
CHUNK = 2**15  # numbers of h at a time: temporaries that stay in cache, and that malloc does not take from the system


def vanishing_regularizer(grad_h, h, W, *, form="book", nonlinearity="tanh"):
    """How much the gradients' lengths change from step to step, squared: Omega, with its gradients.

    Parameters
    ----------
    grad_h : array_like, shape (T, B, H) or (T, H)
        The whole gradient of the loss with respect to every state, as `state_gradients` returns it.
    h : array_like, shape (T, B, H) or (T, H)
        The states that `forward` returned.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    form : {"book", "published"}
        ``book``: the sum of (ratio of norms - 1)², equation 10.52. ``published``: what the code published with the
        paper computes, the *mean* of (ratio of *squared* norms - 1)².
    nonlinearity : {"tanh", "relu", "identity"}
        As given to `forward`.

    Returns
    -------
    omega : float
        A float64 scalar.
    gradients : RegularizerGradients
        Named tuple ``(h, W)`` of the derivatives with grad_h held constant.

    Raises
    ------
    ValueError, TypeError
        As in `forward`.

    See Also
    --------
    state_gradients : makes grad_h.

    Notes
    -----
    For a cell without alpha; of sequences with a `mask`, give the steps that exist, ``grad_h[mask]`` and ``h[mask]``.
    With ∂h_t/∂h_{t-1} = diag(phi'(a_t)) W and r_t = ||grad_h_t ∂h_t/∂h_{t-1}|| / ||grad_h_t||, equation 10.52 of [1]_
    is::

        Omega = Σ_t (r_t - 1)²                      book
        Omega = (1/n) Σ_t (r_t² - 1)²               published

    over all steps of all sequences, the first one included, where the state before is h0. No Jacobian is formed:
    grad_h_t ∂h_t/∂h_{t-1} is the row (phi'(a_t) ∘ grad_h_t) W. Only the direction of grad_h_t plays a part, so that its
    scale neither matters nor overflows.

    - **Steps without a gradient.** Where grad_h_t is zero, the ratio has no value, and the step does not count: it adds
      nothing to Omega, its gradients or n. Nor does, in the published form, a step with ||grad_h_t||² < 1e-20, the
      bound in the published code. Omega of no steps is 0.
    - **Where nothing is handed on**, r_t = 0, the term is 1, and the book's form has no derivative: 0 is returned.
    - **What is held constant.** Omega depends on the parameters through W, h and grad_h. The paper [2]_ takes the
      derivative through W alone, with h and grad_h as constants; its code adds a multiple of ``gradients.W`` to dW,
      and so may you. ``gradients.h`` is one more term, which the code does not have: the same multiple of it, added to
      the ``dh`` of `backward`. What flows through grad_h itself is left out in both cases.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.11.2.
    .. [2] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013;
       code: https://github.com/pascanur/trainingRNNs, RNN.py.

    Examples
    --------
    At h = 0 every step halves the gradient:

    >>> import numpy as np, pyrnn
    >>> h, W = np.zeros((3, 1)), np.array([[0.5]])
    >>> grad_h = pyrnn.state_gradients(np.array([[0.0], [0.0], [1.0]]), h, W)
    >>> omega, gradients = pyrnn.vanishing_regularizer(grad_h, h, W)
    >>> float(omega), gradients.W
    (0.75, array([[-3.]]))
    """
    if not isinstance(form, str) or form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}")
    _cell.numbers(nonlinearity, "rate")  # checks the name
    grad_h, h, W = _checks.as_real_arrays(grad_h=grad_h, h=h, W=W)
    _checks.check_sequence("h", "H", h)
    H = h.shape[-1]
    _checks.check_shape("W", W, (H, H), "h", h)
    _checks.check_shape("grad_h", grad_h, h.shape, "h", h)

    shape, (grad_h, h) = h.shape, (a.reshape(math.prod(h.shape[:-1]), H) for a in (grad_h, h))
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        norms = _norms(grad_h)
        counted = (norms != 0) & ~(norms * norms < (PUBLISHED_BOUND if form == "published" else 0))
        n = 1 if form == "book" else max(np.count_nonzero(counted), 1)
        omega, d_h, dW = np.float64(0), np.zeros(h.shape, h.dtype), np.zeros(W.shape, W.dtype)
        step = max(CHUNK // max(H, 1), 16)
        for start in range(0, len(h), step):
            rows = slice(start, start + step)
            if not counted[rows].all():
                rows = start + np.flatnonzero(counted[rows])
            chunk_omega, d_h[rows], chunk_dW = _chunk(grad_h[rows], h[rows], W, form, nonlinearity)
            omega += chunk_omega
            dW += chunk_dW
        if form == "published":
            omega, d_h, dW = omega / n, d_h / h.dtype.type(n), dW / h.dtype.type(n)
    return omega, RegularizerGradients(h=d_h.reshape(shape), W=dW)


def _chunk(grad_h, h, W, form, nonlinearity):
    """Omega of rows that all count, as a sum, and its derivatives by h and W."""
    direction, _ = _units(grad_h)
    slope = _cell.slopes_from(nonlinearity, h)
    delta = slope * direction  # phi'(a_t) ∘ grad_h_t, over ||grad_h_t||
    handed = delta @ W  # grad_h_t ∂h_t/∂h_{t-1}, over the same
    unit, r = _units(handed)
    if form == "book":
        omega = np.square(r - 1).sum()
        d_handed = unit * (2 * (r - 1)).astype(h.dtype)[:, np.newaxis]  # unit is the derivative of r
    else:
        omega = np.square(r * r - 1).sum()
        d_handed = handed * (4 * (r * r - 1)).astype(h.dtype)[:, np.newaxis]
    d_h = 0
    if nonlinearity == "tanh":
        d_h = d_handed @ W.T
        d_h *= direction
        d_h *= -2 * h  # the derivative of 1 - h²
    return omega, d_h, delta.T @ d_handed


def _norms(rows):
    """Euclidean norms of rows in float64."""
    squares, limits = np.vecdot(rows, rows), np.finfo(rows.dtype)
    norms = np.sqrt(squares, dtype=np.float64)
    # Where squares overflow or vanish, or nearly so: once more with scaled numbers.
    rough = ~((squares > limits.tiny / limits.eps) & (squares < limits.max * limits.eps))
    if rough.any():
        norms[rough] = _scaled(rows[rough])[1]
    return norms


def _units(rows):
    """Rows over their norms, zeros where that is 0, and the norms."""
    norms, limits = _norms(rows), np.finfo(rows.dtype)
    units = rows / norms.astype(rows.dtype)[:, np.newaxis]
    rough = ~((norms > limits.tiny / limits.eps) & (norms < limits.max * limits.eps))
    if rough.any():
        units[rough] = _scaled(rows[rough])[0]
    return units, norms


def _scaled(rows):
    """The same for numbers of any size."""
    largest = np.abs(rows).max(axis=1, initial=0)
    exponents = np.frexp(np.where(np.isfinite(largest), largest, 1))[1]
    scaled = np.ldexp(rows, -exponents[:, np.newaxis])
    lengths = np.sqrt(np.square(scaled, dtype=np.float64).sum(axis=1))
    units = scaled / np.where(lengths == 0, 1, lengths).astype(rows.dtype)[:, np.newaxis]
    return units, np.ldexp(lengths, exponents)
