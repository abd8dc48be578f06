"""What `pyrnn.fit` returns: a record of each step, and why the run ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload


class History(Sequence[dict[str, Any]]):
    """Records of a run of training: a sequence of dicts, as `pyrnn.plots.learning_curve` draws them.

    Parameters
    ----------
    records : iterable of mappings, optional
    seed : int
        The seed of the run.

    Attributes
    ----------
    records : list of dict
        In the order in which they were made; docs/training.md says what they hold.
    seed : int
        The seed of the run: the one that was drawn where ``rng`` was None.
    seconds : float
        How long the call took. A run that was resumed counts from there on.
    stopped : str or None
        Why the run ended: ``"steps"`` or ``"epochs"``, ``"early_stopping"``, ``"callback"``, ``"interrupted"``,
        ``"data"`` (which came to its end) or, say, ``"loss is nan at step 7"``; in a population also ``"error"``. None
        while it goes on.

    See Also
    --------
    pyrnn.fit, pyrnn.plots.learning_curve

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> rnn, x = pyrnn.RNN(1, 4, output_size=1, rng=0), np.sin(np.arange(20.0))[:, None]
    >>> history = pyrnn.fit(rnn, (x[:-1], x[1:]), loss="squared_error", steps=3, validation=(x[:-1], x[1:]))
    >>> history
    History(3 steps, loss 0.717 to 0.708, validation_loss 0.712 to 0.703, stopped: 'steps')
    >>> history[1]["step"], sorted(history[1])
    (1, ['epoch', 'step', 'validation_loss'])
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = (), seed: int = 0) -> None:
        self.records: list[dict[str, Any]] = [dict(record) for record in records]
        self.seed = seed
        self.seconds = 0.0
        self.stopped: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether the run ended because the loss or the gradient became NaN or infinite."""
        return self.stopped is not None and " at step " in self.stopped

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def to_list(self) -> list[dict[str, Any]]:
        """Return copies of the records.

        Returns
        -------
        list of dict

        Examples
        --------
        >>> import pyrnn
        >>> pyrnn.training.History([{"step": 0, "loss": 1.5}]).to_list()
        [{'step': 0, 'loss': 1.5}]
        """
        return [dict(record) for record in self.records]

    def __repr__(self) -> str:
        steps = sum("loss" in record for record in self.records)
        parts = [f"{steps} step{'s' * (steps != 1)}"]
        for name in ("loss", "validation_loss"):
            values = [record[name] for record in self.records if name in record]
            if values:
                parts.append(f"{name} {values[0]:.3g} to {values[-1]:.3g}")
        return f"{type(self).__name__}({', '.join(parts)}, stopped: {self.stopped!r})"
