"""Checkpoints of `pyrnn.fit`: the state of a run in a file, which is whole at any moment."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrnn.layers import npz

if TYPE_CHECKING:
    from pyrnn._types import Path
    from pyrnn.training.history import History

FORMAT = 1
KEY = "pyrnn.fit"  # under which the description of the run lies, as JSON
OPTIMIZER = "optimizer."  # what the names of its state begin with


class CheckpointError(OSError):
    """A checkpoint of `pyrnn.fit` could not be written. The file before it is unchanged.

    The network and the optimizer are in the state after the last step.

    Attributes
    ----------
    history : History
        What was reached.
    """

    history: History


class State(NamedTuple):
    """What the further steps depend on, beside the data and the arguments."""

    step: int  # how many updates have been made
    evaluated: int  # after how many the last evaluation was
    parameters: np.ndarray
    previous: np.ndarray  # parameters of the last loss, which was finite
    optimizer: Mapping[str, Any]
    best: np.ndarray | None  # parameters of the best evaluation
    best_loss: float
    waited: int  # evaluations since then


def checked_path(path: Path) -> str:
    """Return the path as text, which ends in .npz and whose folder is there."""
    text = os.fspath(path)
    text = text if isinstance(text, str) else os.fsdecode(text)
    if not text.endswith(".npz"):
        raise ValueError(f"checkpoint must be a path that ends in .npz, got {text!r}")
    if os.path.isdir(text):
        raise ValueError(f"checkpoint must be the path of a file, got the folder {text!r}")
    folder = os.path.dirname(os.path.abspath(text))
    if not os.path.isdir(folder):
        raise ValueError(f"checkpoint must lie in a folder that is there, got {text!r}")
    return text


class Writer:
    """Writes checkpoints of one run. Records are encoded once, however often they are written."""

    def __init__(self, path: str, description: Mapping[str, Any]) -> None:
        self.path = path
        self.text = json.dumps({"format": FORMAT, **description})
        self.encoded = bytearray()
        self.records = 0

    def write(self, state: State, history: History) -> None:
        """Write the file beside the old one, and put it in its place when it is whole."""
        for record in history.records[self.records :]:
            self.encoded += json.dumps(record).encode() + b"\n"
        self.records = len(history.records)
        arrays: dict[str, Any] = {
            KEY: np.array(self.text),
            "step": np.int64(state.step),
            "evaluated": np.int64(state.evaluated),
            "parameters": state.parameters,
            "previous": state.previous,
            "best_loss": np.float64(state.best_loss),
            "waited": np.int64(state.waited),
            "records": np.frombuffer(bytes(self.encoded), np.uint8),
        }
        arrays |= {OPTIMIZER + name: value for name, value in state.optimizer.items()}
        if state.best is not None:
            arrays["best"] = state.best
        try:
            _write(self.path, arrays)
        except OSError as error:
            failed = CheckpointError(
                error.errno,
                f"checkpoint could not be written after step {state.step}: {error.strerror or error}. A file that was "
                "there before is unchanged",
                self.path,
            )
            failed.history = history
            raise failed from error


def _write(path: str, arrays: Mapping[str, Any]) -> None:
    beside = path + ".tmp"  # one name: what a killed run left is written over
    try:
        with open(beside, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    if os.name == "posix":  # the new name itself is on the disk when its folder is
        folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Saved(NamedTuple):
    """What a checkpoint holds."""

    description: dict[str, Any]
    state: State
    records: list[dict[str, Any]]


def read(path: str) -> Saved:
    """Return what a file holds. Raises ValueError, with the path, for everything that it may have wrong."""
    arrays = npz.read(path, text=(KEY,))
    if KEY not in arrays:
        raise ValueError(f"{path} must be a checkpoint of pyrnn.fit, got an .npz file of other arrays")
    try:
        description = json.loads(arrays.pop(KEY))
        if not isinstance(description, dict) or description.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        records = [_record(line) for line in arrays.pop("records").tobytes().decode().splitlines()]
        optimizer = {n.removeprefix(OPTIMIZER): arrays.pop(n) for n in list(arrays) if n.startswith(OPTIMIZER)}
        state = State(
            int(_number(arrays, "step")),
            int(_number(arrays, "evaluated")),
            arrays.pop("parameters"),
            arrays.pop("previous"),
            optimizer,
            arrays.pop("best", None),
            float(_number(arrays, "best_loss")),
            int(_number(arrays, "waited")),
        )
    except KeyError as error:
        raise ValueError(f"{path} must be a whole checkpoint of pyrnn.fit: it lacks {error}") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path} must be a whole checkpoint of pyrnn.fit: {error}") from None
    if state.step < 0:
        raise ValueError(f"{path} must be a whole checkpoint of pyrnn.fit: its step is {state.step}")
    return Saved(description, state, records)


def _record(line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not isinstance(record, dict) or not all(isinstance(v, int | float) for v in record.values()):
        raise ValueError(f"a record is {line:.80}")
    return record


def _number(arrays: dict[str, Any], name: str) -> Any:
    value = arrays.pop(name)
    if value.size != 1:
        raise ValueError(f"{name} must be one number, got shape {value.shape}")
    return value.reshape(()).item()
