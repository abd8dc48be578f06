"""A line on stderr while a long call takes its time, if somebody sits there."""

from __future__ import annotations

import sys
import time
from typing import Self


class Progress:
    """Use as a context manager: the line is gone when the work is done, or interrupted."""

    def __init__(self) -> None:
        self._live, self._last, self._shown = sys.stderr.isatty(), time.monotonic(), False

    def __enter__(self) -> Self:
        return self

    def show(self, text: str) -> None:
        """Say how far the work is, not more often than twice a second."""
        now = time.monotonic()
        if self._live and now - self._last > 0.5:
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            self._last, self._shown = now, True

    def __exit__(self, *exception: object) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
