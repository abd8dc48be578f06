from numpy import ndarray

def multiply(
    A: ndarray,
    B: ndarray,
    C: ndarray,
    ta: bool = False,
    tb: bool = False,
    accumulate: bool = False,
    largest: int = ...,
) -> None: ...
