"""Steers from two descriptions, or from a prompt, without labelled texts."""
