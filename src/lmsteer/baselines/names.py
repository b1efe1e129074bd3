"""The names of the methods that ``lmsteer compare`` knows. This module does not import torch."""

METHOD_NAMES = (
    "steer",
    "lora",
    "lora-value",
    "lora-head",
    "prompt-tuning",
    "prefix-tuning",
    "full",
    "embeddings",
    "prompting",
    "gist",
    "few-shot",
    "activations",
)
# Methods that need an instruction for each end.
INSTRUCTION_BASED = ("prompting", "gist")
