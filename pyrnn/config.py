"""What this installation computes with: `show_config`, and `using` another engine or number of threads."""

from __future__ import annotations

import operator
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import scipy

import pyrnn
from pyrnn import _engines
from pyrnn._core import table, team

if TYPE_CHECKING:
    from pyrnn._types import Engine

__all__ = ["show_config", "using"]


@contextmanager
def using(*, engine: Engine | None = None, n_threads: int | None = None) -> Iterator[None]:
    """A context in which every function of this package computes with this engine, on so many threads.

    Parameters
    ----------
    engine : {"auto", "blas", "fused"}, optional
        ``fused``: pyrnn's own kernels, where each number is one chain of multiply-adds, so that its bits depend neither
        on the rest of the batch nor on the processor. ``blas``: SciPy's BLAS. ``auto``, the engine outside of such a
        context, takes the faster one: `show_config` says which. None for the one that was used before.
    n_threads : int, optional
        The most threads that a call may use, where it is not given ``n_threads`` itself. It takes the place of
        PYRNN_NUM_THREADS. None for the number that was used before. Results do not depend on it. BLAS has threads of
        its own, which are not counted here.

    Returns
    -------
    context manager

    Raises
    ------
    ValueError, TypeError
        For another engine, or for what is not a positive integer.

    See Also
    --------
    show_config : the engine that ``auto`` stands for on this processor.

    Notes
    -----
    The context is that of `contextvars`: of this thread, or of this task of asyncio, and not of others. `Stepper`,
    online learning and what analyses networks have one engine each and do not depend on it.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> with pyrnn.config.using(engine="blas"):
    ...     h = pyrnn.forward(np.ones((3, 1)), U=[[1.0]], W=[[0.0]])
    >>> bool(np.allclose(h, pyrnn.forward(np.ones((3, 1)), U=[[1.0]], W=[[0.0]])))
    True
    >>> with pyrnn.config.using(n_threads=1):
    ...     _ = pyrnn.RNN(1, 8, rng=0)(np.ones((3, 2, 1)))
    """
    if engine is not None and (not isinstance(engine, str) or engine not in ("auto", *_engines.ENGINES)):
        raise ValueError(f"engine must be one of 'auto', 'blas', 'fused', got {engine!r}")
    _engines.check_threads(n_threads)
    engine_before = _engines.chosen.set(_engines.chosen.get() if engine is None else engine)
    number = team.chosen.get() if n_threads is None else operator.index(n_threads)
    threads_before = team.chosen.set(number)
    try:
        yield
    finally:
        team.chosen.reset(threads_before)
        _engines.chosen.reset(engine_before)


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, dict[str, Any]]: ...
def show_config(mode: str = "stdout") -> dict[str, dict[str, Any]] | None:
    """Print or return what pyrnn computes with here: instruction set, engine rule, threads, BLAS libraries, versions.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Print (the default), or return the same as nested dictionaries.

    Returns
    -------
    dict or None

    Raises
    ------
    ValueError
        For another mode.

    See Also
    --------
    numpy.show_config, scipy.show_config

    Examples
    --------
    >>> import pyrnn
    >>> pyrnn.show_config(mode="dicts")["engine"]["rule"]
    'fused on avx512, avx2 and neon; blas on base'
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config: dict[str, dict[str, Any]] = {
        "versions": {
            "pyrnn": pyrnn.__version__,
            "compiler": table.compiler(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "instructions": {
            "selected": table.selected(),
            "available": list(table.available()),
            "PYRNN_CPU": os.environ.get("PYRNN_CPU"),
        },
        "engine": {"auto": _engines.automatic(), "rule": _engines.RULE},
        "threads": {
            "default": team.default_threads(),
            "processors": team.processors(),
            "PYRNN_NUM_THREADS": os.environ.get("PYRNN_NUM_THREADS"),
        },
        "blas": {
            "scipy (the one that pyrnn calls)": _blas(scipy.show_config("dicts")),
            "numpy": _blas(np.show_config("dicts")),
        },
    }
    if mode == "dicts":
        return config
    for title, entries in config.items():
        print(f"{title}:")
        for name, value in entries.items():
            text = ", ".join(value) if isinstance(value, list) else "not set" if value is None else value
            print(f"  {name}: {text}")
    return None


def _blas(config: Mapping[str, Any]) -> str:
    """The name and version of the library that a package was built with, as one line."""
    found = config.get("Build Dependencies", {}).get("blas", {})
    return " ".join(str(found[key]) for key in ("name", "version") if key in found) or "unknown"
