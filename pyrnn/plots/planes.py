"""The plane of two principal components, which states are drawn in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def checked_components(components: Iterable[int], H: int) -> tuple[int, int]:
    try:
        first, second = (int(number) for number in components)
    except (TypeError, ValueError):
        raise ValueError(f"components must be two integers, got {components!r}") from None
    if not (0 <= first < H and 0 <= second < H):
        raise ValueError(f"components must be from 0 to {H - 1}, got {components!r}")
    return first, second


def principal_plane(states: np.ndarray, components: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of states [n, H], two principal axes as columns, and their shares of the variance."""
    center = states.mean(axis=0) if len(states) else np.zeros(states.shape[1])
    variances, axes = np.linalg.eigh((states - center).T @ (states - center))
    order = np.argsort(variances)[::-1][components]
    return center, axes[:, order], variances[order] / max(variances.sum(), np.finfo(float).tiny)


def label_plane(ax: Any, components: list[int], shares: np.ndarray) -> None:
    """Name the axes of the plane."""
    for set_label, number, share in zip((ax.set_xlabel, ax.set_ylabel), components, shares, strict=True):
        set_label(f"component {number + 1} ({share:.0%} of the variance)")
