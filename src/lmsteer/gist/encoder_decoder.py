"""Gists of encoder-decoders of the T5 family (Mu et al., 2023, section 3.1), which are masked both ways.

An encoder reads both ways: what follows the gist tokens does not see the prompt, neither they nor the prompt see what
follows, and the decoder does not see the prompt. So a gist is what enters each of the encoder's layers at the gist
tokens, whatever comes after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask

from lmsteer.errors import ModelError
from lmsteer.gist.layout import Layout, Section
from lmsteer.gist.masks import HIDDEN, GistCondition, overlay

_BACKWARDS = ((Section.PROMPT, Section.REST), (Section.GIST, Section.REST))


def encoded(
    model: PreTrainedModel, layout: Layout, condition: GistCondition = GistCondition.GIST
) -> tuple[Tensor, Tensor]:
    """The encoder's states (B, T, d) of rows under a condition, and which of them the decoder may see (B, T).

    Both are what the model takes as ``encoder_outputs`` and ``attention_mask``; gradients go through.
    """
    hidden = HIDDEN[condition]
    mask = create_bidirectional_mask(
        config=model.config,
        inputs_embeds=torch.empty(*layout.ids.shape, 1, dtype=model.dtype, device=layout.ids.device),
        attention_mask=layout.mask,
        and_mask_function=overlay(layout.sections, (*hidden, *_BACKWARDS) if hidden else ()),
        allow_is_bidirectional_skip=False,
    )
    states = model.get_encoder()(input_ids=layout.ids, attention_mask=mask).last_hidden_state
    return states, layout.mask * (layout.sections != Section.PROMPT) if hidden else layout.mask


@torch.inference_mode()
def squeezed(model: PreTrainedModel, prompts: Sequence[Sequence[int]], gist: Sequence[int], padding: int) -> Tensor:
    """What stands in for each prompt: the inputs of the encoder's layers, and its output, at G tokens (B, L + 1, G, d).

    Raises:
        ModelError: an encoder that is no stack of layers.
    """
    layout = Layout.of(prompts, gist, [[]] * len(prompts), padding, model.device, "left")
    entered: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        entered.append(args[0][:, -len(gist) :])

    with ExitStack() as stack:
        for layer in _layers(model):
            stack.enter_context(layer.register_forward_pre_hook(keep))
        states = model.get_encoder()(input_ids=layout.ids, attention_mask=layout.mask).last_hidden_state
    return torch.stack([*entered, states[:, -len(gist) :]], 1)


@torch.inference_mode()
def encoded_after(
    model: PreTrainedModel, gists: Tensor, rests: Sequence[Sequence[int]], padding: int
) -> tuple[Tensor, Tensor]:
    """The encoder's states (B, G + T, d) of gists (B, L + 1, G, d) and what follows each, and their mask (B, G + T).

    Raises:
        ModelError: an encoder that is no stack of layers, or not of so many.
    """
    room = [padding] * gists.shape[2]
    layout = Layout.of([[]] * len(rests), room, rests, padding, model.device)
    with _standing_in(model, gists):
        states = model.get_encoder()(input_ids=layout.ids, attention_mask=layout.mask).last_hidden_state
    return torch.cat([gists[:, -1], states[:, len(room) :]], 1), layout.mask


@contextmanager
def _standing_in(model: PreTrainedModel, gists: Tensor) -> Iterator[None]:
    layers = _layers(model)
    if len(layers) != gists.shape[1] - 1:
        raise ModelError(f"these gists are of {gists.shape[1] - 1} layers; the encoder has {len(layers)}.")
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.enter_context(layer.register_forward_pre_hook(_putting(gists[:, number])))
        yield


def _putting(states: Tensor) -> Any:
    def put(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.cat([states, args[0][:, states.shape[1] :]], 1), *args[1:])

    return put


def _layers(model: PreTrainedModel) -> Sequence[nn.Module]:
    layers = getattr(model.get_encoder(), "block", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{type(model).__name__} has no encoder that is a stack of layers, as T5's is.")
    return list(layers)
