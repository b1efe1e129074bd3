"""A steered model for lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness).

Texts become tokens as in its ``hf`` model, from which this one inherits, so that figures without a steer are those of
``hf``. Likelihoods and generation are this package's: the head computes only what a task asks for, and rows leave a
batch as they end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from transformers import PreTrainedTokenizerBase

from lmsteer.errors import DataError, SteerError
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import continue_from
from lmsteer.generation.prefill import Prefill
from lmsteer.model.checkpoint import read_tokenizer
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.model.sources.resolve import DEFAULT_MODEL, resolve
from lmsteer.reading.continuations import score_continuations
from lmsteer.steer.files import find_steer
from lmsteer.steer.lookup import find_card
from lmsteer.steer.mix import Mix
from lmsteer.steer.notation import of_model_name, parse_strengths
from lmsteer.steer.strength import constant
from lmsteer.util.distributed import Processes
from lmsteer.util.progress import Progress, bars, no_progress, notice

# The name of this model in the harness.
NAME = "lmsteer"
# What transformers draws from where neither a task nor the model says anything, and so what ``hf`` does.
_TOP_K = 50
# What a model's own settings may ask of generation, with what asks for nothing.
_PENALTIES = {"repetition_penalty": (None, 1.0), "no_repeat_ngram_size": (None, 0), "min_p": (None, 0.0)}
# What a task may ask of generation; ``num_beams`` must be 1.
_GENERATION = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "num_beams"}


class SteeredLM(HFLM):
    """A model under steers, for any task of the harness: likelihoods, rolling likelihoods and generation.

    Args:
        pretrained: the model, as ``lmsteer.load`` takes it.
        steers: the steers and a strength for each: ``sentiment=3``, several joined by ``+``, or a mapping of names to
            strengths. Notation is that of ``--steer``, with one strength each that acts at all tokens.
        device: where the model goes; by default, and for CUDA where there is none, to the accelerator if there is one.
        dtype: the dtype of the weights; ``auto`` takes the checkpoint's own.
        batch_size: the largest number of rows that are written at once; 64 if it is ``auto`` (or ``auto:N``).
        max_batch_size: a bound for that; none by default.
        revision: a branch, tag or commit of the Hub.
        trust_remote_code: whether code from the Hub may run.
        max_length: the most tokens that are read at once; by default the model's context, which is the most.
        add_bos_token: whether a start token stands before each text; by default the tokenizer decides.
        prefix_token_id: the token that a text without a context starts from; the harness's choice by default.
        think_end_token: the text of the token that ends a part of an answer which is dropped.
        enable_thinking: passed on to the chat template; True needs a ``think_end_token``.
        chat_template_args: likewise.
        unknown: refused, since they would have no effect.

    Raises:
        DataError: an argument is not known or out of range, or several processes were launched.
        ModelError: as ``lmsteer.load``.
        SteerError: a steer is not found, its notation cannot be read, or it has no strength of that kind.
        WrongBaseError: a steer was fitted on another base.
    """

    def __init__(
        self,
        pretrained: str = DEFAULT_MODEL,
        steers: str | Mapping[str, float | str] = "",
        *,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        think_end_token: str | None = None,
        enable_thinking: bool | None = None,
        chat_template_args: dict[str, Any] | None = None,
        **unknown: object,
    ) -> None:
        if unknown:
            raise DataError(
                f"--model {NAME} does not know {', '.join(sorted(unknown))}; it takes pretrained, steers, device, "
                "dtype, revision, trust_remote_code, max_length, add_bos_token, prefix_token_id, think_end_token, "
                "enable_thinking and chat_template_args."
            )
        if Processes.here().count > 1:
            raise DataError(f"--model {NAME} evaluates in one process: start it without `accelerate launch`.")
        if str(think_end_token or "").isdigit() or (enable_thinking and not think_end_token):
            raise DataError("think_end_token is the text of a token, such as </think>; enable_thinking needs it.")
        self.strengths = _strengths_of(steers)
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # the harness asks for CUDA by itself
        wanted = {"device_map": device, "revision": revision, "trust_remote_code": trust_remote_code or None}
        options: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        self.lm = load(pretrained, dtype=dtype, **options)
        self.mix = Mix({name: find_steer(name) for name in self.strengths}, self.strengths)
        self.lm.check_base(self.mix)
        if max_length is not None and not 0 < max_length <= self.lm.max_length:
            raise DataError(f"max_length must be from 1 to the model's {self.lm.max_length} tokens, not {max_length}.")
        self._tell_of_penalties()
        rows = _rows_of(batch_size)
        with _quiet():  # the harness warns of models that are loaded already
            super().__init__(
                self.lm.model,
                tokenizer=_tokenizer_of(self.lm, pretrained, add_bos_token),
                batch_size=min(rows, max_batch_size or rows),
                max_length=max_length,
                add_bos_token=add_bos_token,
                prefix_token_id=prefix_token_id,
                think_end_token=think_end_token,
                enable_thinking=enable_thinking,
                chat_template_args=chat_template_args,
            )

    @property
    def max_length(self) -> int:
        """The most tokens that are read at once."""
        return min(super().max_length, self.lm.max_length)

    def get_model_info(self) -> dict[str, Any]:
        """What was evaluated, for the harness's records."""
        return {
            "model_num_parameters": self.lm.model.num_parameters(),
            "model_dtype": self.lm.model.dtype,
            "model_name": self.lm.name,
            "model_sha": self.lm.fingerprint,
            "steers": self.strengths,
        }

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether greedy generation writes it."""
        for _, context, own in requests:
            if not context or not 0 < len(own) <= self.max_length:
                raise DataError(
                    f"a continuation has {len(own)} tokens, after {len(context)}: it must have from 1 to "
                    f"{self.max_length}, as many as are read at once, and its context one or more."
                )
        pairs = [([*context, *own][-(self.max_length + 1) :][: -len(own)], own) for _, context, own in requests]
        scores = score_continuations(self.lm, pairs, self.mix, progress=no_progress if disable_tqdm else bars())
        for (request, *_), score in zip(requests, scores, strict=True):
            if request is not None:
                self.cache_hook.add_partial("loglikelihood", request, (score.log_p, score.is_greedy))
        return [(score.log_p, score.is_greedy) for score in scores]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A continuation of each request's context, up to its stop strings."""
        alike: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(place)
        found = dict[int, str]()
        for places in alike.values():
            contexts, wanted = [requests[place].args[0] for place in places], requests[places[0]].args[1]
            texts = self._write(contexts, wanted, no_progress if disable_tqdm else bars())
            for place, context, text in zip(places, contexts, texts, strict=True):
                found[place] = text
                self.cache_hook.add_partial("generate_until", (context, wanted), text)
        return [found[place] for place in range(len(requests))]

    def _write(self, contexts: Sequence[str], wanted: Mapping[str, Any], progress: Progress) -> Iterator[str]:
        """Continue contexts as one set of wishes of a task says."""
        config = self._generation(wanted)
        room = self.max_length - config.max_new_tokens
        if room < 1:
            raise DataError(
                f"a task asks for {config.max_new_tokens} new tokens, and the model reads {self.max_length} at most: "
                "lower max_gen_toks with --gen_kwargs."
            )
        prefill = Prefill.of_ids([self._context_ids(context, room) for context in contexts])
        written = continue_from(
            self.lm, contexts, prefill, self.mix.steers, [self.strengths], config, progress=progress
        )
        for each in written:
            yield postprocess_generated_text(each.text, list(config.stop), self.think_end_token)

    def _context_ids(self, context: str, room: int) -> list[int]:
        ids, _ = self.tok_batch_encode([context], left_truncate_len=room)
        return ids[0].tolist() or [self.prefix_token_id]

    def _generation(self, wanted: Mapping[str, Any]) -> GenerationConfig:
        """How a task wants its answers written: by the likeliest tokens, unless it says otherwise.

        What it leaves open is drawn as the model's own settings say. Random numbers depend on the harness's seed.
        """
        given: dict[str, Any] = dict(normalize_gen_kwargs(dict(wanted), self.max_gen_toks))
        if unknown := {*given} - _GENERATION:
            raise DataError(f"--model {NAME} does not generate with {', '.join(sorted(unknown))}.")
        if given.get("num_beams", 1) != 1:
            raise DataError(f"--model {NAME} has no beam search: choose num_beams=1.")
        own = {name: getattr(self.lm.model.generation_config, name) for name in ("top_p", "top_k", "temperature")}
        open_ = {"top_p": 1.0, "top_k": _TOP_K, "temperature": 1.0}
        open_ |= {name: value for name, value in own.items() if value is not None}
        values = {name: given.get(name, value) for name, value in open_.items()}
        sampling = SamplingConfig(**{**values, "temperature": values["temperature"] if given["do_sample"] else 0.0})
        end = self.lm.tokenizer.eos_token
        stop = dict.fromkeys(string for string in (*given["until"], end) if string)
        seed = torch.initial_seed() % 2**63
        return GenerationConfig(1, given["max_gen_toks"], sampling, seed, batch_size=self.batch_size, stop=tuple(stop))

    def _tell_of_penalties(self) -> None:
        """Say which settings of the model act in ``hf``'s generation and not in this one."""
        config = self.lm.model.generation_config
        asked = {name: getattr(config, name, None) for name in _PENALTIES}
        if acting := [f"{name}={value}" for name, value in asked.items() if value not in _PENALTIES[name]]:
            notice(f"the model's generation settings ask for {', '.join(acting)}, which do not act here.")


def _strengths_of(steers: str | Mapping[str, float | str]) -> dict[str, float]:
    """The steers and strengths of a notation."""
    written = (
        [part if "=" in part else of_model_name(part) for part in steers.split("+") if part]
        if isinstance(steers, str)
        else [f"{name}={strength}" for name, strength in steers.items()]
    )
    _, settings = parse_strengths(written, find_card)
    if len(settings) > 1:
        raise SteerError(f"--model {NAME} takes one strength of each steer.")
    return constant(settings[0], f"--model {NAME}")


def _rows_of(batch_size: int | str | None) -> int:
    """The number of rows that are written at once."""
    if batch_size is None or str(batch_size).startswith("auto"):
        return GenerationConfig().batch_size
    if not str(batch_size).isdigit() or int(batch_size) < 1:
        raise DataError(f"the batch size must be a number from 1, or auto, not {batch_size!r}.")
    return int(batch_size)


def _tokenizer_of(lm: LM, pretrained: str, add_bos_token: bool | None) -> PreTrainedTokenizerBase:
    """The model's tokenizer; with a setting of its start token, one that is read with it, as ``hf`` does."""
    if add_bos_token is None:
        return lm.tokenizer
    location = resolve(pretrained).location
    return read_tokenizer(location, f"the tokenizer of {lm.name!r}", add_bos_token=add_bos_token)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's warnings of models that are loaded already from the user."""
    logger = logging.getLogger(HFLM.__module__)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
