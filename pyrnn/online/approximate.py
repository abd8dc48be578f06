"""Learning online at the cost of a step of the network: gradients with a part of the influence, or a random one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn._core import online
from pyrnn.online.learner import Learner, OnlineGradients, Step, quiet

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork, Seed


class _Traced(Learner[OnlineGradients]):
    """A learner that keeps of the influence one number for each parameter: on its own unit alone."""

    _recurrent = True

    def _begin(self) -> None:
        self._trace = np.zeros((self._rows, self.hidden_size, self._columns), self.dtype)

    def _advance(self, step: Step, dh: np.ndarray | None) -> None:
        online.advance_trace(self._trace, step, self._network.W, self._network.cell, self._recurrent)

    def _collect(self, dh: np.ndarray) -> OnlineGradients:
        self._settle()
        return self._named(online.contract_trace(self._trace, dh))


class SnAp1(_Traced):
    """RTRL's sparse one-step approximation: each parameter's influence on its own unit alone, for H (H + I) a step.

    Parameters
    ----------
    network, h0, batch
        As in `RTRL`.

    Attributes
    ----------
    network, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    RTRL : the exact gradient.
    RFLO : also without the unit's own weight.

    Notes
    -----
    Keeps of P_t[i, j] the entry of unit i, where the immediate influence is: e_t[i, j] = J_t[i, i] e_{t-1}[i, j] +
    (dh_t/da_t)_i z_t[j], gradient dh_i e[i, j] [1]_. Exact if W is diagonal; else biased: what a unit makes of others
    and gets back is not seen. The gradient with respect to h0 is not computed.

    References
    ----------
    .. [1] J. Menick, E. Elsen, U. Evci, S. Osindero, K. Simonyan, A. Graves, "A practical sparse approximation for real
       time recurrent learning", arXiv:2006.07232 (2020).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.Network(np.ones((3, 1)), np.diag([0.9, 0.5, -0.2]))
    >>> learner, exact = pyrnn.online.SnAp1(network), pyrnn.online.RTRL(network)
    >>> all(np.allclose(learner.step(x, [1, 1, 1]).U, exact.step(x, [1, 1, 1]).U) for x in np.ones((9, 1)))
    True
    """


class RFLO(_Traced):
    """Random-feedback local online learning: traces that fade with the leak alone, for H (H + I) a step.

    Parameters
    ----------
    network, h0, batch
        As in `RTRL`. Without a leak nothing is remembered: the gradient through one step.

    Attributes
    ----------
    network, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    SnAp1 : also with the unit's own weight.

    Notes
    -----
    e_t[i, j] = (1 - alpha_i) e_{t-1}[i, j] + (dh_t/da_t)_i z_t[j], gradient dh_i e[i, j] [1]_, here also in the current
    form. Exact if W is 0; else biased by all that goes through W. The random feedback is the caller's: dh = B error
    instead of Vᵀ error, with a B that is drawn once. The gradient with respect to h0 is not computed.

    References
    ----------
    .. [1] J. M. Murray, "Local online learning in recurrent networks with random feedback", eLife 8 (2019) e43299.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> network = pyrnn.Network(np.ones((1, 1)), np.zeros((1, 1)), cell=pyrnn.Cell("identity", alpha=0.5))
    >>> learner = pyrnn.online.RFLO(network)
    >>> [float(learner.step([x], [1.0]).U[0, 0]) for x in (1, 0, 0)]
    [0.5, 0.25, 0.125]
    """

    _recurrent = False


class UORO(Learner[OnlineGradients]):
    """Unbiased online recurrent optimisation: a random influence of rank one with the right mean, for H (H + I) a step.

    Parameters
    ----------
    network, h0, batch
        As in `RTRL`.
    rng : int, numpy.random.Generator or None
        As in `numpy.random.default_rng`. `reset` does not set it back; a copy of a learner draws what the learner does.

    Attributes
    ----------
    network, h, input_size, hidden_size, batch, dtype
        As in `RTRL`.

    Raises
    ------
    ValueError, TypeError
        As in `RTRL`.

    See Also
    --------
    RTRL : the expectation of these gradients.

    Notes
    -----
    With random signs s, v <- rho_0 J v + rho_1 s and theta <- theta / rho_0 + (s . immediate influence) / rho_1; the
    gradient is (dh . v) theta, and the mean of v thetaᵀ is the influence [1]_, as long as parameters do not change. The
    factors rho are those of the paper, which make the variance least. It still grows with H: a single gradient is
    mostly noise (docs/online-learning.md has figures). The gradient with respect to h0 is not computed.

    References
    ----------
    .. [1] C. Tallec, Y. Ollivier, "Unbiased online recurrent optimization", arXiv:1702.05043 (2017).

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> learner = pyrnn.online.UORO(pyrnn.initialize(input_size=1, hidden_size=3, rng=0), rng=0)
    >>> learner.step([0.5], dh=lambda h: h).W.shape
    (3, 3)
    """

    def __init__(
        self,
        network: AnyNetwork,
        h0: ArrayLike | None = None,
        *,
        batch: int | None = None,
        rng: Seed = None,
    ) -> None:
        self._rng = np.random.default_rng(rng)
        super().__init__(network, h0, batch=batch)

    def _begin(self) -> None:
        B, H = self._rows, self.hidden_size
        self._v, self._theta = np.zeros((B, H), self.dtype), np.zeros((B, H, self._columns), self.dtype)

    def _advance(self, step: Step, dh: np.ndarray | None) -> None:
        signs = (2 * self._rng.integers(0, 2, self._v.shape, np.int8) - 1).astype(self.dtype)
        online.advance_rank_one(self._v, self._theta, signs, step, self._network.W, self._network.cell)

    @quiet
    def _collect(self, dh: np.ndarray) -> OnlineGradients:
        self._settle()
        along = np.einsum("bi,bi->b", dh, self._v)
        factors = np.ascontiguousarray(np.broadcast_to(along[:, np.newaxis], dh.shape))
        return self._named(online.contract_trace(self._theta, factors))
