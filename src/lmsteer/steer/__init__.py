"""Steers: their mathematics, their form in memory, their mixes and their files."""
