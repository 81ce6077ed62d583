"""Logits of an artifact against those of its source: reference, comparison, verification, gate of quantized models."""
