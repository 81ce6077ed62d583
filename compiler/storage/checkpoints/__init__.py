"""Hugging Face checkpoints: from a hub, S3 or a folder to tensors by name."""
