"""Instruction data: rows ``{"instruction", "input", "output"}`` -> examples, laid out as published (appendix C).

::

    Instruction: {instruction}
    <gist tokens>
    Input: {input}
    Output: {output}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmsteer.data.instructions import Instruction
from lmsteer.gist.layout import Layout
from lmsteer.model.lm import LM


@dataclass(frozen=True)
class Example:
    """An instruction in tokens.

    Attributes:
        prompt: what the gist tokens stand in for.
        rest: what follows them, the output and the end of the text last.
        targets: so many of the last tokens are the output's, which the loss is of.
        of: the instruction itself.
    """

    prompt: list[int]
    rest: list[int]
    targets: int
    of: Instruction

    def __len__(self) -> int:
        return len(self.prompt) + len(self.rest)


def prompt_ids(lm: LM, instructions: Sequence[str]) -> list[list[int]]:
    """What stands before the gist tokens, as the fit has seen it."""
    return lm.encode([f"Instruction: {instruction}\n" for instruction in instructions])


def input_text(given: str) -> str:
    """What stands between the gist tokens and the output."""
    return f"\nInput: {given}\nOutput:" if given else "\nOutput:"


def encode_examples(lm: LM, instructions: Sequence[Instruction], tokens: int) -> list[Example]:
    """Examples of those instructions that fit into the context with so many tokens beside them; others are left out."""
    end = _end(lm)
    prompts = prompt_ids(lm, [each.instruction for each in instructions])
    inputs = lm.encode([input_text(each.input) for each in instructions], special=False)
    outputs = lm.encode([f" {each.output}" for each in instructions], special=False)
    found = []
    for each, prompt, given, output in zip(instructions, prompts, inputs, outputs, strict=True):
        target = [*output, *end]
        room = lm.max_length - len(prompt) - tokens - len(target)
        if room >= len(given):
            found.append(Example(prompt, [*given, *target], len(target), each))
    return found


def _end(lm: LM) -> list[int]:
    """The token that ends an output: the tokenizer's, if writing stops there, else one at which it does."""
    own, stops = lm.end_id, lm.stop_ids
    return stops[:1] if stops and own not in stops else [] if own is None else [own]


def lay_out(lm: LM, examples: Sequence[Example], gist: Sequence[int], *, hidden: bool = False) -> tuple[Layout, Tensor]:
    """A batch, padded on the right, and where its targets stand (B, T).

    Args:
        lm: the model.
        examples: of the batch.
        gist: ids of the gist tokens.
        hidden: leave prompts out, which nobody will see; what follows them stays where it is.
    """
    prompts, rests = [[] if hidden else each.prompt for each in examples], [each.rest for each in examples]
    layout = Layout.of(prompts, gist, rests, lm.pad_id, lm.device)
    if hidden:
        before = torch.tensor([[len(each.prompt)] for each in examples], device=lm.device)
        layout = replace(layout, positions=(layout.positions + before) * layout.mask)
    ends = layout.mask.sum(1, keepdim=True)
    starts = ends - torch.tensor([[each.targets] for each in examples], device=lm.device)
    places = torch.arange(layout.ids.shape[1], device=lm.device)
    return layout, (places >= starts) & (places < ends)
