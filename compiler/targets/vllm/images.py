"""Container images with vLLM: versions, places and environment of each, as data.

    djl-inference:0.36.0-lmi28.0.0-cu130            LMI: DJL Serving starts vLLM from serving.properties
    vllm:server-sagemaker-cuda-v2.3                 AWS vLLM image for SageMaker: SM_VLLM_* environment variables
    vllm:0.27.1-gpu-py312-cu130-ubuntu22.04-sagemaker    its older series, one image for a version of vLLM
    vllm-openai:v0.32.0                             the project's own image

Sources, read 2026-11-30; no image was run: docs/src/data/{djl-inference,vllm-server,vllm} and
docker/vllm/Dockerfile{,.amzn2023} of aws/deep-learning-containers at e0ecede (2026-08-21: tags and versions of vLLM;
LMI 29 and v2.4 to v2.6 at a667346, 559bbcd, e8d464d, 05a7191);
serving/docker/{lmi.Dockerfile,lmi-container-requirements.txt} of djl-serving on the branches 0.33.0-dlc to
0.36.0-lmi27-dlc (torch, folders, environment). No branch of LMI 28 and 29 was at hand: their folders and environment
are taken to be those of LMI 27, and the torch of 28 is inferred from the cache dialect of its vLLM. Files of the other
images state no version of torch: "".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from compiler.errors import UsageError

Version = tuple[int, int, int]
Family = Literal["lmi", "sagemaker", "openai"]
Dialect = Literal["J", "A", "M"]
"""Kinds of vLLM's compile cache: a folder of just-in-time kernels, ahead-of-time files beside it, one file for all."""


@dataclass(frozen=True)
class VllmImage:
    """Image with vLLM. `name`: repository and tag; `torch`: "" where no source states it.

    `site_packages`: folder of vLLM in the image, which is part of the keys of its cache. `entry`: command that starts
    the server. `environment`: variables that the image sets and that vLLM, torch or their caches read.
    """

    name: str
    family: Family
    vllm: str
    torch: str
    site_packages: str
    entry: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        """Kind of compile cache of its vLLM. Source: vLLM 0.14 to 0.32, `vllm/compilation`."""
        return dialect_of(parse_version(self.vllm))


def dialect_of(version: Version) -> Dialect:
    """Kind of compile cache of a version of vLLM."""
    return "M" if version >= (0, 27, 0) else "A" if version >= (0, 17, 0) else "J"


_DEBIAN = "/usr/local/lib/python3.12/dist-packages"
_LMI_ENVIRONMENT = {
    "HF_HOME": "/tmp/.cache/huggingface",  # noqa: S108
    "HF_HUB_ENABLE_HF_TRANSFER": "1",
    "PYTORCH_KERNEL_CACHE_PATH": "/tmp/.cache",  # noqa: S108
    "SAFETENSORS_FAST_GPU": "1",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "TORCH_NCCL_AVOID_RECORD_STREAMS": "1",
    "TORCH_NCCL_BLOCKING_WAIT": "0",
    "USE_AICCL_BACKEND": "true",
    "VLLM_ALLOW_DEPRECATED_BEAM_SEARCH": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


def _lmi(djl: str, lmi: int, cuda: str, vllm: str, torch: str) -> VllmImage:
    return VllmImage(
        f"djl-inference:{djl}.0-lmi{lmi}.0.0-{cuda}",
        "lmi",
        vllm,
        torch,
        _DEBIAN,
        ("/usr/local/bin/dockerd-entrypoint.sh", "serve"),
        _LMI_ENVIRONMENT,
    )


def _server(release: str, vllm: str) -> VllmImage:
    return VllmImage(
        f"vllm:server-sagemaker-cuda-{release}",
        "sagemaker",
        vllm,
        "",
        "/opt/venv/lib/python3.12/site-packages",
        ("/usr/local/bin/sagemaker_entrypoint.sh",),
        {
            "HF_XET_HIGH_PERFORMANCE": "1",
            "PYTHONPATH": "/usr/local/bin",
            "VIRTUAL_ENV": "/opt/venv",
            "VLLM_USAGE_SOURCE": "production-docker-image",
        },
    )


IMAGES: Mapping[str, VllmImage] = {
    image.name: image
    for image in (
        _lmi("0.33", 15, "cu128", "0.8.4", "2.6.0"),
        _lmi("0.34", 16, "cu128", "0.10.2", "2.8.0"),
        _lmi("0.35", 17, "cu128", "0.11.1", "2.9.0"),
        _lmi("0.36", 18, "cu128", "0.12.0", "2.9.0"),
        _lmi("0.36", 19, "cu128", "0.14.0", "2.9.1"),
        _lmi("0.36", 20, "cu128", "0.15.1", "2.9.1"),
        _lmi("0.36", 21, "cu129", "0.16.0", "2.9.1"),
        _lmi("0.36", 22, "cu129", "0.17.0", "2.10.0"),
        _lmi("0.36", 23, "cu129", "0.18.0", "2.10.0"),
        _lmi("0.36", 24, "cu129", "0.19.0", "2.11.0"),
        _lmi("0.36", 25, "cu130", "0.20.1", "2.11.0"),
        _lmi("0.36", 26, "cu130", "0.22.1", "2.11.0"),
        _lmi("0.36", 27, "cu130", "0.23.1", "2.11.0"),
        _lmi("0.36", 28, "cu130", "0.26.0", "2.11.0"),
        _lmi("0.38", 29, "cu130", "0.28.0", ""),
        _server("v1", "0.19.1"),
        _server("v2.0", "0.22.1"),  # a release candidate
        _server("v2.1", "0.24.0"),
        _server("v2.2", "0.26.0"),
        _server("v2.3", "0.27.0"),
        _server("v2.4", "0.27.1"),
        _server("v2.5", "0.30.0"),
        _server("v2.6", "0.30.0"),
    )
}
"""Published images by name, oldest first within a family."""

_SERIES = re.compile(r"vllm:(\d+\.\d+\.\d+)-gpu-py312-cu\d+-ubuntu22\.04-sagemaker")
_OPENAI = re.compile(r"(?:vllm/)?vllm-openai:v?(\d+\.\d+\.\d+)")
_LMI = re.compile(r"(?:djl-inference:)?(?:\d+\.\d+\.\d+-)?lmi-?v?(\d+)(?:\.0\.0)?(?:-cu\d+)?")
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:(?:\.|rc|\.dev|\.post)\d+)*(?:\+.*)?")
NEWEST_LMI = [name for name in IMAGES if name.startswith("djl-inference:")][-1]


def parse_version(text: str) -> Version:
    """Parse `0.32.0` or `0.22.1rc0+amzn2023`. A release candidate counts as its release. Raises UsageError."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"`--vllm-version` takes a version of vLLM such as 0.32.0; found `{text}`",
            hint=f"or pass the image: `--image {NEWEST_LMI}`",
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major, minor, patch


def vllm_image(image: str) -> VllmImage:
    """Image of a name, with or without its registry, or of an LMI release (`lmi28`).

    Raises:
        UsageError: no such image, or a tag that names no version of vLLM (`latest`).
    """
    local = image.rpartition("amazonaws.com/")[2].removeprefix("docker.io/").partition("@")[0]
    if local in IMAGES:
        return IMAGES[local]
    if match := _SERIES.fullmatch(local):
        environment = {"VLLM_USAGE_SOURCE": "production-docker-image"}
        entry = ("/usr/local/bin/sagemaker_entrypoint.sh",)
        return VllmImage(local, "sagemaker", match[1], "", _DEBIAN, entry, environment)
    if match := _OPENAI.fullmatch(local):
        environment = {"VLLM_USAGE_SOURCE": "production-docker-image"}
        return VllmImage(local, "openai", match[1], "", _DEBIAN, ("vllm", "serve"), environment)
    if (match := _LMI.fullmatch(local)) and (found := _of_lmi(int(match[1]))) is not None:
        return found
    raise UsageError(
        f"expected an image with vLLM such as {NEWEST_LMI}, vllm:server-sagemaker-cuda-v2.3 or vllm-openai:v0.32.0; "
        f"found `{image}`",
        hint="LMI 15 to 29 carry vLLM; a tag must name the version, as `latest` does not",
    )


def is_vllm_image(image: str) -> bool:
    """Whether `vllm_image` knows the image."""
    try:
        vllm_image(image)
    except UsageError:
        return False
    return True


def _of_lmi(release: int) -> VllmImage | None:
    return next((each for each in IMAGES.values() if f"-lmi{release}." in each.name), None)
