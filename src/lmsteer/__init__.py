"""Steer language models: a linear map on the output word embeddings turns a style up and down."""

from lmsteer.lm import LM, load
from lmsteer.steers.mix import Mix
from lmsteer.steers.steer import Card, Steer

__all__ = ["LM", "Card", "Mix", "Steer", "load"]
