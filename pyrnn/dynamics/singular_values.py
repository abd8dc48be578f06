"""The singular values of products of Jacobians, over all lags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn._core import chains
from pyrnn.dynamics import slopes

if TYPE_CHECKING:
    from pyrnn.trajectory import Trajectory


def log_singular_values(
    run: Trajectory, start: int = 0, stop: int | None = None, *, preactivations: bool = False
) -> np.ndarray:
    """Logarithms of the singular values of ∂h_last/∂h_t for every lag: how far gradients and changes carry.

    Parameters
    ----------
    run, start, stop, preactivations
        As in `jacobian_product`.

    Returns
    -------
    logs : ndarray, shape (stop - start + 1, B, H) or (stop - start + 1, H)
        float64. ``logs[n]`` is of the last n steps, ``jacobian_product(run, stop - n, stop)``, from the
        largest to the smallest; ``logs[0]`` of the identity. ``logs[..., 0]`` is the log of the spectral norm,
        ``logs[..., 0] - logs[..., -1]`` that of the condition number.

    Raises
    ------
    ValueError, TypeError
        As in `jacobian_product`.

    See Also
    --------
    jacobian_product : the product itself.
    gradient_flow : norms alone, which take less time.

    Notes
    -----
    The book's argument for W alone, equations 10.38 and 10.39 of [1]_, for the products themselves. A singular value
    decomposition of the product would only know those within 1/eps of the largest. Here the factors stay factors [2]_:
    the transposed product is kept as Q S with orthonormal columns of Q and orthogonal rows of S, each of these with an
    exponent of its own. A step makes Q R of Jᵀ Q by Gram-Schmidt, and the rows of R S orthogonal again by Jacobi's
    rotations [3]_, in a form that no difference of scales makes underflow. The error of a singular value, relative to
    itself, is about eps times the largest condition number of one *single* Jacobian and the number of steps. What a
    step shrinks to within rounding of 0 is 0, and its logarithm -inf.

    Everything is computed in float64. Time grows as (stop - start) B H³, about a hundred times as long as for
    `jacobian_product`.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, "Deep Learning", MIT Press, 2016, section 10.7.
    .. [2] D. E. Stewart, "A new algorithm for the SVD of a long product of matrices and the stability of products",
       Electronic Transactions on Numerical Analysis 5 (1997) 29-47.
    .. [3] J. Demmel, K. Veselić, "Jacobi's method is more accurate than QR", SIAM J. Matrix Anal. Appl. 13 (1992).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network, x = pyrnn.Network(np.ones((2, 1)), np.array([[0.0, 2.0], [0.5, 0.0]])), np.zeros((1000, 1))
    >>> logs = pyrnn.dynamics.log_singular_values(pyrnn.simulate(network, x))
    >>> print(np.exp(logs[:3]).round(12))
    [[1.  1. ]
     [2.  0.5]
     [1.  1. ]]
    >>> network = network._replace(W=np.array([[2.0, 0.0], [0.0, 0.5]]))
    >>> logs = pyrnn.dynamics.log_singular_values(pyrnn.simulate(network, x))
    >>> print((logs[-1] / np.log(2)).round(9))
    [ 1000. -1000.]
    """
    steps = slopes.prepare(run, start, stop, preactivations, np.float64)
    n, B, H = steps.slopes.shape
    logs = np.empty((n + 1, B, H))
    chains.log_singular_values(*steps, logs)
    return logs if run.h.ndim == 3 else logs[:, 0]
