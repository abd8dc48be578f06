from numpy import ndarray

from pyrnn.cell import Cell

def vectors(
    W: ndarray,
    cell: Cell,
    h: ndarray | None,
    slopes: ndarray | None,
    keep: ndarray | None,
    Q: ndarray,
    interval: int,
    automatic: bool,
    total: ndarray,
) -> tuple[int, int, float]: ...
