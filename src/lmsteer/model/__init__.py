"""The frozen language model: token ids become hidden states, and hidden states become logits."""
