"""The output layer o_t = c + V h_t and its gradients."""

import numpy as np

from pyrnn import _checks, _engines
from pyrnn._results import OutputGradients


def output(h, V, c=None):
    """Outputs of a linear layer on the states: o_t = c + V h_t.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        Hidden states.
    V : array_like, shape (O, H)
        Hidden-to-output weights.
    c : array_like, shape (O,), optional
        Bias; None for none.

    Returns
    -------
    o : ndarray, shape (T, B, O) or (T, O)

    Raises
    ------
    ValueError, TypeError
        As in `pyrnn.forward`.

    Notes
    -----
    Equation 10.10 of Goodfellow et al., "Deep Learning".

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> pyrnn.output(np.array([[1.0, 2.0]]), V=np.array([[1.0, 1.0]]), c=np.array([0.5]))
    array([[3.5]])
    """
    compiled = _engines.choose()
    h, V, c = _checks.as_real_arrays("c", h=h, V=V, c=c)
    _check_layer(h, V)
    _checks.check_shape("c", c, V.shape[:1], "V", V)
    V = _checks.matrix(V)
    return compiled.output(h, V, c) if h.ndim == 3 else compiled.output(h[:, np.newaxis], V, c)[:, 0]


def output_gradients(do, h, V):
    """Gradients of a loss through `output`.

    Parameters
    ----------
    do : array_like, shape (T, B, O) or (T, O)
        Gradient of the loss with respect to o.
    h, V
        As given to `output`.

    Returns
    -------
    OutputGradients
        Named tuple ``(h, V, c)`` of new arrays; ``h`` is the ``dh`` that `pyrnn.backward` takes.

    Raises
    ------
    ValueError, TypeError
        As in `pyrnn.forward`.

    Notes
    -----
    Equations 10.19 (Vᵀ do_t), 10.22 (Σ do_t) and 10.24 (Σ do_t h_tᵀ) of Goodfellow et al., "Deep Learning".

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> pyrnn.output_gradients(np.array([[2.0]]), h=np.array([[1.0, 3.0]]), V=np.array([[1.0, 1.0]])).V
    array([[2., 6.]])
    """
    compiled = _engines.choose()
    do, h, V = _checks.as_real_arrays(do=do, h=h, V=V)
    _check_layer(h, V)
    _checks.check_shape("do", do, (*h.shape[:-1], V.shape[0]), "h", h, "V", V)
    V = _checks.matrix(V)
    if h.ndim == 3:
        return OutputGradients(*compiled.output_gradients(do, h, V))
    dh, dV, dc = compiled.output_gradients(do[:, np.newaxis], h[:, np.newaxis], V)
    return OutputGradients(dh[:, 0], dV, dc)


def _check_layer(h, V):
    _checks.check_sequence("h", "H", h)
    _checks.check_columns("V", "O", V, h.shape[-1], "h", h)
