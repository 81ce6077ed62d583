"""Checkpoints that come quantised: their formats, and how they are read."""
