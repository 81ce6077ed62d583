"""Artifacts: folders with a manifest.json that describes the model and lists every file with its digest."""
