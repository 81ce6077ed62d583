"""Conformance with transformers: random checkpoints that it saves are read to the same logits, or refused.

    python -m tests.conformance --configs 50 --python /venv/of/transformers-4/bin/python

draws configs of each recipe (`draws`), has them saved and run by one or more versions of transformers in processes of
their own (`save`), and compares the project's decoder on the same folders (`compare`).
"""
