"""The choice of an engine: the one place where it is made."""

from __future__ import annotations

import operator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from pyrnn import profiling
from pyrnn._core import engine_blas, engine_fused, table

if TYPE_CHECKING:
    from pyrnn._types import Compiled, Engine

AnyCompiled = TypeVar("AnyCompiled")
ENGINES: dict[str, Compiled] = {"blas": engine_blas, "fused": engine_fused}
chosen: ContextVar[Engine] = ContextVar("pyrnn engine", default="auto")  # set by pyrnn.config.using
BOOLEANS = (bool, np.bool_)
RULE = "fused on avx512, avx2 and neon; blas on base"


def automatic() -> Literal["blas", "fused"]:
    """The engine that ``auto`` stands for: see RULE.

    ``fused`` was faster at every size measured wherever there are vector kernels, H 32 to 512 and B 1 to 128
    (CHANGELOG.md has the figures). In plain C every multiply-add is a library call, and ``blas`` wins.
    ``python -P benchmarks/run.py engines`` measures both engines on every instruction set.
    """
    return "blas" if table.selected() == "base" else "fused"


def choose(n_threads: int | None = None) -> Compiled:
    """The compiled module that computes a call, after a check of how many threads it may use.

    The first thing that a public function does: a profile measures it from here on.
    """
    if n_threads is not None and not (type(n_threads) is int and n_threads >= 1):
        check_threads(n_threads)
    engine = chosen.get()
    return measured(ENGINES[automatic() if engine == "auto" else engine])


def measured(compiled: AnyCompiled) -> AnyCompiled:
    """A compiled module, whose calls are counted while a profile is taken."""
    return compiled if profiling.running is None else cast("Any", profiling.Measured(cast("Any", compiled)))


def check_threads(n_threads: Any) -> None:
    """Raise an error unless it is None or a positive integer."""
    if n_threads is None:
        return
    try:
        fits = operator.index(cast("int", None if isinstance(n_threads, BOOLEANS) else n_threads)) >= 1
    except TypeError:
        raise TypeError(f"n_threads must be a positive integer or None, got {n_threads!r}") from None
    if not fits:
        raise ValueError(f"n_threads must be a positive integer or None, got {n_threads!r}")
