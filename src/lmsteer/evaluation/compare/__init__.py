"""compare: methods that learn from the same labelled texts, measured side by side."""
