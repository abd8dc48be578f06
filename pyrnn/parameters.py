"""The parameters of a network: as arrays, as one vector for an optimiser, and how to start them."""

import math
from typing import NamedTuple

import numpy as np

from pyrnn import _checks

SCHEMES = ("orthogonal", "gaussian", "uniform", "glorot", "identity")


class Parameters(NamedTuple):
    """The arrays of a network h_t = tanh(U x_t + W h_{t-1} + b), o_t = V h_t + c.

    Parameters
    ----------
    U : ndarray, shape (H, I)
    W : ndarray, shape (H, H)
    b : ndarray, shape (H,), or None for no bias
    V : ndarray, shape (O, H), or None for a network without an output layer
    c : ndarray, shape (O,), or None for no output bias

    Notes
    -----
    A tuple: ``U, W, b, V, c = params``. `ravel` and `unravel` let any SciPy optimiser drive it.

    Examples
    --------
    >>> import pyrnn
    >>> params = pyrnn.initialize(2, 3, rng=0)
    >>> vector = params.ravel()
    >>> vector.shape
    (18,)
    >>> params.unravel(vector * 2).W.shape
    (3, 3)
    """

    U: np.ndarray
    W: np.ndarray
    b: np.ndarray | None = None
    V: np.ndarray | None = None
    c: np.ndarray | None = None

    def ravel(self):
        """All numbers as one new vector, in the order U, W, b, V, c, each row by row; what is None is left out.

        Returns
        -------
        vector : ndarray, shape (number of parameters,)
            float32 if all arrays promote to it, else float64.
        """
        return raveled(self, "b", "V", "c")

    def unravel(self, vector):
        """The inverse of `ravel`, with the shapes of this object.

        Parameters
        ----------
        vector : array_like, shape (number of parameters,)

        Returns
        -------
        Parameters
            Views of the vector where its dtype allows, so that changing one changes the other.

        Raises
        ------
        ValueError
            If the vector has another length.
        """
        return unraveled(self, vector)


def raveled(params, *optional):
    """The numbers of a named tuple of arrays as one vector, without those that are None."""
    arrays = [a for a in _checks.as_real_arrays(*optional, **params._asdict()) if a is not None]
    return np.concatenate([a.ravel() for a in arrays])


def unraveled(params, vector):
    """The inverse: a named tuple of the same type and shapes."""
    (vector,) = _checks.as_real_arrays(vector=vector)
    shapes = [None if a is None else np.shape(a) for a in params]
    ends = np.cumsum([0 if shape is None else math.prod(shape) for shape in shapes])
    _checks.check_shape("vector", vector, (int(ends[-1]),))
    parts = np.split(vector, ends[:-1])
    return type(params)(*(None if s is None else p.reshape(s) for p, s in zip(parts, shapes, strict=True)))


def initialize(input_size, hidden_size, output_size=None, *, scheme="orthogonal", gain=1.0, dtype=np.float64, rng=None):
    """Random parameters to start training from.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    output_size : int, optional
        O; None for a network without an output layer.
    scheme : {"orthogonal", "gaussian", "uniform", "glorot", "identity"}
        How W is drawn (and, where said, the rest):

        - orthogonal: uniform among orthogonal matrices [1]_, times gain; every Jacobian at h = 0 keeps lengths;
        - gaussian: normal with standard deviation gain/sqrt(H) [2]_, the random network of neuroscience, chaotic
          for gains above 1;
        - uniform: all five arrays uniform within gain/sqrt(H), which with gain 1 is what PyTorch does;
        - glorot: uniform within gain·sqrt(6/(rows + columns)) [3]_, also for U and V;
        - identity: gain times the identity [4]_.

        Where the scheme does not say, U and V are normal with standard deviations 1/sqrt(I) and 1/sqrt(H), b and c
        zero.
    gain : float
        Scale of W (of all in ``uniform`` and ``glorot``).
    dtype : {float64, float32}
    rng : int, numpy.random.Generator or None
        As in `numpy.random.default_rng`.

    Returns
    -------
    Parameters

    Raises
    ------
    ValueError
        If a size is below 1, the gain is not finite or the scheme is not one of these.
    TypeError
        If a size is not an integer or the dtype not float32 or float64.

    References
    ----------
    .. [1] F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 54
       (2007) 592-604.
    .. [2] H. Sompolinsky, A. Crisanti, H. J. Sommers, "Chaos in random neural networks", Phys. Rev. Lett. 61 (1988)
       259-262.
    .. [3] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
       2010.
    .. [4] Q. V. Le, N. Jaitly, G. E. Hinton, "A simple way to initialize recurrent networks of rectified linear
       units", arXiv:1504.00941 (2015).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> W = pyrnn.initialize(2, 4, rng=0).W
    >>> np.allclose(W @ W.T, np.eye(4))
    True
    """
    H, I = _checks.positive_integer("hidden_size", hidden_size), _checks.positive_integer("input_size", input_size)
    O = None if output_size is None else _checks.positive_integer("output_size", output_size)
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, got {scheme!r}")
    if not _checks.is_finite_number(gain):
        raise ValueError(f"gain must be a finite real number, got {gain!r}")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    rng = np.random.default_rng(rng)

    if scheme == "uniform":
        draw = lambda rows, columns: rng.uniform(-1, 1, (rows, columns)) * (gain / np.sqrt(H))
        biases = lambda n: draw(1, n)[0]
    elif scheme == "glorot":
        draw = lambda rows, columns: rng.uniform(-1, 1, (rows, columns)) * (gain * np.sqrt(6 / (rows + columns)))
        biases = np.zeros
    else:
        draw = lambda rows, columns: rng.standard_normal((rows, columns)) / np.sqrt(columns)
        biases = np.zeros
    U = draw(H, I)
    W = {
        "orthogonal": lambda: gain * _orthogonal(H, rng),
        "gaussian": lambda: gain * draw(H, H),
        "identity": lambda: gain * np.eye(H),
    }.get(scheme, lambda: draw(H, H))()
    b = biases(H)
    V, c = (None, None) if O is None else (draw(O, H), biases(O))
    return Parameters(*(None if a is None else a.astype(dtype, copy=False) for a in (U, W, b, V, c)))


def _orthogonal(n, rng):
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    return Q * np.sign(np.diag(R))  # without the signs Q would depend on how LAPACK reflects
