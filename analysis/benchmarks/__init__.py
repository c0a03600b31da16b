"""Measured speed, each line a ratio to a baseline timed in the same run."""
