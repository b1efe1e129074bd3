"""Fitting: labelled texts, or a description, become a steer."""
