from typing import Any

from numpy import ndarray

def array(tensor: object) -> ndarray: ...
def forward(
    compiled: object,
    x: ndarray,
    parameters: list[Any],
    h0: ndarray | None,
    h: ndarray,
    h_n: ndarray,
    k: int,
    direction: int,
    phi: int,
    n_threads: int | None,
) -> bool: ...
def backward(
    compiled: object,
    dh: ndarray,
    h: ndarray,
    x: ndarray,
    parameters: list[Any],
    h0: ndarray | None,
    k: int,
    direction: int,
    results: tuple[ndarray | None, ...],
    phi: int,
    n_threads: int | None,
) -> bool: ...
