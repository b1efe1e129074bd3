"""The engine: rows of many requests, each with its own dial, written side by side by one model."""
