from typing import final

from numpy import ndarray

from pyrnn.cell import Cell

GOES_ON: int
FIXED: int
SLOW: int
LOST: int

@final
class Landscape:
    def __new__(cls, W: ndarray, c: ndarray, cell: Cell) -> Landscape: ...
    def evaluate(self, states: tuple[ndarray, ...]) -> None: ...
    def second_derivative(self, states: tuple[ndarray, ...], row: int) -> ndarray: ...
    def descend(
        self, states: tuple[ndarray, ...], which: ndarray, tolerance: float, in_float: bool, outcomes: ndarray
    ) -> int: ...
