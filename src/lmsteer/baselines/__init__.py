"""Baselines: other methods that learn a style from the same labelled texts."""
