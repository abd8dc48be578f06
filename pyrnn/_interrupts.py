"""Ctrl-C in long work that ends at a point of its own choice."""

from __future__ import annotations

import signal
import threading
import types
from collections.abc import Callable
from typing import Any


class CtrlC:
    """A context in which Ctrl-C calls a function, on the main thread and where nobody else handles it."""

    def __init__(self, heard: Callable[[], None]) -> None:
        self.heard = heard
        self._old: Any = None

    def __enter__(self) -> None:
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._old = signal.signal(signal.SIGINT, self._handle)

    def __exit__(self, *exception: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)

    def _handle(self, number: int, frame: types.FrameType | None) -> None:
        self.heard()
