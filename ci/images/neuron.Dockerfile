# lmi-compile beside the Neuron compiler, in the image that will serve the artifacts. From a checkout of lmi-compile,
# logged in to that registry:
#   docker build -f ci/images/neuron.Dockerfile -t lmi-compile:neuron .
# The image's own Python is too old for lmi-compile, which gets its own; `neuronx-cc` stays the image's.
ARG IMAGE=763104351884.dkr.ecr.us-west-2.amazonaws.com/djl-inference:0.30.0-neuronx-sdk2.20.1
FROM ghcr.io/astral-sh/uv:0.9 AS uv
FROM ${IMAGE}
COPY --from=uv /uv /usr/local/bin/uv
RUN apt-get update \
    && apt-get install --no-install-recommends --yes jq \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY compiler /src/compiler
COPY recipes /src/recipes
ENV UV_PYTHON_INSTALL_DIR=/opt/python
RUN uv venv --python 3.11 /opt/lmi-compile \
    && uv pip install --no-cache --python /opt/lmi-compile --torch-backend cpu --constraint /src/constraints.txt '/src[neuron]' \
    && ln -s /opt/lmi-compile/bin/lmi-compile /usr/local/bin/lmi-compile \
    && rm -rf /src \
    && lmi-compile --version
COPY scripts/prewarm /usr/local/bin/prewarm
ENTRYPOINT []
CMD ["lmi-compile", "--help"]
