"""From an artifact to a machine that answers: preflight, prewarm, SageMaker endpoints, and what this machine lacks."""
