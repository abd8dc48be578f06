from numpy import ndarray

from pyrnn._core.call import Call
from pyrnn.cell import Cell

def forward(call: Call) -> None: ...
def backward(call: Call) -> None: ...
def state_gradients(call: Call) -> None: ...
def packed(M: ndarray, transposed: bool) -> ndarray: ...
def forward_packed(
    x: ndarray,
    panels_U: ndarray,
    panels_W: ndarray,
    b: ndarray | None,
    h0: ndarray,
    cell: Cell,
    rates: ndarray | None,
    n_threads: int | None,
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
