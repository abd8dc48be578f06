"""What this installation computes with: `show_config`."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import scipy

import pyrnn
from pyrnn import _engines
from pyrnn._core import table, team


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
