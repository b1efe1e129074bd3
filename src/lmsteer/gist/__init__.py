"""Gist tokens: a prompt is compressed into the keys and values of a few tokens (Mu et al., NeurIPS 2023)."""

# The adapter that ships, for the default model.
SHIPPED = "gist-1"
