"""The decoder: rows that are written together, a token each at every step.

::

    prefill ──> rows ──step──> steered logits ──draw──> one token a row ──> look: the tokens since the last look
                  ^                                            │
                  └────────── the next step reads it <─────────┘

What a step needs stays on the device: the last token of each row, its random numbers, strengths and settings, and the
factors of all steers. A step copies nothing to the host. ``look`` does, for all steps since the last look at once; so a
client that does not stream looks every few tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.backends import backend_for
from lmsteer.generation.hold import RowHolds
from lmsteer.generation.passes import Pass, together
from lmsteer.generation.prefill import PREFILL_CHUNK, PromptChunk
from lmsteer.generation.row import Row
from lmsteer.generation.row_steering import RowSteering
from lmsteer.generation.sampling import RowSettings, draw
from lmsteer.model.lm import LM
from lmsteer.steer.hook import SteerHandle
from lmsteer.steer.mix import Mix
from lmsteer.util.lists import swap_out


class Look(NamedTuple):
    """What the steps since the last look have drawn.

    Attributes:
        tokens: the tokens of each row; ``OVERFLOW`` where its logits were not finite numbers.
        log_p: their log-likelihoods under the unsteered model, in nats; empty unless the decoder scores.
        readings: for each row the lines of its tokens in the table of readings; none for a row that does not ask for
            them. ``ReadingLog`` makes readings of them.
        acting: whether a steer acted on each token, where strengths have windows; empty if all act at all tokens.
    """

    tokens: list[list[int]]
    log_p: list[list[float]]
    readings: list[list[list[float]]]
    acting: list[list[bool]]


class _Resident(NamedTuple):
    """What belongs to each row, on the model's device.

    Attributes:
        last: the token that it reads next (B,).
        noise: its random numbers (B, T).
        drawn: how many tokens it has drawn (B, 1).
        settings: how it draws.
        steering: what steers it.
    """

    last: Tensor
    noise: Tensor
    drawn: Tensor
    settings: RowSettings
    steering: RowSteering


class Decoder:
    """Rows that come and go between steps. One thread calls all methods.

    Args:
        lm: the model. Other threads that use it take turns with this one, step by step.
        prefill_chunk: number of prompt tokens to read at once, padding included.
        score: whether to compute the unsteered model's log-likelihood of each token that is drawn, too. The hidden
            states in front of a steer are those of the unsteered model on the same text, so this costs one product
            with the head a token, and no second pass.

    Attributes:
        rows: the rows, in the order of the batch.
        max_rows: the largest number of rows that the model can have; None for any number.
    """

    def __init__(self, lm: LM, prefill_chunk: int = PREFILL_CHUNK, *, score: bool = False) -> None:
        self._lm, self._score = lm, score
        self._make_backend, self.max_rows = backend_for(lm, prefill_chunk)
        self._backend = self._make_backend()
        self.rows: list[Row] = []
        self._resident: _Resident | None = None  # None where rows have come or gone since the last step
        self._mix: Mix | None = None
        self._tokens: list[list[int]] = []  # of each row, as of the last look
        self._drawn: list[Tensor] = []
        self._log_p: list[Tensor] = []
        self._read: list[Tensor] = []
        self._acting: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bytes(self) -> int:
        """Size of the KV cache in bytes."""
        return self._backend.bytes

    def prefill(self, rows: Sequence[Row]) -> Iterator[PromptChunk]:
        """Read the prompts of new rows in chunks; with the last chunk they become the last rows.

        Yields:
            Each chunk. The caller may step, look and remove rows in between.
        """
        for chunk in self._backend.prefill([row.start for row in rows]):
            if not chunk.left:
                assert not self._drawn, "rows are added after a look"
                self._leave_device()
                self.rows += rows
                self._tokens += [[] for _ in rows]
            yield chunk

    def admit(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows to their ends; the rows become the last ones."""
        for _ in self.prefill(rows):
            pass

    def make_room(self) -> None:
        """Make room for one more token of each row."""
        self._backend.make_room()

    @torch.inference_mode()
    def step(self) -> Pass:
        """Write one token of each row."""
        done = self.pass_over(range(len(self)))
        self.keep([(range(len(self)), done)])
        if self._score:
            raw = self._lm.head.raw(done.hidden).float()
            self._log_p.append(self._lm.head.log_likelihood_of(raw, done.tokens.clamp(min=0).to(raw.device)))
        return done

    @torch.inference_mode()
    def pass_over(self, places: Sequence[int]) -> Pass:
        """The forward pass of a step over some neighbouring rows; ``keep`` ends the step.

        A pass that fails can be repeated for fewer rows.
        """
        resident, part = self._on_device(), slice(places[0], places[0] + len(places))
        settings, steering = resident.settings, resident.steering
        if len(places) < len(self):
            self._mix = None  # a steer whose factors fail does not act on the others
            self._keep_sums(steering.holds)
            settings, steering = self._settings(self.rows[part]), self._steering(places)
        steering = steering.now()
        # The model belongs to this thread before anything is captured: not the pass of another one is.
        with (
            self._lm.exclusive_use(),
            self._captured() as (hidden, raw),
            SteerHandle(self._lm.model, steering.mix) as handle,
        ):
            # Those of a model over several devices come from that of the head.
            logits = self._backend.forward(resident.last[part], part.start).to(self._lm.device)
        noise = resident.noise[part].gather(1, resident.drawn[part].clamp(max=resident.noise.shape[1] - 1))
        parted = steering.parted(self._lm.head, hidden[0], raw[0]) if len(steering.places) else None
        if parted is not None:
            logits[steering.places] = parted.limited.logits.to(logits)
        tokens = draw(logits, noise[:, 0], settings)
        readings = noise.new_zeros(len(places), 0)
        if parted is not None and steering.readings.width:
            readings = steering.table(self._lm.head, parted, tokens)
        holds = steering.holds
        if holds is not None and parted is not None and parted.held is not None:
            holds = holds.after(parted.held, tokens[steering.places])
        return Pass(tokens, logits, hidden[0], handle.calls > 0, readings, holds)

    def keep(self, passes: Sequence[tuple[Sequence[int], Pass]]) -> None:
        """End a step: keep what its passes over some rows each have drawn; rows without a pass have failed."""
        resident = self._on_device()
        self._backend.advance()
        tokens, readings, holds = together(passes, resident.steering.holds, len(self), self._lm.device)
        self._drawn.append(tokens)
        if readings.shape[1]:
            self._read.append(readings)
        if (acting := resident.steering.acting()) is not None:
            self._acting.append(acting)
        last, steering = tokens.clamp(min=0), resident.steering.after(tokens, holds)
        self._resident = resident._replace(last=last, drawn=resident.drawn + 1, steering=steering)

    def look(self) -> Look:
        """Copy the tokens since the last look to the host."""
        if not self._drawn:
            return Look([[] for _ in self.rows], [], [[] for _ in self.rows], [])
        tokens = torch.stack(self._drawn, 1).tolist()
        log_p = torch.stack(self._log_p, 1).tolist() if self._score else []
        lines = torch.stack(self._read, 1).tolist() if self._read else [[] for _ in self.rows]
        acting = torch.stack(self._acting, 1).tolist() if self._acting else []
        self._drawn, self._log_p, self._read, self._acting = [], [], [], []
        for row, own in zip(self._tokens, tokens, strict=True):
            row += own
        lines = [own if row.readings else [] for row, own in zip(self.rows, lines, strict=True)]
        return Look(tokens, log_p, lines, acting)

    def remove(self, place: int) -> None:
        """Remove a row, after a look; the last row takes its place."""
        assert not self._drawn, "rows are removed after a look"
        self._backend.remove(place)
        self._leave_device()
        swap_out(self.rows, place)
        swap_out(self._tokens, place)

    def clear(self) -> None:
        """Forget all rows, and start with an empty cache."""
        self._backend = self._make_backend()
        self.rows, self._tokens, self._drawn, self._log_p, self._read, self._acting = [], [], [], [], [], []
        self._resident = self._mix = None

    def sums(self, place: int) -> Mapping[str, Tensor]:
        """What was read of a row for its holds so far: ``Row.sums`` of a row that continues it."""
        self._keep_sums(self._resident and self._resident.steering.holds)
        return self.rows[place].sums

    def _keep_sums(self, holds: RowHolds | None) -> None:
        """Keep the sums of holds with their rows."""
        for row, sums in holds.by_row().items() if holds is not None else ():
            self.rows[row] = replace(self.rows[row], sums=sums)

    def _leave_device(self) -> None:
        """What belongs to each row is put together anew with the next step: rows come or go."""
        self._keep_sums(self._resident and self._resident.steering.holds)
        self._resident = None

    @contextmanager
    def _captured(self) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Where a forward pass puts the hidden states (B, d) in front of any steer, and the raw logits (B, V) after it.

        Both are those at the last position.
        """
        hidden, raw = list[Tensor](), list[Tensor]()

        def before(_: torch.nn.Module, args: tuple[Any, ...]) -> None:
            hidden.append(args[0][:, -1])

        def after(_: torch.nn.Module, args: tuple[Any, ...], logits: Tensor) -> None:
            raw.append(logits[:, -1])

        head = self._lm.head.module
        with head.register_forward_pre_hook(before, prepend=True), head.register_forward_hook(after):
            yield hidden, raw

    def _on_device(self) -> _Resident:
        if self._resident is None:
            device, rows = self._lm.device, self.rows
            written = [*zip(rows, self._tokens, strict=True)]
            length = max(len(row.noise) for row in rows)
            noise = torch.stack([torch.nn.functional.pad(row.noise, (0, length - len(row.noise))) for row in rows])
            self._resident = _Resident(
                torch.tensor([max(0, [*row.start.ids[-1:], *own][-1]) for row, own in written], device=device),
                noise.to(device),
                torch.tensor([len(own) for _, own in written], device=device)[:, None],
                self._settings(rows),
                self._steering(range(len(self))),
            )
            self._mix = self._resident.steering.apart
        return self._resident

    def _steering(self, places: Sequence[int]) -> RowSteering:
        rows, written = [self.rows[place] for place in places], [self._tokens[place] for place in places]
        return RowSteering.of(rows, written, self._mix, self._lm)

    def _settings(self, rows: Sequence[Row]) -> RowSettings:
        return RowSettings.of([row.sampling for row in rows], len(self._lm.head.weight), self._lm.device)
