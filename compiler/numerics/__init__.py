"""Logits of an artifact against those of its source: reference, comparison, verification, and the gate of quantised models."""
