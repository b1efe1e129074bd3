"""Steer language models: a linear map on the output word embeddings turns a style up and down."""

from lmsteer.analysis.analyse import Analysis, analyse
from lmsteer.analysis.lens import Component, lens
from lmsteer.fitting.data import LabelledText, read_labelled
from lmsteer.fitting.fit import Fit, fit
from lmsteer.fitting.gradient import Recipe
from lmsteer.generation import Continuation, generate, perplexity
from lmsteer.lm import LM, load
from lmsteer.starter import starter_texts
from lmsteer.steers.files import load_steer, save_steer
from lmsteer.steers.mix import Mix
from lmsteer.steers.steer import Card, Steer
from lmsteer.streaming import stream
from lmsteer.verify import Verification, verify

__all__ = [
    "LM",
    "Analysis",
    "Card",
    "Component",
    "Continuation",
    "Fit",
    "LabelledText",
    "Mix",
    "Recipe",
    "Steer",
    "Verification",
    "analyse",
    "fit",
    "generate",
    "lens",
    "load",
    "load_steer",
    "perplexity",
    "read_labelled",
    "save_steer",
    "starter_texts",
    "stream",
    "verify",
]
