"""Exports: steers in formats that load without lmsteer."""
