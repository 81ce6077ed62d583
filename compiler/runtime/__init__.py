"""Runs an artifact of the target inductor: rank processes, generation, sampling, text."""
