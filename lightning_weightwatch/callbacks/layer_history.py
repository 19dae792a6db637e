"""The alpha of every layer over a fit, in a bounded number of columns."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: A heat map of more columns than this has cells narrower than a pixel or two.
MOST_COLUMNS = 64


class LayerHistory:
    """A number for each layer and measurement. When it is full, every second column goes.

    Attributes:
        names: The layers, in the order in which they first came.
        epochs: Of the columns, 0-based; −1 is before training.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.epochs: list[int] = []
        self._columns: list[dict[str, float]] = []
        self._trusted: list[frozenset[str]] = []
        self._stride, self._seen = 1, 0

    def add(self, epoch: int, values: Mapping[str, float], trusted: Collection[str]) -> None:
        """Add a column; the last one is always there.

        Args:
            epoch: Its epoch.
            values: A number for each layer that has one.
            trusted: The layers whose number is to be believed.
        """
        self.names += [name for name in values if name not in self.names]
        if self._columns and (self._seen - 1) % self._stride:  # the last did not come to stay
            self.epochs.pop()
            self._columns.pop()
            self._trusted.pop()
        self.epochs.append(epoch)
        self._columns.append(dict(values))
        self._trusted.append(frozenset(trusted))
        self._seen += 1
        if len(self._columns) > MOST_COLUMNS:
            self._stride *= 2
            self.epochs, self._columns = self.epochs[::2], self._columns[::2]
            self._trusted = self._trusted[::2]

    def values(self) -> NDArray[np.float64]:
        """The numbers [layers, columns]; NaN where a layer had none."""
        rows = [[column.get(name, math.nan) for column in self._columns] for name in self.names]
        return np.array(rows, dtype=np.float64).reshape(len(self.names), len(self._columns))

    def trusted(self) -> NDArray[np.bool_]:
        """Whether each number is to be believed [layers, columns]."""
        rows = [[name in column for column in self._trusted] for name in self.names]
        return np.array(rows, dtype=np.bool_).reshape(len(self.names), len(self._columns))

    def first(self) -> dict[str, float]:
        """The first column."""
        return self._columns[0] if self._columns else {}

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain values and two tensors of at most 64 columns."""
        return {
            "names": list(self.names),
            "epochs": list(self.epochs),
            "values": torch.from_numpy(self.values().astype(np.float32)),
            "trusted": torch.from_numpy(self.trusted()),
            "stride": self._stride,
            "seen": self._seen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state()`."""
        self.names, self.epochs = list(state["names"]), list(state["epochs"])
        self._stride, self._seen = int(state["stride"]), int(state["seen"])
        self._columns = [
            {name: value for name, value in zip(self.names, column, strict=True) if value == value}
            for column in state["values"].T.tolist()
        ]
        self._trusted = [
            frozenset(name for name, known in zip(self.names, column, strict=True) if known)
            for column in state["trusted"].T.tolist()
        ]
