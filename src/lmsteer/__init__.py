"""Steer language models: a linear map on the output word embeddings turns a style up and down."""

from lmsteer.data.labelled import LabelledText, read_labelled
from lmsteer.data.starter import starter_prompts, starter_texts
from lmsteer.evaluation.conditions import Condition, conditions_of
from lmsteer.evaluation.interference import Interference, interference
from lmsteer.evaluation.protocol import Protocol, evaluate
from lmsteer.evaluation.results import Outcome
from lmsteer.evaluation.safe_range import SafeRange, calibrate
from lmsteer.evaluation.scorers import scorer
from lmsteer.fitting.fit import Fit, fit
from lmsteer.fitting.gradient import GradientConfig
from lmsteer.generation.config import GenerationConfig, SamplingConfig
from lmsteer.generation.generate import Continuation, generate, perplexity
from lmsteer.generation.stream import stream
from lmsteer.model.lm import LM, load
from lmsteer.reading.analyse import Analysis, analyse
from lmsteer.reading.components import Component, components
from lmsteer.reading.verify import Verification, verify
from lmsteer.steer.algebra import decorrelate_strengths, merge, orthogonalize
from lmsteer.steer.card import Card
from lmsteer.steer.files import find_steer, load_steer, save_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.steer import Steer
from lmsteer.transferring.transfer import transfer

__all__ = [
    "LM",
    "Analysis",
    "Card",
    "Component",
    "Condition",
    "Continuation",
    "Fit",
    "GenerationConfig",
    "GradientConfig",
    "Interference",
    "LabelledText",
    "Mix",
    "Outcome",
    "Protocol",
    "SafeRange",
    "SamplingConfig",
    "Steer",
    "Verification",
    "analyse",
    "calibrate",
    "components",
    "conditions_of",
    "decorrelate_strengths",
    "evaluate",
    "find_steer",
    "fit",
    "generate",
    "interference",
    "load",
    "load_steer",
    "merge",
    "orthogonalize",
    "perplexity",
    "read_labelled",
    "save_steer",
    "scorer",
    "starter_prompts",
    "starter_texts",
    "stream",
    "transfer",
    "verify",
]
