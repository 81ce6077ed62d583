"""One file a step of the pipeline; each is a function of its inputs."""
