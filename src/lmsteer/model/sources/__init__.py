"""Sources of weights: Hub, folders, packages of the package index, and GGUF files."""
