"""Evaluation: generated text is scored, and methods are compared."""
