"""Evaluation: what steered text reads like, in numbers."""
