"""Data: labelled texts, prompts and the starter texts that come with the package."""
