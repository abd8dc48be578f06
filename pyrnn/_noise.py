"""Noise for the functions that add it: their checks, and the array of the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pyrnn import _calls, _checks, _engines
from pyrnn._core import memory
from pyrnn._core import noise as compiled
from pyrnn._core.call import Call

if TYPE_CHECKING:
    from pyrnn._types import MaybeArray, Shape
    from pyrnn.cell import Cell

STREAMS = {"state": 0, "input": 1}  # the uses of noise, by their numbers in a counter (csrc/noise.h)
LAST = 2**32 - 1  # of the steps and of the sequences that a counter has


def check_seed(seed: Any) -> int:
    return _checks.integer_within("seed", seed, 0, 2**64 - 1)


def stream_number(stream: Any) -> int:
    """The number of a stream, given by name or number."""
    if isinstance(stream, str):
        if stream not in STREAMS:
            raise ValueError(f"stream must be {', '.join(map(repr, STREAMS))} or an integer, got {stream!r}")
        return STREAMS[stream]
    return _checks.integer_within("stream", stream, 0, 2**31 - 1)


def check_sigma(name: str, sigma: Any, H: int) -> np.ndarray:
    """A standard deviation, or one of each unit."""
    (given,) = _checks.as_real_arrays(**{name: sigma})
    if given.ndim != 0:
        _checks.check_shape(name, given, (H,))
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise ValueError(f"{name} must be finite numbers from 0, got {sigma!r}")
    return given


def per_unit(sigma: np.ndarray, H: int, dtype: np.dtype) -> np.ndarray | None:
    """What the kernel reads: the standard deviation of each unit, contiguous; None for 1."""
    if sigma.ndim == 0:
        return None if sigma == 1 else np.full(H, sigma, dtype)
    return np.ascontiguousarray(sigma, dtype)


def array(
    seed: int,
    shape: Shape,
    dtype: np.dtype,
    sigma: np.ndarray,
    stream: int = 0,
    step: int = 0,
    sequence: int = 0,
    n_threads: int | None = None,
    out: MaybeArray = None,
) -> np.ndarray:
    """The noise of (T, B, H) or (T, H), from a step and a sequence on; out: a contiguous array of (T, B, H)."""
    T, H = shape[0], shape[-1]
    if out is None:
        out = memory.empty((T, shape[1] if len(shape) == 3 else 1, H), dtype)
    compiled.noise(out, seed, stream, step, sequence, per_unit(sigma, H, dtype), n_threads)
    return out.reshape(shape)


def forward(
    x: np.ndarray,
    U: np.ndarray,
    W: np.ndarray,
    b: MaybeArray,
    h0: MaybeArray,
    cell: Cell,
    drive: MaybeArray,
    rates: MaybeArray,
    sigma: np.ndarray,
    seed: int,
    *,
    lengths: MaybeArray,
    mask: MaybeArray,
    reverse: bool,
    n_threads: int | None,
    out: MaybeArray = None,
    sequence: int = 0,
) -> np.ndarray:
    """Run `pyrnn.forward` with noise added to the drive, without making an array of the noise.

    sigma: of the drive; sequence: the number of the first one.
    """
    module = _engines.choose(n_threads)
    given = (x, U, W, b, h0, cell, drive, lengths, mask, reverse, rates, out, n_threads)
    call = Call.forward(*given) or _calls.conform_forward(*given)
    call.add_noise(seed, STREAMS["state"], 0, sequence, per_unit(sigma, len(U), x.dtype))
    module.forward(call)
    return call.h if call.give is None else call.give(call.h)
