"""Fitting: labelled texts become a steer."""
