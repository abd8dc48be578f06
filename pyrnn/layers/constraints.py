"""Constraints on a weight matrix: missing and frozen entries, and one sign for all that a unit sends out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _checks

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pyrnn._types import Dale, Shape

DALE = ("rectified", "absolute")


class Constraint:
    """What a weight matrix may be: entries that are 0, entries that keep a value, columns of one sign.

    Training changes *raw* weights, free numbers of the same shape; the network is given the effective weights
    ``apply(raw)``, and ``gradient`` takes the loss's gradient back to the raw ones. Or training changes the weights
    themselves, and ``project`` brings them back after each step.

    Parameters
    ----------
    mask : array_like of booleans, shape (rows, columns), optional
        False where there is no connection: that entry is 0.
    frozen : array_like, shape (rows, columns), optional
        The value of each entry that is not trained, NaN where an entry is: ``np.where(fixed, W, np.nan)``.
    signs : array_like, shape (columns,), optional
        +1 where no entry of a column may be negative, -1 where none may be positive, 0 where both may be. A column is
        what one unit sends out: for W and V there is one sign for each hidden unit, for U one for each input.
    dale : {"rectified", "absolute"}
        How the entries of a column with a sign are made of raw ones: sign · max(raw, 0) [1]_, or sign · |raw| [2]_.

    Raises
    ------
    ValueError
        If shapes do not fit, a sign is none, `dale` has no such value, or a frozen value is infinite, not 0 where
        `mask` is False, or against the sign of its column.
    TypeError
        If the mask is not of booleans or another argument not of real numbers.

    See Also
    --------
    balanced : random recurrent weights that have signs.

    Notes
    -----
    Objects do not change; the arrays that they give are read-only. Constraints of equal values are equal. dtype: the
    results have that of the raw weights, to which frozen values are rounded. Weights at masked and frozen entries are
    never read.

    With s the sign of column j, and r for raw::

        rectified    W[i, j] = s max(r[i, j], 0)     dL/dr = s dL/dW where r > 0, else 0
        absolute     W[i, j] = s |r[i, j]|           dL/dr = s sign(r) dL/dW

    In both, a raw weight of exactly 0 has no gradient; rectified, a raw weight below 0 has none either, and its
    connection does not come back. Inhibitory connections have *positive* raw weights: `raw` makes them from W.

    References
    ----------
    .. [1] H. F. Song, G. R. Yang, X.-J. Wang, "Training excitatory-inhibitory recurrent neural networks for cognitive
       tasks: a simple and flexible framework", PLOS Comput. Biol. 12 (2016) e1004792.
    .. [2] D. B. Ehrlich, J. T. Stone, D. Brandfonbrener, A. Atanasov, J. D. Murray, "PsychRNN: an accessible and
       flexible Python package for training recurrent neural network models on cognitive tasks", eNeuro 8 (2021).

    Examples
    --------
    One excitatory and one inhibitory unit, without self-connections:

    >>> import numpy as np, pyrnn
    >>> constraint = pyrnn.training.Constraint(mask=[[False, True], [True, False]], signs=[1, -1])
    >>> raw = np.array([[0.1, 0.2], [0.3, 0.4]])
    >>> constraint.apply(raw)
    array([[ 0. , -0.2],
           [ 0.3,  0. ]])
    >>> constraint.gradient(raw, np.ones((2, 2)))
    array([[ 0., -1.],
           [ 1.,  0.]])
    """

    __slots__ = ("_dale", "_frozen", "_mask", "_prepared", "_signs")

    def __init__(
        self,
        mask: ArrayLike | None = None,
        frozen: ArrayLike | None = None,
        signs: ArrayLike | None = None,
        dale: Dale = "rectified",
    ) -> None:
        if not isinstance(dale, str) or dale not in DALE:
            raise ValueError(f"dale must be one of {', '.join(map(repr, DALE))}, got {dale!r}")
        mask, frozen, signs = _checked_mask(mask), _checked_frozen(frozen), _checked_signs(signs)
        if mask is not None and frozen is not None:
            _checks.check_shape("frozen", frozen, mask.shape, "mask", mask)
            _complain("frozen must be 0 or NaN where mask is False", frozen, ~mask & (frozen != 0) & ~np.isnan(frozen))
        if signs is not None:
            for name, a in (("mask", mask), ("frozen", frozen)):
                if a is not None:
                    _checks.check_shape("signs", signs, a.shape[1:], name, a)
            if frozen is not None:
                _complain("frozen must have the signs of its columns", frozen, signs * frozen < 0)
        self._mask, self._frozen, self._signs, self._dale = mask, frozen, signs, dale
        self._prepared: dict[str, Prepared] = {}

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """False where there is no connection; None if all are there."""
        return self._mask

    @property
    def frozen(self) -> np.ndarray | None:
        """The values of entries that are not trained, NaN elsewhere; None if all are trained."""
        return self._frozen

    @property
    def signs(self) -> NDArray[np.int8] | None:
        """+1, -1 or 0 for each column; None for no signs."""
        return self._signs

    @property
    def dale(self) -> Dale:
        """``rectified`` or ``absolute``."""
        return self._dale

    def apply(self, raw: ArrayLike) -> np.ndarray:
        """The effective weights, which the network is given.

        Parameters
        ----------
        raw : array_like, shape (rows, columns)

        Returns
        -------
        W : ndarray, shape (rows, columns)
            A new array of the raw weights' dtype.

        Raises
        ------
        ValueError, TypeError
            If raw has another shape than the constraint or is not of real numbers.
        """
        raw = self._checked("raw", raw)[0]
        return prepared(self, raw.shape, raw.dtype).apply(raw, np.empty(raw.shape, raw.dtype))

    def gradient(self, raw: ArrayLike, grad_effective: ArrayLike) -> np.ndarray:
        """The gradient with respect to the raw weights.

        Parameters
        ----------
        raw : array_like, shape (rows, columns)
            As given to `apply`: raw weights, in which an inhibitory connection is positive. Effective weights cannot be
            told from raw ones and give wrong gradients in silence: `raw` makes raw weights of them.
        grad_effective : array_like, shape (rows, columns)
            The gradient with respect to ``apply(raw)``: the dW that `pyrnn.backward` returns.

        Returns
        -------
        grad_raw : ndarray, shape (rows, columns)
            0 at masked and frozen entries, whatever stands there in the arguments.

        Raises
        ------
        ValueError, TypeError
            As in `apply`.
        """
        raw, grad = self._checked("raw", raw, grad_effective=grad_effective)
        rules, (W, result) = prepared(self, raw.shape, raw.dtype), np.empty((2, *raw.shape), raw.dtype)
        return rules.gradient(raw, rules.apply(raw, W), grad, result, np.empty_like(result))

    def project(self, W: ArrayLike) -> np.ndarray:
        """The nearest weights that the constraint allows, for gradient descent on the weights themselves.

        Parameters
        ----------
        W : array_like, shape (rows, columns)
            Weights, not raw ones.

        Returns
        -------
        W : ndarray, shape (rows, columns)
            A new array: entries of the wrong sign are 0, masked ones 0, frozen ones at their value, and the others are
            unchanged. `dale` plays no part.

        Raises
        ------
        ValueError, TypeError
            As in `apply`.

        Notes
        -----
        The point of the allowed set with the least sum of squared differences. After a step along the gradient it
        makes a step of projected gradient descent.

        Examples
        --------
        >>> import pyrnn
        >>> pyrnn.training.Constraint(signs=[1, -1]).project([[1.0, 1.0], [-2.0, -2.0]])
        array([[ 1.,  0.],
               [ 0., -2.]])
        """
        W = self._checked("W", W)[0].copy()
        if self._signs is not None:
            W[np.where(self._signs > 0, W < 0, (W > 0) & (self._signs < 0))] = 0
        return self._fix(W)

    def raw(self, W: ArrayLike) -> np.ndarray:
        """Raw weights whose effective weights are W: where training starts.

        Parameters
        ----------
        W : array_like, shape (rows, columns)
            Weights that the constraint allows.

        Returns
        -------
        raw : ndarray, shape (rows, columns)
            ``apply(raw)`` is W; the magnitudes in columns with a sign.

        Raises
        ------
        ValueError
            If an entry of W is not allowed; also as in `apply`.
        TypeError
            As in `apply`.

        Examples
        --------
        >>> import pyrnn
        >>> W, signs = pyrnn.training.balanced(5, rng=0)
        >>> constraint = pyrnn.training.Constraint(signs=signs)
        >>> bool((constraint.raw(W) >= 0).all()), bool((constraint.apply(constraint.raw(W)) == W).all())
        (True, True)
        """
        (W,) = self._checked("W", W)
        allowed = self.project(W)
        _complain("W must be allowed by the constraint, as project(W) is", W, (allowed != W) & ~np.isnan(allowed))
        return W.copy() if self._signs is None else np.where(self._signs != 0, np.abs(W), W)

    def _fix(self, W: np.ndarray) -> np.ndarray:
        """Write the entries that are not trained."""
        if self._mask is not None:
            W[~self._mask] = 0
        if self._frozen is not None:
            np.copyto(W, self._frozen, where=~np.isnan(self._frozen))
        return W

    def trained(self, shape: Shape) -> NDArray[np.bool_]:
        """Which entries of a matrix are trained.

        Parameters
        ----------
        shape : tuple of int
            That of the matrix, (rows, columns).

        Returns
        -------
        ndarray of bool, shape (rows, columns)
            False at masked and frozen entries.

        Raises
        ------
        ValueError
            If the constraint is of matrices of another shape.

        Examples
        --------
        >>> import pyrnn
        >>> pyrnn.training.Constraint(mask=[[False, True], [True, False]]).trained((2, 2))
        array([[False,  True],
               [ True, False]])
        """
        trained = np.ones(shape, np.bool_)
        self._checked("shape", trained)
        if self._mask is not None:
            trained &= self._mask
        if self._frozen is not None:
            trained &= np.isnan(self._frozen)
        return trained

    def _checked(self, name: str, a: ArrayLike, **others: ArrayLike) -> list[np.ndarray]:
        """The matrix, and others of its shape, as arrays of one dtype."""
        arrays = dict(zip((name, *others), _checks.as_real_arrays(**{name: a}, **others), strict=True))
        a = arrays[name]
        for other, given in (("mask", self._mask), ("frozen", self._frozen)):
            if given is not None:
                _checks.check_shape(name, a, given.shape, other, given)
        if self._signs is not None:
            _checks.check_columns(name, "rows", a, len(self._signs), "signs", self._signs)
        elif a.ndim != 2:
            _checks.shape_error(name, "(rows, columns)", a)
        for other, b in arrays.items():
            _checks.check_shape(other, b, a.shape, name, a)
        return list(arrays.values())

    def __repr__(self) -> str:
        parts = [f"dale={self._dale!r}"] if self._signs is not None else []
        for name in ("signs", "frozen", "mask"):
            a = getattr(self, name)
            if a is not None:
                parts.insert(0, f"{name}=<{' x '.join(map(str, a.shape))}>")
        return f"Constraint({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Constraint):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        frozen = None if self._frozen is None else self._frozen.astype(np.float64)
        arrays = (self._mask, frozen, self._signs)
        dale = self._dale if self._signs is not None else None
        return (*((None, None) if a is None else (a.shape, a.tobytes()) for a in arrays), dale)

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: NumPy's own pickles forget that an array is read-only.
        return Constraint, (self._mask, self._frozen, self._signs, self._dale)


class Prepared:
    """What `Constraint.apply` and `Constraint.gradient` need of a constraint, in one dtype.

    Both are passes of ufuncs that write in place. Entries that are not trained go through bits: raw & 0 is 0 for a NaN
    too.
    """

    def __init__(self, constraint: Constraint, shape: Shape, dtype: np.dtype) -> None:
        self.shape, self.bits = shape, np.dtype(f"u{dtype.itemsize}")
        signs, fixed = constraint.signs, ~constraint.trained(shape)
        s = np.broadcast_to(np.zeros(1, np.int8) if signs is None else signs, shape)
        values, signed = np.zeros(shape, dtype), s != 0
        if constraint.frozen is not None:
            np.copyto(values, constraint.frozen, where=~np.isnan(constraint.frozen))
        self.absolute, self.signed = constraint.dale == "absolute", bool(signed.any())
        # W = ((max(raw, least) & keep) | put) + zero: 0 makes 0.0 of -0.0, and -0.0 changes nothing
        least = np.where(signed, 0, -np.inf).astype(dtype)
        top = self.bits.type(1 << (8 * dtype.itemsize - 1))
        keep, put = np.full(shape, ~self.bits.type(0)), np.where(s < 0, top, self.bits.type(0))
        if self.absolute:
            keep[signed] ^= top
        keep[fixed], put[fixed] = 0, values.view(self.bits)[fixed]
        zero = np.where(fixed & np.signbit(values) & (values == 0), -0.0, 0.0).astype(dtype)
        self.least = _whole_or_one(least) if self.signed and not self.absolute else None
        self.keep = _whole_or_one(keep) if not (keep == ~self.bits.type(0)).all() else None
        self.put = _whole_or_one(put) if put.any() else None
        self.zero = _whole_or_one(zero) if signs is not None else None
        # dL/draw = slope dL/dW with slope = (sign(W or raw) & known) ^ given, where 0 stands for no gradient
        slope = np.where(signed | fixed, 0, 1).astype(dtype).view(self.bits)
        slope[fixed] = 0
        if self.absolute:
            slope[(s < 0) & ~fixed] = top
        known = np.where(signed & ~fixed, ~self.bits.type(0), self.bits.type(0))
        self.known = _whole_or_one(known) if not known.all() else None
        self.given = _whole_or_one(slope) if slope.any() else None

    def apply(self, raw: np.ndarray, W: np.ndarray) -> np.ndarray:
        """Write the effective weights to W, which is returned."""
        source = raw
        if self.least is not None:
            source = np.maximum(raw, self.least, out=W)  # of a NaN it is NaN
        bits = W.view(self.bits)
        if self.keep is not None:
            np.bitwise_and(source.view(self.bits), self.keep, out=bits)
        elif source is raw:
            np.copyto(W, raw)
        if self.put is not None:
            np.bitwise_or(bits, self.put, out=bits)
        if self.zero is not None:
            np.add(W, self.zero, out=W)
        return W

    def gradient(
        self, raw: np.ndarray, W: np.ndarray, grad: np.ndarray, out: np.ndarray, scratch: np.ndarray
    ) -> np.ndarray:
        """Write the gradient of raw weights to out, which is returned; W: what `apply` has written."""
        bits = out.view(self.bits)
        if not self.signed:
            if self.keep is None:
                np.copyto(out, grad)
            else:
                np.bitwise_and(grad.view(self.bits), self.keep, out=bits)
            return out
        np.sign(raw if self.absolute else W, out=out)
        if self.known is not None:
            np.bitwise_and(bits, self.known, out=bits)
        if self.given is not None:
            np.bitwise_xor(bits, self.given, out=bits)
        # Zero where the slope is, for a NaN in grad too: the second exponent bit of 1 and of NaN is 1, and of 0 is 0.
        # A copy of 0 where a mask says so takes 200 times as long, at 200 x 200 with half of the entries.
        moves = scratch.view(self.bits.str.replace("u", "i"))
        np.left_shift(bits.view(moves.dtype), 2, out=moves)
        np.right_shift(moves, 8 * moves.itemsize - 1, out=moves)
        with np.errstate(invalid="ignore"):  # 0 times inf
            np.multiply(out, grad, out=out)
        np.bitwise_and(bits, moves.view(self.bits), out=bits)
        return out


def prepared(constraint: Constraint, shape: Shape, dtype: np.dtype) -> Prepared:
    """Return what passes over matrices of a shape and a dtype need; that of the last shape is kept."""
    made: dict[str, Prepared] = constraint._prepared
    rules = made.get(dtype.char)
    if rules is None or rules.shape != shape:
        rules = made[dtype.char] = Prepared(constraint, shape, dtype)
    return rules


def _whole_or_one(a: np.ndarray) -> np.ndarray:
    """A contiguous matrix, or one number in its place: a ufunc that stretches a row over a matrix takes a buffer."""
    bits = a.view(f"u{a.itemsize}")
    return a.reshape(-1)[0] if a.size and (bits == bits.flat[0]).all() else np.ascontiguousarray(a)


def _checked_mask(mask: ArrayLike | None) -> np.ndarray | None:
    if mask is None:
        return None
    mask = _checks.as_array("mask", mask)
    if mask.dtype.kind != "b":
        raise TypeError(f"mask must be booleans, True for a connection, got dtype {mask.dtype}")
    return _matrix("mask", mask)


def _checked_frozen(frozen: ArrayLike | None) -> np.ndarray | None:
    if frozen is None:
        return None
    if _checks.as_array("frozen", frozen).dtype.kind == "b":
        raise TypeError(
            "frozen must be the values themselves, NaN where an entry is trained, as np.where(fixed, W, np.nan) makes "
            "them; got booleans"
        )
    frozen = _matrix("frozen", *_checks.as_real_arrays(frozen=frozen))
    _complain("frozen must be finite or NaN", frozen, np.isinf(frozen))
    return frozen


def _checked_signs(signs: ArrayLike | None) -> np.ndarray | None:
    if signs is None:
        return None
    if _checks.as_array("signs", signs).dtype.kind == "b":
        raise TypeError("signs must be numbers, +1, -1 or 0, as np.where(excitatory, 1, -1) makes them; got booleans")
    (signs,) = _checks.as_real_arrays(signs=signs)
    if signs.ndim != 1:
        _checks.shape_error("signs", "(columns,)", signs)
    _complain("signs must be +1, -1 or 0", signs, ~np.isin(signs, (-1, 0, 1)))
    return _read_only(signs.astype(np.int8))


def _matrix(name: str, a: np.ndarray) -> np.ndarray:
    if a.ndim != 2:
        _checks.shape_error(name, "(rows, columns)", a)
    return _read_only(a.copy())


def _read_only(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a


def _complain(rule: str, a: np.ndarray, wrong: np.ndarray) -> None:
    """Raise an error that shows the first wrong entry, if there is one."""
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{rule}, got {a[where]} at {where[0] if len(where) == 1 else where}")
