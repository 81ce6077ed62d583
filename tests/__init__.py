"""Tests mirror `compiler/`; `tests.tiny` holds one tiny configuration per architecture and its variants."""
