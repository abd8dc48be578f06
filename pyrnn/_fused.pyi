from numpy import ndarray

def packed(M: ndarray, transposed: bool) -> ndarray: ...
def forward(
    x: ndarray,
    U: ndarray,
    W: ndarray,
    b: ndarray | None,
    h0: ndarray,
    out: ndarray | None,
    n_threads: int | None = None,
) -> ndarray: ...
def forward_packed(
    x: ndarray,
    panels_U: ndarray,
    panels_W: ndarray,
    b: ndarray | None,
    h0: ndarray,
    out: ndarray | None,
    n_threads: int | None = None,
) -> ndarray: ...
def backward(
    dh: ndarray, h: ndarray, x: ndarray, U: ndarray, W: ndarray, h0: ndarray, n_threads: int | None = None
) -> tuple[ndarray, ndarray, ndarray, ndarray, ndarray]: ...
def state_gradients(dh: ndarray, h: ndarray, W: ndarray, n_threads: int | None = None) -> ndarray: ...
def output(h: ndarray, V: ndarray, c: ndarray | None) -> ndarray: ...
def output_packed(h: ndarray, panels_V: ndarray, O: int, c: ndarray | None) -> ndarray: ...
def output_gradients(do: ndarray, h: ndarray, V: ndarray) -> tuple[ndarray, ndarray, ndarray]: ...
