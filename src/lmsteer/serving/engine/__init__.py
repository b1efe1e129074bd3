"""The engine: requests, their running sequences, and the one thread that decodes all of them together."""
