from typing import final

from numpy import ndarray

from pyrnn.cell import Cell
from pyrnn.trajectory import Direction, Trajectory

@final
class Moved:
    def __new__(cls, run: Trajectory, direction: Direction) -> Moved: ...

def padded_rows(like: ndarray, T: int, B: int, H: int) -> ndarray: ...
def tangent(
    run: Trajectory, direction: Direction, offsets: ndarray | None, out: ndarray, second: ndarray | None
) -> None: ...
def deltas(g: ndarray, cell: Cell, rates: ndarray) -> ndarray: ...
def second_order(
    g: ndarray,
    delta: ndarray,
    dh_dot: ndarray | None,
    h_dot: ndarray,
    second: ndarray | None,
    run: Trajectory,
    direction: Direction,
    x_gradient: bool,
) -> tuple[ndarray, ndarray | None, ndarray | None, ndarray, ndarray, ndarray]: ...
def each(
    delta: ndarray, x: ndarray, fed: ndarray, fed0: ndarray, norms: bool
) -> tuple[ndarray, ndarray, ndarray] | ndarray: ...
