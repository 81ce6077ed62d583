"""Checkpoints that come quantized: their formats and their reader."""
