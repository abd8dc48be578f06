"""The output layer o_t = c + V h_t and its gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _checks, _engines
from pyrnn._core.call import output_fits, output_gradients_fit
from pyrnn._results import OutputGradients

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def output(h: ArrayLike, V: ArrayLike, c: ArrayLike | None = None, *, out: np.ndarray | None = None) -> np.ndarray:
    """Outputs of a linear layer on the states: o_t = c + V h_t.

    Parameters
    ----------
    h : array_like, shape (T, B, H) or (T, H)
        Hidden states.
    V : array_like, shape (O, H)
        Hidden-to-output weights.
    c : array_like, shape (O,), optional
        Bias; None for none.
    out : ndarray, shape (T, B, O) or (T, O), optional
        Where to write the result: of the result's dtype, of any strides, overlapping no input.

    Returns
    -------
    o : ndarray, shape (T, B, O) or (T, O)
        ``out`` if that was given.

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
    if output_fits(h, V, c, out):  # as below, in a tenth of the time
        return compiled.output(h, V, c, out)  # type: ignore[arg-type]
    given = {"h": h, "V": V, "c": c}
    h, V, c = arrays = _checks.as_real_arrays("c", **given)
    _check_layer(h, V)
    _checks.check_shape("c", c, V.shape[:1], "V", V)
    if out is not None:
        _checks.check_out(out, (*h.shape[:-1], len(V)), h.dtype, given, arrays)
    V = _checks.matrix(V)
    in_place = out if out is not None and out.flags.c_contiguous and out.flags.aligned else None
    if h.ndim == 3:
        o = compiled.output(h, V, c, in_place)
    else:
        o = compiled.output(h[:, np.newaxis], V, c, None if in_place is None else in_place[:, np.newaxis])[:, 0]
    if out is None:
        return o
    if in_place is None:
        out[...] = o
    return out


def output_gradients(
    do: ArrayLike, h: ArrayLike, V: ArrayLike, *, out: OutputGradients | None = None
) -> OutputGradients:
    """Gradients of a loss through `output`.

    Parameters
    ----------
    do : array_like, shape (T, B, O) or (T, O)
        Gradient of the loss with respect to o.
    h, V
        As given to `output`.
    out : OutputGradients, optional
        What an earlier call of the same shapes has returned: to be overwritten.

    Returns
    -------
    OutputGradients
        Named tuple ``(h, V, c)`` of new arrays, or ``out``; ``h`` is the ``dh`` that `pyrnn.backward` takes.

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
    if isinstance(out, OutputGradients) and output_gradients_fit(do, h, V, *out):  # as below, in a tenth of the time
        compiled.output_gradients(do, h, V, tuple(out))  # type: ignore[arg-type]
        return out
    given = {"do": do, "h": h, "V": V}
    do, h, V = arrays = _checks.as_real_arrays(**given)
    _check_layer(h, V)
    _checks.check_shape("do", do, (*h.shape[:-1], V.shape[0]), "h", h, "V", V)
    if out is not None:
        _check_gradients(out, h, V, given, arrays)
    V = _checks.matrix(V)
    results = None
    if out is not None and all(a.flags.c_contiguous and a.flags.aligned for a in out):
        results = (out.h if h.ndim == 3 else out.h[:, np.newaxis], out.V, out.c)
    if h.ndim == 3:
        dh, dV, dc = compiled.output_gradients(do, h, V, results)
    else:
        dh, dV, dc = compiled.output_gradients(do[:, np.newaxis], h[:, np.newaxis], V, results)
        dh = dh[:, 0]
    if out is None:
        return OutputGradients(dh, dV, dc)
    if results is None:
        for a, to in zip((dh, dV, dc), out, strict=True):
            to[...] = a
    return out


def _check_gradients(
    out: OutputGradients,
    h: np.ndarray,
    V: np.ndarray,
    given: Mapping[str, object],
    arrays: Collection[np.ndarray | None],
) -> None:
    """Check the OutputGradients that are to be overwritten."""
    if not isinstance(out, OutputGradients):
        raise TypeError(
            f"out must be a pyrnn.OutputGradients, as output_gradients returns it, got {type(out).__name__}"
        )
    for name, shape in (("h", h.shape), ("V", V.shape), ("c", V.shape[:1])):
        _checks.check_out(getattr(out, name), shape, h.dtype, given, arrays, name=f"out.{name}")
    for name, other in (("h", "V"), ("h", "c"), ("V", "c")):
        if _checks.overlap(getattr(out, name), getattr(out, other)):
            raise ValueError(f"out.{other} must not share memory with out.{name}")


def _check_layer(h: np.ndarray, V: np.ndarray) -> None:
    _checks.check_sequence("h", "H", h)
    _checks.check_columns("V", "O", V, h.shape[-1], "h", h)
