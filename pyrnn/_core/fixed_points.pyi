from typing import final

from numpy import ndarray

GOES_ON: int
FIXED: int
SLOW: int
LOST: int

@final
class Landscape:
    def __new__(cls, W: ndarray, c: ndarray, alpha: ndarray, phi: int, current: bool) -> Landscape: ...
    def evaluate(self, states: tuple[ndarray, ...]) -> None: ...
    def second_derivative(self, states: tuple[ndarray, ...], row: int) -> ndarray: ...
    def descend(
        self, states: tuple[ndarray, ...], which: ndarray, tolerance: float, in_float: bool, outcomes: ndarray
    ) -> int: ...
