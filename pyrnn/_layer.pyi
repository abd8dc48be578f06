from numpy import ndarray

def array(tensor: object) -> ndarray: ...
def forward(
    x: ndarray,
    directions: list[list[object]],
    h0: ndarray | None,
    h: ndarray,
    h_n: ndarray,
    first: int,
    nonlinearity: str,
    lengths: ndarray | None,
    n_threads: int | None,
) -> None: ...
def backward(
    dh: ndarray,
    h: ndarray,
    x: ndarray,
    directions: list[list[object]],
    h0: ndarray | None,
    d_h0: ndarray | None,
    first: int,
    x_gradient: bool,
    nonlinearity: str,
    lengths: ndarray | None,
    n_threads: int | None,
) -> tuple[ndarray | None, list[tuple[ndarray, ndarray, ndarray]]]: ...
