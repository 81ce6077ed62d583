# lmi-compile with target inductor for CPUs: builds, verifies, and serves as a SageMaker endpoint. From a checkout:
#   docker build -f ci/images/inductor.Dockerfile -t lmi-compile:inductor .
#   docker run -p 8080:8080 -v "$PWD/artifacts/mixtral-tp8:/opt/ml/model:ro" lmi-compile:inductor serve
FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ jq \
    && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY compiler /src/compiler
COPY recipes /src/recipes
RUN pip install --no-cache-dir --constraint /src/constraints.txt --index-url https://download.pytorch.org/whl/cpu torch \
    && pip install --no-cache-dir --constraint /src/constraints.txt /src \
    && rm -rf /src \
    && lmi-compile --version
COPY scripts/prewarm scripts/endpoint /usr/local/bin/
ENV OMP_WAIT_POLICY=passive
EXPOSE 8080
ENTRYPOINT ["endpoint"]
CMD ["serve"]
