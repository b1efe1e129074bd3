"""Steer language models: a linear map on the output word embeddings strengthens or weakens a style.

The public names below are loaded when they are first used, so that ``import lmsteer`` does not import torch.

The package, in the order in which a text becomes a steer and a steer becomes text:

- ``data``: labelled texts, prompts and the starter texts.
- ``model``: the frozen language model, from token ids to hidden states and logits.
- ``steer``: the mathematics of a steer, its card and its files.
- ``generation``: continuations of prompts, one batch at a time.
- ``reading``: what a steer says about a text, and what a steer consists of.
- ``fitting``: labelled texts, or descriptions, become a steer.
- ``transferring``: a steer of one model becomes a steer of another model.
- ``gist``: a prompt becomes the keys and values of a few tokens.
- ``export``: steers in the formats of other programs.
- ``baselines``: other methods that change a style, such as LoRA and prompting.
- ``evaluation``: continuations are scored, and methods are compared.
- ``serving``: an HTTP server, and plugins for vLLM.
- ``demo``: two steers made in one step, and a report of what they do.
- ``cli``: the command line.
- ``util``: files, caches, progress bars and other helpers that know nothing of language models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmsteer.data.chats import Chat
    from lmsteer.data.contrast import Contrast
    from lmsteer.data.labelled import LabelledText, read_labelled
    from lmsteer.data.starter import starter_prompts, starter_requests, starter_texts
    from lmsteer.data.wishes import Wish, find_wish, wishes
    from lmsteer.evaluation.condition_sets import conditions_of
    from lmsteer.evaluation.conditions import Condition
    from lmsteer.evaluation.evaluate import evaluate
    from lmsteer.evaluation.interference import Interference, interference
    from lmsteer.evaluation.protocol import Protocol
    from lmsteer.evaluation.results import ConditionResult
    from lmsteer.evaluation.safe_range import SafeRange, calibrate
    from lmsteer.evaluation.scorers import scorer
    from lmsteer.export.hub import Pushed, push_steer
    from lmsteer.fitting.contrast.config import ContrastConfig
    from lmsteer.fitting.contrast.fit import ContrastFit, fit_contrast
    from lmsteer.fitting.fit import Fit, FitConfig, fit
    from lmsteer.fitting.gather import gather
    from lmsteer.fitting.gradient import GradientConfig
    from lmsteer.generation.config import GenerationConfig, Limits, SamplingConfig
    from lmsteer.generation.generate import Continuation, generate, perplexity
    from lmsteer.generation.readings import TokenReading
    from lmsteer.generation.stream import stream, stream_readings
    from lmsteer.model.lm import LM
    from lmsteer.model.loading import load
    from lmsteer.reading.analyse import Analysis, analyse
    from lmsteer.reading.components import Component, components
    from lmsteer.reading.verify import Verification, verify
    from lmsteer.steer.algebra import decorrelate_strengths, merge, orthogonalize
    from lmsteer.steer.card import Card
    from lmsteer.steer.files import find_steer, load_steer, save_steer
    from lmsteer.steer.mix import Mix
    from lmsteer.steer.steer import Steer
    from lmsteer.steer.strength import Hold, Windowed
    from lmsteer.steer.window import Window
    from lmsteer.transferring.transfer import transfer

# The same as the imports above, for the program; a test compares both.
_PUBLIC = {
    "data.chats": ("Chat",),
    "data.contrast": ("Contrast",),
    "data.labelled": ("LabelledText", "read_labelled"),
    "data.starter": ("starter_prompts", "starter_requests", "starter_texts"),
    "data.wishes": ("Wish", "find_wish", "wishes"),
    "evaluation.condition_sets": ("conditions_of",),
    "evaluation.conditions": ("Condition",),
    "evaluation.interference": ("Interference", "interference"),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.protocol": ("Protocol",),
    "evaluation.results": ("ConditionResult",),
    "evaluation.safe_range": ("SafeRange", "calibrate"),
    "evaluation.scorers": ("scorer",),
    "export.hub": ("Pushed", "push_steer"),
    "fitting.contrast.config": ("ContrastConfig",),
    "fitting.contrast.fit": ("ContrastFit", "fit_contrast"),
    "fitting.fit": ("Fit", "FitConfig", "fit"),
    "fitting.gather": ("gather",),
    "fitting.gradient": ("GradientConfig",),
    "generation.config": ("GenerationConfig", "Limits", "SamplingConfig"),
    "generation.generate": ("Continuation", "generate", "perplexity"),
    "generation.readings": ("TokenReading",),
    "generation.stream": ("stream", "stream_readings"),
    "model.lm": ("LM",),
    "model.loading": ("load",),
    "reading.analyse": ("Analysis", "analyse"),
    "reading.components": ("Component", "components"),
    "reading.verify": ("Verification", "verify"),
    "steer.algebra": ("decorrelate_strengths", "merge", "orthogonalize"),
    "steer.card": ("Card",),
    "steer.files": ("find_steer", "load_steer", "save_steer"),
    "steer.mix": ("Mix",),
    "steer.steer": ("Steer",),
    "steer.strength": ("Hold", "Windowed"),
    "steer.window": ("Window",),
    "transferring.transfer": ("transfer",),
}
_MODULE_OF = {name: f"lmsteer.{module}" for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "LM",
    "Analysis",
    "Card",
    "Chat",
    "Component",
    "Condition",
    "ConditionResult",
    "Continuation",
    "Contrast",
    "ContrastConfig",
    "ContrastFit",
    "Fit",
    "FitConfig",
    "GenerationConfig",
    "GradientConfig",
    "Hold",
    "Interference",
    "LabelledText",
    "Limits",
    "Mix",
    "Protocol",
    "Pushed",
    "SafeRange",
    "SamplingConfig",
    "Steer",
    "TokenReading",
    "Verification",
    "Window",
    "Windowed",
    "Wish",
    "analyse",
    "calibrate",
    "components",
    "conditions_of",
    "decorrelate_strengths",
    "evaluate",
    "find_steer",
    "find_wish",
    "fit",
    "fit_contrast",
    "gather",
    "generate",
    "interference",
    "load",
    "load_steer",
    "merge",
    "orthogonalize",
    "perplexity",
    "push_steer",
    "read_labelled",
    "save_steer",
    "scorer",
    "starter_prompts",
    "starter_requests",
    "starter_texts",
    "stream",
    "stream_readings",
    "transfer",
    "verify",
    "wishes",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
