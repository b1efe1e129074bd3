"""Generation: prompts are continued at chosen strengths, in batches."""
