"""Gist tokens: a prompt squeezed into the keys and values of a few tokens (Mu et al., NeurIPS 2023)."""
