"""lmi-compile: from a Hugging Face checkpoint to a compiled, sharded, verified artifact. Python API: `compiler.api`."""

__version__ = "0.1.0"
