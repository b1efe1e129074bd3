"""Gist tokens: a prompt is compressed into the keys and values of a few tokens (Mu et al., arXiv 2304.08467)."""

# The adapter that is shipped, for the default model.
SHIPPED = "gist-1"
