"""A network of one layer: its arrays and its cell, as one vector for an optimiser, and how to start it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn import _checks
from pyrnn import cell as cells
from pyrnn.cell import PLAIN, Cell

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from pyrnn._types import AnyNetwork, Scheme, Seed, Shape

SCHEMES = ("orthogonal", "gaussian", "uniform", "glorot", "identity")
ARRAYS = ("U", "W", "b", "V", "c", "R")


class Network(NamedTuple):
    """A network h_t = tanh(U x_t + W h_{t-1} + b), o_t = V h_t + c: its arrays, and the form of its cell.

    Parameters
    ----------
    U : ndarray, shape (H, I)
        Input-to-hidden weights; I may be 0 where an output is fed back.
    W : ndarray, shape (H, H)
        Hidden-to-hidden weights. None, of a network with R, for one that remembers nothing but what is fed back
        (figure 10.4 of [1]_).
    b : ndarray, shape (H,), or None for no bias
    V : ndarray, shape (O, H), or None for a network without an output layer
        Reads h, in the ``current`` form phi(h).
    c : ndarray, shape (O,), or None for no output bias
    R : ndarray, shape (H, O), or None where nothing is fed back
        From the output of the step before to the hidden units: a_t = ... + R y_{t-1}. Of classes, column y is what
        class y adds.
    cell : Cell
        What a unit makes of its sum, and how it leaks.

    Notes
    -----
    A named tuple: ``network._replace(cell=cell)`` is another one. `ravel` and `unravel` let any SciPy optimiser drive
    it. Functions check shapes and dtypes when they are called.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.2.

    Examples
    --------
    >>> import pyrnn
    >>> network = pyrnn.initialize(2, 3, cell=pyrnn.Cell("relu", alpha=0.1), rng=0)
    >>> vector = network.ravel()
    >>> vector.shape
    (18,)
    >>> network.unravel(vector * 2).W.shape
    (3, 3)
    """

    U: np.ndarray
    W: np.ndarray | Any  # None in networks of figure 10.4
    b: np.ndarray | None = None
    V: np.ndarray | None = None
    c: np.ndarray | None = None
    R: np.ndarray | None = None
    cell: Cell = PLAIN

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays that are there, a tuple in the order of `ravel`."""
        return tuple(a for a in self[:-1] if a is not None)

    def ravel(self) -> np.ndarray:
        """All numbers as one new vector, in the order U, W, b, V, c, R, each row by row; what is None is left out.

        Returns
        -------
        vector : ndarray, shape (number of parameters,)
            float32 if all arrays promote to it, else float64.
        """
        given: dict[str, Any] = dict(zip(ARRAYS, self, strict=False))
        return np.concatenate([a.ravel() for a in _checks.as_real_arrays(*ARRAYS[1:], **given) if a is not None])

    def unravel(self, vector: ArrayLike) -> Network:
        """The inverse of `ravel`, with the shapes and the cell of this network.

        Parameters
        ----------
        vector : array_like, shape (number of parameters,)

        Returns
        -------
        Network
            Views of the vector where its dtype allows, so that changing one changes the other.

        Raises
        ------
        ValueError
            If the vector has another length.
        """
        (vector,) = _checks.as_real_arrays(vector=vector)
        shapes = [None if a is None else np.shape(a) for a in self[:-1]]
        ends = np.cumsum([0 if shape is None else math.prod(shape) for shape in shapes])
        _checks.check_shape("vector", vector, (int(ends[-1]),))
        parts = np.split(vector, ends[:-1])
        arrays: list[Any] = [None if s is None else part.reshape(s) for s, part in zip(shapes, parts, strict=True)]
        return Network._make([*arrays, self.cell])

    @np.errstate(all="ignore")
    def closed_loop(self) -> Network:
        """The network without R whose output is fed back, o_{t-1} = c + V h_{t-1}: W + R V for W, b + R c for b.

        Returns
        -------
        Network

        Raises
        ------
        ValueError
            If there is no R or no V.

        Examples
        --------
        >>> import pyrnn
        >>> network = pyrnn.initialize(0, 4, 2, feedback=True, rng=0)
        >>> pyrnn.forward(network.U[:0].T, *network.closed_loop()[:3]).shape
        (0, 4)
        """
        U, W, b, V, c, R, cell = self
        if R is None or V is None:
            raise ValueError(f"{'R' if R is None else 'V'} must be given to feed the output back, got None")
        fed = R @ V
        shift = None if c is None else R @ c
        return Network(
            U,
            fed if W is None else W + fed,
            b if shift is None else shift if b is None else b + shift,
            V,
            c,
            None,
            cell,
        )


# ---- What functions of a network check ------------------------------------------------------------------------------
def as_network(network: AnyNetwork) -> Network:
    """The argument if it is a Network, or the network of an RNN of one layer."""
    if isinstance(network, Network):
        cells.check(network.cell)
        return network
    if hasattr(type(network), "network"):  # an RNN, which is above this floor
        return network.network()
    advice = "; Network(*arrays) makes one" if isinstance(network, tuple | list) else ""
    raise TypeError(f"network must be a pyrnn.Network or a pyrnn.RNN, got {type(network).__name__}{advice}")


def conform(network: AnyNetwork, *optional: str, **others: ArrayLike | None) -> tuple[Any, ...]:
    """A network without feedback and other arrays, all of one dtype; only `optional` ones of the others may be None."""
    network = as_network(network)
    if network.R is not None:
        raise ValueError("network must be without R here: closed_loop() is the network whose output is fed back")
    if network.V is None and network.c is not None:
        raise ValueError("network must have V where it has c, got V None")
    given: dict[str, Any] = dict(zip(ARRAYS[:5], network, strict=False))
    U, W, b, V, c, *arrays = _checks.as_real_arrays("b", "V", "c", *optional, **given, **others)
    return Network(U, W, b, V, c, None, network.cell), *arrays


def check_input(network: Network, x: np.ndarray, h0: np.ndarray | None = None) -> Shape:
    """Check the shapes of a network and its input, arrays of one dtype; returns that of the outputs."""
    U, V = network.U, network.V
    _checks.check_sequence("x", "I", x)
    _checks.check_columns("U", "H", U, x.shape[-1], "x", x)
    check_shapes(network)
    _checks.check_shape("h0", h0, (*x.shape[1:-1], len(U)), "x", x, "U", U)
    return *x.shape[:-1], len(U) if V is None else len(V)


def check_shapes(network: Network) -> None:
    """Check that the arrays of a network fit each other."""
    U, W, b, V, c, R, cell = network
    if U.ndim != 2:
        _checks.shape_error("U", "(H, I)", U)
    H = len(U)
    _checks.check_shape("W", W, (H, H), "U", U)
    _checks.check_shape("b", b, (H,), "U", U)
    if V is not None:
        _checks.check_columns("V", "O", V, H, "U", U)
        _checks.check_shape("c", c, (len(V),), "V", V)
        _checks.check_shape("R", R, (H, len(V)), "U", U, "V", V)
    cell.check_units(H)


# ---- How to start it ------------------------------------------------------------------------------------------------
def initialize(
    input_size: int,
    hidden_size: int,
    output_size: int | None = None,
    *,
    scheme: Scheme = "orthogonal",
    gain: float = 1.0,
    feedback: bool = False,
    cell: Cell = PLAIN,
    dtype: DTypeLike = np.float64,
    rng: Seed = None,
) -> Network:
    """A network with random weights to start training from.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H. With feedback I may be 0.
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
    feedback : bool
        Whether the output is fed back: U and R are the columns of what is U without it, with I + O inputs.
    cell : Cell
        Of the network; the weights do not depend on it.
    dtype : {float64, float32}
    rng : int, numpy.random.Generator or None
        As in `numpy.random.default_rng`.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If a size is below 1, the gain is not finite, the scheme is not one of these, or an output that is not there is
        to be fed back.
    TypeError
        If a size is not an integer, the dtype not float32 or float64, or the cell no Cell.

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
    cells.check(cell)
    _checks.check_flag("feedback", feedback)
    H = _checks.positive_integer("hidden_size", hidden_size)
    if not feedback:
        I = _checks.positive_integer("input_size", input_size)
    else:
        I = _checks.integer_within("input_size", input_size, 0)
        if output_size is None:
            raise ValueError("output_size must be given with feedback, got None")
    O = None if output_size is None else _checks.positive_integer("output_size", output_size)
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, got {scheme!r}")
    if not _checks.is_finite_number(gain):
        raise ValueError(f"gain must be a finite real number, got {gain!r}")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    rng = np.random.default_rng(rng)

    draw: Callable[[int, int], np.ndarray]
    biases: Callable[[int], np.ndarray] = np.zeros
    if scheme == "uniform":
        draw = lambda rows, columns: rng.uniform(-1, 1, (rows, columns)) * (gain / np.sqrt(H))
        biases = lambda n: draw(1, n)[0]
    elif scheme == "glorot":
        draw = lambda rows, columns: rng.uniform(-1, 1, (rows, columns)) * (gain * np.sqrt(6 / (rows + columns)))
    else:
        draw = lambda rows, columns: rng.standard_normal((rows, columns)) / np.sqrt(columns)
    U: Any = draw(H, I + (O or 0 if feedback else 0))
    draw_W: dict[str, Callable[[], np.ndarray]] = {
        "orthogonal": lambda: gain * _orthogonal(H, rng),
        "gaussian": lambda: gain * draw(H, H),
        "identity": lambda: gain * np.eye(H),
    }
    W = draw_W[scheme]() if scheme in draw_W else draw(H, H)
    b = biases(H)
    V, c = (None, None) if O is None else (draw(O, H), biases(O))
    U, R = (U[:, :I].copy(), U[:, I:].copy()) if feedback else (U, None)
    arrays = _checks.map_given(lambda a: a.astype(dtype, copy=False), U, W, b, V, c, R)
    return Network._make([*arrays, cell])


def _orthogonal(n: int, rng: np.random.Generator) -> np.ndarray:
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    signed: np.ndarray = Q * np.sign(np.diag(R))  # without the signs Q would depend on how LAPACK reflects
    return signed
