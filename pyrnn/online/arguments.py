"""What a stepper and a learner make of their arguments: arrays that they own, in their dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrnn import _checks
from pyrnn import network as networks
from pyrnn.network import Network

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from pyrnn._types import AnyNetwork


def owned(network: AnyNetwork, h0: ArrayLike | None, batch: int | None) -> tuple[Network, np.ndarray, int | None]:
    """Checked copies of a network and of h0 [batch, H], all of one dtype; zeros for no h0, one row for no batch."""
    if batch is not None:
        batch = _checks.integer_within("batch", batch, 0)
    own, first = networks.conform(network, "h0", h0=h0)
    networks.check_shapes(own)
    H, dtype = len(own.U), own.U.dtype
    _checks.check_shape("h0", first, (H,) if batch is None else (batch, H), "U", own.U)
    rows = (1 if batch is None else batch, H)
    first = np.zeros(rows, dtype) if first is None else np.array(first, order="C").reshape(rows)
    return copied(own, dtype), first, batch


def copied(network: Network, dtype: np.dtype) -> Network:
    """The network with copies of its arrays, in this dtype."""
    arrays = _checks.map_given(lambda a: np.array(a, dtype, order="C"), *network[:-1])
    return Network._make([*arrays, network.cell])


def of_dtype(name: str, a: ArrayLike, dtype: np.dtype, whose: str) -> np.ndarray:
    """The argument in this dtype, which must be able to hold its numbers, with contiguous rows."""
    (array,) = _checks.as_real_arrays(**{name: a})
    check_held(name, a, array.dtype, dtype, whose)
    return array if array.dtype == dtype else array.astype(dtype, order="C")


def check_held(name: str, a: object, found: np.dtype, dtype: np.dtype, whose: str) -> None:
    """Raise an error if numbers of the dtype found would lose digits in this one."""
    if found.itemsize > dtype.itemsize:
        raise TypeError(f"{name} must be of a dtype that {dtype}, {whose}, can hold, got {np.asarray(a).dtype}")
