from collections.abc import Callable
from typing import Any, final

from numpy import ndarray

from pyrnn._core.sequences import Sequences
from pyrnn.cell import Cell

@final
class Call:
    @staticmethod
    def forward(
        x: object,
        U: object,
        W: object,
        b: object,
        h0: object,
        cell: object,
        drive: object,
        lengths: object,
        mask: object,
        reverse: object,
        rates: object,
        out: object,
        n_threads: object,
    ) -> Call | None: ...
    @staticmethod
    def backward(
        dh: object,
        h: object,
        x: object,
        U: object,
        W: object,
        h0: object,
        cell: object,
        drive: object,
        lengths: object,
        mask: object,
        reverse: object,
        rates: object,
        x_gradient: object,
        out: object,
        n_threads: object,
    ) -> Call | None: ...
    @staticmethod
    def state_gradients(
        dh: object,
        h: object,
        W: object,
        cell: object,
        lengths: object,
        mask: object,
        reverse: object,
        rates: object,
        n_threads: object,
    ) -> Call | None: ...
    def add_noise(self, seed: int, stream: int, step: int, sequence: int, sigma: ndarray | None) -> None: ...
    def add(self, weights: bool, x: bool, lost: ndarray | None = None, goes_on: bool = False) -> None: ...
    give: Callable[[Any], Any] | None
    @property
    def results(self) -> tuple[Any, ...]: ...
    @property
    def x(self) -> ndarray: ...
    @property
    def U(self) -> ndarray: ...
    @property
    def W(self) -> ndarray: ...
    @property
    def b(self) -> ndarray | None: ...
    @property
    def h0(self) -> ndarray: ...
    @property
    def drive(self) -> ndarray | None: ...
    @property
    def alpha(self) -> ndarray | None: ...
    @property
    def h(self) -> ndarray: ...
    @property
    def rates(self) -> ndarray | None: ...
    @property
    def dh(self) -> ndarray: ...
    @property
    def grad_h(self) -> ndarray: ...
    @property
    def mask(self) -> ndarray | None: ...
    @property
    def n_threads(self) -> int | None: ...
    @property
    def reverse(self) -> bool: ...
    @property
    def sequences(self) -> Sequences | None: ...

def read_in_place(*arrays: object) -> bool: ...
def output_fits(h: object, V: object, c: object, out: object) -> bool: ...
def output_gradients_fit(do: object, h: object, V: object, dh: object, dV: object, dc: object) -> bool: ...
def phi_in_place(rows: ndarray, cell: Cell) -> ndarray: ...
def slopes(rates: ndarray, cell: Cell, out: ndarray) -> None: ...
def steps_of_a_chunk(T: int, B: int, N: int, itemsize: int) -> int: ...
def set_chunk_bytes(size: int) -> int: ...
