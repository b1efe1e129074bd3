"""Instruction data: rows ``{"instruction", "input", "output"}`` -> examples, laid out as published (appendix C).

::

    Instruction: {instruction}
    <gist tokens>
    Input: {input}
    Output: {output}
"""

from __future__ import annotations

import hashlib
import json
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
        prompt: ids before the gist tokens, which stand in for them.
        suffix: ids after the gist tokens: the input, the output, and the end-of-text token.
        target_tokens: number of tokens at the end of the suffix that the loss is of: the output and its end.
        instruction: the instruction itself.
    """

    prompt: list[int]
    suffix: list[int]
    target_tokens: int
    instruction: Instruction

    def __len__(self) -> int:
        return len(self.prompt) + len(self.suffix)


def prompt_ids(lm: LM, instructions: Sequence[str]) -> list[list[int]]:
    """Token ids of each instruction before the gist tokens, laid out as in a fit."""
    return lm.encode([f"Instruction: {instruction}\n" for instruction in instructions])


def input_text(text: str) -> str:
    """An input as it stands between the gist tokens and the output."""
    return f"\nInput: {text}\nOutput:" if text else "\nOutput:"


def encode_examples(lm: LM, instructions: Sequence[Instruction], tokens: int) -> list[Example]:
    """The examples of all instructions that fit into the model's context.

    Args:
        lm: the model.
        instructions: the instructions; those that are too long are left out.
        tokens: number of tokens of the context that must stay free: those of the gist, and new ones.

    Raises:
        DataError: the model cannot read a token of the texts, or their end-of-text token.
    """
    end = _output_end(lm)
    prompts = prompt_ids(lm, [each.instruction for each in instructions])
    inputs = lm.encode([input_text(each.input) for each in instructions], special=False)
    outputs = lm.encode([f" {each.output}" for each in instructions], special=False)
    examples = []
    for each, prompt, input_ids, output in zip(instructions, prompts, inputs, outputs, strict=True):
        target = [*output, *end]
        room = lm.max_length - len(prompt) - tokens - len(target)
        if room >= len(input_ids):
            examples.append(Example(prompt, [*input_ids, *target], len(target), each))
    return examples


def examples_digest(examples: Sequence[Example]) -> str:
    """SHA-256 over the tokens of examples in their order; 32 hex digits."""
    content = json.dumps([[each.prompt, each.suffix, each.target_tokens] for each in examples])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def example_layout(
    lm: LM, examples: Sequence[Example], gist: Sequence[int], *, without_prompts: bool = False
) -> tuple[Layout, Tensor]:
    """A batch of examples, padded on the right, and a mask of its target tokens (B, T).

    Args:
        lm: the model.
        examples: the examples of the batch.
        gist: ids of the gist tokens.
        without_prompts: leave out the prompts, which no other token sees; all other tokens keep their positions.
    """
    prompts = [[] if without_prompts else each.prompt for each in examples]
    layout = Layout.of(prompts, gist, [each.suffix for each in examples], lm.pad_id, lm.device)
    if without_prompts:
        before = torch.tensor([[len(each.prompt)] for each in examples], device=lm.device)
        layout = replace(layout, positions=(layout.positions + before) * layout.mask)
    ends = layout.mask.sum(1, keepdim=True)
    starts = ends - torch.tensor([[each.target_tokens] for each in examples], device=lm.device)
    places = torch.arange(layout.ids.shape[1], device=lm.device)
    return layout, (places >= starts) & (places < ends)


def _output_end(lm: LM) -> list[int]:
    """The token at the end of an output: the tokenizer's, or the first stop token where generation ignores that one."""
    own, stops = lm.end_id, lm.stop_ids
    end = stops[:1] if stops and own not in stops else [] if own is None else [own]
    lm.codec.check(end, "the end of each output")  # beyond the embedding are the ids of gist tokens
    return end
