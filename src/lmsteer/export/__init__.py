"""Exports: steers in formats that load without lmsteer, and on the Hub."""
