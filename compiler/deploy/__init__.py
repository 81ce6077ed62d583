"""Putting artifacts into service: preflight, prewarm, SageMaker endpoints, and diagnosis of a machine."""
