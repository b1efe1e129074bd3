"""Both of vLLM's model runners in a few lines, which drive lmsteer as vLLM's own do and write a log of every row.

The first one keeps requests in rows without gaps and moves them when others leave; it says which row is which request
before the head is called. The second one keeps requests in slots, takes them in another order at each step, may verify
drafts, hands a large batch over in parts, and says which row is which request only with the logits.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from by_definition import mix_at
from lmsteer.generation.limits import RowLimits
from lmsteer.model.head import HeadShard
from lmsteer.serving.vllm.after_head import AfterHead, HeadPass
from lmsteer.serving.vllm.asked import NOTHING, Asked
from lmsteer.serving.vllm.before_head import BeforeHead, SteeredRow
from lmsteer.serving.vllm.limits import within_limits

# What a log holds of a row: the request, the number of tokens before it, and its logits.
Log = dict[tuple[int, int], Tensor]


@dataclass
class Request:
    """A request: when it comes, how many tokens it wants, and its steers. What it writes is known beforehand."""

    number: int
    arrival: int
    length: int
    asked: Asked | None
    tokens: list[int] = field(default_factory=list)

    def next(self, place: int) -> int:
        """Its token at a place: of the likeliest ones rounding would choose, where several are equally likely."""
        return 3 + (7 * self.number + 5 * place) % 200

    def fresh(self) -> Request:
        """The same request before it has begun."""
        return Request(self.number, self.arrival, self.length, self.asked)


class Model:
    """A model whose hidden state is a function of the last two tokens."""

    def __init__(self, weight: Tensor, scale: float = 1.0, soft_cap: float | None = None) -> None:
        self.weight, self.scale, self.soft_cap = weight, scale, soft_cap
        self.head = HeadShard(weight, 0, len(weight), len(weight))

    def state(self, request: int, tokens: Sequence[int]) -> Tensor:
        """h (d,) after some tokens of a request."""
        last, before = ([request, *tokens][-1], [0, request, *tokens][-2])
        return self.weight[last % len(self.weight)] - 0.5 * self.weight[before % len(self.weight)]

    def post(self, raw: Tensor) -> Tensor:
        """The model's own scale and soft cap."""
        raw = raw if self.soft_cap is None else self.soft_cap * torch.tanh(raw / self.soft_cap)
        return self.scale * raw

    def expected(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """The logits (V,) of a request by the definition of its steers, windows and limits."""
        asked, h = request.asked or NOTHING, self.state(request.number, tokens)[None]
        mix = mix_at(asked, len(tokens))
        unsteered = h @ self.weight.T
        raw = mix.steer_logits(mix.steer_hidden_states(h) @ self.weight.T)
        if not asked.limits.on:
            return self.post(raw)[0]
        limits = RowLimits.of([asked.limits], [()], 0, h.device)
        return within_limits(unsteered, raw - unsteered, limits, self.post)[0]


def first_runner(model: Model, requests: Sequence[Request]) -> Log:
    """Every row under the first runner."""
    state, rows, log = BeforeHead(), list[Request](), Log()
    waiting, step = [request.fresh() for request in requests], 0
    while waiting or rows:
        changed = False
        for row in reversed(range(len(rows))):  # the last row takes the place of one that has left
            if len(rows[row].tokens) == rows[row].length:
                last = rows.pop()
                moved = state.rows.pop(len(rows), None)
                if row < len(rows):
                    rows[row] = last
                    state.rows.pop(row, None)
                    if moved is not None:
                        state.rows[row] = moved
                changed = True
        for request in [each for each in waiting if each.arrival <= step]:
            waiting.remove(request)
            if request.asked is not None:
                state.rows[len(rows)] = SteeredRow(request.asked, request.tokens)
            rows.append(request)
            changed = True
        step += 1
        state.announce(len(rows) if changed else None)
        if not rows:  # vLLM says so, too
            continue
        h = torch.stack([model.state(request.number, request.tokens) for request in rows])
        mix = state.mix(h, model.head)
        raw = (h if mix is None else mix.steer_hidden_states(h)) @ model.weight.T
        raw = raw if mix is None else mix.steer_logits(raw)
        logits = model.post(raw)
        if (limited := state.take_limited()) is not None:
            logits[limited.places] = limited.logits(raw, limited.shift @ model.weight.T, model.post)
        state.check_acted()
        for request, line in zip(rows, logits, strict=True):
            log[request.number, len(request.tokens)] = line
            request.tokens.append(request.next(len(request.tokens)))
    return log


def second_runner(model: Model, requests: Sequence[Request], seed: int, drafts: int = 0, part: int = 10**6) -> Log:
    """Every row under the second runner; with drafts, some of which are wrong, and in parts of so many requests."""
    chance, slots = random.Random(seed), len(requests) + 2
    prompts = torch.tensor([_prompt(slot) for slot in range(slots)], dtype=torch.int32)
    state = AfterHead(slots, torch.device("cpu"), lambda: prompts, raw=True, in_parts=part < len(requests))
    comes = dict[int, bool]()
    free, running, log = [*range(slots)], dict[int, Request](), Log()
    waiting, step = [request.fresh() for request in requests], 0
    while waiting or running:
        for slot in [slot for slot, request in running.items() if len(request.tokens) >= request.length]:
            del running[slot]
            free.append(slot)
        for request in [each for each in waiting if each.arrival <= step]:
            waiting.remove(request)
            slot = free.pop(chance.randrange(len(free)))
            running[slot] = request
            comes[slot] = state.put(slot, request.asked)
        step += 1
        order = chance.sample([*running], len(running))
        if order:
            state.prepare()
            _pass(model, state, running, order, log, chance, drafts, part, comes)
    return log


def _pass(
    model: Model,
    state: AfterHead,
    running: dict[int, Request],
    order: Sequence[int],
    log: Log,
    chance: random.Random,
    drafts: int,
    part: int,
    comes: dict[int, bool],
) -> None:
    """One step of the second runner, after which each request has a token or more."""
    drafted = {slot: _drafted(running[slot], chance, drafts) for slot in order}
    h = torch.stack(
        [
            model.state(running[slot].number, [*running[slot].tokens, *drafted[slot][:k]])
            for slot in order
            for k in range(len(drafted[slot]) + 1)
        ]
    )
    raw = h @ model.weight.T
    logits = model.post(raw.clone())
    capped = raw if model.soft_cap is not None else None
    state.remember(HeadPass(h, model.head, capped, logits, model.post, lambda columns: columns))
    place = 0
    for first in range(0, len(order), part):
        own = order[first : first + part]
        mapping = torch.tensor([slot for slot in own for _ in range(len(drafted[slot]) + 1)])
        places = torch.tensor(
            [_prompt(s) - 1 + len(running[s].tokens) + k for s in own for k in range(len(drafted[s]) + 1)]
        )
        rows = slice(place, place + len(mapping))
        place = rows.stop
        context = SimpleNamespace(expanded_idx_mapping=mapping, idx_mapping_np=np.array(own), pos=places)
        # A part is left out if no request of it has to come.
        steered = state.steer(logits[rows].clone(), context) if any(comes[slot] for slot in own) else logits[rows]
        torch.testing.assert_close(steered, logits[rows], rtol=1e-5, atol=1e-5)  # those that vLLM reports
        lines = iter(steered)
        for slot in own:
            _accept(running[slot], drafted[slot], [next(lines) for _ in range(len(drafted[slot]) + 1)], log)


def _prompt(slot: int) -> int:
    """The length of the prompt in a slot: another one in each of three."""
    return 1 + 4 * (slot % 3)


def _drafted(request: Request, chance: random.Random, count: int) -> list[int]:
    """What comes next, with an error now and then."""
    first, number = len(request.tokens), chance.randint(0, count) if request.tokens else 0
    return [request.next(first + k) if chance.random() < 0.7 else 0 for k in range(number)]


def _accept(request: Request, drafts: Sequence[int], lines: Sequence[Tensor], log: Log) -> None:
    """Drafts are kept as far as they are what comes next."""
    for draft, line in zip([*drafts, None], lines, strict=True):
        if len(request.tokens) == request.length:
            return
        log[request.number, len(request.tokens)] = line
        request.tokens.append(request.next(len(request.tokens)))
        if request.tokens[-1] != draft:
            return
