"""Measurements: each module is one, run as ``python -m benchmarks.NAME``, and writes what it found to results/."""
