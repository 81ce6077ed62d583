"""Arithmetic on weights: pure functions of arrays, no files."""
