from numpy import ndarray

def vectors(
    W: ndarray,
    phi: int,
    h: ndarray | None,
    slopes: ndarray | None,
    keep: ndarray | None,
    before: bool,
    Q: ndarray,
    interval: int,
    automatic: bool,
    total: ndarray,
) -> tuple[int, int, float]: ...
