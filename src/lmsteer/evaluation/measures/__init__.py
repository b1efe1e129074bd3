"""Measures of style: numbers that are counted in a text, without a language model."""

from lmsteer.evaluation.measures.named import MEASURES, Measure

__all__ = ["MEASURES", "Measure"]
