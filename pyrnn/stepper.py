"""A network that is fed one step at a time, for streams."""

import numpy as np

from pyrnn import _cell, _checks, _engines, _stepper


class Stepper(_stepper.Stepper):
    """An RNN that keeps its packed weights and its state between calls: one sample in, one state or output out.

    Each step computes h = tanh(b + U x + W h), or another form of the cell, and, with V, o = c + V h. The bits are
    those of `pyrnn.forward` with ``engine="fused"``.

    Parameters
    ----------
    U : array_like, shape (H, I)
        Input-to-hidden weights. All parameters are copied: later changes of the arrays do not matter.
    W : array_like, shape (H, H)
        Hidden-to-hidden weights.
    b : array_like, shape (H,), optional
        Bias; None for none.
    V : array_like, shape (O, H), optional
        Hidden-to-output weights; None for a stepper that returns its states.
    c : array_like, shape (O,), optional
        Output bias; None for none.
    batch : int, optional
        How many sequences advance together; None for one, whose arrays have no batch axis.
    h0 : array_like, shape (H,) or (batch, H), optional
        The state before the first step; None for zeros.
    nonlinearity, alpha, form
        As in `pyrnn.forward`. In the ``current`` form the output layer reads the rates, o = c + V phi(h).

    Attributes
    ----------
    input_size, hidden_size : int
        I and H.
    output_size : int or None
        O; None without V.
    batch : int or None
    dtype : numpy.dtype
        float32 if all arguments promote to it, else float64. Inputs and states of a narrower dtype are converted to
        it; those of a wider one are a TypeError, since they would lose digits.

    Raises
    ------
    ValueError
        If shapes do not fit, c comes without V, or batch is negative.
    TypeError
        If an argument is complex, long double, text, an object or masked, or batch is not an integer.

    See Also
    --------
    forward : all steps of a sequence in one call.

    Notes
    -----
    Equations 10.8 to 10.10 of Goodfellow et al., "Deep Learning". One stepper serves one thread at a time: a call that
    finds it at work in another thread raises RuntimeError and changes nothing. A step runs on the thread that calls it,
    and keeps the GIL if it has less than a million multiplications and additions; `run` shares out large batches as
    `pyrnn.forward` does. Copies and pickles take the state along.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> params = pyrnn.initialize(input_size=8, hidden_size=64, output_size=2, rng=0)
    >>> stepper = pyrnn.Stepper(*params)
    >>> x = np.random.default_rng(0).standard_normal((100, 8))
    >>> o = [stepper.step(sample) for sample in x]
    >>> np.array_equal(o, pyrnn.Stepper(*params).run(x))
    True
    """

    __slots__ = ()

    def __new__(
        cls, U, W, b=None, V=None, c=None, *, batch=None, h0=None, nonlinearity="tanh", alpha=None, form="rate"
    ):
        phi, current = _cell.numbers(nonlinearity, form)
        if c is not None and V is None:
            raise ValueError("c must come with V, got V None")
        if batch is not None:
            batch = _checks.integer_within("batch", batch, 0)
        given = {"U": U, "W": W, "b": b, "V": V, "c": c, "h0": h0, "alpha": _cell.array_or_none(alpha)}
        arrays = _checks.as_real_arrays("b", "V", "c", "h0", "alpha", **given)
        U, W, b, V, c, h0, leak = (None if a is None else np.array(a, order="C") for a in arrays)
        if U.ndim != 2:
            _checks.shape_error("U", "(H, I)", U)
        H = U.shape[0]
        _checks.check_shape("W", W, (H, H), "U", U)
        _checks.check_shape("b", b, (H,), "U", U)
        if V is not None:
            _checks.check_columns("V", "O", V, H, "U", U)
            _checks.check_shape("c", c, V.shape[:1], "V", V)
        _checks.check_shape("h0", h0, (H,) if batch is None else (batch, H), "U", U)
        rows = (1 if batch is None else batch, H)
        h0 = np.zeros(rows, U.dtype) if h0 is None else h0.reshape(rows)
        leak = _cell.checked_leak(alpha if leak is None else leak, current, H, U.dtype)
        return super().__new__(cls, U, W, b, V, c, batch, h0, (phi, leak, current))

    @property
    def state(self):
        """The state h after the last step, shape (H,) or (batch, H): a copy. Assigning to it sets the state."""
        return self._read().reshape(self._shape(self.hidden_size))

    @state.setter
    def state(self, h):
        self._write(self._converted("state", h, self.hidden_size).reshape(self._h0.shape))

    def reset(self, h0=None):
        """Set the state to h0, by default that of the construction.

        Parameters
        ----------
        h0 : array_like, shape (H,) or (batch, H), optional

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `step`.
        """
        self._write(self._h0 if h0 is None else self._converted("h0", h0, self.hidden_size).reshape(self._h0.shape))

    def run(self, x, *, n_threads=None):
        """Advance the state by many steps; the same bits as from as many calls of `step`.

        Parameters
        ----------
        x : array_like, shape (T, I) or (T, batch, I)
            Inputs, time first.
        n_threads : int, optional
            As in `pyrnn.forward`.

        Returns
        -------
        ndarray, shape (T, H) or (T, batch, H), or (T, O) or (T, batch, O)
            What `step` returns, for every step.

        Raises
        ------
        ValueError, TypeError, RuntimeError
            As in `step`.

        Notes
        -----
        A run that is interrupted by Ctrl-C leaves the state as it was. With V, the states of all steps are kept until
        their outputs are computed.
        """
        _engines.choose("fused", n_threads)
        x = self._converted("x", x, self.input_size, sequence=True)
        result = self._run(x[:, np.newaxis] if self.batch is None else x, n_threads)
        return result[:, 0] if self.batch is None else result

    def __repr__(self):
        sizes = {name: getattr(self, name) for name in ("input_size", "hidden_size", "output_size", "batch", "dtype")}
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in sizes.items())})"

    def __reduce__(self):
        h0 = self._h0.reshape(self._shape(self.hidden_size))
        attributes = getattr(self, "__dict__", None)  # of a subclass
        phi, alpha, current = self._cell
        options = {"nonlinearity": _cell.NONLINEARITIES[phi], "alpha": alpha, "form": _cell.FORMS[current]}
        return _restore, (type(self), self._parameters, self.batch, h0, self.state, options), attributes

    def _shape(self, n):
        return (n,) if self.batch is None else (self.batch, n)

    def _converted(self, name, a, n, sequence=False):
        """The argument in the stepper's dtype, with rows as the kernels read them, after a check of its shape."""
        (array,) = _checks.as_real_arrays(**{name: a})
        if array.dtype.itemsize > self.dtype.itemsize:
            raise TypeError(
                f"{name} must be of a dtype that {self.dtype}, the Stepper's, can hold, got {np.asarray(a).dtype}"
            )
        shape = self._shape(n)
        if not sequence:
            _checks.check_shape(name, array, shape)
        elif array.shape[1:] != shape:
            _checks.shape_error(name, f"(T, {', '.join(map(str, shape))})", array)
        return array if array.dtype == self.dtype else array.astype(self.dtype, order="C")

    def _checked(self, x, out):
        """The hook of `step` for arguments that do not fit as they lie."""
        array = self._converted("x", x, self.input_size)
        if out is not None:
            shape = self._shape(self.hidden_size if self.output_size is None else self.output_size)
            _checks.check_out(out, shape, self.dtype, {"x": x}, (array,))
        return array


def _restore(cls, parameters, batch, h0, state, options):
    stepper = Stepper.__new__(cls, *parameters, batch=batch, h0=h0, **options)
    stepper.state = state
    return stepper
