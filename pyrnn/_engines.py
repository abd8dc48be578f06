"""The choice of an engine: the one place where it is made."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import numpy as np

from pyrnn import profiling
from pyrnn._core import engine_blas, engine_fused, table

if TYPE_CHECKING:
    from pyrnn._types import Compiled, CompiledBlas

ENGINES = {"blas": engine_blas, "fused": engine_fused}
BOOLEANS = (bool, np.bool_)
RULE = "fused on avx512, avx2 and neon; blas on base"


def automatic() -> Literal["blas", "fused"]:
    """The engine that ``auto`` stands for: see RULE.

    ``fused`` was faster at every size measured wherever there are vector kernels, H 32 to 512 and B 1 to 128
    (CHANGELOG.md has the figures). In plain C every multiply-add is a library call, and ``blas`` wins.
    ``python -P benchmarks/run.py engines`` measures both engines on every instruction set.
    """
    return "blas" if table.selected() == "base" else "fused"


@overload
def choose(engine: Literal["blas"], n_threads: int | None = None) -> CompiledBlas: ...
@overload
def choose(engine: str = "auto", n_threads: int | None = None) -> Compiled: ...
def choose(engine: str = "auto", n_threads: int | None = None) -> Compiled:
    """The compiled module that computes a call, after a check of the two arguments that say how.

    The first thing that a public function does: a profile measures it from here on.
    """
    if n_threads is not None and not (type(n_threads) is int and n_threads >= 1):
        _check_threads(n_threads)
    compiled = ENGINES.get(automatic() if engine == "auto" else engine) if isinstance(engine, str) else None
    if compiled is None:
        raise ValueError(f"engine must be one of 'auto', 'blas', 'fused', got {engine!r}")
    return compiled if profiling.running is None else profiling.Measured(compiled)


def _check_threads(n_threads: Any) -> None:
    try:
        fits = operator.index(cast("int", None if isinstance(n_threads, BOOLEANS) else n_threads)) >= 1
    except TypeError:
        raise TypeError(f"n_threads must be a positive integer or None, got {n_threads!r}") from None
    if not fits:
        raise ValueError(f"n_threads must be a positive integer or None, got {n_threads!r}")
