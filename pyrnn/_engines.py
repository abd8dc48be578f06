"""The choice of an engine: the one place where it is made."""

import operator

from pyrnn import _bptt, _fused, _kernels

ENGINES = {"blas": _bptt, "fused": _fused}


def choose(engine="auto", n_threads=None):
    """The compiled module that computes a call, after a check of the two arguments that say how.

    ``auto`` is ``fused`` wherever there are vector kernels: it was faster at every size measured, H 32 to 512 and B 1
    to 128 (CHANGELOG.md has the figures). In plain C every multiply-add is a library call, and ``blas`` wins.
    ``python -P benchmarks/run.py engines`` measures both engines on every instruction set.
    """
    if n_threads is not None:
        _check_threads(n_threads)
    if not isinstance(engine, str) or engine not in ("auto", *ENGINES):
        raise ValueError(f"engine must be one of 'auto', 'blas', 'fused', got {engine!r}")
    if engine == "auto":
        engine = "blas" if _kernels.selected() == "base" else "fused"
    return ENGINES[engine]


def _check_threads(n_threads):
    try:
        fits = operator.index(n_threads) >= 1
    except TypeError:
        raise TypeError(f"n_threads must be a positive integer or None, got {n_threads!r}") from None
    if not fits:
        raise ValueError(f"n_threads must be a positive integer or None, got {n_threads!r}")
