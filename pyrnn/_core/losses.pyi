from numpy import ndarray

def of_classes(o: ndarray, targets: ndarray, weights: ndarray | None, losses: ndarray, do: ndarray) -> int: ...
def of_numbers(
    loss: str,
    o: ndarray,
    targets: ndarray,
    weights: ndarray | None,
    losses: ndarray,
    do: ndarray,
    delta: float = 1,
) -> bool: ...
def of_rates(penalty: str, rates: ndarray, gradient: ndarray, lengths: ndarray | None, factor: float) -> float: ...
