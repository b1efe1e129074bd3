"""Exports: steers in forms that load without lmsteer."""
