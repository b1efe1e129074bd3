"""The windows of the rows of a batch, as a table on the device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lmsteer.steer.window import ALL, Window


class WindowTable(NamedTuple):
    """At which tokens the strengths of rows (B) and steers (K) act.

    Attributes:
        edges: the edges of their windows (4, B, K): ``Edges``.
    """

    edges: Tensor

    @classmethod
    def of(cls, windows: Iterable[tuple[int, int, Window]], shape: Sequence[int], device: torch.device) -> Self:
        """The table of some windows, each with its row and column; all other strengths act at all tokens.

        Args:
            windows: the windows.
            shape: B and K.
            device: where the table is wanted.
        """
        edges = torch.tensor(ALL.edges).repeat(*shape, 1)
        for row, column, window in windows:
            edges[row, column] = torch.tensor(window.edges)
        return cls(edges.permute(2, 0, 1).contiguous().to(device))

    def at(self, rows: Tensor) -> Self:
        """The table of some rows (N,), which may be named more than once."""
        return type(self)(self.edges[:, rows])

    def shares(self, token: Tensor) -> Tensor:
        """The share (B, K) of each strength that acts at a token (B, 1) of each row's continuation."""
        start, rise, end, fall = self.edges
        return ((token - start) / rise).clamp(0, 1) * ((end - token) / fall).clamp(0, 1)
