"""Many artifacts from one file: builds.toml says which, and only those are built whose inputs changed."""
