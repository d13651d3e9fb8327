"""Benchmarks: what a model says about regions, scored beside controls of what it looked at."""
