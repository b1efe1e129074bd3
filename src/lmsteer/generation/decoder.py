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
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmsteer.generation.backends import backend_for
from lmsteer.generation.config import NO_LIMITS, Limits, SamplingConfig
from lmsteer.generation.limits import RowLimits, limited
from lmsteer.generation.prefill import PREFILL_CHUNK, PromptChunk
from lmsteer.generation.sampling import RowSettings, draw
from lmsteer.model.kv_cache import Start
from lmsteer.model.lm import LM
from lmsteer.steer.hook import SteerHandle
from lmsteer.steer.mix import Mix, row_by_row
from lmsteer.steer.steer import Steer
from lmsteer.util.lists import swap_out
from lmsteer.util.seeds import stable_seed

_NONE = Mix({}, {})


def row_noise(seed: int, prompt: int, sample: int, length: int) -> Tensor:
    """The random numbers (T,) in [0, 1) of a row, which depend on the seed, the prompt and the sample alone.

    They are the same at every strength, in every batch, and in every version of Python.

    Args:
        seed: any integer.
        prompt: the number of the prompt, from 0.
        sample: the number of the sample among those of its prompt and strengths, from 0.
        length: T, the number of tokens.
    """
    return torch.rand(length, generator=torch.Generator().manual_seed(stable_seed(seed, prompt, sample)))


@dataclass(frozen=True, eq=False)
class Row:
    """What is to be written.

    Attributes:
        start: where it starts.
        noise: its random numbers (T,), one for each token; it has at most T tokens.
        steers: the steers that act on it, by name.
        strengths: the strength of each.
        sampling: how its tokens are drawn.
        limits: how far its steers may move each token.
        written: the tokens of its continuation that ``start`` already holds.
    """

    start: Start
    noise: Tensor
    steers: Mapping[str, Steer] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    sampling: SamplingConfig = SamplingConfig()
    limits: Limits = NO_LIMITS
    written: Sequence[int] = ()


class Look(NamedTuple):
    """What the steps since the last look have drawn.

    Attributes:
        tokens: the tokens of each row; ``OVERFLOW`` where its logits were not finite numbers.
        log_p: their log-likelihoods under the unsteered model, in nats; empty unless the decoder scores.
    """

    tokens: list[list[int]]
    log_p: list[list[float]]


class Pass(NamedTuple):
    """What a forward pass over some rows gives, on the model's device.

    Attributes:
        tokens: the tokens that are drawn (B',); ``OVERFLOW`` where logits are not finite numbers.
        logits: the steered logits (B', V).
        hidden: the hidden states (B', d) in front of any steer, on the device of the head.
        is_steered: whether the head was steered.
    """

    tokens: Tensor
    logits: Tensor
    hidden: Tensor
    is_steered: bool


class _Resident(NamedTuple):
    """What belongs to each row, on the model's device.

    Attributes:
        last: the token that it reads next (B,).
        noise: its random numbers (B, T).
        drawn: how many tokens it has drawn (B, 1).
        settings: how it draws.
        limits: how far its steers may move its token.
        mix: the steers and strengths of all rows.
    """

    last: Tensor
    noise: Tensor
    drawn: Tensor
    settings: RowSettings
    limits: RowLimits
    mix: Mix


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
                self.rows += rows
                self._tokens += [[] for _ in rows]
                self._resident = None
            yield chunk

    def make_room(self) -> None:
        """Make room for one more token of each row."""
        self._backend.make_room()

    @torch.inference_mode()
    def step(self) -> Pass:
        """Write one token of each row."""
        done = self.pass_over(range(len(self)))
        self.keep(done.tokens)
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
        mix, settings, limits = resident.mix, resident.settings, resident.limits
        if len(places) < len(self):
            rows, self._mix = self.rows[part], None  # a steer whose factors fail does not act on the others
            mix, settings = row_by_row([(row.steers, row.strengths) for row in rows]), self._settings(rows)
            limits = limits.part(part)
        # Under limits, the steers act on the logits of the unsteered model.
        with self._captured() as (hidden, raw), SteerHandle(self._lm.model, _NONE if limits.kinds else mix) as handle:
            # Those of a model over several devices come from that of the head.
            logits = self._backend.forward(resident.last[part], part.start).to(self._lm.device)
        if limits.kinds:
            z0, z1 = raw[0], mix.logit_shift(hidden[0], self._lm.head.weight)
            logits, _ = limited(z0.to(logits.device), z1.to(logits.device), limits, self._lm.head.post)
        noise = resident.noise[part].gather(1, resident.drawn[part].clamp(max=resident.noise.shape[1] - 1))
        return Pass(draw(logits, noise[:, 0], settings), logits, hidden[0], handle.calls > 0)

    def keep(self, tokens: Tensor) -> None:
        """End a step: keep the tokens (B,) of its passes."""
        resident = self._on_device()
        self._backend.advance()
        self._drawn.append(tokens)
        self._resident = resident._replace(
            last=tokens.clamp(min=0), drawn=resident.drawn + 1, limits=resident.limits.after(tokens)
        )

    def look(self) -> Look:
        """Copy the tokens since the last look to the host."""
        if not self._drawn:
            return Look([[] for _ in self.rows], [])
        tokens = torch.stack(self._drawn, 1).tolist()
        log_p = torch.stack(self._log_p, 1).tolist() if self._score else []
        self._drawn, self._log_p = [], []
        for row, own in zip(self._tokens, tokens, strict=True):
            row += own
        return Look(tokens, log_p)

    def remove(self, place: int) -> None:
        """Remove a row, after a look; the last row takes its place."""
        assert not self._drawn, "rows are removed after a look"
        self._backend.remove(place)
        self._resident = None
        swap_out(self.rows, place)
        swap_out(self._tokens, place)

    def clear(self) -> None:
        """Forget all rows, and start with an empty cache."""
        self._backend = self._make_backend()
        self.rows, self._tokens, self._drawn, self._log_p = [], [], [], []
        self._resident = self._mix = None

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
            self._mix = row_by_row([(row.steers, row.strengths) for row in rows], self._mix)
            self._resident = _Resident(
                torch.tensor([max(0, [*row.start.ids[-1:], *own][-1]) for row, own in written], device=device),
                noise.to(device),
                torch.tensor([len(own) for _, own in written], device=device)[:, None],
                self._settings(rows),
                RowLimits.of(
                    [row.limits for row in rows],
                    [[*row.written, *own] for row, own in written],
                    max(len(row.written) + len(row.noise) for row in rows),
                    device,
                ),
                self._mix,
            )
        return self._resident

    def _settings(self, rows: Sequence[Row]) -> RowSettings:
        return RowSettings.of([row.sampling for row in rows], len(self._lm.head.weight), self._lm.device)
