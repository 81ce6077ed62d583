"""A folder on `compiler.targets.__path__`: one target."""
