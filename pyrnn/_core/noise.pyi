from numpy import ndarray

def noise(
    out: ndarray,
    seed: int,
    stream: int,
    step: int,
    sequence: int,
    sigma: ndarray | None = None,
    n_threads: int | None = None,
) -> None: ...
