"""Helpers that know nothing of language models: files, caches, progress bars, figures."""
