from numpy import ndarray

def read_in_place(*arrays: object) -> bool: ...
def fit(
    x: object,
    U: object,
    W: object,
    b: object,
    h0: object,
    dh: object | None = None,
    h: object | None = None,
    drive: object | None = None,
    alpha: object | None = None,
    rates: object | None = None,
    out: object | None = None,
) -> bool: ...
def fit_results(results: tuple[object, ...], x: object, U: object, inputs: tuple[object, ...]) -> bool: ...
def forward(
    x: ndarray,
    U: ndarray,
    W: ndarray,
    b: ndarray | None,
    h0: ndarray,
    out: ndarray | None,
    n_threads: int | None = None,
    phi: int = 0,
    alpha: ndarray | None = None,
    current: bool = False,
    drive: ndarray | None = None,
    rates: ndarray | None = None,
    offsets: ndarray | None = None,
) -> ndarray: ...
def backward(
    dh: ndarray,
    h: ndarray,
    x: ndarray,
    U: ndarray,
    W: ndarray,
    h0: ndarray,
    n_threads: int | None = None,
    phi: int = 0,
    alpha: ndarray | None = None,
    current: bool = False,
    drive: bool = False,
    rates: ndarray | None = None,
    offsets: ndarray | None = None,
    results: tuple[ndarray | None, ...] | None = None,
    lost: ndarray | None = None,
    accumulate: bool = False,
    goes_on: bool = False,
    add_x: bool = False,
) -> tuple[ndarray, ndarray, ndarray, ndarray, ndarray, ndarray | None, ndarray | None]: ...
def state_gradients(
    dh: ndarray,
    h: ndarray,
    W: ndarray,
    phi: int = 0,
    alpha: ndarray | None = None,
    current: bool = False,
    rates: ndarray | None = None,
    offsets: ndarray | None = None,
) -> ndarray: ...
def takes_sequences(B: int) -> bool: ...
def jacobian(
    rates: ndarray, W: ndarray, phi: int = 0, alpha: ndarray | None = None, current: bool = False
) -> ndarray: ...
def output(h: ndarray, V: ndarray, c: ndarray | None, out: ndarray | None = None) -> ndarray: ...
def output_gradients(
    do: ndarray,
    h: ndarray,
    V: ndarray,
    results: tuple[ndarray, ndarray, ndarray] | None = None,
    accumulate: bool = False,
) -> tuple[ndarray, ndarray, ndarray]: ...
def _phi(rows: ndarray, phi: int) -> ndarray: ...
def steps_of_a_chunk(T: int, B: int, N: int, itemsize: int) -> int: ...
def set_chunk_bytes(size: int) -> int: ...
