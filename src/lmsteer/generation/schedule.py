"""When the steers of the rows of a batch act: the windows of their strengths, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.row import Row
from lmsteer.model.lm import LM
from lmsteer.model.thinking import thinking_of
from lmsteer.steer.strength import Hold, Windowed, number, size_of, window_of
from lmsteer.steer.window import ALL, Window
from lmsteer.steer.window_table import WindowTable


def acting_strengths(lm: LM, row: Row, written: Sequence[int]) -> str:
    """The strengths that act on a row's next token, for a message; empty if none does.

    Args:
        lm: the model.
        row: the row.
        written: the tokens that it has written since it started.
    """
    tokens, acting = [*row.written, *written], list[str]()
    for name, strength in row.strengths.items():
        window = window_of(strength)
        share = window.share(len(tokens))
        if window.part != "all":
            thinking = thinking_of(lm)
            is_inside = thinking.state_after(row.is_thinking, tokens) >= thinking.first_inside
            share *= is_inside == (window.part == "thinking")
        if isinstance(strength, Hold) and share:
            acting.append(f"{name} held at {number(strength.level)}")
        elif now := share * size_of(strength):
            whole = f" (of {strength})" if isinstance(strength, Windowed) else ""
            acting.append(f"{name}={now:g}{whole}")
    return ", ".join(acting)


class _Parts(NamedTuple):
    """Which part of its answer each row is in.

    Attributes:
        table: the state (S, V) after each token, by the state before it (``model.thinking``).
        first_inside: the first state inside the thinking part.
        state: the state of each row (B,).
        in_answer: 1 where a strength acts in the answer (B, K), else 0.
        in_thinking: 1 where it acts in the thinking part (B, K), else 0.
    """

    table: Tensor
    first_inside: int
    state: Tensor
    in_answer: Tensor
    in_thinking: Tensor

    def shares(self) -> Tensor:
        return torch.where((self.state >= self.first_inside)[:, None], self.in_thinking, self.in_answer)

    def after(self, tokens: Tensor) -> _Parts:
        return self._replace(state=self.table[self.state, tokens.clamp(min=0)].long())


class RowSchedule(NamedTuple):
    """The windows of rows (B) and the steers (K) of their mix.

    Attributes:
        strengths: the whole strengths (B, K).
        windows: at which tokens they act.
        written: the number of tokens (B, 1) that each row's continuation has.
        parts: the parts of answers; None where no strength asks for one.
    """

    strengths: Tensor
    windows: WindowTable
    written: Tensor
    parts: _Parts | None

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        written: Sequence[Sequence[int]],
        columns: Sequence[Mapping[str, int]],
        strengths: Tensor,
        lm: LM,
    ) -> RowSchedule | None:
        """The windows of some rows; None if all strengths are numbers that act at all tokens.

        Args:
            rows: the rows.
            written: the tokens of each row's continuation.
            columns: of each row, the column of each of its steers in the mix.
            strengths: the whole strengths (B, K).
            lm: the model.
        """
        windows: list[tuple[int, int, Window]] = [
            (row, columns[row][name], window_of(own.strengths[name]))
            for row, own in enumerate(rows)
            for name in own.steers
        ]
        if all(window == ALL for *_, window in windows) and not any(row.held for row in rows):
            return None
        in_answer, in_thinking = torch.ones_like(strengths), torch.ones_like(strengths)
        for row, column, window in windows:
            in_answer[row, column], in_thinking[row, column] = window.part != "thinking", window.part != "answer"
        parts = None
        if any(window.part != "all" for *_, window in windows):
            thinking = thinking_of(lm)
            states = [thinking.state_after(row.is_thinking, own) for row, own in zip(rows, written, strict=True)]
            state = torch.tensor(states, device=lm.device)
            acts = (in_answer.to(lm.device), in_thinking.to(lm.device))
            parts = _Parts(thinking.on(lm.device), thinking.first_inside, state, *acts)
        counts = torch.tensor([[float(len(own))] for own in written], device=lm.device)
        table = WindowTable.of(windows, strengths.shape, lm.device)
        return cls(strengths.to(lm.device), table, counts, parts)

    def shares(self) -> Tensor:
        """The share (B, K) of each strength with which the next token is steered."""
        shares = self.windows.shares(self.written)
        return shares if self.parts is None else shares * self.parts.shares()

    def now(self) -> Tensor:
        """The strengths (B, K) with which the next token is steered."""
        return self.strengths * self.shares()

    def after(self, tokens: Tensor) -> RowSchedule:
        """That of the next step, after each row's token (B,)."""
        parts = None if self.parts is None else self.parts.after(tokens)
        return self._replace(written=self.written + 1, parts=parts)
