"""Checkpoints that are quantized already: formats and reader."""
