"""What requests may name to stand before their prompts: gists and baselines of folders, each where its rows start."""
