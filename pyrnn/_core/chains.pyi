from numpy import ndarray

def vectors(
    slopes: ndarray,
    exponents: ndarray,
    W: ndarray,
    keep: ndarray | None,
    of_columns: bool,
    backwards: bool,
    vectors: ndarray,
    scales: ndarray,
    add: ndarray | None = None,
    log_norms: ndarray | None = None,
) -> None: ...
def log_singular_values(
    slopes: ndarray, exponents: ndarray, W: ndarray, keep: ndarray | None, of_columns: bool, logs: ndarray
) -> None: ...
