"""lmi-compile: from a Hugging Face checkpoint to a compiled, sharded, verified artifact. Public names: `compiler.api`."""

__version__ = "0.1.0"
