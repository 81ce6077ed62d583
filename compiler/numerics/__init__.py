"""Logits of an artifact against its source: reference, comparison, verification, gate of quantized models."""
