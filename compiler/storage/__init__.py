"""Bytes: checkpoints, safetensors files, digests, the stage cache, S3."""
