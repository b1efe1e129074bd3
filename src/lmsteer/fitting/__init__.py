"""Fitting: labelled texts in, a steer out."""
