from numpy import ndarray

_Dots = tuple[ndarray | None, ...]

def padded_rows(like: ndarray, T: int, B: int, H: int) -> ndarray: ...
def tangent(
    h: ndarray,
    x: ndarray,
    U: ndarray,
    W: ndarray,
    h0: ndarray,
    dots: _Dots,
    phi: int,
    alpha: ndarray | None,
    current: bool,
    rates: ndarray | None,
    offsets: ndarray | None,
    out: ndarray,
    second: ndarray | None,
) -> None: ...
def deltas(g: ndarray, phi: int, alpha: ndarray | None, current: bool, rates: ndarray) -> ndarray: ...
def second_order(
    g: ndarray,
    delta: ndarray,
    dh_dot: ndarray | None,
    h_dot: ndarray,
    second: ndarray | None,
    h: ndarray,
    x: ndarray,
    U: ndarray,
    W: ndarray,
    h0: ndarray,
    dots: _Dots,
    phi: int,
    alpha: ndarray | None,
    current: bool,
    rates: ndarray | None,
    x_gradient: bool,
) -> tuple[ndarray, ndarray | None, ndarray | None, ndarray, ndarray, ndarray]: ...
def each(
    delta: ndarray, x: ndarray, fed: ndarray, fed0: ndarray, norms: bool
) -> tuple[ndarray, ndarray, ndarray] | ndarray: ...
