"""Storage: checkpoints, data sets, files and digests, the stage cache, object stores."""
