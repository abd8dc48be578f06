from numpy import ndarray

from pyrnn._core.sequences import Sequences

def takes_sequences(B: int) -> bool: ...
def packed(M: ndarray, transposed: bool) -> ndarray: ...
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
    sequences: Sequences | None = None,
) -> ndarray: ...
def forward_packed(
    x: ndarray,
    panels_U: ndarray,
    panels_W: ndarray,
    b: ndarray | None,
    h0: ndarray,
    out: ndarray | None,
    n_threads: int | None = None,
    phi: int = 0,
    alpha: ndarray | None = None,
    current: bool = False,
    rates: ndarray | None = None,
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
    sequences: Sequences | None = None,
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
    n_threads: int | None = None,
) -> ndarray: ...
def output(h: ndarray, V: ndarray, c: ndarray | None, out: ndarray | None = None) -> ndarray: ...
def output_packed(h: ndarray, panels_V: ndarray, O: int, c: ndarray | None) -> ndarray: ...
def output_gradients(
    do: ndarray,
    h: ndarray,
    V: ndarray,
    results: tuple[ndarray, ndarray, ndarray] | None = None,
    accumulate: bool = False,
) -> tuple[ndarray, ndarray, ndarray]: ...
