"""Steps of optimisers over one vector of parameters, in one pass without allocation; and what L-BFGS does with vectors.

An optimiser holds its options as doubles and its state as arrays like the parameters. A step computes the scalars that
depend on the number of the step, and calls one kernel; with clipping, a sum of squares goes before it.
"""

cimport cython
cimport numpy as cnp
from libc.math cimport INFINITY, isfinite, ldexp, pow, sqrt

from pyrnn._core.arrays cimport CONTIGUOUS, data, need, real
from pyrnn._core.floating cimport pyrnn_floating, pyrnn_flush, pyrnn_restore
from pyrnn._core.typed cimport adam, add_multiple, dot, rmsprop, sgd
from pyrnn._core.wait cimport pyrnn_atomic, pyrnn_exchange

import numpy as np

cnp.import_array()

cdef enum:
    WORTH = 4096  # numbers from which on a step gives up the GIL: 1 us or more

# Squares of numbers whose sum of squares lies within these neither overflow nor lose digits that count. Beyond them the
# numbers are multiplied by 2**-600, or by 2**600, and summed again.
cdef double LEAST_F32 = ldexp(1, -126)   # the smallest normal numbers
cdef double LEAST_F64 = ldexp(1, -1022)
cdef double LEAST_SQUARES = ldexp(1, -900)
cdef double MOST_SQUARES = ldexp(1, 1000)

cdef struct Norm:  # root 2**exponent; inf or NaN where the numbers are
    double root
    int exponent

cdef struct Scale:  # of gradients: the product of the two
    double power
    double scale

cdef enum:
    SGD
    ADAM
    RMSPROP

cdef dict RULES = {"sgd": SGD, "adam": ADAM, "rmsprop": RMSPROP}


# ---- Norms and clipping ---------------------------------------------------------------------------------------------
cdef Norm norm_of(Py_ssize_t n, const real *a) noexcept nogil:
    """The Euclidean norm."""
    cdef Norm norm
    cdef double squares = dot(n, a, a, 1)
    norm.exponent = 0 if LEAST_SQUARES <= squares <= MOST_SQUARES else 600 if squares > MOST_SQUARES else -600
    if norm.exponent != 0:
        squares = dot(n, a, a, ldexp(1, -norm.exponent))
    norm.root = sqrt(squares)
    return norm


cdef Scale scale_to(double threshold, Norm norm, double least) noexcept nogil:
    """What gradients of this norm are multiplied by, in two factors that are no smaller than `least`, or zero."""
    cdef Scale s
    cdef double ratio = threshold / norm.root
    s.power, s.scale = 1, ldexp(ratio, -norm.exponent)
    if s.scale < least:
        s.power, s.scale = least, ldexp(ratio / least, -norm.exponent)
    return s


# ---- Optimisers -----------------------------------------------------------------------------------------------------
cdef inline bint acceptable(object a) noexcept:
    """Whether a step can update the array in place: an ndarray of float32 or float64, contiguous and aligned."""
    return type(a) is cnp.ndarray and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>a) and (
        cnp.PyArray_TYPE(<cnp.ndarray>a) == cnp.NPY_FLOAT64 or cnp.PyArray_TYPE(<cnp.ndarray>a) == cnp.NPY_FLOAT32
    ) and cnp.PyArray_ISBEHAVED_RO(<cnp.ndarray>a)


def refuse(str name, a, bint written):
    """Raise the error for an array that a step cannot take; `written`: whether it is written to."""
    what = "a writeable NumPy array" if written else "a NumPy array"
    expected = f"{name} must be {what} of float32 or float64, C-contiguous, aligned and of native byte order"
    if not isinstance(a, np.ndarray):
        raise TypeError(f"{expected}, got {type(a).__name__}")
    if type(a) is not np.ndarray:
        raise TypeError(f"{expected}, got a {type(a).__name__}")
    if a.dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise TypeError(f"{expected}, got dtype {a.dtype}")
    if not a.dtype.isnative:
        raise ValueError(f"{expected}, got dtype {a.dtype.str}")
    if not a.flags.c_contiguous:
        raise ValueError(f"{expected}, got one of shape {a.shape} with strides {a.strides}")
    if not a.flags.aligned:
        raise ValueError(f"{expected}, got one that is not aligned")
    raise ValueError(f"{expected}, got one that is read-only")


def non_negative(str name, value):
    """The number as a float; raises TypeError if it is none, ValueError if it is negative, infinite or NaN."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < INFINITY:
        raise ValueError(f"{name} must be a finite number and not negative, got {value!r}")
    return float(value)


cdef inline bint alike(cnp.ndarray a, int kind, int ndim, const cnp.npy_intp *shape) noexcept:
    """Whether an array has this type and shape."""
    cdef int i
    if cnp.PyArray_TYPE(a) != kind or cnp.PyArray_NDIM(a) != ndim:
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(a, i) != shape[i]:
            return False
    return True


cdef inline bint apart(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether two contiguous arrays share no memory."""
    cdef const char *first = <const char *>cnp.PyArray_DATA(a)
    cdef const char *second = <const char *>cnp.PyArray_DATA(b)
    return first + cnp.PyArray_NBYTES(a) <= second or second + cnp.PyArray_NBYTES(b) <= first


@cython.auto_pickle(False)  # the subclass does it
cdef class Optimizer:
    """What an optimiser of pyrnn.training is made of; the subclass checks the options and names the states."""
    cdef readonly Py_ssize_t _steps            # made so far
    cdef double rate
    cdef int rule
    cdef double decay, momentum, dampening, beta1, beta2, eps
    cdef bint nesterov, maximize, decoupled
    cdef bint with_first, with_second, with_third
    cdef cnp.ndarray first, second, third      # the states: sgd b; adam m, v, max v; rmsprop v, m, b
    cdef cnp.ndarray like                      # an array with the shape and dtype of the parameters; None before them
    cdef pyrnn_atomic busy                     # 1 while a step reads or writes the state

    def _set(self, str rule, tuple states, dict options):
        """Begin anew: the rule, which of its states there are, and its options, which have been checked."""
        beta1, beta2 = options.get("betas", (0, options.get("alpha", 0)))
        self.rule = RULES[rule]
        self.with_first, self.with_second, self.with_third = states
        self.rate, self.decay = options["lr"], options["weight_decay"]
        self.momentum, self.dampening = options.get("momentum", 0), options.get("dampening", 0)
        self.beta1, self.beta2, self.eps = beta1, beta2, options.get("eps", 0)
        self.nesterov, self.maximize = options.get("nesterov", False), options["maximize"]
        self.decoupled = options.get("decoupled_weight_decay", False)
        self._steps = 0
        self.first = self.second = self.third = self.like = None

    @property
    def lr(self):
        """The learning rate of steps that are not given one."""
        return self.rate

    @lr.setter
    def lr(self, value):
        self.rate = non_negative("lr", value)

    def _read(self):
        """The number of steps and copies of the three states, None where there is none."""
        self.acquire()
        try:
            return self._steps, tuple([None if a is None else a.copy() for a in (self.first, self.second, self.third)])
        finally:
            self.release()

    def _write(self, Py_ssize_t steps, tuple states):
        """Set what `_read` has returned: arrays that belong to nobody else, all of one shape and dtype."""
        cdef cnp.ndarray like = None
        for wanted, a in zip((self.with_first, self.with_second, self.with_third), states, strict=True):
            if (a is not None) != (wanted and steps > 0):
                raise ValueError(f"a compiled function needs the states of {steps} steps, got {states}")
            if a is not None:
                if not acceptable(a):
                    refuse("a state", a, True)
                if like is not None and not alike(a, cnp.PyArray_TYPE(like), cnp.PyArray_NDIM(like),
                                                  cnp.PyArray_DIMS(like)):
                    refuse_pair(like, a)
                like = a
        self.acquire()
        self.first, self.second, self.third = states
        self.like, self._steps = like, steps
        self.release()

    cdef int acquire(self) except -1:
        if pyrnn_exchange(&self.busy, 1):
            raise RuntimeError("the optimizer is being used by another thread: each thread needs one of its own")
        return 0

    cdef inline void release(self) noexcept nogil:
        pyrnn_exchange(&self.busy, 0)

    cdef int begin(self, cnp.ndarray p) except -1:
        """Make the state, of zeros, of the shape and dtype of the parameters."""
        cdef object zeros = lambda wanted: np.zeros(np.shape(p), p.dtype) if wanted else None
        first, second, third = zeros(self.with_first), zeros(self.with_second), zeros(self.with_third)
        # Where there is no state, one number behind this shape: a whole array would be memory for nothing.
        like = next((a for a in (first, second, third) if a is not None), None)
        self.like = np.broadcast_to(np.zeros((), p.dtype), np.shape(p)) if like is None else like
        self.first, self.second, self.third = first, second, third
        return 0

    def step(self, parameters, gradients, *, lr=None, clip_norm=None, error_if_nonfinite=False):
        """Update parameters in place.

        Parameters
        ----------
        parameters : ndarray, any shape
            Written: float32 or float64, C-contiguous, such as ``rnn.parameters``. All steps need the same shape and
            dtype.
        gradients : ndarray
            Of the same shape and dtype, C-contiguous; it must not overlap `parameters`. Not written, clipped or not.
        lr : float, optional
            The learning rate of this step, say from `pyrnn.training.schedules`; None for that of the optimizer.
        clip_norm : float, optional
            If the Euclidean norm of the gradients is above it, they count as multiplied by clip_norm / norm, as by
            `clip_gradients`.
        error_if_nonfinite : bool
            Whether to raise an error, and to change nothing, if a gradient is NaN or infinite. If not, they go into
            the state and the parameters as in the formulas: with `clip_norm`, NaN makes all of them NaN, and inf has
            the factor 0, so that itself becomes NaN.

        Returns
        -------
        norm : float or None
            With `clip_norm` the norm of the gradients before clipping, as of `gradient_norm`; else None.

        Raises
        ------
        ValueError
            If an array is read-only, not C-contiguous, or of a shape other than that of the first step, if a number is
            out of its range, or if `error_if_nonfinite` found such a gradient. Nothing has changed then.
        TypeError
            If an array is none of NumPy's in float32 or float64, both of the same, or a number is none.
        RuntimeError
            If another thread is using the optimizer.

        Notes
        -----
        Numbers below the smallest normal one count as zero. The norm is summed in float64 in a fixed order: all
        instruction sets give the same bits. Nothing is allocated after the first step.

        Examples
        --------
        >>> import numpy as np, pyrnn
        >>> p, optimizer = np.array([1.0, -2.0]), pyrnn.training.SGD(lr=0.5)
        >>> optimizer.step(p, np.array([3.0, 4.0]), clip_norm=1.0)
        5.0
        >>> p
        array([ 0.7, -2.4])
        """
        cdef double rate = self.rate if lr is None else non_negative("lr", lr)
        cdef double threshold = 0
        cdef bint must_be_finite = error_if_nonfinite is True
        if error_if_nonfinite is not True and error_if_nonfinite is not False:
            if not isinstance(error_if_nonfinite, np.bool_):
                raise TypeError(f"error_if_nonfinite must be True or False, got {error_if_nonfinite!r}")
            must_be_finite = error_if_nonfinite
        if clip_norm is not None:
            if isinstance(clip_norm, bool) or not isinstance(clip_norm, (float, int, np.floating, np.integer)) or (
                    not clip_norm > 0):
                raise ValueError(f"clip_norm must be a positive number, got {clip_norm!r}")
            threshold = clip_norm
        if not acceptable(parameters) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>parameters):
            refuse("parameters", parameters, True)
        if not acceptable(gradients):
            refuse("gradients", gradients, False)
        cdef cnp.ndarray p = parameters, g = gradients
        cdef int kind = cnp.PyArray_TYPE(p)
        if not alike(g, kind, cnp.PyArray_NDIM(p), cnp.PyArray_DIMS(p)):
            refuse_pair(p, g)
        if not apart(p, g):
            raise ValueError("gradients must not overlap parameters, but shares memory with it")
        before = None
        cdef Norm norm
        cdef Scale scale
        scale.power = scale.scale = 1
        self.acquire()
        try:
            if self.like is not None and not alike(p, cnp.PyArray_TYPE(self.like), cnp.PyArray_NDIM(self.like),
                                                   cnp.PyArray_DIMS(self.like)):
                raise ValueError(
                    f"parameters must have shape {np.shape(self.like)} and dtype {self.like.dtype}, as at the first "
                    f"step, got {np.shape(p)} and {p.dtype}"
                )
            if clip_norm is not None or must_be_finite:
                norm = measure(g)
                if must_be_finite and not isfinite(norm.root):
                    raise ValueError("gradients must be finite, got NaN or inf in it")
                if clip_norm is not None:
                    before = ldexp(norm.root, norm.exponent)
                    if not before <= threshold:
                        scale = scale_to(threshold, norm, LEAST_F32 if kind == cnp.NPY_FLOAT32 else LEAST_F64)
            if self.like is None:
                self.begin(p)
            if self.maximize:
                scale.power = -scale.power
            self._steps += 1
            if cnp.PyArray_SIZE(p) < WORTH:
                update(self, kind, cnp.PyArray_SIZE(p), data(g), scale, rate, data(p))
            else:
                with nogil:
                    update(self, kind, cnp.PyArray_SIZE(p), data(g), scale, rate, data(p))
            return before
        finally:
            self.release()


def refuse_pair(cnp.ndarray p, cnp.ndarray g):
    """Raise the error for gradients that are not like the parameters."""
    if p.dtype != g.dtype:
        raise TypeError(f"gradients must have dtype {p.dtype} to match parameters, got {g.dtype}")
    raise ValueError(f"gradients must have shape {np.shape(p)} to match parameters, got {np.shape(g)}")


cdef Norm measure(cnp.ndarray g) noexcept:
    cdef Norm norm
    cdef Py_ssize_t n = cnp.PyArray_SIZE(g)
    cdef bint single = cnp.PyArray_TYPE(g) == cnp.NPY_FLOAT32
    if n < WORTH:
        return flushed_norm(single, n, data(g))
    with nogil:
        norm = flushed_norm(single, n, data(g))
    return norm


cdef Norm flushed_norm(bint single, Py_ssize_t n, const void *g) noexcept nogil:
    cdef pyrnn_floating state = pyrnn_flush()  # no signal is looked for meanwhile
    cdef Norm norm = norm_of(n, <const float *>g) if single else norm_of(n, <const double *>g)
    pyrnn_restore(state)
    return norm


cdef void update(Optimizer self, int kind, Py_ssize_t n, const void *g, Scale s, double rate, void *p) noexcept nogil:
    cdef pyrnn_floating state = pyrnn_flush()
    if kind == cnp.NPY_FLOAT32:
        update_typed(self, n, <const float *>g, s, rate, <float *>p)
    else:
        update_typed(self, n, <const double *>g, s, rate, <double *>p)
    pyrnn_restore(state)


cdef void update_typed(Optimizer self, Py_ssize_t n, const real *g, Scale s, double rate, real *p) noexcept nogil:
    cdef real *first = <real *>data(self.first)
    cdef real *second = <real *>data(self.second)
    cdef real *third = <real *>data(self.third)
    cdef double decay = self.decay, shrink = 1, k = <double>self._steps
    if self.rule == SGD:
        sgd(n, g, <real>s.power, <real>s.scale, <real>decay, <real>self.momentum, <real>(1 - self.dampening),
            <real>rate, self._steps == 1, self.nesterov, first, p)
    elif self.rule == ADAM:
        if self.decoupled:
            decay, shrink = 0, 1 - rate * decay
        adam(n, g, <real>s.power, <real>s.scale, <real>decay, <real>shrink, <real>(1 - self.beta1), <real>self.beta2,
             <real>(1 - self.beta2), <real>sqrt(1 - pow(self.beta2, k)), <real>self.eps,
             <real>(rate / (1 - pow(self.beta1, k))), first, second, third, p)
    else:
        rmsprop(n, g, <real>s.power, <real>s.scale, <real>decay, <real>self.beta2, <real>(1 - self.beta2),
                <real>self.momentum, <real>self.eps, <real>rate, first, second, third, p)


# ---- L-BFGS ---------------------------------------------------------------------------------------------------------
cdef class Pairs:
    """The last steps s and the changes y of the gradient along them, from which L-BFGS makes a direction.

    The work is sums of products and multiples of vectors, on the thread of the caller and without BLAS.
    """
    cdef cnp.ndarray s, y                # [m, n], a ring
    cdef double[::1] rho, alpha          # 1 / sᵀy, and what the first loop leaves for the second
    cdef Py_ssize_t n, m, count, newest
    cdef double gamma                    # sᵀy / yᵀy of the newest

    def __cinit__(self, Py_ssize_t m, Py_ssize_t n):
        self.s, self.y = np.empty((m, n)), np.empty((m, n))
        self.rho, self.alpha = np.empty(m), np.empty(m)
        self.n, self.m = n, m
        self.clear()

    def clear(self):
        """Forget all pairs."""
        self.count, self.newest, self.gamma = 0, -1, 1

    def __len__(self):
        return self.count

    def add(self, cnp.ndarray s not None, cnp.ndarray y not None):
        """Take one pair in, unless its curvature sᵀy is not positive beyond rounding; and return whether it was."""
        need("s", s, cnp.NPY_FLOAT64, CONTIGUOUS, 1, self.n)
        need("y", y, cnp.NPY_FLOAT64, CONTIGUOUS, 1, self.n)
        cdef const double *step = <const double *>data(s)
        cdef const double *change = <const double *>data(y)
        cdef double curvature = dot(self.n, step, change, 1), squares = dot(self.n, change, change, 1)
        if not (curvature > 2.2e-16 * squares and curvature < INFINITY and 1 / curvature < INFINITY):
            return False
        self.newest = (self.newest + 1) % self.m
        self.count = min(self.count + 1, self.m)
        self.s[self.newest], self.y[self.newest] = s, y
        self.rho[self.newest], self.gamma = 1 / curvature, curvature / squares
        return True

    def direction(self, cnp.ndarray g not None):
        """-H g, a new array: H is the inverse of the Hessian as far as the pairs tell (the two-loop recursion)."""
        need("g", g, cnp.NPY_FLOAT64, CONTIGUOUS, 1, self.n)
        cdef cnp.ndarray result = np.negative(g)
        cdef double *d = <double *>data(result)
        cdef double *s = <double *>data(self.s)
        cdef double *y = <double *>data(self.y)
        cdef Py_ssize_t k, i, at, n = self.n
        with nogil:
            for k in range(self.count):  # from the newest to the oldest
                i = (self.newest - k + self.m) % self.m
                at = i * n
                self.alpha[i] = self.rho[i] * dot(n, s + at, d, 1)
                add_multiple(n, -self.alpha[i], y + at, d)
            for i in range(n):
                d[i] *= self.gamma
            for k in range(self.count - 1, -1, -1):
                i = (self.newest - k + self.m) % self.m
                at = i * n
                add_multiple(n, self.alpha[i] - self.rho[i] * dot(n, y + at, d, 1), s + at, d)
        return result


def inner(cnp.ndarray a not None, cnp.ndarray b not None):
    """aᵀb of two vectors of float64, in the same order on every instruction set."""
    need("a", a, cnp.NPY_FLOAT64, CONTIGUOUS, 1, a.shape[0])
    need("b", b, cnp.NPY_FLOAT64, CONTIGUOUS, 1, a.shape[0])
    return dot(a.shape[0], <const double *>data(a), <const double *>data(b), 1)
